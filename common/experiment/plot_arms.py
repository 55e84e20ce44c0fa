"""The figure of a table without a dial: arms below each other, left what they reach, right what every group gets."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from common.experiment.rows import Cell, Row
from common.experiment.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST = 46  # characters of an arm's name in a line


def arms_of(table: Table, pair_set: str) -> list[Row]:
    """The rows that were measured on a pair set, in printing order."""
    key = f"{pair_set}:{table.words.metric}"
    return [row for row in table.rows if key in row.cells and row.cells[key].mean is not None]


def draw_arms(axes: Axes, table: Table, pair_set: str, colour: str) -> None:
    """Accuracy (of classifiers: error) of every arm, a point with a bar of one standard deviation; a line at the teacher."""
    rows, key = arms_of(table, pair_set), f"{pair_set}:{table.words.metric}"
    found = [row.cells.get(key, Cell(None, None, ())) for row in rows]
    axes.errorbar(
        [math.nan if cell.mean is None else cell.mean for cell in found],
        range(len(rows)),
        xerr=[cell.std or 0.0 for cell in found],
        fmt="o",
        color=colour,
        markersize=5,
        capsize=2.5,
        linewidth=1.2,
    )
    teachers = {row.teacher for row in rows if row.teacher}
    for row, cell in zip(rows, found, strict=True):
        if teachers == {row.name} and cell.mean is not None:  # several lines would say nothing
            axes.axvline(cell.mean, color="#777777", linewidth=0.8, linestyle=":", zorder=0)
    axes.set_yticks(range(len(rows)), [textwrap.shorten(row.title, LONGEST, placeholder=" ...") for row in rows])
    _finish(axes, f"{table.words.metric} on {pair_set} (%)", len(rows))


def draw_groups(axes: Axes, table: Table, pair_set: str, colours: tuple[str, ...], markers: tuple[str, ...]) -> None:
    """Accuracy of every group of every arm: a line from the lowest to the highest, a marker a group, means over seeds."""
    rows = arms_of(table, pair_set)
    names = list(dict.fromkeys(name for row in rows for name in row.groups.get(pair_set, {})))
    reach = []
    for row in rows:
        means = [cell.mean for cell in row.groups.get(pair_set, {}).values() if cell.mean is not None]
        reach.append((min(means), max(means)) if means else (math.nan, math.nan))
    axes.hlines(range(len(rows)), *zip(*reach, strict=True), color="#bbbbbb", linewidth=1.0, zorder=0)
    for at, name in enumerate(names):
        cells = [row.groups.get(pair_set, {}).get(name, Cell(None, None, ())) for row in rows]
        axes.plot(
            [math.nan if cell.mean is None else cell.mean for cell in cells],
            range(len(rows)),
            linestyle="",
            marker=markers[at % len(markers)],
            color=colours[at % len(colours)],
            markerfacecolor=colours[at % len(colours)] if at < len(colours) else "white",
            markersize=5,
            label=name,
        )
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    _finish(axes, f"accuracy of every {table.words.group} on {pair_set} (%)", len(rows))


def _finish(axes: Axes, label: str, count: int) -> None:
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(True, linewidth=0.4, alpha=0.5)
