"""The training part of another data set as a model sees it that is trained again: cut class by class, in an order of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from datasets.augmentation import TensorBatches, TensorLoader
from datasets.memory import Batch, EpochLoader, stored_batch
from datasets.splits import ImagesInMemory
from datasets.wrapped import Wrapped


class NumberedBatches(TensorBatches):
    """Like `TensorBatches`, with the place int64 [B] of every image in the training part behind image and label."""

    def __getitem__(self, batch: Batch | int) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        """Images float32 [B, C, H, W], labels int64 [B], places int64 [B]."""
        if isinstance(batch, int):
            batch = stored_batch(batch, self.batch_size, len(self.images))
        return (*super().__getitem__(batch), batch.index.to(self.labels.device))


class Retraining(Wrapped):
    """Another image classification set for the next training of a model; validation and test parts are the other's.

    Args:
        data: the other set, held in memory.
        repeat: which of several trainings with the same seed this is; each has an order of its own.
        kept: (class, share of its training images that stay) pairs; classes that are not named stay whole.
        cut_seed: decides which images stay, the same ones in every training.
        numbered: batches say which images they hold: (images, labels, places).
        seed: of order and augmentation, together with `repeat`.

    Raises:
        TypeError: a set that is not held in memory.
        ValueError: (setup) a class that there is not, a share outside (0, 1], a class of which nothing would stay.
    """

    def __init__(
        self,
        data: Any,
        repeat: int = 0,
        kept: Sequence[tuple[int, float]] = (),
        cut_seed: int = 0,
        numbered: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(data)
        if not isinstance(data, ImagesInMemory):
            raise TypeError(
                f"{type(data).__name__} is not held in memory: give a set like datasets.classification.CIFAR10"
            )
        self.kept, self.cut_seed, self.numbered = tuple(kept), cut_seed, numbered
        data.seed = int(np.random.SeedSequence((seed, repeat)).generate_state(1)[0])
        self._is_cut = False

    def setup(self, stage: str | None = None) -> None:
        """The other's, and the cut."""
        super().setup(stage)
        if not self._is_cut:
            self.data.train = self.data.train.select(self._staying(self.data.train.labels.numpy()))
            self._is_cut = True

    def _staying(self, labels: np.ndarray) -> np.ndarray:
        """Places of the images that stay, int64, ascending."""
        staying = np.ones(len(labels), dtype=bool)
        generator = np.random.default_rng(self.cut_seed)
        for label, share in self.kept:
            own = np.flatnonzero(labels == label)
            count = round(share * len(own))
            if not len(own) or not 0 < share <= 1 or not count:
                raise ValueError(
                    f"{share:g} of the {len(own)} training images of class {label} cannot stay: name classes that "
                    "there are, and shares in (0, 1] that leave an image"
                )
            staying[own] = False
            staying[generator.choice(own, count, replace=False)] = True
        return np.flatnonzero(staying)

    def train_dataloader(self) -> Any:
        """The other's batches of what stays, each with its places if they are numbered."""
        self.data.trainer = self.trainer
        loader: TensorLoader = self.data.train_dataloader()
        if not self.numbered:
            return loader
        batches: Any = loader.dataset
        numbered = NumberedBatches(
            batches.images, batches.labels, batches.batch_size, batches.normalisation, batches.border
        )
        return EpochLoader(numbered, loader.sampler)

    def val_dataloader(self) -> Any:
        """The other's."""
        return self.data.val_dataloader()

    def test_dataloader(self) -> Any:
        """The other's."""
        return self.data.test_dataloader()
