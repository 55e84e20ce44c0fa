"""The table of Simon Says at every scale, and its claims, written before any result of ours existed.

make simon_says                          demo: scikit-learn's real digits, 3 students for every row and seed, minutes on 2 cores
make simon_says SCALE=smoke              every kind of arm for a few epochs, under a minute
make simon_says SCALE=real DATA=/path    a published ResNet-20, pruned with and without KD on a tenth of CIFAR-10 (hours)
make simon_says SCALE=paper DATA=/path   CIFAR-100, resnet32x4, the official schedule (a GPU)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.experiment.arm import Arm, TablePlan
from common.experiment.claims import Claim
from common.experiment.spec import DataFile, DataRoot, spec
from papers.simon_says import claims
from papers.simon_says.family import ARMS, Family
from papers.simon_says.sets import ACROSS, TEST

ALONE = spec("common.evaluation.classification.ClassificationBenchmark")
COLUMNS = (
    (
        f"{TEST}:cev",
        "CEV",
        "%²",
        "combined error variance against the unpruned network, scale of arXiv:2106.07849; 0 = even",
    ),
    (f"{TEST}:sde", "SDE", "%", "symmetric distance error, same scale; 0 = FPR and FNR of every class change alike"),
    (f"{TEST}:pies", "PIEs", "count", "test images on which all students of a seed disagree with the unpruned network"),
    (f"{TEST}:left_out", "left out", "layers", "classes without an error of the unpruned network, not in CEV and SDE"),
    (f"{TEST}:svcca_layer1", "SVCCA", "loss", "SVCCA distance of the first stage from the unpruned network's"),
    (f"{ACROSS}:error", "mean error", "%", "of all arms of a row that looks across arms"),
    (f"{ACROSS}:pearson", "CEV ~ SVCCA", "ratio", "Pearson's correlation of CEV and SVCCA distance across arms"),
    (f"{ACROSS}:tau", "CEV ~ error", "ratio", "Kendall's tau between the rankings of arms by CEV and by error"),
)
FEATURES = ("at", "sp", "pkt", "hints")
EVERY = ("struct", "kd", *FEATURES, *(f"{name}_kd" for name in FEATURES))
PERCENTS = (30, 45, 60, 75)
SLOW: dict[str, Any] = {"lr": 0.005}  # of TEST and PKT, in the official scripts a tenth of the others'


def plan(scale: str) -> TablePlan:
    """Arms, claims and seeds of a scale."""
    return {"smoke": _smoke, "demo": _demo, "real": _real, "paper": _paper}[scale]()


def _arms(family: Family, balanced: Mapping[str, Sequence[float]], cut: Sequence[str]) -> list[Arm]:
    """The unpruned network, arms at their sparsities in the balanced setting, arms at 45 % with cut classes, what lies across."""
    even = [family.population(arm, percent) for arm, percents in balanced.items() for percent in percents]
    uneven = [family.population(arm, 45, cut=True) for arm in cut]
    return [
        family.dense(),
        *even,
        *uneven,
        family.gallery("across_all", "across all arms", [*even, *uneven]),
        family.gallery("across_cut", "across arms with cut classes", uneven),
    ]


def _claims(features: Sequence[str], percents: Sequence[float]) -> tuple[Claim, ...]:
    with_kd = ["cut_kd_45", *(f"cut_{name}_kd_45" for name in features)]
    return (
        claims.distillation_evens_out([(f"kd_{p:g}", f"struct_{p:g}") for p in percents]),
        *claims.bias_grows("struct_30", "struct_75"),
        *claims.imbalance_is_worse("struct_45", "cut_struct_45", with_kd),
        *claims.both_are_better([(f"cut_{name}_kd_45", f"cut_{name}_45") for name in features]),
        claims.accuracy_hides_it("across_cut"),
        claims.similarity_goes_along("across_all"),
        claims.the_gap_too("cut_kd_45", "cut_struct_45"),
        claims.teacher_or_softness("cut_kd_45", "cut_struct_45"),
    )


# --- demo and smoke: real digits that come with scikit-learn ------------------------------------------------------------

# As in the paper three classes of twenty: a tenth of one stays, a fifth of another, half of a third.
DIGITS_CUT = ((2, 0.1), (4, 0.2), (9, 0.5))


def _digits(teacher_epochs: int, epochs: int, repeats: int) -> Family:
    """1,100 test images, so that the unpruned network errs in most classes; 497 for training; the paper's weights and rates."""
    slow = dict.fromkeys(("at", "at_kd", "pkt", "pkt_kd"), SLOW)
    return Family(
        network=spec("papers.simon_says.networks.ResNetX4", depth=8, classes=10, in_channels=1, widths=(8, 16, 32, 64)),
        data=spec("datasets.classification.Digits", size=8, batch_size=50, test=1100, validation=200),
        benchmark=spec("papers.simon_says.population.BiasBenchmark", smoothed=True),
        alone=ALONE,
        teacher_epochs=teacher_epochs,
        epochs=epochs,
        teacher_recipe={"lr": 0.05},
        recipe={"lr": 0.05, "every": 1},
        recipes={**slow, "crd": {"negatives": 256}},
        cut=DIGITS_CUT,
        repeats=repeats,
    )


def _demo() -> TablePlan:
    family = _digits(teacher_epochs=16, epochs=16, repeats=3)
    percents = (30, 45, 75)
    arms = _arms(family, {"struct": percents, "kd": percents, "at": (45,), "at_kd": (45,)}, EVERY)
    return TablePlan(
        arms=tuple(arms),
        claims=_claims(FEATURES, percents),
        seeds=(0, 1, 2),
        data_note="the 1,797 real handwritten digits of scikit-learn; 497 train, 200 validate, 1,100 test; cut: a tenth of the "
        "twos stays, a fifth of the fours, half of the nines. Rates are smoothed, (errors + 1) / (images + 2)",
        pair_sets=(TEST, ACROSS),
        fairness_set=TEST,
        columns=COLUMNS,
    )


def _smoke() -> TablePlan:
    family = _digits(teacher_epochs=2, epochs=4, repeats=1)
    arms = _arms(family, {"struct": (45,), "crd": (45,)}, ("kd", "at", "sp_kd", "pkt", "hints_kd"))
    return TablePlan(
        arms=tuple(arms),
        claims=(),
        seeds=(0,),
        data_note="a few epochs on scikit-learn's digits: shows that all runs, its numbers mean nothing",
        pair_sets=(TEST, ACROSS),
        fairness_set=TEST,
        columns=COLUMNS,
    )


# --- real: a published network, a tenth of CIFAR-10 ---------------------------------------------------------------------


def _real() -> TablePlan:
    """Shortcuts without parameters; rates are a tenth of those that the network was trained with, by us."""
    images = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    family = Family(
        network=spec("common.backbones.cifar_resnet.CifarResNet", depth=20),
        data=spec("datasets.classification.CIFAR10", root=DataRoot(), validation=45_000, batch_size=128, **images),
        benchmark=spec("papers.simon_says.population.BiasBenchmark"),
        alone=ALONE,
        teacher_epochs=0,
        epochs=6,
        recipe={
            "lr": 0.01,
            "every": 1,
            "weight_decay": 1e-4,
            "classifier": "linear",
            "pooled": "layer3",
        },
        cut=((2, 0.1), (4, 0.2), (9, 0.5)),
        repeats=2,
        weights=DataFile("weights/resnet20-12fca82f.th"),
        tapped=("layer1", "layer2", "layer3", "linear"),
    )
    arms = _arms(family, {"struct": (30, 45, 75), "kd": (30, 45, 75)}, ("struct", "kd", "at", "at_kd"))
    return TablePlan(
        arms=tuple(arms),
        claims=_claims(("at",), (30, 45, 75)),
        seeds=(0, 1, 2),
        data_note="a published ResNet-20, pruned on 5,000 training images of CIFAR-10, measured on all 10,000 test images; cut: "
        "a tenth of the birds stays, a fifth of the deer, half of the trucks",
        pair_sets=(TEST, ACROSS),
        fairness_set=TEST,
        columns=COLUMNS,
    )


# --- paper: CIFAR-100, the official schedule ----------------------------------------------------------------------------

CIFAR_CUT = (
    *((label, 0.1) for label in (83, 20, 75, 85, 90)),
    *((label, 0.2) for label in (17, 86, 87, 94, 37)),
    *((label, 0.5) for label in (76, 22, 58, 63, 6)),
)


def _paper() -> TablePlan:
    slow = ("at", "at_kd", "pkt", "pkt_kd")
    family = Family(
        network=spec("papers.simon_says.networks.ResNetX4", depth=32, classes=100),
        data=spec(
            "datasets.classification.CIFAR100",
            root=DataRoot(),
            batch_size=512,
            validation=0,
            mean=(0.5071, 0.4867, 0.4408),
            std=(0.2675, 0.2565, 0.2761),
        ),
        benchmark=spec("papers.simon_says.population.BiasBenchmark"),
        alone=ALONE,
        teacher_epochs=240,
        epochs=240,
        teacher_recipe={"lr": 0.05},
        recipe={"lr": 0.05, "every": 5},
        recipes={name: SLOW for name in slow},
        batches={name: 256 for name in (*slow, "crd")},
        cut=CIFAR_CUT,
        repeats=4,
        reported="c100_",
    )
    balanced: dict[str, Sequence[float]] = {name: (*PERCENTS, 90) for name in ARMS if not name.endswith("_kd")}
    arms = _arms(family, {**balanced, **{f"{name}_kd": (45,) for name in FEATURES}}, EVERY)
    return TablePlan(
        arms=tuple(arms),
        claims=_claims(FEATURES, PERCENTS),
        seeds=(0, 1, 2),
        data_note="CIFAR-100, 50,000 train, 10,000 test; four students for every row and seed; 15 classes cut to 10, 20 or 50 %",
        pair_sets=(TEST, ACROSS),
        fairness_set=TEST,
        columns=COLUMNS,
    )
