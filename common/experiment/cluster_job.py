"""A run as a SLURM job: what happens on the node.

submitit starts it from a pickle that says which run of which store it is and holds no state: whatever the run has done is in the
store, so that a restart by SLURM, by the run itself or by hand always reads the same pickle and goes on from the last
checkpoint. submitit's own requeueing is replaced, because it

- writes the pickle anew at every warning, with a moment in which there is none, and refuses when an earlier one was cut off;
- is run by every forked DataLoader worker as well, since SLURM signals all processes of a job;
- turns a controller that does not answer just then into a failure of the run;
- lets the process end at SIGTERM, which SLURM counts as a failure of a job that is preempted with a grace period.
"""

from __future__ import annotations

import math
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from common.experiment.arm import Run
from common.experiment.cluster_options import SlurmError
from common.experiment.cluster_queue import ask, state_of
from common.experiment.launch import _output_to
from common.experiment.phases import Machine
from common.experiment.quick import quicken
from common.experiment.run import execute
from common.experiment.store import Store
from common.files import DamagedFileError, read_json, write_json_atomically

REPORT_SECONDS = 2.0
RETRY_SECONDS = 5.0
IDLE = 3  # time slots without a checkpoint after which another one would be wasted as well
LAST_WORD_SECONDS = 60.0  # for the first process to record why it failed, before the others make SLURM end it
FIRST_PHASE = "data"  # what `execute` reports once the run is its own and cleared of what cannot be used


class RunFailedError(RuntimeError):
    """The run did not succeed; raised so that its job fails and the jobs that depend on it do not start."""


def job_folder(store: Store, digest: str) -> Path:
    """Where launcher and job of a run keep `job.json` and `progress.json`; the folder of the run itself may be discarded."""
    return store.root / "slurm" / digest


def read_progress(store: Store, digest: str) -> dict[str, Any]:
    """What the job of a run has last said of itself; empty when it has said nothing.

    Keys: `job`, `restarts` (which attempt speaks), `requeues` (asked for by the run), `idle` (of them, the last ones that had no
    checkpoint to show), `begun`, `event`, `end` (its status), `refused` (why it did not ask again).
    """
    try:
        found = read_json(job_folder(store, digest) / "progress.json")
    except (FileNotFoundError, DamagedFileError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Attempt:
    """One start of a job in one process.

    Attributes:
        job: as `scancel` takes it. restarts: how often it was requeued before. rank: of this process among those of the run.
    """

    job: str
    restarts: int
    rank: int

    @staticmethod
    def here() -> Attempt:
        """The attempt that this process belongs to."""
        said = os.environ
        array = said.get("SLURM_ARRAY_JOB_ID")
        job = f"{array}_{said['SLURM_ARRAY_TASK_ID']}" if array else said["SLURM_JOB_ID"]
        return Attempt(job, int(said.get("SLURM_RESTART_COUNT", 0)), int(said.get("SLURM_PROCID", 0)))


class Progress:
    """`progress.json` as the first process of a run writes it: phases at once, steps every two seconds at most."""

    def __init__(self, store: Store, digest: str, attempt: Attempt) -> None:
        self.path = job_folder(store, digest) / "progress.json"
        self.folder = store.folder(digest)
        self.found = self._checkpoints()
        before = read_progress(store, digest)
        counts = {
            name: int(before.get(name, 0)) if before.get("job") == attempt.job else 0 for name in ("requeues", "idle")
        }
        self.said: dict[str, Any] = {"job": attempt.job, "restarts": attempt.restarts, **counts, "begun": False}
        self.last = 0.0
        self.write()

    def may_requeue(self, most: int) -> bool:
        """Count a wish for another time slot, or say why it is not granted.

        Args:
            most: how many are allowed.
        """
        idle = 0 if self._checkpoints() != self.found else self.said["idle"] + 1
        if self.said["requeues"] >= most:
            refused = f"this job has asked for {most} further time slots already"
        elif idle >= IDLE:
            refused = f"{idle} time slots in a row were too short for a checkpoint: the job needs a longer TIME"
        else:
            self.write(requeues=self.said["requeues"] + 1, idle=idle)
            return True
        _say(f"not requeued: {refused}")
        self.write(refused=refused)
        return False

    def _checkpoints(self) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in self.folder.glob("*.ckpt")}

    def report(self, event: dict[str, Any]) -> None:
        """Take an event of the run."""
        now = time.monotonic()
        if "step" in event and now - self.last < REPORT_SECONDS:
            return
        self.last = now
        self.said["begun"] = self.said["begun"] or event.get("phase") == FIRST_PHASE
        self.write(event={name: _for_json(value) for name, value in event.items()})

    def write(self, **changes: Any) -> None:
        """Change some of what is said."""
        self.said.update(changes)
        write_json_atomically(self.path, self.said)


def _for_json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class RunJob:
    """What submitit calls in every process of a job.

    Attributes:
        run, store, machine: as for `execute`. requeues: how often the run may ask for another time slot.
    """

    run: Run
    store: Store
    machine: Machine
    requeues: int

    def __call__(self) -> str:
        """Execute the run.

        Returns:
            `"ok"`.

        Raises:
            RunFailedError: it ended otherwise.
        """
        attempt = Attempt.here()
        if attempt.rank:
            Warned(attempt.job).listen()
            quicken()
            return self._follow(attempt)
        progress = Progress(self.store, self.run.digest, attempt)
        Warned(attempt.job, progress, self.requeues).listen()
        quicken()
        self.store.folder(self.run.digest).mkdir(parents=True, exist_ok=True)
        with _output_to(self.store.folder(self.run.digest) / "log.txt"):
            status = execute(self.run, self.store, self.machine, progress.report)
        progress.write(end=status)
        return self._checked(status)

    def _follow(self, attempt: Attempt) -> str:
        """A further process starts at the same time as the first one and must not look at the run before that one owns it."""
        while not self._of_this_attempt(attempt, "begun") and not self._of_this_attempt(attempt, "end"):
            time.sleep(0.1)
        try:
            status = execute(self.run, self.store, self.machine, lambda event: None)
        except BaseException:
            until = time.monotonic() + LAST_WORD_SECONDS
            while not self._of_this_attempt(attempt, "end") and time.monotonic() < until:
                time.sleep(0.1)
            raise
        return self._checked(status)

    def _of_this_attempt(self, attempt: Attempt, key: str) -> Any:
        said = read_progress(self.store, self.run.digest)
        return said.get(key) if (said.get("job"), said.get("restarts")) == (attempt.job, attempt.restarts) else None

    def _checked(self, status: str) -> str:
        if status != "ok":
            raise RunFailedError(
                f"{self.run.label} is '{status}'; {self.store.folder(self.run.digest)}/state.json says why"
            )
        return status


@dataclass(frozen=True)
class Warned:
    """What a process of a job does when SLURM announces its end.

    SIGUSR2 comes some time before the time limit (and, on clusters set up for it, before a preemption), SIGTERM at the start of
    a preemption's grace period and at every other end. The first process asks for the job to be requeued and ends; the rest of
    the time slot is worth less than a clean end. Where the job is ending anyway it just ends.

    Attributes:
        job: as `scancel` takes it. progress: of the first process; None in further ones. requeues: the most to ask for.
    """

    job: str
    progress: Progress | None = None
    requeues: int = 0

    def listen(self) -> None:
        """Take over both signals, in this process and not in the ones that it forks."""
        owner = os.getpid()

        def told(number: int, frame: FrameType | None) -> None:
            if os.getpid() == owner:
                self.told(number)
            elif number == signal.SIGTERM:
                os._exit(128 + number)  # a DataLoader's worker, which its parent or SLURM ends

        signal.signal(signal.SIGTERM, told)
        signal.signal(signal.SIGUSR2, told)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})  # what came while Python imported arrives now

    def told(self, number: int) -> None:
        """Act on a signal; may not return."""
        if self.progress is None:
            return  # the first process decides, and SLURM ends this one with it
        if number == signal.SIGTERM:
            state = self._state()
            if state == "COMPLETING":  # cancelled, out of time, or requeued by SLURM itself
                os._exit(128 + number)
            if state != "RUNNING":
                return
        if self.progress.may_requeue(self.requeues):
            self._requeue()

    def _state(self) -> str:
        try:
            return state_of(self.job)
        except SlurmError as error:
            _say(f"told to end, and SLURM does not say why: {error}")
            return ""

    def _requeue(self) -> None:
        """Ask until the controller agrees or kills us; nothing is lost but the steps since the last checkpoint."""
        while True:
            try:
                ask("scontrol", "requeue", self.job)
            except SlurmError as error:
                _say(f"requeueing failed, trying again: {error}")
                time.sleep(RETRY_SECONDS)
            else:
                _say("requeued: goes on from the last checkpoint in another time slot")
                os._exit(1)


def _say(line: str) -> None:
    """Print from a signal handler, which `print` does not survive when it is itself interrupted."""
    os.write(1, f"{line}\n".encode())
