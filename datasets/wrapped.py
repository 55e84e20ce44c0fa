"""A data module around another one: what it does not say itself is the other's."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from datasets.memory import normalise


class Wrapped(pl.LightningDataModule):
    """Base of data modules that change how another one gives its images.

    Whatever the subclass does not define (pair sets, classes, groups, fingerprint, batch size) is looked up in the other.

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


class WrappedImages(Wrapped):
    """`Wrapped`, around images that are kept in memory and can be asked for by index: by a teacher, for example."""

    def memory_loader(self) -> Any:
        """The other's training loader.

        Raises:
            TypeError: it is of a kind that this class cannot use.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say which loaders it takes")

    @property
    def train_labels(self) -> torch.Tensor:
        """Labels int64 [N] of the training images, in stored order."""
        labels: torch.Tensor = self.memory_loader().dataset.labels
        return labels

    def images(self, index: torch.Tensor, flip: bool) -> torch.Tensor:
        """The training images of the given index int64 [B] as a batch sees them, float32 [B, C, H, W]."""
        batches = self.memory_loader().dataset
        pixels = batches.images.index_select(0, index)
        return normalise(pixels.flip(-1) if flip else pixels, batches.divisor)
