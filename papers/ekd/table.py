"""EKD's table at every scale, and its claims, written before any result of ours existed.

make ekd                                    demo: generated faces, 32 px, 3 seeds
make ekd SCALE=smoke                        every kind of arm for a few steps, under a minute
make ekd SCALE=real DATA=/path              a published MobileFaceNet teaches half its width on FairFace, tested on LFW
make ekd SCALE=lab                          generated faces, 112 px, every arm: one GPU
make ekd SCALE=paper DATA=/path DEVICES=8   MS1MV2, IR-50 to MobileFaceNet and IR-18, the official schedule
"""

from __future__ import annotations

from typing import Any

from common.distillation.setting import FAIRNESS_SET, SETS, FaceSetting, face_setting
from common.experiment.arm import Arm, Phase, TablePlan
from common.experiment.claims import Claim
from common.experiment.spec import spec
from papers.ekd import claims, scale_paper, scale_real
from papers.ekd.family import BASELINES, VARIANTS, Family, batches, measured, unlisted

ALL_PAIRS = spec("papers.ekd.benchmark.AllPairsBenchmark", all_pairs_of=FAIRNESS_SET)
FAR_METRICS = tuple(f"all_tar_at_far_1e-{k}" for k in (2, 3, 4))
LOWEST = FAR_METRICS[-1]
OTHERS = ("kd", "sp", "cckd", "fitnet")  # that the paper ranks below RKD
COLUMNS = tuple(
    (f"{FAIRNESS_SET}:{key}", f"TAR@{key[-4:]}", "%", f"TAR at FAR {key[-4:]} over all pairs of the test images")
    for key in FAR_METRICS
)


def plan(scale: str) -> TablePlan:
    """Arms, claims and seeds of a scale."""
    return {"smoke": _smoke, "demo": _demo, "real": scale_real.plan, "lab": _lab, "paper": scale_paper.plan}[scale]()


# --- smoke, demo and lab: the generated faces that the distillation papers share -----------------------------------


def _family(setting: FaceSetting, teacher: Arm, identities: int, **changes: Any) -> Family:
    shared: dict[str, Any] = {
        "prefix": "",
        "title": "",
        "network": setting.student_network,
        "embedding_size": setting.embedding_size,
    }
    return Family(
        **{**shared, **changes},
        teacher=setting.teacher_for(unlisted(teacher)),
        recipe=setting.student_recipe,
        data=batches(setting.plain_data, identities),
        benchmark=ALL_PAIRS,
        epochs=setting.epochs,
    )


def _references(setting: FaceSetting, teacher: Arm) -> tuple[Arm, Arm]:
    """The shared teacher and the shared undistilled student, trained once for all papers, on this paper's benchmark."""
    student = setting.student()
    return (
        measured(teacher, setting.teacher_network, ALL_PAIRS, "teacher"),
        measured(student, setting.student_network, ALL_PAIRS, "mobilefacenet_student"),
    )


def _larger(setting: FaceSetting, teacher: Arm, identities: int, **changes: Any) -> tuple[Arm, Arm]:
    """A student of higher capacity: from labels alone, and with EKD. `changes`: of the student's network."""
    network = setting.student_network.replace(**changes)
    title = "larger student, "
    alone = measured(setting.student(network, "larger_student", f"{title}no KD"), network, ALL_PAIRS, None)
    family = _family(
        setting,
        teacher,
        identities,
        prefix="larger_",
        title=title,
        network=network,
        baseline=alone.name,
        reported="none",
    )
    return alone, family.ekd()


def _embedded_claims() -> tuple[Claim, ...]:
    at, s = LOWEST, FAIRNESS_SET
    return (
        claims.beats_relations_and_labels("ekd", "rkd", "student", s, at),
        claims.rkd_leads_the_others("rkd", OTHERS, s, at),
        claims.gain_grows_as_fpr_falls("ekd", "student", s, FAR_METRICS),
        claims.matching_instances_hurts("ekd", "fitnet", "student", s, at),
        claims.thresholds_and_hard_pairs_matter("ekd", "ekd_3_thresholds", "ekd_random_negatives", s, at),
        claims.ranks_beat_similarities("ekd", "ekd_similarity", s, at),
        claims.small_students_gain_more(("ekd", "student"), ("larger_ekd", "larger_student"), s, at),
        claims.features_beat_relations("feature_l2", "ekd", s),
        claims.gap_narrows("F1", "EKD", "ekd", "student", s),
        claims.gap_narrows("F2", "L2 of unit embeddings", "feature_l2", "student", s),
    )


def _demo() -> TablePlan:
    setting = face_setting("demo")
    teacher = setting.teacher()
    family = _family(setting, teacher, identities=8)  # 64 general + 32 balanced images a step, 75 steps an epoch
    arms = (
        *_references(setting, teacher),
        family.ekd(),
        *(family.variant(kind) for kind in ("3_thresholds", "random_negatives", "similarity")),
        *(family.compared(kind) for kind in ("feature_l2", "fitnet", "kd", "sp", "rkd", "cckd")),
        *_larger(setting, teacher, 8, width=0.25, blocks=(2, 3, 1)),
    )
    return TablePlan(
        arms=arms,
        claims=_embedded_claims(),
        seeds=(0, 1, 2),
        data_note="generated faces, 32 x 32 pixels, 400 identities x 12 images; TAR over all 8 million test pairs",
        pair_sets=SETS,
        fairness_set=FAIRNESS_SET,
        columns=COLUMNS,
    )


def _smoke() -> TablePlan:
    setting = face_setting("smoke")
    teacher = setting.teacher()
    family = _family(setting, teacher, identities=4)
    smaller = _family(
        setting,
        teacher,
        4,
        prefix="half_",
        title="embedding of half the size, ",
        network=setting.student_network.replace(embedding_size=setting.embedding_size // 2),
        embedding_size=setting.embedding_size // 2,
        reported="none",
    )
    return TablePlan(
        arms=(
            *_references(setting, teacher),
            family.ekd(),
            family.variant("3_thresholds"),
            family.variant("similarity"),
            family.compared("feature_l2"),
            family.compared("kd"),
            family.compared("rkd"),
            smaller.ekd(),
            _label_free(setting, teacher),
        ),
        claims=(),
        seeds=(0,),
        data_note="a few generated faces of 32 x 32 pixels and a few steps: shows that all runs, its numbers mean nothing",
        pair_sets=SETS,
        fairness_set=FAIRNESS_SET,
        columns=COLUMNS,
    )


def _label_free(setting: FaceSetting, teacher: Arm) -> Arm:
    """The real scale's kind of arm on generated faces."""
    return Arm(
        name="cosine_label_free",
        title="cosine, no labels",
        method=spec(
            "papers.ekd.label_free.LabelFree",
            backbone=setting.student_network,
            teacher=setting.teacher_for(unlisted(teacher)),
            distillation=spec("papers.ekd.baselines.EmbeddingLoss", name="cosine"),
            **setting.student_recipe,
        ),
        data=setting.data,
        benchmark=ALL_PAIRS,
        phases=(Phase("train", epochs=setting.epochs),),
        series="cosine, no labels",
        baseline="student",
        teacher="teacher",
    )


def _lab() -> TablePlan:
    """Every arm; 128 general + 128 balanced images a step."""
    setting = face_setting("lab")
    teacher = setting.teacher()
    family = _family(setting, teacher, identities=32)
    half = setting.embedding_size // 2
    smaller = _family(
        setting,
        teacher,
        32,
        prefix="half_",
        title="embedding of half the size, ",
        network=setting.student_network.replace(embedding_size=half),
        embedding_size=half,
        reported="none",
    )
    return TablePlan(
        arms=(
            *_references(setting, teacher),
            family.ekd(),
            *(family.variant(kind) for kind in VARIANTS),
            *(family.compared(kind) for kind in BASELINES),
            *_larger(setting, teacher, 32, width=1.0),
            smaller.ekd(),
        ),
        claims=_embedded_claims(),
        seeds=(0, 1, 2),
        data_note="generated faces of 112 x 112 pixels: 2,000 identities x 20 images; TAR over all pairs of the test images",
        pair_sets=SETS,
        fairness_set=FAIRNESS_SET,
        columns=COLUMNS,
    )
