"""A data module around images in memory: they can be asked for by index, and what a teacher says of them is kept in a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from datasets import fingerprint
from datasets.generated.cache import cached
from datasets.memory import normalise
from datasets.wrapped import Wrapped


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

    def kept_answers(self, settings: dict[str, str | int], ask: Callable[[], np.ndarray]) -> np.ndarray:
        """`ask()`, or what an earlier run with equal `settings` and the very same training images was answered.

        Files lie in `datasets.generated.cache.directory()`; a damaged one is announced and made anew.
        """
        batches = self.memory_loader().dataset
        seen = {"images": fingerprint.of_arrays(batches.images.numpy()), "divisor": str(batches.divisor)}
        return cached({**settings, **seen}, lambda: {"answers": ask()})["answers"]
