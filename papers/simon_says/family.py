"""One unpruned network and its students, pruned under every loss: the rows that the tables have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.experiment.arm import Arm, Phase
from common.experiment.spec import DataFile, Spec, WeightsOf, spec

METHOD = "papers.simon_says.method.SimonSays"
POPULATION = "papers.simon_says.population.Population"
GALLERY = "papers.simon_says.population.Gallery"
TEACHER = "common.distillation.teacher.Teacher"
RETRAINING = "datasets.retraining.Retraining"

#: what is printed, and gamma, alpha, beta and L_feat of the official scripts
ARMS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "struct": ("pruning alone", {}),
    "kd": ("KD", {"gamma": 0.1, "alpha": 0.9}),
    "at": ("AT", {"beta": 1000.0, "feature": "at"}),
    "at_kd": ("AT + KD", {"alpha": 1.0, "beta": 1000.0, "feature": "at"}),
    "sp": ("SP", {"beta": 3000.0, "feature": "sp"}),
    "sp_kd": ("SP + KD", {"alpha": 1.0, "beta": 3000.0, "feature": "sp"}),
    "pkt": ("PKT", {"beta": 30_000.0, "feature": "pkt"}),
    "pkt_kd": ("PKT + KD", {"alpha": 1.0, "beta": 30_000.0, "feature": "pkt"}),
    "crd": ("CRD", {"beta": 0.8, "feature": "crd"}),
    "hints": ('hints (the paper\'s "FSP")', {"beta": 1.0, "feature": "hints"}),
    "hints_kd": ('hints + KD (the paper\'s "FSP+KD")', {"alpha": 1.0, "beta": 1.0, "feature": "hints"}),
}


@dataclass(frozen=True)
class Family:
    """What the arms share.

    Attributes:
        network, data: specs; the data are those of the unpruned network.
        benchmark: of populations; alone: of single networks.
        teacher_epochs, epochs: of the unpruned network and of its students.
        teacher_recipe, recipe: options of the method in the two. recipes: arm -> options of its own.
        batches: arm -> batch size of its own.
        cut: (class, share that stays) pairs of the imbalanced setting. repeats: R.
        weights: published weights in place of a training of our own.
        tapped: modules whose responses are compared.
        reported: prefix of the paper's rows; None where its numbers are of other data.
    """

    network: Spec
    data: Spec
    benchmark: Spec
    alone: Spec
    teacher_epochs: int
    epochs: int
    teacher_recipe: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    batches: Mapping[str, int] = field(default_factory=dict)
    cut: tuple[tuple[int, float], ...] = ()
    repeats: int = 3
    weights: DataFile | None = None
    tapped: tuple[str, ...] = ("layer1", "layer2", "layer3", "fc")
    reported: str | None = None

    def teacher(self) -> Arm:
        """The unpruned network of a seed; no row of its own, see `dense`."""
        if self.weights is not None:
            raise ValueError("the unpruned network is published: nothing is trained")
        options = {**self.teacher_recipe, "sparsity": 0.0}
        return self._student_arm("teacher", options, self.data, self.teacher_epochs)

    def student(self, arm: str, percent: float, cut: bool, repeat: int) -> Arm:
        """One of the R students; no row of its own, see `population`."""
        _, weighed = ARMS[arm]
        options = {**self.recipe, **self.recipes.get(arm, {}), **weighed, "sparsity": round(percent / 100, 6)}
        if weighed:
            options["teacher"] = self._base()
        data = self.data.replace(batch_size=self.batches[arm]) if arm in self.batches else self.data
        data = spec(
            RETRAINING, data=data, repeat=repeat, kept=self.cut if cut else (), numbered=weighed.get("feature") == "crd"
        )
        options["weights"] = self._start()
        return self._student_arm(f"{self.name(arm, percent, cut)}_{repeat}", options, data, self.epochs)

    def dense(self) -> Arm:
        """The unpruned network, R times, so that its decisions stand beside those of the populations."""
        return self._population("dense", "unpruned", "unpruned", [self._base()] * self.repeats)

    def population(self, arm: str, percent: float = 45, cut: bool = False) -> Arm:
        """The row of an arm: its R students against the network that they were pruned from."""
        words, _ = ARMS[arm]
        runs = [
            spec(TEACHER, network=self.network, weights=WeightsOf(self.student(arm, percent, cut, repeat)))
            for repeat in range(self.repeats)
        ]
        where = ", cut classes" * cut
        return self._population(
            self.name(arm, percent, cut),
            f"{words}, {percent:g} %{where}",
            f"{words}{where}",
            runs,
            "dense",
            "dense" if ARMS[arm][1] else None,
        )

    def gallery(self, name: str, title: str, rows: Sequence[Arm]) -> Arm:
        """What can only be seen across the rows."""
        return Arm(
            name=name,
            title=title,
            method=spec(GALLERY, populations=[row.method for row in rows]),
            data=self.data,
            benchmark=self.benchmark,
        )

    @staticmethod
    def name(arm: str, percent: float, cut: bool) -> str:
        """Of the row of an arm."""
        return f"{'cut_' * cut}{arm}_{percent:g}"

    def _start(self) -> DataFile | WeightsOf:
        return self.weights if self.weights is not None else WeightsOf(self.teacher())

    def _base(self) -> Spec:
        return spec(TEACHER, network=self.network, weights=self._start())

    def _student_arm(self, name: str, options: dict[str, Any], data: Spec, epochs: int) -> Arm:
        return Arm(
            name=name,
            title=name,
            method=spec(METHOD, network=self.network, **options),
            data=data,
            benchmark=self.alone,
            phases=(Phase("train", epochs=epochs),),
        )

    def _population(
        self,
        name: str,
        title: str,
        series: str,
        runs: list[Spec],
        baseline: str | None = None,
        teacher: str | None = None,
    ) -> Arm:
        return Arm(
            name=name,
            title=title,
            method=spec(POPULATION, base=self._base(), runs=runs, tapped=self.tapped),
            data=self.data,
            benchmark=self.benchmark,
            series=series,
            reported=None if self.reported is None else self.reported + name,
            baseline=baseline,
            teacher=teacher,
        )
