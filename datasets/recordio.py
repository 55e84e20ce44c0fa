"""RecordIO files (`train.rec`, `train.idx`) of InsightFace's data sets, read and written without mxnet.

Sources: dmlc-core `recordio.h` and `recordio.cc` (framing), mxnet `python/mxnet/recordio.py` (image record) and
InsightFace `recognition/arcface_torch/dataset.py` (which keys are images). A record is, little-endian,

    magic (4 bytes) | lrec (4 bytes: continuation flag and length) | data | zeros up to a multiple of 4

and a record whose data contains the magic at a 4-aligned place is cut there into parts (flags 1, 2, ..., 3); the magic
itself is left out at each cut and put back by the reader.

Two framings are in use and told apart by their magic: 0xced7230a with a 3-bit flag and a 29-bit length, which every
released mxnet writes (NVIDIA DALI and SageMaker read this one only), and the first dmlc-core's 0x3ed7230a with a 2-bit
flag and a 30-bit length.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from datasets import catalog
from datasets.errors import BadList, CorruptRecord
from datasets.file_names import require_regular

IMAGE_HEADER = struct.Struct("<IfQQ")  # flag, label, id, id2: 24 bytes, then `flag` float32 labels, then the image


@dataclass(frozen=True)
class Framing:
    """Magic number and width of the length field of one generation of the format."""

    magic: int
    length_bits: int


CURRENT = Framing(0xCED7230A, 29)
FIRST = Framing(0x3ED7230A, 30)
FRAMINGS = {framing.magic: framing for framing in (CURRENT, FIRST)}


@dataclass(frozen=True)
class ImageRecord:
    """One unpacked record: labels float32 [1] or more, the two ids, and the encoded image (may be empty)."""

    flag: int
    labels: tuple[float, ...]
    id: int
    id2: int
    image: bytes


class RecordFile:
    """Random access to the records of one `.rec` file.

    Reading is by position (`os.pread`), so many workers may read at once, and a copy made by fork or pickle opens the
    file for itself. Every length is compared with the size of the file before anything is allocated.

    Args:
        path: the `.rec` file.

    Raises:
        DatasetNotFound: there is no such file.
        UnsafePath: it is no regular file.
    """

    def __init__(self, path: str | Path, dataset: str = "ms1mv2") -> None:
        self.path = catalog.require(dataset, path)
        require_regular(self.path)
        self.size = self.path.stat().st_size
        self._open: tuple[int, int] | None = None  # (process, descriptor)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": None}

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close this process's descriptor; the next read opens the file again."""
        opened, self._open = getattr(self, "_open", None), None
        if opened is not None and opened[0] == os.getpid():
            os.close(opened[1])

    def _pread(self, length: int, offset: int, where: str) -> bytes:
        if offset < 0 or offset + length > self.size:
            raise CorruptRecord(
                f"{where}: the record needs bytes {offset}..{offset + length}, but the file ends at {self.size}. "
                "It is truncated or the .idx belongs to another .rec; get both again."
            )
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)))
        data = os.pread(self._open[1], length, offset)
        if len(data) != length:
            raise CorruptRecord(f"{where}: got {len(data)} of {length} bytes; the file was shortened while being read.")
        return data

    def read(self, offset: int, key: int | None = None) -> bytes:
        """Payload of the record that begins at byte `offset`, its parts joined.

        Raises:
            CorruptRecord: no record begins there, or it is truncated or wrongly continued; names key and offset.
        """
        where = f"{self.path}, record {'' if key is None else f'key {key} '}at byte {offset}"
        parts: list[bytes] = []
        framing: Framing | None = None
        while True:
            magic, word = struct.unpack("<II", self._pread(8, offset, where))
            if magic not in FRAMINGS or (framing is not None and magic != framing.magic):
                raise CorruptRecord(f"{where}: no record begins at byte {offset} (found 0x{magic:08x}).")
            framing = FRAMINGS[magic]
            flag, length = word >> framing.length_bits, word & ((1 << framing.length_bits) - 1)
            if flag not in ((2, 3) if parts else (0, 1)):
                raise CorruptRecord(f"{where}: part {len(parts)} has the continuation flag {flag}.")
            parts.append(self._pread(length, offset + 8, where))
            if flag in (0, 3):
                return struct.pack("<I", framing.magic).join(parts)
            if length % 4:
                raise CorruptRecord(f"{where}: part {len(parts) - 1} has the length {length}, not a multiple of 4.")
            offset += 8 + length

    def image(self, offset: int, key: int | None = None) -> ImageRecord:
        """The image record that begins at byte `offset`.

        Raises:
            CorruptRecord: as `read`, or the payload is shorter than its header and labels.
        """
        payload = self.read(offset, key)
        where = f"{self.path}, record {'' if key is None else f'key {key} '}at byte {offset}"
        if len(payload) < IMAGE_HEADER.size:
            raise CorruptRecord(f"{where}: {len(payload)} bytes are less than an image header of {IMAGE_HEADER.size}.")
        flag, label, id_, id2 = IMAGE_HEADER.unpack_from(payload)
        end = IMAGE_HEADER.size + 4 * flag
        if end > len(payload):
            raise CorruptRecord(f"{where}: the header promises {flag} labels, the record has {len(payload)} bytes.")
        labels = np.frombuffer(payload, "<f4", flag, IMAGE_HEADER.size).tolist() if flag else [label]
        return ImageRecord(flag, tuple(labels), id_, id2, payload[end:])


@dataclass(frozen=True)
class Index:
    """Keys int64 [M] and byte offsets int64 [M] of an `.idx` file, sorted by key."""

    keys: np.ndarray
    offsets: np.ndarray

    def offset(self, keys: np.ndarray) -> np.ndarray:
        """Offsets of the given keys; KeyError names the first key that the index lacks."""
        at = np.searchsorted(self.keys, keys)
        found = self.keys[np.minimum(at, len(self.keys) - 1)] == keys
        if not found.all():
            raise KeyError(int(keys[~found][0]))
        return self.offsets[at]


def read_index(path: str | Path, rec_size: int, dataset: str = "ms1mv2") -> Index:
    """Parse an `.idx` file: one `key<TAB>byte offset` a line, in any order.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: empty, a line that is not two integers, a key that occurs twice.
        CorruptRecord: an offset that is no multiple of 4 or lies behind the end of the `.rec` file.
    """
    path = catalog.require(dataset, path)
    require_regular(path)
    with path.open("rb") as stream:
        beginning = stream.read(4096)
    if not beginning.strip(b"\xef\xbb\xbf \t\r\n"):
        raise BadList(f"{path} is empty. Get it again together with its .rec file.")
    try:
        table = np.loadtxt(path, dtype=np.int64, ndmin=2, encoding="utf-8-sig", comments=None)
    except ValueError as error:
        raise BadList(f"{path}: expected `key<TAB>offset` on every line; {error}.") from error
    if table.shape[1] != 2:
        raise BadList(f"{path}: expected 2 fields a line (key, offset), got {table.shape[1]}.")
    keys, offsets = table[np.argsort(table[:, 0], kind="stable")].T
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if len(twice):
        raise BadList(f"{path}: key {keys[twice[0]]} occurs twice.")
    wrong = np.flatnonzero((offsets < 0) | (offsets % 4 != 0) | (offsets + 8 > rec_size))
    if len(wrong):
        raise CorruptRecord(
            f"{path}: key {keys[wrong[0]]} points at byte {offsets[wrong[0]]} of a .rec file of {rec_size} bytes. "
            "The .rec is truncated or belongs to another .idx; get both again."
        )
    return Index(np.ascontiguousarray(keys), np.ascontiguousarray(offsets))


def image_keys(records: RecordFile, index: Index) -> np.ndarray:
    """Keys of the images, int64 [N], ascending.

    If record 0 exists and has several labels it is InsightFace's header and its first label ends the image keys
    (1 .. label - 1; identity records follow). Otherwise every key is an image (im2rec, InsightFace's newer builder).

    Raises:
        CorruptRecord: the header names keys that the index lacks.
    """
    if index.keys[0] != 0:
        return index.keys
    header = records.image(int(index.offsets[0]), 0)
    if header.flag == 0:
        return index.keys
    end = header.labels[0]
    if not (end == end and 1 < end <= int(index.keys[-1]) + 1 and end - 1 <= len(index.keys)):
        raise CorruptRecord(
            f"{records.path}: the header (key 0) says that the images end before key {end}, but the index has "
            f"{len(index.keys)} keys up to {index.keys[-1]}. The .idx is truncated or belongs to another .rec."
        )
    keys = np.arange(1, int(end), dtype=np.int64)
    try:
        index.offset(keys)
    except KeyError as error:
        raise CorruptRecord(f"{records.path}: the header names key {error.args[0]}, which the .idx lacks.") from error
    return keys


def frame(payload: bytes, framing: Framing = CURRENT) -> bytes:
    """Payload -> record bytes with magic, lengths, cuts and padding (the inverse of `RecordFile.read`)."""
    magic = struct.pack("<I", framing.magic)
    cuts = [i for i in range(0, len(payload) // 4 * 4, 4) if payload[i : i + 4] == magic]
    starts, ends = [0, *(cut + 4 for cut in cuts)], [*cuts, len(payload)]
    record = b""
    for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
        flag = 0 if not cuts else 1 if k == 0 else 3 if k == len(cuts) else 2
        record += magic + struct.pack("<I", flag << framing.length_bits | (end - start)) + payload[start:end]
    return record + bytes(-len(record) % 4)


def pack_image(image: bytes, labels: Iterable[float], key: int, id2: int = 0, several: bool = False) -> bytes:
    """Payload of an image record; `several` (or more than one label) writes the labels behind the header."""
    labels = tuple(labels)
    if several or len(labels) > 1:
        head = IMAGE_HEADER.pack(len(labels), 0.0, key, id2)
        return head + struct.pack(f"<{len(labels)}f", *labels) + image
    return IMAGE_HEADER.pack(0, labels[0], key, id2) + image


def write_insightface(
    rec: BinaryIO, idx: BinaryIO, images: Iterable[tuple[bytes, int]], framing: Framing = CURRENT
) -> int:
    """Write encoded images with their class (ascending) as InsightFace's builder does; returns the number of images.

    Keys 1..n are the images, then follows one empty record an identity with the range of its keys, and key 0, the
    header, is written last.
    """
    offset = 0

    def put(key: int, payload: bytes) -> None:
        nonlocal offset
        record = frame(payload, framing)
        rec.write(record)
        idx.write(f"{key}\t{offset}\n".encode())
        offset += len(record)

    ranges: dict[int, list[int]] = {}
    count = 0
    for count, (image, label) in enumerate(images, 1):
        put(count, pack_image(image, [label], count))
        ranges.setdefault(label, [count, count + 1])[1] = count + 1
    for key, span in enumerate(ranges.values(), count + 1):
        put(key, pack_image(b"", span, key))
    put(0, pack_image(b"", [count + 1, count + 1 + len(ranges)], 0, id2=1))
    return count
