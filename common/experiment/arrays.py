"""Named NumPy arrays as bytes: compressed `.npz`, without pickle."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from common.files import DamagedFileError

Arrays = Mapping[str, np.ndarray]


def encode_arrays(arrays: Arrays) -> bytes:
    """The bytes of a compressed `.npz`; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    named: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez_compressed(buffer, **named)
    return buffer.getvalue()


def decode_arrays(data: bytes, path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` that was read already; `path` is what messages call it.

    Raises:
        DamagedFileError: the bytes are no `.npz` of plain arrays.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, KeyError, NotImplementedError) as error:
        raise DamagedFileError(f"{path} is damaged ({error}): restore it or run the arm again") from error


def same_arrays(data: bytes, arrays: Arrays) -> bool:
    """Whether the bytes hold these arrays and no others; two versions of zlib may pack the same arrays differently."""
    try:
        found = decode_arrays(data, "")
    except DamagedFileError:
        return False
    wanted = {name: np.asarray(array) for name, array in arrays.items()}
    return found.keys() == wanted.keys() and all(
        found[name].dtype == array.dtype and np.array_equal(found[name], array) for name, array in wanted.items()
    )
