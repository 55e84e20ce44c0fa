"""Integer codes packed into bytes, without a wasted bit.

Codes are flattened row-major, signed ones mapped to unsigned by two's complement of `bits` bits (u = q & (2^b - 1)),
and written as one little-endian stream of bits: element 0 sits in the least significant bits of byte 0. The last byte
is filled up with zeros. For 1, 2, 4 and 8 bits this is the usual packing with the first element lowest; 3, 5, 6 and 7
bits straddle bytes.
"""

from __future__ import annotations

import numpy as np
import torch

CHUNK = (
    1 << 17
)  # codes a pass, a multiple of 8, so that each pass ends on a whole byte and needs 1 MiB of working memory


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take: ceil(count * bits / 8)."""
    return (count * bits + 7) // 8


def pack_codes(codes: torch.Tensor, bits: int, signed: bool) -> bytes:
    """Packs integer codes (any shape, any integer dtype) of 1..8 bits.

    Raises ValueError for codes that `bits` bits cannot hold and for tensors that are not of an integer dtype.
    """
    _check_bits(bits)
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"Codes are whole numbers; got a tensor of dtype {codes.dtype}.")
    flat = codes.detach().cpu().contiguous().view(-1).numpy()
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if flat.size and not (low <= flat.min() and flat.max() <= high):
        kind = "signed" if signed else "unsigned"
        raise ValueError(f"Codes lie in {flat.min()}..{flat.max()}, but {bits} {kind} bits hold {low}..{high}.")
    pieces = []
    for start in range(0, flat.size, CHUNK):
        unsigned = (flat[start : start + CHUNK].astype(np.int64) & (2**bits - 1)).astype(np.uint8)
        bit_rows = np.unpackbits(unsigned[:, None], axis=1, count=bits, bitorder="little")
        pieces.append(np.packbits(bit_rows.reshape(-1), bitorder="little").tobytes())
    return b"".join(pieces)


def unpack_codes(packed: bytes | memoryview, count: int, bits: int, signed: bool) -> torch.Tensor:
    """The `count` codes of a packed stream: int8 (signed) or uint8, shape [count].

    Raises ValueError if the number of bytes is not exactly what `count` codes take; nothing is allocated before that
    check.
    """
    _check_bits(bits)
    if count < 0:
        raise ValueError(f"The number of codes is {count}; expected 0 or more.")
    if len(packed) != packed_size(count, bits):
        raise ValueError(f"{count} codes of {bits} bits take {packed_size(count, bits)} bytes; got {len(packed)}.")
    codes = np.empty(count, dtype=np.int8 if signed else np.uint8)
    stream = np.frombuffer(packed, dtype=np.uint8)
    step = CHUNK * bits // 8
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        first_byte = start // CHUNK * step
        stored = np.unpackbits(stream[first_byte : first_byte + step], count=(stop - start) * bits, bitorder="little")
        values = np.packbits(stored.reshape(-1, bits), axis=1, bitorder="little")[:, 0]
        if signed:  # shift up and, as signed bytes, down again: copies the sign bit upwards
            codes[start:stop] = (values << (8 - bits)).view(np.int8) >> (8 - bits)
        else:
            codes[start:stop] = values
    return torch.from_numpy(codes)


def _check_bits(bits: int) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8:
        raise ValueError(f"bits is {bits!r}; codes of 1 to 8 bits can be packed.")
