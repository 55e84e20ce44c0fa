"""From runs to SLURM jobs: one array for the runs that wait for the same parents, recorded so that no other call submits them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from common.experiment.arm import Run
from common.experiment.cluster_job import RunJob, job_folder, read_progress
from common.experiment.cluster_options import SlurmError, SlurmOptions
from common.experiment.cluster_queue import QueuedJob, ask, partition_has_gpus, queued_jobs
from common.experiment.phases import Machine
from common.experiment.store import Store
from common.files import DamagedFileError, read_json, write_json_atomically

# Blocks the warning until the job can act on it; Python would die of it while it still imports.
BLOCK = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2}); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
ARRAY = 1000  # tasks of one array; SLURM's own default limit is 1001
SITE = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")  # settings of the site, not traces of an allocation
DISTRIBUTED = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE")


@dataclass(frozen=True)
class JobRecord:
    """Which job computes a run: `<store>/slurm/<digest>/job.json`.

    Attributes:
        name: of the submission, unique. task: index in its array; None when it is a single job.
        job: as `scancel` takes it; None between the moment before the submission and its answer.
    """

    name: str
    task: int | None
    job: str | None = None

    @property
    def key(self) -> tuple[str, int | None]:
        """What `queued_jobs` calls it."""
        return self.name, self.task


@dataclass(frozen=True)
class Submission:
    """What became of the runs that a call wants: digest -> job, and which of them were in the queue already."""

    jobs: dict[str, JobRecord]
    attached: frozenset[str]


def submit(
    runs: Sequence[Run],
    statuses: dict[str, str],
    store: Store,
    machine: Machine,
    options: SlurmOptions,
    on_wait: Callable[[], None],
) -> Submission:
    """Make sure that every run has a job, and only one.

    Args:
        runs: to be computed, parents before children. statuses: of all runs of the table.
        store, machine, options: see `launch_on_slurm`.
        on_wait: called once if another command submits just now, before waiting for it.

    Raises:
        SlurmError: SLURM refuses; what was submitted before goes on, and the next call finds it.
    """
    with store.exclusive("slurm", on_wait):
        records = {run.digest: found for run in runs if (found := _read_record(store, run.digest))}
        earlier = _folders(store)
        queue = queued_jobs(earlier | {record.name for record in records.values()})
        jobs = _attach(runs, statuses, records, queue)
        attached = frozenset(jobs)
        waiting: dict[frozenset[str], list[Run]] = {}
        for run in runs:
            if run.digest not in jobs:
                needed = frozenset(parent.digest for parent in run.parents if statuses[parent.digest] != "ok")
                waiting.setdefault(needed, []).append(run)
        parameters = sbatch_parameters(machine, options) if waiting else {}
        for needed, alike in waiting.items():
            after = sorted(str(jobs[digest].job) for digest in needed)
            for start in range(0, len(alike), ARRAY):
                jobs |= _submit_array(alike[start : start + ARRAY], after, store, machine, options, parameters)
        for name in earlier - {job.name for job in queue.values() if job.alive}:
            shutil.rmtree(store.root / "slurm" / name, ignore_errors=True)
        return Submission(jobs, attached)


def _attach(
    runs: Sequence[Run],
    statuses: dict[str, str],
    records: dict[str, JobRecord],
    queue: dict[tuple[str, int | None], QueuedJob],
) -> dict[str, JobRecord]:
    """The runs whose job is still in the queue and waits for the right parents; a job that does not is cancelled."""
    jobs: dict[str, JobRecord] = {}
    for run in runs:
        record = records.get(run.digest)
        job = queue.get(record.key) if record else None
        if record is None or job is None or not job.alive:
            continue
        if all(statuses[parent.digest] == "ok" or parent.digest in jobs for parent in run.parents):
            jobs[run.digest] = replace(record, job=job.id)
        else:
            ask("scancel", job.id)
    return jobs


def _submit_array(
    runs: Sequence[Run],
    after: Sequence[str],
    store: Store,
    machine: Machine,
    options: SlurmOptions,
    parameters: dict[str, Any],
) -> dict[str, JobRecord]:
    name = "-".join(part for part in (machine.paper or "fairpress", machine.scale, secrets.token_hex(4)) if part)
    records = {run.digest: JobRecord(name, None if len(runs) == 1 else index) for index, run in enumerate(runs)}
    for digest, record in records.items():
        (job_folder(store, digest) / "progress.json").unlink(missing_ok=True)
        _write_record(store, digest, record)
    python = shlex.join([sys.executable, "-c", BLOCK])
    executor = submitit.SlurmExecutor(store.root / "slurm" / name, python=python)
    dependency = {"dependency": "afterok:" + ":".join(after)} if after else {}
    try:
        with _outside_any_allocation():
            executor.update_parameters(job_name=name, **parameters, **dependency)
            submitted = executor.submit_array([RunJob(run, store, machine, options.requeues) for run in runs])
    except (FailedJobError, FailedSubmissionError) as error:
        raise SlurmError(f"sbatch refused {runs[0].label}: {_last_line(str(error))}") from error
    for (digest, record), job in zip(records.items(), submitted, strict=True):
        records[digest] = replace(record, job=job.job_id)
        _write_record(store, digest, records[digest])
    return records


def sbatch_parameters(machine: Machine, options: SlurmOptions) -> dict[str, Any]:
    """Of submitit's SlurmExecutor; each process of a run is a task of its own."""
    gpus = options.gpus
    if gpus is None:
        gpus = machine.devices if partition_has_gpus(options.partition) else 0
    given = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "mem": options.mem,
        "gpus_per_node": gpus or None,
    }
    return {
        **{name: value for name, value in given.items() if value is not None},
        "time": options.minutes,
        "nodes": machine.nodes,
        "ntasks_per_node": machine.devices,
        "cpus_per_task": machine.threads,
        "signal_delay_s": options.warned,
        "array_parallelism": options.parallel,
        "stderr_to_stdout": True,
        "wckey": None,
        # SLURM's srun takes neither from sbatch; without the second one failed process leaves the others waiting for it
        "srun_args": [f"--cpus-per-task={machine.threads}", "--kill-on-bad-exit=1"],
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **options.more},
    }


@contextlib.contextmanager
def _outside_any_allocation() -> Iterator[None]:
    """Hide the allocation that this command may itself run in: `sbatch` would take over its sizes."""
    hidden = {
        name: value
        for name, value in os.environ.items()
        if (name.startswith(("SLURM_", "SLURMD_", "SUBMITIT_")) and name not in SITE) or name in DISTRIBUTED
    }
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _folders(store: Store) -> set[str]:
    """Submissions of this user whose scripts, pickles and logs are still there; those that are over are deleted."""
    found = (store.root / "slurm").glob("*/*.sh")
    return {path.parent.name for path in found if path.lstat().st_uid == os.getuid()}


def _read_record(store: Store, digest: str) -> JobRecord | None:
    """The job that a run was given last; None when there is none, or when it has said its last word."""
    try:
        found = read_json(job_folder(store, digest) / "job.json")
        record = JobRecord(str(found["name"]), found["task"], found["job"])
    except (FileNotFoundError, DamagedFileError, KeyError, TypeError):
        return None  # never submitted, or written by a stranger: no job of ours
    said = read_progress(store, digest)
    return None if said.get("end") and said.get("job") == record.job else record


def _write_record(store: Store, digest: str, record: JobRecord) -> None:
    write_json_atomically(job_folder(store, digest) / "job.json", asdict(record))


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")
