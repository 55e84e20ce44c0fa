"""The paper's Figures 3 to 5: accuracy at the early-stopping step, and that step, against the weights that remain."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.experiment.plot import COLOURS, LINES, MARKERS, STYLE
from common.experiment.records import RunRecord
from common.files import write_atomically
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
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    networks = {name: kinds for name, kinds in curves_of(records).items() if len(kinds["ticket"]) > FEWEST_LEVELS}
    if not networks:
        return {}
    path = stem.with_name(f"{stem.name}-tickets.svg")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.4 * len(networks)), layout="constrained")
        FigureCanvasAgg(figure)
        for row, kinds in zip(figure.subplots(len(networks), 2, squeeze=False), networks.values(), strict=True):
            _panel(row[0], kinds, "accuracy", "test accuracy at the early stop (%)")
            _panel(row[1], kinds, "step", "step of the smallest validation loss")
            row[0].legend(fontsize=7, loc="best", framealpha=0.9)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_atomically(path, buffer.getvalue())
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
        for curve in kinds.values():
            if curve and network in dense:
                curve[100.0] = dense[network]
    return found


def _panel(axes: Axes, kinds: dict[str, dict[float, list[RunRecord]]], metric: str, label: str) -> None:
    for at, (kind, words) in enumerate(KINDS.items()):
        left = sorted(kinds[kind], reverse=True)
        values = [np.array([run.metrics[EARLY][metric] for run in kinds[kind][share]], dtype=float) for share in left]
        if not values:
            continue
        means = np.array([value.mean() for value in values])
        reach = [means - [value.min() for value in values], [value.max() for value in values] - means]
        axes.errorbar(
            left,
            means,
            yerr=np.abs(reach),
            label=words,
            color=COLOURS[at],
            marker=MARKERS[at],
            linestyle=LINES[at % len(LINES)],
            markersize=4,
            linewidth=1.2,
            capsize=2,
        )
    axes.set_xscale("log")
    axes.invert_xaxis()
    shares = [
        share
        for share in (100, 50, 20, 10, 5, 2, 1)
        if share >= min(min(curve, default=100) for curve in kinds.values())
    ]
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.minorticks_off()
    axes.set_xlabel("weights left (%)")
    axes.set_ylabel(label)
    axes.grid(True, linewidth=0.4, alpha=0.5)
