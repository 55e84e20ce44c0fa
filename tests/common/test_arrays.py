"""common/experiment/arrays.py: arrays in bytes, and what a stranger may put into such bytes."""

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from common.experiment.arrays import decode_arrays, encode_arrays, same_arrays
from common.files import DamagedFileError

ARRAYS = {
    "lfw/score": np.linspace(-1, 1, 50, dtype=np.float32),
    "lfw/correct": np.array([True, False]),
    "names": np.array(["A", "", "Ünïcode"]),
    "pool": np.array("people"),
    "none": np.empty((0, 3), dtype=np.int64),
    "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
}


def test_arrays_come_back_and_equal_ones_give_equal_bytes() -> None:
    data = encode_arrays(ARRAYS)
    assert data == encode_arrays({name: array.copy(order="K") for name, array in ARRAYS.items()})
    found = decode_arrays(data, "a.npz")
    assert same_arrays(data, ARRAYS)
    assert {name: (array.dtype, array.shape) for name, array in found.items()} == {
        name: (array.dtype, array.shape) for name, array in ARRAYS.items()
    }
    found["columns"][0, 0] = 7  # is ours to change
    with np.load(io.BytesIO(data)) as theirs:
        assert set(theirs.files) == set(found)


def test_scores_of_a_collapsed_network_come_back() -> None:
    """All of one value, they shrink by a thousand, which only a bomb does otherwise."""
    arrays = {"lfw/score": np.full(5_000_000, 0.5, np.float32), "lfw/correct": np.zeros(5_000_000, bool)}
    assert same_arrays(encode_arrays(arrays), arrays)


@pytest.mark.parametrize(
    "other", [{}, {"a": np.zeros(3)}, {"a": np.ones(3, np.float32)}, {"a": np.ones(3), "b": np.ones(1)}]
)
def test_other_arrays_are_not_the_same(other: dict[str, np.ndarray]) -> None:
    assert not same_arrays(encode_arrays(other), {"a": np.ones(3)})
    assert not same_arrays(b"PK", {"a": np.ones(3)})


def zipped(content: bytes, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("a.npy", content)
    return buffer.getvalue()


def npy(header: str, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode() + content


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        b"no zip at all",
        zipped(b""),
        zipped(b"\x93NUMPY"),
        zipped(npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}\n")),
        zipped(npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}\n", bytes(24))),
        zipped(npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}\n", bytes(8))),
        zipped(npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1)}\n", bytes(8))),
        zipped(npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", bytes(8))),
        zipped(npy("{'descr': '<f8', 'fortran_order': False, 'shape': (True,)}\n", bytes(8))),
        zipped(npy("{'descr': [('a', 'O')], 'fortran_order': False, 'shape': (1,)}\n", bytes(8))),
        zipped(npy("__import__('os').getcwd()\n", bytes(8))),
        zipped(npy("(" * 100 + "\n")),
        zipped(npy("(" * 5000 + "\n")),
        zipped(npy("{'descr': '<f8', 'fortran_order': False, 'shape': ()}\n", bytes(8), b"\x09\x00")),
    ],
)
def test_bytes_that_are_no_plain_arrays_are_refused(data: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(DamagedFileError, match=r"a\.npz is damaged"):
        decode_arrays(data, "a.npz")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 22


def test_an_archive_cannot_announce_more_than_it_can_hold() -> None:
    data = bytearray(zipped(np.lib.format.magic(1, 0) + bytes(100), zipfile.ZIP_STORED))
    at = data.index(b"PK\x01\x02") + 20
    data[at : at + 8] = struct.pack("<II", 1 << 31, 1 << 31)
    with pytest.raises(DamagedFileError, match="announces more than its bytes can hold"):
        decode_arrays(bytes(data), "a.npz")


def test_every_flip_of_a_small_archive_is_refused_or_changes_nothing() -> None:
    data = encode_arrays({"a": np.arange(5)})
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            found = decode_arrays(bytes(changed), "a.npz")
        except DamagedFileError:
            continue
        assert [array.tolist() for array in found.values()] in ([[0, 1, 2, 3, 4]], []), bit
