"""The rows of a table: what the finished runs of an arm say, and what the paper reports for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np

from common.experiment.records import RunRecord

PAPER_SCALE = "paper"


@dataclass(frozen=True)
class Cell:
    """A number of an arm over its finished seeds.

    Attributes:
        mean: over seeds; None when it is undefined at one of them.
        std: sample standard deviation over seeds (ddof 1); None for fewer than two.
        values: (seed, value) of every finished run; None = undefined there.
    """

    mean: float | None
    std: float | None
    values: tuple[tuple[int, float | None], ...]


@dataclass(frozen=True)
class Column:
    """What a column holds.

    Attributes:
        key: `"<pair set>:<metric>"`, or the name of a cost; title: printed; help: what it is, in one line.
        unit: `"%"`, `"pp"`, `"ratio"`, `"loss"`, `"x"`, `"count"`, `"layers"` or `"bytes"`.
    """

    key: str
    title: str
    unit: str
    help: str


@dataclass(frozen=True)
class Reported:
    """A number that the paper reports.

    Attributes:
        row, metric, value, unit: as in `paper.toml`; source: where it was read; verified: whether it was read there.
        scale: of the experiment that gave it; spread: what the paper states after its +-; tolerance: how far ours may
            lie from it.
    """

    row: str
    metric: str
    value: float
    unit: str
    source: str
    verified: bool
    scale: str = PAPER_SCALE
    spread: float | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class Row:
    """One arm.

    Attributes:
        name, title: of the arm; series, bits: where the figure draws it.
        seeds: finished ones; planned: number of seeds that were asked for.
        word: printed instead of numbers when no run is finished (the worst status of its runs); else empty.
        problems: what happened to the runs that are not ok.
        cells: column key -> number; groups: pair set -> group -> accuracy in percent.
        reported: metric -> the paper's number for this arm; reproduced: metric -> whether ours agrees (scale `paper`
            only).
        missed: metric -> ours minus the paper's number, where it was not reproduced.
        stale: modules that have changed since the runs were made; empty when the numbers are those of the present code.
        baseline: name of the arm that its groups' losses are counted from; empty for none.
        teacher: name of the arm that it learned from; empty for none.
    """

    name: str
    title: str
    series: str
    bits: float | None
    seeds: tuple[int, ...]
    planned: int
    word: str
    problems: tuple[str, ...]
    cells: Mapping[str, Cell]
    groups: Mapping[str, Mapping[str, Cell]]
    reported: Mapping[str, Reported] = field(default_factory=dict)
    reproduced: Mapping[str, bool] = field(default_factory=dict)
    missed: Mapping[str, float] = field(default_factory=dict)
    stale: tuple[str, ...] = ()
    baseline: str = ""
    teacher: str = ""


def cell(values: Sequence[tuple[int, float | None]]) -> Cell:
    """Mean and sample standard deviation over seeds; undefined where one of them is."""
    defined = [value for _, value in values if value is not None and math.isfinite(value)]
    whole = len(defined) == len(values) > 0
    return Cell(
        mean=float(np.mean(defined)) if whole else None,
        std=float(np.std(defined, ddof=1)) if whole and len(defined) > 1 else None,
        values=tuple(
            (seed, None if value is None or not math.isfinite(value) else float(value)) for seed, value in values
        ),
    )


def make_row(
    arm: Mapping[str, Any],
    runs: Sequence[RunRecord],
    columns: Sequence[Column],
    sets: Sequence[str],
    numbers: Sequence[Reported],
    scale: str,
    tolerance: float | None,
    stale: Mapping[str, Sequence[str]],
) -> Row:
    """The row of an arm from its runs.

    Args:
        arm, runs, columns, scale, tolerance, stale: see `build_table`.
        sets: the measured pair sets. numbers: all of the paper's.
    """
    name, bits = str(arm["name"]), arm.get("bits")
    mine = sorted((run for run in runs if run.arm == name), key=lambda run: run.seed)
    ok = [run for run in mine if run.ok]
    cells = {column.key: _cell(ok, column.key, bits) for column in columns if ok}
    reported = {n.metric: n for n in numbers if n.row == (arm.get("reported_key") or name)}
    return Row(
        name=name,
        title=str(arm.get("title") or name),
        series=str(arm.get("series") or ""),
        bits=None if bits is None else float(bits),
        seeds=tuple(run.seed for run in ok),
        planned=len(mine),
        word="" if ok else _word(mine),
        problems=_problems(mine),
        cells=cells,
        groups={s: _groups(ok, s) for s in sets if any(group_accuracy(run, s) for run in ok)},
        reported=reported,
        reproduced=(found := _reproduced(reported, cells, tolerance) if scale == PAPER_SCALE else {}),
        missed={m: _ours(cells, m, 0.0) - reported[m].value for m, agrees in found.items() if not agrees},
        stale=tuple(sorted({module for run in ok for module in stale.get(run.digest, ())})),
        baseline=str(arm.get("baseline") or ""),
        teacher=str(arm.get("teacher") or ""),
    )


def _reproduced(
    reported: Mapping[str, Reported], cells: Mapping[str, Cell], tolerance: float | None
) -> dict[str, bool]:
    """Whether our number lies within the paper's spread or the stated tolerance; absent where neither is known."""
    found = {}
    for metric, number in reported.items():
        ours = _ours(cells, metric)
        limits = [limit for limit in (number.spread, number.tolerance) if limit is not None]
        limits = limits or ([tolerance] if tolerance is not None else [])
        comparable = number.scale == PAPER_SCALE and number.verified and number.unit == "%"
        if comparable and limits and ours is not None:
            found[metric] = abs(ours - number.value) <= max(limits) + 1e-9
    return found


@overload
def _ours(cells: Mapping[str, Cell], metric: str) -> float | None: ...
@overload
def _ours(cells: Mapping[str, Cell], metric: str, default: float) -> float: ...
def _ours(cells: Mapping[str, Cell], metric: str, default: float | None = None) -> float | None:
    """Our mean for a metric of the paper: the key of a column, or the name of a pair set for its accuracy."""
    found = cells.get(metric) or cells.get(f"{metric}:accuracy")
    return default if found is None or found.mean is None else found.mean


def make_reported(entry: Mapping[str, Any]) -> Reported:
    """One entry of `paper.toml`."""
    optional = {name: float(entry[name]) for name in ("spread", "tolerance") if entry.get(name) is not None}
    return Reported(
        row=str(entry["row"]),
        metric=str(entry["metric"]),
        value=float(entry["value"]),
        unit=str(entry["unit"]),
        source=str(entry["source"]),
        verified=bool(entry["verified"]),
        scale=str(entry.get("scale", PAPER_SCALE)),
        **optional,
    )


def _cell(ok: Sequence[RunRecord], key: str, bits: float | None) -> Cell:
    """A number over seeds; empty, not undefined, on a set that the arm was not measured on, and where it does not apply."""
    pair_set, _, metric = key.rpartition(":")
    on = [run for run in ok if not pair_set or metric in run.metrics.get(pair_set, {})]
    return cell([(run.seed, _value(run, key, bits)) for run in on])


def with_drop(row: Row, baseline: Row | None, pair_set: str, key: str) -> Row:
    """The row with the loss of the group that lost most against the baseline, at the seeds that both have.

    Which group that is, is decided by the mean over seeds; the cell holds its losses, in percent points.
    """
    if baseline is None or not (row.groups.get(pair_set) and baseline.groups.get(pair_set)):
        return replace(row, cells={**row.cells, key: Cell(None, None, ())}) if row.cells else row
    losses = []
    for name, here in row.groups[pair_set].items():
        before = dict(baseline.groups[pair_set][name].values) if name in baseline.groups[pair_set] else {}
        pairs = [(seed, before.get(seed), value) for seed, value in here.values]
        loss = cell([(seed, then - now) for seed, then, now in pairs if then is not None and now is not None])
        losses += [loss] if loss.mean is not None else []
    largest = max(losses, key=lambda loss: loss.mean or 0.0, default=Cell(None, None, ()))
    return replace(row, cells={**row.cells, key: largest})


def with_gaps(row: Row, teacher: Row | None, pair_set: str, gap: str, transfer: str) -> Row:
    """The row with its group gap and with that gap minus its teacher's, at the seeds that both have.

    A gap is the highest minus the lowest accuracy of a group, in percent points; undefined where a group's accuracy is.
    """
    if not row.cells:
        return row
    own = _gaps(row, pair_set)
    learned_from = {} if teacher is None else _gaps(teacher, pair_set)
    change = [
        (seed, None if value is None or learned_from[seed] is None else value - (learned_from[seed] or 0.0))
        for seed, value in own.items()
        if seed in learned_from
    ]
    return replace(row, cells={**row.cells, gap: cell(list(own.items())), transfer: cell(change)})


def _gaps(row: Row, pair_set: str) -> dict[int, float | None]:
    """Seed -> largest difference between two groups' accuracies."""
    groups = [dict(found.values) for found in row.groups.get(pair_set, {}).values()]
    gaps: dict[int, float | None] = {}
    for seed in row.seeds if groups else ():
        values = [group.get(seed) for group in groups]
        known = [value for value in values if value is not None]
        gaps[seed] = max(known) - min(known) if len(known) == len(values) else None
    return gaps


def _value(run: RunRecord, key: str, bits: float | None) -> float | None:
    pair_set, _, metric = key.rpartition(":")
    if pair_set:
        value = run.metrics.get(pair_set, {}).get(metric)
    elif key == "nominal":
        value = None if not bits else 32 / bits
    else:
        value = run.cost.get(key)
        value = len(value) if isinstance(value, list) else value
    return None if value is None else float(value)


def _groups(ok: Sequence[RunRecord], pair_set: str) -> dict[str, Cell]:
    names = dict.fromkeys(name for run in ok for name in group_accuracy(run, pair_set))
    return {name: cell([(run.seed, group_accuracy(run, pair_set).get(name)) for run in ok]) for name in names}


def group_accuracy(run: RunRecord, pair_set: str) -> Mapping[str, float | None]:
    """Accuracy of every group on a pair set, percent; empty where it was not measured."""
    return run.metrics.get(pair_set, {}).get("group_accuracy") or {}


def _word(mine: Sequence[RunRecord]) -> str:
    """What to say of an arm without a finished run: the worst that happened to it."""
    statuses = {run.status for run in mine}
    return next((word for word in ("damaged", "failed", "stale", "interrupted") if word in statuses), "not run")


def _problems(mine: Sequence[RunRecord]) -> tuple[str, ...]:
    """What happened to the runs that are not ok; runs that share a fate share a line."""
    fates: dict[tuple[str, str], list[int]] = {}
    for run in mine:
        if not run.ok:
            error = run.error or {}
            why = ": ".join(str(error[name]) for name in ("type", "message") if error.get(name))
            fates.setdefault((run.status, why), []).append(run.seed)
    return tuple(
        f"{mine[0].arm} {status} at seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        + (f" ({why})" if why else "")
        for (status, why), seeds in fates.items()
    )
