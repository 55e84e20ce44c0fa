"""The file format of packed networks: header, payload, and the checks that make a foreign file harmless.

Layout, little-endian: 8 bytes magic with the version, then three numbers (bytes of the compressed header, bytes of the
header, bytes of the payload), the SHA-256 of everything else in the file, the zlib-compressed JSON header (name, shape,
dtype, scheme and form of every entry, in the order of the state dict), the payload (for each entry: raw bytes, or low [C]
float32, high [C] float32 and the packed codes).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import torch

from common.files import DamagedFileError
from common.quantization.packing import packed_size
from common.quantization.running_range import RunningRangeWeightQuantizer
from common.quantization.weight_quantizer import GRANULARITIES, UniformWeightQuantizer, WeightQuantizer

MAGIC = b"FPQUANT\x02"
NUMBERS = struct.Struct("<IIQ")
CHECKSUM = 32  # bytes of a SHA-256
LARGEST_HEADER = 1 << 20  # 1 MiB: thirteen times the header of an IResNet100
LONGEST_NAME = 1000  # characters
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}
_SCHEMES: dict[str, Any] = {"running_range": RunningRangeWeightQuantizer, "uniform": UniformWeightQuantizer}
_NOT_STORED = {"gradient"}  # fields of a scheme that do not change values

Scheme = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of the state dict.

    `scheme` says how it is quantized (None: it is not); `packed` whether the payload holds its codes or its raw bytes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scheme: Scheme | None = None
    packed: bool = False

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def channels(self) -> int:
        """Number of ranges."""
        assert self.scheme is not None
        return self.shape[0] if self.scheme["granularity"] == "per_channel" else 1

    @property
    def stored_bytes(self) -> int:
        """Bytes of this entry in the payload."""
        if self.scheme is None or not self.packed:
            return self.count * DTYPES[self.dtype].itemsize
        return 8 * self.channels + packed_size(self.count, self.scheme["bits"])


def register_scheme(name: str, scheme: type) -> None:
    """Makes a paper's own weight quantizer (a frozen dataclass, see `WeightQuantizer`) storable under `name`.

    Raises ValueError if the name is taken by another class.
    """
    if _SCHEMES.setdefault(name, scheme) is not scheme:
        raise ValueError(f"The storage scheme {name!r} is already registered for {_SCHEMES[name].__name__}.")


def describe(quantizer: Any) -> Scheme:
    """A quantizer as plain values."""
    for name, scheme in _SCHEMES.items():
        if type(quantizer) is scheme:
            fields = {k: v for k, v in dataclasses.asdict(quantizer).items() if k not in _NOT_STORED}
            return {"scheme": name, **fields}
    raise ValueError(
        f"Weights quantized by {type(quantizer).__name__} cannot be stored; register_scheme makes it known."
    )


def make_quantizer(scheme: Scheme) -> WeightQuantizer:
    """The quantizer that `describe` described."""
    fields = {key: value for key, value in scheme.items() if key != "scheme"}
    quantizer: WeightQuantizer = _SCHEMES[scheme["scheme"]](**fields)
    return quantizer


def write_file(entries: list[Entry], payload: bytes) -> bytes:
    """The bytes of a file."""
    listed = [list(dataclasses.astuple(entry)) for entry in entries]
    header = json.dumps(listed, separators=(",", ":")).encode()
    compressed = zlib.compress(header, 9)
    start = MAGIC + NUMBERS.pack(len(compressed), len(header), len(payload))
    return b"".join((start, checksum(start, compressed, payload), compressed, payload))


def checksum(start: bytes, compressed: bytes, payload: bytes) -> bytes:
    """SHA-256 of a file's magic and numbers, its compressed header and its payload."""
    digest = hashlib.sha256(start)
    digest.update(compressed)
    digest.update(payload)
    return digest.digest()


def read_file(path: Path) -> tuple[list[Entry], memoryview]:
    """Entries and payload of a file whose sizes agree with each other and which has its checksum.

    Raises FileNotFoundError, or DamagedFileError for anything that `write_file` would not have written.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(len(MAGIC) + NUMBERS.size)
        if len(start) < len(MAGIC) + NUMBERS.size or not start.startswith(MAGIC):
            raise DamagedFileError(
                f"{path} is not a packed network (no {MAGIC[:7].decode()} header); save it with save_packed."
            )
        compressed_size, header_size, payload_size = NUMBERS.unpack(start[len(MAGIC) :])
        expected = len(start) + CHECKSUM + compressed_size + payload_size
        if size != expected:
            raise DamagedFileError(
                f"{path} has {size} bytes, but its header says {expected}: it is cut off or altered. Save it again."
            )
        if max(compressed_size, header_size) > LARGEST_HEADER:
            raise DamagedFileError(
                f"{path} announces a header of {header_size} bytes, more than {LARGEST_HEADER}: not a network."
            )
        written, compressed, payload = file.read(CHECKSUM), file.read(compressed_size), file.read(payload_size)
    if written != checksum(start, compressed, payload):
        raise DamagedFileError(f"{path} has another checksum than when it was written: altered. Save it again.")
    entries = _parse_header(compressed, header_size, path)
    announced = sum(entry.stored_bytes for entry in entries)
    if announced != payload_size:
        raise DamagedFileError(
            f"{path} lists tensors of {announced} bytes, but its payload has {payload_size}: altered. Save again."
        )
    return entries, memoryview(payload)


def _parse_header(compressed: bytes, size: int, path: Path) -> list[Entry]:
    """The entries; decompression stops at the announced size."""
    decompressor = zlib.decompressobj()
    try:
        header = decompressor.decompress(compressed, size + 1)
        listed = json.loads(header)
        if len(header) != size or not decompressor.eof or not isinstance(listed, list):
            raise ValueError("the header has another size than announced")
        entries = [_parse_entry(item) for item in listed]
    except (zlib.error, ValueError, TypeError, RecursionError) as error:
        raise DamagedFileError(
            f"The header of {path} cannot be read ({str(error)[:300]}): the file is altered. Save it again."
        ) from error
    if len({entry.name for entry in entries}) != len(entries):
        raise DamagedFileError(f"{path} lists a tensor twice: the file is altered. Save it again.")
    return entries


def _parse_entry(item: Any) -> Entry:
    """One entry; raises ValueError for anything unexpected, so that later arithmetic is safe."""
    if not (isinstance(item, list) and len(item) == 5):
        raise ValueError("an entry is not [name, shape, dtype, scheme, packed]")
    name, shape, dtype, scheme, packed = item
    if not isinstance(name, str) or len(name) > LONGEST_NAME or dtype not in DTYPES:
        raise ValueError(f"entry {name!r} has dtype {dtype!r}, or a name of more than {LONGEST_NAME} characters")
    if not isinstance(shape, list) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
        raise ValueError(f"entry {name!r} has shape {shape!r}")
    if type(packed) is not bool or (packed and scheme is None):
        raise ValueError(f"entry {name!r} has packed {packed!r}")
    if scheme is not None:
        _check_scheme(name, shape, dtype, scheme)
    return Entry(name, tuple(shape), dtype, scheme, packed)


def _check_scheme(name: str, shape: list[int], dtype: str, scheme: Any) -> None:
    known = isinstance(scheme, dict) and scheme.get("scheme") in _SCHEMES
    if not known or type(scheme.get("bits")) is not int or scheme.get("granularity") not in GRANULARITIES:
        raise ValueError(f"entry {name!r} has the unknown scheme {scheme!r}")
    if dtype != "float32" or not shape or 0 in shape:
        raise ValueError(f"entry {name!r} holds codes for shape {shape!r} of {dtype}")
    fields = {field.name for field in dataclasses.fields(_SCHEMES[scheme["scheme"]])} - _NOT_STORED
    if set(scheme) - {"scheme"} != fields:
        raise ValueError(f"entry {name!r} has the fields {sorted(scheme)} in its scheme")
    make_quantizer(scheme)
