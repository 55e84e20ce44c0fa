"""Questions to SLURM: which of our jobs wait or run, how one ended, what a partition has. Imports no torch."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from common.experiment.cluster_options import SlurmError

FIELDS = {"Name": 64, "ArrayJobID": 20, "ArrayTaskID": 12, "State": 20, "Reason": 40, "NodeList": 80, "RestartCnt": 8}
ALIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
         "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SIGNALING", "RESIZING", "RESV_DEL_HOLD")  # fmt: skip
NEVER = "DependencyNeverSatisfied"
ANSWER_SECONDS = 60


@dataclass(frozen=True)
class QueuedJob:
    """A job as the controller sees it.

    Attributes:
        id: `<job>` or `<array>_<task>`, as `scancel` takes it. name: unique to one submission. task: index in its array.
        state: SLURM's word (`PENDING`, `RUNNING`, `TIMEOUT`, ...). reason: why it waits or ended. nodes: where it runs.
        restarts: how often it was requeued.
    """

    id: str
    name: str
    task: int | None
    state: str
    reason: str
    nodes: str
    restarts: int

    @property
    def alive(self) -> bool:
        """Whether it runs or may still run."""
        return self.state in ALIVE and self.reason != NEVER


def queued_jobs(names: Iterable[str]) -> dict[tuple[str, int | None], QueuedJob]:
    """Jobs of some submissions, by name and array task; also those that have ended and that the controller still remembers.

    Raises:
        SlurmError: the controller does not answer.
    """
    wanted = sorted(set(names))
    if not wanted:
        return {}
    layout = ",".join(f"{field}:{width}" for field, width in FIELDS.items())
    listing = ask("squeue", "--noheader", "--array", "--states=all", f"--name={','.join(wanted)}", f"--Format={layout}")
    jobs = [_parse(line) for line in listing.splitlines() if line.strip()]
    return {(job.name, job.task): job for job in jobs}


def _parse(line: str) -> QueuedJob:
    values, start = {}, 0
    for field, width in FIELDS.items():
        values[field] = line[start : start + width].strip()
        start += width
    task = int(values["ArrayTaskID"]) if values["ArrayTaskID"].isdigit() else None
    return QueuedJob(
        id=values["ArrayJobID"] if task is None else f"{values['ArrayJobID']}_{task}",
        name=values["Name"],
        task=task,
        state=values["State"],
        reason=values["Reason"],
        nodes=values["NodeList"],
        restarts=int(values["RestartCnt"] or 0),
    )


def state_of(job: str) -> str:
    """State of one job (`RUNNING`, `COMPLETING`, ...).

    Raises:
        SlurmError: the controller does not know the job or does not answer.
    """
    return ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--Format=State:20").strip()


def end_of(job: str) -> str:
    """How a job ended that the controller has forgotten, from the accounting; empty where nobody keeps accounts."""
    try:
        states = ask("sacct", "--allocations", "--noheader", "--parsable2", "--format=State", f"--jobs={job}").split(
            "\n"
        )
    except SlurmError:
        return ""
    return states[0].split(" ")[0]


def partition_has_gpus(partition: str | None) -> bool:
    """Whether nodes of a partition (None: of the default one) offer GPUs.

    Raises:
        SlurmError: there is no such partition, or the controller does not answer.
    """
    chosen = [] if partition is None else [f"--partition={partition}"]
    lines = [line.split("|") for line in ask("sinfo", "--noheader", "--format=%P|%G", *chosen).splitlines()]
    if not lines:
        raise SlurmError(f"SLURM has no partition '{partition}': `sinfo` lists those that there are")
    return any("gpu" in gres for name, gres in lines if partition is not None or name.endswith("*"))


def ask(*command: str) -> str:
    """Standard output of a SLURM command.

    Raises:
        SlurmError: it refused, found no controller, or took longer than a minute.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]} did not answer within {ANSWER_SECONDS} s") from error
    except FileNotFoundError as error:
        raise SlurmError(f"there is no {command[0]} on the PATH") from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise SlurmError(f"{command[0]}: {said}")
    return done.stdout
