"""Tiny-ImageNet, and folders of ImageNet's form: one folder a class, read from disk while training.

O. Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015. Tiny-ImageNet: Stanford, CS231n.
Neither has labelled test images for everybody: the published validation images are the test part here, and the
validation part is cut from the training images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.catalog import not_found, require
from datasets.classification import IMAGENET_MEAN, IMAGENET_STD
from datasets.errors import BadList
from datasets.file_names import read_regular
from datasets.images import ImageFiles, read_all
from datasets.lists import file_name, integer, read_lines, split
from datasets.matlab import Cells, DamagedMatlab, read_matlab
from datasets.splits import ImagesInMemory, Part, Published

SUFFIXES = (".jpeg", ".jpg", ".png")
DEVKIT = "ILSVRC2012_devkit_t12/data"
KIT_FIELDS = ("ILSVRC2012_ID", "WNID", "num_children")


@dataclass(frozen=True)
class Listed:
    """Image files as paths relative to a folder, in order, and their labels int64 [N]."""

    files: tuple[str, ...]
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.files)

    def select(self, index: np.ndarray) -> Listed:
        """The files at `index` int64 [M], in that order."""
        return Listed(tuple(self.files[i] for i in index), self.labels[torch.from_numpy(index)])


def image_files(folder: Path) -> list[str]:
    """Names of the images in a folder, sorted."""
    return sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES)


def class_folders(key: str, folder: Path, inside: str = "") -> tuple[Listed, tuple[str, ...]]:
    """Images of `<folder>/<class>/<inside>/`, classes and files sorted by name: paths relative to `folder`, class names.

    Raises:
        DatasetNotFound: no folder, no class in it, or a class without an image.
    """
    classes = sorted(entry.name for entry in require(key, folder).iterdir() if entry.is_dir())
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        here = require(key, folder / name / inside)
        found = image_files(here)
        if not found:
            raise not_found(key, here / "*.JPEG")
        files += [Path(name, inside, file).as_posix() for file in found]
        labels += [label] * len(found)
    if not classes:
        raise not_found(key, folder / "<class>")
    return Listed(tuple(files), torch.tensor(labels)), tuple(classes)


def read_tiny_validation(folder: Path, classes: Sequence[str]) -> Listed:
    """`val/val_annotations.txt` (tab-separated: file, class, box) as paths relative to `folder`, in the file's order.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: a wrong field count, a class that has no training images, or a file name with a folder in it.
    """
    path = folder / "val" / "val_annotations.txt"
    codes = {name: label for label, name in enumerate(classes)}
    files, labels = [], []
    for number, line in enumerate(read_lines("tiny_imagenet", path), 1):
        name, wnid, *_ = split(path, number, line, (6,))
        if wnid not in codes or "/" in name:
            raise BadList(
                f"{path}, line {number}: {wnid[:80]!r} is no class of the training images, or {name[:80]!r} no file name."
            )
        files.append("val/images/" + file_name(path, number, name))
        labels.append(codes[wnid])
    return Listed(tuple(files), torch.tensor(labels))


def read_ground_truth(folder: Path, classes: Sequence[str]) -> torch.Tensor:
    """Labels int64 [N] of `ILSVRC2012_val_00000001.JPEG`, ... from the development kit, as indices of `classes`.

    The kit numbers the classes by its own ids, which are not the order of the sorted names; `meta.mat` translates.

    Raises:
        DatasetNotFound: the kit is not there.
        BadList: `meta.mat` is not the kit's, or an id or a class that is not among the others.
    """
    names = _kit_names(require("imagenet", folder / DEVKIT / "meta.mat"))
    codes = {name: label for label, name in enumerate(classes)}
    path = folder / DEVKIT / "ILSVRC2012_validation_ground_truth.txt"
    labels = []
    for number, line in enumerate(read_lines("imagenet", path), 1):
        name = names.get(integer(path, number, line.strip(), 1))
        if name not in codes:
            raise BadList(f"{path}, line {number}: id {line.strip()} is {name}, which has no training images.")
        labels.append(codes[name])
    return torch.tensor(labels)


def _kit_names(path: Path) -> dict[int, str]:
    """Id -> name of the classes that no other class is below."""
    try:
        synsets = read_matlab(read_regular(path)).get("synsets")
        if not isinstance(synsets, Cells) or not set(KIT_FIELDS) <= set(synsets.fields):
            raise DamagedMatlab(f"it has no structure 'synsets' with {', '.join(KIT_FIELDS)}")
        rows = [[dict(zip(synsets.fields, item, strict=True))[field] for field in KIT_FIELDS] for item in synsets.items]
        return {_number(i): _text(name) for i, name, below in rows if not _number(below)}
    except DamagedMatlab as error:
        raise BadList(f"{path} is not ImageNet's meta.mat: {error}. Get the development kit again.") from error


def _number(value: Any) -> int:
    if not isinstance(value, np.ndarray) or value.size != 1 or not np.isfinite(value).all():
        raise DamagedMatlab("a class has no number where its id or its number of children belongs")
    return int(value.item())


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise DamagedMatlab("a class has no name")
    return value


class TinyImageNet(ImagesInMemory):
    """Tiny-ImageNet, 100,000 + 10,000 colour images of 64x64 in 200 classes: `<root>/tiny-imagenet-200/...`.

    All of it is decoded into memory (1.4 GB). Held out: 10,000 training images; the test part are the published
    validation images. Training images are cut out of a black border of 4 pixels and mirrored.
    """

    KEY, VALIDATION, CROP, FLIP = "tiny_imagenet", 10000, 4, True
    MEAN, STD = IMAGENET_MEAN, IMAGENET_STD
    num_classes, image_size = 200, (64, 64)

    def read(self) -> Published:
        """All images.

        Raises:
            DatasetNotFound, BadList, CorruptImage: a file is missing or damaged.
        """
        folder = self.path / "tiny-imagenet-200"
        train, classes = class_folders(self.KEY, folder / "train", "images")
        test = read_tiny_validation(folder, classes)
        notes = [
            f"{folder}: {len(found)} {name} images, published are {expected}."
            for name, found, expected in (("training", train, 100000), ("validation", test, 10000))
            if len(found) != expected
        ]
        parts = [self._pixels(folder / "train", train), self._pixels(folder, test)]
        return Published(parts[0], parts[1], classes, tuple(notes))

    def _pixels(self, folder: Path, listed: Listed) -> Part:
        images = read_all(ImageFiles(folder, listed.files, self.image_size))
        return Part(images.contiguous(memory_format=torch.channels_last), listed.labels)
