"""The paper's Figures 3 to 5: accuracy at the early-stopping step, and that step, against the weights that remain."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.experiment.figure import curve, finish, svg_figure
from common.experiment.records import RunRecord
from papers.lottery_ticket.claims import EARLY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARM = re.compile(r"(?P<network>.*?)(?P<kind>dense|ticket|reinit|oneshot|finetune|random|continued)\d?(?:_\d\d)?")
KINDS = {
    "ticket": "winning ticket",
    "reinit": "random reinitialisation",
    "random": "random mask",
    "oneshot": "one-shot",
    "continued": "continued training, reset once",
    "finetune": "fine-tuned, not reset (ours)",
}
CAPTION = (
    "Accuracy at the early-stopping step, and the step itself: means over trials, bars from the lowest to the highest"
)
FEWEST_LEVELS = 3
Curves = dict[str, dict[str, dict[float, list[RunRecord]]]]  # network -> kind -> percent left -> runs


def draw(records: Sequence[RunRecord], stem: Path) -> dict[str, str]:
    """Draw `<stem>-tickets.svg`: a row for every network with tickets at three levels or more.

    Returns:
        The caption of the file by its name; empty without such a network.
    """
    networks = {name: kinds for name, kinds in curves_of(records).items() if len(kinds["ticket"]) > FEWEST_LEVELS}
    if not networks:
        return {}
    path = stem.with_name(f"{stem.name}-tickets.svg")
    with svg_figure(path, len(networks), 2, (11, 4.4 * len(networks))) as panels:
        for row, kinds in zip(panels, networks.values(), strict=True):
            _panel(row[0], kinds, "accuracy", "test accuracy at the early stop (%)", legend_columns=1)
            _panel(row[1], kinds, "step", "step of the smallest validation loss", legend_columns=0)
    return {path.name: CAPTION}


def curves_of(records: Sequence[RunRecord]) -> Curves:
    """Finished runs by network, kind of arm and percent of the weights left; every kind begins with the dense network."""
    found: Curves = {}
    dense: dict[str, list[RunRecord]] = {}
    for record in records:
        match = ARM.fullmatch(record.arm)
        if match is None or not record.ok or EARLY not in record.metrics:
            continue
        if match["kind"] == "dense":
            dense.setdefault(match["network"], []).append(record)
        else:
            kinds = found.setdefault(match["network"], {kind: {} for kind in KINDS})
            kinds[match["kind"]].setdefault(round(float(record.cost["remaining"]), 1), []).append(record)
    for network, kinds in found.items():
        for points in kinds.values():
            if points and network in dense:
                points[100.0] = dense[network]
    return found


def _panel(
    axes: Axes, kinds: dict[str, dict[float, list[RunRecord]]], metric: str, label: str, legend_columns: int
) -> None:
    for at, (kind, words) in enumerate(KINDS.items()):
        left = sorted(kinds[kind], reverse=True)
        values = [np.array([run.metrics[EARLY][metric] for run in kinds[kind][share]], dtype=float) for share in left]
        if not values:
            continue
        means = np.array([value.mean() for value in values])
        reach = [means - [value.min() for value in values], [value.max() for value in values] - means]
        curve(axes, left, means, at, words, yerr=np.abs(reach))
    axes.set_xscale("log")
    axes.invert_xaxis()
    shares = [
        share
        for share in (100, 50, 20, 10, 5, 2, 1)
        if share >= min(min(points, default=100) for points in kinds.values())
    ]
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.minorticks_off()
    finish(axes, "weights left (%)", label, legend_columns=legend_columns)
