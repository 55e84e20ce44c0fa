"""Which one teaching assistant to take: the paper's heuristic, computed on validation images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from common.distillation.teacher import Teacher


def nearest_to_mean(accuracies: Sequence[float], teacher: float, student: float) -> int:
    """Index of the accuracy that is nearest to (teacher + student) / 2; of a tie the first.

    The mean of the accuracies, not of the sizes.

    Raises:
        ValueError: there is nothing to choose from.
    """
    if not accuracies:
        raise ValueError("there is no assistant to choose from")
    middle = (teacher + student) / 2
    return min(range(len(accuracies)), key=lambda index: abs(accuracies[index] - middle))


class Assistants:
    """The candidates, each trained alone (by which they are judged) and by the teacher (by which they teach).

    Args:
        teacher, student: N_0 and N_k, each trained alone. alone, distilled: of every candidate, in the same order.

    Raises:
        ValueError: not one distilled network a candidate.
    """

    def __init__(self, teacher: Teacher, student: Teacher, alone: list[Teacher], distilled: list[Teacher]) -> None:
        if not alone or len(alone) != len(distilled):
            raise ValueError(
                f"{len(alone)} assistants trained alone and {len(distilled)} distilled: expected one of each"
            )
        self.teacher, self.student, self.alone, self.distilled = teacher, student, alone, distilled

    def nearest(self, data: Any) -> int:
        """Which candidate's accuracy alone is nearest to the mean of the two ends', on the validation part."""
        accuracies = [validation_accuracy(network, data) for network in self.alone]
        ends = [validation_accuracy(network, data) for network in (self.teacher, self.student)]
        return nearest_to_mean(accuracies, *ends)


@torch.no_grad()
def validation_accuracy(network: Any, data: Any, device: torch.device | None = None) -> float:
    """Share of the validation images that a network is right on, in [0, 1].

    Raises:
        ValueError: the data module holds no validation images out.
    """
    right, seen = 0, 0
    for images, labels in data.val_dataloader():
        images, labels = (images, labels) if device is None else (images.to(device), labels.to(device))
        right += int((network(images).argmax(1) == labels).sum())
        seen += len(labels)
    if not seen:
        raise ValueError(
            "there is no validation part to choose on; hold images out (validation=...) or take the last epoch"
        )
    return right / seen
