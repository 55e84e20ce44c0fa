"""One trained network and what is left of it after pruning: the rows that the tables have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from common.experiment.arm import Arm, Phase
from common.experiment.spec import DataFile, Spec, WeightsOf, spec

TEST = spec("common.evaluation.classification.ClassificationBenchmark")
METHOD = "papers.pruning_filters.method.FilterPruning"
PRUNE = Phase("prune", compute="prune")
CRITERIA = {
    "l1_smallest": "smallest l1",
    "l2": "smallest l2",
    "random": "random",
    "l1_largest": "largest l1",
    "mean_mean": "mean of means",
    "mean_std": "mean of deviations",
    "mean_l1": "mean of l1",
    "mean_l2": "mean of l2",
    "var_l2": "variance of l2",
}
WORSE_STATISTICS = ("mean_mean", "mean_l1", "mean_l2", "var_l2")  # than kernels' l1, says the paper


@dataclass(frozen=True)
class Family:
    """What the arms of one network share.

    Attributes:
        prefix: of the arms' names; title: of the network.
        network, data, benchmark: specs.
        training: of the dense network and of scratch-trained ones; retraining: the phase after pruning.
        recipe: options of the method while training; retrain_recipe: while retraining.
        published: file of trained weights in place of a training of our own.
        reported: key of the paper's rows for this network; empty for none.
    """

    prefix: str
    title: str
    network: Spec
    data: Spec
    benchmark: Spec
    training: Phase
    retraining: Phase
    recipe: dict[str, Any] = field(default_factory=dict)
    retrain_recipe: dict[str, Any] = field(default_factory=dict)
    published: DataFile | None = None
    reported: str = ""

    def dense(self) -> Arm:
        """The trained network itself."""
        if self.published is not None:
            return self._arm("dense", "published weights", f"{self.title}, dense", {"weights": self.published}, ())
        return self._arm("dense", "dense", f"{self.title}, dense", self.recipe, (self.training,), "dense")

    def pruned(
        self,
        name: str,
        words: str,
        ratios: Mapping[str, float],
        criterion: str = "l1_smallest",
        greedy: bool = False,
        how: str = "retrained",
        series: str = "",
        reported: str = "",
        **options: Any,
    ) -> Arm:
        """Filters removed from the trained network.

        Args:
            name, words: of the arm. ratios, criterion, greedy, options: of the method.
            how: `"retrained"`, `"raw"` (no training afterwards) or `"scratch"` (the same architecture from new weights).
            series: curve of the figure; reported: row of the paper without the network's name.
        """
        options = {"weights": self.weights, "ratios": dict(ratios), "criterion": criterion, "greedy": greedy} | options
        phases: tuple[Phase, ...] = (PRUNE,)
        if how == "retrained":
            options, phases = {**self.retrain_recipe, **options}, (PRUNE, self.retraining)
        elif how == "scratch":
            options, phases = {**self.recipe, **options, "scratch": True}, (PRUNE, self.training)
        ending, told = {
            "retrained": ("", ""),
            "raw": ("_raw", ", not retrained"),
            "scratch": ("_scratch", ", from scratch"),
        }[how]
        series = f"{self.title}, {series or words}{told}"
        return self._arm(f"{name}{ending}", f"{words}{told}", series, options, phases, reported, self._name("dense"))

    def uniform(
        self, percent: float, layers: Sequence[str], criterion: str = "l1_smallest", greedy: bool = False, **how: Any
    ) -> Arm:
        """One share of the filters of every layer."""
        kind, words = ("greedy_", ", greedy") if greedy else ("", "")
        name, words = f"{criterion}_{kind}{percent:g}", f"{CRITERIA[criterion]}{words}"
        ratios = dict.fromkeys(layers, round(percent / 100, 6))
        return self.pruned(
            name, f"{words}, {percent:g} % of the filters", ratios, criterion, greedy, series=words, **how
        )

    def sensitivity(self, percents: Mapping[str, Sequence[float]], **options: Any) -> Arm:
        """Every layer alone, at every share: one run, nothing but the retrained points is trained."""
        benchmark = spec("papers.pruning_filters.sensitivity.Sensitivity", percents=dict(percents), **options)
        recipe = {**self.retrain_recipe, "weights": self.weights, "validate_every": 0}
        arm = self._arm("sensitivity", "sensitivity of every layer", f"{self.title}, whole", recipe, ())
        return replace(arm, benchmark=benchmark)

    @property
    def weights(self) -> WeightsOf | DataFile:
        """Of the trained network."""
        return WeightsOf(self.dense()) if self.published is None else self.published

    def _name(self, kind: str) -> str:
        return f"{self.prefix}{kind}"

    def _arm(
        self,
        kind: str,
        words: str,
        series: str,
        options: Mapping[str, Any],
        phases: tuple[Phase, ...],
        reported: str = "",
        baseline: str | None = None,
    ) -> Arm:
        return Arm(
            name=self._name(kind),
            title=f"{self.title}: {words}",
            method=spec(METHOD, network=self.network, **options),
            data=self.data,
            benchmark=self.benchmark,
            phases=phases,
            series=series,
            reported=f"{self.reported}_{reported}" if self.reported and reported else None,
            baseline=baseline,
        )


def class_subset(family: Family, labels: tuple[int, ...], layers: list[str], percents: tuple[float, ...]) -> list[Arm]:
    """The survey's task, ours: a network of N classes pruned down to some of them, by kernels or by feature maps."""
    data = spec("papers.pruning_filters.class_subset.ClassSubset", data=family.data, classes=labels)
    few = replace(
        family,
        prefix=f"{family.prefix}{len(labels)}classes_",
        title=f"{family.title}, {len(labels)} classes (ours)",
        data=data,
        reported="",
        published=None,
    )
    whole = family.weights
    options: dict[str, Any] = {"classes": labels, "weights": whole}
    arms = [
        few.pruned("dense", "outputs of the others removed", {}, how="raw", **options),
        few.pruned("tuned", "outputs of the others removed, trained on", {}, **options),
    ]
    for criterion in ("l1_smallest", "mean_std"):
        arms += [few.uniform(percent, layers, criterion, **options) for percent in percents]
    baseline = arms[0].name
    return [replace(arm, baseline=None if arm is arms[0] else baseline) for arm in arms]
