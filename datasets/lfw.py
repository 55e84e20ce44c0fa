"""Labeled Faces in the Wild: the 6,000-pair protocol on aligned 112x112 crops, and its folds as training images."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from datasets import fingerprint
from datasets.errors import BadList
from datasets.images import CENTRE_96, ImageFiles, read_all
from datasets.lists import read_csv
from datasets.memory import MemoryLoader
from datasets.pair_lists import MOST_IMAGES, lfw_image, pair_set, read_lfw_pairs, read_lfw_people
from datasets.pairs import PairSet

GENDERS = {"F": 0, "M": 1}
GENDER_NAMES = ("female", "male")


def person(file: str) -> str:
    """Identity of an image: `Person/Person_0001.jpg` -> `Person`."""
    return file.split("/")[0]


def read_gender(path: str | Path) -> dict[str, int]:
    """`gender.csv` (header file,gender; F, M or nothing) -> {person: 0 female, 1 male, -1 unknown}, by majority.

    The labels are annotators' perception of a binary gender (AFIF4: Afifi and Abdelhamed, arXiv:1706.04277).

    Raises:
        DatasetNotFound: there is no such file.
        BadList: a column is missing, a field too many, another label.
    """
    votes: dict[str, Counter[str]] = {}
    for number, row in read_csv("lfw", path, ("file", "gender")):
        if row["gender"] not in ("F", "M", ""):
            raise BadList(f"{path}, line {number}: gender is {row['gender'][:120]!r}, expected F, M or nothing.")
        votes.setdefault(person(row["file"]), Counter())[row["gender"]] += 1
    found = {}
    for name, counts in votes.items():
        female, male = counts["F"], counts["M"]
        found[name] = -1 if female == male else GENDERS["F"] if female > male else GENDERS["M"]
    return found


def _images_of(folder: Path, name: str, count: int) -> list[str]:
    """Those of a person's `count` images that are in the folder."""
    try:
        present = set(os.listdir(folder / name))
    except OSError:  # nobody of that name
        return []
    named = (lfw_image(name, number) for number in range(1, min(count, MOST_IMAGES) + 1))
    return [file for file in named if file.removeprefix(f"{name}/") in present]


class LFW(pl.LightningDataModule):
    """LFW, aligned to 112x112 with the five-point template.

    The test set is the 10-fold protocol of `pairs.txt`. The folds of `people.txt` are disjoint in identities, so the
    images of some folds may serve as training images (with or without their labels) and the other folds as the test
    ("unrestricted" setting of the LFW README); a fold in `train_folds` is never tested.

    After `setup()`: `num_classes` (identities among the training images, 0 without `train_folds`), `group_names`.
    The groups of a pair: perceived gender if both people have the same, else none. All images lie in one uint8 tensor.

    Args:
        root: data root.
        folder: folder of the set under it.
        train_folds: folds (0..9) whose people are the training images; () for none.
        test_folds: folds of the pair set; () for all that are not in `train_folds`. They keep their official numbers.
        width: 112, or 96 to keep the columns 8..103 for networks that read 112x96.
        divisor: pixels enter the network as (x - 127.5) / divisor.
        groups: "gender" (from `gender.csv`, optional) or "none".
        batch_size: images a training step, over all processes together.
        seed: decides order and flips of the training images, together with the epoch.
        flip: mirror training images with probability 1/2.

    Raises:
        ValueError: a fold in both parts or outside 0..9, another width or grouping.
        DatasetNotFound, BadList, CorruptImage (setup): a file is missing or damaged.
    """

    def __init__(
        self,
        root: str,
        folder: str = "lfw_112",
        train_folds: tuple[int, ...] = (),
        test_folds: tuple[int, ...] = (),
        width: int = 112,
        divisor: float = 127.5,
        groups: str = "gender",
        batch_size: int = 128,
        seed: int = 0,
        flip: bool = True,
    ) -> None:
        super().__init__()
        train, test = tuple(sorted(set(train_folds))), tuple(sorted(set(test_folds)))
        if set(train) & set(test):
            raise ValueError(f"The folds {sorted(set(train) & set(test))} are both trained on and tested.")
        if not set(train) | set(test) <= set(range(10)):
            raise ValueError(f"LFW has the folds 0..9, got train_folds={train}, test_folds={test}.")
        if width not in (112, 96) or groups not in ("gender", "none"):
            raise ValueError(f"width must be 112 or 96 and groups gender or none, got {width} and {groups!r}.")
        self.root, self.folder = root, folder
        self.train_folds = train
        self.test_folds = test or tuple(fold for fold in range(10) if fold not in train)
        self.columns = CENTRE_96 if width == 96 else None
        self.divisor, self.groups = divisor, groups
        self.batch_size, self.seed, self.flip = batch_size, seed, flip
        self.num_classes = 0
        self.group_names: tuple[str, ...] = ()
        self._ready = False

    @property
    def path(self) -> Path:
        """Folder of the set."""
        return Path(self.root).expanduser() / self.folder

    def setup(self, stage: str | None = None) -> None:
        """Read the lists and all images that they need."""
        if self._ready:
            return
        pairs = read_lfw_pairs(self.path / "pairs.txt")
        self.people = read_lfw_people(self.path / "people.txt")
        self.pairs = pairs.select(np.isin(pairs.fold, self.test_folds))
        self._check_disjoint()
        has_gender = self.groups == "gender" and (self.path / "gender.csv").exists()
        self.gender = read_gender(self.path / "gender.csv") if has_gender else {}
        self.group_names = GENDER_NAMES if has_gender else ()
        test = self.pairs.files()
        self.train_files = self._train_files()
        self.files = tuple(sorted({*test, *self.train_files}))
        self.images = read_all(ImageFiles(self.path, self.files, (112, 112), self.columns))
        names = sorted({person(file) for file in self.train_files})
        self.num_classes = len(names)
        self._class = {name: k for k, name in enumerate(names)}
        self._ready = True

    def _check_disjoint(self) -> None:
        """No person of a tested pair may belong to a fold that is trained on."""
        for file in self.pairs.files():
            fold, _ = self.people.get(person(file), (-1, 0))
            if fold in self.train_folds:
                raise BadList(
                    f"{self.path / 'people.txt'} puts {person(file)} into fold {fold}, which is trained on, but "
                    f"{self.path / 'pairs.txt'} tests {file} in another fold. Get both lists again from LFW's site."
                )

    def _train_files(self) -> tuple[str, ...]:
        """The images of the training folds that are in the folder, sorted by path."""
        files = [
            file
            for name, (fold, count) in self.people.items()
            if fold in self.train_folds
            for file in _images_of(self.path, name, count)
        ]
        return tuple(sorted(files))

    def train_images(self) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [M, 3, H, W] and identities int64 [M] (0..num_classes - 1) of the training folds.

        Raises:
            ValueError: no `train_folds`, or none of their images is in the folder.
        """
        self.setup()
        if not self.train_files:
            raise ValueError("LFW has nothing to train on: no train_folds, or their images are not in the folder.")
        at = {file: i for i, file in enumerate(self.files)}
        index = torch.tensor([at[file] for file in self.train_files])
        return self.images[index], torch.tensor([self._class[person(file)] for file in self.train_files])

    def train_dataloader(self) -> MemoryLoader:
        """Images float32 [B, 3, H, W] of the training folds and identities int64 [B]."""
        images, labels = self.train_images()
        return MemoryLoader(images, labels, self.batch_size, self.seed, self.flip, divisor=self.divisor)

    def pair_sets(self) -> dict[str, PairSet]:
        """{"lfw": pairs of the tested folds}."""
        self.setup()

        def group(file: str) -> int:
            return self.gender.get(person(file), -1)

        pairs = pair_set(
            "lfw", self.pairs, self.images, self.files, person, group, self.group_names, divisor=self.divisor
        )
        return {"lfw": pairs}

    def validation_pair_sets(self) -> dict[str, PairSet]:
        """Empty: every fold is either trained on or tested."""
        return {}

    def fingerprint(self) -> dict[str, Any]:
        """Pairs, files, pixels, genders and options."""
        self.setup()
        return {
            "dataset": "lfw",
            "pairs": self.pairs.fingerprint(),
            "files": fingerprint.of_names(self.files),
            "pixels": fingerprint.of_arrays(self.images.numpy()),
            "gender": fingerprint.of_names(f"{name}={value}" for name, value in sorted(self.gender.items())),
            "train_folds": self.train_folds,
            "test_folds": self.test_folds,
            "train_images": len(self.train_files),
            "columns": self.columns,
            "divisor": self.divisor,
        }
