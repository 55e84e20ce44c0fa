"""The paper's learning curves: accuracy in every epoch of fine-tuning, half of the neurons removed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.experiment.plot import COLOURS, LINES, MARKERS, STYLE
from common.experiment.records import RunRecord
from common.files import write_atomically

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
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    networks = curves_of(records)
    if not networks:
        return {}
    path = stem.with_name(f"{stem.name}-curves.svg")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6 * len(networks), 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (network, kinds) in zip(
            figure.subplots(1, len(networks), squeeze=False)[0], networks.items(), strict=True
        ):
            for at, (kind, curves) in enumerate(kinds.items()):
                means, spread = np.mean(curves, axis=0), np.ptp(curves, axis=0) / 2
                axes.errorbar(
                    range(len(means)),
                    means,
                    yerr=spread,
                    label=KINDS[kind],
                    color=COLOURS[at],
                    marker=MARKERS[at],
                    linestyle=LINES[at % len(LINES)],
                    markersize=4,
                    linewidth=1.2,
                    capsize=2,
                )
            axes.set_title(NAMES.get(network.strip("_"), network.strip("_")), fontsize=9)
            axes.set_xlabel("epochs of fine-tuning")
            axes.set_ylabel("accuracy on test (%)")
            axes.grid(True, linewidth=0.4, alpha=0.5)
            axes.legend(fontsize=7, loc="best", framealpha=0.9)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_atomically(path, buffer.getvalue())
    return {path.name: CAPTION}


def curves_of(records: Sequence[RunRecord]) -> dict[str, dict[str, list[list[float]]]]:
    """Prefix of the network's arms -> kind of arm -> accuracies in percent by epoch, of every finished seed."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for kind in KINDS:
        for record in records:
            curve = record.cost.get("accuracy_by_epoch")
            if record.ok and curve and record.arm.endswith(f"{kind}{RATIO}"):
                prefix = record.arm.removesuffix(f"{kind}{RATIO}")
                if not prefix or (prefix.endswith("_") and not prefix.endswith("nisp_")):
                    found.setdefault(prefix, {}).setdefault(kind, []).append(list(curve))
    return found
