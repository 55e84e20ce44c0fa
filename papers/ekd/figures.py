"""The figure that the paper is about: what share of genuine pairs is accepted as the FPR falls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.experiment.figure import curve, finish, svg_figure
from common.experiment.records import RunRecord

PAIR_SET = "mixed"
FARS = (1e-2, 1e-3, 1e-4, 1e-5)
ARMS = {
    "teacher": "teacher",
    "student": "no KD",
    "ekd": "EKD",
    "rkd": "RKD",
    "feature_l2": "L2 of unit embeddings",
    "fitnet": "FitNet",
}


def draw(records: Sequence[RunRecord], stem: Path) -> dict[str, str]:
    """`<stem>-tar.svg`: left TAR at falling FAR, right the same as gain over no distillation; nothing without such numbers.

    Returns:
        Captions by file name.
    """
    found = {arm: tar for arm in ARMS if (tar := mean_tar(records, arm)) is not None}
    if "student" not in found:
        return {}
    path = stem.with_name(f"{stem.name}-tar.svg")
    with svg_figure(path, 1, 2, (10, 4)) as axes:
        for at, (arm, tar) in enumerate(found.items()):
            curve(axes[0, 0], FARS, tar, at, ARMS[arm])
            if arm not in ("teacher", "student"):
                gain = [a - b for a, b in zip(tar, found["student"], strict=True)]
                curve(axes[0, 1], FARS, gain, at, ARMS[arm])
        axes[0, 1].axhline(0.0, color="#777777", linewidth=0.8)
        for panel in axes[0]:
            panel.set_xscale("log")
            panel.invert_xaxis()
        finish(axes[0, 0], "FAR", "TAR over all pairs (%)")
        finish(axes[0, 1], "FAR", "gain over no KD (points)")
    return {
        path.name: "TAR over all pairs of the test images at falling FAR, and its gain over no KD; means over seeds"
    }


def mean_tar(records: Sequence[RunRecord], arm: str) -> list[float] | None:
    """Mean over seeds of an arm's TAR at `FARS`; None unless every run of it has them all."""
    names = [f"all_tar_at_far_{far:.0e}".replace("e-0", "e-") for far in FARS]
    runs = [record.metrics.get(PAIR_SET, {}) for record in records if record.arm == arm and record.ok]
    values = [[run.get(name) for name in names] for run in runs]
    if not values or any(value is None for row in values for value in row):
        return None
    return [sum(column) / len(column) for column in zip(*values, strict=True)]
