"""The figure of all comparisons: overall drop against the drop of the group that was worst off before."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.experiment.compared import KINDS, LESS, MORE, ONE, Compared, Comparison
from common.experiment.figure import svg_figure
from common.experiment.plot import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINEAR = 2.0  # percent points around 0 that are drawn linearly; beyond them the axes are logarithmic
SIZES = ((50.0, 3.0), (10.0, 4.5), (0.0, 6.5))  # percent left above which a marker has this size
FILLED = (MORE, LESS)
CROWD = 60  # comparisons in a panel above which horizontal bars would hide it


def draw_comparisons(found: Compared, svg: Path | str) -> None:
    """One panel a kind of groups: overall drop across, drop of the worst group up, one marker a comparison.

    On the diagonal the worst group loses what everyone loses; above it compression hurts it more. The vertical bar is the
    95 % interval of that distance, over people and seeds, and the horizontal one (left out in a crowd) that of the overall
    drop. Markers grow with compression and are filled where the distance stands after correction; crosses rest on one
    seed. The same comparisons give the same bytes.
    """
    kinds = [kind for kind in KINDS if any(one.kind == kind for one in found.comparisons)] or [next(iter(KINDS))]
    with svg_figure(svg, 1, len(kinds), (5.6 * len(kinds), 6.2)) as panels:
        for axes, kind in zip(panels[0], kinds, strict=True):
            _panel(axes, [one for one in found.comparisons if one.kind == kind], kind)
        figure = panels[0, 0].figure
        figure.suptitle(
            "Drop of accuracy by compression, at the same seeds (percent points, 95 % intervals)", fontsize=10
        )
        figure.supxlabel(
            "vertical bars: 95 % interval of the distance to the diagonal; filled: it stands after correction; open: undecided; "
            "x: one seed; larger markers: less than 50 % and than 10 % left; *: stale",
            fontsize=7,
        )


def _panel(axes: Axes, rows: Sequence[Comparison], kind: str) -> None:
    if not rows:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "nothing was compared", ha="center", va="center")
        return
    for at, table in enumerate(dict.fromkeys((one.key, one.scale) for one in rows)):
        mine = [one for one in rows if (one.key, one.scale) == table]
        colour, marker = COLOURS[at % len(COLOURS)], MARKERS[at % len(MARKERS)]
        stale = "*" * any(one.stale for one in mine)
        axes.plot([], [], marker, color=colour, label=f"{' '.join(table)}{stale}, {len(mine)} arms")
        for one in mine:
            _point(axes, one, colour, marker, bars=len(rows) <= CROWD)
    for direction in ("x", "y"):
        getattr(axes, f"set_{direction}scale")("symlog", linthresh=LINEAR)
    values = [value for one in rows for value in (one.overall.value, one.worst.value) if math.isfinite(value)]
    low, high = min([-1.0, *values]) * 1.3, max([1.0, *values]) * 1.3
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    ticks = [tick for tick in (-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50, 100) if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.plot([low, high], [low, high], color="#777777", linewidth=0.8, linestyle=":", zorder=0)
    axes.set_xlabel("overall drop")
    axes.set_ylabel("drop of the group that was worst off before")
    axes.set_title(textwrap.fill(f"{kind}: {KINDS[kind]}", 60), fontsize=8.5)
    axes.grid(True, linewidth=0.3, alpha=0.5)
    axes.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=2, frameon=False)


def _point(axes: Axes, one: Comparison, colour: str, marker: str, bars: bool) -> None:
    x, y = one.overall, one.excess
    if not (math.isfinite(x.value) and math.isfinite(y.value)):
        return
    filled = one.verdict in FILLED
    axes.errorbar(
        [x.value],
        [x.value + y.value],
        xerr=[[x.value - x.low], [x.high - x.value]] if bars else None,
        yerr=[[y.value - y.low], [y.high - y.value]],
        color=colour,
        marker="x" if one.verdict == ONE else marker,
        markersize=next(size for limit, size in SIZES if one.left > limit or not limit),
        markerfacecolor=colour if filled else "white",
        linewidth=0.5,
        elinewidth=0.4,
        alpha=1.0 if filled else 0.6,
        zorder=3 if filled else 2,
    )
