"""Files that are either the old ones or the new ones, never half of each.

Everything that the suite stores (results, scores, weights, tables) goes through :func:`write_atomically`: a temporary
file in the same folder, flushed and fsynced, renamed over the target, and the folder fsynced, so that a crash, a full
disk or a power cut leaves the previous file or the new one. Imports neither torch nor numpy.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

# Temporary files left by a killed process are recognised by these two marks and may be deleted when nothing is running.
TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".writing-", ".tmp"


class StorageError(OSError):
    """A file could not be written; the message says in which folder, how many bytes are free there, and what to do."""


class DamagedFileError(ValueError):
    """A file exists but is not what it should be (truncated, empty, edited); the message says where and what to do."""


def write_atomically(path: str | os.PathLike[str], data: bytes | Callable[[BinaryIO], None]) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the whole new one, also after a crash.

    Args:
        path: the file to write; missing parent folders are created. A symbolic link there is replaced, not followed.
        data: the bytes, or a function that writes them to the open binary file it is given
            (``lambda file: np.savez(file, **arrays)``).

    Raises:
        StorageError: the file system refused (full disk, quota, read-only folder, ...); ``path`` keeps its old content.
        Exception: whatever ``data`` raised by itself; ``path`` keeps its old content and the temporary file is gone.
    """
    target = Path(path)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _fsync_folder(target.parent)
    except Exception as error:
        cause = _storage_cause(error, target, temporary)
        if cause is not None:
            # The free bytes are read while the temporary file still takes its room, as the failing write saw them.
            _raise_storage_error(target, cause, error)
        raise
    finally:
        with suppress(
            OSError
        ):  # normally the rename has consumed it; what cannot be removed must not hide the first error
            temporary.unlink()


def _fsync_folder(folder: Path) -> None:
    """Make the rename itself durable; file systems that cannot (some network mounts) say EINVAL and are let be."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


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


def _storage_cause(error: BaseException, target: Path, temporary: Path) -> OSError | None:
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


def _raise_storage_error(target: Path, cause: OSError, error: BaseException) -> NoReturn:
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


def write_json_atomically(path: str | os.PathLike[str], obj: Any) -> None:
    """Write ``obj`` as JSON (UTF-8, sorted keys, indent 1, newline at the end) with :func:`write_atomically`.

    Raises:
        ValueError: a number is not finite; the message names its key path (``metrics.lfw.eer``). Store None instead.
        TypeError: a key is no string or a value is no JSON value (convert NumPy's with ``.item()`` or ``.tolist()``).
        StorageError: the file system refused.
    """
    for where, problem in _json_problems(obj, ""):
        raise problem(f"cannot write {os.fspath(path)!r} as JSON: {where}")
    text = json.dumps(obj, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        encoded = text.encode()
    except (
        UnicodeEncodeError
    ):  # a file name that is not UTF-8 holds lone surrogates; escaped, they survive the round trip
        encoded = (json.dumps(obj, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()
    write_atomically(path, encoded)


def _json_problems(obj: Any, where: str) -> Iterator[tuple[str, type[Exception]]]:
    place = f"at {where}" if where else "at the top level"
    if obj is None or isinstance(obj, str | int):
        return
    if isinstance(obj, float):
        if not math.isfinite(obj):
            yield f"the number {place} is {obj!r}, which JSON cannot hold; store None and say why beside it", ValueError
    elif isinstance(obj, dict):
        for key, value in obj.items():
            if not isinstance(key, str):
                yield f"the key {key!r} {place} is a {type(key).__name__}, expected a string", TypeError
            yield from _json_problems(value, f"{where}.{key}" if where else str(key))
    elif isinstance(obj, list | tuple):
        for index, value in enumerate(obj):
            yield from _json_problems(value, f"{where}[{index}]")
    else:
        kind = f"{type(obj).__module__}.{type(obj).__name__}"
        yield (
            f"the value {place} is a {kind}, expected a plain Python value; convert it (.item(), .tolist(), str())",
            TypeError,
        )


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file written by :func:`write_json_atomically` (standard JSON only: no NaN, no infinity).

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: the file is empty, truncated, not UTF-8, too deep, or holds a number that is not finite.
    """
    raw = Path(path).read_bytes()
    if not raw.strip():
        raise DamagedFileError(
            f"{os.fspath(path)!r} is empty, expected JSON; delete it and let the command that wrote it run again"
        )
    try:
        return json.loads(raw.decode(), parse_constant=_refuse_constant, parse_float=_finite_float)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno} of {len(raw)} bytes"
        raise DamagedFileError(
            f"{os.fspath(path)!r} is damaged at {at}: {error.msg}; restore it or delete it and run again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{os.fspath(path)!r} is damaged: {error}; restore it or delete it and run again"
        ) from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is too large for a float")
    return value


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content as 64 hex digits, read in blocks.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
