"""Paper scale: MS1MV2, IR-50 to MobileFaceNet and IR-18, the official schedule."""

from __future__ import annotations

from typing import Any

from common.experiment.arm import Arm, Phase, TablePlan
from common.experiment.spec import DataRoot, Spec, WeightsOf, spec
from papers.ekd import claims
from papers.ekd.family import Family, batches

PAPER_SETS = ("lfw", "cfp_fp", "cplfw", "agedb_30", "calfw")
PAPER_RECIPE: dict[str, Any] = {
    "head_options": {"gradient": "exact"},
    "scale": 64.0,
    "margin": 0.4,
    "lr": 0.1,
    "reference_batch": 0,
    "lr_drops": (10 / 26, 18 / 26, 22 / 26),
    "decay_norms": False,
    "max_gradient_norm": 1e9,  # the official code does not clip
}


def plan() -> TablePlan:
    """8 processes of 32 general + 32 balanced images each, as one step of 256 + 256."""
    tface = {"variant": "tface", "dropout": 0.4}
    networks = {
        "mobilefacenet": ("", spec("common.backbones.MobileFaceNet", embedding_size=512, final_norm_affine=False)),
        "resnet18": ("ResNet-18, ", spec("common.backbones.IResNet18", **tface)),
    }
    teacher_network = spec("common.backbones.IResNet50", **tface)
    benchmark = spec("common.evaluation.benchmark.VerificationBenchmark")
    general, whole = (
        spec(
            "datasets.insightface.InsightFaceRecords",
            root=DataRoot(),
            batch_size=size,
            num_workers=8,
            verification=PAPER_SETS,
        )
        for size in (256, 512)
    )

    def from_labels(name: str, title: str, network: Spec, reported: str | None) -> Arm:
        return Arm(
            name=name,
            title=title,
            method=spec("common.recognition.FaceRecognizer", backbone=network, embedding_size=512, **PAPER_RECIPE),
            data=whole,
            benchmark=benchmark,
            phases=(Phase("train", epochs=26),),
            series=title,
            reported=reported,
            baseline=None if name == "teacher" else "teacher",
            teacher=None if name == "teacher" else "teacher",
        )

    teacher = from_labels("teacher", "teacher, ResNet-50", teacher_network, "teacher")
    arms = [teacher]
    for key, (title, network) in networks.items():
        prefix = "" if key == "mobilefacenet" else f"{key}_"
        alone = from_labels(f"{prefix}student", f"{title}student, no KD", network, f"{key}_student")
        family = Family(
            prefix,
            title,
            spec("common.distillation.teacher.Teacher", network=teacher_network, weights=WeightsOf(teacher)),
            network,
            512,
            PAPER_RECIPE,
            batches(general, 64).replace(draw="step"),
            benchmark,
            26,
            alone.name,
            key,
            kept_answers=False,
        )
        arms += [alone, family.ekd()]
        if not prefix:
            arms += [family.variant(kind) for kind in ("3_thresholds", "random_negatives", "similarity")]
            arms += [family.compared(kind) for kind in ("feature_l2", "fitnet", "darkrank", "sp", "cckd", "rkd")]
    hard = "cfp_fp"
    return TablePlan(
        arms=tuple(arms),
        claims=(
            claims.beats_relations_and_labels("ekd", "rkd", "student", hard, "accuracy"),
            claims.thresholds_and_hard_pairs_matter(
                "ekd", "ekd_3_thresholds", "ekd_random_negatives", hard, "accuracy"
            ),
            claims.ranks_beat_similarities("ekd", "ekd_similarity", hard, "accuracy"),
            claims.small_students_gain_more(("ekd", "student"), ("resnet18_ekd", "resnet18_student"), hard, "accuracy"),
            claims.features_beat_relations("feature_l2", "ekd", hard),
        ),
        seeds=(0,),
        data_note="MS1MV2 in InsightFace's records; five of the paper's pair sets (IJB and MegaFace have no reader here)",
        pair_sets=PAPER_SETS,
    )
