"""The paper's learning curves: accuracy in every epoch of fine-tuning, half of the neurons removed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.experiment.figure import curve, finish, svg_figure
from common.experiment.records import RunRecord

RATIO = "_50"
KINDS = {
    "nisp": "NISP",
    "nisp_no_frl": "NISP, all final responses alike",
    "nisp_bn_gamma": "NISP, normalisations scale scores",
    "magnitude": "magnitude",
    "random": "random",
    "scratch": "the same small network from scratch",
}
NAMES = {  # by the prefix of their arms
    "": "LeNet-5",
    "lenet": "LeNet-5-Caffe",
    "cifarnet": "Cifar-net",
    "resnet8": "ResNet-8",
    "resnet20": "ResNet-20",
    "resnet56": "ResNet-56",
    "resnet110": "ResNet-110",
}
CAPTION = "Test accuracy right after pruning half of every layer (epoch 0) and after each epoch of fine-tuning: means over seeds"


def draw(records: Sequence[RunRecord], stem: Path) -> dict[str, str]:
    """Draw `<stem>-curves.svg`, one panel a network.

    Returns:
        The caption of the file by its name; empty without a curve.
    """
    networks = curves_of(records)
    if not networks:
        return {}
    path = stem.with_name(f"{stem.name}-curves.svg")
    with svg_figure(path, 1, len(networks), (5.6 * len(networks), 4.2)) as panels:
        for axes, (network, kinds) in zip(panels[0], networks.items(), strict=True):
            for at, (kind, curves) in enumerate(kinds.items()):
                means, spread = np.mean(curves, axis=0), np.ptp(curves, axis=0) / 2
                curve(axes, range(len(means)), means, at, KINDS[kind], yerr=spread)
            title = NAMES.get(network.strip("_"), network.strip("_"))
            finish(axes, "epochs of fine-tuning", "accuracy on test (%)", title)
    return {path.name: CAPTION}


def curves_of(records: Sequence[RunRecord]) -> dict[str, dict[str, list[list[float]]]]:
    """Prefix of the network's arms -> kind of arm -> accuracies in percent by epoch, of every finished seed."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for kind in KINDS:
        for record in records:
            accuracies = record.cost.get("accuracy_by_epoch")
            if record.ok and accuracies and record.arm.endswith(f"{kind}{RATIO}"):
                prefix = record.arm.removesuffix(f"{kind}{RATIO}")
                if not prefix or (prefix.endswith("_") and not prefix.endswith("nisp_")):
                    found.setdefault(prefix, {}).setdefault(kind, []).append(list(accuracies))
    return found
