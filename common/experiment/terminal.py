"""Tables and verdicts in a terminal: wide tables are split into several, and no number is ever cut."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.experiment.judge import Verdict
from common.experiment.render import STALE_VERDICTS, grid, group_grid, stale_line, summary_line
from common.experiment.render_verdicts import verdict_grid
from common.experiment.table import Table

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 120


def to_text(table: Table, verdicts: Sequence[Verdict] = (), width: int = WIDTH) -> str:
    """The table for a terminal of the given width; wide tables are split, numbers never cut."""
    from rich.console import Console

    out = io.StringIO()
    print_table(Console(file=out, width=width, no_color=True, highlight=False), table, verdicts)
    return out.getvalue()


def print_table(console: Console, table: Table, verdicts: Sequence[Verdict] = ()) -> None:
    """Print table, groups and verdicts with rich."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    def show(head: list[str], body: list[list[str]], wrapped: Sequence[int], title: str) -> None:
        for columns in _fitting(head, body, wrapped, console.width):
            drawn = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
            for at in columns:
                words = at in wrapped
                drawn.add_column(
                    Text(head[at]),
                    no_wrap=not words,
                    overflow="fold",
                    justify="left" if words or at == 0 else "right",
                    min_width=None if words else _width(head, body, at),
                )
            for line in body:
                drawn.add_row(*(Text(line[at]) for at in columns))
            console.print(drawn)

    show(*grid(table), wrapped=(0,), title=f"{table.title} ({table.key}, {table.scale} scale)")
    for row in table.rows:
        for problem in row.problems:
            console.print(problem, markup=False)
    if table.omitted:
        console.print(f"NOT RUN: {table.omission}", markup=False)
    if table.stale:
        console.print(f"STALE: {stale_line(table)}", style="bold yellow", markup=False)
    if table.fairness_set is not None:
        show(*group_grid(table), wrapped=(0,), title=f"Accuracy of every {table.words.group} on {table.fairness_set}")
    if verdicts:
        head, body = verdict_grid(verdicts, table.words.people)
        show(head[:-2], [line[:-2] for line in body], wrapped=(1, 2), title="Claims")
        for verdict in verdicts:
            if verdict.reason:
                console.print(f"{verdict.key}: not judged, because {verdict.reason}", markup=False)
        if table.stale:
            console.print(f"STALE: {STALE_VERDICTS}", style="bold yellow", markup=False)
    console.print(summary_line(table, verdicts), style="bold", markup=False)


def _fitting(head: list[str], body: list[list[str]], wrapped: Sequence[int], width: int) -> list[list[int]]:
    """Columns in groups that fit the width; the first one starts every group. Wrapped columns count 20 characters."""
    groups: list[list[int]] = [[0]]
    used = room = min(_width(head, body, 0), 24 if 0 in wrapped else width) + 2
    for at in range(1, len(head)):
        need = (20 if at in wrapped else _width(head, body, at)) + 2
        if used + need > width and len(groups[-1]) > 1:
            groups.append([0])
            used = room
        groups[-1].append(at)
        used += need
    return groups


def _width(head: list[str], body: list[list[str]], at: int) -> int:
    return max(len(line[at]) for line in [head, *body])
