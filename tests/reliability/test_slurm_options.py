"""What a user may say about SLURM jobs, and what Lightning and submitit are told in turn; no SLURM is needed here."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as L
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from slurm_command import Noting
from tiny_runs import teacher

from common.experiment.arm import plan_runs
from common.experiment.cluster import JobsGoOn, launch_on_slurm
from common.experiment.cluster_environment import KeepSignals, cluster_environment
from common.experiment.cluster_job import Attempt, Progress, read_progress
from common.experiment.cluster_options import SlurmError, SlurmOptions, slurm_options
from common.experiment.cluster_queue import partition_has_gpus, queued_jobs
from common.experiment.cluster_submit import sbatch_parameters
from common.experiment.phases import Machine
from common.experiment.store import Store
from papers.__main__ import main

RUN = "0" * 16


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes programs of the given names the only ones on the PATH: name -> shell script."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(**scripts: str) -> None:
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return make


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("1:30:00", 90), ("30:01", 31), ("0:01", 1), ("2-12", 3600), ("1-00:00:00", 1440), ("1-01:30", 1530)],
)
def test_time_limits_are_read_as_sbatch_reads_them(text: str, minutes: int) -> None:
    assert slurm_options(None, None, text).minutes == minutes


@pytest.mark.parametrize("text", ["", "0", "soon", "1:2:3:4", "-5", "1d", "0:00"])
def test_other_time_limits_are_refused(text: str) -> None:
    with pytest.raises(SlurmError, match="time limit"):
        slurm_options(None, None, text)


def test_settings_are_ours_or_options_of_sbatch() -> None:
    options = slurm_options(
        "p", "a", None, ["qos=high", "mem=8G", "gpus=0", "requeues=3", "constraint=a100&ib", "nice=5"]
    )
    assert (options.partition, options.account, options.qos, options.mem) == ("p", "a", "high", "8G")
    assert (options.gpus, options.requeues, options.minutes) == (0, 3, None)
    assert options.more == {"constraint": "a100&ib", "nice": "5"}


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("qos", "not a SLURM setting"),
        ("qos=", "not a SLURM setting"),
        ("--qos=high", "not a SLURM setting"),
        ("comment=a\n#SBATCH --uid=0", "not a SLURM setting"),
        ("array=0-9", "set by the launcher"),
        ("dependency=afterok:1", "set by the launcher"),
        ("gpus=two", "whole number from 0 on"),
        ("parallel=0", "whole number from 1 on"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(setting: str, why: str) -> None:
    with pytest.raises(SlurmError, match=why):
        slurm_options(None, None, None, [setting])


def test_the_warning_leaves_a_short_job_time_to_work() -> None:
    assert SlurmOptions().warned == SlurmOptions(minutes=60).warned == 90
    assert SlurmOptions(minutes=2).warned == 30
    assert SlurmOptions(minutes=2, warning=100).warned == 100


def test_without_slurm_nothing_is_begun(
    tmp_path: Path, programs: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(sbatch="exit 0")
    store = tmp_path / "store"
    assert main(["quantface", "--scale", "smoke", "--launch", "slurm", "--store", str(store)]) == 2
    said = capsys.readouterr().err
    assert "LAUNCH=slurm needs srun, squeue, scontrol, which this machine does not have" in said
    with pytest.raises(SlurmError, match="needs srun"):
        launch_on_slurm(plan_runs([teacher(1)], (0,)), Store(store), Machine(), SlurmOptions(), Noting())
    assert not store.exists()


def test_options_of_jobs_need_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantface", "--scale", "smoke", "--time", "30"]) == 2
    assert "give LAUNCH=slurm too" in capsys.readouterr().err
    assert main(["quantface", "--scale", "smoke", "--launch", "slurm", "--threads", "auto"]) == 2
    assert "give a number" in capsys.readouterr().err


def test_a_run_asks_for_a_task_and_a_gpu_per_device_where_there_are_gpus(programs: Any) -> None:
    programs(
        sinfo='case "$*" in *--partition=fast*) echo "fast|gpu:a100:8(S:0-1)";; *) echo "slow*|(null)"; echo "fast|gpu:8";; esac'
    )
    assert partition_has_gpus("fast")
    assert not partition_has_gpus(None)
    machine = Machine(devices=4, nodes=2, threads=3)
    asked = sbatch_parameters(machine, SlurmOptions(partition="fast", more={"nice": "5"}))
    assert (asked["nodes"], asked["ntasks_per_node"], asked["gpus_per_node"], asked["cpus_per_task"]) == (2, 4, 4, 3)
    assert "--cpus-per-task=3" in asked["srun_args"]
    assert asked["additional_parameters"] == {"requeue": True, "kill-on-invalid-dep": "yes", "nice": "5"}
    assert "gpus_per_node" not in sbatch_parameters(machine, SlurmOptions())
    assert sbatch_parameters(machine, SlurmOptions(partition="fast", gpus=2))["gpus_per_node"] == 2
    programs(sinfo="exit 0")
    with pytest.raises(SlurmError, match="no partition 'fast'"):
        partition_has_gpus("fast")


def test_the_queue_is_read_by_columns(programs: Any) -> None:
    widths = {"graph-1": 64, "12": 20, "3": 12, "PENDING": 20, "Priority": 40, "": 80, "2": 8}
    line = "".join(text.ljust(width) for text, width in widths.items())
    programs(squeue=f"echo '{line}'\necho '{line.replace('3', 'N').replace('PENDING  ', 'COMPLETED')}'")
    jobs = queued_jobs(["graph-1"])
    assert jobs["graph-1", 3].id == "12_3"
    assert (jobs["graph-1", 3].restarts, jobs["graph-1", 3].alive) == (2, True)
    assert (jobs["graph-1", None].id, jobs["graph-1", None].alive) == ("12", False)
    programs(squeue="echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SlurmError, match="Unable to contact"):
        queued_jobs(["graph-1"])


def test_an_interrupted_command_says_that_its_jobs_go_on(tmp_path: Path, programs: Any) -> None:
    """Ctrl-C after the submission: the jobs are named, and recorded for the next command."""
    programs(
        sbatch="echo Submitted batch job 7",
        srun="exit 0",
        squeue="exit 0",
        scontrol="exit 0",
        sinfo="echo 'main*|(null)'",
    )

    class Impatient(Noting):
        def note(self, text: str) -> None:
            raise KeyboardInterrupt

    (run,) = plan_runs([teacher(1)], (0,))
    with pytest.raises(JobsGoOn, match=r"the same command finds them again; to cancel them: scancel 7$"):
        launch_on_slurm([run], Store(tmp_path / "store"), Machine(), SlurmOptions(), Impatient())
    assert '"job": "7"' in (tmp_path / "store" / "slurm" / run.digest / "job.json").read_text()


@pytest.mark.parametrize(
    ("said", "world", "expected"),
    [
        ({}, 2, None),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, 1, LightningEnvironment),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2"}, 2, LightningEnvironment),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}, 2, SLURMEnvironment),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, 1, LightningEnvironment),
    ],
)
def test_lightning_counts_tasks_only_where_each_is_a_process_of_the_run(
    said: dict[str, str], world: int, expected: type | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name, value in {**said, "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "bash"}.items():
        monkeypatch.setenv(name, value)
    found = cluster_environment(world)
    assert [type(one) for one in found] == ([expected] if expected else [])
    assert not any(getattr(one, "auto_requeue", False) for one in found)


def test_lightning_leaves_sigterm_to_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    before = signal.getsignal(signal.SIGTERM)
    told: list[int] = []

    class Told(L.Callback):
        def on_train_batch_start(self, *arguments: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    from pytorch_lightning.demos.boring_classes import BoringModel

    try:
        signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
        trainer = L.Trainer(
            accelerator="cpu", max_steps=3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, limit_val_batches=0, callbacks=[KeepSignals(), Told()],
        )  # fmt: skip
        trainer.fit(BoringModel())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert trainer.global_step == 3
    assert told == [signal.SIGTERM] * 3


def test_time_slots_that_are_too_short_for_a_checkpoint_are_not_asked_for_for_ever(tmp_path: Path) -> None:
    store, attempt = Store(tmp_path), Attempt("5_0", 0, 0)
    store.folder(RUN).mkdir(parents=True)
    for restart in range(2):
        assert Progress(store, RUN, replace(attempt, restarts=restart)).may_requeue(50)
    progress = Progress(store, RUN, replace(attempt, restarts=2))
    (store.folder(RUN) / "last-0.ckpt").write_bytes(b"1")
    assert progress.may_requeue(50)  # something to show
    for restart in range(3, 5):
        assert Progress(store, RUN, replace(attempt, restarts=restart)).may_requeue(50)
    assert not Progress(store, RUN, replace(attempt, restarts=5)).may_requeue(50)
    assert read_progress(store, RUN)["requeues"] == 5
    assert "needs a longer TIME" in read_progress(store, RUN)["refused"]
    assert Progress(store, RUN, Attempt("6", 0, 0)).may_requeue(1)  # another job starts to count from 0
    progress = Progress(store, RUN, Attempt("6", 1, 0))
    assert not progress.may_requeue(1)
    assert "1 further time slots" in read_progress(store, RUN)["refused"]


def test_what_a_run_says_of_itself_is_written_at_phases_and_seldom_in_between(tmp_path: Path) -> None:
    progress = Progress(Store(tmp_path), RUN, Attempt("5_0", 0, 0))
    progress.report({"phase": "waiting for another process that computes it"})
    assert not read_progress(Store(tmp_path), RUN)["begun"]
    progress.report({"phase": "data"})
    assert read_progress(Store(tmp_path), RUN)["begun"]
    progress.report({"phase": "train", "step": 1, "steps": 9, "loss": 1.0})
    assert read_progress(Store(tmp_path), RUN)["event"] == {"phase": "data"}
    progress.last -= 10
    progress.report({"phase": "train", "step": 2, "steps": 9, "loss": float("nan")})
    assert read_progress(Store(tmp_path), RUN)["event"] == {"phase": "train", "step": 2, "steps": 9, "loss": None}
