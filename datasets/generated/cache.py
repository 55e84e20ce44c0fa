"""Made once: arrays in files (rendered images, decoded pictures, a teacher's answers), named by the digest of what decides them.

A file is a magic line, one line of JSON (names, types, shapes, SHA-256 of the payload) and the arrays' raw bytes. It
is written beside its name and renamed, so that readers, and processes that make the same set at once, only ever see
whole files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"fairpress-arrays-1\n"
LONGEST_HEAD = 1 << 16  # bytes
Arrays = dict[str, np.ndarray]


def directory() -> Path:
    """Where the files lie: the environment variable FAIRPRESS_CACHE, else `.store/data` in the checkout."""
    chosen = os.environ.get("FAIRPRESS_CACHE")
    return Path(chosen).expanduser() if chosen else Path(__file__).resolve().parents[2] / ".store" / "data"


@lru_cache(maxsize=1)
def source_digest() -> str:
    """Digest of the generator's own source, so that no edit of the renderer is ever answered with pictures of an
    older one."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def digest(settings: dict[str, Any]) -> str:
    """First 20 hex digits of the SHA-256 of `settings` in canonical JSON."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:20]


def cached(settings: dict[str, Any], make: Callable[[], Arrays]) -> Arrays:
    """The arrays that `settings` decide: read and verified if they were made before, else made by `make` and stored.

    A damaged file is announced with a warning and made anew. Raises OSError, with what to do, when the directory
    cannot be written.
    """
    path = directory() / f"arrays-{digest({**settings, 'source': source_digest()})}.bin"
    if path.exists():
        try:
            return read(path)
        except ValueError as error:
            warnings.warn(f"{error} It is made again.", stacklevel=2)
    arrays = make()
    write(path, arrays)
    return arrays


def read(path: Path) -> Arrays:
    """Arrays of one file. Raises ValueError naming the file when its bytes are not those that were written."""
    with path.open("rb") as file:
        if file.readline(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path} is not a file of kept arrays, or its head is damaged.")
        try:
            head = json.loads(file.readline(LONGEST_HEAD))
            expected = head["sha256"]
            layout = [(str(name), _numbers(kind), _shape(shape)) for name, kind, shape in head["arrays"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} has a damaged head ({str(error)[:200]}).") from error
        # Nothing is allocated for a head that promises more, or less, than the file holds.
        promised = sum(math.prod(shape) * kind.itemsize for _, kind, shape in layout)
        present = os.fstat(file.fileno()).st_size - file.tell()
        if promised != present:
            raise ValueError(f"{path} is damaged: it holds {present} bytes of arrays, its head promises {promised}.")
        arrays: Arrays = {}
        check = hashlib.sha256()
        for name, kind, shape in layout:
            buffer = bytearray(math.prod(shape) * kind.itemsize)
            file.readinto(buffer)
            check.update(buffer)
            arrays[name] = np.frombuffer(buffer, dtype=kind).reshape(shape)
    if check.hexdigest() != expected:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one written into it.")
    return arrays


def _numbers(code: str) -> np.dtype[Any]:
    """The type that a head names: plain numbers, as `write` names them."""
    if not re.fullmatch(r"[<>|=]?[biuf][1248]", code):
        raise ValueError(f"arrays of {code[:40]!r}")
    return np.dtype(code)


def _shape(sizes: list[int]) -> tuple[int, ...]:
    if len(sizes) > 8 or any(type(n) is not int or not 0 <= n < 1 << 31 for n in sizes):
        raise ValueError("a shape that no array has")
    if math.prod(max(n, 1) for n in sizes) >= 1 << 59:  # even an empty array cannot have it
        raise ValueError("a shape that no array can have")
    return tuple(sizes)


def write(path: Path, arrays: Arrays) -> None:
    """Write `arrays` so that `path` is at every moment absent, the old file or the whole new one."""
    payload = [np.ascontiguousarray(array) for array in arrays.values()]
    check = hashlib.sha256()
    for array in payload:
        check.update(array.data)
    layout = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    head = json.dumps({"sha256": check.hexdigest(), "arrays": layout}).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    except OSError as error:
        advice = "set FAIRPRESS_CACHE to a directory that can be written."
        raise OSError(
            f"Rendered images and other arrays cannot be kept in {path.parent} ({error}); {advice}"
        ) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(MAGIC + head)
            for array in payload:
                file.write(array.data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
