"""The lottery ticket's table at every scale, and its claims, written before any result of ours existed.

make lottery_ticket                          demo: scikit-learn's real digits, 3 seeds, minutes on 2 cores
make lottery_ticket SCALE=smoke              every kind of arm for a few steps, under a minute
make lottery_ticket SCALE=paper DATA=/path   MNIST (2 cores, hours; ARMS='lenet_*') and CIFAR-10 (a GPU), the paper's schedules
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from common.experiment.arm import Arm, TablePlan
from common.experiment.claims import Claim
from common.experiment.spec import DataRoot, Spec, spec
from papers.lottery_ticket import claims
from papers.lottery_ticket.family import Family, pruned_otherwise, search

LENET = spec("common.backbones.lenet.LeNet300100")
LENET_SIZES = ((265_200, 0.2), (1_000, 0.1))
HALF = {"rates": {"output": 0.1}}  # the output layer is pruned at half the rate
BENCHMARK = spec("papers.lottery_ticket.benchmark.TicketBenchmark", parts=("test", "train"))
CONTROLLED = (7, 12, 16)  # 21.1, 7.0 and 2.9 %
COLUMNS = (
    ("early stop:step", "stops at", "count", "step of the smallest validation loss"),
    ("early stop:validation_loss", "validation loss", "loss", "smallest mean cross-entropy on the validation part"),
)


def plan(scale: str) -> TablePlan:
    """Arms, claims and seeds of a scale."""
    return {"smoke": _smoke, "demo": _demo, "paper": _paper}[scale]()


def _table(arms: list[Arm], judged: tuple[Claim, ...], seeds: tuple[int, ...], data_note: str) -> TablePlan:
    return TablePlan(
        arms=tuple(arms),
        claims=judged,
        seeds=seeds,
        data_note=data_note,
        pair_sets=("early stop", "test", "train"),
        fairness_set="test",
        columns=COLUMNS,
    )


def _lenet(
    family: Family,
    levels: tuple[int, ...],
    controls: tuple[int, ...],
    draws: tuple[int, ...],
    continued: tuple[int, ...] = CONTROLLED,
) -> list[Arm]:
    """Tickets at every level that is shown; at some of them the controls, and three redraws where C1 is judged."""
    arms = search(family, levels)
    for level in controls:
        arms += [family.reinitialised(level, draw) for draw in (draws if level in CONTROLLED else draws[:1])]
    arms += [family.one_shot(level) for level in controls]
    arms += [family.finetuned(level) for level in controls]
    arms += [family.random_mask(level) for level in CONTROLLED]
    arms += [family.continued(level) for level in continued]
    return arms


def _lenet_claims(prefix: str, matching: tuple[int, ...], draws: tuple[int, ...]) -> tuple[Claim, ...]:
    return (
        *claims.initialisation_matters(prefix, CONTROLLED, draws),
        *claims.tickets_match_the_dense_network(prefix, matching, 9),
        claims.tickets_learn_faster(prefix, 7),
        claims.iterative_beats_one_shot(prefix, (14, 16)),
        claims.resetting_costs_nothing(prefix, (2, 4, 7)),
        claims.gap_widens(prefix, 16, "2.9"),
    )


# --- demo and smoke: real digits that come with scikit-learn ------------------------------------------------------------


def _digits(batch: int) -> Spec:
    return spec("datasets.classification.Digits", size=28, batch_size=batch, mean=(0.1558,), std=(0.2775,))


def _lenet5(steps: int, every: int, batch: int = 60) -> tuple[Family, Family]:
    """LeNet-5, whose first convolution has 150 weights and whose first linear layer 48,000: ranked by layer, and together.

    A level removes 36 % of the remaining weights here, as much as two of the paper's.
    """
    sizes = ((150 + 2_400 + 48_000 + 10_080 + 840, 0.36),)
    family = Family(
        "lenet5_",
        "LeNet-5",
        spec("common.backbones.lenet.LeNet5"),
        _digits(batch),
        BENCHMARK,
        steps,
        sizes,
        {"rate": 0.36, "validate_every": every},
    )
    return family, pruned_otherwise(family, "global_", "all layers together", scope="global")


def _demo() -> TablePlan:
    family = Family(
        "", "LeNet-300-100", LENET, _digits(60), BENCHMARK, 500, LENET_SIZES, {**HALF, "validate_every": 10}
    )
    layerwise, together = _lenet5(300, 10)
    arms = [
        *_lenet(family, (2, 4, 7, 9, 12, 14, 15, 16, 18), (2, 4, 7, 12, 14, 16), (1, 2, 3), (7, 12)),
        *search(layerwise, (7, 9)),
        *search(together, (7, 9))[1:],
    ]
    pairs = [(f"lenet5_global_ticket_{level:02d}", f"lenet5_ticket_{level:02d}") for level in (7, 9)]
    return _table(
        arms,
        (
            *_lenet_claims("", (2, 4, 7, 9, 12, 14, 15), (1, 2, 3)),
            claims.global_beats_layerwise("C5", pairs, "LeNet-5"),
        ),
        (0, 1, 2),
        "the 1,797 real handwritten digits of scikit-learn, enlarged to 28 x 28 pixels; 1,237 train, 360 test, 200 validation",
    )


def _smoke() -> TablePlan:
    family = Family("", "LeNet-300-100", LENET, _digits(20), BENCHMARK, 4, LENET_SIZES, {**HALF, "validate_every": 2})
    layerwise, together = _lenet5(2, 2, 20)
    arms = [
        *search(family, (1, 2)),
        family.reinitialised(2),
        family.one_shot(2),
        family.finetuned(2),
        family.random_mask(2),
        family.continued(2),
        *search(layerwise, (1,)),
        together.ticket(1),
    ]
    note = "a few steps on scikit-learn's digits: shows that all runs, its numbers mean nothing"
    return _table(arms, (), (0,), note)


# --- paper: the paper's data, networks and schedules --------------------------------------------------------------------

LEVELS = tuple(range(1, 23))  # LeNet-300-100: 80.0, 64.1, ... 0.8 %
CONTROLS = (2, 4, 7, 9, 12, 14, 16, 18, 20)
CONVS = (  # layers, title, (weights of convolutions, rate), (weights of fc1 and fc2, rate), steps, lr, and both with dropout
    (2, "Conv-2", (38_592, 0.10), 4_259_840, 20_000, 2e-4, 60_000, 3e-4),
    (4, "Conv-4", (259_776, 0.10), 2_162_688, 25_000, 3e-4, 75_000, 2e-4),
    (6, "Conv-6", (1_144_512, 0.15), 1_114_112, 30_000, 3e-4, 90_000, 2e-4),
)


def _mnist() -> list[Arm]:
    data = spec("datasets.classification.MNIST", root=DataRoot(), batch_size=60, validation=5000)
    family = Family("lenet_", "LeNet-300-100", LENET, data, BENCHMARK, 50_000, LENET_SIZES, dict(HALF))
    return _lenet(family, LEVELS, CONTROLS, (1, 2, 3))


def _convolutions() -> list[Arm]:
    data = spec("datasets.classification.CIFAR10", root=DataRoot(), batch_size=60, crop=0, flip=False)
    arms: list[Arm] = []
    for layers, title, (weights, rate), linear, steps, lr, dropout_steps, dropout_lr in CONVS:
        rates: dict[str, float] = {f"feature.{at}": rate for at in _convolution_places(layers)} | {"fc3": 0.1}
        sizes = ((weights, rate), (linear, 0.2), (2_560, 0.1))
        network = spec("common.backbones.cifar_plain.Conv", layers=layers)
        prefix = f"conv{layers}_"
        family = Family(prefix, title, network, data, BENCHMARK, steps, sizes, {"rates": rates, "lr": lr})
        arms += search(family, (4, 8, 12, 16, 20))
        for level in (8, 12, 16):
            arms += [family.reinitialised(level), family.one_shot(level), family.finetuned(level)]
        dropout = replace(
            family,
            prefix=f"{prefix}dropout_",
            title=f"{title}, dropout",
            network=network.replace(dropout=0.5),
            steps=dropout_steps,
            options={**family.options, "lr": dropout_lr},
        )
        arms += search(dropout, (8, 12, 16))
    return arms


def _convolution_places(layers: int) -> list[int]:
    """Positions of the convolutions in `Conv.feature`: pairs of convolution and ReLU, then pooling."""
    return [5 * (n // 2) + 2 * (n % 2) for n in range(layers)]


def _deep() -> list[Arm]:
    """ResNet-18 (of He et al. for CIFAR: 20 layers) and VGG-19, one ranking over all convolutions, three learning rates each."""
    arms: list[Arm] = []
    shared: dict[str, Any] = {"rate": 0.2, "scope": "global", "optimizer": "sgd", "weight_decay": 1e-4}
    for prefix, title, network, dense, weights, batch, steps, milestones, warm in (
        ("resnet18_", "ResNet-18", spec("common.backbones.cifar_resnet.CifarResNet", depth=20, shortcut="projection"),
         ("linear", "layer2.0.shortcut", "layer3.0.shortcut"), 267_696, 128, 30_000, (20_000, 25_000), (0.03, 20_000)),
        ("vgg19_", "VGG-19", spec("common.backbones.cifar_plain.VGG19"), ("classifier",), 20_018_880, 64,
         112_480, (56_240, 84_360), (0.1, 10_000)),
    ):  # fmt: skip
        data = spec("datasets.classification.CIFAR10", root=DataRoot(), batch_size=batch)
        for key, lr, warmup in (("high_", 0.1, 0), ("low_", 0.01, 0), ("warmup_", *warm)):
            rate = f"rate {lr:g}" + f", warm-up {warmup:,}" * bool(warmup)
            options = {**shared, "lr": lr, "warmup": warmup, "milestones": milestones, "dense": dense}
            family = Family(
                prefix + key, f"{title}, {rate}", network, data, BENCHMARK, steps, ((weights, 0.2),), options
            )
            arms += search(family, (4, 6, 8, 12, 16))
            arms += [family.reinitialised(level) for level in (8, 12, 16)]
            if key == "warmup_":
                layerwise = pruned_otherwise(family, "layerwise_", "layer by layer", scope="layer")
                arms += [layerwise.ticket(level) for level in (14, 16)]
                arms += [family.ticket(14)]
    return arms


def _paper() -> TablePlan:
    pairs = [(f"vgg19_warmup_ticket_{n}", f"vgg19_warmup_layerwise_ticket_{n}") for n in (14, 16)]
    return _table(
        [*_mnist(), *_convolutions(), *_deep()],
        (
            *_lenet_claims("lenet_", tuple(range(1, 16)), (1, 2, 3)),
            claims.global_beats_layerwise("C5", pairs, "VGG-19"),
        ),
        (0, 1, 2, 3, 4),
        "MNIST (55,000 / 5,000 / 10,000 images) and CIFAR-10 (45,000 / 5,000 / 10,000); the paper's schedules, 5 seeds",
    )
