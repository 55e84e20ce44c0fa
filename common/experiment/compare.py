"""Compare the arms of a table with their uncompressed models, from stored decisions.

The uncompressed model of an arm is named by its table; what cannot be compared is kept with the reason in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.experiment.compared import Compared, Comparison, TableMean
from common.experiment.records import RunRecord
from common.fairness.disadvantaged import Drops, disadvantaged_drops

SMALLER = 1.005  # a model this much smaller than its baseline counts as compressed


@dataclass(frozen=True)
class Asked:
    """An arm whose drops are wanted.

    Attributes:
        name, title, series: of the arm. reference: name of its uncompressed model; empty if the table names none.
    """

    name: str
    title: str
    series: str
    reference: str


def compare_table(
    records: Sequence[RunRecord],
    arms: Sequence[Asked],
    fairness_set: str | None,
    *,
    key: str,
    scale: str,
    kind: str,
    stale: Mapping[str, Sequence[str]] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Compared:
    """Compare the arms of one table, uncorrected (see `corrected`).

    Args:
        records: its runs. arms: rows in printing order. fairness_set: pair set whose groups are looked at.
        key, scale, kind: see `Comparison`. stale: digest -> modules that have changed since. draws, seed: of the bootstrap.
    """
    label = f"{key} {scale}"
    if fairness_set is None:
        return Compared(omitted=((label, "", "no groups were measured"),))
    runs: dict[str, dict[int, RunRecord]] = {}
    for record in records:
        if record.ok and fairness_set in record.correct:
            runs.setdefault(record.arm, {})[record.seed] = record
    tables = [run.pairs[fairness_set] for found in runs.values() for run in found.values()]
    if tables and not any((table.group >= 0).any() for table in tables):
        return Compared(omitted=((label, "", f"'{fairness_set}' has no groups"),))
    omitted: list[tuple[str, str, str]] = []
    families: dict[tuple[str, tuple[int, ...]], list[Asked]] = {}
    for arm in arms:
        why = _unfit(arm, runs, fairness_set)
        if why:
            omitted.append((label, arm.name, why))
        else:
            families.setdefault((arm.reference, _shared(arm, runs)), []).append(arm)
    comparisons: list[Comparison] = []
    means: list[TableMean] = []
    for (reference, seeds), members in families.items():
        try:
            found = _drops(reference, seeds, members, runs, fairness_set, draws, seed)
        except ValueError as error:
            omitted += [(label, arm.name, str(error)) for arm in members]
            continue
        made = [
            _comparison(arm, i, found, runs, seeds, fairness_set, key, scale, kind, stale or {})
            for i, arm in enumerate(members)
        ]
        comparisons += made
        changed = tuple(sorted({module for one in made for module in one.stale}))
        mean = found.mean_excess(range(len(members)))
        means.append(TableMean(key, _of(scale, reference, families), kind, len(members), seeds, mean, changed))
    order = {arm.name: at for at, arm in enumerate(arms)}
    comparisons.sort(key=lambda one: order[one.arm])
    return Compared(tuple(comparisons), tuple(means), tuple(omitted))


def _of(scale: str, reference: str, families: Mapping[tuple[str, tuple[int, ...]], Sequence[Asked]]) -> str:
    """The scale, with the uncompressed model where a table has several."""
    return scale if len(families) == 1 else f"{scale}, {reference}"


def _shared(arm: Asked, runs: Mapping[str, Mapping[int, RunRecord]]) -> tuple[int, ...]:
    return tuple(sorted(runs[arm.name].keys() & runs[arm.reference].keys()))


def _unfit(arm: Asked, runs: Mapping[str, Mapping[int, RunRecord]], fairness_set: str) -> str:
    """Why an arm cannot be compared; empty if it can."""
    if not arm.reference:
        return "the table names no uncompressed model for it"
    for name in (arm.name, arm.reference):
        if not runs.get(name):
            return f"{name} has no finished run on '{fairness_set}'"
    seeds = _shared(arm, runs)
    if not seeds:
        return f"no finished seed in common with {arm.reference}"
    mine, other = (runs[name][seeds[0]] for name in (arm.name, arm.reference))
    if not all(
        runs[name][seed].pairs[fairness_set].agrees_with(mine.pairs[fairness_set])
        for name in (arm.name, arm.reference)
        for seed in seeds
    ):
        return f"{arm.reference} was measured on other pairs or images"
    left, _ = size_left(mine, other)
    return "" if left is not None and left * SMALLER <= 100 else f"not smaller than {arm.reference}"


def size_left(compressed: RunRecord, reference: RunRecord) -> tuple[float | None, str]:
    """Percent of the reference's size that is left, and what was counted: kept prunable weights, or else stored bytes."""
    for name, words in (("kept", "weights"), ("stored_bytes", "bytes")):
        mine, whole = compressed.cost.get(name), reference.cost.get(name)
        if mine is not None and whole:
            return 100 * float(mine) / float(whole), words
    return None, ""


def _drops(
    reference: str,
    seeds: Sequence[int],
    members: Sequence[Asked],
    runs: Mapping[str, Mapping[int, RunRecord]],
    fairness_set: str,
    draws: int,
    seed: int,
) -> Drops:
    table = runs[reference][seeds[0]].pairs[fairness_set]

    def decisions(name: str) -> np.ndarray:
        return np.stack([runs[name][at].correct[fairness_set] for at in seeds])

    return disadvantaged_drops(
        decisions(reference),
        np.stack([decisions(arm.name) for arm in members]),
        table.same,
        table.group,
        table.group_names,
        table.subject_a,
        table.subject_b,
        draws=draws,
        seed=seed,
    )


def _comparison(
    arm: Asked,
    at: int,
    found: Drops,
    runs: Mapping[str, Mapping[int, RunRecord]],
    seeds: tuple[int, ...],
    fairness_set: str,
    key: str,
    scale: str,
    kind: str,
    stale: Mapping[str, Sequence[str]],
) -> Comparison:
    used = [runs[name][seed] for name in (arm.name, arm.reference) for seed in seeds]
    first = used[0]
    left, counted = size_left(first, runs[arm.reference][seeds[0]])
    worst_group = max(found.chosen, key=lambda name: found.chosen[name])
    changed = {module for run in used for module in (*run.stale, *stale.get(run.digest, ()))}
    effects = found.effects(at)
    return Comparison(
        key=key,
        scale=scale,
        task=str(first.metrics[fairness_set].get("task", "verification")),
        kind=kind,
        arm=arm.name,
        title=arm.title,
        method=arm.series or arm.title,
        reference=arm.reference,
        left=float(left or 0.0),
        counted=counted,
        seeds=seeds,
        people=first.pairs[fairness_set].subjects,
        groups=len(found.chosen),
        overall=effects["overall"],
        worst=effects["worst"],
        excess=effects["excess"],
        worst_group=worst_group,
        chosen=found.chosen[worst_group],
        stale=tuple(sorted(changed)),
    )
