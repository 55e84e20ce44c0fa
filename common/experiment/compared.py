"""Compressed arms against the uncompressed model of the same seed: what `common.experiment.compare` finds, and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from common.fairness.groups import FloatArray
from common.fairness.multiplicity import benjamini_hochberg, holm
from common.fairness.paired import Effect

DEMOGRAPHIC, GENERATED, CLASSES = "demographic groups", "generated groups", "classes"
KINDS = {
    DEMOGRAPHIC: "groups of real people",
    GENERATED: "groups of generated faces, with a planted gap; they say nothing about real people",
    CLASSES: "the classes of a classifier taken for groups; no demographic groups",
}
MORE, LESS, OPEN, ONE = "more", "less", "inconclusive", "one seed"
LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """A compressed arm against its uncompressed model, percent points, positive = lost.

    Attributes:
        key, scale: of the table; task: `"verification"` or `"classification"`; kind: one of `KINDS`.
        arm, title, method: name, title and series of the arm; reference: name of the uncompressed one.
        left: percent of the reference's size that is left; counted: `"weights"` or `"bytes"`.
        seeds: paired ones; people: number resampled; groups: number of groups measured.
        overall, worst, excess: drops (see `common.fairness.disadvantaged`); `excess.p_adjusted` is corrected over all
            comparisons of the same kind (Benjamini and Hochberg).
        worst_group: chosen most often as worst off before; chosen: share of the choices.
        stale: modules that have changed since the runs were made.
    """

    key: str
    scale: str
    task: str
    kind: str
    arm: str
    title: str
    method: str
    reference: str
    left: float
    counted: str
    seeds: tuple[int, ...]
    people: int
    groups: int
    overall: Effect
    worst: Effect
    excess: Effect
    worst_group: str
    chosen: float
    stale: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Whether the worst group lost more or less than everyone, after correction."""
        return verdict_of(self.excess, len(self.seeds))


@dataclass(frozen=True)
class TableMean:
    """The excess averaged over the compressed arms of a table; `excess.p_adjusted` is corrected over the tables of the
    same kind (Holm)."""

    key: str
    scale: str
    kind: str
    arms: int
    seeds: tuple[int, ...]
    excess: Effect
    stale: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """As of a comparison."""
        return verdict_of(self.excess, len(self.seeds))


Entry = TypeVar("Entry", Comparison, TableMean)


@dataclass(frozen=True)
class Compared:
    """The comparisons of several tables, and what could not be compared: (table, arm or empty, why)."""

    comparisons: tuple[Comparison, ...] = ()
    means: tuple[TableMean, ...] = ()
    omitted: tuple[tuple[str, str, str], ...] = ()


def verdict_of(excess: Effect, seeds: int) -> str:
    """`more`, `less`, `inconclusive`, or `one seed` where training luck is unknown and nothing is judged."""
    if seeds < 2:
        return ONE
    if not excess.p_adjusted <= LEVEL:
        return OPEN
    return MORE if excess.value > 0 else LESS


def corrected(tables: Sequence[Compared]) -> Compared:
    """All tables together, p-values corrected within each kind of groups: over comparisons (false discovery rate,
    Benjamini and Hochberg) and over table means (Holm). Comparisons of one seed are not judged and do not count."""
    return Compared(
        _adjusted([one for table in tables for one in table.comparisons], benjamini_hochberg),
        _adjusted([one for table in tables for one in table.means], holm),
        tuple(one for table in tables for one in table.omitted),
    )


def _adjusted(entries: list[Entry], correct: Callable[[list[float]], FloatArray]) -> tuple[Entry, ...]:
    for kind in KINDS:
        places = [i for i, one in enumerate(entries) if one.kind == kind and len(one.seeds) > 1]
        adjusted = correct([entries[i].excess.p for i in places])
        for i, p in zip(places, adjusted, strict=True):
            entries[i] = replace(entries[i], excess=replace(entries[i].excess, p_adjusted=float(p)))
    return tuple(entries)
