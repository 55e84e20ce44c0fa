"""A teacher's answers, kept in a file, so that a table of many students asks their teacher once."""

from __future__ import annotations

import torch
from torch import Tensor

from common.distillation.teacher import TeacherAnswers
from datasets import fingerprint
from datasets.generated.cache import cached


class StoredAnswers(TeacherAnswers):
    """`TeacherAnswers` that an earlier run with the same teacher and the same training images may have collected.

    The file (see `datasets.generated.cache`) is named by the content of the teacher's weights, of all images, and of the
    answers to the first of them, which are computed anew every time: another network, version, device or number of threads
    that changes a single bit there finds no file, and collects for itself. A run therefore ends alike with a file and without.

    Args: those of `TeacherAnswers`.
    """

    def _collect(self, device: torch.device) -> Tensor:
        rows = torch.arange(len(self.data.train_labels)).split(self.batch_size)
        first = self.teacher(self.data.images(rows[0], False).to(device))
        weights = self.teacher.network.state_dict().values()
        settings = {
            "weights": fingerprint.of_names(fingerprint.of_arrays(value.cpu().numpy()) for value in weights),
            "images": fingerprint.of_names(
                fingerprint.of_arrays(self.data.images(index, False).numpy()) for index in rows
            ),
            "first answers": fingerprint.of_arrays(first.cpu().numpy()),
            "batch_size": self.batch_size,
        }
        collect = super()._collect
        found = cached(settings, lambda: {"answers": collect(device).cpu().numpy()})
        return torch.from_numpy(found["answers"]).to(device)
