"""Training batches of faces with attributes: from memory or from files, augmented by (seed, epoch, image) alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.augmentation import Normalisation
from datasets.image_classes import CutBatch, CutBatches
from datasets.memory import Batch, EpochBatches, EpochLoader, mirror, stored_batch

Augment = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]
"""One training image uint8 [3, H, W] and its own random generator -> the image as it is shown, uint8 [3, H, W]."""


@dataclass(frozen=True)
class AttributePart:
    """N images of one part.

    Attributes:
        images: uint8 [N, 3, H, W], or something that gives them when indexed by a list (`datasets.images.ImageFiles`).
        labels: int64 [N, T], one column a task; groups: column -> codes int64 [N], -1 where nobody wrote one down.
        subject: int64 [N], the person, or the photograph, that an image belongs to.
    """

    images: Any
    labels: torch.Tensor
    groups: Mapping[str, torch.Tensor]
    subject: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, H, W] of the images at `index` int64 [B]."""
        if isinstance(self.images, torch.Tensor):
            return self.images.index_select(0, index)
        found: torch.Tensor = self.images[index.tolist()]
        return found


class AttributeBatches(Dataset):
    """Whole batches of a part, augmented, mirrored and normalised.

    Args:
        part: the images. batch_size: size of the batches that an integer index names. normalisation: of the pixels.
        augment: of training images; None: none.
    """

    def __init__(
        self, part: AttributePart, batch_size: int, normalisation: Normalisation, augment: Augment | None = None
    ) -> None:
        self.part, self.batch_size, self.normalisation, self.augment = part, batch_size, normalisation, augment

    def __len__(self) -> int:
        """Number of batches in stored order, the last one perhaps shorter."""
        return -(-len(self.part) // self.batch_size)

    def __getitem__(self, batch: Batch | int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float32 [B, 3, H, W] and labels int64 [B, T]; an integer names a batch in stored order."""
        if isinstance(batch, int):
            batch = stored_batch(batch, self.batch_size, len(self.part))
        pixels = self.part.pixels(batch.index)
        if self.augment is not None and isinstance(batch, CutBatch):
            images = zip(pixels, batch.index.tolist(), strict=True)
            # Of (seed, epoch, image) alone: neither workers nor processes change a batch.
            pixels = torch.stack(
                [self.augment(x, np.random.default_rng((batch.seed, batch.epoch, 5, i))) for x, i in images]
            )
        return self.normalisation(mirror(pixels, batch.flip)), self.part.labels[batch.index]


class AttributeLoader(EpochLoader):
    """Training loader that keeps its place; yields images float32 [B, 3, H, W] and labels int64 [B, T].

    Args:
        batches: the images. seed: of order, mirror images and augmentation. flip: mirror with probability 1/2.
        num_workers: processes that prepare batches; 0 prepares them in this one.
        sampler, batch_sampler: for Lightning, which makes loaders anew with a sampler of its own (`overfit_batches`).
    """

    def __init__(
        self,
        batches: AttributeBatches,
        seed: int = 0,
        flip: bool = True,
        num_workers: int = 0,
        sampler: Any = None,
        batch_sampler: None = None,
    ) -> None:
        if sampler is None:
            kind = CutBatches if batches.augment is not None else EpochBatches
            sampler = kind(len(batches.part), batches.batch_size, seed, flip)
        super().__init__(batches, sampler, num_workers)
