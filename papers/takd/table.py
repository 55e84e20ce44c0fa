"""TAKD's table at every scale, and its claims, written before any result of ours existed.

make takd                          demo: scikit-learn's real digits, five plain nets, all chains, 3 seeds, minutes on 2 cores
make takd SCALE=smoke              every kind of arm for an epoch, under a minute
make takd SCALE=lab                ours: chains of face networks with embeddings, on the faces that all distillation papers share
make takd SCALE=paper DATA=/path   CIFAR-10 and CIFAR-100, the paper's networks and schedule (a GPU)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from common.distillation.setting import FAIRNESS_SET, SETS, FaceSetting, face_setting
from common.experiment.arm import Arm, Phase, TablePlan
from common.experiment.claims import Claim
from common.experiment.spec import DataRoot, Spec, WeightsOf, spec
from papers.takd import claims
from papers.takd.family import Chain

BENCHMARK = spec("papers.takd.benchmark.HopBenchmark")
TAUGHT = "top-1 error on test of the network that taught this one"
EPOCH = "lowest error on test of any epoch, which is what the paper reports; it decides nothing here"
COLUMNS = (
    (f"{claims.TEACHER}:error", "teacher's error", "%", TAUGHT),
    (f"{claims.BEST_EPOCH}:error", "best epoch's error", "%", EPOCH),
    ("parameters", "parameters", "count", "numbers that are trained"),
)
PLAIN = (2, 4, 6, 8, 10)
BETWEEN = (8, 6, 4)
HOP: dict[str, Any] = {"lam": 0.5, "temperature": 5.0}  # ours, untuned, where the authors have published nothing
CONSTANT: dict[str, Any] = {"drops": ()}  # the rate of the plain nets never falls


def plan(scale: str) -> TablePlan:
    """Arms, claims and seeds of a scale."""
    return {"smoke": _smoke, "demo": _demo, "lab": _lab, "paper": _paper}[scale]()


def _plain_arms(chain: Chain, epochs: int) -> list[Arm]:
    """Every plain net alone, every chain from 10 to 2, other teachers of 2, the heuristic, and controls."""
    return [
        *(chain.alone(size) for size in PLAIN),
        chain.alone(2, epochs=3 * epochs),
        *(chain.path(size, 2) for size in (4, 6, 8)),
        *chain.paths(10, 2, BETWEEN),
        chain.nearest(10, 2, BETWEEN),
        chain.variant("official_mean", "KL as in the official code", 10, 2, kl_reduction="official_mean"),
    ]


def _plain_claims(chain: Chain, key: str = "") -> tuple[Claim, ...]:
    at = chain.prefix
    blkd, one, full = (f"{at}path_{path}" for path in ("10_2", "10_4_2", "10_8_6_4_2"))
    return (
        claims.distillation_helps(key, blkd, f"{at}nokd_2"),
        claims.assistant_helps(key, one, blkd),
        claims.largest_teacher_is_not_best(key, blkd, [f"{at}path_{size}_2" for size in (4, 6, 8)]),
        claims.heuristic_chooses_well(key, f"{at}nearest_10_2", [f"{at}path_10_{size}_2" for size in BETWEEN]),
        claims.longer_paths_help(key, full, one, blkd),
        claims.larger_networks_are_sharper(key, [f"{at}nokd_{size}" for size in PLAIN]),
        claims.not_only_more_training(key, one, f"{at}nokd_2_long"),
        claims.gap_does_not_widen(key, one, blkd),
    )


# --- demo and smoke: real digits that come with scikit-learn ------------------------------------------------------------


def _digits(width: float, epochs: int, lr: float) -> Chain:
    """The CIFAR-10 nets, narrower, on digits of 28 x 28 (four poolings need as many pixels); 600 of 1,797 are test images."""
    data = spec(
        "datasets.classification.Digits",
        size=28,
        batch_size=50,
        test=600,
        validation=200,
        mean=(0.5,),
        std=(0.5,),
    )
    networks = {
        size: spec("papers.takd.networks.Plane", depth=size, in_channels=1, input_size=28, width=width)
        for size in PLAIN
    }
    recipe = {**CONSTANT, "lr": lr}
    return Chain("", "plain {}", networks, data, BENCHMARK, epochs, recipe, HOP, watched=(2,))


def _demo() -> TablePlan:
    epochs = 12
    chain = _digits(width=0.125, epochs=epochs, lr=0.01)
    return TablePlan(
        arms=tuple(_plain_arms(chain, epochs)),
        claims=_plain_claims(chain),
        seeds=(0, 1, 2),
        data_note="the 1,797 real handwritten digits of scikit-learn, enlarged to 28 x 28 pixels; 997 train, 200 validate, 600 "
        "test; the paper's plain nets with an eighth of their widths",
        pair_sets=(claims.TEST, claims.TEACHER, claims.BEST_EPOCH),
        fairness_set=claims.TEST,
        columns=COLUMNS,
    )


def _smoke() -> TablePlan:
    chain = _digits(width=0.0625, epochs=1, lr=0.01)
    arms = [
        *(chain.alone(size) for size in (2, 4, 10)),
        chain.path(10, 4),
        chain.path(10, 2),
        chain.path(10, 4, 2),
        chain.nearest(10, 2, (4,)),
        chain.variant("official_mean", "KL as in the official code", 10, 2, kl_reduction="official_mean"),
        chain.variant("official_bug", "rates as in the official code", 10, 2, schedule="official_bug"),
        chain.variant("cosine", "cosine", 10, 2, schedule="cosine"),
    ]
    return TablePlan(
        arms=tuple(arms),
        claims=(),
        seeds=(0,),
        data_note="one epoch on scikit-learn's digits: shows that all runs, its numbers mean nothing",
        pair_sets=(claims.TEST, claims.TEACHER, claims.BEST_EPOCH),
        fairness_set=claims.TEST,
        columns=COLUMNS,
    )


# --- lab: chains of face networks (ours) --------------------------------------------------------------------------------

FACES = "demo"  # size of the shared face setting; "lab" has 112 pixels and asks for a GPU
FACE_HOP: dict[str, Any] = {"lam": 0.5, "feature_weight": 20.0}


def _face_hop(setting: FaceSetting, name: str, title: str, network: Spec, teacher: Spec, taught_by: str) -> Arm:
    return Arm(
        name=name,
        title=title,
        method=spec(
            "papers.takd.faces.FaceHop",
            backbone=network,
            teacher=teacher,
            embedding_size=setting.embedding_size,
            **setting.student_recipe,
            **FACE_HOP,
        ),
        data=setting.data,
        benchmark=setting.benchmark,
        phases=(Phase("train", epochs=setting.epochs),),
        series="chains (ours)",
        baseline="student",
        teacher=taught_by,
    )


def face_arms(setting: FaceSetting) -> list[Arm]:
    """Teacher -> student straight, and over an assistant whose width is the geometric mean of theirs."""
    teacher, small = setting.teacher(), setting.student_network
    widths = [float(dict(network.options)["width"]) for network in (setting.teacher_network, small)]
    middle = setting.teacher_network.replace(width=(widths[0] * widths[1]) ** 0.5)
    direct = _face_hop(setting, "direct", "direct distillation", small, setting.teacher_for(teacher), "teacher")
    assistant = _face_hop(
        setting, "assistant", "assistant, from the teacher", middle, setting.teacher_for(teacher), "teacher"
    )
    through = spec("common.distillation.teacher.Teacher", network=middle, weights=WeightsOf(assistant))
    chain = _face_hop(setting, "takd", "TAKD, over the assistant", small, through, "assistant")
    return [
        teacher,
        setting.student(),
        setting.student(middle, "assistant_alone", "assistant, no KD"),
        direct,
        assistant,
        chain,
    ]


def _lab() -> TablePlan:
    return TablePlan(
        arms=tuple(face_arms(face_setting(FACES))),
        claims=(
            *(claims.transfers_to_faces(f"_{name}", "takd", "direct", "student", name) for name in SETS),
            claims.gap_does_not_widen("_faces", "takd", "direct", FAIRNESS_SET, "group"),
        ),
        seeds=(0, 1, 2),
        data_note="generated faces of the setting that all distillation papers share; the paper has no such experiment",
        pair_sets=SETS,
        fairness_set=FAIRNESS_SET,
    )


# --- paper: the paper's data, networks and schedule ---------------------------------------------------------------------

EPOCHS, SHORT = 150, 80
# Without augmentation; images with zero mean and a standard deviation of 0.5, which we read as (x - 0.5) / 0.5.
PLAIN_IMAGES: dict[str, Any] = {"crop": 0, "flip": False, "mean": (0.5,), "std": (0.5,), "batch_size": 128}
OFFICIAL_IMAGES: dict[str, Any] = {
    **PLAIN_IMAGES,
    "mean": (0.507, 0.487, 0.441),
    "std": (0.267, 0.256, 0.276),
}
# Published by the author for CIFAR-100; they belong to the official code's mean over all entries.
TUNED: Mapping[tuple[int, int], Mapping[str, Any]] = {
    (110, 20): {"lam": 0.5, "temperature": 5.0, "kl_reduction": "official_mean"},
    (110, 8): {"lam": 0.2, "temperature": 2.0, "kl_reduction": "official_mean"},
    (20, 8): {"lam": 0.15, "temperature": 5.0, "kl_reduction": "official_mean"},
}
RESNETS = (8, 14, 20, 32, 56, 110)


def _cifar(classes: int, resnet: bool, **changes: Any) -> Chain:
    variant = f"cifar{classes}"
    kind = "resnet" if resnet else "plain"
    network = "papers.takd.networks." + ("ResNet" if resnet else "Plane")
    options: dict[str, Any] = {"classes": classes, **({} if resnet else {"variant": variant})}
    sizes = (*RESNETS, 26) if resnet else PLAIN
    chain = Chain(
        prefix=f"{kind}_c{classes}_",
        title=f"CIFAR-{classes}, {'ResNet' if resnet else 'plain'} {{}}",
        networks={size: spec(network, depth=size, **options) for size in sizes},
        data=spec(f"datasets.classification.CIFAR{classes}", root=DataRoot(), **PLAIN_IMAGES),
        benchmark=BENCHMARK,
        epochs=EPOCHS,
        recipe={"lr": 0.1, **({} if resnet else CONSTANT)},
        hop=HOP,
        overrides=TUNED if resnet and classes == 100 else {},
        watched=sizes,
    )
    return replace(chain, **changes)


def _resnet_arms(chain: Chain) -> list[Arm]:
    between = (56, 32, 20, 14)
    return [
        *(chain.alone(size) for size in RESNETS),
        *(chain.path(110, size) for size in between),
        chain.path(110, 8),
        *(chain.path(110, size, 8) for size in between),
        chain.nearest(110, 8, between),
    ]


def _resnet_claims(chain: Chain, key: str) -> tuple[Claim, ...]:
    at = chain.prefix
    singles = [f"{at}path_110_{size}_8" for size in (56, 32, 20, 14)]
    return (
        claims.distillation_helps(key, f"{at}path_110_8", f"{at}nokd_8"),
        claims.assistant_helps(key, f"{at}path_110_20_8", f"{at}path_110_8"),
        claims.heuristic_chooses_well(key, f"{at}nearest_110_8", singles),
        claims.gap_does_not_widen(key, f"{at}path_110_20_8", f"{at}path_110_8"),
    )


def _others(chain: Chain) -> list[Arm]:
    """The comparison with other methods of distillation: 80 epochs, teacher ResNet-26, the assistant is our choice."""
    short = replace(chain, prefix="short_c10_", title="CIFAR-10, 80 epochs, ResNet {}", epochs=SHORT)
    return [
        *(short.alone(size) for size in (8, 14, 20, 26)),
        *(short.path(26, size) for size in (20, 14, 8)),
        short.path(26, 20, 14),
        short.path(26, 20, 8),
    ]


def _official(chain: Chain) -> list[Arm]:
    """What the official code does when it is run as it is: its rates, its mean, no Nesterov momentum, 160 epochs."""
    official = replace(
        chain,
        prefix="official_c10_",
        title="CIFAR-10, official code's defaults, ResNet {}",
        data=chain.data.replace(**OFFICIAL_IMAGES),
        epochs=160,
        recipe={"schedule": "official_bug", "nesterov": False, "kl_reduction": "official_mean"},
    )
    return [*(official.alone(size) for size in (8, 20, 110)), official.path(110, 20), official.path(110, 8)]


def _paper() -> TablePlan:
    plain = [_cifar(classes, resnet=False) for classes in (10, 100)]
    resnets = [_cifar(classes, resnet=True) for classes in (10, 100)]
    arms = [
        *(arm for chain in plain for arm in _plain_arms(chain, EPOCHS)),
        *(arm for chain in resnets for arm in _resnet_arms(chain)),
        *_others(resnets[0]),
        *_official(resnets[0]),
    ]
    judged = [
        *(claim for chain, key in zip(plain, ("_c10", "_c100"), strict=True) for claim in _plain_claims(chain, key)),
        *(claim for chain, key in zip(resnets, ("_r10", "_r100"), strict=True) for claim in _resnet_claims(chain, key)),
    ]
    return TablePlan(
        arms=tuple(arms),
        claims=tuple(judged),
        seeds=(0, 1, 2),
        data_note="CIFAR-10 and CIFAR-100, 45,000 train, 5,000 validate, 10,000 test, no augmentation; 150 epochs a hop",
        pair_sets=(claims.TEST, claims.TEACHER, claims.BEST_EPOCH),
        fairness_set=claims.TEST,
        columns=COLUMNS,
    )
