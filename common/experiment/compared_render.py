"""The comparisons of all tables as JSON values, a page and a spreadsheet: pure functions."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from common.experiment.compared import KINDS, LESS, LEVEL, MORE, ONE, OPEN, Compared, Comparison, TableMean
from common.fairness.paired import Effect

QUESTION = "Does compression hurt the already disadvantaged?"
MARK = "*"
WORDS = {
    MORE: "the worst group loses more than everyone",
    LESS: "it loses less",
    OPEN: "not decided by these data",
    ONE: "one seed: shown, not judged",
}
VERDICTS = {MORE: "holds: more", LESS: "fails: less", OPEN: OPEN, ONE: ONE}


def to_dict(found: Compared) -> dict[str, Any]:
    """JSON values, with the verdicts; what is not finite is None."""
    out: dict[str, Any] = _plain(
        {
            "question": QUESTION,
            "level": LEVEL,
            "counts": {kind: counts(found, kind) for kind in KINDS},
            "means": [{**asdict(one), "verdict": one.verdict} for one in found.means],
            "comparisons": [{**asdict(one), "verdict": one.verdict} for one in found.comparisons],
            "omitted": [list(one) for one in found.omitted],
        }
    )
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def counts(found: Compared, kind: str) -> dict[str, dict[str, int]]:
    """How many comparisons and table means of a kind got which verdict."""
    entries: dict[str, Sequence[Comparison | TableMean]] = {"tables": found.means, "comparisons": found.comparisons}
    return {
        name: {word: sum(one.kind == kind and one.verdict == word for one in entry) for word in WORDS}
        for name, entry in entries.items()
    }


def answer(found: Compared, kind: str) -> str:
    """The answer for one kind of groups in a few sentences; empty without a comparison."""
    mine = [one for one in found.comparisons if one.kind == kind]
    if not mine:
        return ""
    number = counts(found, kind)
    tables, single = number["tables"], number["comparisons"]
    judged = [one for one in mine if one.verdict != ONE]
    sentences = []
    if sum(tables.values()) > tables[ONE]:
        sentences.append(
            f"Averaged over the compressed arms of a table, the worst group lost more than everyone in {tables[MORE]} of "
            f"{sum(tables.values()) - tables[ONE]} tables, less in {tables[LESS]}, undecided in {tables[OPEN]} (Holm)."
        )
    if judged:
        above = sum(one.excess.value > 0 for one in judged)
        sentences.append(
            f"Of {len(judged)} single comparisons it holds in {single[MORE]}, fails in {single[LESS]} and is inconclusive in "
            f"{single[OPEN]} (Benjamini-Hochberg, {100 * LEVEL:g} %); the excess as measured is above 0 in {above}."
        )
    if single[ONE]:
        sentences.append(f"{single[ONE]} more rest on one seed and are shown without a verdict.")
    return " ".join(sentences)


def to_markdown(found: Compared, figure: str, command: str) -> str:
    """The page."""
    parts = [
        f"# {QUESTION}",
        "Every compressed model of every committed table against the uncompressed model of the same seed.",
    ]
    stale = sorted({f"{one.key} {one.scale}" for one in found.comparisons if one.stale})
    if stale:
        parts.append(f"**Stale** ({MARK}): made by other code than the present one: {', '.join(stale)}.")
    for kind, about in KINDS.items():
        text = answer(found, kind) or "No table has such groups yet."
        parts.append(f"**{kind.capitalize()}** ({about}). {text}")
    parts += [f"```\n{command}\n```", LEGEND, f"![Overall drop against the drop of the worst group]({figure})"]
    for kind in KINDS:
        means = [one for one in found.means if one.kind == kind]
        rows = [one for one in found.comparisons if one.kind == kind]
        if means:
            parts += [f"## {kind.capitalize()}: tables", _grid(MEAN_HEAD, [_mean(one) for one in means])]
            parts += [f"## {kind.capitalize()}: every comparison", _grid(HEAD, [_row(one) for one in rows])]
    if found.omitted:
        parts += ["## Not compared", "\n".join(f"- {words}" for words in _omitted(found))]
    return "\n\n".join(parts) + "\n"


LEGEND = f"""- *drop*: accuracy of the uncompressed model minus that of the compressed one, percent points; 95 % intervals over
  people and seeds. *excess*: drop of the worst group minus the overall drop; above 0 compression hurts the worst group more.
- *worst group*: lowest accuracy of the uncompressed model. It is chosen on other people and at other seeds than its drop is
  measured with, since a group that is worst by bad luck recovers by itself; in brackets the share of the choices that fell on
  the group named. Where they scatter, no group is clearly the worst.
- *left*: weights kept, or bytes stored, in percent of the uncompressed model. {MARK}: stale.
- p is two-sided and corrected: over the tables of a kind (Holm) and over the comparisons of a kind (Benjamini-Hochberg).
  Tables share test images and arms share baselines, so the comparisons are not independent of one another.
- Groups of other kinds are never counted together. Terms after ISO/IEC 19795-10 (differential performance of groups)."""
MEAN_HEAD = ("table", "arms", "seeds", "mean excess", "p", "verdict")
HEAD = ("table", "arm", "left", "seeds", "overall drop", "worst group", "its drop", "excess", "p", "verdict")


def _mean(one: TableMean) -> list[str]:
    where = f"{one.key} {one.scale}{MARK * bool(one.stale)}"
    return [where, str(one.arms), str(len(one.seeds)), _effect(one.excess), _p(one.excess), VERDICTS[one.verdict]]


def _row(one: Comparison) -> list[str]:
    return [
        f"{one.key} {one.scale}{MARK * bool(one.stale)}",
        one.title,
        f"{one.left:.3g} % of {one.counted}",
        str(len(one.seeds)),
        _effect(one.overall),
        f"{one.worst_group} ({100 * one.chosen:.0f} %)",
        _effect(one.worst),
        _effect(one.excess),
        _p(one.excess),
        VERDICTS[one.verdict],
    ]


def _effect(one: Effect) -> str:
    if math.isnan(one.value):
        return f"undefined: {one.reason}"
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


def _p(one: Effect) -> str:
    return "" if math.isnan(one.p_adjusted) else "< 0.001" if one.p_adjusted < 0.001 else f"{one.p_adjusted:.3f}"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _omitted(found: Compared) -> list[str]:
    """Tables and arms that were not compared; arms that share a reason share a line."""
    groups: dict[tuple[str, str], list[str]] = {}
    for table, arm, why in found.omitted:
        groups.setdefault((table, why), []).append(arm)
    return [f"{table}{': ' + ', '.join(arms) if any(arms) else ''} ({why})" for (table, why), arms in groups.items()]


def to_csv(found: Compared) -> str:
    """One line a comparison; undefined numbers are empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    plain = ("key", "scale", "task", "kind", "arm", "title", "method", "reference", "left", "counted")
    effects = ("overall", "worst", "excess")
    writer.writerow(
        [
            *plain, "seeds", "people", "groups", "worst_group", "chosen",
            *(f"{name}{part}" for name in effects for part in ("", "_low", "_high")), "p", "p_adjusted", "verdict", "stale",
        ]
    )  # fmt: skip
    for one in found.comparisons:
        numbers = [number for name in effects for number in _numbers(getattr(one, name))]
        values = [one.left, one.chosen, *numbers, one.excess.p, one.excess.p_adjusted]
        left, chosen, *rest = ["" if math.isnan(value) else f"{value:.6g}" for value in values]
        start = [getattr(one, name) for name in plain]
        start[plain.index("left")] = left
        writer.writerow(
            [
                *start, " ".join(map(str, one.seeds)), one.people, one.groups, one.worst_group, chosen, *rest, one.verdict,
                "stale" if one.stale else "",
            ]
        )  # fmt: skip
    return out.getvalue()


def _numbers(one: Effect) -> tuple[float, float, float]:
    return one.value, one.low, one.high
