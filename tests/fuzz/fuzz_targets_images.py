"""Images and the files that hold many of them: RecordIO, `.bin` sets, the cache of rendered faces."""

from __future__ import annotations

import io
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import torch
from fuzz_files import SIDE, bin_files, cache_file, picture, right_png
from fuzz_probe import Target
from PIL import Image

from datasets.errors import BadList, CorruptImage, CorruptRecord, DatasetNotFound, UnsafePickle
from datasets.generated import cache
from datasets.images import decode
from datasets.insightface import RecordImages, read_property
from datasets.plain_pickle import unpickle_plain
from datasets.recordio import CURRENT, FIRST, RecordFile, frame, image_keys, pack_image, read_index, write_insightface
from datasets.verification_bin import read_pair_set

Image.init()  # Pillow imports all of its formats when the first file is none of those that it has
PIXELS = 64 << 20  # an image of the largest size that `decode` accepts, in Pillow's and in our memory

# -- RecordIO -------------------------------------------------------------------------------------------------------------


def recordio(root: Path, rec: bytes, idx: bytes, property_: bytes) -> None:
    for name, data in (("train.rec", rec), ("train.idx", idx), ("property", property_)):
        (root / name).write_bytes(data)
    classes, height, width = read_property(root / "property")
    records = RecordFile(root / "train.rec")
    index = read_index(root / "train.idx", records.size)
    keys = image_keys(records, index)
    source = RecordImages(records, keys, index.offset(keys), classes, (height, width))
    for i in range(min(len(source), 3)):
        source.read(torch.tensor([i]))


def recordio_seeds() -> list[tuple[bytes, ...]]:
    magic = struct.pack("<I", CURRENT.magic)
    seeds = []
    for framing, images in ((CURRENT, 3), (FIRST, 2)):
        rec, idx = io.BytesIO(), io.BytesIO()
        write_insightface(rec, idx, [(picture("JPEG" if k else "PNG", seed=k), k // 2) for k in range(images)], framing)
        seeds.append((rec.getvalue(), idx.getvalue(), f"{images},{SIDE},{SIDE}\n".encode()))
    plain = frame(pack_image(picture(), [0.0], 0))
    cut = frame(pack_image(b"abcd" + magic + magic + b"ef", [1.0], 1))
    several = frame(pack_image(picture(), [1.0, 2.5], 2, several=True))
    lines = [b"0\t0", b"1\t%d" % len(plain), b"2\t%d" % len(plain + cut)]
    return [*seeds, (plain + cut + several, b"\n".join(lines), b"3,8,8\n300\n")]


# -- pickles --------------------------------------------------------------------------------------------------------------


def verification_bin(root: Path, data: bytes) -> None:
    (root / "set.bin").write_bytes(data)
    read_pair_set(root / "set.bin", side=SIDE)


def pickle_words() -> tuple[bytes, ...]:
    opcodes = tuple(
        bytes([code])
        for code in range(256)
        if code in b"().0123FIJKLMNPQRSTUVX}abcdeghijlopqrstu]" or 0x80 <= code <= 0x98
    )
    return (
        *opcodes, b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n",
        b"c__builtin__\nbytes\n",
        b"c__builtin__\nbytearray\n", b"c__builtin__\nlist\n", b"c__builtin__\ntuple\n", b"c__builtin__\nint\n",
        b"cos\nsystem\n",
        b"cfuzz_canary\ntouch\n", b"cposix\nmkdir\n", b"X\x01\0\0\0a", b"2\x86" * 40,
        b"}" + b")" + b"2\x86" * 40 + b"Ns.",
        b"c_codecs\nencode\n(X\x01\0\0\0aX\x06\0\0\0latin1tR", b"\x96" + b"\0\0\0\x40\0\0\0\0",
        b"\x8e\0\0\0\x40\0\0\0\0", b"(" * 50,
        b"c__builtin__\nset\n", b"c__builtin__\ngetattr\n", b"q\0", b"h\0", b"r\xff\xff\xff\xff",
        b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"(S'u1'\nI0\nI1\ntR", b"tb", b"(K\x01K\x01\x85",
    )  # fmt: skip


def plain_seeds() -> list[tuple[bytes, ...]]:
    contents = [
        {
            "data": np.zeros((2, 3), np.uint8),
            b"labels": [1, 2],
            "f": 1.5,
            "n": None,
            "big": 1 << 70,
            "t": (True, "é", b"x", bytearray(b"y")),
        },
        [np.float64(3), np.bool_(True), np.arange(3, dtype=">i4"), np.asfortranarray(np.zeros((2, 2)))],
    ]
    return [(pickle.dumps(content, protocol),) for content in contents for protocol in range(6)] + [
        (data,) for data in bin_files()[-4:]
    ]


# -- images ---------------------------------------------------------------------------------------------------------------


def image(root: Path, data: bytes) -> None:
    decode(data, str(root / "image"))


def image_png(root: Path, data: bytes) -> None:
    decode(right_png(data), str(root / "image"), (SIDE, SIDE))
    decode(right_png(data), str(root / "image"))


def image_seeds() -> list[tuple[bytes, ...]]:
    forms = [
        ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "L"), ("PNG", "1"), ("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"),
        ("BMP", "RGB"),
        ("BMP", "L"), ("PPM", "RGB"), ("PPM", "L"), ("WEBP", "RGB"),
    ]  # fmt: skip
    progressive = picture("JPEG", progressive=True, size=(16, 16))
    return [(picture(form, mode),) for form, mode in forms] + [(progressive,)]


def png_seeds() -> list[tuple[bytes, ...]]:
    return [(picture("PNG", mode),) for mode in ("RGB", "RGBA", "L", "1")]


IMAGE_WORDS = (
    b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"acTL", b"fcTL", b"eXIf", b"\xff\xd8",
    b"\xff\xd9",
    b"\xff\xda", b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xdb", b"\xff\xe1", b"Exif\0\0", b"\xff\xdd", b"BM",
    b"P6", b"P5", b"P3", b"Pf",
    b"P7", b"RIFF", b"WEBPVP8X", b"VP8L", b"VP8 ", b"ALPH", b"ANIM",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", b"GIF89a",
    b"II*\0", b"MM\0*", b"\xff\xe2MPF\0", b"qoif", b"DDS ", b"8BPS",
)  # fmt: skip

# -- the cache of rendered faces --------------------------------------------------------------------------------------------


def cache_raw(root: Path, data: bytes) -> None:
    (root / "faces.bin").write_bytes(data)
    cache.read(root / "faces.bin")


def cache_summed(root: Path, head: bytes, payload: bytes) -> None:
    cache_raw(root, cache_file(head, payload))


CACHE_HEAD = json.dumps({"arrays": [["images", "|u1", [2, 3]], ["yaw", "<f4", [2]], ["none", "<i8", [0, 4]]]}).encode()
CACHE_WORDS = (
    b'"|u1"', b'"<f8"', b'"O"', b'"V0"', b'"S0"', b'"U1"', b'"(3,)u1"', b'"i4,i4"', b'[["a","u1"]]',
    b'{"names":["a"],"formats":["u1"]}',
    b"null", b"1e999", b"Infinity", b"[", b"]", b'["', b"sha256", b"arrays", b"[" * 3000, b'"M8[ns]"', b'"\\ud800"',
    b"true",
)  # fmt: skip

TARGETS = [
    Target("recordio", recordio, recordio_seeds, (CorruptRecord, BadList, DatasetNotFound), (b"\n", b"\t", b"0", b"1",
    b"2", struct.pack("<I", CURRENT.magic), struct.pack("<I", FIRST.magic))),
    Target("verification_bin", verification_bin, lambda: [(data,) for data in bin_files()], (UnsafePickle, BadList,
    CorruptImage, DatasetNotFound), pickle_words()),
    Target("plain_pickle", lambda root, data: unpickle_plain(data, str(root)), plain_seeds, (UnsafePickle,),
    pickle_words()),
    Target("image", image, image_seeds, (CorruptImage,), IMAGE_WORDS, spare=PIXELS),
    Target("image_png", image_png, png_seeds, (CorruptImage,), IMAGE_WORDS, spare=PIXELS),
    Target("cache", cache_raw, lambda: [(cache_file(CACHE_HEAD, bytes(14)),)], (ValueError,), CACHE_WORDS),
    Target("cache_summed", cache_summed, lambda: [(CACHE_HEAD, bytes(14)), (b'{"arrays": []}', b"")], (ValueError,),
    CACHE_WORDS),
]  # fmt: skip
