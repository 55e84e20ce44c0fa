"""What every figure has in common: one style, curves that colour blindness keeps apart, the same bytes for the same data."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.experiment.plot import COLOURS, LINES, MARKERS, STYLE
from common.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@contextlib.contextmanager
def svg_figure(
    path: Path | str,
    rows: int,
    columns: int,
    size: tuple[float, float],
    width_ratios: Sequence[float] | None = None,
) -> Iterator[Any]:
    """A figure of `rows` x `columns` panels that is written to `path` at the end, unless an error ends it.

    Args:
        path: the SVG file. size: width and height, inches. width_ratios: of the columns; None: all alike.

    Yields:
        The panels: an array [rows, columns] of matplotlib axes.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure.subplots(rows, columns, squeeze=False, width_ratios=width_ratios)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_atomically(path, buffer.getvalue())


def curve(axes: Axes, x: Sequence[Any], y: Any, at: int, label: str, yerr: Any = None, joined: bool = True) -> None:
    """The `at`-th curve of a panel, with bars where `yerr` is given (as in matplotlib's `errorbar`).

    `joined`: a line from point to point; False where x has no order (groups, for example).
    """
    style: Any = {
        "label": label,
        "color": COLOURS[at % len(COLOURS)],
        "marker": MARKERS[(at + at // len(COLOURS)) % len(MARKERS)],  # two curves of one colour differ here
        "markersize": 4,
        "linewidth": 1.2,
    }
    which = at // len(COLOURS) if yerr is None else at
    line = LINES[which % len(LINES)] if joined else "none"
    if yerr is None:
        axes.plot(x, y, linestyle=line, **style)
    else:
        axes.errorbar(x, y, yerr=yerr, linestyle=line, capsize=2, **style)


def finish(axes: Axes, x: str = "", y: str = "", title: str = "", legend_columns: int = 1) -> None:
    """Labels, grid and legend (0 columns: none) of a panel."""
    if x:
        axes.set_xlabel(x)
    if y:
        axes.set_ylabel(y)
    if title:
        axes.set_title(title, fontsize=9)
    axes.grid(True, linewidth=0.4, alpha=0.5)
    if legend_columns:
        axes.legend(fontsize=7, loc="best", framealpha=0.9, ncols=legend_columns)
