"""IDX files: what torchvision's reader makes of them, and every way in which they can be wrong."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from datasets.idx import DTYPES, CorruptIdx, read_idx


def idx(array: np.ndarray, code: int) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + array.astype(DTYPES[code]).tobytes()


@pytest.mark.parametrize(
    ("file", "name"), [("images-idx3-ubyte", "images"), ("labels-idx1-ubyte", "labels"), ("floats-idx2", "floats")]
)
def test_equals_torchvision(golden: Path, tmp_path: Path, file: str, name: str) -> None:
    expected = np.load(golden / "_datasets" / "idx.npz")[name]
    path = golden / "_datasets" / file
    zipped = tmp_path / "any-name"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    for found in (read_idx(path), read_idx(zipped)):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype.isnative
        assert found.flags.writeable


@pytest.mark.parametrize("code", list(DTYPES))
def test_every_type_in_native_byte_order(tmp_path: Path, code: int) -> None:
    values = np.array([[0, 1, 100], [3, 120, 7]])
    values = -values if DTYPES[code][1] in "if" else values
    (tmp_path / "a").write_bytes(idx(values, code))
    found = read_idx(tmp_path / "a")
    np.testing.assert_array_equal(found, values)
    assert found.dtype.isnative
    assert found.dtype.kind == DTYPES[code][1]


def test_empty_array(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(idx(np.zeros((0, 28, 28)), 8))
    assert read_idx(tmp_path / "a").shape == (0, 28, 28)


HEADER = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 3, 4)
WHOLE = HEADER + bytes(24)
BAD = {
    "empty": (b"", "expected 4 bytes, found 0"),
    "magic": (b"\x89PNG" + bytes(40), "89504e47"),
    "little endian": (bytes([3, 8, 0, 0]) + bytes(40), "03080000"),
    "type": (bytes([0, 0, 0x0A, 1]) + bytes(40), "00000a01"),
    "no dimension": (bytes([0, 0, 8, 0, 5]), "00000800"),
    "many dimensions": (bytes([0, 0, 8, 200]) + bytes(900), "000008c8"),
    "cut in the sizes": (HEADER[:10], "expected 12 bytes, found 6"),
    "cut in the numbers": (WHOLE[:-1], "40 bytes; the file has 39 bytes"),
    "too long": (WHOLE + b"x", "40 bytes; the file has 41 bytes"),
    "overflow": (bytes([0, 0, 14, 3]) + b"\xff" * 12 + bytes(99), "the file has 115 bytes"),
    "overflow of nothing": (bytes([0, 0, 14, 4]) + b"\xff" * 12 + bytes(4), "more than an array can have"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_wrong_files(tmp_path: Path, name: str) -> None:
    data, message = BAD[name]
    (tmp_path / "set-idx3-ubyte").write_bytes(data)
    with pytest.raises(CorruptIdx, match=message) as caught:
        read_idx(tmp_path / "set-idx3-ubyte")
    assert str(tmp_path / "set-idx3-ubyte") in str(caught.value)


def test_wrong_gzips(tmp_path: Path) -> None:
    zipped = gzip.compress(WHOLE)
    broken = bytearray(zipped)
    broken[-6] ^= 1  # the checksum
    cases = {
        zipped[:-12]: "expected 24 bytes, found",
        bytes(broken): "damaged or truncated gzip",
        zipped[:8]: "found 0",
        gzip.compress(WHOLE[:-3]): "expected 24 bytes, found 21",
        gzip.compress(WHOLE + b"x"): "goes on after them",
        gzip.compress(bytes([0, 0, 8, 1, 255, 255, 255, 255])): "cannot hold more than",
    }
    for data, message in cases.items():
        (tmp_path / "a.gz").write_bytes(data)
        with pytest.raises(CorruptIdx, match=message):
            read_idx(tmp_path / "a.gz")


def test_nothing_is_allocated_that_the_file_does_not_hold(tmp_path: Path) -> None:
    claim = bytes([0, 0, 8, 3]) + struct.pack(">3I", 60000, 28, 28)
    (tmp_path / "plain").write_bytes(claim + bytes(100))
    (tmp_path / "zipped").write_bytes(gzip.compress(claim + np.random.default_rng(0).bytes(100_000)))
    for name in ("plain", "zipped"):
        tracemalloc.start()
        with pytest.raises(CorruptIdx):
            read_idx(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
        tracemalloc.stop()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected an IDX file"):
        read_idx(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="not a file"):
        read_idx(tmp_path)
