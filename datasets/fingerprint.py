"""Short checksums of what decides the data: two runs with equal fingerprints saw the same images, labels and pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from datasets.file_names import require_regular


def of_arrays(*arrays: np.ndarray) -> str:
    """16 hex digits over dtype, shape and content of arrays, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        if array.dtype == object:
            digest.update("\0".join(map(str, array)).encode())
        else:
            digest.update(array.reshape(-1).view(np.uint8).data)  # no copy: it may be a whole data set
    return digest.hexdigest()[:16]


def of_names(names: Iterable[str]) -> str:
    """16 hex digits over a sequence of names, in order."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode(errors="surrogateescape") + b"\0")  # a file's name need not be UTF-8
    return digest.hexdigest()[:16]


def of_file(path: str | Path) -> str:
    """16 hex digits (SHA-256) over the content of a file.

    Raises:
        FileNotFoundError, UnsafePath: see `datasets.file_names.require_regular`.
    """
    require_regular(path)
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]
