"""Files of `torch.save`, read without PyTorch's loader: tensors and plain values, nothing else.

`torch.load(weights_only=True)` runs no code of the file, but it calls what the file asks for: forty bytes reserve gigabytes
(`torch.FloatTensor(2**30)`), unpack to gigabytes (a deflated member), or take a lifetime (a key that is a tuple, nested in
pairs of itself). Here the pickle is read by a machine that knows the operations of honest checkpoints only, and
every tensor's size is compared with the bytes that are there before it is made.

Both forms are read: the zip archive (PyTorch 1.6 and later) and the older one, pickles followed by the storages' bytes.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
DAMAGE = (ValueError, LookupError, TypeError, struct.error, zipfile.BadZipFile, RuntimeError, EOFError, OverflowError)
KEYS = (str, int, float, bool, bytes, type(None))


class TorchFileError(ValueError):
    """A file is no checkpoint of tensors and plain values, or is damaged."""


class UnsafeTorchFile(TorchFileError):
    """A file asks for something that could run code. It was not called."""


@dataclass(frozen=True)
class _Name:
    """Something of a module that the pickle names; it is looked up nowhere."""

    module: str
    name: str


@dataclass(frozen=True)
class _Storage:
    """A storage that the pickle refers to."""

    key: str
    dtype: torch.dtype
    count: int


def read_torch_file(data: bytes) -> Any:
    """What was saved: dictionaries, lists, tuples, texts, numbers and tensors (on the CPU, a parameter as a tensor).

    Raises:
        UnsafeTorchFile: it holds objects of other kinds.
        TorchFileError: damaged, or neither form of a checkpoint.
    """
    try:
        return _read_zip(data) if data.startswith(b"PK") else _read_legacy(data)
    except TorchFileError:
        raise
    except DAMAGE as error:
        raise TorchFileError(f"damaged ({type(error).__name__}: {str(error)[:200]})") from error


def _read_zip(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if packed or sum(member.file_size for member in members) > len(data):
            raise TorchFileError("its members are compressed or overlap, which torch.save never does")
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise TorchFileError("an archive without one data.pkl, so not written by torch.save")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise TorchFileError("written on a big-endian machine")
        storages: dict[str, torch.Tensor] = {}

        def storage(wanted: _Storage) -> torch.Tensor:
            if wanted.key not in storages:
                storages[wanted.key] = _numbers(archive.read(f"{folder}data/{wanted.key}"), wanted)
            return storages[wanted.key]

        return _Machine(io.BytesIO(archive.read(pickles[0])), storage).run()


def _read_legacy(data: bytes) -> Any:
    """Pickles of a magic number, a version, the machine, the content and the storages' keys; then the storages."""
    file = io.BytesIO(data)
    promised: dict[str, tuple[_Storage, torch.Tensor]] = {}
    left = len(data)

    def promise(wanted: _Storage) -> torch.Tensor:
        nonlocal left
        if wanted.key not in promised:
            left -= wanted.count * wanted.dtype.itemsize
            if left < 0:
                raise TorchFileError(f"storages of more bytes than the {len(data)} of the file")
            promised[wanted.key] = (wanted, torch.zeros(wanted.count, dtype=wanted.dtype))
        return promised[wanted.key][1]

    if _Machine(file, promise).run() != LEGACY_MAGIC:
        raise TorchFileError("neither an archive nor a pickle of torch.save")
    for _ in range(2):
        _Machine(file, promise).run()
    content, keys = _Machine(file, promise).run(), _Machine(file, promise).run()
    if not isinstance(keys, list) or any(type(key) is not str for key in keys) or set(keys) != set(promised):
        raise TorchFileError("its list of storages is not that of its tensors")
    for key in keys:
        wanted, tensor = promised[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != wanted.count:
            raise TorchFileError(f"a storage of {count} numbers instead of {wanted.count}")
        tensor.copy_(_numbers(file.read(tensor.nbytes), wanted))
    return content


def _numbers(data: bytes, wanted: _Storage) -> torch.Tensor:
    """A storage as a flat tensor."""
    if len(data) != wanted.count * wanted.dtype.itemsize:
        raise TorchFileError(f"a storage of {len(data)} bytes instead of {wanted.count} {wanted.dtype}")
    if not data:
        return torch.zeros(0, dtype=wanted.dtype)
    if wanted.dtype == torch.bool:  # any byte but 0 is True, whatever the file holds
        return torch.frombuffer(bytearray(data), dtype=torch.uint8) != 0
    return torch.frombuffer(bytearray(data), dtype=wanted.dtype)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> torch.Tensor:
    """A view of a storage that stays inside it and is not larger than it."""
    plain = isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride) <= 16
    numbers = (offset, *shape, *stride) if plain else (None,)
    if not isinstance(storage, torch.Tensor) or any(type(n) is not int or not 0 <= n < 1 << 48 for n in numbers):
        raise TorchFileError("a tensor without a storage or with a size that no tensor has")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if math.prod(shape) and (last >= storage.numel() or math.prod(shape) > storage.numel()):
        raise TorchFileError(f"a tensor of shape {shape} in a storage of {storage.numel()} numbers")
    return storage.as_strided(shape, stride, offset) if math.prod(shape) else storage.new_zeros(shape)


def _dictionary(items: Any = None) -> Any:
    """An OrderedDict, which is filled later, or a Counter of a dictionary that was made already."""
    return {} if items is None else items


def _bytes(text: Any, encoding: Any) -> bytes:
    """How pickles of Python 2 write bytes."""
    if type(text) is not str or encoding != "latin1":
        raise TorchFileError("bytes of something else than a text")
    return text.encode("latin1")


CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("collections", "OrderedDict"): _dictionary,
    ("collections", "Counter"): _dictionary,
    ("_codecs", "encode"): _bytes,
    ("torch", "Size"): lambda sizes: sizes,
}


class _Machine:
    """Runs one pickle on a stack of plain values; what is no operation below is refused."""

    def __init__(self, file: io.BytesIO, storage: Callable[[_Storage], torch.Tensor]) -> None:
        self.file, self.storage = file, storage
        self.left = file.getbuffer().nbytes  # characters that may be copied into bytes
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The object that the pickle makes."""
        for opcode, argument, _ in pickletools.genops(self.file):
            operation = OPERATIONS.get(opcode.name)
            if operation is None:
                raise UnsafeTorchFile(f"the operation {opcode.name} makes objects")
            operation(self, argument)
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        """Everything that was put on the stack after the last mark, taken off."""
        at = self.marks.pop()
        values, self.stack[at:] = self.stack[at:], []
        return values

    def put(self, values: list[Any]) -> None:
        """Keys and values into the dictionary on top of the stack."""
        for key, value in zip(values[::2], values[1::2], strict=True):
            if type(key) not in KEYS or type(self.stack[-1]) is not dict:
                raise TorchFileError(f"a {type(key).__name__} as a key of a {type(self.stack[-1]).__name__}")
            self.stack[-1][key] = value

    def extend(self, values: list[Any]) -> None:
        """Values into the list on top of the stack."""
        if type(self.stack[-1]) is not list:
            raise TorchFileError(f"a {type(self.stack[-1]).__name__} is no list")
        self.stack[-1].extend(values)

    def take(self, count: int) -> list[Any]:
        """The topmost values, in the order in which they came."""
        if len(self.stack) < count:
            raise TorchFileError("its pickle takes more than it has")
        values, self.stack[-count:] = self.stack[-count:], []
        return values

    def name(self, module: Any, attribute: Any) -> None:
        """What may be called, or a kind of storage; nothing is imported."""
        if type(module) is not str or type(attribute) is not str:
            raise TorchFileError("a name that is no text")
        if (module, attribute) not in CALLS and not (module == "torch" and attribute in DTYPES):
            raise UnsafeTorchFile(f"it asks for {module[:80]}.{attribute[:80]}")
        self.stack.append(_Name(module, attribute))

    def call(self) -> None:
        """One of `CALLS`."""
        called, arguments = self.take(2)
        if not isinstance(called, _Name) or (called.module, called.name) not in CALLS or type(arguments) is not tuple:
            raise UnsafeTorchFile("it calls what is no part of a tensor")
        self.left -= sum(len(text) for text in arguments if isinstance(text, str))
        if self.left < 0:
            raise TorchFileError("it copies one text over and over")
        self.stack.append(CALLS[called.module, called.name](*arguments))

    def refer(self) -> None:
        """A storage: ("storage", kind, key, place, numbers[, view])."""
        (reference,) = self.take(1)
        plain = type(reference) is tuple and len(reference) in (5, 6) and reference[0] == "storage"
        if (
            not plain
            or not isinstance(reference[1], _Name)
            or reference[1].name not in DTYPES
            or reference[5:] not in ((), (None,))
        ):
            raise TorchFileError("it refers to something that is no storage")
        _, kind, key, _, count = reference[:5]
        if type(key) is not str or type(count) is not int or count < 0:
            raise TorchFileError("a storage without a key or a size")
        self.stack.append(self.storage(_Storage(key, DTYPES[kind.name], count)))

    def state(self) -> None:
        """The attributes of an OrderedDict (`_metadata` of a state dict): dropped."""
        if type(self.take(1)[0]) is not dict or type(self.stack[-1]) is not dict:
            raise UnsafeTorchFile("it changes the state of an object")


def _keep(machine: _Machine, slot: int | None) -> None:
    machine.memo[len(machine.memo) if slot is None else slot] = machine.stack[-1]


OPERATIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, value: None),
    **dict.fromkeys(
        ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
         "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
        lambda machine, value: machine.stack.append(value),
    ),
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.take(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.take(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.take(3))),
    "APPEND": lambda machine, _: machine.extend(machine.take(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.put(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.put(machine.since_mark()),
    **dict.fromkeys(("BINGET", "LONG_BINGET", "GET"), lambda machine, slot: machine.stack.append(machine.memo[slot])),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"), _keep),
    "GLOBAL": lambda machine, name: machine.name(*name.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*machine.take(2)),
    "REDUCE": lambda machine, _: machine.call(),
    "BINPERSID": lambda machine, _: machine.refer(),
    "BUILD": lambda machine, _: machine.state(),
}  # fmt: skip
