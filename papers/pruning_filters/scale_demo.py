"""Smoke and demo: a narrow VGG and a small residual network on scikit-learn's real digits."""

from __future__ import annotations

from typing import Any

from common.experiment.arm import Arm, Phase, TablePlan
from common.experiment.claims import Claim
from common.experiment.spec import Spec, spec
from papers.pruning_filters import claims
from papers.pruning_filters.configurations import convolutions, of_depth, percents, uniform
from papers.pruning_filters.family import TEST, WORSE_STATISTICS, Family, class_subset

GREY = "papers.pruning_filters.networks.for_grey_images"
DEMO_PLAN: tuple[int | str, ...] = (16, 16, "pool", 32, 32, "pool", 64, 64, 64)
DEMO_LAYERS = convolutions(DEMO_PLAN)
DEMO_A = uniform([DEMO_LAYERS[0], *DEMO_LAYERS[4:]], 50)  # as VGG-16-pruned-A: the first layer and the last ones
RESIDUAL_FIRST = of_depth(14, (0.5, 0.5, 0.5))
# The stem ranks the stream of stage 1, the projections those of stages 2 and 3: as many multiply-accumulates as RESIDUAL_FIRST.
RESIDUAL_SECOND = {"conv1": 0.5, "layer2.0.shortcut.0": 0.5, "layer3.0.shortcut.0": 0.5}


def _digits(batch: int) -> Spec:
    return spec("datasets.classification.Digits", size=8, batch_size=batch)


def _families(
    training: Phase, retraining: Phase, recipe: dict[str, Any], retrain: dict[str, Any]
) -> tuple[Family, Family]:
    """The narrow VGG and a residual network with projections, on digits of 8 x 8."""
    vgg = spec(
        "common.backbones.cifar_plain.VGG", plan=DEMO_PLAN, hidden=(64,), bias=False, last_pool="average", input_size=8
    )
    resnet = spec("common.backbones.cifar_resnet.CifarResNet", depth=14, shortcut="projection")
    shared: dict[str, Any] = {
        "data": _digits(50),
        "benchmark": TEST,
        "training": training,
        "retraining": retraining,
        "recipe": recipe,
        "retrain_recipe": retrain,
    }
    return (
        Family("", "VGG-7", spec(GREY, network=vgg), **shared),
        Family("resnet_", "ResNet-14", spec(GREY, network=resnet), **shared),
    )


def demo() -> TablePlan:
    # The rate was chosen by training loss and validation error of the dense networks; retraining at a tenth of it, constant (the
    # paper: a hundredth, for 14,000 steps).
    recipe: dict[str, Any] = {"lr": 0.03, "lr_drops": (0.5, 0.75), "validate_every": 25}
    retrain: dict[str, Any] = {"lr": 0.003, "validate_every": 25}
    vgg, resnet = _families(Phase("train", steps=400), Phase("retrain", steps=100), recipe, retrain)
    layers, arms = DEMO_LAYERS, [vgg.dense()]
    for percent in (30, 50, 70, 80, 90):
        arms += [vgg.uniform(percent, layers), vgg.uniform(percent, layers, how="raw")]
    for percent in (70, 90):
        arms += [vgg.uniform(percent, layers, greedy=True), vgg.uniform(percent, layers, greedy=True, how="raw")]
    for percent in (50, 90):
        for criterion in ("random", "l1_largest", "l2"):
            arms += [vgg.uniform(percent, layers, criterion), vgg.uniform(percent, layers, criterion, how="raw")]
        arms.append(vgg.uniform(percent, layers, how="scratch"))
    arms += [vgg.uniform(50, layers, criterion, how="raw") for criterion in ("mean_std", *WORSE_STATISTICS)]
    arms += [
        vgg.pruned("A", "A: first and last layers 50 %", DEMO_A, how=how) for how in ("retrained", "raw", "scratch")
    ]
    arms.append(
        vgg.sensitivity(
            {"l1_smallest": percents(10, 90, 10), "random": (50, 70, 90), "l1_largest": (50, 70, 90)},
            retrained=(50, 90),
            retrain_steps=25,
            parts_of_network={claims.EARLY: layers[1:4], claims.LATE: layers[4:]},
        )
    )
    arms += _residual(resnet)
    arms += class_subset(vgg, (0, 1, 2, 3, 4), layers, (50, 70, 90))
    return TablePlan(
        arms=tuple(arms),
        claims=_demo_claims(),
        seeds=(0, 1, 2),
        data_note="the 1,797 real handwritten digits of scikit-learn, 8 x 8 pixels; 1,237 train, 200 validation, 360 test",
        pair_sets=("test",),
        fairness_set="test",
    )


def _residual(family: Family) -> list[Arm]:
    arms = [family.dense()]
    for how in ("retrained", "raw"):
        arms.append(family.pruned("first", "first convolutions 50 %", RESIDUAL_FIRST, how=how))
        arms.append(family.pruned("second", "second convolutions and shortcuts", RESIDUAL_SECOND, how=how))
    return arms


def _demo_claims() -> tuple[Claim, ...]:
    l1 = "l1_smallest"
    return (
        claims.smallest_filters_matter_least("C1", "sensitivity"),
        claims.order_of_criteria("C1b", f"{l1}_50_raw", "random_50_raw", "l1_largest_50_raw", "50 %"),
        claims.pruning_is_nearly_free("C2", "dense", "A", "VGG-7-A"),
        *claims.retraining_beats_scratch("C3", "A", "A_scratch", "VGG-7-A"),
        claims.early_layers_are_sensitive("sensitivity", "a convolution of numbers 2 to 4", "one of numbers 5 to 7"),
        *claims.greedy_is_not_worse([(f"{l1}_greedy_{p}_raw", f"{l1}_{p}_raw") for p in (70, 90)]),
        claims.first_convolutions_hurt_less("C6", "resnet_first_raw", "resnet_second_raw", "not retrained"),
        claims.norms_beat_activations("C7", f"{l1}_50_raw", [f"{s}_50_raw" for s in WORSE_STATISTICS], "50 %"),
        claims.deviation_is_as_good("C8", "mean_std_50_raw", f"{l1}_50_raw", "50 %"),
        *claims.l2_makes_no_difference("C9", "l2_50", f"{l1}_50", "50 % of all filters, retrained"),
        claims.gap_widens("F1", "dense", f"{l1}_90", "removing 90 % of all filters"),
    )


def smoke() -> TablePlan:
    recipe: dict[str, Any] = {"lr": 0.05, "lr_drops": (0.5,), "validate_every": 2}
    vgg, resnet = _families(Phase("train", steps=4), Phase("retrain", steps=2), recipe, {"validate_every": 2})
    arms = [
        vgg.dense(),
        vgg.uniform(50, DEMO_LAYERS),
        vgg.uniform(50, DEMO_LAYERS, "random", how="raw"),
        vgg.uniform(70, DEMO_LAYERS, greedy=True),
        vgg.uniform(50, DEMO_LAYERS, "mean_std", how="raw"),
        vgg.pruned("A", "A: first and last layers 50 %", DEMO_A, how="scratch"),
        vgg.sensitivity(
            {"l1_smallest": (50, 90), "random": (50,), "l1_largest": (50,)},
            retrained=(90,),
            retrain_steps=1,
            parts_of_network={claims.EARLY: DEMO_LAYERS[1:4], claims.LATE: DEMO_LAYERS[4:]},
        ),
        resnet.dense(),
        resnet.pruned("second", "second convolutions and shortcuts", RESIDUAL_SECOND),
        *class_subset(vgg, (0, 1, 2, 3, 4), DEMO_LAYERS, (50,)),
    ]
    return TablePlan(
        arms=tuple(arms),
        claims=(),
        seeds=(0,),
        data_note="a few steps on scikit-learn's digits: shows that all runs, its numbers mean nothing",
        pair_sets=("test",),
        fairness_set="test",
    )
