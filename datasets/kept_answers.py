"""What somebody says of all training images, kept in a file, so that it is asked once for many runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from datasets import fingerprint
from datasets.generated.cache import cached
from datasets.wrapped import WrappedImages

CHUNK = 512  # images that are looked at together


class KeepsAnswers(WrappedImages):
    """`WrappedImages` that keep what is said of them."""

    def kept_answers(self, settings: dict[str, str | int], ask: Callable[[], np.ndarray]) -> np.ndarray:
        """`ask()`, or what an earlier run with equal `settings` and the very same training images was answered.

        Files lie in `datasets.generated.cache.directory()`; a damaged one is announced and made anew.
        """
        rows = torch.arange(len(self.train_labels)).split(CHUNK)
        images = fingerprint.of_names(fingerprint.of_arrays(self.images(index, False).numpy()) for index in rows)
        return cached({**settings, "images": images}, lambda: {"answers": ask()})["answers"]
