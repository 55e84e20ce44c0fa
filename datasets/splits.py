"""Image classification as one interface: a training, a validation and a test part, whatever the data set.

The test part is never needed to choose anything: the validation part is cut from the training images by a seed of its
own, so it is the same for every seed of a training.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch

from datasets import fingerprint
from datasets.augmentation import Normalisation, TensorLoader

PARTS = ("train", "validation", "test")
FLOAT_BYTES = 1 << 28  # training parts up to this size as float32 are kept normalised: half the time of a batch


@dataclass(frozen=True)
class Part:
    """Images of one part: `images` uint8 [N, C, H, W], channels-last in memory, and `labels` int64 [N], as published."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, index: np.ndarray) -> Part:
        """The images at `index` int64 [M], in that order."""
        at = torch.from_numpy(index)
        return Part(self.images.permute(0, 2, 3, 1).index_select(0, at).permute(0, 3, 1, 2), self.labels[at])


@dataclass(frozen=True)
class Published:
    """What a reader found: the published parts, the names of the classes, and what is unusual about the files."""

    train: Part
    test: Part
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def part_of(images: np.ndarray, labels: np.ndarray) -> Part:
    """Arrays uint8 [N, C, H, W] (or [N, H, W]) and integers [N] as a `Part`."""
    rows = np.ascontiguousarray(images[..., None] if images.ndim == 3 else images.transpose(0, 2, 3, 1))
    return Part(torch.from_numpy(rows).permute(0, 3, 1, 2), torch.from_numpy(labels.astype(np.int64)))


def held_out(labels: np.ndarray, count: int, seed: int, stratified: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` of N images: the index of the others and of those drawn, int64, each in ascending order.

    Args:
        labels: [N].
        count: images to draw, 0 <= count < N.
        seed: of the draw, >= 0.
        stratified: every class gives the same share of its images (largest remainders first, lower labels first).

    Raises:
        ValueError: fewer than no images, or none left.
    """
    if not 0 <= count < len(labels):
        raise ValueError(f"{count} of {len(labels)} images cannot be held out; expected 0 to {len(labels) - 1}.")
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    if stratified:
        classes, sizes = np.unique(labels, return_counts=True)
        exact = count * sizes / len(labels)
        take = np.floor(exact).astype(np.int64)
        take[np.argsort(take - exact, kind="stable")[: count - take.sum()]] += 1
        drawn = np.concatenate(
            [order[labels[order] == label][:n] for label, n in zip(classes, take, strict=True)] or [order[:0]]
        )
    else:
        drawn = order[:count]
    kept = np.ones(len(labels), dtype=bool)
    kept[drawn] = False
    return np.flatnonzero(kept), np.flatnonzero(~kept)


class ImageClassification(pl.LightningDataModule):
    """Images with one label each, in a training, a validation and a test part.

    Known before the data are read: `num_classes`, `in_channels`, `image_size` (height, width). After `setup()`:
    `class_names`, and `notes` on what is unusual about the files. Batches are float32 [B, C, H, W],
    (x / 255 - mean) / std, and int64 [B].

    Args:
        root: data root.
        batch_size: images a training step, over all processes together.
        seed: decides order and augmentation of the training images, together with the epoch.
        validation: images held out of the published training part; None: the set's own number.
        validation_seed: which ones.
        stratified: hold out the same share of every class.
        mean, std: one value a channel on the scale 0..1, or one for all; None: the set's own (see `MEAN`, `STD`).
        crop: training images get a black border of so many pixels, and a window of their own size is cut out at
            random; 0: none; None: the set's own.
        flip: mirror training images with probability 1/2; None: the set's own.
        drop_last: leave out the training images that do not fill a batch at the end of an epoch.
        shuffled_labels: train on a fixed permutation of the training labels (the parts keep the true ones).

    Raises:
        ValueError: an argument out of its range.
        DatasetNotFound, CorruptIdx, CorruptBatch, ... (setup): a file is missing or damaged; see the set's reader.
    """

    KEY: ClassVar[str] = ""
    MEAN: ClassVar[tuple[float, ...]] = (0.0,)
    STD: ClassVar[tuple[float, ...]] = (1.0,)
    VALIDATION: ClassVar[int] = 5000
    CROP: ClassVar[int] = 0
    FLIP: ClassVar[bool] = False
    num_classes: int = 10
    in_channels: int = 3
    image_size: tuple[int, int] = (32, 32)

    def __init__(
        self,
        root: str,
        batch_size: int = 128,
        seed: int = 0,
        validation: int | None = None,
        validation_seed: int = 0,
        stratified: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        crop: int | None = None,
        flip: bool | None = None,
        drop_last: bool = True,
        shuffled_labels: bool = False,
    ) -> None:
        super().__init__()
        self.root, self.batch_size, self.seed = root, batch_size, seed
        self.held_out = self.VALIDATION if validation is None else validation
        self.validation_seed, self.stratified = validation_seed, stratified
        self.normalisation = Normalisation(self.MEAN if mean is None else mean, self.STD if std is None else std)
        self.crop, self.flip = self.CROP if crop is None else crop, self.FLIP if flip is None else flip
        self.drop_last, self.shuffled_labels = drop_last, shuffled_labels
        if batch_size < 1 or self.held_out < 0 or self.crop < 0 or min(seed, validation_seed) < 0:
            raise ValueError(
                f"batch_size must be >= 1, validation, crop and seeds >= 0; got batch_size={batch_size}, "
                f"validation={self.held_out}, crop={self.crop}, seed={seed}, validation_seed={validation_seed}."
            )
        self.class_names: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The data root, `~` expanded."""
        return Path(self.root).expanduser()

    def labels(self, name: str) -> torch.Tensor:
        """True labels int64 [N] of "train", "validation" or "test", in stored order. Every subclass has its own."""
        raise NotImplementedError

    def loader(self, name: str, batch_size: int = 1000) -> Any:
        """Batches of a part in stored order, neither shifted nor mirrored; every process sees the whole of it.

        Every subclass has its own.
        """
        raise NotImplementedError

    def val_dataloader(self) -> Any:
        """The validation part, see `loader`; an empty list (no validation) where nothing is held out."""
        return self.loader("validation") if self.held_out else []

    def test_dataloader(self) -> Any:
        """The test part, see `loader`."""
        return self.loader("test")


class ImagesInMemory(ImageClassification):
    """An image classification set that fits in memory. Subclasses say how it is read.

    After `setup()`, `train`, `validation` and `test` are uint8 images and labels as published (`Part`); `inputs` gives
    them as the network sees them. Where a trainer runs on a GPU, the images are moved there once, and batches are made
    there. Arguments: see `ImageClassification`.
    """

    @functools.cached_property
    def _inputs(self) -> dict[str, torch.Tensor]:
        return {}

    def read(self) -> Published:
        """The set as it was published. Every subclass has its own."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to read its data set.")

    def setup(self, stage: str | None = None) -> None:
        """Read the set and hold the validation images out. Does nothing the second time."""
        if self.class_names:
            return
        found = self.read()
        kept, drawn = held_out(found.train.labels.numpy(), self.held_out, self.validation_seed, self.stratified)
        self.train, self.validation, self.test = found.train.select(kept), found.train.select(drawn), found.test
        self.num_classes, self.notes = len(found.class_names), found.notes
        _, self.in_channels, *size = found.test.images.shape
        self.image_size = (size[0], size[1])
        self.class_names = found.class_names

    def part(self, name: str) -> Part:
        """`train`, `validation` or `test` by name.

        Raises:
            ValueError: another name.
        """
        if name not in PARTS:
            raise ValueError(f"There is no part {name!r}; expected one of {', '.join(PARTS)}.")
        self.setup()
        found: Part = getattr(self, name)
        return found

    def inputs(self, name: str) -> torch.Tensor:
        """All images of a part as the network sees them, float32 [N, C, H, W], in stored order; kept after the first call."""
        if name not in self._inputs:
            self._inputs[name] = self.normalisation(self.part(name).images)
        return self._inputs[name]

    def labels(self, name: str) -> torch.Tensor:
        """True labels int64 [N] of a part, in stored order."""
        return self.part(name).labels

    def training_labels(self) -> torch.Tensor:
        """int64 [N], what a training batch is labelled with: the true labels, or their fixed permutation."""
        labels = self.part("train").labels
        if not self.shuffled_labels:
            return labels
        return labels[torch.from_numpy(np.random.default_rng((self.validation_seed, 1)).permutation(len(labels)))]

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")

    def train_dataloader(self) -> TensorLoader:
        """Images float32 [B, C, H, W] and labels int64 [B] of the training part; its place is kept over a resume."""
        part, device = self.part("train"), self._device()
        small = not self.crop and 4 * part.images.numel() <= FLOAT_BYTES
        images = self.inputs("train") if small else part.images
        return TensorLoader(
            images.to(device),
            self.training_labels().to(device),
            batch_size=self.batch_size,
            seed=self.seed,
            normalisation=self.normalisation,
            border=self.crop,
            flip=self.flip,
            drop_last=self.drop_last,
        )

    def loader(self, name: str, batch_size: int = 1000) -> TensorLoader:
        """Batches of a part in stored order, neither shifted nor mirrored; every process sees the whole of it."""
        part, device = self.part(name), self._device()
        return TensorLoader(
            part.images.to(device),
            part.labels.to(device),
            batch_size=batch_size,
            seed=0,
            normalisation=self.normalisation,
            shuffle=False,
            drop_last=False,
            rank=0,
            world=1,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Checksums of images and labels of every part, and what is done to them."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> dict[str, Any]:
        parts = {name: self.part(name) for name in PARTS}
        return {
            "dataset": self.KEY,
            "parts": {
                n: fingerprint.of_arrays(p.images.permute(0, 2, 3, 1).numpy(), p.labels.numpy())
                for n, p in parts.items()
            },
            "sizes": {name: len(part) for name, part in parts.items()},
            "mean": self.normalisation.mean,
            "std": self.normalisation.std,
            "crop": self.crop,
            "flip": self.flip,
            "shuffled_labels": self.shuffled_labels,
        }
