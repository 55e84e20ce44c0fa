"""FairGRAPE's figures: the spread of the groups' losses over sparsities, and every group's accuracy with its interval."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.experiment.figure import curve, finish, svg_figure
from common.experiment.records import RunRecord
from papers.fairgrape.claims import FULL, NAMES, STD_OF_CHANGE, TEST

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = {
    **NAMES,
    "uniform": "equal targets (ours)",
    "complexity": "targets by difficulty (ours)",
    "official": "official code",
}
ARM = re.compile(rf"(?P<task>.*?)(?:(?P<full>{FULL})|(?P<kind>{'|'.join(KINDS)})_(?P<percent>\d+))")
SHOWN = ("fairgrape", "weight_selection", "snip")  # beside the full network, at the highest sparsity
LOSSES = "Spread over groups of the loss of accuracy against the full network of the same seed: means over seeds"
GROUPS = (
    "Accuracy of every group, full and at the highest sparsity: means over seeds, bars are the mean ends of the 95 % intervals "
    "of single networks (Wilson, people as clusters)"
)
Runs = dict[str, dict[tuple[str, int], list[RunRecord]]]  # task -> (kind, percent pruned) -> runs


def draw(records: Sequence[RunRecord], stem: Path) -> dict[str, str]:
    """Draw `<stem>-losses.svg` and `<stem>-groups.svg`.

    Returns:
        Captions by file name; empty without a finished run.
    """
    tasks = {task: runs for task, runs in runs_of(records).items() if (FULL, 0) in runs}
    if not tasks:
        return {}
    found = {}
    path = stem.with_name(f"{stem.name}-losses.svg")
    with svg_figure(path, 1, len(tasks), (6.4 * len(tasks), 4.4)) as panels:
        for axes, (task, runs) in zip(panels[0], tasks.items(), strict=True):
            _losses(axes, runs)
            finish(axes, "pruned (%)", "standard deviation of losses (pp)", _titled(task).rstrip(": "))
    found[path.name] = LOSSES
    path = stem.with_name(f"{stem.name}-groups.svg")
    columns = {task: columns_of(runs[FULL, 0][0]) for task, runs in tasks.items()}
    wide = max(len(names) for names in columns.values())
    with svg_figure(path, len(tasks), wide, (5.6 * wide, 4.6 * len(tasks))) as panels:
        for row, (task, runs) in zip(panels, tasks.items(), strict=True):
            for axes, name in zip(row, columns[task], strict=False):
                _groups(axes, runs, name)
                finish(axes, "", "accuracy (%)", f"{_titled(task)}{name or 'groups'}")
            for axes in row[len(columns[task]) :]:
                axes.set_axis_off()
    found[path.name] = GROUPS
    return found


def runs_of(records: Sequence[RunRecord]) -> Runs:
    """Finished runs by task and arm; the full network prunes 0 percent."""
    found: Runs = {}
    for record in records:
        match = ARM.fullmatch(record.arm)
        if match is not None and record.ok and TEST in record.metrics:
            key = (FULL, 0) if match["full"] else (match["kind"], int(match["percent"]))
            found.setdefault(match["task"], {}).setdefault(key, []).append(record)
    return found


def columns_of(run: RunRecord) -> list[str]:
    """The group columns that were measured; "" is the sensitive one."""
    return ["", *run.metrics[TEST].get("by", {})]


def _losses(axes: Axes, runs: Mapping[tuple[str, int], list[RunRecord]]) -> None:
    at = 0
    for kind, words in KINDS.items():
        percents = sorted(percent for name, percent in runs if name == kind)
        values = [[run.metrics[TEST].get(STD_OF_CHANGE) for run in runs[kind, percent]] for percent in percents]
        whole = [(p, [v for v in each if v is not None]) for p, each in zip(percents, values, strict=True)]
        defined = [(p, each) for p, each in whole if each]
        if defined:
            curve(axes, [p for p, _ in defined], [float(np.mean(each)) for _, each in defined], at, words)
            at += 1


def _groups(axes: Axes, runs: Mapping[tuple[str, int], list[RunRecord]], column: str) -> None:
    top = max((percent for _, percent in runs), default=0)
    arms = [((FULL, 0), "full"), *(((kind, top), f"{KINDS[kind]}, {top} %") for kind in SHOWN)]
    present = [(key, words) for key, words in arms if key in runs]
    names: list[str] = []
    for at, (key, words) in enumerate(present):
        values = [_values(run, column) for run in runs[key]]
        names = [n for n in values[0]["group_accuracy"] if all(v["group_accuracy"].get(n) is not None for v in values)]
        if not names:
            continue
        mean = np.array([[v["group_accuracy"][n] for n in names] for v in values]).mean(axis=0)
        ends = np.array([[v["group_interval"][n] for n in names] for v in values]).mean(axis=0)
        places = np.arange(len(names)) + 0.18 * (at - (len(present) - 1) / 2)
        curve(axes, places.tolist(), mean, at, words, yerr=np.abs(ends.T - mean), joined=False)
    axes.set_xticks(range(len(names)), names, rotation=60 if len(names) > 4 else 0, fontsize=7)


def _values(run: RunRecord, column: str) -> Mapping[str, Any]:
    values: Mapping[str, Any] = run.metrics[TEST]
    return values["by"][column] if column else values


def _titled(task: str) -> str:
    return f"{task.rstrip('_')}: " if task else ""
