"""The paper's Figure 2: accuracy with filters missing from one layer, for every layer and share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.experiment.figure import curve, finish, svg_figure
from common.experiment.records import RunRecord
from papers.pruning_filters.configurations import SET

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {"l1_smallest": "smallest l1", "random": "random", "l1_largest": "largest l1"}
MEASURED = "accuracy on test (%)"
CAPTION = (
    "Accuracy with filters missing from one layer alone: every layer and share, and the mean over layers by criterion"
)
Curves = dict[
    tuple[str, int, str, bool], dict[float, float]
]  # (layer, place, criterion, retrained) -> percent -> accuracy


def draw(records: Sequence[RunRecord], stem: Path) -> dict[str, str]:
    """Draw `<stem>-sensitivity.svg` from the runs that swept layers: one row an arm, means over seeds.

    Left: one curve a layer (as in the paper), or one a share where there are few shares. Middle: the mean over the layers by
    criterion. Right: the curves after retraining, where there was any.

    Returns:
        The caption of every file that was written, by its name; empty without such a run.
    """
    by_arm: dict[str, list[RunRecord]] = {}
    for record in records:
        if record.ok and "sensitivity" in record.metrics.get(SET, {}):
            by_arm.setdefault(record.arm, []).append(record)
    if not by_arm:
        return {}
    path = stem.with_name(f"{stem.name}-sensitivity.svg")
    with svg_figure(path, len(by_arm), 3, (13, 4.2 * len(by_arm))) as panels:
        for row, (arm, runs) in zip(panels, by_arm.items(), strict=True):
            curves, whole = mean_curves(runs), float(np.mean([run.metrics[SET]["accuracy"] for run in runs]))
            _single(row[0], _of(curves, "l1_smallest", retrained=False), whole, f"{arm}: not retrained")
            _by_criterion(row[1], curves, whole)
            _single(row[2], _of(curves, "l1_smallest", retrained=True), whole, "retrained")
    return {path.name: CAPTION}


def mean_curves(runs: Sequence[RunRecord]) -> Curves:
    """Mean accuracy over runs of every point, in percent."""
    found: dict[tuple[str, int, str, bool], dict[float, list[float]]] = {}
    for run in runs:
        for point in run.metrics[SET]["sensitivity"]:
            key = (point["layer"], point["place"], point["criterion"], point["retrained"])
            found.setdefault(key, {}).setdefault(point["percent"], []).append(point["accuracy"])
    return {key: {share: float(np.mean(all_)) for share, all_ in sorted(own.items())} for key, own in found.items()}


def _of(curves: Curves, criterion: str, retrained: bool) -> dict[int, dict[float, float]]:
    """Curves of one criterion by the layer's place, front to back."""
    own = {place: curve for (_, place, name, again), curve in curves.items() if (name, again) == (criterion, retrained)}
    return dict(sorted(own.items()))


def _single(axes: Axes, curves: Mapping[int, Mapping[float, float]], whole: float, title: str) -> None:
    if not curves:
        axes.set_axis_off()
        return
    shares = sorted({share for curve in curves.values() for share in curve})
    if len(shares) >= 4:
        for at, (place, points) in enumerate(curves.items()):
            curve(axes, [0.0, *points], [whole, *points.values()], at, f"convolution {place}")
        axes.set_xlabel("filters removed from the layer (%)")
    else:
        for at, share in enumerate(shares):
            places = [place for place, points in curves.items() if share in points]
            curve(axes, places, [curves[place][share] for place in places], at, f"{share:g} % removed")
        axes.set_xlabel("number of the convolution")
        axes.axhline(whole, color="#777777", linewidth=0.8, linestyle=":")
    finish(axes, y=MEASURED, title=title, legend_columns=2)


def _by_criterion(axes: Axes, curves: Curves, whole: float) -> None:
    criteria = list(dict.fromkeys(criterion for _, _, criterion, retrained in curves if not retrained))
    for at, criterion in enumerate(criteria):
        own = list(_of(curves, criterion, retrained=False).values())
        shares = sorted(set.intersection(*(set(points) for points in own)))
        means = [float(np.mean([points[share] for points in own])) for share in shares]
        curve(axes, [0.0, *shares], [whole, *means], at, NAMES.get(criterion, criterion))
    finish(
        axes, "filters removed from one layer (%)", MEASURED, "mean over the layers, not retrained", legend_columns=2
    )
