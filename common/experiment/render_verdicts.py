"""Verdicts as the rows of a table, and what a reader has to know of them."""

from __future__ import annotations

from collections.abc import Sequence

from common.experiment.judge import Verdict

UNITS = {"pp": " pp", "tau": "", "ratio": "", "loss": "", "%": " %", "MB": " MB"}

OURS = " (ours, not the paper's)"  # said of every claim of the suite's, once


def verdict_grid(verdicts: Sequence[Verdict], people: str = "people") -> tuple[list[str], list[list[str]]]:
    """Head and rows of the claims table; `people` are what the bootstrap resampled."""
    head = ["claim", "says", "verdict", "effect [95 %]", "claimed", "smallest visible", "seeds", people]
    body = []
    for v in verdicts:
        text = v.text.removesuffix(OURS) + OURS * (v.source == "suite")
        found = v.finding
        if found is None:
            body.append([v.key, text, v.verdict, "", "", "", "", ""])
            continue
        unit = UNITS.get(v.unit, "")
        effect = f"{_signed(found.effect)}{unit} [{_signed(found.low)}, {_signed(found.high)}]"
        claimed = f"{'tau' if v.unit == 'tau' else 'effect'} {'>' if found.above else '<'} {found.bound:g}{unit}"
        word = v.verdict if v.verdict == v.uncorrected else f"{v.verdict} ({v.uncorrected} before correction)"
        visible = (
            ""
            if v.smallest_visible is None
            else f"{v.smallest_visible:.2f}{UNITS.get(v.unit) or ' pp' * (v.unit == 'tau')}"
        )
        body.append([v.key, text, word, effect, claimed, visible, str(len(v.seeds)), str(v.subjects)])
    return head, body


def verdict_legend(verdicts: Sequence[Verdict], people: str = "people") -> list[str]:
    """How verdicts were made, and what is special about some."""
    judged = [v for v in verdicts if v.finding is not None]
    lines = []
    if judged:
        lines = [
            f"Intervals: bootstrap of seeds and {people}, {judged[0].draws:,} draws, the same for all arms. "
            f"Verdicts: 95 %, {len(judged)} claims corrected together (Holm).",
            "Effect: of several comparisons in a claim, the one that decides. Smallest visible: the smallest distance "
            "from the claimed bound that this experiment would have seen with 80 % power; of an ordering, the smallest "
            "step.",
        ]
    lines += [f"{v.key}: not judged, because {v.reason}." for v in verdicts if v.finding is None]
    for v in judged:
        if len(v.findings) > 1 and v.finding is not None:
            lines.append(f"{v.key}: {v.finding.label} decides, of {len(v.findings)}.")
        for step in v.steps:
            lines.append(
                f"{v.key}: {step.label} = {_signed(step.effect)} pp [{_signed(step.low)}, {_signed(step.high)}]."
            )
        lines += [f"{v.key}: {note}." for note in v.notes]
    return lines


def _signed(value: float | None) -> str:
    return "unbounded" if value is None else f"{value + 0.0:+.2f}"
