"""The table of distilled class probabilities at every scale, and its claims, written before any result of ours existed.

make hinton_kd                          demo: scikit-learn's real digits with small networks, minutes on 2 cores
make hinton_kd SCALE=smoke              every kind of arm for a few steps, under a minute
make hinton_kd SCALE=lab                the biometric arm: identities of generated faces, one GPU
make hinton_kd SCALE=paper DATA=/path   MNIST with the paper's networks; CPU hours
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from common.distillation.setting import FAIRNESS_SET, SETS, FaceSetting, face_setting
from common.experiment.arm import Arm, TablePlan
from common.experiment.claims import Claim
from common.experiment.spec import DataRoot, Spec, spec
from papers.hinton_kd import claims
from papers.hinton_kd.family import Family

MLP = "papers.hinton_kd.networks.MLP"
TEST = spec("common.evaluation.classification.ClassificationBenchmark")
FITTED = spec("common.evaluation.classification.ClassificationBenchmark", parts=("test", "train"))
CLIPPED = {"max_gradient_norm": 1.0}  # of every student: training from labels does not notice it, see the README
TEMPERATURES = (1.0, 2.5, 4.0, 8.0)  # and that of the distilled arm, 20


def plan(scale: str) -> TablePlan:
    """Arms, claims and seeds of a scale."""
    return {"smoke": _smoke, "demo": _demo, "lab": _lab, "paper": _paper}[scale]()


def _sweep(family: Family, teacher: Arm, temperatures: Sequence[float]) -> list[Arm]:
    return [family.distilled([teacher], f"t{t:g}", temperature=t) for t in temperatures]


def _small(family: Family, arms: Sequence[Arm], units: int) -> list[Arm]:
    """The same arms with a very small student."""
    return [family.of_size(arm, units, f"small_{arm.name}", f"{units} units: {arm.title}") for arm in arms]


def _missing(family: Family, distilled: Arm) -> list[Arm]:
    """Transfer sets without a class, before and after the correction of one number."""
    seen = (7, 8)
    unseen = tuple(label for label in range(10) if label not in seen)
    no_three = family.without(distilled, (3,), "no_3", "distilled without a 3")
    two = family.without(distilled, unseen, "only_78", "distilled on 7s and 8s only")
    return [no_three, family.corrected(no_three, (3,)), two, family.corrected(two, unseen)]


def _arms(family: Family, small: int, share: float, temperatures: Sequence[float], members: int) -> list[Arm]:
    """Everything but the specialists."""
    teachers = [family.teacher(member) for member in range(members)]
    teacher, hard = teachers[0], family.hard()
    distilled = family.distilled([teacher])
    sweep = _sweep(family, teacher, temperatures)
    of_three = family.distilled(teachers, "of_ensemble", f"student of {members} teachers")
    geometric = family.distilled(
        teachers, "of_geometric", f"student of {members} teachers, geometric mean", ensemble_mean="geometric"
    )
    percent = f"{100 * share:g} %"
    return [
        *teachers,
        family.ensemble(teachers),
        hard,
        distilled,
        family.unlabelled(distilled),
        of_three,
        geometric,
        *sweep,
        *_small(family, [hard, *sweep, distilled], small),
        *_missing(family, distilled),
        family.fraction(hard, share, "hard_few", f"student, hard labels, {percent} of the images"),
        family.fraction(distilled, share, "distilled_few", f"student, distilled, {percent} of the images"),
    ]


def _claims(percent: int) -> tuple[Claim, ...]:
    return (
        claims.distilled_beats_hard("distilled", "hard"),
        claims.closes_half_the_gap("distilled", "hard", "teacher"),
        claims.missing_class_comes_back("no_3_corrected", "no_3", "3"),
        claims.missing_class_is_lost_without_correction("no_3", "3"),
        claims.two_classes_are_enough("only_78_corrected", "only_78"),
        *claims.small_students_want_lower_temperatures("small_t4", "small_distilled", "t4", "t8", "distilled"),
        claims.soft_targets_overfit_less("distilled_few", "hard_few", percent),
        claims.labels_are_not_needed("unlabelled", "hard"),
        claims.ensembles_teach_better("of_ensemble", "distilled"),
        claims.specialists_help("specialists", "hard"),
        claims.gap_shrinks("distilled", "hard"),
    )


# --- the biometric arm: identities of generated faces --------------------------------------------------------------------


def face_arms(setting: FaceSetting) -> list[Arm]:
    """Teacher and student that all distillation papers share, and identity logits with and without the margin."""
    teacher = replace(setting.teacher(), name="face_teacher", title="faces: teacher", series="faces")
    student = replace(
        setting.student(),
        name="face_student",
        title="faces: student, no KD",
        series="faces",
        baseline="face_teacher",
        teacher="face_teacher",
    )

    def distilled(name: str, words: str, **options: Any) -> Arm:
        method = spec(
            "papers.hinton_kd.faces.IdentityKD",
            teacher=setting.teacher_for(teacher),
            backbone=setting.student_network,
            embedding_size=setting.embedding_size,
            **setting.student_recipe,
            **options,
        )
        title = f"faces: identity logits {words}"
        return replace(student, name=name, title=title, method=method, data=setting.data, baseline="face_student")

    return [
        teacher,
        student,
        distilled("face_plain", "without margin"),
        distilled("face_margin", "with margin", margin_in_targets=True),
    ]


def _lab() -> TablePlan:
    return TablePlan(
        arms=tuple(face_arms(face_setting("lab"))),
        claims=claims.identities_distil("face_plain", "face_student", "face_margin", FAIRNESS_SET),
        seeds=(0, 1, 2),
        data_note="2,000 generated identities, 112 pixels; the setting that all distillation papers share",
        pair_sets=SETS,
        fairness_set=FAIRNESS_SET,
    )


# --- demo and smoke: real digits that come with scikit-learn -------------------------------------------------------------


def _digits(batch: int) -> Spec:
    return spec(
        "datasets.classification.Digits",
        size=28,
        test=600,
        validation=800,
        batch_size=batch,
        mean=(0.1558,),
        std=(0.2775,),
    )


def _demo() -> TablePlan:
    # Rate and dropout by validation error of the teacher and of the student trained from labels, on larger training parts, before
    # any distilled arm was seen.
    recipe: dict[str, Any] = {"lr": 0.03, "schedule": "one_cycle", "nesterov": True}
    family = Family(
        data=_digits(50),
        jitter=2,
        teacher_network=spec(MLP, hidden=(300, 300), dropout=0.3),
        student_network=spec(MLP, hidden=(100, 100)),
        teacher_recipe={**recipe, "max_norm": 4.0},
        student_recipe={**recipe, **CLIPPED},
        teacher_length=160,
        student_length=120,
        temperature=20.0,
        benchmark=TEST,
        fitted=FITTED,
        few_length=600,
    )
    arms = [*_arms(family, 8, 0.1, TEMPERATURES, 3), family.specialists(family.hard(), 3, 40, 0.003)]
    return TablePlan(
        arms=tuple(arms),
        claims=_claims(10),
        seeds=(0, 1, 2),
        data_note="the 1,797 real handwritten digits of scikit-learn, enlarged to 28 x 28 pixels: 397 train, 800 choose the "
        "corrections, 600 test",
        pair_sets=("test", "train"),
        fairness_set="test",
    )


def _smoke() -> TablePlan:
    recipe: dict[str, Any] = {"lr": 0.03, "schedule": "one_cycle", "nesterov": True}
    family = Family(
        data=_digits(200),
        jitter=2,
        teacher_network=spec(MLP, hidden=(32, 32), dropout=0.3),
        student_network=spec(MLP, hidden=(16, 16)),
        teacher_recipe={**recipe, "max_norm": 4.0},
        student_recipe={**recipe, **CLIPPED},
        teacher_length=2,
        student_length=2,
        temperature=20.0,
        benchmark=TEST,
        fitted=FITTED,
        few_length=2,
    )
    arms = [*_arms(family, 8, 0.1, (4.0,), 2), family.specialists(family.hard(), 3, 1, 0.003, steps=20)]
    return TablePlan(
        arms=tuple(arms),
        claims=(),
        seeds=(0,),
        data_note="a few steps on scikit-learn's digits: shows that all runs, its numbers mean nothing",
        pair_sets=("test", "train"),
        fairness_set="test",
    )


# --- paper: MNIST with the paper's networks ------------------------------------------------------------------------------


def _paper() -> TablePlan:
    # The paper publishes neither optimiser nor schedule: these are ours, see the README.
    data = spec("datasets.classification.MNIST", root=DataRoot(), batch_size=100)
    recipe: dict[str, Any] = {"lr": 0.03, "schedule": "one_cycle", "nesterov": True}
    family = Family(
        data=data,
        jitter=2,
        teacher_network=spec(MLP, hidden=(1200, 1200), input_dropout=0.2, dropout=0.5),
        student_network=spec(MLP, hidden=(800, 800)),
        teacher_recipe={**recipe, "max_norm": 4.0},
        student_recipe={**recipe, **CLIPPED},
        teacher_length=60,
        student_length=30,
        temperature=20.0,
        benchmark=TEST,
        fitted=FITTED,
        few_length=200,
    )
    arms = [*_arms(family, 30, 0.03, TEMPERATURES, 3), family.specialists(family.hard(), 3, 5, 0.001)]
    return TablePlan(
        arms=tuple(arms),
        claims=_claims(3),
        seeds=(0, 1, 2),
        data_note="MNIST (55,000 / 5,000 / 10,000 images) with the paper's networks and T = 20; the schedule is ours",
        pair_sets=("test", "train"),
        fairness_set="test",
    )
