"""Hierarchical bootstrap of the numbers of a table: seeds, then subjects, the same ones for every arm.

Comparisons share people and runs share test people, so neither pairs nor runs are independent. People are resampled by
the vertex bootstrap of `common.fairness.bootstrap`; the pair sets of one pool are resampled together, so that a person
is drawn as often in the easy set as in the hard one. Decisions stay what the 10-fold protocol made them: no threshold
is fitted again inside a draw.

With few seeds, resampling them with replacement understates how much training varies: the spread is too small by
(n-1)/n and the 95 % interval of n = 3 seeds is no wider than from the lowest to the highest of the three. The
deviation of a draw's seeds from their mean is therefore stretched until the variance of the draws is (t/z)^2 times the
unbiased one, with z the normal quantile and t the quantile of Student's distribution at Satterthwaite's degrees of
freedom: n - 1 if only seeds vary, many if mostly people do. (The plain correction is the expanded percentile interval
of Hesterberg, The American Statistician 69, 2015.)
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from common.experiment.claims import GROUP_PREFIX, Quantity
from common.experiment.records import PairTable
from common.fairness import summary
from common.fairness.bootstrap import SubjectTable, accuracy_draws, multiplicities, pair_weights, subject_table
from common.fairness.groups import FEWEST_SUBJECTS, subjects_per_group

FloatArray = npt.NDArray[np.float64]
SUMMARIES = {
    "worst_group": summary.worst_group,
    "group_gap": summary.group_gap,
    "group_std": summary.std_sample,
    "ser": lambda percent: summary.ser(percent / 100),
}


@dataclass(frozen=True)
class Accuracies:
    """Accuracies in percent of R runs on one pair set with G groups, as measured and in every draw.

    Attributes:
        table: the pair set.
        point: float64 [R, G + 1], the last column over all pairs; draws: float64 [B, R, G + 1], NaN where a draw took
            nobody.
    """

    table: PairTable
    point: FloatArray
    draws: FloatArray

    def of(self, quantity: Quantity) -> tuple[FloatArray, FloatArray]:
        """The quantity as measured [R] and in every draw [B, R], in percent points (SER: a ratio).

        A gap between groups is never negative, so that noise alone widens it, and widens it more for a less accurate
        network. What is measured is biased, and draws of it are biased once more: their shift against the measured
        value estimates one bias, and both are taken off the draws of every summary over groups. (Without that, two
        networks that treat groups alike were found to differ in 16 to 65 % of simulated experiments.) The measured
        value stays the one that the table shows.

        Raises:
            LookupError: the group it asks for is not measured; the message says why.
        """
        if quantity.metric == "accuracy":
            return self.point[:, -1], self.draws[..., -1]
        names, table = self.table.group_names, self.table
        people = subjects_per_group(table.group, len(names), table.subject_a, table.subject_b)
        measured = np.flatnonzero(people >= FEWEST_SUBJECTS)
        if quantity.metric.startswith(GROUP_PREFIX):
            name = quantity.metric[len(GROUP_PREFIX) :]
            if name not in names:
                known = ", ".join(names) or "none"
                raise LookupError(f"pair set '{quantity.pair_set}' has no group '{name}' (it has {known})")
            at = names.index(name)
            if at not in measured:
                raise LookupError(f"group '{name}' of pair set '{quantity.pair_set}' has {people[at]} people: too few")
            return self.point[:, at], self.draws[..., at]
        if len(measured) < 2:
            raise LookupError(f"pair set '{quantity.pair_set}' has fewer than two measured groups")
        function = SUMMARIES[quantity.metric]
        point, draws = function(self.point[:, measured]), function(self.draws[..., measured])
        return point, draws - 2 * _bias(point, draws)


def _bias(point: FloatArray, draws: FloatArray) -> FloatArray:
    """Mean of the defined draws [B, R] minus the measured value [R]; 0 where that is not defined."""
    defined = np.isfinite(draws) & np.isfinite(point)
    total = np.where(defined, draws - np.where(np.isfinite(point), point, 0), 0).sum(axis=0)
    return np.asarray(total / np.maximum(defined.sum(axis=0), 1))


def resampled_pool(
    tables: Mapping[str, PairTable], correct: Mapping[str, npt.NDArray[np.bool_]], draws: int, seed: int
) -> dict[str, Accuracies]:
    """Accuracies of several runs on the pair sets of one pool, on the same draws of its people.

    Args:
        tables: pair set -> its pairs; all of one pool.
        correct: pair set -> bool [R, P], decisions of R runs (R may differ between sets).
        draws: number of draws B; seed: of the random stream; every pool has its own stream.

    Returns:
        pair set -> accuracies. They depend on who is in the pool, not on the order of sets, pairs or runs.

    Raises:
        ValueError: a person appears in pairs of two groups.
    """
    names = sorted(tables)
    groups = sorted({group for name in names for group in tables[name].group_names})
    group = np.concatenate([_renamed(tables[name], groups) for name in names])
    first = np.concatenate([tables[name].subject_a for name in names])
    second = np.concatenate([tables[name].subject_b for name in names])
    people = subject_table(first, second, group)
    ends = np.cumsum([0, *(len(tables[name]) for name in names)])
    inside = {name: slice(start, end) for name, start, end in zip(names, ends, ends[1:], strict=False)}
    parts: dict[str, list[FloatArray]] = {name: [] for name in names}
    stream = zlib.crc32(f"{seed}/{tables[names[0]].pool}".encode())
    for times in multiplicities(people, draws, stream):
        for name in names:
            rows = SubjectTable(people.subject, people.stratum, people.first[inside[name]], people.second[inside[name]])
            parts[name].append(_accuracies(tables[name], correct[name], pair_weights(times, rows)))
    once = {name: np.ones((1, len(tables[name])), dtype=np.float32) for name in names}
    return {
        name: Accuracies(
            tables[name], _accuracies(tables[name], correct[name], once[name])[0], np.concatenate(parts[name])
        )
        for name in names
    }


def _accuracies(table: PairTable, correct: npt.NDArray[np.bool_], weights: npt.NDArray[np.float32]) -> FloatArray:
    return 100 * accuracy_draws(correct, weights, table.same, table.group, len(table.group_names))


def _renamed(table: PairTable, groups: Sequence[str]) -> npt.NDArray[np.int64]:
    """The groups of a table's pairs [P] as indices into the names of the whole pool; -1 stays."""
    return np.array([*(groups.index(name) for name in table.group_names), -1], dtype=np.int64)[table.group]


def draw_seeds(seeds: Sequence[int], draws: int, seed: int) -> FloatArray:
    """Deviation of the resampled seeds' weights from equal weights, float64 [B, n]; rows sum to 0 (0 for one seed)."""
    n = len(seeds)
    rng = np.random.default_rng([seed, zlib.crc32(b"seeds"), *sorted(seeds)])
    taken = rng.integers(0, n, (draws, n)) + n * np.arange(draws)[:, None]
    return np.bincount(taken.ravel(), minlength=draws * n).reshape(draws, n) / n - 1 / n


def stretch(seeds: int, level: float, between: float, within: float) -> float:
    """Factor on the seeds' deviation that makes a one-sided bound at `level` hold for few seeds (see the top).

    Args:
        seeds: their number n.
        level: 0 < level < 1/2, the share of draws beyond the bound.
        between: variance of the draws' seed deviation; within: variance of the draws over people.
    """
    if seeds < 2 or between <= 0:
        return 1.0
    unbiased = between * seeds / (seeds - 1)
    freedom = (seeds - 1) * (unbiased + within) ** 2 / unbiased**2
    level = min(level, 0.49)  # at 1/2 both quantiles are 0
    ratio = float(stats.t.isf(level, freedom) / stats.norm.isf(level))
    return float(np.sqrt(max(ratio**2 * (unbiased + within) - within, unbiased) / between))
