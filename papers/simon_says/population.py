"""What pruning did to the errors of every class: several students against the one network that they were made from.

    FPR_k, FNR_k     of class k against the rest; of the students averaged over the R runs first
    x_k, y_k         relative change of FPR_k and FNR_k, in percent
    CEV = 1/(2K) sum_k (x_k - mean x)^2 + (y_k - mean y)^2          percent squared
    SDE = 1/K sum_k |x_k - y_k| / sqrt 2                            percent
    PIE = { i : every student disagrees with the unpruned network on image i }

Both are 0 where all classes change alike, also where all are much worse: they stand beside the error, never in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytorch_lightning as L
import torch
from scipy import stats
from torch import Tensor

from common.cost import measure_cost
from common.distillation.teacher import Teacher
from common.evaluation.benchmark import Measurement
from common.evaluation.classification import TASK, add_decisions, margin, pruning_cost
from common.fairness.compression import pie_all_runs
from common.fairness.confusion import class_errors, confusion, error_shift
from papers.simon_says.sets import ACROSS, TEST
from papers.simon_says.similarity import svcca_distances


class Population(L.LightningModule):
    """R students of one unpruned network. Nothing is trained; `network`, which is stored and counted, is the first of them.

    Args:
        base: the very network that the students were pruned from. runs: the students.
        tapped: names of modules whose responses are compared with the base's, the earliest first.

    Raises:
        ValueError: no student.
    """

    def __init__(
        self, base: Teacher, runs: list[Teacher], tapped: Sequence[str] = ("layer1", "layer2", "layer3", "fc")
    ) -> None:
        super().__init__()
        if not runs:
            raise ValueError("a population needs at least one student")
        self.base, self.runs, self.tapped = base, list(runs), tuple(tapped)
        self.network = runs[0].network


class Gallery(L.LightningModule):
    """Several populations beside each other, for what can only be seen across arms.

    Args:
        populations: of at least three arms.

    Raises:
        ValueError: fewer.
    """

    def __init__(self, populations: list[Population]) -> None:
        super().__init__()
        if len(populations) < 3:
            raise ValueError(f"a correlation over {len(populations)} arms says nothing: give at least three")
        self.members = list(populations)
        self.network = populations[0].network


class BiasBenchmark:
    """Error, CEV, SDE, PIEs and similarity of a population on the test part.

    Args:
        smoothed: take (errors + 1) / (samples + 2) as every rate of both networks, for test sets so small that the unpruned
            network makes no error in some class; otherwise such classes are left out and counted (`left_out`).
        similarity_images: validation images that responses are compared on. batch_size: images at a time.
    """

    def __init__(self, smoothed: bool = False, similarity_images: int = 200, batch_size: int = 1000) -> None:
        self.smoothed, self.similarity_images, self.batch_size = smoothed, similarity_images, batch_size

    def measure(self, method: Any, data: Any) -> Measurement:
        """The decisions of all R students on every test image (the bootstrap resamples images), and in `metrics["test"]`:

        `cev`, `sde` (the scale of arXiv:2106.07849), `cev_2110`, `sde_2110` (of its successor), `cev_mean_of_runs` (each student
        by itself, then the mean: larger, a control), `pies`, `left_out`, `svcca_<module>`.
        Of a `Gallery` the set `"across arms"`: `pearson` of CEV and the SVCCA distance of the first module, `tau` of Kendall
        between the rankings by CEV and by error.
        """
        if isinstance(method, Gallery):
            return self._across(method, data)
        logits, labels = self._outputs(method, data)
        repeated, flat = labels.repeat(len(logits)), logits.flatten(0, 1)
        found = Measurement({}, {}, {}, {}, {})
        add_decisions(
            found,
            TEST,
            correct=(flat.argmax(1) == repeated).numpy(),
            score=margin(flat, repeated).numpy(),
            group=repeated.numpy(),
            group_names=tuple(data.class_names),
            metrics=self._shift(method, logits, labels, data),
            subject=np.tile(np.arange(len(labels), dtype=np.int32), len(logits)),
        )
        found.cost.update(_cost(method, data))
        found.cost.update(pruning_cost(method.network, None))
        return found

    def _outputs(self, method: Population, data: Any) -> tuple[Tensor, Tensor]:
        """Logits of every student [R, N, K] and labels [N]."""
        return torch.stack([self._answers(run, data) for run in method.runs]), data.labels(TEST)

    def _answers(self, network: Teacher, data: Any) -> Tensor:
        answers = torch.cat([network(x).double().cpu() for x, _ in data.loader(TEST, self.batch_size)])
        if not bool(torch.isfinite(answers).all()):
            raise ValueError("the network's outputs on the test part are not finite: it has diverged")
        return answers

    def _shift(self, method: Population, logits: Tensor, labels: Tensor, data: Any) -> dict[str, Any]:
        base = self._answers(method.base, data).argmax(1).numpy()
        values = shift_metrics(labels.numpy(), base, logits.argmax(2).numpy(), len(data.class_names), self.smoothed)
        distances = [
            svcca_distances(method.base, run, data, method.tapped, self.similarity_images) for run in method.runs
        ]
        values |= {f"svcca_{name}": float(np.mean([d[name] for d in distances])) for name in method.tapped}
        return values

    def _across(self, gallery: Gallery, data: Any) -> Measurement:
        rows = []
        for member in gallery.members:
            logits, labels = self._outputs(member, data)
            values = self._shift(member, logits, labels, data)
            error = float((logits.argmax(2) != labels).double().mean())
            rows.append((values["cev"], values[f"svcca_{member.tapped[0]}"], error))
        cev, distance, errors = np.array(rows, dtype=np.float64).T
        found = Measurement({}, {}, {}, {}, {})
        found.metrics[ACROSS] = {
            "task": TASK,
            "error": 100 * float(errors.mean()),
            "accuracy": 100 * (1 - float(errors.mean())),
            "arms": len(rows),
            "pearson": _finite(stats.pearsonr(distance, cev).statistic),
            "tau": _finite(stats.kendalltau(cev, errors).statistic),
        }
        found.cost.update(_cost(gallery, data))
        return found


def _cost(method: Any, data: Any) -> dict[str, Any]:
    return asdict(measure_cost(method.network, (int(data.in_channels), *map(int, data.image_size))))


def shift_metrics(
    truth: np.ndarray, base: np.ndarray, runs: np.ndarray, classes: int, smoothed: bool
) -> dict[str, Any]:
    """CEV, SDE and PIEs of predictions; see `BiasBenchmark.measure`. Undefined ones are None.

    Args:
        truth, base: int [N]. runs: int [R, N].
    """
    before = class_errors(confusion(truth, base, classes), smoothed)
    after = class_errors(confusion(truth, runs, classes), smoothed)
    shift = error_shift(before, after, "2106")
    later = error_shift(before, after, "2110")
    alone = [
        error_shift(before, class_errors(confusion(truth, run, classes), smoothed), "2106").cev.value for run in runs
    ]
    return {
        "cev": _finite(shift.cev.value),
        "sde": _finite(shift.sde.value),
        "cev_2110": _finite(later.cev.value),
        "sde_2110": _finite(later.sde.value),
        "cev_mean_of_runs": _finite(float(np.mean(alone))),
        "pies": int(pie_all_runs(base, runs).sum()),
        "left_out": len(shift.left_out),
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
