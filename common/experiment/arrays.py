"""Named NumPy arrays as bytes: compressed `.npz`, without pickle."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from common.files import DamagedFileError

Arrays = Mapping[str, np.ndarray]
LARGEST_EXPANSION, SPARE = 100, 1 << 20  # bytes that a byte may become, and bytes more; scores and pair tables: 1 to 7
LAST_CHARACTER = 0x10FFFF
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def encode_arrays(arrays: Arrays) -> bytes:
    """The bytes of a `.npz`; equal arrays give equal bytes.

    It is compressed, except where that would shrink it so far (a collapsed network gives all pairs one score) that
    `decode_arrays` would take it for a bomb.
    """
    named: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    packed, plain = io.BytesIO(), io.BytesIO()
    np.savez_compressed(packed, **named)
    if sum(array.nbytes for array in named.values()) <= LARGEST_EXPANSION * packed.getbuffer().nbytes:
        return packed.getvalue()
    np.savez(plain, **named)
    return plain.getvalue()


def decode_arrays(data: bytes, path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` that was read already; `path` is what messages call it.

    Nothing in it is executed. It takes no more memory than a hundred times its bytes, whatever sizes it announces.

    Raises:
        DamagedFileError: the bytes are no `.npz` of plain arrays.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > LARGEST_EXPANSION * len(data) + SPARE:
                raise ValueError("it announces more than its bytes can hold")
            return {member.filename.removesuffix(".npy"): _decode(archive.read(member)) for member in members}
    except Exception as error:  # what is raised for damaged bytes depends on where which parser stops
        raise DamagedFileError(f"{path} is damaged ({error}): restore it or run the arm again") from error


def _decode(raw: bytes) -> np.ndarray:
    """The array of one `.npy` file whose header says neither more nor less than what follows it."""
    file = io.BytesIO(raw)
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"version {version} of .npy is not read")
    shape, fortran_order, dtype = HEADERS[version](file)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(raw) - file.tell():
        raise ValueError(
            f"an array of shape {list(shape)} and type {dtype} does not have {len(raw) - file.tell()} bytes"
        )
    if dtype.kind == "U" and (np.frombuffer(raw, f"{dtype.byteorder}u4", offset=file.tell()) > LAST_CHARACTER).any():
        raise ValueError("a text holds what is no character")
    return np.ndarray(shape, dtype, raw, file.tell(), order="F" if fortran_order else "C").copy()


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
