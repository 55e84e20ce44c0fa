"""One student under one teacher, distilled in every way: the rows that EKD's tables have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from common.experiment.arm import Arm, Phase
from common.experiment.spec import Spec, WeightsOf, spec

METHOD = "papers.ekd.method.EKD"
LOSS = "papers.ekd.method.EvaluationOrientedLoss"
THREE = (10, 1_000, 100_000)  # the paper does not name its three thresholds: every second of the six

#: the paper's ablations and ours: name -> (words, options of the loss)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "3_thresholds": ("3 thresholds", {"divisors": THREE}),
    "random_negatives": ("2,000 random negatives", {"negatives": "random"}),
    "similarity": ("L2 of critical similarities", {"form": "similarity"}),
    "indicator": ("hard indicator, no gradient", {"form": "indicator"}),
    "first_batch": ("thresholds of the first batch", {"anchor_init": "first_batch"}),
}
#: losses that EKD is compared with: name -> words
BASELINES = {
    "feature_l2": "L2 of unit embeddings",
    "cosine": "cosine",
    "fitnet": "FitNet, L2 of embeddings",
    "kd": "KD of logits",
    "sp": "SP",
    "rkd": "RKD",
    "cckd": "CCKD",
    "pkt": "PKT",
    "darkrank": "DarkRank",
}


@dataclass(frozen=True)
class Family:
    """What the arms of one student share.

    Attributes:
        prefix: of the arms' names; title: of the student, empty for the only one.
        teacher: spec of the frozen teacher. network: the student's. embedding_size: of the student.
        recipe: options of `FaceRecognizer`. data: batches of two halves. benchmark: what every arm is measured on.
        epochs: of the training. baseline: the arm that learned from labels alone.
        reported: prefix of the paper's rows. kept_answers: see `EKD`.
    """

    prefix: str
    title: str
    teacher: Spec
    network: Spec
    embedding_size: int
    recipe: dict[str, Any]
    data: Spec
    benchmark: Spec
    epochs: int
    baseline: str = "student"
    reported: str = "mobilefacenet"
    kept_answers: bool = True

    def ekd(self) -> Arm:
        """The paper's method."""
        return self._arm("ekd", "EKD", None)

    def variant(self, kind: str) -> Arm:
        """EKD with one thing changed, one of `VARIANTS`."""
        words, options = VARIANTS[kind]
        return self._arm(f"ekd_{kind}", f"EKD, {words}", spec(LOSS, **options))

    def compared(self, kind: str) -> Arm:
        """A loss of other authors on the same batches, one of `BASELINES`."""
        loss = spec("papers.ekd.baselines.EmbeddingLoss", name=kind)
        if kind == "kd":
            loss = spec("papers.ekd.baselines.LogitKD")
        return self._arm(kind, BASELINES[kind], loss)

    def _arm(self, kind: str, words: str, distillation: Spec | None) -> Arm:
        return Arm(
            name=f"{self.prefix}{kind}",
            title=f"{self.title}{words}",
            method=spec(
                METHOD,
                backbone=self.network,
                teacher=self.teacher,
                distillation=distillation,
                kept_answers=self.kept_answers,
                embedding_size=self.embedding_size,
                **self.recipe,
            ),
            data=self.data,
            benchmark=self.benchmark,
            phases=(Phase("train", epochs=self.epochs),),
            series=f"{self.title}{words}",
            reported=f"{self.reported}_{kind}",
            baseline=self.baseline,
            teacher="teacher",
        )


def unlisted(arm: Arm) -> Arm:
    """The same run under a name that no row of the table has."""
    return replace(arm, name=f"trained_{arm.name}")


def measured(arm: Arm, network: Spec, benchmark: Spec, reported: str | None) -> Arm:
    """The network that another arm has trained, measured on this paper's benchmark; nothing is trained."""
    return Arm(
        name=arm.name,
        title=arm.title,
        method=spec("common.recognition.Pretrained", backbone=network, weights=WeightsOf(unlisted(arm))),
        data=arm.data,
        benchmark=benchmark,
        series=arm.series,
        reported=reported,
        baseline=arm.baseline,
        teacher=arm.teacher,
    )


def batches(data: Spec, identities: int) -> Spec:
    """The general half is the undistilled student's batch, image for image; beside it identities x 4 images."""
    return spec("datasets.balanced_batches.BalancedBatches", data=data, identities=identities, images=4)
