"""The frozen teacher: weights from a file, eval mode for ever, no gradient, no place in the student's checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.weights import load_weights


class Teacher:
    """A trained network that only answers.

    It is no `nn.Module`, so that a student that holds one neither trains it, nor moves its BatchNorm statistics, nor
    stores it: it has no parameters to offer, `student.train()` does not reach it, and `state_dict()` does not list it.
    The network follows its input to whatever device that is on.

    Args:
        network: the architecture, built as it was when the weights were saved.
        weights: the file; None keeps the weights that the network has.

    Raises:
        FileNotFoundError, DamagedFileError, WeightsMismatchError: see `common.weights.load_weights`; raised here, before
            any training starts.
    """

    def __init__(self, network: nn.Module, weights: str | os.PathLike[str] | None = None) -> None:
        if weights is not None:
            load_weights(network, weights)
        self.network = network.eval().requires_grad_(False)

    def load(self, weights: str | os.PathLike[str]) -> None:
        """Take the weights of another file (the teacher's next checkpoint of multi-step distillation)."""
        load_weights(self.network, weights)

    def __call__(self, x: Tensor) -> Tensor:
        """What the network says of x, as a constant of the student's loss: computed under inference mode, no graph."""
        self._follow(x.device)
        self.network.eval()
        with torch.inference_mode():
            answer = self.network(x)
        return (
            answer.clone()
        )  # outside inference mode: an ordinary tensor, which a student's loss may save for backward

    def _follow(self, device: torch.device) -> None:
        first = next(self.network.parameters(), None)
        if first is not None and first.device != device:
            self.network.to(device)


class TeacherAnswers:
    """What a teacher says of the images of a training batch: looked up where the batch says which images it holds.

    Of a data module that numbers its images (`datasets.indexed.Indexed`) every image is shown to the teacher twice, as it
    is and mirrored, when the first batch comes; from then on a step costs two gathers in place of a forward pass.

    Args:
        teacher: the frozen teacher.
        data: the student's data module.
        batch_size: images at a time while the answers are collected.
    """

    def __init__(self, teacher: Teacher, data: Any, batch_size: int = 128) -> None:
        self.teacher, self.data, self.batch_size = teacher, data, batch_size
        self._known: Tensor | None = None  # [2, N, D]: as it is, mirrored

    def __call__(self, batch: Sequence[Tensor]) -> Tensor:
        """The teacher's answers [B, D] to a batch (images, labels) or (images, labels, index, flip), without gradient."""
        if len(batch) == 2:
            return self.teacher(batch[0])
        _, _, index, flip = batch
        return self.all(batch[0].device)[flip.long(), index]

    def all(self, device: torch.device) -> Tensor:
        """The answers [2, N, D] to all N training images, as they are and mirrored; collected on `device` when first asked."""
        if self._known is None:
            self._known = self._collect(device)
        return self._known

    def forget(self) -> None:
        """Collect anew at the next batch: the teacher has other weights now."""
        self._known = None

    def _collect(self, device: torch.device) -> Tensor:
        count = len(self.data.train_labels)
        rows = torch.arange(count).split(self.batch_size)
        sides = [
            torch.cat([self.teacher(self.data.images(index, flip).to(device)) for index in rows])
            for flip in (False, True)
        ]
        return torch.stack(sides)
