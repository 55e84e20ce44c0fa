"""Execute many runs as a graph of SLURM jobs, with the outcome that `launch` has on one machine.

The jobs do not need the command that submitted them: it only watches, and a later one finds them again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from common.experiment.arm import Run
from common.experiment.cluster_job import read_progress
from common.experiment.cluster_options import SlurmError, SlurmOptions, require_slurm
from common.experiment.cluster_queue import NEVER, QueuedJob, end_of, queued_jobs
from common.experiment.cluster_submit import JobRecord, Submission, submit
from common.experiment.launch import Watcher, discard_damaged
from common.experiment.phases import Machine
from common.experiment.store import Store

FILES_SECONDS = 2.0


class ClusterWatcher(Watcher, Protocol):
    """What shows progress to a person, the table as a whole included."""

    def note(self, text: str) -> None:
        """Something that concerns no single run."""


class JobsGoOn(KeyboardInterrupt):
    """The command was interrupted; its jobs were not. The message says which they are and how to cancel them."""


@dataclass
class _Active:
    run: Run
    record: JobRecord
    since: float = field(default_factory=time.monotonic)
    state: tuple[str, str] = ("", "")
    event: Any = None
    again: bool = False


def launch_on_slurm(
    runs: Sequence[Run], store: Store, machine: Machine, options: SlurmOptions, watcher: ClusterWatcher
) -> dict[str, str]:
    """Execute what is not finished yet as SLURM jobs and wait for them.

    Runs that wait for the same parents form one array job, which starts after exactly the tasks that compute those parents.
    Runs that are in the queue already, from this table or another on the same store, are waited for.

    Args:
        runs: parents before children, as `plan_runs` orders them.
        store: on a file system that all nodes see.
        machine: how a run is executed; each of its processes is one task of the job.
        options: partition, limits.
        watcher: told of progress.

    Returns:
        digest -> `ok`, `failed`, `interrupted` (its job ended without a result), `stale` (the code changed meanwhile), `not run`.

    Raises:
        SlurmError: there is no SLURM here, or it refuses the jobs.
        JobsGoOn: Ctrl-C.
    """
    require_slurm()
    store = replace(store, root=store.root.resolve())
    damaged = discard_damaged(runs, store)
    statuses = {run.digest: "ok" if store.status(run.digest) == "ok" else "not run" for run in runs}
    watcher.begin(len(runs), sum(status == "ok" for status in statuses.values()))
    for run in runs:
        if run.digest in damaged:
            watcher.event(run, {"phase": f"computed again, because {damaged[run.digest]}"})
    launch = _Launch(statuses, store, machine, options, watcher)
    try:
        launch.submit([run for run in runs if statuses[run.digest] != "ok"])
        launch.wait()
    except KeyboardInterrupt:
        raise JobsGoOn(launch.goes_on()) from None
    return statuses


class _Launch:
    """The jobs of one call."""

    def __init__(
        self,
        statuses: dict[str, str],
        store: Store,
        machine: Machine,
        options: SlurmOptions,
        watcher: ClusterWatcher,
    ) -> None:
        self.statuses, self.store, self.machine, self.options, self.watcher = statuses, store, machine, options, watcher
        self.active: dict[str, _Active] = {}
        self.queue: dict[tuple[str, int | None], QueuedJob] | None = None
        self.asked = float("-inf")
        self.silent = False

    def submit(self, runs: Sequence[Run], again: bool = False) -> None:
        """Give every run a job."""
        if not runs:
            return
        waits = "another command submits jobs of this store: waiting for it"
        done = submit(runs, self.statuses, self.store, self.machine, self.options, lambda: self.watcher.note(waits))
        for run in runs:
            self.active[run.digest] = _Active(run, done.jobs[run.digest], again=again)
        self.watcher.note(_described(done))
        self.asked = float("-inf")

    def wait(self) -> None:
        """Until every job is over."""
        while self.active:
            self._ask()
            over = [one for one in list(self.active.values()) if self._look_at(one)]
            repeat = []
            for one in over:
                if self._was_let_down(one):
                    repeat.append(one.run)
                    del self.active[one.run.digest]
                elif (status := self._outcome(one)) is not None:
                    self._end(one, status)
            self.submit(repeat, again=True)
            if self.active:
                time.sleep(min(FILES_SECONDS, self.options.poll))

    def goes_on(self) -> str:
        """What an interrupted user has to know."""
        jobs = " ".join(sorted(str(one.record.job) for one in self.active.values()))
        if not jobs:
            return "jobs that were submitted go on, and the same command finds them again"
        return f"the jobs go on, and the same command finds them again; to cancel them: scancel {jobs}"

    def _ask(self) -> None:
        """The queue as it is now, every `poll` seconds, sooner when a job has said its last word."""
        ending = any(self._said(one).get("end") for one in self.active.values())
        if time.monotonic() - self.asked < (0 if ending else self.options.poll):
            return
        self.asked = time.monotonic()
        try:
            self.queue = queued_jobs(one.record.name for one in self.active.values())
        except SlurmError as error:
            self.queue = None
            if not self.silent:
                self.watcher.note(f"SLURM does not answer ({error}): the jobs go on, asking again")
            self.silent = True
        else:
            if self.silent:
                self.watcher.note("SLURM answers again")
            self.silent = False

    def _said(self, one: _Active) -> dict[str, Any]:
        said = read_progress(self.store, one.run.digest)
        return said if said.get("job") == one.record.job else {}

    def _look_at(self, one: _Active) -> bool:
        """Pass on what is new of a job; whether it is over."""
        said = self._said(one)
        if said.get("event") and said["event"] != one.event:
            one.event = said["event"]
            self.watcher.event(one.run, one.event)
        if self.queue is None:
            return False
        job = self.queue.get(one.record.key)
        if job is None or not job.alive:
            return True
        if (kind := _kind(job)) != one.state:
            if job.state == "RUNNING":
                one.since = time.monotonic()
            one.state = kind
            self.watcher.event(one.run, {"phase": _described_state(job)})
        return job.state == "COMPLETING" and said.get("end") is not None

    def _was_let_down(self, one: _Active) -> bool:
        """Whether SLURM dropped a job because the job of a parent did not end well although the parent is finished.

        So it is when the parent finished in the grace period of a preemption, or in its last seconds before the limit.
        """
        job = (self.queue or {}).get(one.record.key)
        dropped = job is not None and job.reason == NEVER
        return dropped and not one.again and all(self.store.status(p.digest) == "ok" for p in one.run.parents)

    def _outcome(self, one: _Active) -> str | None:
        """What became of a run whose job is over; None while another process computes it."""
        status, said = self.store.status(one.run.digest), self._said(one)
        if status == "running":
            return None
        if status in ("ok", "stale", "damaged") or (status == "failed" and said.get("begun")):
            return status
        job = (self.queue or {}).get(one.record.key)
        state = job.state if job is not None else end_of(str(one.record.job))
        if not said and (state in ("", "CANCELLED") or (job is not None and job.reason == NEVER)):
            return "not run"
        where = f" on {job.nodes}" if job is not None and job.nodes else ""
        how = f"SLURM job {one.record.job} ended as {state or 'unknown'}{where} before the run was finished"
        error = {"type": "JobEnded", "message": "; ".join(filter(None, (how, said.get("refused") or self._log(one))))}
        self.store.set_state(one.run.digest, "interrupted", label=one.run.label, error=error)
        return "interrupted"

    def _log(self, one: _Active) -> str:
        """The last words of a job."""
        path = self.store.root / "slurm" / one.record.name / f"{one.record.job}_0_log.out"
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{path} ends with: {last[:200]}"

    def _end(self, one: _Active, status: str) -> None:
        del self.active[one.run.digest]
        self.statuses[one.run.digest] = status
        if status != "not run":
            self.watcher.end(one.run, status, time.monotonic() - one.since)


def _kind(job: QueuedJob) -> tuple[str, str]:
    """What has to change of a job before a person is told: not the reasons between which a waiting job changes all the time."""
    return job.state, str(job.restarts) if job.reason not in ("Dependency", "BeginTime") else job.reason


def _described_state(job: QueuedJob) -> str:
    restarted = f", started again {job.restarts}x" if job.restarts else ""
    if job.state == "RUNNING":
        return f"job {job.id} runs on {job.nodes}{restarted}"
    if job.state == "PENDING":
        why = {"Dependency": "waits for the runs that it needs", "BeginTime": "was requeued and starts again soon"}
        return f"job {job.id} {why.get(job.reason, f'is queued ({job.reason})')}{restarted}"
    return f"job {job.id} is {job.state.lower()}"


def _described(done: Submission) -> str:
    fresh = sorted({str(job.job).partition("_")[0] for digest, job in done.jobs.items() if digest not in done.attached})
    found = sorted(str(done.jobs[digest].job) for digest in done.attached)
    words = [f"{len(done.jobs) - len(found)} runs submitted as SLURM jobs {' '.join(fresh)}"] if fresh else []
    words += [f"{len(found)} runs are in the queue already: {' '.join(found)}"] if found else []
    return f"{'; '.join(words)}. The jobs do not need this command; to cancel them: scancel {' '.join(fresh + found)}"
