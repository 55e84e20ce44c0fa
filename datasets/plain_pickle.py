"""Pickles of plain data, read without running anything that they ask for.

Some data sets are published as pickles (`.bin` verification sets, CIFAR batches). A pickle may run any code, so they
are read by an unpickler that knows lists, tuples, dicts, bytes, strings, numbers and plain numpy arrays, builds the
arrays by itself from bytes of a checked length, and refuses everything else before calling it.

Plain data can be hostile too. A few bytes may ask for a buffer of any length; name one object a million times and have
it copied each time; or nest a tuple in pairs of itself, forty deep, which takes hours to hash or to print. So lengths are
compared with the file, copies are paid from a budget of a few times its size, and keys of dicts are single values.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from datasets.errors import UnsafePickle

MOST_DIMENSIONS, LONGEST_DIMENSION = 32, 1 << 31
COPIES = 4  # bytes that calls may copy for every byte of the file; writers need less than two
PLAIN_DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")


class _Allowed:
    """A function that a pickle may call; slots and a refusing `__setstate__` keep the pickle from changing it."""

    __slots__ = ("_function", "_pay")

    def __init__(self, function: Callable[..., Any], pay: Callable[[int], None]) -> None:
        self._function, self._pay = function, pay

    def __call__(self, *arguments: Any) -> Any:
        self._pay(sum(len(value) for value in arguments if isinstance(value, (bytes, bytearray, str, list, tuple))))
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise UnsafePickle("the pickle tries to change a function")


def _shown(value: Any) -> str:
    """A value in a message; of what may hold others, its type only."""
    return repr(value)[:80] if isinstance(value, (str, bytes, int, float)) else f"a {type(value).__name__}"


class _Dtype:
    """A pickled numpy dtype: a plain code, and the byte order that its state names."""

    def __init__(self, code: Any, *_: Any) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if code not in PLAIN_DTYPES:
            raise UnsafePickle(f"the pickle holds an array of dtype {_shown(code)}, expected plain numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise UnsafePickle(f"the pickle holds a dtype of byte order {_shown(order)}")
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
    wrong = [n for n in shape[:MOST_DIMENSIONS] if type(n) is not int or not 0 <= n < LONGEST_DIMENSION]
    if wrong or len(shape) > MOST_DIMENSIONS or order not in ("C", "F"):
        found = _shown(wrong[0]) if wrong else f"{len(shape)} dimensions"
        raise UnsafePickle(f"the pickle holds an array with a shape of {found}")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
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


REFUSED_OPCODES = (
    pickle.PERSID, pickle.BINPERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST, pickle.OBJ, pickle.NEWOBJ,
    pickle.NEWOBJ_EX, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
)  # fmt: skip
SINGLE = (str, bytes, int, float, bool, type(None))


class PlainUnpickler(pickle._Unpickler):
    """Unpickler of plain data. The pure-Python one: its memo is a dict, which no opcode can blow up."""

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._left = COPIES * len(data)

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for an allowed name; every other name is refused.

        Raises:
            UnsafePickle: the name is not in `ALLOWED`.
        """
        function = ALLOWED.get((module, name))
        if function is None:
            raise UnsafePickle(f"the pickle asks for {module[:80]}.{name[:80]}")
        return _Allowed(function, self._pay)

    def _pay(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise UnsafePickle(f"the pickle makes copies of more than {COPIES} times its own size")

    def _refuse(self) -> None:
        raise UnsafePickle("the pickle refers to something outside the file, or makes an object or a set")

    def _append(self) -> None:
        value = self.stack.pop()
        self._target(list).append(value)

    def _appends(self) -> None:
        values = self.pop_mark()
        self._target(list).extend(values)

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key, value])

    def _setitems(self) -> None:
        self._put(self.pop_mark())

    def _put(self, items: list[Any]) -> None:
        target = self._target(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in SINGLE:
                raise UnsafePickle(f"the pickle holds a dict with {_shown(key)} as a key")
            target[key] = value

    def _target(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise UnsafePickle(f"the pickle treats a {type(self.stack[-1]).__name__} as a {kind.__name__}")
        return self.stack[-1]

    def _dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self._put(items)

    def _bytearray(self) -> None:
        length = int.from_bytes(self.read(8), "little")
        data = self.read(length)  # no more than the file holds; the original allocates first
        if len(data) != length:
            raise UnsafePickle(f"the pickle promises {length} bytes and has {len(data)}")
        self.stack.append(bytearray(data))

    dispatch |= dict.fromkeys((opcode[0] for opcode in REFUSED_OPCODES), _refuse)
    dispatch |= {pickle.APPEND[0]: _append, pickle.APPENDS[0]: _appends, pickle.BYTEARRAY8[0]: _bytearray}
    dispatch |= {pickle.SETITEM[0]: _setitem, pickle.SETITEMS[0]: _setitems, pickle.DICT[0]: _dict}


def unpickle_plain(data: bytes, where: str) -> Any:
    """Unpickle lists, tuples, dicts, bytes, strings, numbers and plain arrays (as `PlainArray`).

    Strings of Python 2 become bytes (`encoding="bytes"`).

    Raises:
        UnsafePickle: the pickle asks for anything else, or is damaged; the message begins with `where`.
    """
    try:
        return PlainUnpickler(data).load()
    except UnsafePickle as error:
        raise UnsafePickle(f"{where}: {error}. It was refused; get the file from its makers.") from error
    except Exception as error:  # a damaged pickle fails in as many ways as there are opcodes
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise UnsafePickle(f"{where}: damaged or truncated pickle ({reason}).") from error
