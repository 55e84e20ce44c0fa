"""Tables as Markdown: pure functions from data to strings (verdicts: `render_verdicts`; LaTeX and CSV: `render_export`)."""

from __future__ import annotations

from collections.abc import Sequence

from common.experiment.judge import Verdict
from common.experiment.render_verdicts import verdict_grid, verdict_legend
from common.experiment.rows import PAPER_SCALE, Cell, Column, Reported, Row
from common.experiment.sources import UNRECORDED
from common.experiment.table import Table

UNDEFINED = "undefined"
STALE_VERDICTS = "these verdicts rest on numbers that other code has made than the present one."
SHOWN = 8  # modules that are named before the rest is only counted


def summary_line(table: Table, verdicts: Sequence[Verdict]) -> str:
    """The result in one sentence: how much was measured, and how many claims hold."""
    done = sum(1 for row in table.rows if row.seeds)
    seeds = max((len(row.seeds) for row in table.rows), default=0)
    words = []
    for word, one, more in (
        ("holds", "holds", "hold"),
        ("fails", "fails", "fail"),
        ("inconclusive",) * 3,
        ("not judged",) * 3,
    ):
        count = sum(v.verdict == word for v in verdicts)
        words += [f"{count} {one if count == 1 else more}"] if count else []
    arms = f"{done} of {len(table.rows)} arms" if done < len(table.rows) else f"{done} arms"
    text = f"{arms}, {seeds} seed{'s' * (seeds != 1)}, {table.scale} scale{', stale' if table.stale else ''}"
    return f"{text}. Of {len(verdicts)} claims: {', '.join(words)}." if verdicts else f"{text}. No claims are judged."


def to_markdown(table: Table, verdicts: Sequence[Verdict] = (), header: str = "", figure: str = "") -> str:
    """The page of a table as it is read on GitHub.

    Args:
        table, verdicts: what to show.
        header: Markdown printed below the title (a link to the paper's README, say).
        figure: file name of the plot beside the page.
    """
    parts = [f"# {table.title}: `{table.key}`, {table.scale} scale", f"**{summary_line(table, verdicts)}**"]
    parts += [f"**Stale**: {text}" for text in [stale_line(table, "`")] if text]
    parts += [text for text in (header, table.data_note) if text]
    if table.command:
        parts.append(f"```\n{table.command}\n```")
    head, body = grid(table)
    parts += ["## Table", _markdown_table(head, body), "\n".join(f"- {line}" for line in legend(table))]
    parts += [f"**Not run**: {table.omission}"] * bool(table.omitted)
    if figure:
        against = "weights left" if any(column.key == "remaining" for column in table.columns) else "stored size"
        parts.append(f"![{table.words.metric.capitalize()} against {against}, and the groups]({figure})")
    if table.fairness_set is not None:
        head, body = group_grid(table)
        parts += [
            "## Whom does compression hurt?",
            f"Accuracy of every {table.words.group} on {table.fairness_set}, in percent.",
        ]
        parts.append(_markdown_table(head, body))
    if verdicts:
        head, body = verdict_grid(verdicts, table.words.people)
        body = [[f"`{line[0]}`", line[1], f"**{line[2]}**", *line[3:]] for line in body]
        parts += [
            "## Claims",
            *([f"**Stale**: {STALE_VERDICTS}"] if table.stale else []),
            _markdown_table(head, body),
            "\n".join(f"- {line}" for line in verdict_legend(verdicts, table.words.people)),
        ]
    if table.reported:
        parts += ["## Reported by the paper", *_reported_section(table)]
    if table.provenance:
        parts += ["## Provenance", "\n".join(f"- {line}" for line in table.provenance)]
    return "\n\n".join(parts) + "\n"


def stale_line(table: Table, quote: str = "") -> str:
    """What has changed since the numbers were made, and the command that renews them; empty when nothing has."""
    if not table.stale:
        return ""
    rows = sum(1 for row in table.rows if row.stale)
    every = rows == sum(1 for row in table.rows if row.seeds)
    which = "every row was" if every else "the row marked so was" if rows == 1 else f"{rows} rows, marked so, were"
    shown = ", ".join(f"{quote}{module}{quote}" for module in table.stale[:SHOWN])
    more = f" and {len(table.stale) - SHOWN} more" if len(table.stale) > SHOWN else ""
    what = "sources were recorded" if UNRECORDED in table.stale else f"{shown}{more} changed"
    renew = f" {quote}{table.command}{quote} computes it again." if table.command else ""
    return f"{which} made before {what}.{renew}"


def grid(table: Table) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the main table as text."""
    head = [
        "arm",
        *(column.title for column in table.columns),
        *(f"paper: {_title(table, name)}" for name in table.reported_columns),
        "seeds",
    ]
    body = []
    for row in table.rows:
        cells = _cells(row, [(row.cells.get(column.key), column) for column in table.columns])
        beside = [_beside(row, metric) for metric in table.reported_columns]
        seeds = str(len(row.seeds)) if len(row.seeds) == row.planned else f"{len(row.seeds)} of {row.planned}"
        body.append([_name(row), *cells, *beside, seeds])
    return head, body


def group_grid(table: Table) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the accuracies of every group."""
    where = table.fairness_set or ""
    names = list(dict.fromkeys(name for row in table.rows for name in row.groups.get(where, {})))
    column = Column("", "", "%", "")
    body = [
        [_name(row), *_cells(row, [(row.groups.get(where, {}).get(name), column) for name in names])]
        for row in table.rows
        if row.word or row.groups.get(where)
    ]
    return ["arm", *names], body


def legend(table: Table) -> list[str]:
    """What every column is, and over what."""
    words = table.words
    sizes = [
        f"{name}: {items:,} {words.items}" + (f" of {people:,} {words.people}" if words.people != words.items else "")
        for name, (items, people) in table.sizes.items()
        if words.metric != "error" or any(row.groups.get(name) for row in table.rows)  # others are no images
    ]
    lines = [
        words.protocol,
        *([f"Measured on {'; '.join(sizes)}."] if sizes else []),
        "Mean ± standard deviation over seeds (ddof 1).",
    ]
    lines += [
        f"{column.title}: {column.help}."
        for column in table.columns
        if column.title != words.title.format(column.key.removesuffix(f":{words.metric}"))
    ]
    if table.reported_columns:
        lines.append(
            "paper: what the paper reports, at its scale and on its data; in [brackets] when not read in its source"
            + (
                ". Not comparable with a row of another scale."
                if table.scale != PAPER_SCALE
                else "; *reproduced*: ours lies within its spread or the stated tolerance, else ours minus the paper's number."
            )
        )
    return lines + [f"Not finished: {problem}." for row in table.rows for problem in row.problems]


def _name(row: Row) -> str:
    return row.title + " *stale*" * bool(row.stale)


def _cells(row: Row, numbers: Sequence[tuple[Cell | None, Column]]) -> list[str]:
    """A row's numbers as text; without a finished run, the word that says why."""
    if row.word:
        return [row.word, *["–"] * (len(numbers) - 1)]
    return ["–" if cell is None else _number(cell, column) for cell, column in numbers]


def _number(cell: Cell, column: Column) -> str:
    """A number with as many digits as its spread warrants."""
    if cell.mean is None:
        return UNDEFINED if cell.values and column.key != "nominal" else "–"
    if column.unit in ("bytes", "count"):
        return f"{cell.mean:,.0f}"
    if column.unit == "layers":
        return f"{cell.mean:.2g}"
    if column.unit == "x":
        return f"{cell.mean:.2f}".rstrip("0").rstrip(".") + "x"
    digits = 4 if column.unit == "loss" else 2
    exact = cell.std is None or (
        cell.std == 0 and column.key != "" and ":" not in column.key
    )  # a cost that the arm fixes
    return f"{cell.mean:.{digits}f}" if exact else f"{cell.mean:.{digits}f} ± {cell.std:.{digits}f}"


def _beside(row: Row, metric: str) -> str:
    number = row.reported.get(metric)
    if number is None:
        return ""
    missed = f" ({row.missed[metric]:+.2f})" if metric in row.missed else ""
    return _reported_value(number) + (" *reproduced*" if row.reproduced.get(metric) else missed)


def _title(table: Table, metric: str) -> str:
    """Of the column that a metric of the paper is the key of; else the metric."""
    return next((column.title for column in table.columns if column.key == metric), metric)


def _reported_value(number: Reported) -> str:
    text = f"{number.value:.2f}" + ("" if number.spread is None else f" ± {number.spread:.2f}")
    return text if number.verified else f"[{text}]"


def _reported_section(table: Table) -> list[str]:
    """The paper's own numbers, rows by metrics, with the places where they were read."""
    rows = list(dict.fromkeys(number.row for number in table.reported))
    metrics = list(dict.fromkeys((number.metric, number.unit) for number in table.reported))
    sources = list(dict.fromkeys(number.source for number in table.reported))
    by_place = {(number.row, number.metric): number for number in table.reported}
    body = []
    for row in rows:
        found = [by_place.get((row, metric)) for metric, _ in metrics]
        read = sorted({sources.index(number.source) + 1 for number in found if number is not None})
        body.append([row, *("" if n is None else _reported_value(n) for n in found), ", ".join(map(str, read))])
    head = ["row", *(f"{metric} ({unit})" for metric, unit in metrics), "source"]
    note = "The paper's numbers, on its data and at its scale"
    if table.scale != PAPER_SCALE:
        note += f": no number of a {table.scale} table can be set against them; what is compared are the claims"
    where = [f"{at}. {source}" for at, source in enumerate(sources, start=1)]
    return [
        f"{note}. In [brackets]: not read in its source.",
        _markdown_table(head, body),
        "Sources:",
        "\n".join(where),
    ]


def _markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    numbers = "|".join(["---", *["---:"] * (len(head) - 1)]) if "says" not in head else "|".join(["---"] * len(head))
    return "\n".join([line(head), f"|{numbers}|", *(line(cells) for cells in body)])
