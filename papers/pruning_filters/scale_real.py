"""Real: published residual networks on CIFAR-10's test set; nothing is trained."""

from __future__ import annotations

from common.experiment.arm import Phase, TablePlan
from common.experiment.claims import Claim
from common.experiment.spec import DataFile, DataRoot, spec
from papers.pruning_filters import claims, configurations
from papers.pruning_filters.configurations import of_depth, percents
from papers.pruning_filters.family import CRITERIA, WORSE_STATISTICS, Family

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def _published(depth: int, file: str) -> Family:
    return Family(
        prefix=f"resnet{depth}_",
        title=f"ResNet-{depth}",
        network=spec("common.backbones.cifar_resnet.CifarResNet", depth=depth),
        data=spec("datasets.classification.CIFAR10", root=DataRoot(), **IMAGENET),
        benchmark=spec("common.evaluation.classification.ClassificationBenchmark", batch_size=250),
        training=Phase("train", epochs=160),
        retraining=Phase("retrain", epochs=40),
        retrain_recipe={"statistics_images": 10_000},
        published=DataFile(f"weights/{file}"),
    )


def real() -> TablePlan:
    """The first convolutions of the blocks: with shortcuts without parameters nothing else can be removed.

    Their inputs are streams that lose nothing, so that a greedy selection chooses what the independent one chooses.
    """
    twenty = _published(20, "resnet20-12fca82f.th")
    thirty_two = _published(32, "resnet32-d509ac18.th")
    fifty_six = _published(56, "resnet56-4bfd9763.th")
    shares = percents(10, 90, 20)
    arms = [
        twenty.sensitivity({"l1_smallest": shares, "random": (50, 70, 90), "l1_largest": (50, 70, 90)}),
        thirty_two.sensitivity({"l1_smallest": shares}),
        fifty_six.sensitivity({"l1_smallest": (50, 90)}),
        fifty_six.dense(),
    ]
    for name, ratios in (("A", configurations.RESNET56_A), ("B", configurations.RESNET56_B)):
        arms.append(fifty_six.pruned(name, f"{name} of the paper", ratios, how="raw"))
        for criterion in ("random", "l1_largest"):
            words = f"{name} of the paper, {CRITERIA[criterion]}"
            arms.append(fifty_six.pruned(f"{name}_{criterion}", words, ratios, criterion, how="raw"))
    firsts = list(of_depth(56, (0.5, 0.5, 0.5)))
    for percent in (10, 30, 50, 70):
        arms.append(fifty_six.uniform(percent, firsts, how="raw"))
    arms += [fifty_six.uniform(30, firsts, criterion, how="raw") for criterion in ("random", "l1_largest")]
    firsts = list(of_depth(20, (0.5, 0.5, 0.5)))
    arms.append(twenty.dense())
    for criterion in ("l1_smallest", "l2", "random", "l1_largest", "mean_std", *WORSE_STATISTICS):
        arms.append(twenty.uniform(30, firsts, criterion, how="raw", statistics_images=10_000))
    return TablePlan(
        arms=tuple(arms),
        claims=_real_claims(),
        seeds=(0,),
        data_note="CIFAR-10's 10,000 test images; published ResNet-20, -32 and -56 weights, no retraining",
        pair_sets=("test",),
        fairness_set="test",
    )


def _real_claims() -> tuple[Claim, ...]:
    l1 = "resnet20_l1_smallest_30_raw"
    return (
        claims.smallest_filters_matter_least("C1", "resnet20_sensitivity"),
        claims.order_of_criteria(
            "C1b", "resnet56_B_raw", "resnet56_B_random_raw", "resnet56_B_l1_largest_raw", "ResNet-56-B's ratios"
        ),
        claims.order_of_criteria(
            "C1c",
            "resnet56_l1_smallest_30_raw",
            "resnet56_random_30_raw",
            "resnet56_l1_largest_30_raw",
            "30 % (ResNet-56)",
        ),
        claims.norms_beat_activations("C7", l1, [f"resnet20_{s}_30_raw" for s in WORSE_STATISTICS], "30 % (ResNet-20)"),
        claims.deviation_is_as_good("C8", "resnet20_mean_std_30_raw", l1, "30 % (ResNet-20)"),
        *claims.l2_makes_no_difference(
            "C9", "resnet20_l2_30_raw", l1, "30 % of all filters (ResNet-20), not retrained"
        ),
        claims.gap_widens("F1", "resnet56_dense", "resnet56_B_raw", "ResNet-56-B without retraining"),
    )
