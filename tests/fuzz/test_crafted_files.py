"""Files that are built to take all memory or all time: each is one that did, before its parser was changed."""

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fuzz_files import network, picture, torch_file, unzipped, zipped
from fuzz_mutate import GLUE
from fuzz_probe import Probe, watching
from fuzz_targets import TARGETS

from datasets.recordio import frame, pack_image

MANY, LINES = 100_000, 20_000
DOUBLED = b")" + b"q\0h\0\x86" * 60  # a tuple of itself twice, sixty levels deep


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that says it is so large; `data` are its compressed pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def many_scans() -> bytes:
    """A progressive JPEG of 1024 x 1024 whose last scan comes a thousand times."""
    data = picture("JPEG", "L", (1024, 1024), progressive=True)
    end, last = data.rindex(b"\xff\xd9"), data.rindex(b"\xff\xda")
    return data[:end] + data[last : last + 300] * 1000 + data[end:]


def record_header() -> bytes:
    """A header record that promises 4 * 10^18 images, and an index that agrees."""
    rec = frame(pack_image(b"", [4e18, 5e18], 0))
    return GLUE.join((rec, b"0\t0\n4611686018427387904\t0\n", b"3,8,8\n"))


def repeated_images(kind: Callable[[bytes], object]) -> bytes:
    """A verification set whose images are one object, twice for every pair."""
    image = kind(picture() + bytes(50_000))
    return pickle.dumps(([image] * 20_000, [True] * 10_000), 5)


def copies(function: bytes, argument: bytes) -> bytes:
    """A list of what a function makes of one object, over and over."""
    return b"\x80\x02" + argument + b"q\x010c" + function + b"\nq\x020](" + b"h\x02h\x01\x85R" * 20_000 + b"e."


def inflated_torch_file() -> bytes:
    members = {**unzipped(torch_file(network().state_dict())), "archive/data/9": bytes(1 << 26)}
    return zipped(members, zipfile.ZIP_DEFLATED)


def torch_pickle(body: bytes) -> bytes:
    return zipped({**unzipped(torch_file(network().state_dict())), "archive/data.pkl": b"\x80\x02" + body})


def legacy_storage() -> bytes:
    """A storage of 8 GB in the older form."""
    data = torch_file(network().state_dict(), False)
    return data.replace(b"K\x06Nt", b"J\x00\x00\x00\x7fNt")


def inflated_arrays() -> bytes:
    return zipped({"lfw/correct.npy": bytes(1 << 26)}, zipfile.ZIP_DEFLATED)


def announced_array() -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (1 << 40,)})
    return zipped({"lfw/correct.npy": stream.getvalue() + b"x"})


def cells(count: int) -> bytes:
    """A MATLAB file whose variable has so many cells and none of them."""

    def element(kind: int, body: bytes) -> bytes:
        return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)

    dims = struct.pack("<2i", count, 1)
    body = element(6, struct.pack("<II", 1, 0)) + element(5, dims) + element(1, b"splits")
    return b"MATLAB 5.0".ljust(124) + b"\0\x01IM" + element(14, body)


def inflated_cells() -> bytes:
    packed = zlib.compress(bytes(1 << 26))
    return b"MATLAB 5.0".ljust(124) + b"\0\x01IM" + struct.pack("<II", 15, len(packed)) + packed


def csv(header: str, line: Callable[[int], str], last: str = "") -> bytes:
    return (header + "\n" + "".join(line(k) + "\n" for k in range(LINES)) + last).encode()


CRAFTED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a key that is hashed for ever": ("plain_pickle", lambda: b"\x80\x02}" + DOUBLED + b"Ns."),
    "a shape that is printed for ever": (
        "plain_pickle", lambda: b"\x80\x02cnumpy.core.numeric\n_frombuffer\n(C\x01acnumpy\ndtype\nX\x02\0\0\0u1\x85R"
        + DOUBLED + b"\x85X\x01\0\0\0CtR.",
    ),
    "a type that is printed for ever": ("plain_pickle", lambda: b"\x80\x02cnumpy\ndtype\n" + DOUBLED + b"\x85R."),
    "a buffer of a terabyte": ("plain_pickle", lambda: b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"abc."),
    "a shape with a million factors": (
        "plain_pickle", lambda: b"\x80\x02cnumpy.core.numeric\n_frombuffer\n(C\x01acnumpy\ndtype\nX\x02\0\0\0u1\x85R("
        + b"K\xff" * MANY + b"tX\x01\0\0\0CtR.",
    ),
    "copies of a buffer": ("plain_pickle", lambda: copies(b"__builtin__\nbytearray", b"B" + struct.pack("<I",
    MANY) + bytes(MANY))),
    "copies of a list": ("plain_pickle", lambda: copies(b"__builtin__\nlist", b"(" + b"N" * MANY + b"t")),
    "copies of a text": (
        "plain_pickle", lambda: b"\x80\x02X" + struct.pack("<I", MANY) + b"a" * MANY
        + b"q\x010c_codecs\nencode\nq\x020X\x06\0\0\0latin1q\x030](" + b"h\x02h\x01h\x03\x86R" * 20_000 + b"e.",
    ),
    "one image twenty thousand times": ("verification_bin", lambda: repeated_images(bytearray)),
    "one array twenty thousand times": ("verification_bin", lambda: repeated_images(lambda data: np.frombuffer(data,
    np.uint8))),
    "a strip of 8192 x 1 pixels": ("verification_bin", lambda: pickle.dumps(([picture(size=(8192, 1))] * 2, [True]))),
    "an image of 2^24 x 1 pixels": ("image", lambda: png(1 << 24, 1)),
    "an image of 8192 x 8192 black pixels": ("image", lambda: png(8192, 8192, zlib.compress(bytes(8193 * 8192), 9))),
    "an image of a thousand scans": ("image", many_scans),
    "an image that is a program": ("image", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"),
    "a header with 4 * 10^18 images": ("recordio", record_header),
    "twenty thousand files and the last twice": (
        "fairface", lambda: csv("file,age,gender,race,service_test",
        lambda k: f"{min(k, LINES - 2)}.jpg,3-9,Male,White,True")
    ),
    "people with 10^18 images": ("lfw_people", lambda: b"1\n1\nAda_L\t1000000000000000000\n"),
    "a fold of 10^18": ("image_folder", lambda: GLUE.join((b"path,label\na.jpg,1\n",
    b"a,b,same,fold\na.jpg,a.jpg,1,999999999999999999\n"))),
    "a field of a million characters": ("image_folder",
    lambda: GLUE.join((b"path,label\n" + b"a" * 1_000_000 + b",1\n", b""))),
    "a number of a million digits": ("lfw_pairs", lambda: b"1\t" + b"9" * 1_000_000 + b"\n"),
    "a cell array of 2^30": ("agedb", lambda: cells(1 << 30)),
    "a compressed matrix of 64 MB": ("agedb", inflated_cells),
    "a compressed checkpoint of 64 MB": ("torch_file", inflated_torch_file),
    "a tensor of 4 GB in forty bytes": ("torch_file", lambda: torch_pickle(b"ctorch\nFloatTensor\nJ\0\0\0\x40\x85R.")),
    "a buffer of 1 GB in forty bytes": ("torch_file", lambda: torch_pickle(b"cbuiltins\nbytearray\nJ\0\0\0\x40\x85R.")),
    "a checkpoint hashed for ever": ("torch_file", lambda: torch_pickle(b"}" + DOUBLED + b"Ns.")),
    "a name hashed for ever": ("torch_file", lambda: torch_pickle(DOUBLED + b"X\x01\0\0\0a\x93.")),
    "a storage of 8 GB": ("torch_file", legacy_storage),
    "a compressed array of 64 MB": ("arrays", inflated_arrays),
    "an announced array of a terabyte": ("arrays", announced_array),
    "a result nested without end": ("json", lambda: b"[" * MANY),
    "a state nested without end": ("sealed_json", lambda: b'{"a":' * MANY),
    "a paper nested without end": ("paper_toml", lambda: b"a = " + b"[" * MANY),
    "a paper with a key of many parts": ("paper_toml", lambda: b"a." * 30_000 + b"a = 1\n"),
    "a paper with a number of many digits": ("paper_toml", lambda: b"year = " + b"9" * MANY),
    "a header of empty lists": ("packed_summed", lambda: GLUE.join((json.dumps([[]] * 200_000).encode(), b""))),
    "an archive of a sparse gigabyte": ("idx_gzipped", lambda: struct.pack(">BBBBI", 0, 0, 8, 1, (1 << 32) - 1) + b"x"),
}  # fmt: skip


@pytest.fixture
def probe(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Probe]:
    probe = Probe(TARGETS[CRAFTED[request.param][0]], tmp_path)
    with watching():
        yield probe


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("probe", "name"), [(name, name) for name in CRAFTED], indirect=["probe"], ids=list(CRAFTED))
def test_crafted_files_are_refused_at_once(probe: Probe, name: str) -> None:
    probe.check(CRAFTED[name][1](), trace="twice" not in name)  # tracing long lists takes longer than reading them
