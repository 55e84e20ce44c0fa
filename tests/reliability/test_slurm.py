"""Runs as jobs of a real SLURM: same bytes as without it, through preemption, time limits, restarts and a killed command."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from slurm_command import Noting, command
from tiny_runs import shared_faces, student, teacher

from common.experiment.arm import Arm, Run, plan_runs
from common.experiment.cluster import launch_on_slurm
from common.experiment.cluster_job import read_progress
from common.experiment.cluster_options import SlurmError, SlurmOptions
from common.experiment.launch import launch
from common.experiment.phases import Machine
from common.experiment.store import Store
from common.files import sha256_of

sys.path.insert(0, str(Path(__file__).parent))
from slurm_cluster import NoSlurmError, SlurmCluster, slurm_cluster

pytestmark = pytest.mark.slow
MACHINE = Machine(checkpoint_every=0)
OPTIONS = SlurmOptions(poll=0.3)
SUPPORT = Path(__file__).parents[1] / "support"
ARTEFACTS = ("network.safetensors", "scores.npz")
PATIENCE = 900.0  # only a machine that does much else comes near it


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    folder = tmp_path_factory.mktemp("slurm")
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(slurm_cluster(folder / "cluster"))
        except NoSlurmError as reason:
            pytest.skip(f"no SLURM here: {reason}")
        stack.enter_context(shared_faces(folder / "faces"))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in {**running.environment, "PYTHONPATH": str(SUPPORT)}.items():
            patch.setenv(name, value)
        multiprocessing.get_context("forkserver").set_forkserver_preload(["common.experiment.run"])
        forkserver.ensure_running()  # before there is a gate: what it starts inherits this environment
        yield running


class Gate:
    """Holds the gated runs of a test at a step until it is opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def waiting(self) -> int:
        """How many processes have come to the gate."""
        return len(list(self.folder.glob("waiting-*")))

    def open(self) -> None:
        (self.folder / "open").touch()

    def steps(self, rank: int = 0) -> list[int]:
        """The steps that were begun, in order."""
        file = self.folder / f"steps-{rank}"
        return [int(line) for line in file.read_text().split()] if file.exists() else []


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(tmp_path / "gate")
    monkeypatch.setenv("FAIRPRESS_TEST_GATE", str(made.folder))
    yield made
    made.open()


def gated(arm: Arm) -> Arm:
    return replace(arm, method=replace(arm.method, target="gated_recognizer.GatedRecognizer"))


def until(happens: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < deadline, f"{what} does not happen"
        time.sleep(0.1)


@contextlib.contextmanager
def meanwhile(
    runs: Sequence[Run], store: Store, machine: Machine, options: SlurmOptions
) -> Iterator[tuple[Noting, dict[str, str]]]:
    """Launch in a thread; its watcher, and the statuses, which are there at the end."""
    watcher, statuses = Noting(), {}

    def wait() -> None:
        statuses.update(launch_on_slurm(runs, store, machine, options, watcher))

    thread = threading.Thread(target=wait, daemon=True)  # it waits for ever once the cluster of a failed test is gone
    thread.start()
    yield watcher, statuses
    thread.join(timeout=PATIENCE)
    assert not thread.is_alive(), watcher.notes


def undisturbed(runs: Sequence[Run], store: Store) -> None:
    """The same runs by the local launcher, past the gate."""
    assert set(launch(runs, store, MACHINE, 2, Noting()).values()) == {"ok"}


def assert_same_bytes(runs: Sequence[Run], first: Store, second: Store) -> None:
    for run in runs:
        for name in ARTEFACTS:
            assert sha256_of(first.folder(run.digest) / name) == sha256_of(second.folder(run.digest) / name), (
                run.label,
                name,
            )
        assert first.result(run.digest)["metrics"] == second.result(run.digest)["metrics"]


def jobs(cluster: SlurmCluster, *fields: str) -> list[list[str]]:
    """One line a job that the controller remembers."""
    layout = ",".join(f"{name}:60" for name in fields)
    lines = cluster.ask("squeue", "--noheader", "--array", "--states=all", f"--Format={layout}").splitlines()
    return sorted([line[60 * i : 60 * i + 60].strip() for i in range(len(fields))] for line in lines)


def restarts(cluster: SlurmCluster, name: str) -> int:
    return max([int(count) for job, count in jobs(cluster, "Name", "RestartCnt") if job.startswith(name)], default=0)


def preempt(cluster: SlurmCluster) -> None:
    """Run a job of a higher partition that needs the whole node."""
    number = len(jobs(cluster, "JobID"))
    name = f"urgent-{number}"
    cluster.ask("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", f"--job-name={name}", "--wrap=true")
    until(lambda: [name, "COMPLETED"] in jobs(cluster, "Name", "State"), "the job of the higher partition")


def test_a_graph_of_jobs_outlives_its_commands_and_gives_the_bytes_of_the_local_launcher(
    cluster: SlurmCluster, gate: Gate, tmp_path: Path
) -> None:
    """Two commands at once, both killed, a third that finds their jobs, and a controller that is restarted meanwhile."""
    parent = gated(teacher(2))
    second = replace(student(parent, epochs=2), name="longer")
    runs = plan_runs([parent, student(parent), second], (0, 1))
    store, local = Store(tmp_path / "store"), Store(tmp_path / "local")
    machine = replace(MACHINE, paper="graph")
    context = multiprocessing.get_context("forkserver")
    commands = [
        context.Process(target=command, args=(dict(os.environ), runs, store, machine, OPTIONS)) for _ in range(2)
    ]
    for one in commands:
        one.start()
    until(lambda: gate.waiting() == 2, "two teachers at their gate")
    for one in commands:
        one.kill()
        one.join()
    mine = [job for job in jobs(cluster, "Name", "JobArrayID", "State", "Dependency") if job[0].startswith("graph")]
    assert len(mine) == 6
    assert len({name for name, *_ in mine}) == 3
    arrays = {job.partition("_")[0] for _, job, _, waits in mine if waits == "(null)"}
    assert len(arrays) == 1
    expected = sorted(f"afterok:{arrays.copy().pop()}_{seed}(unfulfilled)" for seed in (0, 0, 1, 1))
    assert sorted(waits for *_, waits in mine if waits != "(null)") == expected
    with meanwhile(runs, store, machine, OPTIONS) as (watcher, statuses):
        until(lambda: watcher.notes, "the third command finds the jobs")
        assert "6 runs are in the queue already" in watcher.notes[0]
        cluster.stop("slurmctld")
        until(lambda: any("does not answer" in note for note in watcher.notes), "the controller is missed")
        cluster.start("slurmctld")
        until(lambda: any("answers again" in note for note in watcher.notes), "the controller is back")
        gate.open()
        undisturbed(runs, local)
    assert statuses == {run.digest: "ok" for run in runs}
    ended = [job for job in jobs(cluster, "Name", "State", "RestartCnt") if job[0].startswith("graph")]
    assert [job[1:] for job in ended] == [["COMPLETED", "0"]] * 6
    assert sorted(gate.steps()) == sorted([*range(8), *range(8)])
    assert_same_bytes(runs, store, local)
    again = Noting()
    assert launch_on_slurm(runs, store, machine, OPTIONS, again) == statuses
    assert not again.notes


def test_a_run_survives_a_preemption_and_its_time_limit(cluster: SlurmCluster, gate: Gate, tmp_path: Path) -> None:
    """A job of a higher partition takes its node, before or after a limit of a minute comes near; no step is done twice."""
    runs = plan_runs([gated(teacher(3))], (0,))
    store, local = Store(tmp_path / "store"), Store(tmp_path / "local")
    machine, options = replace(MACHINE, paper="limited"), replace(OPTIONS, minutes=1, warning=59)
    with meanwhile(runs, store, machine, options) as (watcher, statuses):
        until(lambda: gate.waiting() == 1, "the run at its gate")
        preempt(cluster)
        undisturbed(runs, local)
        until(lambda: restarts(cluster, "limited") >= 2, "a requeue at the time limit")
        gate.open()
    assert set(statuses.values()) == {"ok"}
    requeues = read_progress(store, runs[0].digest)["requeues"]
    assert requeues >= 1
    assert restarts(cluster, "limited") == requeues + 1  # and one that SLURM decided on
    assert any("was requeued" in phase for phase in watcher.phases(runs[0].label))
    assert gate.steps() == list(range(12))
    assert_same_bytes(runs, store, local)


def test_a_preempted_run_on_two_devices_is_requeued_within_its_grace_period(
    cluster: SlurmCluster, gate: Gate, tmp_path: Path
) -> None:
    """Lightning would end at SIGTERM, and SLURM take that for a failure. The result is that of one device, within rounding."""
    runs = plan_runs([gated(teacher(2, lr=0.01))], (0,))
    store, local = Store(tmp_path / "store"), Store(tmp_path / "local")
    machine = replace(MACHINE, devices=2, paper="pair")
    with meanwhile(runs, store, machine, replace(OPTIONS, partition="grace")) as (_, statuses):
        until(lambda: gate.waiting() == 1, "the first process at its gate")
        until(lambda: gate.steps(rank=1)[-1:] == [3], "the second process in that step")
        since = time.monotonic()
        preempt(cluster)
        assert time.monotonic() - since < 50
        undisturbed(runs, local)
        gate.open()
    assert set(statuses.values()) == {"ok"}
    assert restarts(cluster, "pair") == 1
    assert read_progress(store, runs[0].digest)["requeues"] == 1
    assert gate.steps(0) == sorted(set(gate.steps(1))) == list(range(len(gate.steps(0))))
    assert store.result(runs[0].digest)["provenance"]["devices"] == 2
    together, single = load_file(store.weights(runs[0].digest)), load_file(local.weights(runs[0].digest))
    for name, value in single.items():
        torch.testing.assert_close(
            together[name], value, atol=1e-3, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_failing_teacher_fails_its_job_and_its_students_do_not_start(cluster: SlurmCluster, tmp_path: Path) -> None:
    broken = teacher(1, lr=1e38, name="broken")
    runs = plan_runs([broken, student(broken)], (0,))
    store, watcher = Store(tmp_path / "store"), Noting()
    statuses = launch_on_slurm(runs, store, replace(MACHINE, paper="broken"), OPTIONS, watcher)
    assert [statuses[run.digest] for run in runs] == ["failed", "not run"]
    assert (store.state(runs[0].digest) or {})["error"]["type"] == "NonFiniteLossError"
    states = [job[1:] for job in jobs(cluster, "Name", "State", "Reason") if job[0].startswith("broken")]
    assert sorted(states) == [["CANCELLED", "DependencyNeverSatisfied"], ["FAILED", "NonZeroExitCode"]]


def test_what_slurm_refuses_is_said_before_anything_runs(cluster: SlurmCluster, tmp_path: Path) -> None:
    runs = plan_runs([teacher(1)], (0,))
    store = Store(tmp_path / "store")
    with pytest.raises(SlurmError, match=r"sbatch refused fp32 seed 0: .*Invalid partition"):
        launch_on_slurm(runs, store, MACHINE, replace(OPTIONS, partition="nowhere", gpus=0), Noting())
    with pytest.raises(SlurmError, match=r"sbatch refused fp32 seed 0: .*generic resource"):
        launch_on_slurm(runs, store, MACHINE, replace(OPTIONS, gpus=1), Noting())
    assert store.status(runs[0].digest) == "not run"
