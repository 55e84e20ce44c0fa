"""`make doctor`: every kind of trouble is named, with what to do about it; and it works where nothing is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.experiment.sources import sources_of
from common.experiment.store import Store
from datasets import catalog
from papers import doctor_environment, doctor_machine, doctor_results
from papers.doctor import Finding, Places, examine, main, worst

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "store", tmp_path / "results")


def find(check: Callable[[Places], Iterator[Finding]], places: Places, words: str) -> Finding:
    findings = list(check(places))
    found = [one for one in findings if words in one.what]
    assert len(found) == 1, f"{words!r} is not said once: {findings}"
    if found[0].level != "ok":
        assert found[0].advice, "whoever is told of trouble is told what to do"
    return found[0]


# --- the command ---------------------------------------------------------------------------------------------------


def test_without_the_environment_it_says_so_and_fails(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-S",
        "-m",
        "papers",
        "doctor",
        "--store",
        str(tmp_path),
        "--results",
        str(tmp_path),
        "--json",
    ]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 1, answer.stderr
    report = json.loads(answer.stdout)
    assert report["worst"] == "bad"
    (packages,) = [one for one in report["findings"] if one["area"] == "packages"]
    assert packages["level"] == "bad"
    assert "the environment is not set up" in packages["what"]
    assert packages["advice"] == "make setup"
    assert all(one["advice"] for one in report["findings"] if one["level"] != "ok")


def test_a_sound_machine_gets_status_0_and_every_area_is_there(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--store", str(places.store), "--results", str(places.results)]) == 0
    said = capsys.readouterr().out
    for area in ("python", "packages", "devices", "wandb", "slurm", "git", "cores", "memory", "store", "temp", "clock",
                 "papers", "runs", "results", "data"):  # fmt: skip
        assert any(line.split()[1:2] == [area] for line in said.splitlines()), area
    assert "nothing is bad" in said


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(places: Places) -> None:
    def broken(places: Places) -> Iterator[Finding]:
        yield Finding("broken", "ok", "begun")
        raise OSError(5, "Input/output error", "/some/disk")

    findings = examine(places, (broken, doctor_results.registry))
    assert [(one.area, one.level) for one in findings] == [("broken", "ok"), ("broken", "bad"), ("papers", "ok")]
    assert "/some/disk" in findings[1].what
    assert worst(findings) == "bad"
    assert worst([]) == "ok"


# --- environment ---------------------------------------------------------------------------------------------------


def test_versions_are_compared_with_the_pins(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {**doctor_environment._pins(doctor_environment._project()["dependencies"])}
    versions["torch"] += "+cu130"
    monkeypatch.setattr(doctor_environment, "_version", versions.get)
    assert "pytest" in find(doctor_environment.packages, places, "for tests or export only").what
    versions["numpy"] = "1.0"
    del versions["rich"]
    assert find(doctor_environment.packages, places, "numpy 1.0 instead of").level == "warn"
    missing = find(doctor_environment.packages, places, "missing: rich")
    assert (missing.level, missing.advice) == ("bad", "make setup")
    assert not [one for one in doctor_environment.packages(places) if "torch" in one.what]


def torch_with(monkeypatch: pytest.MonkeyPatch, devices: int, cuda: str | None, driver: str, **functions: Any) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(doctor_environment, "_nvidia_driver", lambda: driver)
    for name, function in functions.items():
        monkeypatch.setattr(torch.cuda, name, function)


def test_a_driver_that_pytorch_cannot_use_is_bad(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_with(monkeypatch, 0, "13.0", "470.57")
    assert find(doctor_environment.devices, places, "driver (470.57) is here").level == "bad"
    torch_with(monkeypatch, 0, None, "470.57")
    assert find(doctor_environment.devices, places, "built without CUDA").level == "warn"


def test_a_gpu_is_tried_out(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has none: the first use of the pretended one fails as on a GPU that PyTorch has no kernels for."""
    memory = {"get_device_name": lambda index: "H100", "mem_get_info": lambda index: (70e9, 80e9)}
    torch_with(monkeypatch, 1, "13.0", "580.1", **memory)
    import torch

    if not torch.cuda.is_initialized():
        assert find(doctor_environment.devices, places, "GPU 0 cannot compute").level == "bad"
    monkeypatch.setattr(torch, "ones", lambda *size, device: SimpleNamespace(sum=lambda: 8.0))
    assert find(doctor_environment.devices, places, "H100, 70.0 GB of 80.0 GB free").level == "ok"
    torch_with(monkeypatch, 1, "13.0", "580.1", **{**memory, "mem_get_info": lambda index: (1e9, 80e9)})
    assert find(doctor_environment.devices, places, "1.0 GB of 80.0 GB free").level == "warn"
    monkeypatch.setattr(torch, "ones", lambda *size, device: SimpleNamespace(sum=lambda: 7.0))
    assert find(doctor_environment.devices, places, "adds wrongly").level == "bad"


def test_wandb_is_looked_at_without_importing_it(places: Places, tmp_path: Path) -> None:
    assert not doctor_environment.wandb_login({"HOME": str(tmp_path)})
    assert doctor_environment.wandb_login({"HOME": str(tmp_path), "WANDB_API_KEY": "x"})
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert doctor_environment.wandb_login({"HOME": str(tmp_path)})
    assert not doctor_environment.wandb_login({"HOME": str(tmp_path), "WANDB_BASE_URL": "https://wandb.example.org"})
    (tmp_path / ".netrc").write_text("machine {\x00")
    assert not doctor_environment.wandb_login({"HOME": str(tmp_path)})
    for name in ("offline-run-1", "offline-run-2", "offline-run-3"):
        (places.store / "wandb" / name).mkdir(parents=True)
    (places.store / "wandb" / "offline-run-2" / "run-2.wandb.synced").touch()
    assert "wandb sync" in find(doctor_environment.wandb, places, "2 offline runs were not uploaded").advice
    code = (
        "import sys; from pathlib import Path; from papers import doctor, doctor_environment; "
        "assert list(doctor_environment.wandb(doctor.Places(Path('x'), Path('x')))); sys.exit('wandb' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_slurm_is_there_whole_half_or_deaf(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))

    def install(name: str, script: str) -> None:
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)

    assert find(doctor_environment.slurm, places, "no SLURM here").level == "ok"
    install("sbatch", "")
    assert find(doctor_environment.slurm, places, "SLURM is here without").level == "warn"
    for name in ("squeue", "scancel", "sinfo"):
        install(name, "exit 1")
    assert find(doctor_environment.slurm, places, "controller does not answer").level == "warn"
    install("sinfo", "echo 'gpu* up'; echo 'cpu up'")
    assert find(doctor_environment.slurm, places, "partitions gpu* up, cpu up").level == "ok"


def test_without_git_results_name_no_commit(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_environment, "ROOT", tmp_path)
    assert find(doctor_environment.git, places, "no commit is known").level == "warn"


# --- machine -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threshold", "level"), [("LOW", "warn"), ("EMPTY", "bad")])
def test_little_room_is_told(threshold: str, level: str, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {one.level for one in doctor_machine.disks(places) if "free" in one.what} == {"ok"}
    monkeypatch.setattr(doctor_machine, threshold, 1e18)
    found = [one for one in doctor_machine.disks(places) if "free" in one.what]
    assert {(one.area, one.level) for one in found} == {(name, level) for name in ("store", "results", "temp")}
    assert "STORE=/path" in found[0].advice


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write to")
def test_a_folder_that_cannot_be_written_is_told(places: Places) -> None:
    closed = Places(Path("/proc/self/store"), places.results)
    found = find(doctor_machine.disks, closed, "cannot be written")
    assert (found.area, found.level) == ("store", "bad")


def test_nothing_is_left_behind_by_trying(places: Places, tmp_path: Path) -> None:
    list(doctor_machine.disks(places))
    assert list(tmp_path.iterdir()) == []


def test_locks_that_do_not_lock_are_told(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_machine.lock_problem(doctor_machine.existing(places.store)) == ""
    monkeypatch.setattr(doctor_machine.fcntl, "flock", lambda handle, how: None)
    assert find(doctor_machine.disks, places, "locks do not work").level == "bad"


def test_the_kind_of_a_file_system(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"a / ext4 rw 0 0\nhost:/x {tmp_path} nfs4 rw 0 0\nb {tmp_path}/my\\040disk xfs rw 0 0\nodd\n")
    assert doctor_machine.file_system(tmp_path / "store", mounts) == "nfs4"
    assert doctor_machine.file_system(tmp_path / "my disk" / "store", mounts) == "xfs"
    assert doctor_machine.file_system(Path("/usr"), mounts) == "ext4"
    assert doctor_machine.file_system(Path("/usr"), tmp_path / "none") == ""


def test_a_store_on_the_network_is_told(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_machine, "file_system", lambda folder: "nfs4")
    assert find(doctor_machine.disks, places, "network file system (nfs4)").level == "warn"


def test_the_memory_of_a_control_group(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    for folder, limit in (("job", "max"), ("job/step", "3000000000"), ("job/step/task", "max")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "memory.max").write_text(limit + "\n")
    own.write_text("0::/job/step/task\n")
    assert doctor_machine.cgroup_memory_limit(tmp_path, own) == 3_000_000_000
    own.write_text("0::/job\n")
    assert doctor_machine.cgroup_memory_limit(tmp_path, own) is None
    (tmp_path / "memory" / "docker").mkdir(parents=True)
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "memory" / "docker" / "memory.limit_in_bytes").write_text("1000000000\n")
    own.write_text("12:cpu:/docker\n9:memory:/docker\nodd\n")
    assert doctor_machine.cgroup_memory_limit(tmp_path, own) == 1_000_000_000
    assert doctor_machine.cgroup_memory_limit(tmp_path, tmp_path / "none") is None


def test_little_memory_and_busy_cores_are_told(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_machine, "cgroup_memory_limit", lambda: 1_000_000_000)
    assert find(doctor_machine.memory, places, "1.0 GB allowed here").level == "warn"
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 0.0, 0.0))
    assert find(doctor_machine.cores, places, "1000.0 processes want to run").level == "warn"


def test_a_file_of_tomorrow_is_told(places: Places) -> None:
    places.store.mkdir()
    (places.store / "state.json").touch()
    assert find(doctor_machine.clock, places, "nothing is dated later").level == "ok"
    os.utime(places.store / "state.json", (0, time.time() + 86400))
    found = find(doctor_machine.clock, places, "by up to 1.00 days")
    assert found.level == "warn"
    assert "state.json" in found.what


def test_a_result_of_next_century_is_told(places: Places) -> None:
    folder = places.results / "quantface" / "demo"
    folder.mkdir(parents=True)
    for name, text in (
        ("a", '{"provenance": {"date": "2126-01-01T00:00:00+00:00"}}'),
        ("b", "{"),
        ("c", "[]"),
        ("d", "{}"),
    ):
        (folder / f"{name}.json").write_text(text)
    found = find(doctor_machine.clock, places, "1 files or results are dated in the future: ")
    assert found.level == "warn"
    assert "a.json of 2126" in found.what


# --- results -------------------------------------------------------------------------------------------------------


def finish(store: Store, digest: str, sources: dict[str, str]) -> None:
    table = {name: np.zeros(2) for name in ("same", "fold", "group", "subject_a", "subject_b", "group_names")}
    result = {"status": "ok", "sources": sources, "pairs": {"easy": "0123456789ab"}}
    store.begin(digest, "a run", sources)
    store.finish(digest, result, {"easy/correct": np.ones(2)}, {"0123456789ab": table})


def test_every_state_of_a_run_is_told(places: Places) -> None:
    assert find(doctor_results.store, places, "holds no runs yet").level == "ok"
    store, now = Store(places.store), sources_of(["common.schedules.one_cycle"])
    finish(store, "a" * 16, now)
    assert [one.level for one in doctor_results.store(places)] == ["ok"]
    finish(store, "b" * 16, {"common.schedules": "0" * 16})
    finish(store, "c" * 16, now)
    scores = store.folder("c" * 16) / "scores.npz"
    scores.write_bytes(scores.read_bytes()[:-1] + b"?")  # of the right length: only its hash can tell
    store.set_state("d" * 16, "failed", label="x", error={"type": "ValueError", "message": "no"})
    store.set_state("e" * 16, "running", label="x")
    (places.store / "runs" / "notes").mkdir()
    assert (
        find(doctor_results.store, places, "1 damaged, 1 failed, 1 interrupted, 1 ok, 1 stale, 1 stray").level == "ok"
    )
    damaged = find(doctor_results.store, places, f"damaged: {'c' * 16}")
    assert damaged.level == "bad"
    assert "scores.npz" in damaged.what
    assert "common.schedules" in find(doctor_results.store, places, f"stale: {'b' * 16}").what
    for words in (f"failed: {'d' * 16}", f"interrupted: {'e' * 16}", "stray: notes"):
        assert find(doctor_results.store, places, words).level == "warn"
    with store.lock("e" * 16, lambda: None):
        assert "e" * 16 in find(doctor_results.store, places, "held by another command").what
        assert find(doctor_results.store, places, "1 running")


def test_what_killed_writers_left_is_told(places: Places) -> None:
    assert find(doctor_results.temporary_files, places, "none").level == "ok"
    (places.store / "runs").mkdir(parents=True)
    (places.store / "runs" / ".writing-0123.tmp").write_bytes(b"12345")
    assert ".writing-0123.tmp" in find(doctor_results.temporary_files, places, "1 unfinished files").what


def test_tables_are_whole_stale_or_damaged(places: Places) -> None:
    shutil.copytree(ROOT / "results" / "quantface", places.results / "quantface")
    (places.results / "gone").mkdir()
    assert find(doctor_results.tables, places, "gone belongs to no paper").level == "warn"
    assert not [one for one in doctor_results.tables(places) if one.level == "bad"]
    victim = next((places.results / "quantface" / "demo").glob("*.npz"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    (places.results / "quantface" / "real.md").unlink()
    demo = find(doctor_results.tables, places, "quantface demo is damaged")
    assert demo.level == "bad"
    assert victim.name in demo.what
    assert "make quantface SCALE=demo" in demo.advice
    assert "real.md" in find(doctor_results.tables, places, "quantface real is damaged").what


def test_data_sets_are_checked_by_the_catalogue(places: Places, tmp_path: Path) -> None:
    assert find(doctor_results.data, places, "no data root was given").level == "ok"
    root = tmp_path / "data"
    there = Places(places.store, places.results, root)
    assert find(doctor_results.data, there, "is not there").level == "bad"
    (root / catalog.find("lfw").folder).mkdir(parents=True)
    assert find(doctor_results.data, there, "lfw incomplete").advice == "python -m datasets lfw"
    assert find(doctor_results.data, there, "; absent: ").level == "ok"
