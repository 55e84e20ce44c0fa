"""When a file system refuses to write: which refusals there are, how they are recognised and what to do about each."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import NoReturn


class StorageError(OSError):
    """A file could not be written; the message says in which folder, how many bytes are free there, and what to do."""


# What the file system says when it refuses a write. An OSError of another kind is the writer's own.
_REFUSALS = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; delete something or ask for more",
    errno.EFBIG: "the file is larger than the file system or the user's limit allows; see `ulimit -f`",
    errno.EROFS: "the file system is mounted read-only; choose another folder",
    errno.EACCES: "the folder may not be written by this user; change its permissions or choose another folder",
    errno.EPERM: "the folder may not be written by this user; change its permissions or choose another folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder; rename that file or choose another folder",
    errno.EEXIST: "a part of the path is a file, not a folder; rename that file or choose another folder",
    errno.EISDIR: "a folder of this name is in the way; rename it or choose another file name",
    errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter one",
    errno.EIO: "the device reported an error; check the disk and the system log",
}


def storage_cause(error: BaseException, target: Path, temporary: Path) -> OSError | None:
    """The refusal of the file system behind ``error``, if any (``torch.save`` hides a full disk behind a RuntimeError).

    An error that names another file than the one being written (the writer could not read its source) is not ours.
    """
    ours = {None, *map(str, (temporary, target, *target.parents))}
    seen: BaseException | None = error
    while seen is not None:
        filename = None if not isinstance(seen, OSError) or seen.filename is None else str(seen.filename)
        if isinstance(seen, OSError) and seen.errno in _REFUSALS and filename in ours:
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def raise_storage_error(target: Path, cause: OSError, error: BaseException) -> NoReturn:
    """Say of the refusal ``cause``, which came up as ``error``, where it was, how many bytes are free and what to do."""
    folder = target.parent
    try:
        free = f"{shutil.disk_usage(folder).free:,} bytes free"
    except OSError:
        free = "free bytes unknown"
    assert cause.errno is not None
    message = (
        f"cannot write {target.name!r} in folder {str(folder)!r} ({free}): {os.strerror(cause.errno)}; "
        f"{_REFUSALS[cause.errno]}. No half-written file was left."
    )
    failure = StorageError(message)
    failure.errno = cause.errno
    raise failure from error
