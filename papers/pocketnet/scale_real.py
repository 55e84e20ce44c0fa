"""PocketNet at real scale: students of a published network, taught on real faces without labels."""

from __future__ import annotations

from typing import Any

from common.experiment.arm import Arm, TablePlan
from common.experiment.spec import DataFile, DataRoot, Spec, spec
from papers.pocketnet import claims
from papers.pocketnet.family import BENCHMARK, POCKETNET, School, columns


def real() -> TablePlan:
    """Students of the published MobileFaceNet (CASIA-WebFace), taught on FairFace without labels, tested on LFW's 6,000 pairs."""
    network = spec("common.backbones.MobileFaceNet112x96")
    weights = DataFile("weights/mobilefacenet_xiaoccer_068.ckpt")
    lfw = spec("datasets.lfw.LFW", root=DataRoot(), width=96, divisor=128.0)
    fairface = spec("datasets.fairface.FairFace", root=DataRoot(), width=96, divisor=128.0, batch_size=32)
    protocol: dict[str, Any] = {"flip": "concatenate", "centre": "other_folds", "batch_size": 32}
    teacher = Arm(
        name="teacher",
        title="teacher: MobileFaceNet, published weights",
        method=spec("common.recognition.Pretrained", backbone=network, weights=weights),
        data=lfw,
        benchmark=spec("common.evaluation.benchmark.VerificationBenchmark", **protocol),
        series="teacher",
    )
    data = spec("datasets.indexed.Indexed", data=spec("datasets.combined.TrainTest", train=fairface, test=lfw))
    recipe: dict[str, Any] = {
        "classification_weight": 0.0,
        "lr": 0.1,
        "reference_batch": 0,
        "schedule": "one_cycle",
        "nesterov": True,
        "decay_norms": False,
    }
    school = _Published(
        teacher, network, 128, data, data, spec(BENCHMARK, recorded_with="lfw", **protocol), recipe, 6, 6
    )
    shared: dict[str, Any] = {"embedding_size": 128, "input_size": (112, 96), "activation": "relu"}
    students = {
        "half": ("MobileFaceNet of half the width", spec("common.backbones.MobileFaceNet", width=0.5, **shared)),
        "pocket": ("PocketNet, C = 8, 6 cells", spec(POCKETNET, channels=8, cells=6, tail_channels=256, **shared)),
    }
    arms = [teacher]
    for key, (title, student) in students.items():
        arms += [
            school.final(f"{key}_mse", f"{title}, squared distance", student, "teacher", distance="mse"),
            school.final(
                f"{key}_cosine", f"{title}, cosine distance", student, "teacher", distance="cosine", kd_weight=1.0
            ),
        ]
    return TablePlan(
        arms=tuple(arms),
        claims=(
            claims.same_loss_same_student("G2", [(f"{key}_mse", f"{key}_cosine") for key in students], "lfw"),
            claims.small_is_enough("pocket_mse", "half_mse", "lfw"),
            *(claims.no_wider_than_the_teacher(f"F2_{key}", "teacher", f"{key}_mse", "lfw") for key in students),
        ),
        seeds=(0,),
        data_note="a published MobileFaceNet (CASIA-WebFace) taught to smaller networks on unlabelled FairFace, tested on LFW",
        fairness_set="lfw",
        columns=columns("lfw"),
    )


class _Published(School):
    """A teacher that comes with its weights."""

    def _finished(self) -> Spec:
        weights = dict(self.teacher.method.options)["weights"]
        return spec("common.distillation.teacher.Teacher", network=self.teacher_network, weights=weights)
