"""MaskInv's table at every scale.

make mask_invariant_kd                                   demo: generated faces, 32 px, 3 seeds
make mask_invariant_kd SCALE=smoke                       every kind of arm for two epochs of a few faces
make mask_invariant_kd SCALE=real DATA=/path             a published MobileFaceNet, FairFace without labels, LFW
make mask_invariant_kd SCALE=lab                         generated faces, 112 px: one GPU
make mask_invariant_kd SCALE=paper DATA=/path DEVICES=4  MS1MV2, IResNet-100; 512 images a step, shared by the devices
"""

from __future__ import annotations

from typing import Any

from common.distillation.setting import FaceSetting, face_setting
from common.experiment.arm import Arm, Phase, TablePlan
from common.experiment.claims import Claim
from common.experiment.spec import DataFile, DataRoot, WeightsOf, spec
from papers.mask_invariant_kd import claims
from papers.mask_invariant_kd.family import HIGH, Family

BENCHMARK = "papers.mask_invariant_kd.benchmark.MaskBenchmark"
PAPER_SETS = ("lfw", "calfw", "cplfw", "agedb_30", "cfp_fp")
PAPER_DROPS = (7 / 26, 13 / 26, 19 / 26, 24 / 26)


def plan(scale: str) -> TablePlan:
    """Arms, claims and seeds of a scale."""
    return {"smoke": _smoke, "demo": _demo, "real": _real, "lab": _lab, "paper": _paper}[scale]()


# --- generated faces -----------------------------------------------------------------------------------------------


def _embedded(setting: FaceSetting, wide: bool = False, sets: tuple[str, ...] = ("mixed", "frontal")) -> Family:
    """Teacher and student are the shared setting's student network, or its teacher's where `wide`."""
    network = setting.teacher_network if wide else setting.student_network
    recogniser = setting.teacher() if wide else setting.student()
    recipe = {**(setting.teacher_recipe if wide else setting.student_recipe), "head_options": {}}
    return Family(
        network=network,
        weights=WeightsOf(recogniser),
        faces=setting.plain_data,
        masks={"margin": 16.0, "sets": sets},
        benchmark=spec(BENCHMARK),
        train=Phase("train", epochs=setting.epochs),
        recipe={**recipe, "embedding_size": setting.embedding_size},
    )


def _embedded_arms(family: Family) -> tuple[Arm, ...]:
    """The paper's four rows and its loader, then ours: what masks, flips, the start and the switch contribute."""
    return (
        family.teacher(),
        family.augmented(),
        family.low(),
        family.high(),
        family.published(),
        family.student("unmasked", "no masks, no KD (ours)", masks={"probability": 0.0}, kd_weight=0.0),
        family.low("lg_scratch", "MaskInv-LG, from scratch", student_init="scratch"),
        family.low("lg_same_flip", "MaskInv-LG, teacher's copy mirrored alike", masks={"independent_flip": False}),
        family.student("high_throughout", "lambda = 3000 throughout (ours)", kd_weight=HIGH),
        family.high("hg_response", "MaskInv-HG + response-based loss (ours)", response_weight=1.0),
    )


def _embedded_claims(base: str) -> tuple[Claim, ...]:
    return (
        claims.guidance_helps(base, ("hg", "lg", "augmentation", "teacher")),
        claims.masks_help("C1b", base, "augmentation", "teacher"),
        claims.at_least_on_masks(base, "lg", ("teacher", "augmentation")),
        claims.unmasked_is_kept(base, ("lg", "hg"), "teacher"),
        claims.high_loses_no_more(base, "hg", "augmentation"),
        claims.distance_falls(base, ("augmentation", "lg", "hg")),
        claims.scores_separate(base, ("lg", "hg"), "teacher"),
        claims.gap_does_not_grow(base, "hg", "teacher"),
        claims.teacher_must_not_see_masks(base, "lg", "lg_official_code"),
    )


def _columns(base: str) -> tuple[tuple[str, str, str, str], ...]:
    one, both = claims.one_masked(base), claims.both_masked(base)
    about = "a masked face against an unmasked one"
    return (
        (f"{one}:fmr100", "FMR100, one masked", "%", f"FNMR at an FMR of at most 1 %, {about}"),
        (f"{one}:fmr1000", "FMR1000, one masked", "%", f"FNMR at an FMR of at most 0.1 %, {about}"),
        (f"{one}:fisher_ratio", "Fisher ratio, one masked", "ratio", f"separation of the scores (FDR of MFRC-21), {about}"),
        (f"{one}:genuine_mean", "genuine mean, one masked", "cosine", f"mean score of genuine pairs, {about}"),
        (f"{both}:template_distance", "distance to T", "", "mean squared distance of S(mask(x)) and T(x), unit templates"),
        ("lambda_per_dimension", "lambda/d", "", "weight of the squared distance at the end of the training"),
    )  # fmt: skip


def _sets(*bases: str) -> tuple[str, ...]:
    return tuple(name for base in bases for name in (base, claims.one_masked(base), claims.both_masked(base)))


def _demo() -> TablePlan:
    return TablePlan(
        arms=_embedded_arms(_embedded(face_setting("demo"))),
        claims=_embedded_claims("mixed"),
        seeds=(0, 1, 2),
        data_note="generated faces, 32 x 32 pixels, with synthetic masks on none, one or both faces of a pair",
        pair_sets=_sets("mixed", "frontal"),
        fairness_set="mixed_one_masked",
        columns=_columns("mixed"),
    )


def _smoke() -> TablePlan:
    return TablePlan(
        arms=_embedded_arms(_embedded(face_setting("smoke"), sets=("frontal",))),
        claims=(),
        seeds=(0,),
        data_note="a few generated faces of 32 x 32 pixels and two epochs: shows that all runs, its numbers mean nothing",
        pair_sets=_sets("frontal"),
        fairness_set="frontal_one_masked",
        columns=_columns("frontal"),
    )


def _lab() -> TablePlan:
    """Also the rest of the curve over lambda: 0, 10, 100, 1000 and 3000 throughout."""
    family = _embedded(face_setting("lab"), wide=True)
    curve = tuple(
        family.student(f"lambda_{weight:g}", f"lambda = {weight:g} throughout (ours)", kd_weight=weight)
        for weight in (10.0, 1000.0)
    )
    return TablePlan(
        arms=(*_embedded_arms(family), *curve),
        claims=_embedded_claims("mixed"),
        seeds=(0, 1, 2),
        data_note="generated faces of 112 x 112 pixels: 2,000 identities, with synthetic masks",
        pair_sets=_sets("mixed", "frontal"),
        fairness_set="mixed_one_masked",
        columns=_columns("mixed"),
    )


# --- real: a published network, real faces -------------------------------------------------------------------------


def _real() -> TablePlan:
    """Published MobileFaceNet (CASIA-WebFace), tuned by templates alone on FairFace's unlabelled faces, tested on LFW."""
    options: dict[str, Any] = {"root": DataRoot(), "width": 96, "divisor": 128.0}
    family = Family(
        network=spec("common.backbones.MobileFaceNet112x96"),
        weights=DataFile("weights/mobilefacenet_xiaoccer_068.ckpt"),
        faces=spec(
            "datasets.combined.TrainTest",
            train=spec("datasets.fairface.FairFace", batch_size=32, **options),
            test=spec("datasets.lfw.LFW", **options),
        ),
        masks={"teacher_images": True},
        benchmark=spec(BENCHMARK, flip="concatenate", centre="other_folds", batch_size=32, template_images=500),
        train=Phase("tune", steps=100),
        recipe={
            "classify": False,
            "batch_statistics": False,
            "embedding_size": 128,
            "lr": 0.1,  # lowered the loss on FairFace training faces more than 0.03 in eight steps; no other was tried
            "reference_batch": 0,
            "schedule": "polynomial",
        },
    )
    arms = (
        family.teacher(),
        family.low("kd", "templates alone"),
        family.low("kd_official_code", "templates alone, teacher sees the mask", masks={"teacher_sees": "official_code"}),
        family.low("kd_same_flip", "templates alone, teacher's copy mirrored alike", masks={"independent_flip": False}),
        family.low("kd_unmasked", "templates alone, no masks (ours)", masks={"probability": 0.0}),
    )  # fmt: skip
    return TablePlan(
        arms=arms,
        claims=(
            claims.masks_help("C1b", "lfw", "kd", "teacher"),
            claims.at_least_on_masks("lfw", "kd", ("teacher", "kd_unmasked")),
            claims.unmasked_is_kept("lfw", ("kd",), "teacher"),
            claims.gap_does_not_grow("lfw", "kd", "teacher"),
            claims.teacher_must_not_see_masks("lfw", "kd", "kd_official_code"),
        ),
        seeds=(0,),
        data_note="a published MobileFaceNet (CASIA-WebFace) tuned without labels on FairFace, tested on LFW with drawn masks",
        pair_sets=_sets("lfw"),
        fairness_set="lfw_one_masked",
        columns=_columns("lfw"),
    )


# --- paper: the paper's own data, network and schedule -------------------------------------------------------------


def _paper() -> TablePlan:
    """MS1MV2; ElasticFace-Arc as teacher and start; HG goes on from epoch 20 at ten times LG's rate."""
    network = spec("common.backbones.IResNet100")
    faces = spec(
        "datasets.insightface.InsightFaceRecords",
        root=DataRoot(),
        batch_size=512,
        num_workers=8,
        verification=PAPER_SETS,
    )
    recipe: dict[str, Any] = {"embedding_size": 512, "lr": 0.1, "lr_drops": PAPER_DROPS}
    train = Phase("train", epochs=26)
    elastic = Arm(
        name="elasticface_arc",
        title="ElasticFace-Arc",
        method=spec("common.recognition.FaceRecognizer", backbone=network, head="ElasticArcFace", **recipe),
        data=faces,
        benchmark=spec("common.evaluation.benchmark.VerificationBenchmark"),
        phases=(train,),
        series="teacher",
    )
    family = Family(network, WeightsOf(elastic), faces, {"teacher_images": True}, spec(BENCHMARK), train, recipe)
    arms = (
        family.teacher(),
        family.augmented(),
        family.low(),
        family.high(late_from=20 / 26, late_lr_factor=10.0),
        family.low("lg_scratch", "MaskInv-LG, from scratch", student_init="scratch"),
        family.published(official_landmarks=True, arithmetic="official"),
    )
    return TablePlan(
        arms=arms,
        claims=_embedded_claims("lfw")[:7] + _embedded_claims("lfw")[8:],  # these benchmarks know no groups
        seeds=(0,),
        data_note="MS1MV2 in InsightFace's records; five pair sets with synthetic masks on none, one or both faces",
        pair_sets=_sets(*PAPER_SETS),
        columns=_columns("lfw"),
    )
