"""MATLAB 5 files (`.mat`), as much of them as protocols of data sets need: cells, structures, texts and numbers.

Source: "MAT-File Format", The MathWorks, chapter 1, level 5. SciPy's reader allocates what a header asks for before it
looks whether the file is that long, and makes objects of whatever it finds; here every size is compared with the bytes
that are there, and functions, objects and sparse matrices are refused.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

COMPRESSED, MATRIX = 15, 14
CELL, STRUCTURE, CHARACTERS = 1, 2, 4
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXTS = {1: "latin1", 2: "latin1", 4: "utf-16-{}", 16: "utf-8", 17: "utf-16-{}", 18: "utf-32-{}"}
DEEPEST = 16  # levels of cells in cells
COMPLEX = 0x0800
RATIO, SPARE = 50, 1 << 20  # what is unpacked of a compressed file: tables of names shrink to a fifteenth


class DamagedMatlab(ValueError):
    """A `.mat` file is damaged or holds what no table of names and numbers needs."""


@dataclass(frozen=True)
class Cells:
    """A cell array or a structure array: `items` column by column, as MATLAB counts; those of a structure are tuples,
    one value a field, in the order of its `fields`."""

    shape: tuple[int, ...]
    items: tuple[Any, ...]
    fields: tuple[str, ...] = ()


def read_matlab(data: bytes) -> dict[str, Any]:
    """The variables of a file by name: `Cells`, str, or an array of numbers.

    Raises:
        DamagedMatlab: not a MATLAB 5 file, damaged, truncated, or with functions, objects or sparse matrices.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise DamagedMatlab("it has no header of a MATLAB 5 file")
    reader = _Reader(order, RATIO * len(data) + SPARE)
    found: dict[str, Any] = {}
    at = 128
    while at < len(data):
        kind, body, at = reader.element(data, at)
        if kind == COMPRESSED:
            kind, body, _ = reader.element(reader.unpack(body), 0)
        if kind == MATRIX:
            name, value = reader.matrix(body, 0)
            found[name] = value
    return found


class _Reader:
    """Elements of one file: byte order, and how many bytes may still be unpacked."""

    def __init__(self, order: str, budget: int) -> None:
        self.order, self.budget = order, budget

    def element(self, data: bytes, at: int) -> tuple[int, bytes, int]:
        """Type and content of the element at `at`, and where the next one begins."""
        if at + 8 > len(data):
            raise DamagedMatlab(f"it ends inside an element at byte {at}")
        kind, length = struct.unpack_from(f"{self.order}II", data, at)
        if kind >> 16:  # a short element: type and length share four bytes, the content lies in the other four
            start, kind, length, end = at + 4, kind & 0xFFFF, kind >> 16, at + 8
        else:
            start = at + 8
            end = start + (length if kind == COMPRESSED else -(-length // 8) * 8)
        if start + length > len(data) or (start == at + 4 and length > 4):
            raise DamagedMatlab(f"an element of {length} bytes at byte {at} goes beyond its end")
        return kind, data[start : start + length], end

    def unpack(self, packed: bytes) -> bytes:
        """A compressed element."""
        engine = zlib.decompressobj()
        try:
            data = engine.decompress(packed, self.budget)
        except zlib.error as error:
            raise DamagedMatlab(f"a compressed element is damaged ({error})") from error
        if not engine.eof:
            raise DamagedMatlab("a compressed element is cut off, or far larger than tables of names are")
        self.budget = max(self.budget - len(data), 1)
        return data

    def matrix(self, data: bytes, depth: int) -> tuple[str, Any]:
        """Name and value of an array."""
        if not data:
            return "", np.zeros(0)
        if depth > DEEPEST:
            raise DamagedMatlab(f"cells are nested more than {DEEPEST} deep")
        _, flags, at = self.element(data, 0)
        _, sizes, at = self.element(data, at)
        _, name, at = self.element(data, at)
        if len(flags) < 4 or len(sizes) % 4 or len(sizes) > 32:
            raise DamagedMatlab("an array has no type or no size")
        word = struct.unpack(f"{self.order}I", flags[:4])[0]
        shape = struct.unpack(f"{self.order}{len(sizes) // 4}i", sizes)
        if min(shape, default=0) < 0 or word & COMPLEX:
            raise DamagedMatlab(f"an array has the shape {shape} or complex numbers")
        count = math.prod(shape)
        if word & 0xFF == CELL:
            value: Any = Cells(shape, self._matrices(data, at, count, depth))
        elif word & 0xFF == STRUCTURE:
            value = self._structure(data, at, shape, depth)
        elif word & 0xFF == CHARACTERS:
            value = self._text(data, at, shape)
        elif 6 <= word & 0xFF <= 15:
            value = self._numbers(data, at, shape)
        else:
            raise DamagedMatlab(f"an array is of type {word & 0xFF}: no cells, structures, texts or numbers")
        return name.decode("latin1"), value

    def _matrices(self, data: bytes, at: int, count: int, depth: int) -> tuple[Any, ...]:
        if count > (len(data) - at) // 8:  # every one takes eight bytes at least
            raise DamagedMatlab(f"{count} cells are promised in {len(data) - at} bytes")
        values = []
        for _ in range(count):
            kind, body, at = self.element(data, at)
            if kind != MATRIX:
                raise DamagedMatlab(f"a cell holds an element of type {kind}")
            values.append(self.matrix(body, depth + 1)[1])
        return tuple(values)

    def _structure(self, data: bytes, at: int, shape: tuple[int, ...], depth: int) -> Cells:
        _, width, at = self.element(data, at)
        _, names, at = self.element(data, at)
        length = struct.unpack(f"{self.order}i", width)[0] if len(width) == 4 else 0
        if length < 1 or len(names) % length:
            raise DamagedMatlab("a structure has no names for its fields")
        fields = tuple(names[k : k + length].split(b"\0")[0].decode("latin1") for k in range(0, len(names), length))
        values = self._matrices(data, at, math.prod(shape) * len(fields), depth)
        items = tuple(values[k : k + len(fields)] for k in range(0, len(values), len(fields) or 1))
        return Cells(shape, items, fields)

    def _numbers(self, data: bytes, at: int, shape: tuple[int, ...]) -> np.ndarray:
        kind, body, _ = self.element(data, at) if math.prod(shape) else (1, b"", at)
        if kind not in NUMBERS:
            raise DamagedMatlab(f"an array of numbers is stored as type {kind}")
        dtype = np.dtype(self.order + NUMBERS[kind])
        if math.prod(shape) * dtype.itemsize != len(body):
            raise DamagedMatlab(f"an array of shape {shape} holds {len(body)} bytes of numbers")
        values = np.frombuffer(body, dtype)
        return values.reshape(shape, order="F") if values.size else values

    def _text(self, data: bytes, at: int, shape: tuple[int, ...]) -> str:
        kind, body, _ = self.element(data, at) if math.prod(shape) else (1, b"", at)
        try:
            text = body.decode(TEXTS[kind].format({"<": "le", ">": "be"}[self.order]))
        except (KeyError, UnicodeDecodeError) as error:
            raise DamagedMatlab(f"a text of type {kind} cannot be read") from error
        if len(text) > math.prod(shape):
            raise DamagedMatlab(f"a text of shape {shape} has {len(text)} characters")
        return text
