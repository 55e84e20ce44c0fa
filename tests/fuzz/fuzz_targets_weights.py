"""Networks in files: safetensors, checkpoints of `torch.save`, packed codes."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

from fuzz_files import network, safetensors_file, torch_contents, torch_file, unzipped, zipped
from fuzz_probe import Target
from fuzz_targets_results import JSON_WORDS

from common.files import DamagedFileError
from common.quantization import quantize_network
from common.quantization.packed_format import CHECKSUM, MAGIC, NUMBERS, checksum
from common.quantization.storage import PackedFileMismatchError, load_packed, packed_bytes
from common.weights import WeightsMismatchError, load_weights

WEIGHT_ERRORS = (DamagedFileError, WeightsMismatchError)
PACKED_ERRORS = (DamagedFileError, PackedFileMismatchError)

# -- weights ----------------------------------------------------------------------------------------------------------------

MODULE = network()


def safetensors(root: Path, data: bytes) -> None:
    (root / "network.safetensors").write_bytes(data)
    load_weights(MODULE, root / "network.safetensors")


def safetensors_header(root: Path, header: bytes, payload: bytes) -> None:
    """Header and payload of a file whose header has the length that it says."""
    safetensors(root, struct.pack("<Q", len(header)) + header + payload)


def header_seeds() -> list[tuple[bytes, ...]]:
    data = safetensors_file()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    plain = {"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}
    return [(data[8:end], data[end:]), (json.dumps(plain).encode(), bytes(4))]


def torch_weights(root: Path, data: bytes) -> None:
    (root / "network.pt").write_bytes(data)
    load_weights(MODULE, root / "network.pt")


def torch_pickle(root: Path, pickled: bytes, storage: bytes) -> None:
    """The pickle of a zip whose checksums are right."""
    members = {**TORCH_MEMBERS, "archive/data.pkl": pickled, "archive/data/0": storage}
    torch_weights(root, zipped(members))


TORCH_MEMBERS = unzipped(torch_file(network().state_dict()))
TORCH_WORDS = (
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"ctorch\nTensor\n",
    b"c__builtin__\nbytearray\n", b"cos\nsystem\n",
    b"ctorch._utils\n_rebuild_sparse_tensor\n", b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nSize\n", b"ctorch\nFloatTensor\n", b"c__builtin__\nset\n",
    b"cbuiltins\nbytearray\n",
    b"J\0\0\0\x40", b"\x8a\x05\0\0\0\0\x01", b"(", b"t", b"R", b"b", b"Q", b"\x85", b"\x86", b"\x87", b"q\0", b"h\0",
    b"}", b"]", b"s", b"u", b".",
    b"\x80\x02", b"\x80\x04\x95", b")" + b"q\0h\0\x86" * 40 + b"Ns", b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06",
    b"archive/data.pkl", b"K\0",
    b"cfuzz_canary\ntouch\n", b"X\x07\0\0\0storage",
)  # fmt: skip


def torch_seeds() -> list[tuple[bytes, ...]]:
    files = [torch_file(content, form) for content in torch_contents() for form in (True, False)]
    return [(data,) for data in [*files, torch_file(torch_contents()[0], protocol=4)]]


def pickle_seeds() -> list[tuple[bytes, ...]]:
    found = [unzipped(torch_file(content)) for content in torch_contents()]
    return [(members["archive/data.pkl"], members.get("archive/data/0", b"")) for members in found]


# -- packed networks --------------------------------------------------------------------------------------------------------

QUANTIZED = quantize_network(network(), weight_bits=4, activation_bits=8)


def packed(root: Path, data: bytes) -> None:
    (root / "network.fpq").write_bytes(data)
    load_packed(QUANTIZED, root / "network.fpq")


def packed_summed(root: Path, header: bytes, payload: bytes) -> None:
    """Header and payload of a file whose checksum is right."""
    compressed = zlib.compress(header)
    start = MAGIC + NUMBERS.pack(len(compressed), len(header), len(payload))
    packed(root, start + checksum(start, compressed, payload) + compressed + payload)


def packed_seeds() -> list[tuple[bytes, ...]]:
    return [(packed_bytes(QUANTIZED),), (packed_bytes(network()),)]


def summed_seeds() -> list[tuple[bytes, ...]]:
    found = []
    for (data,) in packed_seeds():
        start = len(MAGIC) + NUMBERS.size
        compressed = NUMBERS.unpack(data[len(MAGIC) : start])[0]
        start += CHECKSUM
        found.append((zlib.decompress(data[start : start + compressed]), data[start + compressed :]))
    return found


PACKED_WORDS = (
    b'"float32"', b'"int64"', b'"bool"', b"null", b"true", b"[", b"]", b"{", b"}", b'"bits"', b'"granularity"',
    b'"per_tensor"', b'"scheme"',
    b'"uniform"', b'"running_range"', b"[" * 3000, b"Infinity", b"NaN", b'"\\ud800"', b'"symmetric"', b'"per_channel"',
)  # fmt: skip

SAFETENSORS_WORDS = (
    *JSON_WORDS, b'"F32"', b'"I64"', b'"BF16"', b'"F8_E4M3"', b'"F8_E8M0"', b'"F4"', b'"U16"', b'"C64"', b'"BOOL"',
    b"data_offsets", b"shape",
    b"dtype", b"__metadata__", b'"fairpress"', b'{\\"network\\": \\"A\\", \\"sha256\\": ',
)  # fmt: skip

TARGETS = [
    Target("safetensors", safetensors, lambda: [(safetensors_file(),)], WEIGHT_ERRORS, SAFETENSORS_WORDS),
    Target("safetensors_header", safetensors_header, header_seeds, WEIGHT_ERRORS, SAFETENSORS_WORDS),
    Target("torch_file", torch_weights, torch_seeds, WEIGHT_ERRORS, TORCH_WORDS),
    Target("torch_pickle", torch_pickle, pickle_seeds, WEIGHT_ERRORS, TORCH_WORDS),
    Target("packed", packed, packed_seeds, PACKED_ERRORS, PACKED_WORDS),
    Target("packed_summed", packed_summed, summed_seeds, PACKED_ERRORS, PACKED_WORDS),
]
