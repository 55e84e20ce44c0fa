"""What the paper's training logs show: ArcFace loss and distance to the teacher, epoch by epoch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.experiment.figure import curve, finish, svg_figure
from common.experiment.records import RunRecord

KINDS = {"none": "no KD", "final": "KD", "multi": "multi-step KD"}
ARM = re.compile(r"s(?:128)?_(?P<kind>none|final|multi)")
PANELS = (
    ("arcface", "ArcFace loss"),
    ("present", "100 MSE to the teacher of the epoch"),
    ("final", "100 MSE to the finished teacher"),
)
EPOCH = re.compile(r"(?P<name>arcface|present|final)_epoch(?P<epoch>\d+)")
CAPTION = (
    "PocketNetS by epoch: ArcFace loss, distance to the teacher of the epoch and to the finished one; means over seeds"
)
Curves = dict[str, dict[str, np.ndarray]]  # kind -> panel -> means over seeds [epochs]


def draw(records: Sequence[RunRecord], stem: Path) -> dict[str, str]:
    """Draw `<stem>-epochs.svg`.

    Returns:
        The caption of the file by its name; empty without recorded losses.
    """
    curves = curves_of(records)
    if not curves:
        return {}
    path = stem.with_name(f"{stem.name}-epochs.svg")
    with svg_figure(path, 1, len(PANELS), (12, 3.6)) as panels:
        for axes, (name, words) in zip(panels[0], PANELS, strict=True):
            for at, (kind, label) in enumerate(KINDS.items()):
                values = curves.get(kind, {}).get(name)
                if values is not None:
                    curve(axes, range(1, len(values) + 1), values, at, label)
            finish(axes, "epoch", words)
            axes.xaxis.get_major_locator().set_params(integer=True)
    return {path.name: CAPTION}


def curves_of(records: Sequence[RunRecord]) -> Curves:
    """The recorded losses of PocketNetS without distillation, with ordinary and with multi-step distillation."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for record in records:
        match = ARM.fullmatch(record.arm)
        if match is None or not record.ok:
            continue
        for name, values in recorded(record).items():
            found.setdefault(match["kind"], {}).setdefault(name, []).append(values)
    return {
        kind: {name: np.mean([v[: min(map(len, runs))] for v in runs], axis=0) for name, runs in panels.items()}
        for kind, panels in found.items()
    }


def recorded(record: RunRecord) -> dict[str, list[float]]:
    """Panel -> values by epoch, of one run."""
    by_epoch: dict[str, dict[int, float]] = {}
    for metrics in record.metrics.values():
        for key, value in metrics.items():
            if match := EPOCH.fullmatch(key):
                by_epoch.setdefault(match["name"], {})[int(match["epoch"])] = float(value)
    return {name: [values[epoch] for epoch in sorted(values)] for name, values in by_epoch.items()}
