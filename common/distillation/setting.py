"""The embedded face setting that the distillation papers share: one generator, one teacher, one student.

Papers that ask for the same teacher here share its run: it is trained once. Networks and rates were chosen once, before any
distilled arm was seen, on *validation* persons and a seed that no table uses, at 48 x 48 pixels and 12 epochs: teacher 94.3 %,
student from labels alone 91.0 % on mixed pairs. Teachers tried besides: rate 0.4 (94.1), half the width with PReLU (93.8);
students: a quarter of the width with the teacher's depth (92.3), an eighth (91.8).

Faces of 32 x 32 pixels and 8 epochs took their place because a paper's table was to take ten minutes on two cores and took
twenty-five. Only times, and these two networks on validation persons at an unused seed, were looked at: teacher 92.0 %, student
88.0 % (10 epochs: 92.4 and 89.2). A table of EKD and a part of MaskInv's, at 48 pixels, were known by then.
Nothing is imported but the words of a plan: specs name classes by their path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.experiment.arm import Arm, Phase
from common.experiment.spec import Spec, WeightsOf, spec

SETS = ("frontal", "mixed", "cross_pose")  # pair sets of the generated faces
FAIRNESS_SET = "mixed"

#: the classification part of every recipe: ArcFace with the exact gradient, margin ramped up, one-cycle SGD
RECOGNITION: dict[str, Any] = {
    "head_options": {"gradient": "exact"},
    "scale": 24.0,
    "margin": 0.3,
    "margin_warm_up": 0.5,
    "reference_batch": 0,
    "schedule": "one_cycle",
    "nesterov": True,
    "decay_norms": False,
}


@dataclass(frozen=True)
class FaceSetting:
    """One scale of the shared setting.

    Attributes:
        data: generated faces whose batches are (images, labels, index, flip), so that a teacher's answers are cached.
        plain_data: the same faces in batches (images, labels).
        teacher_network, student_network: specs of MobileFaceNets, [B, 3, S, S] -> [B, `embedding_size`].
        teacher_recipe, student_recipe: options of `common.recognition.FaceRecognizer` and of what is built on it.
        epochs: of the teacher and of every student; the teacher keeps its network after each (multi-step distillation).
        benchmark: 1:1 verification on the three pair sets.
    """

    data: Spec
    plain_data: Spec
    teacher_network: Spec
    student_network: Spec
    teacher_recipe: dict[str, Any]
    student_recipe: dict[str, Any]
    epochs: int
    embedding_size: int
    benchmark: Spec

    def teacher(self) -> Arm:
        """The arm `teacher`: trained once, shared by every paper that asks for it at this scale."""
        return Arm(
            name="teacher",
            title="teacher",
            method=spec(
                "common.recognition.FaceRecognizer",
                backbone=self.teacher_network,
                embedding_size=self.embedding_size,
                **self.teacher_recipe,
            ),
            data=self.plain_data,
            benchmark=self.benchmark,
            phases=(Phase("train", epochs=self.epochs),),
            keep=tuple(f"epoch{epoch + 1}" for epoch in range(self.epochs)),
            series="teacher",
        )

    def student(self, network: Spec | None = None, name: str = "student", title: str = "student, no KD") -> Arm:
        """The undistilled student; with the default network it is shared by every paper too."""
        return Arm(
            name=name,
            title=title,
            method=spec(
                "common.recognition.FaceRecognizer",
                backbone=network or self.student_network,
                embedding_size=self.embedding_size,
                **self.student_recipe,
            ),
            data=self.plain_data,
            benchmark=self.benchmark,
            phases=(Phase("train", epochs=self.epochs),),
            series="from labels alone",
            baseline="teacher",
            teacher="teacher",
        )

    def teacher_for(self, teacher: Arm, kept: str = "network") -> Spec:
        """The spec of a frozen `common.distillation.teacher.Teacher` with the weights of the arm `teacher`."""
        return spec(
            "common.distillation.teacher.Teacher",
            network=self.teacher_network,
            weights=WeightsOf(teacher, kept),
        )


def face_setting(scale: str) -> FaceSetting:
    """The shared setting at `smoke`, `demo` or `lab` scale.

    Raises:
        ValueError: another scale.
    """
    if scale == "smoke":
        return _setting(32, 40, 4, 32, 20, 2, widths=(0.25, 0.125), blocks=((1, 1, 1), (1, 1, 1)), embedding_size=32)
    if scale == "demo":
        return _setting(32, 400, 12, 64, 100, 8, widths=(1.0, 0.125), blocks=((2, 3, 1), (1, 1, 1)), embedding_size=128)
    if scale == "lab":
        return _setting(
            *(112, 2000, 20, 128, 100, 16),
            widths=(2.0, 0.5),
            blocks=((4, 6, 2), (4, 6, 2)),
            embedding_size=512,
            activation="prelu",
        )
    raise ValueError(f"the shared face setting has the scales smoke, demo and lab, not '{scale}'")


def _setting(
    size: int,
    identities: int,
    per_identity: int,
    batch: int,
    test_per_group: int,
    epochs: int,
    widths: tuple[float, float],
    blocks: tuple[tuple[int, int, int], tuple[int, int, int]],  # of teacher and student, like the widths
    embedding_size: int,
    activation: str = "relu",  # PReLU takes twice the time of ReLU on a CPU
) -> FaceSetting:
    faces = spec(
        "datasets.generated.GeneratedFaces",
        size=size,
        identities=identities,
        images_per_identity=per_identity,
        batch_size=batch,
        test_identities_per_group=test_per_group,
        validation_identities_per_group=min(40, test_per_group),
    )
    teacher, student = (
        spec(
            "common.backbones.MobileFaceNet",
            width=width,
            input_size=size,
            blocks=depth,
            embedding_size=embedding_size,
            activation=activation,
        )
        for width, depth in zip(widths, blocks, strict=True)
    )
    return FaceSetting(
        data=spec("datasets.indexed.Indexed", data=faces),
        plain_data=faces,
        teacher_network=teacher,
        student_network=student,
        teacher_recipe={**RECOGNITION, "lr": 0.1},
        student_recipe={**RECOGNITION, "lr": 0.4},
        epochs=epochs,
        embedding_size=embedding_size,
        benchmark=spec("common.evaluation.benchmark.VerificationBenchmark"),
    )
