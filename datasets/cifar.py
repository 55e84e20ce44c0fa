"""CIFAR-10 and CIFAR-100 as their makers publish them: the "python version" (pickles), the binary version, or a .tar.gz.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report, University of Toronto, 2009.

Nothing is unpickled that could run code, nothing is written to disk, and a batch is believed only where sizes and labels
fit together. Copies whose batches hold other bytes than the published ones are read too, with a note.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datasets.archive import read_members
from datasets.catalog import not_found
from datasets.plain_pickle import PlainArray, unpickle_plain

SIDE = 32
PIXELS = 3 * SIDE * SIDE
LARGEST_IMAGE = 8192  # bytes of an image and its name in a pickle, at most: Python 2 text doubles some bytes
AGAIN = "Get the file again from its makers."


class CorruptBatch(ValueError):
    """A file of a CIFAR set does not hold what it must. The message names the file, what was expected and found."""


@dataclass(frozen=True)
class Version:
    """One published form: its folder, its files, and their md5 (the python version only)."""

    folder: str
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str  # the file of the class names
    binary: bool = False
    published: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """What a set has: classes, images a training and a test file, keys of its labels and label names, its versions."""

    key: str
    classes: int
    images: tuple[int, int]
    labels: str
    names: str
    column: int  # of the label in a binary record
    columns: int
    versions: tuple[Version, ...]


@dataclass(frozen=True)
class Part:
    """Training or test part: `images` uint8 [N, 3, 32, 32] (RGB) and `labels` int64 [N], in the order of the files."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Cifar:
    """Both parts, the names of the classes, where they were read, and what differs from the published files."""

    train: Part
    test: Part
    class_names: tuple[str, ...]
    source: Path
    notes: tuple[str, ...]


BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR10 = (
    Version("cifar-10-batches-py", "cifar-10-python.tar.gz", BATCHES, ("test_batch",), "batches.meta", published={
        "data_batch_1": "c99cafc152244af753f735de768cd75f", "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751", "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb", "test_batch": "40351d587109b95175f43aff81a1287e",
    }),
    Version("cifar-10-batches-bin", "cifar-10-binary.tar.gz", tuple(f"{name}.bin" for name in BATCHES),
            ("test_batch.bin",), "batches.meta.txt", binary=True),
)  # fmt: skip
CIFAR100 = (
    Version("cifar-100-python", "cifar-100-python.tar.gz", ("train",), ("test",), "meta", published={
        "train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    }),
    Version("cifar-100-binary", "cifar-100-binary.tar.gz", ("train.bin",), ("test.bin",), "{names}.txt", binary=True),
)  # fmt: skip
KINDS = {
    "cifar10": Kind("cifar10", 10, (10000, 10000), "labels", "label_names", 0, 1, CIFAR10),
    "cifar100": Kind("cifar100", 100, (50000, 10000), "fine_labels", "fine_label_names", 1, 2, CIFAR100),
    "cifar100_coarse": Kind("cifar100", 20, (50000, 10000), "coarse_labels", "coarse_label_names", 0, 2, CIFAR100),
}


def read_cifar(root: str | Path, kind: str = "cifar10") -> Cifar:
    """Both parts of a set below the data root: the first of its python folder, binary folder, and their archives.

    Args:
        root: data root.
        kind: "cifar10", "cifar100" (100 fine labels) or "cifar100_coarse" (20 superclasses).

    Raises:
        ValueError: another kind.
        DatasetNotFound: none of the four is there, or one of its files is missing.
        CorruptBatch, UnsafePickle, CorruptArchive: a file is damaged or is not what it says.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}.")
    what, root = KINDS[kind], Path(root).expanduser()
    for version in what.versions:
        if (root / version.folder).is_dir():
            return _read(what, version, root / version.folder, _folder_files(what, version, root / version.folder))
    for version in what.versions:
        if (root / version.archive).is_file():
            return _read(what, version, root / version.archive, _archive_files(what, version, root / version.archive))
    raise not_found(what.key, root / what.versions[0].folder)


def _files(what: Kind, version: Version) -> tuple[str, ...]:
    return (version.names.format(names=what.names), *version.train, *version.test)


def _folder_files(what: Kind, version: Version, folder: Path) -> Iterator[tuple[str, bytes]]:
    for name in _files(what, version):
        path = folder / name
        if not path.is_file():
            raise not_found(what.key, path)
        limit = LARGEST_IMAGE * max(what.images)
        if path.stat().st_size > limit:
            raise CorruptBatch(f"{path}: {path.stat().st_size} bytes, expected at most {limit}. {AGAIN}")
        yield name, path.read_bytes()


def _archive_files(what: Kind, version: Version, archive: Path) -> Iterator[tuple[str, bytes]]:
    names = {f"{version.folder}/{name}": name for name in _files(what, version)}
    for member, data in read_members(archive, names):
        yield names.pop(member), data
    if names:
        raise not_found(what.key, f"{archive}/{next(iter(names))}")


def _read(what: Kind, version: Version, source: Path, files: Iterator[tuple[str, bytes]]) -> Cifar:
    parts: dict[str, Part] = {}
    class_names: tuple[str, ...] = ()
    notes: list[str] = []
    others = 0
    for name, data in files:
        where = f"{source}/{name}"
        if name not in (*version.train, *version.test):
            class_names = parse_class_names(data, where, what, version.binary)
            continue
        parts[name] = parse_batch(data, where, what, version.binary)
        expected, found = what.images[name in version.test], len(parts[name].labels)
        if found != expected:
            notes.append(f"{where}: {found} images, published are {expected}.")
        others += name in version.published and _md5(data) != version.published[name]
    if others:
        notes.append(
            f"{source}: {others} of {len(version.published)} batch files are not the published ones (md5): another copy, "
            "whose images may come in another order."
        )
    return Cifar(
        _joined([parts[name] for name in version.train]),
        _joined([parts[name] for name in version.test]),
        class_names,
        source,
        tuple(notes),
    )


def parse_batch(data: bytes, where: str, what: Kind, binary: bool) -> Part:
    """One batch file; `where` begins the message of an error.

    Raises:
        CorruptBatch: no images, a wrong length, not one label an image, a label out of range.
        UnsafePickle: the pickle asks for anything but plain data, or is damaged.
    """
    pixels, labels = _binary_batch(data, where, what) if binary else _python_batch(data, where, what)
    if len(labels) != len(pixels) or not len(pixels):
        raise CorruptBatch(
            f"{where}: {len(pixels)} images and {len(labels)} labels, expected one label an image. {AGAIN}"
        )
    if labels.min() < 0 or labels.max() >= what.classes:
        raise CorruptBatch(
            f"{where}: labels from {labels.min()} to {labels.max()}, expected are 0 to {what.classes - 1}. {AGAIN}"
        )
    return Part(pixels.reshape(-1, 3, SIDE, SIDE), labels)


def _binary_batch(data: bytes, where: str, what: Kind) -> tuple[np.ndarray, np.ndarray]:
    record = what.columns + PIXELS
    if len(data) % record:
        raise CorruptBatch(f"{where}: {len(data)} bytes, expected a multiple of {record} (labels and pixels). {AGAIN}")
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    return records[:, what.columns :], records[:, what.column].astype(np.int64)


def _python_batch(data: bytes, where: str, what: Kind) -> tuple[np.ndarray, np.ndarray]:
    found = _dictionary(data, where)
    pixels = found["data"].array if isinstance(found.get("data"), PlainArray) else None
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != PIXELS:
        shape = "no array" if pixels is None else f"{pixels.dtype} {list(pixels.shape)}"
        raise CorruptBatch(f"{where}: 'data' is {shape}, expected uint8 [N, {PIXELS}]. {AGAIN}")
    labels = found.get(what.labels)
    if isinstance(labels, PlainArray) and labels.array.ndim == 1 and labels.array.dtype.kind in "iu":
        return pixels, labels.array.astype(np.int64)
    if not isinstance(labels, list) or any(type(label) is not int or abs(label) > 255 for label in labels):
        raise CorruptBatch(f"{where}: {what.labels!r} is no list of integers. {AGAIN}")
    return pixels, np.array(labels, dtype=np.int64)


def parse_class_names(data: bytes, where: str, what: Kind, binary: bool) -> tuple[str, ...]:
    """Names of the classes in order of their labels.

    Raises:
        CorruptBatch: another number of names, or no names.
        UnsafePickle: the pickle asks for anything but plain data, or is damaged.
    """
    names: Any = data.decode("latin1").split() if binary else _dictionary(data, where).get(what.names)
    names = [_text(name) for name in names] if isinstance(names, (list, tuple)) else []
    if len(names) != what.classes or any(not re.fullmatch(r"[\w-]{1,40}", name) for name in names):
        raise CorruptBatch(f"{where}: {len(names)} class names in {what.names!r}, expected {what.classes}. {AGAIN}")
    return tuple(names)


def _dictionary(data: bytes, where: str) -> dict[str, Any]:
    found = unpickle_plain(data, where)
    if not isinstance(found, dict):
        raise CorruptBatch(f"{where}: the pickle holds a {type(found).__name__}, expected a dict. {AGAIN}")
    return {_text(key): value for key, value in found.items()}


def _text(value: Any) -> str:
    if isinstance(value, bytes):  # a string of Python 2
        return value.decode("latin1")
    return value if isinstance(value, str) else ""


def _joined(parts: list[Part]) -> Part:
    return Part(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
