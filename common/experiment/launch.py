"""Execute many runs: parents before children, independent runs side by side, each in a process of its own.

A run that crashes, is killed or runs out of memory takes nothing with it. Processes are forked from a server that has
imported torch once, so starting a run costs milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import torch

from common.experiment.arm import Run
from common.experiment.phases import Machine
from common.experiment.run import execute
from common.experiment.store import Store
from common.provenance import usable_cores

POLL_SECONDS = 0.2
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


class Watcher(Protocol):
    """What shows progress to a person."""

    def begin(self, total: int, finished: int) -> None:
        """Called once: how many runs there are and how many need nothing."""

    def event(self, run: Run, event: dict[str, Any]) -> None:
        """A progress event of a run (`phase`, `step`, `steps`, `loss`, `error`)."""

    def end(self, run: Run, status: str, seconds: float) -> None:
        """A run came to its end."""


@dataclass
class _Active:
    run: Run
    process: BaseProcess
    since: float


def launch(runs: Sequence[Run], store: Store, machine: Machine, jobs: int, watcher: Watcher) -> dict[str, str]:
    """Execute what is not finished yet.

    Args:
        runs: parents before children, as `plan_runs` orders them.
        store: finished runs are read from it, results go to it.
        machine: how a run is executed.
        jobs: how many runs at a time; with several devices a run takes them all, in this process.
        watcher: told of progress.

    Returns:
        digest -> `ok`, `failed`, `interrupted` or `not run` (a parent failed).

    Raises:
        KeyboardInterrupt: after the active runs were stopped; finished ones are kept and the next call resumes.
    """
    statuses = {run.digest: store.status(run.digest) for run in runs}
    statuses = {digest: status if status == "ok" else "not run" for digest, status in statuses.items()}
    watcher.begin(len(runs), sum(status == "ok" for status in statuses.values()))
    waiting = [run for run in runs if statuses[run.digest] != "ok"]
    if machine.world > 1:
        _one_by_one(waiting, statuses, store, machine, watcher)
    elif waiting:
        _side_by_side(waiting, statuses, store, machine, jobs, watcher)
    return statuses


def _one_by_one(
    waiting: Sequence[Run], statuses: dict[str, str], store: Store, machine: Machine, watcher: Watcher
) -> None:
    """All devices for one run at a time: Lightning starts the further processes by calling this command again."""
    for run in waiting:
        if not _ready(run, statuses):
            continue
        since = time.monotonic()
        statuses[run.digest] = execute(run, store, machine, lambda event, run=run: watcher.event(run, event))  # type: ignore[misc]
        watcher.end(run, statuses[run.digest], time.monotonic() - since)


def _side_by_side(
    waiting: list[Run], statuses: dict[str, str], store: Store, machine: Machine, jobs: int, watcher: Watcher
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["common.experiment.run"])
    events: Any = context.Queue()
    by_digest = {run.digest: run for run in waiting}
    active: dict[str, _Active] = {}
    try:
        while waiting or active:
            for run in [r for r in waiting if _ready(r, statuses)][: jobs - len(active)]:
                waiting.remove(run)
                process = context.Process(target=_child, args=(run, store, machine, events), name=run.label)
                process.start()
                active[run.digest] = _Active(run, process, time.monotonic())
            if not active:
                break  # what still waits has a parent that failed
            _drain(events, by_digest, watcher)
            for digest in [d for d, a in active.items() if not a.process.is_alive()]:
                done = active.pop(digest)
                done.process.join()
                statuses[digest] = _outcome(done, store)
                watcher.end(done.run, statuses[digest], time.monotonic() - done.since)
        _drain(events, by_digest, watcher)
    finally:
        _stop(active)


def _ready(run: Run, statuses: dict[str, str]) -> bool:
    return all(statuses.get(parent.digest) == "ok" for parent in run.parents)


def _outcome(done: _Active, store: Store) -> str:
    """What became of a run whose process has ended, also when it was killed before it could say so."""
    status = store.status(done.run.digest)
    if status in ("ok", "failed"):
        return status
    code = done.process.exitcode
    how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    store.set_state(
        done.run.digest,
        "interrupted",
        label=done.run.label,
        error={"type": "ProcessDied", "message": f"the process of this run ended with {how} before it was finished"},
    )
    return "interrupted"


def _drain(events: Any, by_digest: dict[str, Run], watcher: Watcher) -> None:
    deadline = time.monotonic() + POLL_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        try:
            digest, event = events.get(timeout=left)
        except queue.Empty:
            return
        watcher.event(by_digest[digest], event)


def _stop(active: dict[str, _Active]) -> None:
    for one in active.values():
        one.process.terminate()
    for one in active.values():
        one.process.join(timeout=10)
        if one.process.is_alive():
            one.process.kill()
            one.process.join()


def _child(run: Run, store: Store, machine: Machine, events: Any) -> None:
    """Body of a run's process: its own log file, no reaction to Ctrl-C (the parent stops it), its status in the store."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _keep_freed_memory()
    folder = store.folder(run.digest)
    folder.mkdir(parents=True, exist_ok=True)
    with _output_to(folder / "log.txt"):
        execute(run, store, machine, lambda event: events.put((run.digest, event)))
    events.close()
    events.join_thread()


def _end_with_parent() -> None:
    """A run whose command was killed ends too, so that the next command finds it interrupted and not still running."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _keep_freed_memory() -> None:
    """Make glibc reuse freed tensors instead of handing them back to the system and asking for fresh pages at every step.

    Training on a CPU is 1.1 to 1.4 times as fast with it; elsewhere than on glibc nothing happens.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            libc.mallopt(parameter, 1 << 30)


@contextlib.contextmanager
def _output_to(path: os.PathLike[str]) -> Any:
    """Send standard output and error of this process, also of libraries in C, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    with open(path, "ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), line_buffering=True)
        sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), line_buffering=True)
        yield


def default_jobs(threads: int) -> int:
    """Runs at a time where nobody says: as many as the cores carry, one on an accelerator."""
    if torch.cuda.is_available():
        return 1
    return max(1, usable_cores() // threads)
