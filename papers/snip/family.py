"""One network on one data set, dense and pruned in every way: the rows that SNIP's tables have in common."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from common.experiment.arm import Arm, Phase
from common.experiment.spec import Spec, spec

METHOD = "papers.snip.method.SNIP"
PRUNE = Phase("prune", compute="prune")
CRITERIA = {
    "snip": "SNIP",
    "snip_signed": "SNIP with sign (ours)",
    "magnitude": "magnitude at initialisation",
    "random": "random",
}


@dataclass(frozen=True)
class Family:
    """What the arms of one network share.

    Attributes:
        prefix: of the arms' names; title: of the network.
        network, data, benchmark: specs. steps: of the training.
        recipe: options of the method that all arms share.
        reported: key of the paper's rows for this network; empty for none.
    """

    prefix: str
    title: str
    network: Spec
    data: Spec
    benchmark: Spec
    steps: int
    recipe: dict[str, Any] = field(default_factory=dict)
    reported: str = ""

    def dense(self) -> Arm:
        """The reference: the same training without a mask."""
        return self._arm("dense", "dense", f"{self.title}, dense", 0.0, {}, "dense")

    def pruned(self, percent: float, criterion: str = "snip") -> Arm:
        """Masked by a criterion at a sparsity in percent."""
        name, words = f"{criterion}_{percent:g}", CRITERIA[criterion]
        reported = name if criterion == "snip" else ""
        return self._arm(
            name, f"{words}, {percent:g} %", f"{self.title}, {words}", percent, {"criterion": criterion}, reported
        )

    def variant(self, kind: str, words: str, percent: float, **options: Any) -> Arm:
        """SNIP with other options; `kind` becomes part of the name, `words` of the title."""
        title = f"SNIP, {words}, {percent:g} %"
        return self._arm(
            f"{kind}_{percent:g}", title, f"{self.title}, SNIP, {words}", percent, options, f"{kind}_{percent:g}"
        )

    def shuffled_labels(self, arm: Arm) -> Arm:
        """The same arm trained on a fixed permutation of the training labels; masks are still scored with the true ones."""
        return replace(
            arm,
            name=f"{arm.name}_shuffled",
            title=f"{arm.title}, shuffled labels",
            data=arm.data.replace(shuffled_labels=True),
            series=f"{arm.series}, shuffled labels",
            reported=None,
            baseline=None,
        )

    def _arm(self, kind: str, words: str, series: str, percent: float, options: dict[str, Any], reported: str) -> Arm:
        options = {**self.recipe, **options}
        return Arm(
            name=f"{self.prefix}{kind}",
            title=f"{self.title}: {words}",
            method=spec(METHOD, network=self.network, sparsity=round(percent / 100, 6), **options),
            data=self.data,
            benchmark=self.benchmark,
            phases=(PRUNE, Phase("train", steps=self.steps)),
            series=series,
            reported=f"{self.reported}_{reported}" if self.reported and reported else None,
            baseline=f"{self.prefix}dense" if percent else None,
        )
