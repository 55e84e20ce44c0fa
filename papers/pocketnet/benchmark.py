"""Verification, and what the training has recorded: losses by epoch, the distance that is left to the teacher, the cells."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from common.cost import measure_cost
from common.evaluation.benchmark import Measurement, VerificationBenchmark

PAPER_WEIGHT = (
    100.0  # distances are reported times this, as the paper's logs do, whatever weight they had in the training
)


class DistillationBenchmark(VerificationBenchmark):
    """`VerificationBenchmark`, with the record of a `MultiStepKD` among the metrics of one pair set.

    Of every epoch e = 1, 2, ...: `arcface_epoch<e>`, the training's mean L_arc; `present_epoch<e>` and `final_epoch<e>`, 100
    times its mean L_mse to the teacher of that epoch and to the finished one. `arcface_last`, `present_last`, `final_last`: of
    the last epoch. `present_rise`: how far the last of `present` lies above its smallest, as a share of that.
    `weight_per_dimension`: w/d.
    `genotype`: the cells of a PocketNet. What was not recorded is absent.

    Args:
        recorded_with: name of the pair set. flip, centre, batch_size: see `VerificationBenchmark`.
    """

    def __init__(
        self, recorded_with: str = "mixed", flip: Any = "sum", centre: Any = "none", batch_size: int = 128
    ) -> None:
        super().__init__(flip=flip, centre=centre, batch_size=batch_size)
        self.recorded_with = recorded_with

    def measure(self, method: Any, data: Any) -> Measurement:
        """Measure `method.network`; arguments as in `VerificationBenchmark`."""
        found = super().measure(method, data)
        metrics = found.metrics[self.recorded_with]
        genotype = getattr(method.network, "genotype", None)
        if genotype is not None:
            metrics["genotype"] = str(genotype)
        if hasattr(method, "history"):
            metrics.update(record_of(method))
        return found


def record_of(method: Any) -> dict[str, float]:
    """The numbers of a finished `MultiStepKD`, by the names that `DistillationBenchmark` lists."""
    rows = method.history.cpu().tolist()
    scaled = zip(("arcface", "present", "final"), (1.0, PAPER_WEIGHT, PAPER_WEIGHT), rows, strict=True)
    found: dict[str, float] = {}
    for name, factor, row in scaled:
        curve = [factor * value for value in row if not math.isnan(value)]
        found |= {f"{name}_epoch{epoch}": value for epoch, value in enumerate(curve, start=1)}
        if curve:
            found[f"{name}_last"] = curve[-1]
            if name == "present":
                found["present_rise"] = curve[-1] / min(curve) - 1
    if method.kd_weight and method.distance == "mse":
        found["weight_per_dimension"] = method.kd_weight / method.embedding_size
    return found


class SearchBenchmark:
    """What a search is measured by: the size of its network. Its cells are judged by the networks that are built from them."""

    def measure(self, method: Any, data: Any) -> Measurement:
        """No pair set; as costs those of the supernet and the genotype in words."""
        cost = asdict(measure_cost(method.network, method.network.input_size))
        return Measurement({}, {**cost, "genotype": str(method.network.found.genotype())}, {}, {}, {})
