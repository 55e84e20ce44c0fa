"""The IDX format of MNIST and its relatives: big-endian arrays behind a header of their type and sizes.

    00 00 <type> <n>   n sizes, uint32 each   the numbers, last dimension first

A file is believed only where its length agrees with its header, so a damaged one can neither be read as something else
nor make the reader allocate more than the file holds.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

#: type byte -> number type on disk
DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_DIMENSIONS = 32
GZIP_MAGIC = b"\x1f\x8b"
DEFLATE_RATIO = 1032  # a deflated byte never becomes more bytes than this
CHUNK = 1 << 20
AGAIN = "Get the file again from its makers."


class CorruptIdx(ValueError):
    """An IDX file has another header or another length than it must have. The message names file and sizes."""


def read_idx(path: str | Path) -> np.ndarray:
    """The array of an IDX file, plain or gzipped (told apart by content), in the machine's byte order.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptIdx: wrong magic, more dimensions or numbers than the file can hold, too short, too long, damaged gzip.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist or is not a file; expected an IDX file.")
    with path.open("rb") as stream:
        return parse_idx(stream, str(path))


def parse_idx(stream: BinaryIO, where: str) -> np.ndarray:
    """The array of an IDX file that is open for reading and can seek; `where` begins the message of an error.

    Raises:
        CorruptIdx: see `read_idx`.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    zipped = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    stream.seek(0)
    if not zipped:
        return _array(stream, where, size, exact=True)
    try:
        with gzip.GzipFile(fileobj=stream, mode="rb") as unzipped:
            return _array(unzipped, where, size * DEFLATE_RATIO, exact=False)  # type: ignore[arg-type]
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptIdx(f"{where}: damaged or truncated gzip of {size} bytes ({error}). {AGAIN}") from error


def _array(stream: BinaryIO, where: str, available: int, exact: bool) -> np.ndarray:
    """`available` is the number of bytes that the stream has (`exact`), or can have at most."""
    magic = _take(stream, 4, where, "magic number")
    dtype = DTYPES.get(magic[2])
    if magic[:2] != b"\0\0" or dtype is None or not 1 <= magic[3] <= MAX_DIMENSIONS:
        raise CorruptIdx(
            f"{where}: the magic number is {magic.hex()}, expected 0000 <type 08, 09 or 0b to 0e> <1 to "
            f"{MAX_DIMENSIONS} dimensions>. It is no IDX file."
        )
    sizes = _take(stream, 4 * magic[3], where, f"sizes of {magic[3]} dimensions")
    shape = tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
    itemsize = np.dtype(dtype).itemsize
    body, largest = itemsize, itemsize
    for n in shape:
        body, largest = body * n, largest * max(n, 1)
    expected = len(magic) + len(sizes) + body
    if expected > available or (exact and expected != available):
        found = f"has {available} bytes" if exact else f"cannot hold more than {available} bytes"
        raise CorruptIdx(f"{where}: the header says {shape}, {expected} bytes; the file {found}. {AGAIN}")
    if largest > np.iinfo(np.intp).max:
        raise CorruptIdx(f"{where}: the header says {shape}, more than an array can have. {AGAIN}")
    data = _take(stream, body, where, f"numbers of shape {shape}")
    if stream.read(1):
        raise CorruptIdx(f"{where}: the header says {shape}, {expected} bytes; the file goes on after them. {AGAIN}")
    array = np.frombuffer(data, dtype).reshape(shape)
    native = array.dtype.newbyteorder("=")
    return array if array.dtype == native else array.byteswap(inplace=True).view(native)


def _take(stream: BinaryIO, count: int, where: str, what: str) -> bytearray:
    """`count` bytes; the buffer grows with what arrives, never beyond it."""
    data = bytearray()
    while len(data) < count:
        try:
            block = stream.read(min(CHUNK, count - len(data)))
        except EOFError:  # a gzip that was cut
            block = b""
        if not block:
            raise CorruptIdx(f"{where}: ends inside the {what}: expected {count} bytes, found {len(data)}. {AGAIN}")
        data += block
    return data
