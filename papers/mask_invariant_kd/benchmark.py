"""What the paper looks at beyond accuracies: scores at low false match rates, and how far a mask moves a template."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from common.evaluation.benchmark import Measurement, VerificationBenchmark
from common.evaluation.embedding import embed
from common.evaluation.scores import ScoreList
from datasets.masked_pairs import WithMasks
from datasets.pairs import PairSet

RATES = {"fmr100": 1e-2, "fmr1000": 1e-3}


class MaskBenchmark(VerificationBenchmark):
    """`VerificationBenchmark` on pair sets of `MaskedFaces`, and for every set the measures of MFRC-21.

    `fmr100`, `fmr1000`: lowest FNMR, in percent, with an FMR of at most 1 % and 0.1 % (undefined where fewer than ten impostor
    pairs may be accepted); `genuine_mean`, `impostor_mean`: mean scores; `fisher_ratio`, the FDR of that competition:
    (mu_G - mu_I)^2 / (sd_G^2 + sd_I^2). (`fdr` is the fairness discrepancy rate.)

    `template_distance`: mean over test images of ||f - g||^2 = 2 - 2 cos between the student's template of the face and the
    teacher's template of the face without a mask. Sets whose pairs are both masked have that of masked faces, sets without masks
    that of unmasked ones. A network without a teacher is compared with itself. `cost["lambda_per_dimension"]`: of the
    method.

    Args:
        template_images: number of test images of `template_distance`, spread evenly; 0 for all.
        options: of `VerificationBenchmark`.
    """

    def __init__(self, template_images: int = 1000, **options: Any) -> None:
        super().__init__(**options)
        self.template_images = template_images

    def measure(self, method: Any, data: Any) -> Measurement:
        """Measure `method.network` against `method.teacher`, if it has one."""
        found = super().measure(method, data)
        sets = data.pair_sets() if self.part == "test" else data.validation_pair_sets()
        distances: dict[int, tuple[float, float]] = {}
        for name, values in found.metrics.items():
            values |= mated_measures(found.scores[f"{name}/score"], found.tables[found.pairs[name]]["same"])
            values["undefined"] = sorted({*values["undefined"], *(rate for rate in RATES if values[rate] is None)})
            pairs = sets[name]
            if id(pairs.images) not in distances:
                distances[id(pairs.images)] = self._distances(method, pairs)
            masked = np.concatenate([pairs.first, pairs.second]) >= len(pairs.images) // 2
            if masked.all() or not masked.any():
                values["template_distance"] = distances[id(pairs.images)][0 if masked.all() else 1]
        found.cost["lambda_per_dimension"] = getattr(method, "lambda_per_dimension", 0.0)
        return found

    def _distances(self, method: Any, pairs: PairSet) -> tuple[float, float]:
        """Mean ||f - g||^2 of masked and of unmasked faces."""
        images: WithMasks = pairs.images
        count = len(images.images)
        rows = np.unique(np.linspace(0, count - 1, min(count, self.template_images or count)).astype(int)).tolist()
        clean = torch.cat([images[row : row + 1] for row in rows])
        masked = torch.cat([images[count + row : count + row + 1] for row in rows])
        goal = self._unit(getattr(method, "teacher", method).network, clean, pairs.divisor)
        return (
            squared(self._unit(method.network, masked, pairs.divisor), goal),
            squared(self._unit(method.network, clean, pairs.divisor), goal),
        )

    def _unit(self, network: Any, images: torch.Tensor, divisor: float) -> np.ndarray:
        """Templates of unit length, float64 [N, d], of the images as they are."""
        rows = embed(network, images, divisor=divisor, flip="none", batch_size=self.batch_size).astype(np.float64)
        unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


def squared(templates: np.ndarray, others: np.ndarray) -> float:
    """Mean over N of ||f - g||^2, [N, d] each."""
    return float(((templates - others) ** 2).sum(axis=1).mean())


def mated_measures(score: np.ndarray, same: np.ndarray) -> dict[str, Any]:
    """FMR100, FMR1000 (percent), mean scores and Fisher ratio of scores [P] with labels bool [P]."""
    curve = ScoreList(score, same)
    points = {name: curve.fnmr_at_fmr(rate) for name, rate in RATES.items()}
    genuine, impostor = (score[chosen].astype(np.float64) for chosen in (same, ~same))
    spread = float(genuine.var() + impostor.var())
    return {
        **{name: 100 * point.fnmr if point.reliable else None for name, point in points.items()},
        "genuine_mean": float(genuine.mean()),
        "impostor_mean": float(impostor.mean()),
        "fisher_ratio": float((genuine.mean() - impostor.mean()) ** 2 / spread) if spread else None,
    }
