"""NISP's table at every scale, and its claims, written before any result of ours existed.

make nisp                          demo: scikit-learn's real digits, enlarged to 28 x 28, 3 seeds, minutes on 2 cores
make nisp SCALE=smoke              every kind of arm for a few epochs, under a minute
make nisp SCALE=real DATA=/path    published ResNet-20 and ResNet-56, CIFAR-10's whole test set, nothing trained
make nisp SCALE=paper DATA=/path   LeNet-5-Caffe on MNIST (2 cores, hours); Cifar-net and ResNets on CIFAR-10 (a GPU)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.experiment.arm import Arm, TablePlan
from common.experiment.claims import Claim
from common.experiment.spec import DataFile, DataRoot, spec
from papers.nisp import claims
from papers.nisp.family import Family

BENCHMARK = spec("papers.nisp.benchmark.PruningBenchmark")
SETS = (claims.TEST, claims.AFTER_PRUNING)
# The normalisation that the published ResNets were trained with (ImageNet's).
PUBLISHED: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def plan(scale: str) -> TablePlan:
    """Arms, claims and seeds of a scale."""
    return {"smoke": _smoke, "demo": _demo, "real": _real, "paper": _paper}[scale]()


def _grid(family: Family, variants: dict[str, Sequence[float]]) -> list[Arm]:
    """The dense network and each variant at its ratios."""
    return [family.dense(), *(family.pruned(name, ratio) for name, ratios in variants.items() for ratio in ratios)]


def _claims_of_a_net(key: str, family: Family, ratios: Sequence[float]) -> tuple[Claim, ...]:
    """C1 to C5 for one fine-tuned network; `key`: what distinguishes them from those of another network."""
    at, title = family.prefix, family.title
    return (
        claims.ahead_after_pruning(f"C1{key}", title, f"{at}nisp_50", f"{at}magnitude_50", f"{at}random_50"),
        claims.ahead_after_fine_tuning(f"C2{key}", title, f"{at}nisp_50", f"{at}magnitude_50", f"{at}scratch_50"),
        claims.recovers_sooner(f"C3{key}", title, f"{at}nisp_50", f"{at}magnitude_50"),
        claims.ranking_helps(f"C4{key}", title, f"{at}nisp_50", f"{at}nisp_no_frl_50"),
        claims.falls_with_the_ratio(f"C5{key}", title, [f"{at}nisp_{100 * ratio:g}" for ratio in ratios]),
        claims.half_is_nearly_free(f"C5{key}h", title, f"{at}nisp_50", f"{at}dense"),
    )


# --- demo and smoke: real digits that come with scikit-learn ------------------------------------------------------------

ENLARGED = spec("datasets.classification.Digits", size=28, batch_size=60)
DIGITS = spec("datasets.classification.Digits", size=8, batch_size=60)
RESNET8 = spec(
    "papers.nisp.networks.OnGreyImages",
    network=spec("common.backbones.cifar_resnet.CifarResNet", depth=8, shortcut="projection"),
)
DEMO_RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)


def _demo() -> TablePlan:
    lenet = _demo_lenet(epochs=15, tuned=10)
    resnet = _demo_resnet(epochs=10, tuned=6)
    arms = [
        *_grid(
            lenet,
            {
                "nisp": DEMO_RATIOS,
                "magnitude": DEMO_RATIOS,
                "random": DEMO_RATIOS,
                "nisp_no_frl": DEMO_RATIOS,
                "scratch": (0.5, 0.7, 0.9),
                "nisp_iterative": (0.5, 0.7, 0.9),
                "nisp_no_zero": (0.5,),
            },
        ),
        lenet.longer(),
        lenet.scratch_long(0.5),
        *_grid(resnet, {name: (0.3, 0.5) for name in ("nisp", "nisp_bn_gamma", "magnitude", "random")}),
    ]
    return TablePlan(
        arms=tuple(arms),
        claims=(
            *_claims_of_a_net("", lenet, DEMO_RATIOS),
            claims.rounds_help("C6", [(f"nisp_iterative_{p}", f"nisp_{p}") for p in (50, 70, 90)]),
            claims.ranking_helps(
                "G1", "LeNet-5, right after pruning", "nisp_50", "nisp_no_frl_50", claims.AFTER_PRUNING, "suite"
            ),
            claims.norms_matter("G2", resnet.title, "resnet8_nisp_bn_gamma_50", "resnet8_nisp_50"),
            claims.gap_widens("F1", "NISP at 90 %, fine-tuned,", "dense", "nisp_90"),
        ),
        seeds=(0, 1, 2),
        data_note="the 1,797 real handwritten digits of scikit-learn, enlarged to 28 x 28 for LeNet-5; 1,237 train, 360 test",
        pair_sets=SETS,
        fairness_set=claims.TEST,
    )


# The rates of the dense networks were chosen by their training loss and validation error; fine-tuning has a tenth of them, as
# at paper scale.
def _demo_lenet(epochs: int, tuned: int) -> Family:
    network = spec("common.backbones.lenet.LeNet5")
    return Family("", "LeNet-5", network, ENLARGED, BENCHMARK, epochs, tuned, {"lr": 3e-3}, {"lr": 3e-4})


def _demo_resnet(epochs: int, tuned: int) -> Family:
    return Family("resnet8_", "ResNet-8", RESNET8, DIGITS, BENCHMARK, epochs, tuned, {"lr": 0.01}, {"lr": 1e-3})


def _smoke() -> TablePlan:
    lenet, resnet = _demo_lenet(epochs=1, tuned=3), _demo_resnet(epochs=1, tuned=1)
    kinds = ("nisp", "nisp_no_frl", "magnitude", "random", "scratch", "nisp_iterative")
    arms = [
        *_grid(lenet, {kind: (0.5,) for kind in kinds}),
        lenet.longer(),
        *_grid(resnet, {"nisp": (0.5,), "nisp_bn_gamma": (0.5,)}),
    ]
    return TablePlan(
        arms=tuple(arms),
        claims=(),
        seeds=(0,),
        data_note="a few epochs on scikit-learn's digits: shows that all runs, its numbers mean nothing",
        pair_sets=SETS,
        fairness_set=claims.TEST,
    )


# --- real: published networks, nothing trained --------------------------------------------------------------------------

REAL_RATIOS = (0.1, 0.2, 0.3, 0.5, 0.7)


def _published(depth: int, file: str) -> Family:
    """Shortcuts without parameters: only the first convolutions of the blocks can lose channels."""
    return Family(
        prefix=f"resnet{depth}_",
        title=f"ResNet-{depth}",
        network=spec("common.backbones.cifar_resnet.CifarResNet", depth=depth),
        data=spec("datasets.classification.CIFAR10", root=DataRoot(), **PUBLISHED),
        benchmark=BENCHMARK,
        epochs=0,
        tuned=0,
        weights=DataFile(f"weights/{file}"),
    )


def _real() -> TablePlan:
    small, large = _published(20, "resnet20-12fca82f.th"), _published(56, "resnet56-4bfd9763.th")
    arms, judged = [], []
    for family, ratios, kinds in (
        (small, REAL_RATIOS, ("nisp", "nisp_no_frl", "nisp_bn_gamma", "magnitude", "random")),
        (large, (0.1, 0.3, 0.5), ("nisp", "nisp_no_frl", "nisp_bn_gamma", "magnitude", "random")),
    ):
        at, title = family.prefix, f"{family.title} at 30 %"
        arms += _grid(family, {kind: ratios for kind in kinds})
        key = title.split()[0].removeprefix("ResNet")
        judged += [
            claims.ahead_after_pruning(
                f"C1{key}", title, f"{at}nisp_30", f"{at}magnitude_30", f"{at}random_30", claims.TEST, "suite"
            ),
            claims.ranking_helps(
                f"C4{key}", f"{title}, not retrained", f"{at}nisp_30", f"{at}nisp_no_frl_30", source="suite"
            ),
            claims.norms_matter(f"G2{key}", title, f"{at}nisp_bn_gamma_30", f"{at}nisp_30", claims.TEST),
            claims.gap_widens(
                f"F1{key}", f"{family.title}: NISP at 30 %, not retrained,", f"{at}dense", f"{at}nisp_30"
            ),
        ]
    return TablePlan(
        arms=tuple(arms),
        claims=tuple(judged),
        seeds=(0, 1, 2),
        data_note="published CIFAR-10 networks, pruned and not retrained; 10,000 test images, 2,000 training images for Inf-FS",
        pair_sets=(claims.TEST,),
        fairness_set=claims.TEST,
    )


# --- paper: the paper's data and networks -------------------------------------------------------------------------------

GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
RESNET_RATIO = (
    0.4375  # ours: 7 of 16 channels between the convolutions of a block give the reported savings within 1 point
)


def _mnist() -> tuple[list[Arm], tuple[Claim, ...]]:
    family = Family(
        prefix="lenet_",
        title="LeNet",
        network=spec("common.backbones.lenet.LeNet5Caffe"),
        data=spec("datasets.classification.MNIST", root=DataRoot(), batch_size=100, validation=0),
        benchmark=BENCHMARK,
        epochs=20,
        tuned=10,
        dense_recipe={"lr": 1e-3},
        tuning_recipe={"lr": 1e-4},
    )
    sparse = (0.1, 0.3, 0.5, 0.7, 0.9)
    arms = [
        *_grid(
            family,
            {
                "nisp": GRID,
                "magnitude": GRID,
                "random": GRID,
                "nisp_no_frl": sparse,
                "scratch": sparse,
                "nisp_iterative": (0.5, 0.7, 0.9),
                "nisp_no_zero": (0.5,),
            },
        ),
        family.longer(),
        family.scratch_long(0.5),
    ]
    judged = (
        *_claims_of_a_net("", family, GRID),
        claims.rounds_help("C6", [(f"lenet_nisp_iterative_{p}", f"lenet_nisp_{p}") for p in (50, 70, 90)]),
        claims.ranking_helps(
            "G1", "LeNet, right after pruning", "lenet_nisp_50", "lenet_nisp_no_frl_50", claims.AFTER_PRUNING, "suite"
        ),
        claims.gap_widens("F1", "NISP at 90 %, fine-tuned,", "lenet_dense", "lenet_nisp_90"),
    )
    return arms, judged


def _cifar() -> tuple[list[Arm], tuple[Claim, ...]]:
    """Recipes are ours: the paper's are not known."""
    small = spec("datasets.classification.CIFAR10", root=DataRoot(), batch_size=100, validation=0)
    large = spec("datasets.classification.CIFAR10", root=DataRoot(), batch_size=128, validation=0)
    net = Family(
        prefix="cifarnet_",
        title="Cifar-net",
        network=spec("common.backbones.cifar_plain.CifarNet"),
        data=small,
        benchmark=BENCHMARK,
        epochs=60,
        tuned=20,
        dense_recipe={"lr": 1e-3, "lr_drops": (0.75,)},
        tuning_recipe={"lr": 1e-4, "lr_drops": ()},
    )
    sparse = (0.1, 0.3, 0.5, 0.7, 0.9)
    kinds = ("nisp", "magnitude", "random", "nisp_no_frl", "scratch")
    arms = [*_grid(net, {kind: sparse for kind in kinds}), net.pruned("nisp_iterative", 0.5), net.longer()]
    trained: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 1e-4, "lr_drops": (0.5, 0.75)}
    for depth in (20, 56, 110):
        shortcut = "projection" if depth == 20 else "pad"  # with projections the channels of whole stages can go
        resnet = Family(
            prefix=f"resnet{depth}_",
            title=f"ResNet-{depth}",
            network=spec("common.backbones.cifar_resnet.CifarResNet", depth=depth, shortcut=shortcut),
            data=large,
            benchmark=BENCHMARK,
            epochs=182,
            tuned=40,
            dense_recipe=trained,
            tuning_recipe={**trained, "lr": 0.01},
            reported="" if depth == 20 else f"resnet{depth}",
        )
        ratios = (0.3, 0.5) if depth == 20 else (RESNET_RATIO,)
        variants = ("nisp", "nisp_no_frl", "nisp_bn_gamma", "magnitude", "random", "scratch")
        arms += _grid(resnet, {kind: ratios for kind in variants})
    return arms, _claims_of_a_net("-cifar", net, sparse)


def _paper() -> TablePlan:
    (mnist, of_mnist), (cifar, of_cifar) = _mnist(), _cifar()
    return TablePlan(
        arms=(*mnist, *cifar),
        claims=(*of_mnist, *of_cifar),
        seeds=(0, 1, 2),
        data_note="MNIST (60,000 / 10,000 images) and CIFAR-10 (50,000 / 10,000); the schedules are ours",
        pair_sets=SETS,
        fairness_set=claims.TEST,
    )
