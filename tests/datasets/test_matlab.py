"""MATLAB files: SciPy's writer is understood, and what is neither table, text nor number is refused."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import eye

from datasets.matlab import Cells, DamagedMatlab, read_matlab


def written(compress: bool = False, **variables: Any) -> bytes:
    stream = io.BytesIO()
    savemat(stream, variables, do_compression=compress)
    return stream.getvalue()


@pytest.mark.parametrize("compress", [False, True])
def test_what_scipy_writes_is_read(compress: bool) -> None:
    numbers = np.arange(6.0).reshape(2, 3)
    cells = np.empty((2, 2), dtype=object)
    cells[:] = [["a", numbers], [np.int16(3), "bc"]]
    record = np.array([[(1, "x"), (2, "yz")]], dtype=[("number", object), ("name", object)])
    data = written(compress, numbers=numbers, cells=cells, record=record, empty=np.zeros((0, 3)), text="é!")
    found = read_matlab(data)
    assert np.array_equal(found["numbers"], numbers)
    assert found["text"] == "é!"
    assert found["empty"].size == 0
    a, three, same, text = found["cells"].items  # column by column
    assert (found["cells"].shape, a, int(three.item()), text) == ((2, 2), "a", 3, "bc")
    assert np.array_equal(same, numbers)
    assert isinstance(found["record"], Cells)
    assert found["record"].fields == ("number", "name")
    assert [(int(number.item()), name) for number, name in found["record"].items] == [(1, "x"), (2, "yz")]


def big_endian() -> bytes:
    """A variable `x` of the numbers 1, 2 as a big machine writes it; no writer for it is at hand."""

    def element(kind: int, body: bytes) -> bytes:
        return struct.pack(">II", kind, len(body)) + body + bytes(-len(body) % 8)

    body = element(6, struct.pack(">II", 6, 0)) + element(5, struct.pack(">2i", 1, 2))
    body += struct.pack(">HH4s", 1, 1, b"x") + element(9, struct.pack(">2d", 1, 2))
    return b"MATLAB 5.0".ljust(124) + b"\x01\0MI" + element(14, body)


def test_both_byte_orders() -> None:
    assert read_matlab(big_endian())["x"].tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"no MATLAB file" * 20, written(x=eye(3)), written(x=1j), written(x="abc")[:-9],
        written(True, x=np.arange(100.0))[:-9], written(x=np.arange(9.0)).replace(b"\x0e\0\0\0", b"\x0e\0\0\x7f"),
    ],
    ids=["empty", "other", "sparse", "complex", "cut", "cut and compressed", "altered"],
)  # fmt: skip
def test_everything_else_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedMatlab):
        read_matlab(data)


def test_cells_in_cells_without_end() -> None:
    value: Any = "x"
    for _ in range(40):
        outer = np.empty((1, 1), dtype=object)
        outer[0, 0] = value
        value = outer
    with pytest.raises(DamagedMatlab, match="nested"):
        read_matlab(written(x=value))
