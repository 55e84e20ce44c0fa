"""What C4 speaks of: over the training, how many hard pairs the student finds more alike than the teacher, and how alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.experiment.figure import curve, finish, svg_figure
from common.experiment.records import RunRecord

KINDS = {
    "fcd": "FCD",
    "coupleface": "FCD + RAD",
    "two_sided": "FCD + RAD, two-sided",
    "a1_b10": "FCD + RAD, beta x 10",
}
PANELS = {
    "harder_curve": "hard pairs more alike to the student (%)",
    "similarity_curve": "student's cosine to hard identities",
}
CAPTION = (
    "Pairs of a sample with a mined hard identity over the training: the share that the student finds more alike than the "
    "teacher, and the student's mean cosine (means over seeds, bars: half of the range)"
)
Curves = dict[str, dict[str, list[list[float]]]]  # metric -> kind -> of every finished seed


def draw(records: Sequence[RunRecord], stem: Path) -> dict[str, str]:
    """Draw `<stem>-relations.svg`: a row of two panels for every student.

    Returns:
        The caption of the file by its name; empty without a curve.
    """
    students = curves_of(records)
    if not students:
        return {}
    path = stem.with_name(f"{stem.name}-relations.svg")
    with svg_figure(path, len(students), len(PANELS), (11, 4.2 * len(students))) as panels:
        for row, (prefix, metrics) in zip(panels, students.items(), strict=True):
            for axes, (metric, label) in zip(row, PANELS.items(), strict=True):
                for kind, curves in metrics[metric].items():
                    _curve(axes, curves, list(KINDS).index(kind), KINDS[kind])
                finish(axes, "share of the training (%)", label, prefix.strip("_"))
    return {path.name: CAPTION}


def curves_of(records: Sequence[RunRecord]) -> dict[str, Curves]:
    """Prefix of the arms (one for each student) -> metric -> kind of arm -> curves of every finished seed."""
    found: dict[str, Curves] = {}
    for kind in KINDS:
        for record in records:
            if not record.ok or not record.arm.endswith(kind):
                continue
            for values in record.metrics.values():
                if "harder_curve" in values:
                    metrics = found.setdefault(record.arm.removesuffix(kind), {metric: {} for metric in PANELS})
                    for metric in PANELS:
                        metrics[metric].setdefault(kind, []).append(values[metric])
    return found


def _curve(axes: object, curves: list[list[float]], at: int, label: str) -> None:
    parts = min(len(values) for values in curves)
    values = np.array([one[:parts] for one in curves])
    ends = 100 * np.arange(1, parts + 1) / parts
    curve(axes, ends, values.mean(0), at, label, yerr=np.ptp(values, axis=0) / 2)  # type: ignore[arg-type]
