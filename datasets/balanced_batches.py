"""Batches of two halves: images drawn uniformly, and a few identities with several images each.

A loss on pairs needs positive pairs, of which uniform batches of many identities hold hardly any. Source: the batch sampler
of TFace's recognition/tasks/ekd.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.errors import CorruptRecord
from datasets.memory import Batch, EpochBatches, EpochLoader, MemoryImages, stored_batch
from datasets.recordio import read_index
from datasets.wrapped_images import WrappedImages

LARGEST_EXACT_KEY = 1 << 24  # records hold keys as float32


@dataclass(frozen=True)
class TwoHalves(Batch):
    """`index` int64 [B], `flip` bool [B], and `general` bool [B]: which images are of the uniform half."""

    general: torch.Tensor


class ImagesByIdentity:
    """Where the images of every identity are: memory is one integer an image and one an identity.

    Args:
        labels: int64 [N], any order.

    Raises:
        ValueError: no labels.
    """

    def __init__(self, labels: np.ndarray) -> None:
        labels = np.asarray(labels)
        if labels.ndim != 1 or not len(labels):
            raise ValueError(f"labels must be int64 [N] with N > 0, got shape {list(labels.shape)}.")
        self.order = np.argsort(labels, kind="stable")
        starts = np.flatnonzero(np.diff(labels[self.order], prepend=labels[self.order[0]] - 1))
        self.bounds = np.append(starts, len(labels))

    def __len__(self) -> int:
        """Number of identities that have images."""
        return len(self.bounds) - 1

    def draw(self, rng: np.random.Generator, identities: int, images: int) -> np.ndarray:
        """Indices [identities x images]: different identities, one after the other, and different images of each.

        An identity with fewer images gives each as often as the others, but for one.
        """
        rows = []
        for identity in rng.choice(len(self), identities, replace=False):
            start, end = self.bounds[identity], self.bounds[identity + 1]
            chosen = rng.choice(end - start, min(images, end - start), replace=False)
            rows.append(start + np.resize(chosen, images))
        return self.order[np.concatenate(rows)]


class TwoHalfBatches(EpochBatches):
    """Sampler of batches whose content depends on (seed, epoch, position in the epoch) only: first general, then balanced.

    The general half of step k is the batch that `EpochBatches` gives there, so that a training without the balanced half meets
    the same images in the same order. Of W processes, each takes every W-th row of either half.

    Args:
        labels: int64 [N], identities of the images.
        general: images a step of the general half, over all processes together.
        identities, images: of the balanced half: identities a step and images of each.
        seed, flip, rank, world: see `EpochBatches`.
        draw: `"epoch"`: the general half shows every image once an epoch; `"step"`: every step draws anew from all images,
            as the official sampler does.

    Raises:
        ValueError: a size below 1, more identities a step than there are, or a half that the processes cannot share equally.
    """

    def __init__(
        self,
        labels: np.ndarray,
        general: int,
        identities: int,
        images: int,
        seed: int,
        flip: bool = True,
        draw: Literal["epoch", "step"] = "epoch",
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        super().__init__(len(labels), general, seed, flip, rank=rank, world=world)
        if draw not in ("epoch", "step"):
            raise ValueError(f"draw is '{draw}'; expected 'epoch' or 'step'.")
        self.by_identity = ImagesByIdentity(labels)
        if identities < 1 or images < 1 or identities > len(self.by_identity):
            raise ValueError(
                f"The balanced half asks for {identities} identities of {images} images each; expected at least one of either "
                f"and at most the {len(self.by_identity)} identities that there are."
            )
        if identities * images % self.world:
            raise ValueError(
                f"{identities} identities of {images} images are {identities * images} rows, which {self.world} processes "
                "cannot share equally; choose another number of either or of devices."
            )
        self.identities, self.images, self.draw = identities, images, draw

    def step(self, k: int, order: np.ndarray, coin: np.ndarray) -> TwoHalves:
        """This process's rows of step k; `order`, `coin`: the epoch's positions."""
        rng = np.random.default_rng((self.seed, self.epoch, 2, k))
        rows = slice(k * self.batch_size, (k + 1) * self.batch_size)
        general = order[rows]
        if self.draw == "step":
            general = rng.choice(self.length, self.batch_size, replace=False)
        balanced = self.by_identity.draw(rng, self.identities, self.images)
        flips = rng.random(len(balanced)) < 0.5 if self.flip else np.zeros(len(balanced), dtype=bool)
        mine = slice(self.rank, None, self.world)
        halves = (general[mine], balanced[mine])
        is_general = np.repeat([True, False], [len(half) for half in halves])
        flip = np.concatenate((coin[rows][mine], flips[mine]))
        return TwoHalves(*(torch.from_numpy(x) for x in (np.concatenate(halves), flip, is_general)))

    def __iter__(self) -> Iterator[Batch]:
        order, coin = self.positions()
        start, self.start = self.start, 0
        for k in range(start, len(self)):
            yield self.step(k, order, coin)


class MarkedBatches(Dataset):
    """Batches (images, labels, index, flip, general) from a data set that is indexed by `Batch`."""

    def __init__(self, batches: Any, batch_size: int, length: int) -> None:
        self.batches, self.batch_size, self.length = batches, batch_size, length

    def __len__(self) -> int:
        """Number of batches in stored order."""
        return len(self.batches)

    def __getitem__(self, batch: TwoHalves | int) -> tuple[torch.Tensor, ...]:
        """Images float32 [B, C, H, W], labels int64 [B], index int64 [B], flip bool [B], general bool [B].

        An integer names a batch in stored order, all of it general.
        """
        if isinstance(batch, int):
            stored = stored_batch(batch, self.batch_size, self.length)
            batch = TwoHalves(stored.index, stored.flip, torch.ones(len(stored.index), dtype=torch.bool))
        return (*self.batches[batch], batch.index, batch.flip, batch.general)


class BalancedBatches(WrappedImages):
    """Another data module whose training batches have a general and a balanced half.

    Batches are (images, labels, index, flip, general), general rows first. Everything else (pair sets, classes, fingerprint,
    `batch_size`, which is the general half's) is the other's.

    Args:
        data: the other data module. Its batches are numbered within `MemoryLoader` or `StreamLoader`; labels of all images are
            its `train_labels`, those of the images in memory, or those of InsightFace's records.
        identities, images: of the balanced half.
        draw: see `TwoHalfBatches`.
    """

    def __init__(
        self, data: Any, identities: int = 8, images: int = 4, draw: Literal["epoch", "step"] = "epoch"
    ) -> None:
        super().__init__(data)
        self.identities, self.per_identity, self.draw = identities, images, draw
        self._labels: torch.Tensor | None = None

    @property
    def train_labels(self) -> torch.Tensor:
        """Identities int64 [N] of all training images."""
        if self._labels is None:
            self._labels = _labels_of(self.data)
        return self._labels

    def memory_loader(self) -> Any:
        """The other's.

        Raises:
            TypeError: its images are not in memory.
        """
        loader = self.data.train_dataloader()
        if not isinstance(loader.dataset, MemoryImages):
            raise TypeError(
                f"{type(self.data).__name__} does not keep its training images in memory: let the teacher look at every batch "
                "instead of keeping its answers (kept_answers=False)."
            )
        return loader

    def train_dataloader(self) -> EpochLoader:
        """Batches of both halves."""
        loader: Any = self.data.train_dataloader()
        plain: EpochBatches = loader.sampler
        sampler = TwoHalfBatches(
            self.train_labels.numpy(),
            plain.batch_size,
            self.identities,
            self.per_identity,
            plain.seed,
            plain.flip,
            self.draw,
            plain.rank,
            plain.world,
        )
        batches = MarkedBatches(loader.dataset, plain.batch_size, plain.length)
        return EpochLoader(batches, sampler, loader.num_workers)


def _labels_of(data: Any) -> torch.Tensor:
    if hasattr(data, "train_labels"):
        labels: torch.Tensor = data.train_labels
        return labels
    if hasattr(data, "source"):
        return record_labels(data.source)
    batches = data.train_dataloader().dataset
    if isinstance(batches, MemoryImages):
        return batches.labels
    raise TypeError(
        f"{type(data).__name__} does not say which image shows whom (no train_labels, images not in memory, no records): "
        "identities cannot be drawn from it."
    )


def record_labels(source: Any) -> torch.Tensor:
    """Labels int64 [N] of `datasets.insightface.RecordImages`, without reading every image.

    InsightFace's files say in records of their own which keys belong to one identity; then only the first image of each is
    read. In files without them (im2rec) all records are.

    Raises:
        CorruptRecord: the identities' records leave an image out.
    """
    records, keys, offsets = source.records, source.keys, source.offsets
    index = read_index(records.path.with_suffix(".idx"), records.size)
    header = records.image(int(index.offsets[0]), int(index.keys[0]))
    labels = np.full(len(keys), -1, dtype=np.int64)
    if int(index.keys[0]) != 0 or header.flag < 2 or max(header.labels) > LARGEST_EXACT_KEY:
        for i, (key, offset) in enumerate(zip(keys.tolist(), offsets.tolist(), strict=True)):
            labels[i] = int(records.image(offset, key).labels[0])
        return torch.from_numpy(labels)
    identities = np.arange(int(header.labels[0]), int(header.labels[1]))
    for key, offset in zip(identities.tolist(), index.offset(identities).tolist(), strict=True):
        start, end = np.searchsorted(keys, records.image(offset, key).labels[:2])
        if start < end:
            labels[start:end] = int(records.image(int(offsets[start]), int(keys[start])).labels[0])
    if (labels < 0).any():
        key = int(keys[np.flatnonzero(labels < 0)[0]])
        raise CorruptRecord(f"{records.path}: no identity's record names image key {key}; get the file again.")
    return torch.from_numpy(labels)
