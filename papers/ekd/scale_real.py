"""Real scale: a published network teaches one of half its width, without labels."""

from __future__ import annotations

from typing import Any

from common.experiment.arm import Arm, Phase, TablePlan
from common.experiment.spec import DataFile, DataRoot, spec
from papers.ekd import claims
from papers.ekd.family import BASELINES

RELATIONS = ("rkd", "sp", "pkt", "cckd", "darkrank")
LABEL_FREE = ("feature_l2", "cosine", "fitnet", *RELATIONS)


def plan() -> TablePlan:
    """FairFace's 3,920 faces, 12 epochs of 122 steps; every face is shown to the teacher twice, once as its mirror image."""
    teacher_network = spec("common.backbones.MobileFaceNet112x96")
    weights = DataFile("weights/mobilefacenet_xiaoccer_068.ckpt")
    lfw = spec("datasets.lfw.LFW", root=DataRoot(), width=96, divisor=128.0)
    fairface = spec("datasets.fairface.FairFace", root=DataRoot(), width=96, divisor=128.0, batch_size=32)
    unlabelled = spec("datasets.combined.TrainTest", train=fairface, test=lfw)
    student = spec("common.backbones.MobileFaceNet", width=0.5, input_size=(112, 96), activation="relu")
    benchmark = spec(
        "common.evaluation.benchmark.VerificationBenchmark", flip="concatenate", centre="other_folds", batch_size=32
    )
    reference = Arm(
        name="teacher",
        title="teacher, published weights",
        method=spec("common.recognition.Pretrained", backbone=teacher_network, weights=weights),
        data=lfw,
        benchmark=benchmark,
        series="teacher",
        reported="teacher",
    )
    recipe: dict[str, Any] = {
        "lr": 0.2,  # of the embedded setting, in proportion to the batch
        "reference_batch": 0,
        "schedule": "one_cycle",
        "nesterov": True,
        "decay_norms": False,
    }
    arms = [reference]
    for kind in LABEL_FREE:
        arms.append(
            Arm(
                name=kind,
                title=f"{BASELINES[kind]}, no labels",
                method=spec(
                    "papers.ekd.label_free.LabelFree",
                    backbone=student,
                    teacher=spec("common.distillation.teacher.Teacher", network=teacher_network, weights=weights),
                    distillation=spec("papers.ekd.baselines.EmbeddingLoss", name=kind),
                    **recipe,
                ),
                data=spec("datasets.indexed.Indexed", data=unlabelled),
                benchmark=benchmark,
                phases=(Phase("train", epochs=12),),
                series=BASELINES[kind],
                reported=f"mobilefacenet_{kind}",
                baseline="teacher",
                teacher="teacher",
            )
        )
    return TablePlan(
        arms=tuple(arms),
        claims=(
            claims.features_lead_without_labels("feature_l2", RELATIONS, "lfw"),
            claims.gap_widens("F1", "feature_l2", "teacher", "lfw"),
        ),
        seeds=(0,),
        data_note="a published MobileFaceNet (CASIA-WebFace) teaches one of half its width on FairFace without labels; LFW",
        fairness_set="lfw",
    )
