"""FairFace: faces with perceived age, gender and race, for attribute classification and as faces without identities.

K. Karkkainen, J. Joo, "FairFace: Face Attribute Dataset for Balanced Race, Gender, and Age", WACV 2021.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image

from datasets import fingerprint
from datasets.alignment import similarity, warp
from datasets.errors import BadList, CorruptImage
from datasets.images import CENTRE_96, ImageFiles, read_all
from datasets.lists import file_name, read_csv
from datasets.memory import MemoryLoader
from datasets.pairs import PairSet
from datasets.stream import LabelledImages, StreamLoader


class Age(IntEnum):
    """Age bands in ascending order."""

    FROM_0_TO_2 = 0
    FROM_3_TO_9 = 1
    FROM_10_TO_19 = 2
    FROM_20_TO_29 = 3
    FROM_30_TO_39 = 4
    FROM_40_TO_49 = 5
    FROM_50_TO_59 = 6
    FROM_60_TO_69 = 7
    MORE_THAN_70 = 8


class Gender(IntEnum):
    """Perceived gender, the authors' order."""

    MALE = 0
    FEMALE = 1


class Race(IntEnum):
    """Perceived race, the authors' order of the outputs of their model."""

    WHITE = 0
    BLACK = 1
    LATINO_HISPANIC = 2
    EAST_ASIAN = 3
    SOUTHEAST_ASIAN = 4
    INDIAN = 5
    MIDDLE_EASTERN = 6


AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
GENDERS = ("Male", "Female")
RACES = ("White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian", "Middle Eastern")
NAMES = {"age": AGES, "gender": GENDERS, "race": RACES}

#: what a spreadsheet makes of the age bands 3-9 and 10-19 when it takes them for dates
SPREADSHEET_AGES = {
    "03-Sep": "3-9", "3-Sep": "3-9", "Sep-03": "3-9", "09-Mar": "3-9", "9-Mar": "3-9",
    "Oct-19": "10-19", "19-Oct": "10-19",
}  # fmt: skip

#: Eyes and mouth corners (x, y): the darkest spots of the average of 1,200 chips of 224x224 with a margin of 0.25, and
#: the same spots of the average of 1,200 LFW images aligned to ArcFace's template. The chip lacks forehead.
CHIP_POINTS = np.array([[70.0, 67.0], [150.0, 67.0], [80.0, 152.0], [140.0, 152.0]])
ALIGNED_POINTS = np.array([[38.0, 51.5], [73.0, 51.5], [44.0, 90.0], [67.0, 90.0]])
CHIP_MARGIN = 64  # border that is mirrored outwards before the crop


@dataclass(frozen=True)
class Labels:
    """Rows of a label file: files in order, and codes int64 [N] of age, gender and race; -1 is never used."""

    files: tuple[str, ...]
    age: np.ndarray
    gender: np.ndarray
    race: np.ndarray
    service_test: np.ndarray

    def select(self, keep: np.ndarray) -> Labels:
        """The rows where `keep` bool [N] is True."""
        at = np.flatnonzero(keep)
        columns = (self.age, self.gender, self.race, self.service_test)
        return Labels(tuple(self.files[i] for i in at), *(column[at] for column in columns))


def read_labels(path: str | Path, repair_ages: bool = False) -> Labels:
    """`fairface_label_{train,val}.csv`: header `file,age,gender,race,service_test`.

    Args:
        path: the file.
        repair_ages: read `03-Sep` as 3-9 and `Oct-19` as 10-19, which is what spreadsheets turn these bands into.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: a column is missing, a wrong field count, an unknown label, a name that is no file's or is there twice,
            or an age that a spreadsheet has turned into a date while `repair_ages` is off.
    """
    files: list[str] = []
    codes: dict[str, list[int]] = {"age": [], "gender": [], "race": [], "service_test": []}
    for number, row in read_csv("fairface", path, ("file", "age", "gender", "race", "service_test")):
        if row["age"] in SPREADSHEET_AGES:
            if not repair_ages:
                raise BadList(
                    f"{path}, line {number}: the age {row['age']!r} is {SPREADSHEET_AGES[row['age']]!r} after a "
                    "spreadsheet took it for a date. Get the original file, or set repair_ages=True to read it as that."
                )
            row["age"] = SPREADSHEET_AGES[row["age"]]
        for column, names in NAMES.items():
            if row[column] not in names:
                allowed = ", ".join(names)
                raise BadList(f"{path}, line {number}: {column} is {row[column][:120]!r}, expected one of {allowed}.")
            codes[column].append(names.index(row[column]))
        if row["service_test"].lower() not in ("true", "false"):
            raise BadList(
                f"{path}, line {number}: service_test is {row['service_test'][:120]!r}, expected True or False."
            )
        codes["service_test"].append(row["service_test"].lower() == "true")
        files.append(file_name(path, number, row["file"]))
    twice = [file for file, times in Counter(files).items() if times > 1]
    if twice:
        raise BadList(f"{path} names {twice[0]} twice.")
    arrays = {column: np.array(values, dtype=np.int64) for column, values in codes.items()}
    return Labels(tuple(files), arrays["age"], arrays["gender"], arrays["race"], arrays["service_test"].astype(bool))


def chip_to_112(image: Image.Image, file: str) -> Image.Image:
    """A chip of 224x224 (margin 0.25) -> 112x112 with eyes and mouth about where ArcFace's template has them.

    One fixed similarity transform for all chips (dlib has aligned them already), from `CHIP_POINTS` to
    `ALIGNED_POINTS`: 2.3 chip pixels become one. What lies outside the chip, a fifth of the height at the top and a
    fifteenth at either side, is the mirror image of its border.

    Raises:
        CorruptImage: another size.
    """
    if image.size != (224, 224):
        raise CorruptImage(f"{file}: the chip is {image.height} x {image.width}, expected 224 x 224 (margin 0.25).")
    pixels = np.pad(np.asarray(image), ((CHIP_MARGIN, CHIP_MARGIN), (CHIP_MARGIN, CHIP_MARGIN), (0, 0)), "reflect")
    # average two by two pixels first, or fine texture turns into noise; pixel i of the half image lies at 2 i + 0.5
    half = Image.fromarray(pixels).reduce(2)
    return warp(half, similarity((CHIP_POINTS + CHIP_MARGIN - 0.5) / 2, ALIGNED_POINTS), 112)


class FairFace(pl.LightningDataModule):
    """FairFace for attribute classification, or as faces without identities.

    After `setup()`: `num_classes` (values of `target`), `class_names`, `group_names` (values of `group`). There are no
    identities, so there are no pair sets and no split by subject.

    Args:
        root: data root.
        folder: folder of the set under it.
        target: the label of a batch: "race", "gender" or "age".
        group: the demographic group of an image: "race", "gender" or "age".
        crop: "template" (112x112, like ArcFace's template, see `chip_to_112`) or "chip" (224x224 as published).
        width: 112, or 96 to keep the columns 8..103 of the template crop.
        divisor: pixels enter the network as (x - 127.5) / divisor.
        repair_ages: see `read_labels`.
        batch_size: images a training step, over all processes together.
        seed: decides order and flips of the training images, together with the epoch.
        flip: mirror training images with probability 1/2.
        num_workers: processes that decode images if the set is too large for memory.
        in_memory: sets of at most so many images are held as one uint8 tensor.

    Raises:
        ValueError: another target, group, crop or width.
        DatasetNotFound, BadList, CorruptImage (setup): a file is missing or damaged.
    """

    def __init__(
        self,
        root: str,
        folder: str = "fairface",
        target: str = "race",
        group: str = "race",
        crop: str = "template",
        width: int = 112,
        divisor: float = 127.5,
        repair_ages: bool = False,
        batch_size: int = 128,
        seed: int = 0,
        flip: bool = True,
        num_workers: int = 2,
        in_memory: int = 20000,
    ) -> None:
        super().__init__()
        if target not in NAMES or group not in NAMES:
            raise ValueError(f"target and group must be race, gender or age, got {target!r} and {group!r}.")
        if crop not in ("template", "chip") or width not in (112, 96) or (crop == "chip" and width == 96):
            raise ValueError(f"crop must be template (width 112 or 96) or chip, got {crop!r} and width {width}.")
        self.root, self.folder, self.target, self.group, self.crop = root, folder, target, group, crop
        self.columns = CENTRE_96 if width == 96 else None
        self.divisor, self.repair_ages = divisor, repair_ages
        self.batch_size, self.seed, self.flip = batch_size, seed, flip
        self.num_workers, self.in_memory = num_workers, in_memory
        self.class_names, self.group_names = NAMES[target], NAMES[group]
        self.num_classes = len(self.class_names)
        self._images: dict[str, ImageFiles | torch.Tensor] = {}
        self.labels: dict[str, Labels] = {}

    @property
    def path(self) -> Path:
        """Folder of the set."""
        return Path(self.root).expanduser() / self.folder

    def setup(self, stage: str | None = None) -> None:
        """Read the label files; images are read when they are asked for."""
        for split in ("train", "val"):
            if split not in self.labels:
                self.labels[split] = read_labels(self.path / f"fairface_label_{split}.csv", self.repair_ages)

    def images(self, split: str) -> ImageFiles | torch.Tensor:
        """Images of "train" or "val" in the order of the label file: uint8 [N, 3, H, W], or lazy if there are many."""
        self.setup()
        if split not in self._images:
            template = self.crop == "template"
            size, prepare = ((112, 112), chip_to_112) if template else ((224, 224), None)
            files = ImageFiles(self.path, self.labels[split].files, size, self.columns, prepare)
            self._images[split] = read_all(files) if len(files) <= self.in_memory else files
        return self._images[split]

    def codes(self, split: str, column: str) -> np.ndarray:
        """Codes int64 [N] of "race", "gender" or "age" in the order of `images(split)`."""
        self.setup()
        codes: np.ndarray = getattr(self.labels[split], column)
        return codes

    def _loader(self, split: str, training: bool) -> MemoryLoader | StreamLoader:
        images, labels = self.images(split), torch.from_numpy(self.codes(split, self.target))
        options = (self.batch_size, self.seed, self.flip and training, training, training, self.divisor)
        # Every process validates on the whole part.
        place: dict[str, Any] = {} if training else {"rank": 0, "world": 1}
        if isinstance(images, torch.Tensor):
            return MemoryLoader(images, labels, *options, **place)
        return StreamLoader(LabelledImages(images, labels), *options, self.num_workers, **place)

    def train_dataloader(self) -> MemoryLoader | StreamLoader:
        """Images float32 [B, 3, H, W] of the training part and codes int64 [B] of `target`."""
        return self._loader("train", training=True)

    def val_dataloader(self) -> MemoryLoader | StreamLoader:
        """The validation part in the order of its label file, without flips."""
        return self._loader("val", training=False)

    def pair_sets(self) -> dict[str, PairSet]:
        """Empty: FairFace has no identities."""
        return {}

    def validation_pair_sets(self) -> dict[str, PairSet]:
        """Empty: FairFace has no identities."""
        return {}

    def fingerprint(self) -> dict[str, Any]:
        """Label files and options."""
        self.setup()
        return {
            "dataset": "fairface",
            "labels": {s: fingerprint.of_file(self.path / f"fairface_label_{s}.csv") for s in ("train", "val")},
            "images": {split: len(labels.files) for split, labels in self.labels.items()},
            "crop": self.crop,
            "chip_points": CHIP_POINTS.tolist() if self.crop == "template" else None,
            "columns": self.columns,
            "target": self.target,
            "divisor": self.divisor,
        }


def cells(labels: Labels, columns: Sequence[str] = ("race", "gender")) -> np.ndarray:
    """Index int64 [N] of every image's intersection of labels (race x gender by default), row-major."""
    index = np.zeros(len(labels.files), dtype=np.int64)
    for column in columns:
        index = index * len(NAMES[column]) + getattr(labels, column)
    return index
