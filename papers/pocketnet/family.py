"""Students of one teacher: the rows that PocketNet's tables have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.experiment.arm import Arm, Phase
from common.experiment.spec import Spec, WeightsOf, spec

METHOD = "papers.pocketnet.method.MultiStepKD"

BENCHMARK = "papers.pocketnet.benchmark.DistillationBenchmark"
POCKETNET = "common.backbones.PocketNet"


@dataclass(frozen=True)
class School:
    """What the students of one teacher share.

    Attributes:
        teacher: the teacher's arm, kept after each of `teacher_epochs` epochs if there are multi-step students.
        teacher_network: spec of its network; embedding_size: d of both.
        data: batches for students that ask the teacher; plain_data: for those that do not (may be the same).
        benchmark: what every student is measured on. recipe: options of the recogniser that all students share.
        epochs: of every student, as many as of the teacher or a whole part of that: in epoch e of E it meets the teacher that has
            had the same share e / E of its own training. watch_every: see `MultiStepKD`.
    """

    teacher: Arm
    teacher_network: Spec
    embedding_size: int
    data: Spec
    plain_data: Spec
    benchmark: Spec
    recipe: dict[str, Any]
    epochs: int
    teacher_epochs: int
    watch_every: int = 1

    def __post_init__(self) -> None:
        if self.teacher_epochs % self.epochs:
            raise ValueError(
                f"{self.teacher_epochs} epochs of the teacher cannot be shared out to {self.epochs} of the student"
            )

    @property
    def ages(self) -> tuple[int, ...]:
        """Epochs of the teacher's training after which the student meets it, one for every epoch of the student's."""
        stride = self.teacher_epochs // self.epochs
        return tuple(range(stride, self.teacher_epochs + 1, stride))

    def labels(self, name: str, title: str, network: Spec, embedding_size: int = 0, reported: str | None = None) -> Arm:
        """From labels alone, the teacher not even asked; with an embedding of another size than its own if so wanted."""
        return self._arm(
            name, f"{title}, no KD", network, self.plain_data, {}, "no KD", self.teacher.name, reported, embedding_size
        )

    def watched(self, name: str, title: str, network: Spec) -> Arm:
        """From labels alone, with an eye on how far the teacher is."""
        options = {"teacher": self._finished(), "kd_weight": 0.0}
        return self._arm(name, f"{title}, no KD", network, self.data, options, "no KD", self.teacher.name)

    def final(self, name: str, title: str, network: Spec, baseline: str | None = None, **options: Any) -> Arm:
        """Ordinary distillation: the finished teacher from the first epoch to the last."""
        words = f"{title}, KD" if not options else title
        return self._arm(name, words, network, self.data, {"teacher": self._finished(), **options}, words, baseline)

    def multi(
        self, name: str, title: str, network: Spec, baseline: str | None = None, reported: str | None = None
    ) -> Arm:
        """Multi-step distillation: in every epoch the teacher as it was when it was as far."""
        successive = tuple(WeightsOf(self.teacher, f"epoch{age}") for age in self.ages)
        options = {"teacher": self._finished(), "successive": successive}
        return self._arm(
            name, f"{title}, multi-step KD", network, self.data, options, "multi-step KD", baseline, reported
        )

    def _finished(self) -> Spec:
        return spec(
            "common.distillation.teacher.Teacher", network=self.teacher_network, weights=WeightsOf(self.teacher)
        )

    def _arm(
        self,
        name: str,
        title: str,
        network: Spec,
        data: Spec,
        options: dict[str, Any],
        series: str,
        baseline: str | None,
        reported: str | None = None,
        embedding_size: int = 0,
    ) -> Arm:
        return Arm(
            name=name,
            title=title,
            method=spec(
                METHOD,
                backbone=network,
                embedding_size=embedding_size or self.embedding_size,
                epochs=self.epochs,
                watch_every=self.watch_every,
                **self.recipe,
                **options,
            ),
            data=data,
            benchmark=self.benchmark,
            phases=(Phase("train", epochs=self.epochs),),
            series=series,
            baseline=baseline,
            teacher=self.teacher.name,
            reported=reported,
        )


def search(supernet: Spec, data: Spec, epochs: int, batch_size: int, **recipe: Any) -> Arm:
    """The search of the cells; it is the parent of the network that is built from them."""
    return Arm(
        name="search",
        title="architecture search",
        method=spec("papers.pocketnet.search.ArchitectureSearch", supernet=supernet, **recipe),
        data=spec("papers.pocketnet.halves.SearchHalves", data=data, batch_size=batch_size),
        benchmark=spec("papers.pocketnet.benchmark.SearchBenchmark"),
        phases=(Phase("search", epochs=epochs), Phase("discretise", compute="discretise")),
    )


def built_from(found: Arm, network: Spec) -> Spec:
    """The network of a spec (of a PocketNet) with the cells that a search has found at the same seed."""
    options = {name: value for name, value in network.options if name != "genotype"}
    return spec("papers.pocketnet.supernet.searched_network", weights=WeightsOf(found), **options)


def columns(recorded_with: str) -> tuple[tuple[str, str, str, str], ...]:
    """Columns of the numbers that were recorded with a pair set."""
    return (
        (
            f"{recorded_with}:final_last",
            "100 MSE",
            "loss",
            "100 x mean squared difference of the unit embeddings of student and finished teacher, last epoch of training",
        ),
        (f"{recorded_with}:arcface_last", "ArcFace", "loss", "mean ArcFace loss of the last epoch of training"),
        (f"{recorded_with}:weight_per_dimension", "w/d", "ratio", "weight of the squared distance of unit embeddings"),
    )
