"""Faces without labels to train on, numbered so that a teacher's answers are looked up, and another set to test on."""

from __future__ import annotations

import torch

from datasets.combined import TrainTest
from datasets.memory import MemoryLoader


class Unlabelled(TrainTest):
    """`TrainTest` that tells how many training images there are, for `datasets.indexed.Indexed`.

    Args:
        train: gives the training batches, from images in memory. test: gives `pair_sets()` and `validation_pair_sets()`.
    """

    @property
    def train_labels(self) -> torch.Tensor:
        """Whatever the training part has for labels, int64 [N], one an image.

        Raises:
            TypeError: its images are not in memory, so that they have no numbers.
        """
        loader = self.train_dataloader()
        if not isinstance(loader, MemoryLoader):
            raise TypeError(
                f"{type(self.train).__name__} does not keep its training images in memory: raise its `in_memory`, or let the "
                "teacher look at every batch (datasets.combined.TrainTest in place of this)."
            )
        labels: torch.Tensor = loader.dataset.labels  # type: ignore[attr-defined]
        return labels
