"""Files that are either the old ones or the new ones, never half of each.

Everything that the suite stores (results, scores, weights, tables) goes through :func:`write_atomically`: a temporary
file in the same folder, flushed and fsynced, renamed over the target, and the folder fsynced, so that a crash, a full
disk or a power cut leaves the previous file or the new one. What was written is recognised when it is read: a sealed
file and sealed JSON carry a SHA-256 of themselves, other files are listed in a manifest (`common/manifest.py`). Imports
neither torch nor numpy.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from common.storage_errors import StorageError as StorageError
from common.storage_errors import raise_storage_error, storage_cause

# Temporary files left by a killed process are recognised by these two marks and may be deleted when nothing is running.
TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".writing-", ".tmp"


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
        cause = storage_cause(error, target, temporary)
        if cause is not None:
            # The free bytes are read while the temporary file still takes its room, as the failing write saw them.
            raise_storage_error(target, cause, error)
        raise
    finally:
        # Normally the rename has consumed it; what cannot be removed must not hide the first error.
        with suppress(OSError):
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


def remove_temporary_files(folder: str | os.PathLike[str]) -> list[str]:
    """Delete what killed writers left in ``folder`` (not below it), and say which files that were.

    Only for who holds the lock of everything that writes there: a writer at work would lose its file.
    """
    left = sorted(Path(folder).glob(f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}"))
    for path in left:
        path.unlink(missing_ok=True)
    return [path.name for path in left]


class _Hashed(io.RawIOBase):
    """What is written here goes on to `file`, and is counted and hashed on its way."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.length, self.hash = file, 0, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.length

    def write(self, data: Any) -> int:
        self.hash.update(data)
        written = self.file.write(data)
        self.length += written
        return written


def _seal(length: int, sha256: str) -> bytes:
    return b"fairpress-sealed 1 %020d %s\n" % (length, sha256.encode())


def write_sealed(path: str | os.PathLike[str], data: bytes | Callable[[BinaryIO], None]) -> None:
    """:func:`write_atomically` with a first line that holds the length and the SHA-256 of what follows.

    Args:
        path: the file to write.
        data: the bytes, or a function that writes them, front to back, to the binary file it is given.

    Raises:
        StorageError: the file system refused; ``path`` keeps its old content.
    """

    def write(file: BinaryIO) -> None:
        hashed = _Hashed(file)
        file.write(_seal(0, "0" * 64))
        if callable(data):
            data(cast(BinaryIO, hashed))
        else:
            hashed.write(data)
        file.seek(0)
        file.write(_seal(hashed.length, hashed.hash.hexdigest()))

    write_atomically(path, write)


def read_sealed(path: str | os.PathLike[str]) -> bytes:
    """The data of a file written by :func:`write_sealed`, without its first line.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: any bit of the file is another one than was written, or bytes are missing or too many.
    """
    with open(path, "rb") as file:
        seal = file.read(len(_seal(0, "0" * 64)))
        data = file.read()
    if seal != _seal(len(data), hashlib.sha256(data).hexdigest()):
        raise DamagedFileError(
            f"{os.fspath(path)!r} ({len(seal) + len(data):,} bytes) is not as it was written: cut off, altered or not "
            "sealed by this suite; delete it and let the command that wrote it run again"
        )
    return data


def write_json_atomically(path: str | os.PathLike[str], obj: Any, seal: bool = False) -> None:
    """Write ``obj`` as JSON (UTF-8, sorted keys, indent 1, newline at the end) with :func:`write_atomically`.

    Args:
        path: the file to write.
        obj: JSON values.
        seal: add an entry ``"sha256"`` to ``obj``, which is a dictionary then; ``read_json(sealed=True)`` verifies it.

    Raises:
        ValueError: a number is not finite; the message names its key path (``metrics.lfw.eer``). Store None instead.
            Or an object to be sealed has an entry ``"sha256"`` of its own.
        TypeError: a key is no string or a value is no JSON value (convert NumPy's with ``.item()`` or ``.tolist()``).
        StorageError: the file system refused.
    """
    write_atomically(path, encode_json(obj, path, seal))


def encode_json(obj: Any, path: str | os.PathLike[str], seal: bool = False) -> bytes:
    """The bytes that :func:`write_json_atomically` writes; ``path`` is what messages call them."""
    for where, problem in _json_problems(obj, ""):
        raise problem(f"cannot write {os.fspath(path)!r} as JSON: {where}")
    if seal and "sha256" in obj:
        raise ValueError(f"cannot seal {os.fspath(path)!r}: it has an entry 'sha256' already")
    return _sealed_json(obj) if seal else _encoded(obj)


def _sealed_json(content: dict[str, Any]) -> bytes:
    return _encoded({**content, "sha256": hashlib.sha256(_encoded(content)).hexdigest()})


def _encoded(obj: Any) -> bytes:
    try:
        return (json.dumps(obj, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8 holds lone surrogates; escaped, they survive
        return (json.dumps(obj, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


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


def read_json(path: str | os.PathLike[str], sealed: bool = False) -> Any:
    """Read a JSON file written by :func:`write_json_atomically` (standard JSON only: no NaN, no infinity).

    Args:
        path: the file to read.
        sealed: it was written with ``seal``; the entry ``"sha256"`` is verified and not returned.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: the file is empty, truncated, not UTF-8, too deep, or holds a number that is not finite;
            with ``sealed``: any bit of it is another one than was written.
    """
    raw = Path(path).read_bytes()
    value = parse_json(raw, path)
    if not sealed:
        return value
    content = {key: item for key, item in value.items() if key != "sha256"} if isinstance(value, dict) else {}
    try:
        sound = raw == _sealed_json(content)
    except RecursionError:  # nested deeper than anything that was written
        sound = False
    if not sound:
        raise DamagedFileError(
            f"{os.fspath(path)!r} is not as it was written: its content does not have the SHA-256 that it should have; "
            "restore it or delete it and run again"
        )
    return content


def parse_json(raw: bytes, path: str | os.PathLike[str]) -> Any:
    """:func:`read_json` of bytes that were read already; ``path`` is what messages call them.

    Raises:
        DamagedFileError: as :func:`read_json` does.
    """
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
