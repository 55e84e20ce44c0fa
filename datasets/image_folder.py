"""Anybody's own data: a folder of images, a csv of labels and, for verification, a csv of pairs.

faces/images.csv   path,label[,subject,group,split]      split is train (default), val or test
faces/pairs.csv    a,b,same[,fold]                       same is 0 or 1, a and b are paths of images.csv
faces/...          the images, all of one size

python -m papers.<key> fit --data datasets.image_folder.ImageFolder --data.root ~/my-data
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from datasets import fingerprint
from datasets.catalog import not_found
from datasets.errors import BadList
from datasets.file_names import inside
from datasets.images import ImageFiles, read_all
from datasets.lists import file_name, integer, read_csv
from datasets.memory import MemoryLoader
from datasets.pair_lists import FOLDS, PairList, make, pair_set
from datasets.pairs import PairSet
from datasets.stream import LabelledImages, StreamLoader

SPLITS = ("train", "val", "test")
MOST_FOLDS = 1000


@dataclass(frozen=True)
class Row:
    """One line of `images.csv`; `subject` is the label and `group` is "" where the file has no such column."""

    path: str
    label: str
    subject: str
    group: str
    split: str


def read_images_csv(path: str | Path) -> list[Row]:
    """Rows of `images.csv` in order.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: a column is missing, a wrong field count, an empty path or label, an unknown split, a path that is there
            twice or leads out of the folder.
    """
    rows: list[Row] = []
    seen: set[str] = set()
    for number, row in read_csv("image_folder", path, ("path", "label")):
        subject, split = row.get("subject") or row["label"], row.get("split") or "train"
        found = Row(row["path"], row["label"], subject, row.get("group", ""), split)
        if not found.path or not found.label:
            raise BadList(f"{path}, line {number}: path and label must not be empty.")
        if found.split not in SPLITS:
            raise BadList(f"{path}, line {number}: split is {found.split[:120]!r}, expected train, val or test.")
        if found.path in seen:
            raise BadList(f"{path}, line {number}: {found.path} is named twice.")
        seen.add(file_name(path, number, found.path))
        rows.append(found)
    return rows


def read_pairs_csv(path: str | Path) -> PairList:
    """`pairs.csv`. Without a column `fold`, fold k is the k-th tenth of the genuine and of the impostor pairs.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: a column is missing, a wrong field count, `same` other than 0 or 1, a fold beyond 999, a path that leads
            out of the folder.
    """
    rows: list[tuple[str, str, bool]] = []
    folds: list[int] = []
    for number, row in read_csv("image_folder", path, ("a", "b", "same")):
        if row["same"] not in ("0", "1"):
            raise BadList(f"{path}, line {number}: same is {row['same'][:120]!r}, expected 0 or 1.")
        rows.append((file_name(path, number, row["a"]), file_name(path, number, row["b"]), row["same"] == "1"))
        if "fold" in row:
            folds.append(integer(path, number, row["fold"], 0, MOST_FOLDS - 1))
    if folds:
        return make(rows, np.array(folds))
    same = np.array([row[2] for row in rows])
    fold = np.zeros(len(rows), dtype=np.int64)
    for kind in (True, False):
        at = np.flatnonzero(same == kind)
        fold[at] = np.arange(len(at)) * FOLDS // max(len(at), 1)
    return make(rows, fold)


class ImageFolder(pl.LightningDataModule):
    """Images of a folder with labels from a csv, and pairs from another.

    After `setup()`: `num_classes` and `class_names` (sorted labels of the training images), `group_names` (sorted).
    A pair has a group if both of its images have the same.

    Args:
        root: data root.
        folder: folder of the csv files under it; paths in them are relative to it.
        images: name of the csv of labels; "" takes every .jpg, .jpeg and .png below the folder as an unlabelled training
            image (one class), in the order of their paths.
        pairs: name of the csv of test pairs, "" for none.
        validation_pairs: name of the csv of validation pairs, "" for none.
        height: height that every image must have, in pixels.
        width: width that every image must have, in pixels.
        divisor: pixels enter the network as (x - 127.5) / divisor.
        batch_size: images a training step, over all processes together.
        seed: decides order and flips of the training images, together with the epoch.
        flip: mirror training images with probability 1/2.
        num_workers: processes that decode images if the set is too large for memory.
        in_memory: sets of at most so many images are held as one uint8 tensor.

    Raises (setup):
        DatasetNotFound, BadList, CorruptImage: a file is missing or damaged.
    """

    def __init__(
        self,
        root: str,
        folder: str = "faces",
        images: str = "images.csv",
        pairs: str = "",
        validation_pairs: str = "",
        height: int = 112,
        width: int = 112,
        divisor: float = 127.5,
        batch_size: int = 128,
        seed: int = 0,
        flip: bool = True,
        num_workers: int = 2,
        in_memory: int = 20000,
    ) -> None:
        super().__init__()
        self.root, self.folder = root, folder
        self.lists = {"images": images, "pairs": pairs, "validation_pairs": validation_pairs}
        self.size, self.divisor = (height, width), divisor
        self.batch_size, self.seed, self.flip = batch_size, seed, flip
        self.num_workers, self.in_memory = num_workers, in_memory
        self.num_classes = 0
        self.class_names: tuple[str, ...] = ()
        self.group_names: tuple[str, ...] = ()
        self.rows: list[Row] = []
        self._tensors: dict[str, torch.Tensor] = {}

    @property
    def path(self) -> Path:
        """Folder of the csv files."""
        return Path(self.root).expanduser() / self.folder

    def setup(self, stage: str | None = None) -> None:
        """Read the csv files; images are read when they are asked for."""
        if self.rows:
            return
        self.rows = read_images_csv(self.path / self.lists["images"]) if self.lists["images"] else self._all_images()
        self.class_names = tuple(sorted({row.label for row in self.rows if row.split == "train"}))
        self.num_classes = len(self.class_names)
        self.group_names = tuple(sorted({row.group for row in self.rows} - {""}))

    def _all_images(self) -> list[Row]:
        files = sorted(f for f in self.path.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if not files:
            raise not_found("image_folder", self.path / "*.jpg")
        return [Row(f.relative_to(self.path).as_posix(), "", "", "", "train") for f in files]

    def _images(self, name: str, files: tuple[str, ...]) -> ImageFiles | torch.Tensor:
        images = ImageFiles(self.path, files, self.size)
        if len(files) > self.in_memory:
            return images
        if name not in self._tensors:
            self._tensors[name] = read_all(images)
        return self._tensors[name]

    def split(self, name: str) -> tuple[ImageFiles | torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images, labels int64 [N] and groups int64 [N] (-1 without) of "train", "val" or "test", in the csv's order.

        Raises:
            BadList: the split is empty, or has a label that no training image has.
        """
        self.setup()
        rows = [row for row in self.rows if row.split == name]
        if not rows:
            raise BadList(f"{self.path / self.lists['images']} has no image of the split {name!r}.")
        unknown = sorted({row.label for row in rows} - set(self.class_names))
        if unknown:
            raise BadList(f"{self.path / self.lists['images']}: no training image has the label {unknown[0]!r}.")
        label_codes = {label: code for code, label in enumerate(self.class_names)}
        group_codes = {group: code for code, group in enumerate(self.group_names)} | {"": -1}
        labels = torch.tensor([label_codes[row.label] for row in rows])
        groups = torch.tensor([group_codes[row.group] for row in rows])
        return self._images(name, tuple(row.path for row in rows)), labels, groups

    def _loader(self, name: str, training: bool) -> MemoryLoader | StreamLoader:
        images, labels, _ = self.split(name)
        options = (self.batch_size, self.seed, self.flip and training, training, training, self.divisor)
        # Every process validates on the whole split.
        place: dict[str, Any] = {} if training else {"rank": 0, "world": 1}
        if isinstance(images, torch.Tensor):
            return MemoryLoader(images, labels, *options, **place)
        return StreamLoader(LabelledImages(images, labels), *options, self.num_workers, **place)

    def train_dataloader(self) -> MemoryLoader | StreamLoader:
        """Images float32 [B, 3, H, W] and labels int64 [B] of the split train."""
        return self._loader("train", training=True)

    def val_dataloader(self) -> MemoryLoader | StreamLoader | list[Any]:
        """The split val in the csv's order, without flips; an empty list (no validation) where there is none."""
        self.setup()
        return self._loader("val", training=False) if any(row.split == "val" for row in self.rows) else []

    def _pair_set(self, name: str) -> dict[str, PairSet]:
        self.setup()
        if not self.lists[name]:
            return {}
        path = self.path / self.lists[name]
        pairs = read_pairs_csv(path)
        by_path = {row.path: row for row in self.rows}
        files = tuple(file for file in pairs.files() if file in by_path)
        codes = {group: code for code, group in enumerate(self.group_names)} | {"": -1}
        images = self._images(name, files)

        def subject(file: str) -> str:
            return by_path[file].subject

        def group(file: str) -> int:
            return codes[by_path[file].group]

        try:
            found = pair_set(path.stem, pairs, images, files, subject, group, self.group_names, self.divisor)
        except ValueError as error:
            raise BadList(f"{path} and {self.path / self.lists['images']} do not fit together: {error}") from error
        return {path.stem: found}

    def pair_sets(self) -> dict[str, PairSet]:
        """The test pairs by the name of their file, e.g. {"pairs": ...}; empty without one."""
        return self._pair_set("pairs")

    def validation_pair_sets(self) -> dict[str, PairSet]:
        """The validation pairs by the name of their file; empty without one."""
        return self._pair_set("validation_pairs")

    def fingerprint(self) -> dict[str, Any]:
        """Checksums of the csv files and of every image's bytes."""
        self.setup()
        return {
            "dataset": "image_folder",
            "lists": {k: fingerprint.of_file(self.path / name) for k, name in self.lists.items() if name},
            "images": fingerprint.of_names(fingerprint.of_file(inside(self.path, row.path)) for row in self.rows),
            "size": self.size,
            "divisor": self.divisor,
        }
