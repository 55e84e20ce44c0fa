"""Locks between processes: a file that one process at a time holds, and that the system frees when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from common.storage_errors import raise_storage_error, storage_cause

_held: set[str] = set()


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock file, which is made where it is not there; one thread cannot hold it twice.

    Args:
        path: the file; it stays when the lock is given back.
        on_wait: called once if another holds it, before waiting for it.

    Raises:
        StorageError: the file cannot be made.
    """
    handle = _acquire(path, on_wait)
    _held.add(os.path.abspath(path))
    try:
        yield
    finally:
        _held.discard(os.path.abspath(path))
        fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough where a forked worker has inherited the file
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: who only looks is not seen by another who looks
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def is_held_here(path: Path) -> bool:
    """Whether this process holds the lock."""
    return os.path.abspath(path) in _held


def _acquire(path: Path, on_wait: Callable[[], None]) -> int:
    told = False
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            if cause := storage_cause(error, path, path):
                raise_storage_error(path, cause, error)
            raise
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                on_wait()
            told = True
            fcntl.flock(handle, fcntl.LOCK_EX)
        if _is_still(path, handle):
            return handle
        os.close(handle)  # the folder was deleted meanwhile: this file is nobody's lock any more


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
