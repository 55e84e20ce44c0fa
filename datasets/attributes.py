"""Images with attributes to predict and demographic groups to compare: what every face attribute set of the suite looks like.

The attribute that a network predicts and the group that it must not treat worse are different columns, or, where the race of
a face is predicted and compared, the same one. Groups are what the data set's makers wrote down ("perceived race"), never
ground truth.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch

from datasets import fingerprint
from datasets.attribute_batches import AttributeBatches, AttributeLoader, AttributePart, Augment
from datasets.augmentation import Normalisation
from datasets.classification import IMAGENET_MEAN, IMAGENET_STD

PARTS = ("train", "validation", "test")
TIMES = " x "  # between the columns of an intersection


@dataclass(frozen=True)
class Task:
    """An attribute that is predicted: its name and the names of its classes."""

    name: str
    classes: tuple[str, ...]


class AttributeImages(pl.LightningDataModule):
    """Images with attributes and groups, in a training, a validation and a test part. Subclasses say how they are read.

    Known before anything is read: `tasks`, `columns` (group column -> names of its values), `image_size`, `in_channels`.
    The outputs of a network for it are the logits of all tasks one after the other, `num_classes` in number.

    Args:
        tasks: what is predicted. columns: the group columns.
        group: the sensitive one: a column, or an intersection such as `"race x gender"`.
        batch_size: images a training step, over all processes together.
        seed: decides order, mirror images and augmentation of the training images, together with the epoch.
        flip: mirror training images with probability 1/2. augment: of training images; None: none.
        mean, std: on the scale 0..1. num_workers: processes that prepare training batches.

    Raises:
        ValueError: a group column that there is not (the message lists those that there are), or no task.
    """

    KEY: ClassVar[str] = ""
    in_channels = 3
    image_size: tuple[int, int] = (224, 224)

    def __init__(
        self,
        tasks: Sequence[Task],
        columns: Mapping[str, tuple[str, ...]],
        group: str,
        batch_size: int = 64,
        seed: int = 0,
        flip: bool = True,
        augment: Augment | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if not tasks or batch_size < 1 or seed < 0 or num_workers < 0:
            raise ValueError(
                f"tasks={[task.name for task in tasks]}, {batch_size=}, {seed=}, {num_workers=}: at least one task, a "
                "batch of one, and no negative number are needed."
            )
        self.tasks, self.columns, self.group = tuple(tasks), dict(columns), group
        self.batch_size, self.seed, self.flip, self.augment = batch_size, seed, flip, augment
        self.normalisation, self.num_workers = Normalisation(mean, std), num_workers
        self.group_names = self.names_of(group)
        self._parts: dict[str, AttributePart] = {}

    @property
    def num_classes(self) -> int:
        """Logits of all tasks together."""
        return sum(len(task.classes) for task in self.tasks)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes of the first task."""
        return self.tasks[0].classes

    def names_of(self, column: str) -> tuple[str, ...]:
        """Names of the groups of a column, or of an intersection in row-major order.

        Raises:
            ValueError: a column that there is not.
        """
        names: tuple[str, ...] = ("",)
        for one in column.split(TIMES):
            if one not in self.columns:
                near = difflib.get_close_matches(one, self.columns, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(
                    f"There is no group column {one!r}; {type(self).__name__} has {', '.join(self.columns)}, and "
                    f"intersections such as {TIMES.join(list(self.columns)[:2])!r}.{hint}"
                )
            names = tuple(f"{before}, {name}" if before else name for before in names for name in self.columns[one])
        return names

    def read(self) -> dict[str, AttributePart]:
        """The parts of `PARTS`. Every subclass has its own."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its images are read.")

    def setup(self, stage: str | None = None) -> None:
        """Read the set. Does nothing the second time.

        Raises:
            ValueError: labels out of range, a part without images, or a group without a training image.
        """
        if self._parts:
            return
        parts = self.read()
        for name in PARTS:
            self._check(name, parts[name])
        self._parts = parts

    def _check(self, name: str, part: AttributePart) -> None:
        if not len(part):
            raise ValueError(f"The {name} part of {type(self).__name__} has no image.")
        for at, task in enumerate(self.tasks):
            low, high = int(part.labels[:, at].min()), int(part.labels[:, at].max())
            if low < 0 or high >= len(task.classes):
                raise ValueError(
                    f"Labels of {task.name} in the {name} part lie in {low}..{high}; {len(task.classes)} classes "
                    f"({', '.join(task.classes[:8])}) need 0..{len(task.classes) - 1}."
                )
        for column, names in self.columns.items():
            codes = part.groups[column]
            if int(codes.min()) < -1 or int(codes.max()) >= len(names):
                raise ValueError(
                    f"Codes of {column} in the {name} part lie in {int(codes.min())}..{int(codes.max())}; {len(names)} "
                    f"groups ({', '.join(names)}) need 0..{len(names) - 1}, or -1 for none."
                )
        sizes = np.bincount(_combined(part, self.group, self.columns) + 1, minlength=len(self.group_names) + 1)[1:]
        empty = ", ".join(group for group, size in zip(self.group_names, sizes, strict=True) if not size)
        if empty and name == "train":
            raise ValueError(
                f"The training part of {type(self).__name__} has no image of {self.group} {empty}: nothing can be kept for a "
                "group that is not there. Choose another group column."
            )
        if empty:
            warnings.warn(
                f"The {name} part of {type(self).__name__} has no image of {self.group} {empty}: nothing that is chosen or "
                "measured there speaks of them.",
                stacklevel=3,
            )

    def part(self, name: str) -> AttributePart:
        """One of `PARTS`.

        Raises:
            ValueError: another name.
        """
        if name not in PARTS:
            raise ValueError(f"There is no part {name!r}; expected one of {', '.join(PARTS)}.")
        self.setup()
        return self._parts[name]

    def groups(self, name: str, column: str | None = None) -> torch.Tensor:
        """Group int64 [N] of every image of a part; -1: none. `column`: also an intersection; None: the sensitive one."""
        column = self.group if column is None else column
        self.names_of(column)
        return torch.from_numpy(_combined(self.part(name), column, self.columns))

    def train_dataloader(self) -> AttributeLoader:
        """Images float32 [B, 3, H, W] and labels int64 [B, T] of the training part."""
        batches = AttributeBatches(self.part("train"), self.batch_size, self.normalisation, self.augment)
        return AttributeLoader(batches, self.seed, self.flip, self.num_workers)

    def batches(
        self, name: str, batch_size: int = 500, order: torch.Tensor | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Images float32 [B, 3, H, W], labels int64 [B, T] and groups int64 [B] of a part as it is stored, not augmented.

        Args:
            order: index int64 [M] of the images that are given, in that order; None: all, in stored order.
        """
        part, groups = self.part(name), self.groups(name)
        index = torch.arange(len(part)) if order is None else order
        for chosen in index.split(batch_size):
            yield self.normalisation(part.pixels(chosen)), part.labels[chosen], groups[chosen]

    def fingerprint(self) -> dict[str, Any]:
        """Checksums of labels and groups (and of images in memory), and what is done to the images."""
        self.setup()
        found = {}
        for name, part in self._parts.items():
            arrays = [part.labels.numpy(), part.subject.numpy(), *(codes.numpy() for codes in part.groups.values())]
            if isinstance(part.images, torch.Tensor):
                arrays.append(part.images.numpy())
            found[name] = {"images": len(part), "sha256": fingerprint.of_arrays(*arrays)}
        return {
            "dataset": self.KEY,
            "parts": found,
            "tasks": [task.name for task in self.tasks],
            "group": self.group,
            "size": list(self.image_size),
            "flip": self.flip,
        }


def _combined(part: AttributePart, column: str, columns: Mapping[str, tuple[str, ...]]) -> np.ndarray:
    """Codes int64 [N] of a column or an intersection; -1 where one of its columns has none."""
    codes = np.zeros(len(part), dtype=np.int64)
    none = np.zeros(len(part), dtype=bool)
    for one in column.split(TIMES):
        own = part.groups[one].numpy()
        codes, none = codes * len(columns[one]) + own, none | (own < 0)
    codes[none] = -1
    return codes


def split_by_photograph(
    photographs: Sequence[str], seed: int = 42, shares: tuple[float, float] = (0.8, 0.1)
) -> dict[str, np.ndarray]:
    """Part name -> index int64 of its images, ascending: all images of one photograph lie in one part.

    Args:
        photographs: name of each image's photograph [N]. seed: of the permutation of the sorted names.
        shares: of training and validation; the rest is the test part.

    Raises:
        ValueError: fewer than three photographs.
    """
    names, which = np.unique(np.array(photographs, dtype=np.str_), return_inverse=True)
    if len(names) < 3:
        raise ValueError(f"{len(names)} photographs cannot be split into training, validation and test part.")
    place = np.empty(len(names), dtype=np.int64)
    place[np.random.RandomState(seed).permutation(len(names))] = np.arange(len(names))
    ends = (shares[0] * len(names), (shares[0] + shares[1]) * len(names))
    part = np.searchsorted(np.array(ends), place[which], side="right")
    return {name: np.flatnonzero(part == i) for i, name in enumerate(PARTS)}
