"""Training batches that say which image is which, so that what a teacher says of an image is computed once."""

from __future__ import annotations

from typing import Any

import torch

from datasets.memory import Batch, EpochLoader, MemoryImages, MemoryLoader, stored_batch
from datasets.wrapped_images import WrappedImages


class IndexedImages(MemoryImages):
    """Like `MemoryImages`, with the index int64 [B] and the flip bool [B] of every image behind image and label."""

    def __getitem__(self, batch: Batch | int) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        """Images float32 [B, C, H, W], labels int64 [B], index int64 [B], flip bool [B]."""
        if isinstance(batch, int):
            batch = stored_batch(batch, self.batch_size, len(self.images))
        return (*super().__getitem__(batch), batch.index, batch.flip)


class Indexed(WrappedImages):
    """Another data module whose training batches are (images, labels, index, flip).

    Order and flips are those of the other data module, which must keep its training images in memory (`MemoryLoader`).
    Everything else (pair sets, classes, fingerprint) is the other's.

    Args:
        data: the other data module.
    """

    def memory_loader(self) -> Any:
        """The other's.

        Raises:
            TypeError: its images are not in memory.
        """
        loader = self.data.train_dataloader()
        if not isinstance(loader, MemoryLoader):
            raise TypeError(
                f"{type(self.data).__name__} does not keep its training images in memory, and only those can be numbered; "
                "let the teacher look at every batch instead (without datasets.indexed.Indexed)."
            )
        return loader

    def train_dataloader(self) -> EpochLoader:
        """The other's batches in the same order, each with index and flip."""
        loader: Any = self.memory_loader()
        batches = loader.dataset
        numbered = IndexedImages(batches.images, batches.labels, batches.batch_size, batches.divisor)
        return EpochLoader(numbered, loader.sampler)
