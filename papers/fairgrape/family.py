"""One network on one data set and task, dense and pruned in every way: the rows of FairGRAPE's tables."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from common.experiment.arm import Arm, Phase
from common.experiment.spec import Spec, WeightsOf, spec
from papers.fairgrape.claims import FULL, NAMES

METHOD = "papers.fairgrape.method.FairGRAPE"
BENCHMARK = "papers.fairgrape.benchmark.AttributeBenchmark"
ITERATIVE = ("fairgrape", "importance", "lottery")
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "uniform": ("FairGRAPE, equal targets (ours)", {"target_shares": "uniform"}),
    "complexity": ("FairGRAPE, targets by difficulty (ours)", {"target_shares": "complexity"}),
    "official": (
        "FairGRAPE, as the official code computes it",
        {"importance": "official", "extra_candidates": 1},
    ),
    "relative": ("FairGRAPE, ranked by relative importance", {"ranking": "relative"}),
    "squared": ("FairGRAPE, ranked by squared importance", {"ranking": "squared"}),
    "batch_norms": ("FairGRAPE, scored with batch statistics", {"norms": "batch"}),
}


@dataclass(frozen=True)
class Family:
    """What the arms of one network, data set and task share.

    Attributes:
        prefix: of the arms' names; title: of network and task, empty where a table has one only.
        network, data: specs. epochs: of the stages. rates: of the stages.
        keep: q of the iterative arms; retrain_epochs, retrain_rate: of their rounds.
        columns: further group columns that are reported. recipe: options of the method that all arms share.
        reported: key of the paper's rows for this network and data set; empty for none.
    """

    prefix: str
    title: str
    network: Spec
    data: Spec
    epochs: tuple[int, ...]
    rates: tuple[float, ...]
    keep: float
    retrain_epochs: int
    retrain_rate: float
    columns: tuple[str, ...] = ()
    recipe: dict[str, Any] = field(default_factory=dict)
    reported: str = ""

    @cached_property
    def dense(self) -> Arm:
        """The unpruned network, which the others start from or are compared with."""
        return Arm(
            name=f"{self.prefix}{FULL}",
            title=self._titled("full"),
            method=spec(METHOD, network=self.network, criterion="none", rates=self.rates, **self.recipe),
            data=self.data,
            benchmark=spec(BENCHMARK, columns=self.columns),
            phases=self._stages(),
            series=self._titled("full"),
            bits=100.0,
            reported=f"{self.reported}_full" if self.reported else None,
        )

    def pruned(self, criterion: str, percent: float) -> Arm:
        """Masked by a criterion at a sparsity in percent."""
        return self._arm(criterion, criterion, NAMES[criterion], percent, {})

    def variant(self, kind: str, percent: float) -> Arm:
        """FairGRAPE with other options, see `VARIANTS`."""
        words, options = VARIANTS[kind]
        return self._arm(kind, "fairgrape", words, percent, options)

    def _arm(self, kind: str, criterion: str, words: str, percent: float, options: dict[str, Any]) -> Arm:
        dense = WeightsOf(self.dense)
        method = spec(
            METHOD,
            network=self.network,
            dense=dense,
            criterion=criterion,
            sparsity=round(percent / 100, 6),
            keep=self.keep,
            rates=self.rates,
            retrain_rate=self.retrain_rate,
            **{**self.recipe, **options},
        )
        rounds = self.rounds(percent) if criterion in ITERATIVE else 1
        phases: list[Phase] = []
        for i in range(1, rounds + 1):
            phases.append(Phase(f"prune {i}", compute="prune_round"))
            if criterion in ITERATIVE:
                phases.append(Phase(f"retrain {i}", epochs=self.retrain_epochs))
        return Arm(
            name=f"{self.prefix}{kind}_{percent:g}",
            title=self._titled(f"{words}, {percent:g} %"),
            method=method,
            data=self.data,
            benchmark=spec(BENCHMARK, dense=dense, columns=self.columns),
            phases=(*phases, *self._stages()),
            series=self._titled(words),
            reported=f"{self.reported}_{kind}_{percent:g}" if self.reported else None,
            baseline=f"{self.prefix}{FULL}",
        )

    def rounds(self, percent: float) -> int:
        """n = ceil(ln(1 - p) / ln q)."""
        return math.ceil(math.log(1 - percent / 100) / math.log(self.keep) - 1e-9)

    def _stages(self) -> tuple[Phase, ...]:
        stages = [Phase(f"stage {i}", epochs=epochs) for i, epochs in enumerate(self.epochs, 1)]
        return (*stages, Phase("best", compute="take_best"))

    def _titled(self, words: str) -> str:
        return f"{self.title}: {words}" if self.title else words
