"""Pickles of plain data, read without running anything that they ask for.

Some data sets are published as pickles (`.bin` verification sets, CIFAR batches). A pickle may run any code, so they
are read by an unpickler that knows lists, tuples, dicts, bytes, strings, numbers and plain numpy arrays, builds the
arrays by itself from bytes of a checked length, and refuses everything else before calling it.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from datasets.errors import UnsafePickle

PLAIN_DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")


class _Allowed:
    """A function that a pickle may call; slots and a refusing `__setstate__` keep the pickle from changing it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise UnsafePickle("the pickle tries to change a function")


class _Dtype:
    """A pickled numpy dtype: a plain code, and the byte order that its state names."""

    def __init__(self, code: Any, *_: Any) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if code not in PLAIN_DTYPES:
            raise UnsafePickle(f"the pickle holds an array of dtype {code!r}, expected plain numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise UnsafePickle(f"the pickle holds a dtype of byte order {order!r}")
        self.dtype = self.dtype.newbyteorder("=" if order == "|" else order)


class PlainArray:
    """A pickled numpy array; its content arrives as the state (version, shape, dtype, column order, bytes)."""

    def __init__(self, *_: Any) -> None:
        self.array = np.zeros(0, dtype=np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, columns_first, data = state
        self.array = _plain_array(data, dtype, shape, "F" if columns_first else "C")


def _plain_array(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)) or not isinstance(shape, tuple):
        raise UnsafePickle("the pickle holds an array that is not made of plain numbers")
    if any(type(n) is not int or n < 0 for n in shape) or order not in ("C", "F"):
        raise UnsafePickle(f"the pickle holds an array of shape {shape!r}")
    count = 1
    for n in shape:
        count *= n
    if count * dtype.dtype.itemsize != len(data):
        raise UnsafePickle(f"the pickle holds an array of shape {shape} in {len(data)} bytes")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> PlainArray:
    holder = PlainArray()
    holder.array = _plain_array(data, dtype, shape, order)
    return holder


def _scalar(dtype: Any, data: Any) -> Any:
    return _plain_array(data, dtype, (1,))[0].item()


def _latin1(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise UnsafePickle("the pickle asks for a codec other than latin1")
    return text.encode("latin1")


def _bytes(content: Any = b"") -> bytes:
    if not isinstance(content, (bytes, bytearray)):  # bytes(10**12) would allocate a terabyte
        raise UnsafePickle("the pickle makes bytes of something else")
    return bytes(content)


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {("_codecs", "encode"): _latin1, ("numpy", "dtype"): _Dtype}
ALLOWED[("numpy", "ndarray")] = PlainArray
for _module in ("builtins", "__builtin__"):
    ALLOWED |= {(_module, "list"): list, (_module, "tuple"): tuple, (_module, "bool"): bool, (_module, "int"): int}
    ALLOWED |= {(_module, "bytes"): _bytes, (_module, "bytearray"): _bytes}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    ALLOWED |= {(_module, "_reconstruct"): PlainArray, (_module, "scalar"): _scalar}
for _module in ("numpy.core.numeric", "numpy._core.numeric"):
    ALLOWED[(_module, "_frombuffer")] = _frombuffer


class PlainUnpickler(pickle._Unpickler):
    """Unpickler of plain data. The pure-Python one: its memo is a dict, which no opcode can blow up."""

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for an allowed name; every other name is refused.

        Raises:
            UnsafePickle: the name is not in `ALLOWED`.
        """
        function = ALLOWED.get((module, name))
        if function is None:
            raise UnsafePickle(f"the pickle asks for {module}.{name}")
        return _Allowed(function)

    def persistent_load(self, pid: Any) -> Any:
        """Refused: nothing outside the file is looked up."""
        raise UnsafePickle("the pickle refers to something outside the file")


def unpickle_plain(data: bytes, where: str) -> Any:
    """Unpickle lists, tuples, dicts, bytes, strings, numbers and plain arrays (as `PlainArray`).

    Strings of Python 2 become bytes (`encoding="bytes"`).

    Raises:
        UnsafePickle: the pickle asks for anything else, or is damaged; the message begins with `where`.
    """
    try:
        return PlainUnpickler(io.BytesIO(data), encoding="bytes").load()
    except UnsafePickle as error:
        raise UnsafePickle(f"{where}: {error}. It was refused; get the file from its makers.") from error
    except Exception as error:  # a damaged pickle fails in as many ways as there are opcodes
        raise UnsafePickle(f"{where}: damaged or truncated pickle ({type(error).__name__}: {error}).") from error
