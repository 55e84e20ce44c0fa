"""NISP's measurements: the final error, the error right after pruning, and how fast fine-tuning recovers."""

from __future__ import annotations

from typing import Any

from common.evaluation.benchmark import Measurement
from common.evaluation.classification import ClassificationBenchmark, add_decisions
from papers.nisp.claims import AFTER_PRUNING, EPOCHS, TEST
from papers.nisp.method import NISP

TOLERANCE = 0.01  # dense accuracy - 1 point counts as recovered


class PruningBenchmark:
    """The test part, the same images right after pruning, and the epochs that fine-tuning needs to recover.

    Args:
        batch_size: images at a time. latency_repeats: see `ClassificationBenchmark`.
    """

    def __init__(self, batch_size: int = 1000, latency_repeats: int = 0) -> None:
        self.final = ClassificationBenchmark(batch_size=batch_size, latency_repeats=latency_repeats)

    def measure(self, method: NISP, data: Any) -> Measurement:
        """See `ClassificationBenchmark.measure`; of a method that was pruned, tracked and fine-tuned, also:

        the set `"after pruning"` (of several rounds: after the last); on the test part, after one round, `epochs_to_recover`, see
        there; and the learning curve in percent, `accuracy_by_epoch`, from right after pruning on, among the costs.
        """
        found = self.final.measure(method, data)
        epochs, margins = int(method.epochs_done), method.after_pruning.cpu()
        if not epochs or not len(margins):
            return found
        right = margins > 0
        add_decisions(
            found,
            AFTER_PRUNING,
            correct=right.numpy(),
            score=margins.numpy(),
            group=data.labels("test").numpy(),
            group_names=tuple(data.class_names),
        )
        if method.rounds == 1:
            curve = [float(right.double().mean()), *method.curve[:epochs].tolist()]
            found.cost["accuracy_by_epoch"] = [100 * value for value in curve]
            found.cost["dense_accuracy"] = 100 * float(method.dense_accuracy)
            found.metrics[TEST][EPOCHS] = epochs_to_recover(curve, float(method.dense_accuracy))
        return found


def epochs_to_recover(curve: list[float], dense: float, tolerance: float = TOLERANCE) -> int:
    """Epochs of fine-tuning after which the accuracy first is at most the tolerance below that of the dense network.

    Args:
        curve: accuracies right after pruning and after each of E epochs. dense: of the network before it was pruned.

    Returns:
        0 to E; E + 1 where that never happened.
    """
    enough = [value >= dense - tolerance - 1e-9 for value in curve]
    return enough.index(True) if True in enough else len(curve)
