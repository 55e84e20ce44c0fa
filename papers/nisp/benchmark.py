"""NISP's measurements: the final error, the error right after pruning, and how fast fine-tuning recovers."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.evaluation.benchmark import Measurement
from common.evaluation.classification import ClassificationBenchmark, add_decisions
from papers.nisp.claims import AFTER_PRUNING, RECOVERY
from papers.nisp.method import NISP

TOLERANCE = 0.01  # dense accuracy - 1 point counts as recovered


class PruningBenchmark:
    """The test part, beside it the same images right after pruning, and the epochs of fine-tuning.

    `"recovery"` has one decision for the moment right after pruning and for each tracked epoch: right where the test accuracy is
    at most 1 point below that of the dense network of the same seed. The fewer epochs fine-tuning needs, the fewer are wrong.
    The cost entries `accuracy_by_epoch` (percent, from right after pruning on) and `dense_accuracy` are the learning curve.

    Args:
        batch_size: images at a time. latency_repeats: see `ClassificationBenchmark`.
    """

    def __init__(self, batch_size: int = 1000, latency_repeats: int = 0) -> None:
        self.final = ClassificationBenchmark(batch_size=batch_size, latency_repeats=latency_repeats)

    def measure(self, method: NISP, data: Any) -> Measurement:
        """`"test"`, and of a pruned, tracked and fine-tuned method the others; see `ClassificationBenchmark.measure`."""
        found = self.final.measure(method, data)
        epochs, margins = int(method.epochs_done), method.after_pruning.cpu().numpy()
        if not epochs or not len(margins):
            return found
        add_decisions(
            found,
            AFTER_PRUNING,
            correct=margins > 0,
            score=margins,
            group=data.labels("test").numpy(),
            group_names=tuple(data.class_names),
        )
        dense, first = float(method.dense_accuracy), float(np.mean(margins > 0))
        found.cost["dense_accuracy"] = 100 * dense
        if method.rounds == 1:
            curve = np.array([first, *method.curve[:epochs].tolist()])
            recovered = curve >= dense - TOLERANCE - 1e-9
            none = np.full(len(curve), -1)
            add_decisions(found, RECOVERY, correct=recovered, score=curve, group=none, group_names=())
            found.cost["accuracy_by_epoch"] = [100 * value for value in curve.tolist()]
        return found
