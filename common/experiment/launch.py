"""Execute many runs: parents before children, independent runs side by side, each in a process of its own.

A run that crashes, is killed or runs out of memory takes nothing with it. Processes are forked from a server that has
imported torch once, so starting a run costs milliseconds.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import torch

from common.experiment.arm import Run
from common.experiment.phases import Machine
from common.experiment.quick import quicken
from common.experiment.run import execute
from common.experiment.store import PAIRS, Store
from common.files import StorageError
from common.provenance import usable_cores

POLL_SECONDS = 0.2


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
    events: Connection | None  # what it reports; None after its end
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
        digest -> `ok`, `failed`, `interrupted`, `stale` (the code was edited while it ran) or `not run` (a parent failed).

    Raises:
        StorageError: the store cannot be written; nothing was started.
        KeyboardInterrupt: after the active runs were stopped; finished ones are kept and the next call resumes.
    """
    damaged = discard_damaged(runs, store)
    statuses = {run.digest: "ok" if store.status(run.digest) == "ok" else "not run" for run in runs}
    statuses |= dict.fromkeys(damaged, "not run")
    watcher.begin(len(runs), sum(status == "ok" for status in statuses.values()))
    for run in runs:
        if run.digest in damaged:
            watcher.event(run, {"phase": f"computed again, because {damaged[run.digest]}"})
    waiting = [run for run in runs if statuses[run.digest] != "ok"]
    if waiting:
        with store.exclusive("launch"):  # also shows that the store can be written
            pass
    if machine.world > 1:
        _one_by_one(waiting, statuses, store, machine, watcher)
    elif waiting:
        _side_by_side(waiting, statuses, store, machine, jobs, watcher)
    return statuses


def discard_damaged(runs: Sequence[Run], store: Store) -> dict[str, str]:
    """Read every byte of the finished runs and give up those that are not as they were written: digest -> what is wrong.

    Of the runs that share a damaged pair table only the first is given up; it will write the table again for all.
    """
    given_up: dict[str, str] = {}
    restored: set[str] = set()
    for run in runs:
        if store.status(run.digest) in ("ok", "damaged"):
            wrong = store.verify(run.digest)
            if wrong.keys() - restored:
                restored |= {name for name in wrong if name.startswith(PAIRS)}
                given_up[run.digest] = "; ".join(f"{name} {what}" for name, what in wrong.items())
                store.discard(run.digest, given_up[run.digest])
    return given_up


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
    waiting = by_urgency(waiting)
    active: dict[str, _Active] = {}
    try:
        while waiting or active:
            for run in [r for r in waiting if _ready(r, statuses)][: jobs - len(active)]:
                waiting.remove(run)
                active[run.digest] = _start(context, run, store, machine)
            if not active:
                break  # what still waits has a parent that failed
            _pass_on(active.values(), watcher)
            for digest in [d for d, a in active.items() if not a.process.is_alive()]:
                done = active.pop(digest)
                done.process.join()
                _pass_on([done], watcher)
                statuses[digest] = _outcome(done, store, watcher)
                watcher.end(done.run, statuses[digest], time.monotonic() - done.since)
    finally:
        _stop(active)


def by_urgency(runs: Sequence[Run]) -> list[Run]:
    """Runs in the order in which they should start, the ones that are ready: seed after seed, and of a seed first those that
    the longest line of others waits for, so that no processor idles at the end beside a teacher and its last student."""
    behind = {run.digest: 0 for run in runs}
    for run in reversed(runs):  # children before parents
        for parent in run.parents:
            if parent.digest in behind:
                behind[parent.digest] = max(behind[parent.digest], behind[run.digest] + 1)
    seeds = list(dict.fromkeys(run.seed for run in runs))
    return sorted(runs, key=lambda run: (seeds.index(run.seed), -behind[run.digest]))


def _ready(run: Run, statuses: dict[str, str]) -> bool:
    return all(statuses.get(parent.digest) == "ok" for parent in run.parents)


def _outcome(done: _Active, store: Store, watcher: Watcher) -> str:
    """What became of a run whose process has ended, also when it was killed before it could say so."""
    status = store.status(done.run.digest)
    if status in ("ok", "failed", "stale", "damaged"):
        return status
    code = done.process.exitcode
    how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    error = {"type": "ProcessDied", "message": f"the process of this run ended with {how} before it was finished"}
    try:
        store.set_state(done.run.digest, "interrupted", label=done.run.label, error=error)
    except StorageError as refusal:  # without a record it counts as interrupted too
        watcher.event(done.run, {"error": str(refusal)})
    return "interrupted"


def _start(context: Any, run: Run, store: Store, machine: Machine) -> _Active:
    """Start the process of a run. It has a pipe of its own: a shared queue stays locked when one that writes to it is killed."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(run, store, machine, sender), name=run.label)
    process.start()
    sender.close()  # so that the end of the process ends the pipe
    return _Active(run, process, receiver, time.monotonic())


def _pass_on(active: Iterable[_Active], watcher: Watcher) -> None:
    """Tell the watcher what the runs report, for a moment or until one of them ends."""
    by_pipe = {one.events: one for one in active if one.events is not None}
    sentinels = [one.process.sentinel for one in active]
    for pipe in multiprocessing.connection.wait([*by_pipe, *sentinels], timeout=POLL_SECONDS):
        if isinstance(pipe, Connection):
            one = by_pipe[pipe]
            try:
                while pipe.poll():
                    watcher.event(one.run, pipe.recv())
            except (EOFError, OSError):  # it has ended, perhaps in the middle of an event
                pipe.close()
                one.events = None


def _stop(active: dict[str, _Active]) -> None:
    for one in active.values():
        one.process.terminate()
    for one in active.values():
        one.process.join(timeout=10)
        if one.process.is_alive():
            one.process.kill()
            one.process.join()


def _child(run: Run, store: Store, machine: Machine, events: Connection) -> None:
    """Body of a run's process: its own log file, no reaction to Ctrl-C (the parent stops it), its status in the store."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quicken()
    folder = store.folder(run.digest)
    folder.mkdir(parents=True, exist_ok=True)
    with _output_to(folder / "log.txt"):
        execute(run, store, machine, events.send)


def _end_with_parent() -> None:
    """A run whose command was killed ends too, so that the next command finds it interrupted and not still running."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


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
