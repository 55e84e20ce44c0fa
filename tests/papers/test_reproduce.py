"""`make quantface SCALE=smoke`, as a stranger runs it: the real command, the real files, the second time, Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from common.experiment.arm import plan_runs
from common.experiment.store import Store
from papers.drawing import redraw
from papers.quantface.table import plan
from papers.registry import get_paper

ROOT = Path(__file__).resolve().parents[2]


def command(folder: Path, *extra: str) -> list[str]:
    return [
        sys.executable, "-m", "papers", "quantface", "--scale", "smoke", "--store", str(folder / "store"),
        "--results", str(folder / "results"), *extra,
    ]  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    here = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    return {**here, "FAIRPRESS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}


def call(folder: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *extra), cwd=ROOT, env=environment(folder), capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str], float]:
    folder = tmp_path_factory.mktemp("smoke")
    since = time.monotonic()
    answer = call(folder)
    return folder, answer, time.monotonic() - since


@pytest.mark.slow
def test_the_first_call_trains_every_arm_and_prints_the_table(smoke: Any) -> None:
    folder, answer, seconds = smoke
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert seconds < 120  # under 60 s on a machine of its own; here other tests run beside it
    for words in ("4 runs, 0 finished before", "W6A6, second domain", "worst group", "Accuracy of every group"):
        assert words in answer.stdout
    table = json.loads((folder / "results" / "quantface" / "smoke.json").read_text())
    assert [run["status"] for run in table["runs"]] == ["ok"] * 4
    for ending in ("md", "csv", "tex", "svg"):
        assert (folder / "results" / "quantface" / f"smoke.{ending}").stat().st_size > 200
    page = (folder / "results" / "quantface" / "smoke.md").read_text()
    assert "smoke scale" in page
    assert "reproduced" not in page.replace("not reproduced", "")


@pytest.mark.slow
def test_the_second_call_trains_nothing(smoke: Any) -> None:
    folder, first, _ = smoke
    touched = {path: path.stat().st_mtime_ns for path in (folder / "store" / "runs").rglob("result.json")}
    since = time.monotonic()
    answer = call(folder)
    assert time.monotonic() - since < 20  # some 4 s on a machine of its own
    assert answer.returncode == 0
    assert "nothing to train" in answer.stdout
    assert touched == {path: path.stat().st_mtime_ns for path in (folder / "store" / "runs").rglob("result.json")}
    numbers = re.compile(r"\d+\.\d\d")
    assert set(numbers.findall(answer.stdout)) <= set(numbers.findall(first.stdout))


@pytest.mark.slow
def test_tables_are_redrawn_from_the_results_alone(smoke: Any, tmp_path: Path) -> None:
    folder, _, _ = smoke
    copy = tmp_path / "results"
    subprocess.run(["cp", "-r", str(folder / "results"), str(copy)], check=True)
    drawn = {ending: (copy / "quantface" / f"smoke.{ending}").read_bytes() for ending in ("json", "md", "csv", "svg")}
    for ending in ("md", "csv", "svg"):
        (copy / "quantface" / f"smoke.{ending}").unlink()
    redraw(get_paper("quantface"), copy, Store(tmp_path / "store"))
    for ending, content in drawn.items():
        assert (copy / "quantface" / f"smoke.{ending}").read_bytes() == content, ending


@pytest.mark.slow
def test_runs_are_tracked_offline_by_default(smoke: Any) -> None:
    folder, _, _ = smoke
    tracked = list((folder / "store" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(tracked) == 5  # four runs and the table


@pytest.mark.slow
def test_interrupting_keeps_what_is_finished(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path, "--wandb", "disabled"), cwd=ROOT, env=environment(tmp_path), stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[1/4]"):
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    states = [json.loads(path.read_text())["status"] for path in (tmp_path / "store" / "runs").glob("*/state.json")]
    assert states.count("ok") == 1
    answer = call(tmp_path, "--wandb", "disabled")
    assert answer.returncode == 0
    assert "4 runs, 1 finished before, 3 to do" in answer.stdout
    assert not (tmp_path / "store" / "wandb").exists()


def test_known_digests_of_the_tables_are_frozen() -> None:
    """Stored results are found by them: a change here orphans every result of the paper, so it has to be meant."""
    smoke, demo = plan("smoke"), plan("demo")
    assert plan_runs(smoke.arms, (0,))[0].digest == "57a19d1d49e753f3"
    assert plan_runs(demo.arms, (0,))[0].digest == "0c6f05a128efeeee"


@pytest.mark.parametrize("scale", ["smoke", "demo", "real", "lab", "paper"])
def test_every_arm_of_every_scale_names_classes_and_options_that_exist(scale: str, tmp_path: Path) -> None:
    """A typo in a table that needs a cluster must not wait for the cluster."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mobilefacenet_xiaoccer_068.ckpt").write_bytes(b"stands in for the published file")
    table = plan(scale)
    runs = plan_runs(table.arms, (0,), data=tmp_path)
    assert len({run.digest for run in runs}) == len(table.arms)
    assert {claim_arm for claim in table.claims for claim_arm in claim.arms} <= {arm.name for arm in table.arms}


@pytest.mark.slow
def test_two_processes_train_one_run_together(tmp_path: Path) -> None:
    """`DEVICES=2`: Lightning starts the second process, which takes part in the fits and writes nothing.

    That the runs end alike is shown in float64 (tests/common/test_distributed.py): at this scale's rate a change of the
    initial weights by 1e-7 makes other networks in float32, also in one process.
    """
    answer = call(tmp_path, "--devices", "2", "--wandb", "disabled")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "MEMBER: 2/2" in answer.stdout + answer.stderr
    table = json.loads((tmp_path / "results" / "quantface" / "smoke.json").read_text())
    assert [run["status"] for run in table["runs"]] == ["ok"] * 4
    alone = {run.digest for run in plan_runs(plan("smoke").arms, (0,))}
    assert alone == {run["digest"] for run in table["runs"]}, "the devices share the batch: it is the same run"
    stored = [json.loads(path.read_text()) for path in (tmp_path / "store" / "runs").glob("*/result.json")]
    assert [result["provenance"]["devices"] for result in stored] == [2] * 4
    again = call(tmp_path, "--wandb", "disabled")
    assert "nothing to train" in again.stdout, "finished by two devices is finished for one"
