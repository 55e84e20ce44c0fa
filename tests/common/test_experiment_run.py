"""Runs as they are executed: stored once, resumed bit for bit, failing alone, killed without loss."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
from tiny_runs import Silent, run_processes, shared_faces, student, teacher

from common.experiment.arm import Run, plan_runs
from common.experiment.launch import by_urgency, launch
from common.experiment.phases import Machine
from common.experiment.run import execute
from common.experiment.store import Store, StoreError
from common.files import sha256_of

MACHINE = Machine(checkpoint_every=0)


@pytest.fixture(scope="module", autouse=True)
def _faces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with shared_faces(tmp_path_factory.mktemp("faces")):
        yield


def weights(store: Store, run: Run) -> str:
    return sha256_of(store.weights(run.digest))


def test_a_run_is_stored_once_and_read_afterwards(tmp_path: Path) -> None:
    store, (run,) = Store(tmp_path), plan_runs([teacher(1, keep=("epoch1",))], (0,))
    assert store.status(run.digest) == "not run"
    assert execute(run, store, MACHINE, lambda event: None) == "ok"
    result = store.result(run.digest)
    assert result["seed"] == 0
    assert set(result["metrics"]) == {"mixed", "frontal", "cross_pose"}
    assert result["provenance"]["threads"] == 1
    assert store.weights(run.digest, "epoch1").exists()
    with pytest.raises(StoreError, match="epoch9"):
        store.weights(run.digest, "epoch9")
    touched = (store.folder(run.digest) / "result.json").stat().st_mtime_ns
    watcher = Silent()
    assert launch([run], store, MACHINE, 2, watcher) == {run.digest: "ok"}
    assert not watcher.ended
    assert (store.folder(run.digest) / "result.json").stat().st_mtime_ns == touched


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    first, second = Store(tmp_path / "a"), Store(tmp_path / "b")
    runs = plan_runs([teacher(1)], (0, 1))
    for store in (first, second):
        for run in runs:
            assert execute(run, store, MACHINE, lambda event: None) == "ok"
    assert weights(first, runs[0]) == weights(second, runs[0])
    assert weights(first, runs[0]) != weights(first, runs[1])


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """SIGKILL after the first epoch; the next call continues and ends where an undisturbed run ends."""
    (run,) = plan_runs([teacher(6)], (0,))
    undisturbed, store = Store(tmp_path / "a"), Store(tmp_path / "b")
    assert launch([run], undisturbed, MACHINE, 1, Silent()) == {run.digest: "ok"}

    def kill_when_there_is_a_checkpoint() -> None:
        last = store.folder(run.digest) / "last-0.ckpt"
        while not last.exists():
            time.sleep(0.005)
        for pid in run_processes():
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_when_there_is_a_checkpoint, daemon=True)
    killer.start()
    watcher = Silent()
    assert launch([run], store, MACHINE, 1, watcher) == {run.digest: "interrupted"}
    killer.join()
    assert (store.folder(run.digest) / "last-0.ckpt").exists()
    assert launch([run], store, MACHINE, 1, watcher) == {run.digest: "ok"}
    assert weights(store, run) == weights(undisturbed, run)
    assert not list(store.folder(run.digest).glob("*.ckpt"))


def test_a_run_interrupted_after_its_last_phase_is_only_measured(tmp_path: Path, monkeypatch: Any) -> None:
    (run,) = plan_runs([teacher(1)], (0,))
    undisturbed, store = Store(tmp_path / "a"), Store(tmp_path / "b")
    assert execute(run, undisturbed, MACHINE, lambda event: None) == "ok"

    def stop(event: dict[str, Any]) -> None:
        if event.get("phase") == "benchmark":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(run, store, MACHINE, stop)
    assert store.status(run.digest) == "interrupted"
    phases: list[str] = []
    assert execute(run, store, MACHINE, lambda event: phases.append(event.get("phase", ""))) == "ok"
    assert phases == ["data", "benchmark"]
    assert weights(store, run) == weights(undisturbed, run)


def test_a_failing_arm_stops_alone_and_its_children_do_not_run(tmp_path: Path) -> None:
    broken = teacher(1, lr=1e38, name="broken")
    good = teacher(1)
    runs = plan_runs([broken, student(broken), good, student(good)], (0,))
    watcher = Silent()
    statuses = launch(runs, Store(tmp_path), MACHINE, 2, watcher)
    by_parent = {(run.arm.name, run.parents[0].arm.name if run.parents else ""): statuses[run.digest] for run in runs}
    assert by_parent == {
        ("broken", ""): "failed",
        ("w6a6", "broken"): "not run",
        ("fp32", ""): "ok",
        ("w6a6", "fp32"): "ok",
    }
    error = Store(tmp_path).state(runs[0].digest)["error"]  # type: ignore[index]
    assert error["type"] == "NonFiniteLossError"
    assert "epoch 1, step" in error["message"]


def test_what_others_wait_for_starts_first_within_a_seed() -> None:
    alone, parent = teacher(1), teacher(2)
    child = student(parent)
    runs = plan_runs([alone, student(parent), student(child)], (3, 0))
    by_hand = [(3, parent), (3, child), (3, alone), (0, parent), (0, child), (0, alone)]
    found = [(run.seed, run.arm) for run in by_urgency(runs)]
    assert [one for one in found if one in by_hand] == by_hand
    assert sorted(run.digest for run in by_urgency(runs)) == sorted(run.digest for run in runs)
    assert by_urgency(runs[3:]) == [
        run for run in by_urgency(runs) if run in runs[3:]
    ]  # parents that are finished are not listed


def test_two_processes_do_not_compute_the_same_run(tmp_path: Path) -> None:
    store, (run,) = Store(tmp_path), plan_runs([teacher(1)], (0,))
    told = threading.Event()
    watchers = Silent(), Silent()

    def owner() -> None:
        with store.lock(run.digest, on_wait=lambda: None):
            told.wait(timeout=60)
            assert store.is_locked(run.digest)
            store.set_state(run.digest, "failed", error={"type": "X", "message": "the owner says so"})

    thread = threading.Thread(target=owner)
    thread.start()
    while not store.is_locked(run.digest):
        time.sleep(0.01)
    events: list[dict[str, Any]] = []

    def report(event: dict[str, Any]) -> None:
        events.append(event)
        told.set()

    assert execute(run, store, MACHINE, report) == "ok"
    thread.join()
    assert "waiting for another process" in events[0]["phase"]
    assert not store.is_locked(run.digest)
    touched = (store.folder(run.digest) / "result.json").stat().st_mtime_ns
    assert [launch([run], store, MACHINE, 1, watcher)[run.digest] for watcher in watchers] == ["ok", "ok"]
    assert (store.folder(run.digest) / "result.json").stat().st_mtime_ns == touched


def test_a_run_whose_owner_died_counts_as_interrupted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.set_state("0" * 16, "running")
    assert store.status("0" * 16) == "interrupted"


def test_published_runs_carry_their_table_s_names_and_failed_ones_their_reason(tmp_path: Path) -> None:
    store, (run,) = Store(tmp_path / "s"), plan_runs([teacher(1)], (0,))
    execute(run, store, MACHINE, lambda event: None)
    store.set_state("f" * 16, "failed", error={"type": "X", "message": "m", "traceback": "long"})
    store.publish(run.digest, tmp_path / "r", "renamed", "A title", 0)
    store.publish("f" * 16, tmp_path / "r", "bad", "Bad", 1)
    from common.experiment.records import load_records, seal_results

    seal_results(tmp_path / "r")
    records = {record.arm: record for record in load_records(tmp_path / "r")}
    assert records["renamed"].ok
    assert records["renamed"].pairs["mixed"].pool == records["renamed"].pairs["frontal"].pool
    assert not records["bad"].ok
    assert records["bad"].error == {"type": "X", "message": "m"}


def test_runs_end_with_the_command_that_started_them(tmp_path: Path) -> None:
    """`kill -9` of the command leaves no run going on behind the user's back."""
    script = tmp_path / "command.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import tiny_runs as t\n"
        "from pathlib import Path\n"
        "from common.experiment.arm import plan_runs\n"
        "from common.experiment.launch import launch\n"
        "from common.experiment.phases import Machine\n"
        "from common.experiment.store import Store\n"
        "if __name__ == '__main__':\n"
        "    runs = plan_runs([t.teacher(500)], (0,))\n"
        "    launch(runs, Store(Path(sys.argv[2])), Machine(checkpoint_every=0), 1, t.Silent())\n"
    )
    store, (run,) = Store(tmp_path / "s"), plan_runs([teacher(500)], (0,))
    process = subprocess.Popen([sys.executable, str(script), str(Path(tiny_runs.__file__).parent), str(tmp_path / "s")])
    while not (store.folder(run.digest) / "last-0.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    assert store.status(run.digest) == "running"
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while store.is_locked(run.digest):
        assert time.monotonic() < deadline, "the run goes on without its command"
        time.sleep(0.05)
    assert store.status(run.digest) == "interrupted"
