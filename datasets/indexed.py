"""Training batches that say which image is which, so that what a teacher says of an image is computed once."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from datasets.memory import Batch, EpochLoader, MemoryImages, MemoryLoader, normalise, stored_batch


class IndexedImages(MemoryImages):
    """Like `MemoryImages`, with the index int64 [B] and the flip bool [B] of every image behind image and label."""

    def __getitem__(self, batch: Batch | int) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        """Images float32 [B, C, H, W], labels int64 [B], index int64 [B], flip bool [B]."""
        if isinstance(batch, int):
            batch = stored_batch(batch, self.batch_size, len(self.images))
        return (*super().__getitem__(batch), batch.index, batch.flip)


class Indexed(pl.LightningDataModule):
    """Another data module whose training batches are (images, labels, index, flip).

    Order and flips are those of the other data module, which must keep its training images in memory (`MemoryLoader`).
    Everything else (pair sets, classes, fingerprint) is the other's.

    Args:
        data: the other data module.
    """

    def __init__(self, data: Any) -> None:
        super().__init__()
        self.data = data

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "data" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["data"], name)

    def prepare_data(self) -> None:
        """The other's."""
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """The other's."""
        self.data.setup(stage)

    @property
    def train_labels(self) -> torch.Tensor:
        """Labels int64 [N] of the training images, in stored order."""
        labels: torch.Tensor = self._loader().dataset.labels
        return labels

    def images(self, index: torch.Tensor, flip: bool) -> torch.Tensor:
        """The training images of the given index int64 [B] as a batch sees them, float32 [B, C, H, W]."""
        batches = self._loader().dataset
        pixels = batches.images.index_select(0, index)
        return normalise(pixels.flip(-1) if flip else pixels, batches.divisor)

    def _loader(self) -> Any:
        loader = self.data.train_dataloader()
        if not isinstance(loader, MemoryLoader):
            raise TypeError(
                f"{type(self.data).__name__} does not keep its training images in memory, and only those can be numbered; "
                "let the teacher look at every batch instead (without datasets.indexed.Indexed)."
            )
        return loader

    def train_dataloader(self) -> EpochLoader:
        """The other's batches in the same order, each with index and flip."""
        loader: Any = self._loader()
        batches = loader.dataset
        numbered = IndexedImages(batches.images, batches.labels, batches.batch_size, batches.divisor)
        return EpochLoader(numbered, loader.sampler)
