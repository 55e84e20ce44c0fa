"""What a hop is measured on: its own error, its teacher's, and the number that the paper's protocol would report."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from common.evaluation.benchmark import Measurement
from common.evaluation.classification import TASK, ClassificationBenchmark
from papers.takd.claims import BEST_EPOCH, ENTROPY, TEACHER, TEST
from papers.takd.method import TAKD


class HopBenchmark:
    """The test part; see `ClassificationBenchmark`.

    Args:
        batch_size: images at a time.
    """

    def __init__(self, batch_size: int = 1000) -> None:
        self.student = ClassificationBenchmark(batch_size=batch_size)
        self.batch_size = batch_size

    def measure(self, method: TAKD, data: Any) -> Measurement:
        """See `ClassificationBenchmark.measure`; on the test part also `softened_entropy` (bits): mean entropy of this network's
        probabilities softened by the hop's temperature, which a student of it would be shown. Beside it, where they exist:

        the set `"teacher"`: error of the teacher of this hop; the set `"best epoch"`: error of the epoch that did best on the
        test part, as the paper reports it (with `watch_test`). Both are numbers without decisions.
        """
        found = self.student.measure(method, data)
        found.metrics[TEST][ENTROPY] = softened_entropy(method.network, data, method.temperature, self.batch_size)
        if method.lam and method.teacher is not None:
            found.metrics[TEACHER] = _number(_error(method.teacher, data, self.batch_size))
        if float(method.best_on_test) >= 0:
            found.metrics[BEST_EPOCH] = _number(1 - float(method.best_on_test))
        return found


def _number(error: float) -> dict[str, Any]:
    return {"task": TASK, "accuracy": 100 * (1 - error), "error": 100 * error}


@torch.no_grad()
def softened_entropy(network: Any, data: Any, temperature: float, batch_size: int = 1000) -> float:
    """Mean over the test images of the entropy of softmax(a / T), in bits: 0 = as sharp as labels, log2 C = uniform."""
    network.eval()
    log_p = torch.cat([F.log_softmax(network(x).double() / temperature, 1) for x, _ in data.loader(TEST, batch_size)])
    return float(-(log_p.exp() * log_p).sum(1).mean() / torch.log(torch.tensor(2.0, dtype=torch.float64)))


@torch.no_grad()
def _error(network: Any, data: Any, batch_size: int) -> float:
    """Share of the test images that a network is wrong on."""
    wrong = torch.cat([network(x).argmax(1) != y for x, y in data.loader(TEST, batch_size)])
    return float(wrong.double().mean())
