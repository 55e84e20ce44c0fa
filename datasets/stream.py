"""Training batches of data sets that are too large for memory: images are decoded in worker processes, batch by batch.

The order and the flips are those of `datasets.memory`: they depend on (seed, epoch, position) only, so the number of
workers changes the speed and nothing else.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.utils.data import Dataset

from datasets.memory import Batch, EpochBatches, EpochLoader, mirror, normalise, stored_batch


class ImageSource(Protocol):
    """Images with labels that are read when asked for; it must survive pickling and fork."""

    def __len__(self) -> int: ...

    def read(self, index: torch.Tensor, /) -> tuple[torch.Tensor, torch.Tensor]:
        """`index` int64 [B] -> images uint8 [B, 3, H, W] and labels int64 [B]."""
        ...


class LabelledImages:
    """Lazily read images (`datasets.images.ImageFiles`) and their labels as an `ImageSource`.

    Args:
        images: indexed by a list of integers, gives uint8 [B, 3, H, W].
        labels: int64 [N].

    Raises:
        ValueError: not one label an image.
    """

    def __init__(self, images: Any, labels: torch.Tensor) -> None:
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images have {len(labels)} labels; expected one label an image.")
        self.images, self.labels = images, torch.as_tensor(labels, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`index` int64 [B] -> images uint8 [B, 3, H, W] and labels int64 [B]."""
        return self.images[index.tolist()], self.labels[index]


class StreamedBatches(Dataset):
    """Whole batches of an `ImageSource`, mirrored and normalised."""

    def __init__(self, source: ImageSource, batch_size: int, divisor: float) -> None:
        self.source, self.batch_size, self.divisor = source, batch_size, divisor

    def __len__(self) -> int:
        """Number of batches in stored order, the last one perhaps shorter."""
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, batch: Batch | int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float32 [B, 3, H, W] and labels int64 [B]; an integer names a batch in stored order."""
        if isinstance(batch, int):
            batch = stored_batch(batch, self.batch_size, len(self.source))
        pixels, labels = self.source.read(batch.index)
        return normalise(mirror(pixels, batch.flip), self.divisor), labels


class StreamLoader(EpochLoader):
    """Training loader over an `ImageSource`; yields float32 [B, 3, H, W] and int64 [B].

    Args:
        source: the images and labels.
        batch_size: images a step, over all processes together; each takes its equal part.
        seed, flip, shuffle, drop_last, rank, world: see `EpochBatches`.
        divisor: pixels leave as (x - 127.5) / divisor.
        num_workers: processes that decode; 0 decodes in this one.
        sampler, batch_sampler: for Lightning, which makes loaders anew with a sampler of its own (`overfit_batches`).
    """

    def __init__(
        self,
        source: ImageSource,
        batch_size: int,
        seed: int,
        flip: bool = True,
        shuffle: bool = True,
        drop_last: bool = True,
        divisor: float = 127.5,
        num_workers: int = 0,
        rank: int | None = None,
        world: int | None = None,
        sampler: Any = None,
        batch_sampler: None = None,
    ) -> None:
        if sampler is None:
            sampler = EpochBatches(len(source), batch_size, seed, flip, shuffle, drop_last, rank, world)
        super().__init__(StreamedBatches(source, batch_size, divisor), sampler, num_workers)
