"""Paper: CIFAR-10 and ImageNet with the paper's networks and schedules; nothing of it has been run."""

from __future__ import annotations

from common.experiment.arm import Arm, Phase, TablePlan
from common.experiment.claims import Claim
from common.experiment.spec import DataRoot, Spec, spec
from papers.pruning_filters import claims, configurations
from papers.pruning_filters.configurations import convolutions, percents
from papers.pruning_filters.family import TEST, WORSE_STATISTICS, Family, class_subset


def _cifar(key: str, title: str, network: Spec) -> Family:
    """He et al.'s recipe for 160 epochs at batch 128; then 40 epochs at 0.001."""
    return Family(
        prefix=f"{key}_",
        title=title,
        network=network,
        data=spec("datasets.classification.CIFAR10", root=DataRoot(), batch_size=128),
        benchmark=TEST,
        training=Phase("train", epochs=160),
        retraining=Phase("retrain", epochs=40),
        recipe={"lr": 0.1, "lr_drops": (0.5, 0.75), "validate_every": 351},
        retrain_recipe={"lr": 0.001, "validate_every": 351},
        reported=key,
    )


def _imagenet() -> Family:
    """He et al.'s recipe: 90 epochs at batch 256, a tenth of the rate every 30; then 20 epochs at 0.001."""
    return Family(
        prefix="resnet34_",
        title="ResNet-34 (ImageNet)",
        network=spec("papers.pruning_filters.networks.ResNet34"),
        data=spec("datasets.image_classes.ImageNetFolder", root=DataRoot(), batch_size=256),
        benchmark=spec("common.evaluation.classification.ClassificationBenchmark", batch_size=100),
        training=Phase("train", epochs=90),
        retraining=Phase("retrain", epochs=20),
        recipe={"lr": 0.1, "lr_drops": (1 / 3, 2 / 3)},
        retrain_recipe={"lr": 0.001},
        reported="resnet34",
    )


def _table1(family: Family, table1: dict[str, dict[str, float]], scratch: str = "") -> list[Arm]:
    """The dense network, and the paper's configurations of it: retrained, not retrained, and one from scratch."""
    arms = [family.dense()]
    for name, ratios in table1.items():
        words = f"{name} of the paper"
        arms += [
            family.pruned(name, words, ratios, reported=name),
            family.pruned(name, words, ratios, how="raw"),
            *(
                [family.pruned(name, words, ratios, how="scratch", reported=f"{name}_scratch")]
                if name == scratch
                else []
            ),
        ]
    return arms


def paper() -> TablePlan:
    vgg = _cifar("vgg16", "VGG-16", spec("common.backbones.cifar_plain.VGG16"))
    resnet = {
        depth: _cifar(
            f"resnet{depth}", f"ResNet-{depth}", spec("common.backbones.cifar_resnet.CifarResNet", depth=depth)
        )
        for depth in (56, 110)
    }
    layers = convolutions(configurations.VGG16_PLAN)
    shares = percents(10, 90, 10)
    sweep = dict.fromkeys(("l1_smallest", "random", "l1_largest", "mean_std", *WORSE_STATISTICS), shares)
    parts = {claims.EARLY: layers[1:4], claims.LATE: layers[7:]}
    arms = [
        *_table1(vgg, {"A": configurations.VGG16_A}, "A"),
        vgg.sensitivity(sweep, retrained=shares, retrain_steps=20 * 351, parts_of_network=parts),
        *_table1(resnet[56], {"A": configurations.RESNET56_A, "B": configurations.RESNET56_B}, "B"),
        resnet[56].sensitivity({"l1_smallest": shares}),
        *_table1(resnet[110], {"A": configurations.RESNET110_A, "B": configurations.RESNET110_B}, "B"),
        resnet[110].sensitivity({"l1_smallest": shares}),
    ]
    for percent in (30, 50, 60, 70, 90):
        for how in ("retrained", "raw"):
            arms.append(vgg.uniform(percent, layers, how=how))
            arms.append(vgg.uniform(percent, layers, greedy=True, how=how))
    for criterion in ("random", "l1_largest", "l2", "mean_std", *WORSE_STATISTICS):
        arms += [vgg.uniform(50, layers, criterion, how=how) for how in ("retrained", "raw")]
    arms += class_subset(vgg, (0, 1, 2, 3, 4), layers, (50, 70, 90))
    imagenet = _imagenet()
    table1 = {
        "A": configurations.RESNET34_A,
        "B": configurations.RESNET34_B,
        "C": configurations.RESNET34_C,
    }
    arms += _table1(imagenet, table1)
    arms.append(imagenet.pruned("first", "stage 3's first convolutions, as many MACs as C", RESNET34_LIKE_C, how="raw"))
    return TablePlan(
        arms=tuple(arms),
        claims=_paper_claims(),
        seeds=(0, 1, 2),
        data_note="CIFAR-10 (45,000 / 5,000 / 10,000 images) and ImageNet; the paper's networks and schedules",
        pair_sets=("test",),
        fairness_set="test",
    )


RESNET34_LIKE_C = {f"layer3.{block}.conv1": 0.2 for block in range(6)}


def _paper_claims() -> tuple[Claim, ...]:
    l1 = "vgg16_l1_smallest"
    return (
        claims.smallest_filters_matter_least("C1", "vgg16_sensitivity"),
        claims.order_of_criteria("C1b", f"{l1}_50_raw", "vgg16_random_50_raw", "vgg16_l1_largest_50_raw", "50 %"),
        claims.pruning_is_nearly_free("C2", "vgg16_dense", "vgg16_A", "VGG-16-pruned-A"),
        *claims.retraining_beats_scratch("C3", "resnet56_B", "resnet56_B_scratch", "ResNet-56-pruned-B"),
        claims.early_layers_are_sensitive("vgg16_sensitivity", "one of convolutions 2 to 4", "one of 8 to 13"),
        *claims.greedy_is_not_worse([(f"{l1}_greedy_{p}_raw", f"{l1}_{p}_raw") for p in (60, 70, 90)]),
        claims.norms_beat_activations("C7", f"{l1}_50_raw", [f"vgg16_{s}_50_raw" for s in WORSE_STATISTICS], "50 %"),
        claims.deviation_is_as_good("C8", "vgg16_mean_std_50_raw", f"{l1}_50_raw", "50 %"),
        *claims.l2_makes_no_difference("C9", "vgg16_l2_50", f"{l1}_50", "50 % of all filters, retrained"),
        claims.gap_widens("F1", "vgg16_dense", f"{l1}_90", "removing 90 % of all filters"),
        claims.gap_widens("F2", "resnet56_dense", "resnet56_B", "ResNet-56-pruned-B"),
    )
