"""Classes that the transfer set lacks: one number, added to their biases, brings them back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as L
import torch
from torch import Tensor, nn

from common.weights import load_weights


class BiasCorrection(L.LightningModule):
    """Add one offset d to the biases of some classes: d is the multiple of `step` with the highest validation accuracy.

    The paper chose d on the test set: 3.5 for a missing class 3, and 7.6 (subtracted from the classes that were there) where only
    7s and 8s were. Adding d to some classes or subtracting it from the others decides alike. Of several d that are equally
    good the middle one is taken.

    Args:
        network: a trained classifier whose last layer is `output`, a linear layer with biases.
        weights: its file; None takes it as it is.
        classes: whose biases are raised.
        step, largest: d is searched in 0, step, 2 step, ..., largest.

    Raises:
        ValueError: no class, a class that is not in the output, or a step that is not positive.
    """

    def __init__(
        self,
        network: nn.Module,
        weights: str | None = None,
        classes: Sequence[int] = (),
        step: float = 0.1,
        largest: float = 20.0,
    ) -> None:
        super().__init__()
        if weights is not None:
            load_weights(network, weights)
        self.network = network
        self.classes, self.step, self.largest = tuple(classes), step, largest
        count = len(self._biases())
        if not classes or not all(0 <= label < count for label in classes):
            raise ValueError(f"classes is {self.classes}; give at least one of the network's classes 0 to {count - 1}")
        if not 0 < step <= largest:
            raise ValueError(f"{step=} must be above 0 and at most {largest=}")

    def _biases(self) -> Tensor:
        output: Any = self.network.output
        bias: Tensor = output.bias
        return bias

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, classes]."""
        logits: Tensor = self.network(x)
        return logits

    @torch.no_grad()
    def correct(self, data: Any) -> None:
        """Choose the offset on the validation part and add it."""
        self.network.eval()
        logits = torch.cat([self.network(x.to(self.device)) for x, _ in data.loader("validation", 1000)])
        labels = data.labels("validation").to(self.device)
        offset = best_offset(logits, labels, self.classes, self.step, self.largest)
        self._biases()[list(self.classes)] += offset


def best_offset(logits: Tensor, labels: Tensor, classes: Sequence[int], step: float, largest: float) -> float:
    """The offset in 0, step, ..., largest for logits [N, C] and labels int64 [N] that decides most of them rightly."""
    count = round(largest / step) + 1
    right = torch.zeros(count, dtype=torch.int64)
    raised = torch.zeros(logits.shape[1], dtype=logits.dtype, device=logits.device)
    raised[list(classes)] = 1.0
    for k in range(count):
        right[k] = ((logits + k * step * raised).argmax(dim=1) == labels).sum()
    best = torch.nonzero(right == right.max()).flatten()
    return float(best[len(best) // 2]) * step
