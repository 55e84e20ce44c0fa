"""`.bin` sets: what real files look like is read, what attacks look like is refused before it runs."""

import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets.errors import BadList, CorruptImage, UnsafePickle
from datasets.pair_lists import contiguous_folds
from datasets.plain_pickle import unpickle_plain
from datasets.verification_bin import components, read_bin, read_pair_set


def jpeg(value: int, size: tuple[int, int] = (112, 112)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


IMAGES = [jpeg(v) for v in (10, 20, 20, 30, 200, 210, 10, 200)]
SAME = [True, True, True, False]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("form", ["bytes", "arrays", "numpy flags", "tuples"])
def test_every_writer_of_these_files_is_understood(tmp_path: Path, protocol: int, form: str) -> None:
    images: Any = [np.frombuffer(i, np.uint8) for i in IMAGES] if form == "arrays" else IMAGES
    same: Any = {"numpy flags": np.array(SAME), "tuples": tuple(SAME)}.get(form, [np.bool_(s) for s in SAME])
    path = tmp_path / "toy.bin"
    path.write_bytes(pickle.dumps((tuple(images) if form == "tuples" else images, same), protocol=protocol))
    encoded, flags = read_bin(path)
    assert encoded == IMAGES
    assert flags.dtype == bool
    assert flags.tolist() == SAME


def test_python_2_strings_are_bytes(tmp_path: Path) -> None:
    def short(data: bytes) -> bytes:
        return b"T" + len(data).to_bytes(4, "little") + data  # BINSTRING, what Python 2 writes for str

    body = b"\x80\x02]q\x00(" + short(IMAGES[0]) + short(IMAGES[1]) + b"e]q\x01\x88a\x86q\x02."
    pickletools.dis(body, out=io.StringIO())
    (tmp_path / "old.bin").write_bytes(body)
    encoded, same = read_bin(tmp_path / "old.bin")
    assert encoded == IMAGES[:2]
    assert same.tolist() == [True]


def test_python_2_arrays_are_read() -> None:
    body = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I3\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'abc'\ntb."
    )
    assert unpickle_plain(body, "old").array.tolist() == [97, 98, 99]


def test_pair_set_with_derived_subjects(tmp_path: Path) -> None:
    (tmp_path / "toy.bin").write_bytes(pickle.dumps((IMAGES, SAME)))
    pairs = read_pair_set(tmp_path / "toy.bin", divisor=128.0)
    assert pairs.name == "toy"
    assert pairs.images.shape == (5, 3, 112, 112)  # eight images, five different ones
    assert abs(int(pairs.images[3].float().mean()) - 200) <= 2
    assert pairs.first.tolist() == [0, 1, 3, 0]
    assert pairs.second.tolist() == [1, 2, 4, 3]
    # 10 - 20 - 30 are one person by two genuine pairs; 200 - 210 another; the impostor pair joins nothing
    assert pairs.subject.tolist() == [0, 0, 0, 1, 1]
    assert pairs.fold.tolist() == [0, 1, 2, 3]
    assert pairs.group.tolist() == [-1] * 4
    assert pairs.divisor == 128.0
    named = read_pair_set(tmp_path / "toy.bin", group="African", columns=(8, 104))
    assert named.group.tolist() == [0] * 4
    assert named.group_names == ("African",)
    assert named.images.shape == (5, 3, 112, 96)


def test_other_sizes_are_resized_if_square(tmp_path: Path) -> None:
    (tmp_path / "big.bin").write_bytes(pickle.dumps(([jpeg(9, (224, 224))] * 2, [True])))
    assert read_pair_set(tmp_path / "big.bin").images.shape == (1, 3, 112, 112)
    (tmp_path / "wide.bin").write_bytes(pickle.dumps(([jpeg(9), jpeg(9, (150, 112))], [True])))
    with pytest.raises(CorruptImage, match=r"wide\.bin, image 1 of 2.*112 x 150"):
        read_pair_set(tmp_path / "wide.bin")
    (tmp_path / "bad.bin").write_bytes(pickle.dumps(([jpeg(9), jpeg(9)[:300]], [True])))
    with pytest.raises(CorruptImage, match=r"bad\.bin, image 1 of 2"):
        read_pair_set(tmp_path / "bad.bin")


def test_folds_and_components() -> None:
    folds = contiguous_folds(237)
    assert np.bincount(folds).tolist() == [24] * 7 + [23] * 3
    assert (np.diff(folds) >= 0).all()
    assert components(6, np.array([0, 3, 1]), np.array([1, 4, 2])).tolist() == [0, 0, 0, 1, 1, 2]


class Shell:
    """Pickles into a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def attack(name: str, marker: Path) -> bytes:
    touch = Shell(os.system, f"touch {marker}")
    objects = np.empty(2, dtype=object)
    objects[0] = touch
    by_name: dict[str, Any] = {
        "system": touch,
        "eval": Shell(eval, "1+1"),
        "nested": ([b"x", [touch]], [True]),
        "inside bytes": Shell(bytes, Shell(os.getpid)),
        "object array": (objects, [True]),
        "empty object array": (np.array([None, 1], dtype=object), [True]),
        "getattr": Shell(getattr, b"x", "decode"),
        "huge bytes": Shell(bytes, 10**13),
        "file": Shell(open, str(marker), "w"),
        "structured": (np.zeros(2, dtype=[("a", "u1")]), [True]),
        "path": Path("x"),
    }
    return pickle.dumps(by_name[name], protocol=2)


@pytest.mark.parametrize(
    "name",
    [
        "system", "eval", "nested", "inside bytes", "object array", "empty object array", "getattr", "huge bytes",
        "file", "structured", "path",
    ],
)  # fmt: skip
def test_hostile_pickles_are_refused_before_anything_runs(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "evil.bin").write_bytes(attack(name, marker))
    with pytest.raises(UnsafePickle, match=r"evil\.bin: the pickle"):
        read_bin(tmp_path / "evil.bin")
    assert not marker.exists()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"


@pytest.mark.parametrize(
    "body",
    [
        b"cos\nsystem\n.",
        b"\x8c\x02os\x8c\x06system\x93.",
        b"c__builtin__\nbytes\n}S'_function'\nNsb.",  # change a function's state
        b"cnumpy\nndarray\n(N}S'__call__'\nI1\nstb.",
        ARRAY + b"(I1\n(I1000000000000\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntRI00\nS'abc'\ntb.",  # a shape of a terabyte
        ARRAY + b"(I1\n(I-3\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntRI00\nS'abc'\ntb.",
        ARRAY + b"(I1\n(I1\ntcnumpy\ndtype\n(S'O'\nI0\nI1\ntRI00\n(lNatb.",
        ARRAY + b"(I1\n(I1\ntNI00\nS'a'\ntb.",
        b"cnumpy\ndtype\n(S'V8'\nI0\nI1\ntR.",
        b"Pelsewhere\n.",
        b"\x82\x01.",  # extension registry
        b"c_codecs\nencode\n(Vabc\nVrot13\ntR.",
        b"r\xff\xff\xff\xff.",  # a memo slot at 4294967295 from an empty stack
        b"Nr\xff\xff\xff\xff",  # the same with something to store, then the end of the file
        b"B\xff\xff\xff\x7fabc.",  # two gigabytes promised
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"",
        b"not a pickle at all",
        b"](a" * 50,
    ],
)
def test_handwritten_attacks_and_damage_are_refused(body: bytes) -> None:
    with pytest.raises(UnsafePickle, match=r"x\.bin"):
        unpickle_plain(body, "x.bin")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2, 3], r"not of \(images, issame\)"),
        ({"a": 1}, r"not of \(images, issame\)"),
        ((IMAGES, 3), "two lists"),
        ((IMAGES, []), "two lists"),
        ((IMAGES[:3], [True]), "3 images for 1 pairs, expected 2"),
        ((["text", b"x"], [True]), "image 0 is a str"),
        ((IMAGES[:2], ["yes"]), "booleans"),
        ((IMAGES[:2], [2]), "booleans"),
    ],
)
def test_pickles_of_something_else(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "x.bin").write_bytes(pickle.dumps(content))
    with pytest.raises(BadList, match=message):
        read_bin(tmp_path / "x.bin")


def test_truncation_anywhere_is_an_error(tmp_path: Path) -> None:
    whole = pickle.dumps(([b"ab", b"cd"], [True]))
    for end in range(len(whole)):
        with pytest.raises(UnsafePickle):
            unpickle_plain(whole[:end], "x.bin")
