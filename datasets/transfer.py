"""The transfer set of distillation: what is left of a data set's training images once some are left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from datasets.splits import ImagesInMemory, Part, held_out
from datasets.wrapped import Wrapped


class TransferSet(Wrapped):
    """Another data module with fewer training images, or without their labels; validation and test part stay whole.

    Args:
        data: an image classification set in memory.
        without: classes of which no training image stays.
        fraction: share of the remaining images that stays, in (0, 1]; the same of every class.
        fraction_seed: which ones.
        labelled: False replaces every training label by -1: nothing can be learned from labels.

    Raises:
        TypeError: the data module does not keep its images in memory.
        ValueError: a share outside (0, 1], a class that does not exist (setup), or no image left (setup).
    """

    def __init__(
        self,
        data: ImagesInMemory,
        without: Sequence[int] = (),
        fraction: float = 1.0,
        fraction_seed: int = 0,
        labelled: bool = True,
    ) -> None:
        super().__init__(data)
        if not isinstance(data, ImagesInMemory):
            raise TypeError(f"{type(data).__name__} does not keep its images in memory, so that none can be left out")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction is {fraction}; it is the share of training images that stays, in (0, 1]")
        self.without, self.fraction, self.fraction_seed = tuple(without), fraction, fraction_seed
        self.labelled = labelled
        self._narrowed = False

    def setup(self, stage: str | None = None) -> None:
        """Read the other data module and narrow its training part; does nothing the second time."""
        super().setup(stage)
        if self._narrowed:
            return
        part = self.data.train
        unknown = [label for label in self.without if not 0 <= label < self.data.num_classes]
        if unknown:
            raise ValueError(
                f"class {unknown[0]} cannot be left out: there are classes 0 to {self.data.num_classes - 1}"
            )
        kept = part.select(np.flatnonzero(~np.isin(part.labels.numpy(), self.without)))
        if not len(kept):
            raise ValueError(f"without the classes {', '.join(map(str, self.without))} no training image is left")
        if self.fraction < 1:
            labels = kept.labels.numpy()
            count = max(1, round(self.fraction * len(labels)))
            kept = kept.select(held_out(labels, count, self.fraction_seed, stratified=True)[1])
        self.data.train = kept if self.labelled else Part(kept.images, torch.full_like(kept.labels, -1))
        self._narrowed = True

    def train_dataloader(self) -> Any:
        """Batches of the images that stay."""
        self.setup()
        return self._with_trainer().train_dataloader()

    def val_dataloader(self) -> Any:
        """The other's."""
        self.setup()
        return self._with_trainer().val_dataloader()

    def test_dataloader(self) -> Any:
        """The other's."""
        self.setup()
        return self._with_trainer().test_dataloader()

    def _with_trainer(self) -> ImagesInMemory:
        self.data.trainer = self.trainer  # so that batches are made on the trainer's device
        return self.data
