"""One teacher, one student, and every way in which the student can learn from it: the rows of CoupleFace's tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from common.experiment.arm import Arm, Phase
from common.experiment.spec import Spec, spec

METHOD = "papers.coupleface.method.CoupleFace"
MINE = Phase("mine", compute="mine")


@dataclass(frozen=True)
class Family:
    """What the distilled arms of one student share.

    Attributes:
        prefix: of the arms' names; title: of the student.
        student, teacher_arm: names of the arms that the rows are compared with.
        network: spec of the student; teacher: spec of the frozen teacher; data, benchmark: specs.
        recipe: options of `common.recognition.FaceRecognizer`, embedding size included.
        epochs: of the training.
        weight: alpha and beta of the method. hard_ids: K.
    """

    prefix: str
    title: str
    student: str
    teacher_arm: str
    network: Spec
    teacher: Spec
    data: Spec
    benchmark: Spec
    recipe: dict[str, Any]
    epochs: int
    weight: float
    hard_ids: int

    def from_labels(self, arm: Arm) -> Arm:
        """`arm`, the undistilled student, on this family's data: alpha = beta = 0, so that its relations are recorded too."""
        recorded = self._arm("", "", "", feature_weight=0.0, relation_weight=0.0)
        return replace(
            arm, method=recorded.method, data=recorded.data, benchmark=recorded.benchmark, phases=recorded.phases
        )

    def features(self) -> Arm:
        """FCD alone; its relations are recorded, not trained."""
        return self._arm("fcd", "FCD", "FCD", relation_weight=0.0)

    def couple(self) -> Arm:
        """The paper's method."""
        return self._arm("coupleface", "FCD + RAD", "CoupleFace")

    def variant(self, name: str, words: str, **options: Any) -> Arm:
        """FCD + RAD with other options."""
        return self._arm(name, f"FCD + RAD, {words}", words, **options)

    def ablations(self) -> list[Arm]:
        """Random identities, both sides of the loss, the student's own bank."""
        return [
            self.variant("random", "random identities", negatives="random"),
            self.variant("two_sided", "two-sided", one_sided=False),
            self.variant("student_bank", "bank of the student's embeddings", bank="student"),
        ]

    def slack(self, value: float) -> Arm:
        """Another q."""
        return self.variant(f"slack{round(100 * value):02d}", f"slack {value:g}", slack=value)

    def identities(self, count: int) -> Arm:
        """Another K."""
        return self.variant(f"k{count}", f"K = {count}", num_hard_ids=count)

    def weights(self, features: float, relations: float) -> Arm:
        """alpha and beta as multiples of the method's."""
        name = f"a{features:g}_b{relations:g}".replace(".", "")
        words = f"alpha x {features:g}, beta x {relations:g}"
        return self.variant(name, words, feature_weight=features * self.weight, relation_weight=relations * self.weight)

    def sweep(self, factors: tuple[float, ...]) -> list[Arm]:
        """Every pair of factors but (1, 1), which is the method."""
        return [self.weights(a, b) for a in factors for b in factors if (a, b) != (1, 1)]

    def _arm(self, name: str, words: str, series: str, **options: Any) -> Arm:
        chosen = {
            "feature_weight": self.weight,
            "relation_weight": self.weight,
            "num_hard_ids": self.hard_ids,
            **options,
        }
        return Arm(
            name=f"{self.prefix}{name}",
            title=f"{self.title}{words}",
            method=spec(METHOD, backbone=self.network, teacher=self.teacher, **self.recipe, **chosen),
            data=self.data,
            benchmark=self.benchmark,
            phases=(MINE, Phase("train", epochs=self.epochs)),
            series=f"{self.title}{series}",
            baseline=self.student,
            teacher=self.teacher_arm,
        )
