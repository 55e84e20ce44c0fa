"""Training images in two halves of the same people: one trains the weights, the other the architecture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytorch_lightning as L
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.memory import Batch, EpochBatches, EpochLoader, stored_batch


class PairedBatches(Dataset):
    """Batches of both halves together: ((images, labels) to train on, (images, labels) held out).

    Args:
        batches: data set of whole batches, indexed by `Batch`.
        first, second: int64 [N], images of either half. batch_size: size of the batches that an integer names.
    """

    def __init__(self, batches: Any, first: Tensor, second: Tensor, batch_size: int) -> None:
        self.batches, self.first, self.second, self.batch_size = batches, first, second, batch_size

    def __len__(self) -> int:
        return -(-len(self.first) // self.batch_size)

    def __getitem__(self, batch: Batch | int) -> tuple[Any, Any]:
        """The held-out images are never mirrored."""
        if isinstance(batch, int):
            batch = stored_batch(batch, self.batch_size, len(self.first))
        held_out = Batch(self.second[batch.index], torch.zeros_like(batch.flip))
        return self.batches[Batch(self.first[batch.index], batch.flip)], self.batches[held_out]


class SearchHalves(L.LightningDataModule):
    """Another data module's training images, split in two: every second image of every person goes to the other half.

    Where the data module does not say the labels beforehand (`train.rec`), the images are taken to be stored person after person.

    Args:
        data: the other data module, whose training loader is a `datasets.memory.EpochLoader`.
        batch_size: images a step of each half; None takes the other's.
        seed: order and flips of the first half, and which images of the second meet which of the first.
    """

    def __init__(self, data: Any, batch_size: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self.data, self.seed = data, seed
        self.batch_size = batch_size or int(data.batch_size)

    @property
    def num_classes(self) -> int:
        """Identities."""
        return int(self.data.num_classes)

    def prepare_data(self) -> None:
        """The other's."""
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """The other's."""
        self.data.setup(stage)

    def halves(self, batches: Any) -> tuple[Tensor, Tensor]:
        """Images int64 [N // 2] of both halves, the second in random order."""
        labels = getattr(batches, "labels", None)
        count = len(labels) if labels is not None else len(batches.source)
        order = torch.arange(count) if labels is None else torch.argsort(labels, stable=True)
        half = count // 2
        partner = np.random.default_rng((self.seed, 2)).permutation(half)
        return order[0 : 2 * half : 2], order[1 : 2 * half : 2][torch.from_numpy(partner)]

    def train_dataloader(self) -> EpochLoader:
        """Pairs of batches; order and flips depend on (seed, epoch, position) alone."""
        loader = self.data.train_dataloader()
        if not isinstance(loader, EpochLoader):
            raise TypeError(
                f"{type(self.data).__name__} gives a {type(loader).__name__}; a search needs a datasets.memory.EpochLoader, "
                "whose images can be asked for by number."
            )
        first, second = self.halves(loader.dataset)
        paired = PairedBatches(loader.dataset, first, second, self.batch_size)
        return EpochLoader(paired, EpochBatches(len(first), self.batch_size, self.seed), loader.num_workers)

    def pair_sets(self) -> dict[str, Any]:
        """The other's."""
        sets: dict[str, Any] = self.data.pair_sets()
        return sets

    def fingerprint(self) -> dict[str, Any]:
        """The other's, and that it is split."""
        return {"halves_of": self.data.fingerprint()}
