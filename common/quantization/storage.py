"""Networks in files: quantized weights as bit-packed integer codes with their ranges, everything else as it is.

Ranges are stored rather than scale and zero point (the same size): both follow from them by the scheme's own
arithmetic, and a weight can be rebuilt that has exactly these ranges and codes (`rebuild_weight`). So a quantized
network that was loaded needs no special mode: its forward quantizes the rebuilt weight to bit-identical values, and
it can be trained on.

A file is data (`packed_format`): nothing in it is executed, it must fit the network that it is loaded into, and that
network decides how much memory is allocated, after the comparison.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import torch
from torch import nn

from common.files import write_atomically
from common.quantization.observers import range_observers
from common.quantization.packed_format import DTYPES, Entry, describe, make_quantizer, read_file, write_file
from common.quantization.packing import pack_codes, unpack_codes
from common.quantization.weight_quantizer import WeightQuantizer, weight_ranges


class PackedFileMismatchError(ValueError):
    """A packed file is sound but does not belong to the network that it was to be loaded into."""


def save_packed(network: nn.Module, path: str | os.PathLike[str]) -> int:
    """Writes a network atomically; returns the number of bytes written. An unquantized network is stored in float."""
    data = packed_bytes(network)
    write_atomically(path, data)
    return len(data)


@torch.no_grad()
def packed_bytes(network: nn.Module) -> bytes:
    """The file that `save_packed` would write.

    A weight whose codes would not survive (a channel so far from 0 for its width that float32 cannot tell its codes
    apart) is stored raw, so that the network is always the same; only the size then shows it.
    Raises ValueError for a tensor of a dtype that is not stored, or quantized weights that are not float32.
    """
    quantizers = quantized_weights(network)
    entries: list[Entry] = []
    parts: list[bytes] = []
    for name, tensor in network.state_dict().items():
        entry, payload = _stored(name, tensor.detach().cpu(), quantizers.get(name))
        entries.append(entry)
        parts.extend(payload)
    return write_file(entries, b"".join(parts))


@torch.no_grad()
def load_packed(network: nn.Module, path: str | os.PathLike[str], dequantize: bool = False) -> None:
    """Fills `network` from a packed file; on any error the network is as it was.

    By default the network must be quantized as the stored one was (same layers, bits and granularity). With
    `dequantize` it is the float network: weights get the dequantized values and the activation ranges of the file are
    left out.

    Raises FileNotFoundError, DamagedFileError (not a packed file, cut off, altered) or PackedFileMismatchError (another
    architecture or quantization; the message lists what differs).
    """
    entries, payload = read_file(Path(path))
    target = network.state_dict()
    _compare(entries, network, dequantize, Path(path))
    start, loaded = 0, {}
    for entry in entries:
        piece = payload[start : start + entry.stored_bytes]
        start += entry.stored_bytes
        if entry.name in target:
            loaded[entry.name] = _restore(entry, piece, dequantize)
    network.load_state_dict({**target, **loaded})


def quantized_weights(network: nn.Module) -> dict[str, WeightQuantizer]:
    """State-dict name -> quantizer of every weight that is stored as codes: what modules list in
    `weight_quantizers()`."""
    found: dict[str, WeightQuantizer] = {}
    for prefix, module in network.named_modules(remove_duplicate=False):
        listed = getattr(module, "weight_quantizers", None)
        if callable(listed):
            found.update({f"{prefix}.{name}".lstrip("."): quantizer for name, quantizer in listed().items()})
    return found


def rebuild_weight(
    quantizer: WeightQuantizer, codes: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> torch.Tensor:
    """A float weight whose ranges are exactly [low, high] and whose codes are exactly `codes` (shape of the weight).

    It is the dequantized weight, clamped to its range, with one element of the smallest code set to `low` and one of
    the largest code to `high`: quantizers are monotone, so elements beyond the range have the code of the range's
    end.
    """
    values = quantizer.decode(codes, low, high)
    rows = values.reshape(low.numel(), -1)
    code_rows = codes.reshape(low.numel(), -1)
    lows, highs = low.reshape(-1, 1), high.reshape(-1, 1)
    rows = torch.minimum(torch.maximum(rows, lows), highs)
    first = code_rows.argmin(dim=1, keepdim=True)
    last = rows.shape[1] - 1 - code_rows.flip(1).argmax(dim=1, keepdim=True)
    return rows.scatter(1, first, lows).scatter(1, last, highs).reshape(values.shape)


def _stored(name: str, tensor: torch.Tensor, quantizer: WeightQuantizer | None) -> tuple[Entry, list[bytes]]:
    """The entry of one tensor and its bytes."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ValueError(f"{name} is of dtype {dtype}, which is not stored; expected one of {', '.join(DTYPES)}.")
    raw = Entry(name, tuple(tensor.shape), dtype)
    if quantizer is None or tensor.numel() == 0:
        return raw, [_raw_bytes(tensor)]
    if tensor.dtype != torch.float32:
        raise ValueError(f"{name} is quantized but of dtype {dtype}; call network.float() before storing it packed.")
    quantized = dataclasses.replace(raw, scheme=describe(quantizer))
    low, high = weight_ranges(tensor, quantizer.granularity)
    codes = quantizer.encode(tensor, low, high)
    if not torch.equal(quantizer(rebuild_weight(quantizer, codes, low, high)), quantizer(tensor)):
        return quantized, [_raw_bytes(tensor)]
    packed = pack_codes(codes, quantizer.bits, quantizer.signed)
    return dataclasses.replace(quantized, packed=True), [_raw_bytes(low), _raw_bytes(high), packed]


def _raw_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _restore(entry: Entry, piece: memoryview, dequantize: bool) -> torch.Tensor:
    """The tensor of an entry whose size was checked."""
    if entry.scheme is None:
        return _from_raw(entry, piece)
    quantizer = make_quantizer(entry.scheme)
    if not entry.packed:
        weight = _from_raw(entry, piece)
        return quantizer(weight) if dequantize else weight
    width = 4 * entry.channels
    ranges = torch.frombuffer(bytearray(piece[: 2 * width]), dtype=torch.float32).reshape(2, -1)
    low, high = ranges if quantizer.granularity == "per_channel" else ranges.flatten()
    codes = unpack_codes(piece[2 * width :], entry.count, quantizer.bits, quantizer.signed).reshape(entry.shape)
    return quantizer.decode(codes, low, high) if dequantize else rebuild_weight(quantizer, codes, low, high)


def _from_raw(entry: Entry, piece: memoryview) -> torch.Tensor:
    """The tensor of raw bytes."""
    dtype = DTYPES[entry.dtype]
    if not piece:
        return torch.empty(entry.shape, dtype=dtype)
    if dtype == torch.bool:  # any byte but 0 is True, whatever the file holds
        return torch.frombuffer(bytearray(piece), dtype=torch.uint8).reshape(entry.shape) != 0
    return torch.frombuffer(bytearray(piece), dtype=dtype).reshape(entry.shape)


def _compare(entries: list[Entry], network: nn.Module, dequantize: bool, path: Path) -> None:
    """Raises PackedFileMismatchError with everything that differs between the file and the network."""
    target, quantizers = network.state_dict(), quantized_weights(network)
    stored = {entry.name: entry for entry in entries}
    ranges = {name for name in stored if dequantize and ".observer." in f".{name}"}
    problems = [f"{name} is only in the network" for name in target if name not in stored]
    problems += [f"{name} is only in the file" for name in stored if name not in target and name not in ranges]
    if dequantize and (quantizers or any(True for _ in range_observers(network))):
        problems.append("the network is quantized, but dequantize=True fills a float network")
    for name, entry in stored.items():
        if name not in target:
            continue
        shape, dtype = tuple(target[name].shape), str(target[name].dtype).removeprefix("torch.")
        if (entry.shape, entry.dtype) != (shape, dtype):
            problems.append(
                f"{name} is {entry.dtype} {list(entry.shape)} in the file, {dtype} {list(shape)} in the network"
            )
        elif entry.scheme is not None and not dequantize:
            wanted = describe(quantizers[name]) if name in quantizers else "float"
            if wanted != entry.scheme:
                problems.append(f"{name} is stored as {entry.scheme}, but the network's is {wanted}")
    if problems:
        more = f" (and {len(problems) - 5} more differences)" if len(problems) > 5 else ""
        raise PackedFileMismatchError(
            f"{path} does not fit the network: {'; '.join(problems[:5])}{more}. Build and quantize the network as the "
            "stored one was, or load into a float network with dequantize=True."
        )
