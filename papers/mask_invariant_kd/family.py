"""A teacher and students of its own architecture that learn from faces with masks: the rows of MaskInv's tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from common.experiment.arm import Arm, Phase
from common.experiment.spec import DataFile, Spec, WeightsOf, spec

METHOD = "papers.mask_invariant_kd.method.MaskInv"
LOW, HIGH = 100.0, 3000.0
PUBLISHED: dict[str, Any] = {"teacher_sees": "official_code", "teacher_images": True}


@dataclass(frozen=True)
class Family:
    """What the arms of one network share.

    Attributes:
        network: spec of S and T. weights: of T.
        faces: spec of the data module that masks are drawn on. masks: options of `datasets.masked_faces.MaskedFaces`.
        benchmark, train: what is measured, and the phase of the training.
        recipe: options of the method that all arms share.
    """

    network: Spec
    weights: WeightsOf | DataFile
    faces: Spec
    masks: dict[str, Any]
    benchmark: Spec
    train: Phase
    recipe: dict[str, Any] = field(default_factory=dict)

    def teacher(self) -> Arm:
        """T, measured under every protocol."""
        return Arm(
            name="teacher",
            title="teacher, never saw a mask",
            method=spec("common.recognition.Pretrained", backbone=self.network, weights=self.weights),
            data=self._data({}),
            benchmark=self.benchmark,
            series="teacher",
        )

    def student(self, name: str, title: str, masks: dict[str, Any] | None = None, **options: Any) -> Arm:
        """S; `masks` and `options` are what differs from the paper's low guided form."""
        return Arm(
            name=name,
            title=title,
            method=spec(
                METHOD,
                backbone=self.network,
                teacher=spec("common.distillation.teacher.Teacher", network=self.network, weights=self.weights),
                **{**self.recipe, **options},
            ),
            data=self._data(masks or {}),
            benchmark=self.benchmark,
            phases=(self.train,),
            series=title,
            baseline="teacher",
            teacher="teacher",
        )

    def augmented(self) -> Arm:
        """The paper's ablation: masks and labels, no distillation."""
        return self.student("augmentation", "mask augmentation, no KD", kd_weight=0.0)

    def low(self, name: str = "lg", title: str = "MaskInv-LG", **options: Any) -> Arm:
        """lambda = 100 throughout."""
        return self.student(name, title, kd_weight=LOW, **options)

    def high(self, name: str = "hg", title: str = "MaskInv-HG", **options: Any) -> Arm:
        """lambda = 100, and 3000 once the classification loss has stabilised."""
        return self.student(name, title, kd_weight=LOW, late_kd_weight=HIGH, **options)

    def published(self, **masks: Any) -> Arm:
        """LG with the published loader, whose teacher sees the mask too."""
        title = "MaskInv-LG, teacher sees the mask (published loader)"
        return self.low("lg_official_code", title, masks={**PUBLISHED, **masks})

    def _data(self, masks: dict[str, Any]) -> Spec:
        return spec("datasets.masked_faces.MaskedFaces", data=self.faces, **{**self.masks, **masks})
