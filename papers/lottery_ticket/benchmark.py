"""What the paper looks at: the network at the end of training, and the one of the smallest validation loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from common.evaluation.benchmark import Measurement
from common.evaluation.classification import ClassificationBenchmark, add_decisions, margin

EARLY = "early stop"


class TicketBenchmark(ClassificationBenchmark):
    """`ClassificationBenchmark`, and the same test images under the weights of the early-stopping step.

    `metrics["early stop"]` holds their error and classes, `step` (that of the smallest validation loss), `validation_loss`, and
    `validation_losses`, the whole record: one value every `validate_every` steps.
    """

    def measure(self, method: Any, data: Any) -> Measurement:
        """Measure `method.network` and `method.early_network()`; arguments as in `ClassificationBenchmark`."""
        found = super().measure(method, data)
        early = method.early_network()
        if early is None:
            return found
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        logits, labels = self._outputs(early, data, "test", device)
        add_decisions(
            found,
            EARLY,
            correct=(logits.argmax(1) == labels).numpy(),
            score=margin(logits, labels).numpy(),
            group=labels.numpy(),
            group_names=tuple(data.class_names),
            metrics={
                "loss": float(F.cross_entropy(logits, labels)),
                "step": int(method.best_step),
                "validation_loss": float(method.best_loss),
            },
        )
        losses = method.losses.cpu().numpy()
        found.metrics[EARLY]["validation_losses"] = [round(float(loss), 5) for loss in losses[np.isfinite(losses)]]
        return found
