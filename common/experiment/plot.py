"""The figure of a table: accuracy against stored size or remaining weights, and what every group gets at each of them."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.experiment.plot_arms import arms_of, draw_arms, draw_groups
from common.experiment.rows import Cell, Row
from common.experiment.table import Table
from common.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which the usual kinds of colour blindness keep apart; markers and lines differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
SHOWN = 6  # entries of a legend inside the axes
STYLE: Any = {"svg.hashsalt": "fairpress", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 9.0}


def draw_plot(table: Table, svg: Path | str, png: Path | str | None = None, pair_set: str | None = None) -> None:
    """Draw the trade-off of a table.

    Left: accuracy (of classifiers: error) on one pair set against the bytes stored (of pruned networks: the weights left),
    logarithmic, one curve a series. Right: the accuracy of every group against bits (weights left), for the series with the
    most points. Where arms learn from a teacher there is no dial: arms stand below each other. Means over seeds, bars of one
    standard deviation. An arm without a finished run is not drawn but named below. The same table gives the same bytes.

    Args:
        table: what to draw.
        svg: file to write; png: a second one, for screens.
        pair_set: of the accuracies; the fairness set of the table when None, or else its first one.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = pair_set or table.fairness_set or next(iter(table.sizes), "")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        series = list(dict.fromkeys(row.series for row in table.rows))
        if any(row.teacher for row in table.rows) and (arms := arms_of(table, chosen)):
            figure.set_figheight(max(4.6, 1.4 + 0.3 * len(arms)))
            draw_arms(left, table, chosen, COLOURS[0])
            draw_groups(right, table, chosen, COLOURS, MARKERS)
        else:
            _tradeoff(left, table, chosen, series)
            _groups(right, table, chosen, series)
        figure.suptitle(f"{table.key}, {table.scale} scale: {_spread(table)}", fontsize=10)
        _legend(left)
        _legend(right)
        if any(len(axes.get_legend_handles_labels()[0]) > SHOWN for axes in (left, right)):
            figure.set_figheight(max(5.6, figure.get_figheight()))
        missing = [f"{row.title} ({row.word})" for row in table.rows if row.word]
        if missing:
            figure.supxlabel(textwrap.fill("Not drawn: " + "; ".join(missing), 160), fontsize=7)
        for path, kind in ((svg, "svg"), (png, "png")):
            if path is not None:
                buffer = io.BytesIO()
                figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
                write_atomically(path, buffer.getvalue())


def _is_pruning(table: Table) -> bool:
    return any(column.key == "remaining" for column in table.columns)


def _place(row: Row) -> float | None:
    """Where an arm lies on the axis of the groups: percent of the weights that are left, or else bits."""
    left = row.cells.get("remaining")
    return row.bits if left is None else left.mean


def _tradeoff(axes: Axes, table: Table, pair_set: str, series: Sequence[str]) -> None:
    """Accuracy (or error) against stored bytes (or remaining weights), one curve a series."""
    size_of, metric = "remaining" if _is_pruning(table) else "stored_bytes", table.words.metric
    found = {}
    for row in table.rows:
        accuracy, size = row.cells.get(f"{pair_set}:{metric}"), row.cells.get(size_of)
        if accuracy and size and accuracy.mean is not None and size.mean:
            found[row.name] = (size.mean, accuracy)
    drawn, at, single = bool(found), 0, []
    for name in series:
        rows = [row for row in table.rows if row.series == name and row.name in found]
        points = [found[row.name] for row in rows]
        if _is_pruning(table):
            if len(points) == 1 and len(series) > SHOWN:
                single += points
                continue
            points += [
                found[name] for name in sorted({row.baseline for row in rows} & found.keys())
            ]  # where every curve starts
        at += _curve(axes, points, at, name)
    if single:
        places, accuracies = zip(*single, strict=True)
        axes.plot(
            places,
            [cell.mean for cell in accuracies],
            "x",
            color="#999999",
            zorder=0,
            label="single arms (see the table)",
        )
    if not drawn:
        _say(axes, "no accuracy with a stored size was measured")
    elif _is_pruning(table):
        _percent_axis(axes)
        if metric == "error":
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(_two_digits)
    else:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(_bytes)
        axes.set_xlabel("stored bytes")
    if drawn:
        axes.set_ylabel(f"{metric} on {pair_set} (%)")
        axes.grid(True, which="major", linewidth=0.4, alpha=0.5)
    cells = [row.cells for row in table.rows if row.bits == 32 and drawn and row.cells]
    for mean in (found[f"{pair_set}:{metric}"].mean for found in cells):  # how far the curves are from full precision
        axes.axhline(math.nan if mean is None else mean, color="#777777", linewidth=0.8, linestyle=":", zorder=0)


def _groups(axes: Axes, table: Table, pair_set: str, series: Sequence[str]) -> None:
    """Accuracy of every group against bits or remaining weights, of the series with the most points; each group a line."""
    rows = _longest(table, pair_set, series)
    names = list(dict.fromkeys(name for row in rows for name in row.groups.get(pair_set, {})))
    if not names:
        _say(axes, "no groups were measured")
        return
    for at, name in enumerate(names):
        found = [(float(_place(row) or 0), row.groups[pair_set].get(name)) for row in rows]
        _curve(axes, [(place, cell) for place, cell in found if cell is not None and cell.mean is not None], at, name)
    if _is_pruning(table):
        _percent_axis(axes)
    else:
        bits = sorted({float(row.bits or 0) for row in rows})
        axes.set_xscale("log", base=2)
        axes.set_xticks(bits, [f"{value:g}" for value in bits])
        axes.minorticks_off()
        axes.set_xlabel("bits")
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -4), min(high, 104))  # bars of a spread may reach beyond what a percentage can be
    axes.set_ylabel(f"accuracy of every {table.words.group} on {pair_set} (%)")
    axes.set_title(textwrap.fill(" and ".join(dict.fromkeys(row.series for row in rows)), 60), fontsize=9)
    axes.grid(True, which="major", linewidth=0.4, alpha=0.5)


def _percent_axis(axes: Axes) -> None:
    """Remaining weights from all on the left to few on the right."""
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(_two_digits)
    axes.set_xlabel("weights left (%)")


def _longest(table: Table, pair_set: str, series: Sequence[str]) -> list[Row]:
    """Rows of the series with the most places, and the full-precision or dense arm in front of them."""
    usable = [row for row in table.rows if _place(row) and pair_set in row.groups]
    by_series = {name: [row for row in usable if row.series == name] for name in series}
    if not usable:
        return []
    places = {name: {_place(row) for row in rows} for name, rows in by_series.items()}
    longest = max(series, key=lambda name: (len(places[name]), any(row.baseline for row in by_series[name])))
    baselines = {row.baseline for row in by_series[longest] if row.baseline}
    single = [rows[0] for name, rows in by_series.items() if len(rows) == 1 and name != longest]
    single = [row for row in usable if row.name in baselines] or single
    taken = {_place(row) for row in by_series[longest]}
    largest = max(_place(row) or 0 for row in usable)
    anchor = [row for row in single if _place(row) not in taken and _place(row) == largest][:1]
    return [*anchor, *by_series[longest]]


def _curve(axes: Axes, points: Sequence[tuple[float, Cell]], at: int, name: str) -> bool:
    """One line with error bars, from left to right; False without points."""
    if not points:
        return False
    ordered = sorted(points, key=lambda point: point[0])
    axes.errorbar(
        [x for x, _ in ordered],
        [math.nan if cell.mean is None else cell.mean for _, cell in ordered],
        yerr=[cell.std or 0.0 for _, cell in ordered],
        label=textwrap.fill(name or "arms", 40),
        color=COLOURS[at % len(COLOURS)],
        marker=MARKERS[at % len(MARKERS)],
        linestyle=LINES[(at + at // len(COLOURS)) % len(LINES)],
        markerfacecolor=COLOURS[at % len(COLOURS)] if at < len(COLOURS) else "white",
        markersize=5,
        linewidth=1.2,
        capsize=2.5,
    )
    return True


def _say(axes: Axes, text: str) -> None:
    """Put a sentence where a panel would be."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center")


def _spread(table: Table) -> str:
    """What points and bars mean."""
    seeds = sorted({len(row.seeds) for row in table.rows if row.seeds})
    if not seeds or seeds[-1] < 2:
        return "one seed, spread unknown"
    count = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
    return f"mean and standard deviation over {count} seeds"


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > SHOWN:  # inside the axes they would hide the curves
        columns = 5 if max(map(len, labels)) < 12 else 2
        below = -0.14 * min(1.0, 5.6 / axes.figure.get_figheight())  # type: ignore[union-attr]
        axes.legend(
            handles, labels, fontsize=7, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, below), frameon=False
        )
    elif handles:
        axes.legend(handles, labels, fontsize=7.5, loc="best", framealpha=0.9)


def _two_digits(value: float, position: float | None = None) -> str:
    """Ticks between powers of ten: 2, 5 and their like only."""
    return f"{value:g}" if f"{value:.0e}"[0] in "235" else ""


def _bytes(value: float, position: float | None = None) -> str:
    """`512 KiB`, `1.5 MiB`."""
    power = min(int(math.log2(value) // 10), 3) if value >= 1 else 0
    return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"
