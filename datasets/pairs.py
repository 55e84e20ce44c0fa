"""Verification test sets: images, pairs of images, folds, subjects and demographic groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch


@runtime_checkable
class ImageSequence(Protocol):
    """Images that are read when they are asked for: `images[10:20]` is a uint8 tensor [10, 3, H, W], RGB."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> torch.Tensor: ...


@dataclass(frozen=True, eq=False)
class PairSet:
    """One verification test set of P pairs over N images.

    The 10-fold protocol of LFW (Huang et al., UMass TR 07-49, section "View 2") needs no more than this: who is
    compared with whom, whether they are the same person, and in which block of the official list the pair stands.

    Attributes:
        name: short name of the set, used as a key in results ("lfw", "agedb_30", "generated").
        images: RGB uint8 tensor [N, 3, H, W], or an `ImageSequence` that reads slices lazily.
        first: int64 [P], index of the pair's first image, 0..N-1.
        second: int64 [P], index of the pair's second image, 0..N-1.
        same: bool [P], True for a genuine pair.
        fold: int64 [P], block of the official list, >= 0 (0..9 for the usual ten).
        subject: int64 [N], identity of every image, >= 0.
        group: int64 [P], index into `group_names`; -1 for none or mixed (counted in the overall numbers only).
        group_names: names of the groups as the data set's makers call them.
        divisor: pixels enter a network as (x - 127.5) / divisor.

    Raises:
        ValueError: a shape, a range, or a genuine pair of two different subjects; the message names the pair.
    """

    name: str
    images: Any
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    fold: np.ndarray
    subject: np.ndarray
    group: np.ndarray
    group_names: tuple[str, ...]
    divisor: float = 127.5

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        for field in ("first", "second", "fold", "subject", "group"):
            set_(self, field, _integers(self.name, field, getattr(self, field)))
        same = np.asarray(self.same)
        if same.dtype != np.bool_:
            raise ValueError(f"PairSet {self.name!r}: same must be bool, got {same.dtype}.")
        set_(self, "same", same)
        set_(self, "group_names", tuple(self.group_names))
        self._check_images()
        self._check_ranges()
        if not self.divisor > 0:
            raise ValueError(f"PairSet {self.name!r}: divisor must be positive, got {self.divisor}.")

    def _check_images(self) -> None:
        images = self.images
        if isinstance(images, torch.Tensor):
            if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
                raise ValueError(
                    f"PairSet {self.name!r}: images must be a uint8 tensor [N, 3, H, W], "
                    f"got {images.dtype} {list(images.shape)}."
                )
        elif not isinstance(images, ImageSequence):
            raise ValueError(
                f"PairSet {self.name!r}: images must be a tensor or have __len__ and __getitem__(slice), "
                f"got {type(images).__name__}."
            )
        if len(self.subject) != len(images):
            raise ValueError(
                f"PairSet {self.name!r}: subject names {len(self.subject)} images, but there are {len(images)}."
            )

    def _check_ranges(self) -> None:
        pairs = len(self.first)
        for field in ("first", "second", "same", "fold", "group"):
            values = getattr(self, field)
            if values.shape != (pairs,):
                raise ValueError(f"PairSet {self.name!r}: {field} must have shape [{pairs}], got {list(values.shape)}.")
        images = len(self.images)
        for field, low, high in (
            ("first", 0, images - 1),
            ("second", 0, images - 1),
            ("fold", 0, None),
            ("group", -1, len(self.group_names) - 1),
            ("subject", 0, None),
        ):
            values = getattr(self, field)
            wrong = (values < low) if high is None else (values < low) | (values > high)
            if wrong.any():
                at = int(np.flatnonzero(wrong)[0])
                allowed = f">= {low}" if high is None else f"{low}..{high}"
                raise ValueError(f"PairSet {self.name!r}: {field}[{at}] is {values[at]}, allowed is {allowed}.")
        torn = self.same & (self.subject_a != self.subject_b)
        if torn.any():
            at = int(np.flatnonzero(torn)[0])
            raise ValueError(
                f"PairSet {self.name!r}: pair {at} is genuine, but its images belong to the subjects "
                f"{self.subject_a[at]} and {self.subject_b[at]}."
            )

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.first)

    @property
    def subject_a(self) -> np.ndarray:
        """int64 [P], subject of every pair's first image."""
        return self.subject[self.first]

    @property
    def subject_b(self) -> np.ndarray:
        """int64 [P], subject of every pair's second image."""
        return self.subject[self.second]

    @property
    def folds(self) -> int:
        """Number of folds (one more than the largest fold index)."""
        return int(self.fold.max()) + 1 if len(self.fold) else 0


def _integers(name: str, field: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(
            f"PairSet {name!r}: {field} must be a one-dimensional integer array, got {array.dtype} {list(array.shape)}."
        )
    return array.astype(np.int64)
