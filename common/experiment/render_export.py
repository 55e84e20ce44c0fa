"""A table for other programs: LaTeX for a paper, CSV for a spreadsheet."""

from __future__ import annotations

import csv
import io

from common.experiment.render import grid
from common.experiment.table import Table


def to_latex(table: Table) -> str:
    """The main table for a paper (`booktabs`)."""
    head, body = grid(table)
    lines = [
        f"% {table.title}: {table.key}, {table.scale} scale",
        f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        "\\toprule",
    ]
    lines.append(" & ".join(map(_latex, head)) + " \\\\")
    lines.append("\\midrule")
    lines += [" & ".join(map(_latex, line)) + " \\\\" for line in body]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def to_csv(table: Table) -> str:
    """One line a run: what a spreadsheet or a data frame wants. Undefined numbers are empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["arm", "title", "series", "bits", "seed", "status", *(column.key for column in table.columns)])
    for row in table.rows:
        start = [row.name, row.title, row.series, "" if row.bits is None else f"{row.bits:g}"]
        if row.word:
            writer.writerow([*start, "", row.word, *[""] * len(table.columns)])
        for seed in row.seeds:
            values = [dict(row.cells[column.key].values).get(seed) for column in table.columns]
            writer.writerow(
                [
                    *start,
                    seed,
                    "stale" if row.stale else "ok",
                    *("" if value is None else repr(value) for value in values),
                ]
            )
    return out.getvalue()


def _latex(text: str) -> str:
    for plain, escaped in (
        ("\\", "\\textbackslash "),
        ("&", "\\&"),
        ("%", "\\%"),
        ("_", "\\_"),
        ("#", "\\#"),
        ("±", "$\\pm$"),
        ("–", "--"),
    ):
        text = text.replace(plain, escaped)
    return text
