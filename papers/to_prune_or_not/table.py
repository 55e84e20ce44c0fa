"""The tables of gradual pruning at every scale, and their claims, written before any result of ours existed.

make to_prune_or_not                          demo: scikit-learn's real digits, 8 x 8, 3 seeds, minutes on 2 cores
make to_prune_or_not SCALE=smoke              every kind of arm for a few steps, under a minute
make to_prune_or_not SCALE=paper DATA=/path   MNIST (2 cores; ours; alone with ARMS='lenet300_*'), CIFAR-10 and ImageNet (a GPU)
"""

from __future__ import annotations

from collections.abc import Sequence

from common.experiment.arm import Arm, TablePlan
from common.experiment.claims import Claim
from common.experiment.spec import DataRoot, Spec, spec
from papers.to_prune_or_not import claims
from papers.to_prune_or_not.family import Family, Schedule, Width
from papers.to_prune_or_not.footprint import (
    MOBILENET,
    MOBILENET_CIFAR_STRIDES,
    convnet,
    lenet,
    mobilenet,
    resnet,
    scaled,
)

WIDTHS = (1.0, 0.75, 0.5, 0.25)
GRID = (50, 75, 90, 95, 97.5)
COLUMNS = (
    ("nnz", "NNZ", "count", "parameters that are not zero, those that are never pruned included"),
    ("remaining", "of width 1", "%", "NNZ, in percent of the parameters of the dense network of width 1"),
    ("unpruned", "unpruned", "count", "parameters that are never pruned: layers left dense, biases, normalisations"),
    ("asked", "asked", "%", "share of the network's own prunable weights that was to be masked"),
    ("sparsity", "masked", "%", "share of them that is masked"),
    ("returned", "came back", "count", "masked weights that came back, over all updates of the masks"),
)
NETWORKS = "papers.to_prune_or_not.networks"


def plan(scale: str) -> TablePlan:
    """Arms, claims and seeds of a scale."""
    return {"smoke": _smoke, "demo": _demo, "paper": _paper}[scale]()


def _grid(family: Family, percents: Sequence[float] = GRID) -> list[Arm]:
    """The paper's table: dense networks of every width, the large one over the grid and at the footprints of the others."""
    arms = [family.small_dense(width) for width in family.widths]
    arms += [family.sparse(percent) for percent in percents]
    return arms + [family.matched(width) for width in family.widths if width != 1]


def _variants(family: Family, percents: Sequence[float], intervals: Sequence[int]) -> list[Arm]:
    """At 90 %: in one shot, other intervals, contrib's masks and thresholds; linear schedules and masks that may reopen."""
    s = family.schedule
    contrib = {"keep_masked": True, "threshold": "histogram", "last_update": s.steps - s.every}
    arms = [
        family.variant("one_shot", "in one shot", 90, end=s.begin),
        *(family.interval(every) for every in intervals),
        family.variant("kept", "masked values kept (contrib)", 90, keep_masked=True),
        family.variant("histogram", "smoothed histogram threshold (contrib)", 90, **contrib),
        family.variant("unsmoothed", "histogram threshold, not smoothed", 90, **contrib, threshold_decay=0.0),
    ]
    for percent in percents:
        arms.append(family.variant("linear", "linear schedule (ours)", percent, exponent=1.0))
        arms.append(family.variant("regrow", "masked weights learn on (Gale et al.)", percent, regrow=True))
    return arms


def _narrower(family: Family, width: float, crossing: Sequence[tuple[float, float]]) -> list[Arm]:
    """Claim C3, a narrower network at the same sparsities; and C6, ours: (width, percent) of equal NNZ."""
    arms = [family.sparse(percent, width) for percent in (75, 90)]
    return arms + [family.mild(narrow, percent) for narrow, percent in crossing]


def _claims(
    name: str, p: str, mark: str, matched: Sequence[float], intervals: Sequence[int], margin: float,
    crossing: Sequence[tuple[float, float]],
) -> tuple[Claim, ...]:  # fmt: skip
    """All claims of a whole family; `mark` ends the keys, `margin` is C5's, `matched` the two footprints of C1."""
    return (
        claims.large_sparse_beats_small_dense(f"C1{mark}", name, p, matched),
        claims.accuracy_falls_with_sparsity(f"C2{mark}", name, p, GRID),
        claims.falls_sharply_beyond_90(f"C2b{mark}", name, p, 97.5),
        claims.wide_networks_lose_less(f"C3{mark}", name, p, 0.5, (75, 90)),
        claims.gradual_beats_one_shot(f"C4{mark}", name, p),
        claims.interval_does_not_matter(f"C5{mark}", name, p, intervals, margin),
        *(
            claims.narrower_wins_at_extreme_sparsity(f"C6{mark}_w{width:g}_{percent:g}", name, p, width, percent)
            for width, percent in crossing
        ),
        claims.cubic_beats_linear(f"G1{mark}", name, p, 97.5),
        claims.coming_back_helps(f"G2{mark}", name, p, 97.5),
        claims.gap_widens(f"F1{mark}", name, p, 97.5),
        claims.worst_class_prefers_sparse(f"F2{mark}", name, p, matched[-1]),
    )


# --- demo and smoke: real digits that come with scikit-learn ------------------------------------------------------------


def _convnets(
    widths: Sequence[float], channels: tuple[int, ...], prefix: str, schedule: Schedule, batch: int
) -> Family:
    made = {w: Width(spec(f"{NETWORKS}.ConvNet", width=w, channels=channels), convnet(w, channels)) for w in widths}
    data = spec("datasets.classification.Digits", batch_size=batch)
    # Chosen by training loss and validation error of the dense networks of width 1 and 0.25.
    recipe = {"lr": 0.1, "weight_decay": 5e-4}
    return Family(prefix, "ConvNet", made, data, schedule, ("stem",), recipe)


def _demo() -> TablePlan:
    family = _convnets(WIDTHS, (16, 32, 64), "", Schedule(start=300, steps=400, begin=40, end=280, every=8), 50)
    crossing = ((0.5, 97.5), (0.25, 97.5), (0.5, 99), (0.25, 99))
    arms = [
        *_grid(family, (*GRID, 99)),
        *_variants(family, (90, 97.5), (40, 80)),
        *_narrower(family, 0.5, crossing),
    ]
    return TablePlan(
        arms=tuple(arms),
        claims=_claims("ConvNet", "", "", (0.5, 0.25), (40, 80), 1.0, crossing),
        seeds=(0, 1, 2),
        data_note=(
            "the 1,797 real handwritten digits of scikit-learn, 8 x 8 pixels; 1,237 train, 360 test. Not pruned: the first "
            "convolution (`stem`), biases and normalisations; they count in NNZ"
        ),
        pair_sets=("test",),
        fairness_set="test",
        columns=COLUMNS,
    )


def _smoke() -> TablePlan:
    family = _convnets((1.0, 0.5), (8, 16, 32), "", Schedule(start=4, steps=12, begin=2, end=8, every=2), 20)
    crossing = ((0.5, 97.5),)
    arms = [
        *_grid(family, (90, 97.5)),
        *_variants(family, (90,), (6,)),
        *_narrower(family, 0.5, crossing),
    ]
    return TablePlan(
        arms=tuple(arms),
        claims=(),
        seeds=(0,),
        data_note="a few steps on scikit-learn's digits: shows that all runs, its numbers mean nothing",
        pair_sets=("test",),
        fairness_set="test",
        columns=COLUMNS,
    )


# --- paper: MNIST, CIFAR-10, ImageNet -----------------------------------------------------------------------------------


def _lenets() -> Family:
    """LeNet-300-100 on MNIST: not the paper's, but what two cores do at full length. Six epochs, then six."""
    made = {}
    for width in (*WIDTHS, 0.1):  # 0.1: an input of 784 pixels leaves a quarter of the neurons 23 % of the weights
        hidden = scaled((300, 100), width)
        network = spec("common.backbones.lenet.LeNet300100", hidden=hidden, initialization="he_normal")
        made[width] = Width(network, lenet(hidden))
    data = spec("datasets.classification.MNIST", root=DataRoot(), batch_size=100)
    schedule = Schedule(start=3_300, steps=3_300, begin=300, end=2_300, every=100)
    # The rate was chosen among 0.02, 0.05 and 0.1 by training loss and validation error of the dense widths 1 and 0.1.
    return Family("lenet300_", "LeNet-300-100 (ours)", made, data, schedule, (), {"lr": 0.05, "weight_decay": 1e-4})


def _cifar(batch: int = 128) -> Spec:
    return spec("datasets.classification.CIFAR10", root=DataRoot(), batch_size=batch)


def _resnets() -> Family:
    """ResNet-20 of He et al. for 64,000 steps, half of them with a falling rate."""
    network = "common.backbones.cifar_resnet.CifarResNet"
    made = {width: Width(spec(network, depth=20, width=width), resnet(20, width)) for width in WIDTHS}
    schedule = Schedule(start=32_000, steps=32_000, begin=3_000, end=22_000, every=100)
    return Family("resnet20_", "ResNet-20", made, _cifar(), schedule, ("conv1",), {"lr": 0.1, "weight_decay": 1e-4})


def _cifar_mobilenets() -> Family:
    """MobileNet v1 with the strides of 32 x 32 pixels; the paper prunes 1x1 convolutions and the classifier alone."""
    made = {}
    for width in WIDTHS:
        network = spec(f"{NETWORKS}.MobileNet", width=width, classes=10, strides=MOBILENET_CIFAR_STRIDES)
        made[width] = Width(network, mobilenet(width, MOBILENET, classes=10))
    schedule = Schedule(start=32_000, steps=32_000, begin=3_000, end=22_000, every=100)
    recipe = {"lr": 0.05, "weight_decay": 5e-4}
    return Family("cifar_mobilenet_", "MobileNet, CIFAR-10", made, _cifar(), schedule, ("stem", "depthwise"), recipe)


def _imagenet_mobilenets() -> Family:
    """The paper's networks and data. RMSProp and an exponential decay are its recipe; their numbers are ours (README)."""
    made = {width: Width(spec(f"{NETWORKS}.MobileNet", width=width), mobilenet(width, MOBILENET)) for width in WIDTHS}
    data = spec("datasets.image_classes.ImageNetFolder", root=DataRoot(), batch_size=256)
    schedule = Schedule(start=250_000, steps=250_000, begin=25_000, end=175_000, every=1_000)
    recipe = {
        "optimizer": "rmsprop",
        "lr": 0.045,
        "weight_decay": 4e-5,
        "lr_decay": "exponential",
        "lr_period": 10_000,
        "lr_factor": 0.94,
    }
    title, dense = "MobileNet, ImageNet", ("stem", "depthwise")
    return Family("mobilenet_", title, made, data, schedule, dense, recipe, reported="mobilenet")


def _paper() -> TablePlan:
    lenets, resnets, small, large = _lenets(), _resnets(), _cifar_mobilenets(), _imagenet_mobilenets()
    lenet_crossing = ((0.25, 97.5), (0.1, 97.5), (0.1, 99))
    crossing = ((0.5, 97.5), (0.25, 97.5), (0.5, 99), (0.25, 99))
    intervals = (500, 1_000)
    arms = [
        *_grid(lenets, (*GRID, 99)),
        *_variants(lenets, (90, 97.5), intervals),
        *_narrower(lenets, 0.5, lenet_crossing),
        *_grid(resnets, (*GRID, 99)),
        *_variants(resnets, (90, 97.5), intervals),
        *_narrower(resnets, 0.5, crossing),
        *_grid(small),
        *_grid(large, (50, 75, 90, 95)),
    ]
    return TablePlan(
        arms=tuple(arms),
        claims=(
            *_claims("LeNet-300-100", "lenet300_", "_lenet", (0.25, 0.1), intervals, 0.3, lenet_crossing),
            *_claims("ResNet-20", "resnet20_", "_resnet", (0.5, 0.25), intervals, 0.5, crossing),
            claims.large_sparse_beats_small_dense("C1_mobilenet", "MobileNet", "mobilenet_", (0.5, 0.25)),
        ),
        seeds=(0, 1, 2),
        data_note=(
            "MNIST (ours, not the paper's), CIFAR-10 (our protocol for a small machine) and ImageNet (the paper's). Not pruned, "
            "but counted in NNZ: the stem of ResNet-20 (`conv1`), stem and depthwise convolutions of MobileNet, biases and "
            "normalisations"
        ),
        pair_sets=("test",),
        fairness_set="test",
        columns=COLUMNS,
    )
