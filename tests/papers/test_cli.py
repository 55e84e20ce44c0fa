"""The command line: what a stranger types, and what it answers."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from common.experiment import launch
from papers import reproduce
from papers.__main__ import main
from papers.registry import PaperError, find_papers, read_paper

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def test_listing_needs_no_torch_and_about_a_second() -> None:
    since = time.monotonic()
    answer = run("papers", "list")
    assert time.monotonic() - since < 5  # 0.2 s on an idle machine
    assert answer.returncode == 0
    assert "quantface" in answer.stdout
    code = "import sys, papers.__main__ as m; m.main(['list']); sys.exit(any(n in sys.modules for n in ('torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    pipe = subprocess.Popen(
        [sys.executable, "-m", "papers", "list", "--json"], cwd=ROOT, stdout=subprocess.PIPE, stderr=-1
    )
    assert pipe.stdout is not None
    pipe.stdout.close()
    assert pipe.stderr is not None
    assert pipe.stderr.read() == b""
    pipe.wait(timeout=60)


def test_listing_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    rows = {row["paper"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["quantface"]["family"] == "quantization"
    assert rows["quantface"]["basis"] == "code"
    assert {"stale", "outdated", "damaged"} <= rows["quantface"].keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantfase"], "did you mean 'quantface'"),
        (["quantface", "--scale", "dmo"], "did you mean 'demo'"),
        (["quantface", "--data", "/nowhere/at/all"], "/nowhere/at/all does not exist"),
        (["lst"], "did you mean 'list'"),
        (["docter"], "did you mean 'doctor'"),
        (["quantface", "--stale", "kep"], "STALE cannot be 'kep'; did you mean 'keep'"),
        (["quantface", "--launch", "locl"], "LAUNCH cannot be 'locl'; did you mean 'local'"),
        (["quantface", "--launch", "moon"], "LAUNCH cannot be 'moon'; known are local, slurm"),
    ],
)
def test_a_typo_is_answered_with_the_nearest(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("seeds", ["1,1", "a", "-1", ""])
def test_impossible_seeds_are_refused(seeds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["quantface", f"--seeds={seeds}"])
    assert "seeds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--threads", "all"),
        ("--threads", "0"),
        ("--checkpoint-every", "-1"),
        ("--checkpoint-every", "nan"),
        ("--jobs", "x"),
    ],
)
def test_impossible_amounts_are_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["quantface", option, value])
    assert stop.value.code == 2
    assert f"'{value}' is not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("jobs", "threads", "devices", "share", "warned"),
    [
        (None, 1, 1, (8, 1), ""),
        (None, 3, 1, (2, 3), ""),
        (3, "auto", 1, (3, 2), ""),
        (None, "auto", 1, (8, 1), ""),
        (20, "auto", 1, (20, 1), "20 processes with 1 threads each are more than the 8 cores"),
        (4, 4, 1, (4, 4), "JOBS=2 would not"),
        (1, 1, 9, (1, 1), "9 processes"),
    ],
)
def test_the_cores_are_shared_out(
    jobs: int | None, threads: Any, devices: int, share: Any, warned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (reproduce, launch):
        monkeypatch.setattr(module, "usable_cores", lambda: 8)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    out = io.StringIO()
    options = argparse.Namespace(jobs=jobs, threads=threads, devices=devices, nodes=1)
    assert reproduce._share_cores(Console(file=out, width=200), options) == share
    assert (warned in out.getvalue()) if warned else (out.getvalue() == "")


def test_the_status_says_whether_every_run_is_ok() -> None:
    runs: Any = [SimpleNamespace(digest="a", label="fp32 seed 0"), SimpleNamespace(digest="b", label="w8 seed 0")]
    out = io.StringIO()
    console = Console(file=out, width=200)
    assert reproduce._exit_status(console, runs, {"a": "ok", "b": "ok"}, Path("store")) == 0
    assert out.getvalue() == ""
    for status in ("failed", "interrupted", "not run", "damaged", "stale"):
        assert reproduce._exit_status(console, runs, {"a": "ok", "b": status}, Path("store")) == 1
        assert f"w8 seed 0: {status} (see store/runs/b/state.json and log.txt)" in out.getvalue()
    assert "the same command tries these again" in out.getvalue()


def test_make_passes_every_option_on() -> None:
    command = [
        "make",
        "-n",
        "quantface",
        "STALE=keep",
        "LAUNCH=slurm",
        "CHECKPOINT=5",
        "THREADS=auto",
        "JOBS=3",
        "SEEDS=0,1",
    ]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for words in (
        "--stale keep",
        "--launch slurm",
        "--checkpoint-every 5",
        "--threads auto",
        "--jobs 3",
        "--seeds 0,1",
    ):
        assert words in said
    said = subprocess.run(
        ["make", "-n", "doctor", "DATA=/x"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "-m papers doctor --data /x" in said


def test_make_passes_a_typo_on() -> None:
    answer = subprocess.run(["make", "quantfase"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode != 0
    assert "did you mean 'quantface'" in answer.stderr


def test_real_scale_without_data_says_what_to_do(tmp_path: Path) -> None:
    answer = run("papers", "quantface", "--scale", "real", "--store", str(tmp_path), "--results", str(tmp_path / "r"))
    assert answer.returncode == 2
    assert "DATA=" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_every_paper_file_is_read() -> None:
    for paper in find_papers().values():
        assert paper.title
        assert all(entry["source"] for entry in paper.reported)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = ", "cannot be read"),
        ('title = "x"', "lacks family, year, basis, scales"),
        ('title="x"\nfamily="prunning"\nyear=2020\nbasis="code"\nscales=["demo"]', "did you mean 'pruning'"),
        ('title="x"\nfamily="pruning"\nyear=2020\nbasis="code"\nscales=["dmo"]', "did you mean 'demo'"),
        (
            'title="x"\nfamily="pruning"\nyear=2020\nbasis="code"\nscales=["demo"]\n'
            'reported=[{row="a", metric="m", value=1.0, unit="%", source="s", verified=true}]',
            "source 's'",
        ),
    ],
)
def test_a_damaged_paper_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    path = tmp_path / "x" / "paper.toml"
    path.write_text(text)
    with pytest.raises(PaperError, match=message):
        read_paper(path)


def test_papers_import_no_other_paper_and_the_shared_packages_no_paper() -> None:
    for path in [*ROOT.glob("common/**/*.py"), *ROOT.glob("datasets/**/*.py")]:
        text = path.read_text()
        assert "import papers" not in text, path
        assert "from papers" not in text, path
    for paper in find_papers():
        for path in (ROOT / "papers" / paper).glob("*.py"):
            for other in set(find_papers()) - {paper}:
                assert f"papers.{other}" not in path.read_text(), path
    for path in ROOT.glob("datasets/**/*.py"):
        assert "from common" not in path.read_text(), path
    for path in ROOT.glob("common/**/*.py"):
        assert "from datasets" not in path.read_text(), path
