"""Subject (vertex) bootstrap of verification pairs.

Pairs share people, so they are not independent, and resampling pairs gives intervals that are far too narrow. Here
people are drawn with replacement, within each demographic group: a subject drawn m times gives its mated pairs weight
m_i and its non-mated pairs weight m_i m_j (Fogliato, Patil & Perona, IJCV 2024, "vertex bootstrap"). A rate of a draw
is a weighted mean over the same pairs, so that thousands of draws are a few matrix products. The stratification by
group is our choice; subjects of no group form a stratum of their own.

Two models are compared on the *same* draws: the multiplicities depend on the seed and on who is in the pair list only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.fairness.groups import BoolArray, FloatArray, IntArray, accepted_allowance, check_pairs, check_scores

WeightArray = npt.NDArray[np.float32]
BLOCK_BYTES = 1 << 23  # weights of one block of draws: what a core's cache still holds was fastest


@dataclass(frozen=True)
class SubjectTable:
    """Who is in a pair list: ids and strata of the S subjects (by stratum, then id), and the row of each pair's two."""

    subject: IntArray
    stratum: IntArray
    first: IntArray
    second: IntArray

    @property
    def mated(self) -> BoolArray:
        """Pairs of one person with itself, bool [P]."""
        return self.first == self.second


def subject_table(subject_a: npt.ArrayLike, subject_b: npt.ArrayLike, group: npt.ArrayLike) -> SubjectTable:
    """Find the subjects of a pair list and the group of each, from int arrays [P].

    Raises ValueError when a subject appears in pairs of two groups: then people are not nested in groups, and drawing
    them within groups would be meaningless.
    """
    names = [str(i) for i in range(int(np.max(group, initial=-1)) + 1)]
    groups = check_pairs(group, names, subject_a=subject_a, subject_b=subject_b)
    both = np.concatenate([np.asarray(subject_a), np.asarray(subject_b)])
    subject, member = np.unique(both, return_inverse=True)
    pair_group = np.tile(groups, 2)
    stratum = np.full(subject.size, -1, dtype=np.int64)
    inside = pair_group >= 0
    stratum[member[inside]] = pair_group[inside]
    torn = inside & (stratum[member] != pair_group)
    if torn.any():
        who = member[np.flatnonzero(torn)[0]]
        raise ValueError(
            f"Subject {subject[who]} appears in pairs of groups {np.unique(pair_group[inside & (member == who)])}, but "
            "a subject belongs to one group. Give pairs of people from two groups the group -1."
        )
    order = np.lexsort((subject, stratum))
    row = np.empty_like(order)
    row[order] = np.arange(order.size)
    first, second = np.split(row[member], 2)
    return SubjectTable(subject[order].astype(np.int64), stratum[order], first, second)


def multiplicities(table: SubjectTable, draws: int, seed: int) -> Iterator[WeightArray]:
    """How often each subject is drawn, in blocks of float32 [S, some draws]; each stratum keeps its size in every draw.

    Neither the size of the blocks nor the total number of draws changes a draw.
    """
    rng = np.random.default_rng(seed)
    _, start, member, size = np.unique(table.stratum, return_index=True, return_inverse=True, return_counts=True)
    subjects = table.subject.size
    widest = max(1, BLOCK_BYTES // (4 * max(table.first.size, subjects, 1)))
    for done in range(0, draws, widest):
        width = min(widest, draws - done)
        picked = (rng.random((width, subjects)) * size[member]).astype(np.int64) + start[member]
        flat = picked * width + np.arange(width)[:, None]
        yield np.bincount(flat.ravel(), minlength=subjects * width).reshape(subjects, width).astype(np.float32)


def pair_weights(times: npt.ArrayLike, table: SubjectTable) -> WeightArray:
    """Weights [draws, P] from multiplicities [S, draws]: m_i of a mated pair, m_i m_j of a non-mated one.

    The memory is laid out pair by pair (column-major), which is what the sums over pairs below read fastest.
    """
    factor = np.vstack([np.asarray(times, dtype=np.float32), np.ones((1, np.shape(times)[1]), dtype=np.float32)])
    weights = factor[table.first]
    weights *= factor[np.where(table.mated, -1, table.second)]
    return weights.T


def weight_blocks(
    subject_a: npt.ArrayLike, subject_b: npt.ArrayLike, group: npt.ArrayLike, draws: int, seed: int
) -> Iterator[WeightArray]:
    """The rows of :func:`subject_weights` in blocks of bounded memory, float32 [some draws, P]."""
    table = subject_table(subject_a, subject_b, group)
    for times in multiplicities(table, draws, seed):
        yield pair_weights(times, table)


def subject_weights(
    subject_a: npt.ArrayLike, subject_b: npt.ArrayLike, group: npt.ArrayLike, draws: int, seed: int
) -> WeightArray:
    """Weight of every pair in every draw of the subjects, float32 [draws, P] (4 bytes x draws x P of memory).

    Args:
        subject_a, subject_b: int [P]. group: int [P], -1 = no group. seed: of the draws.

    Raises ValueError when a subject appears in two groups. For long pair lists, use :func:`weight_blocks`.
    """
    table = subject_table(subject_a, subject_b, group)
    weights = np.empty((table.first.size, draws), dtype=np.float32)
    done = 0
    for times in multiplicities(table, draws, seed):
        weights[:, done : done + times.shape[1]] = pair_weights(times, table).T
        done += times.shape[1]
    return weights.T


def accuracy_draws(
    correct: npt.ArrayLike, weights: WeightArray, same: npt.ArrayLike, group: npt.ArrayLike, n_groups: int
) -> FloatArray:
    """Accuracy of S runs in every draw, fractions, float64 [draws, S, n_groups + 1]; the last entry is over all pairs.

    A draw changes how many mated and non-mated pairs a group has, while the protocol fixes their shares (half and half,
    mostly). So both parts are averaged by themselves and joined in the proportions of the pair list.

    Args:
        correct: bool [S, P] (or [P]), the decisions of S runs on the same pairs.
        weights: float32 [draws, P] of :func:`subject_weights`. same: bool [P]. group: int [P], -1 = no group.

    A draw in which a part of a group has no weight left is NaN there.
    """
    wrong = ~np.atleast_2d(np.asarray(correct, dtype=bool))
    mated = np.asarray(same, dtype=bool)
    groups = check_pairs(group, [str(i) for i in range(n_groups)], same=mated, correct=wrong[0])
    error = np.zeros((n_groups + 1, wrong.shape[0], weights.shape[0]))  # summed as errors: none at all is exactly 0
    sizes = [*np.bincount(groups[groups >= 0], minlength=n_groups), groups.size]
    for part in (mated, ~mated):
        overall = np.zeros((wrong.shape[0] + 1, weights.shape[0]))
        for g in range(-1, n_groups):
            rows = np.flatnonzero(part & (groups == g))
            if rows.size:
                sums = _weighted_sums(wrong[:, rows], weights, rows)
                overall += sums
                if g >= 0:
                    error[g] += rows.size / sizes[g] * _divide(sums[:-1], sums[-1])
        if part.any():
            error[-1] += part.sum() / sizes[-1] * _divide(overall[:-1], overall[-1])
    error[np.array(sizes) == 0] = np.nan
    return np.ascontiguousarray((1 - error).transpose(2, 1, 0))


def _weighted_sums(wrong: BoolArray, weights: WeightArray, rows: IntArray) -> FloatArray:
    """Weight of the wrong pairs of each run, and of all (last row), among ``rows`` of the pairs: [S + 1, draws]."""
    whole = rows.size == rows[-1] - rows[0] + 1
    block = weights.T[rows[0] : rows[-1] + 1] if whole else weights.T[rows]
    what = np.vstack([wrong, np.ones((1, rows.size), dtype=bool)]).astype(np.float32)
    return np.asarray(what @ block, dtype=np.float64)  # sums of small integers: exact in float32 up to 2^24


def _divide(above: npt.ArrayLike, below: npt.ArrayLike) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.divide(above, below), dtype=np.float64)


def threshold_draws(
    score: npt.ArrayLike, non_mated: npt.ArrayLike, weights: WeightArray, target_fmr: float
) -> FloatArray:
    """The threshold of ``target_fmr`` in every draw, float64 [draws]: its uncertainty belongs to the rates' own.

    Same rule as ``operating_point``: the score at place floor(f N) of the descending list in which a pair stands as
    often as its weight says. ``non_mated`` bool [P]. NaN in draws where these pairs have no weight.
    """
    scores = check_scores(score)
    rows = np.flatnonzero(np.asarray(non_mated, dtype=bool))
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    total = weights.T[rows].sum(axis=0, dtype=np.float64)
    allowed = accepted_allowance(target_fmr, total)
    head = min(rows.size, int(4 * target_fmr * rows.size) + 64)
    passed = np.cumsum(weights.T[rows[:head]], axis=0)
    if head < rows.size and (passed[-1] <= allowed).any():  # rare: a draw heavy with low scores
        passed = np.cumsum(weights.T[rows], axis=0)
    place = np.count_nonzero(passed <= allowed, axis=0)
    return np.where(total > 0, scores[rows[np.minimum(place, rows.size - 1)]] if rows.size else np.nan, np.nan)


def error_draws(
    score: npt.ArrayLike,
    weights: WeightArray,
    same: npt.ArrayLike,
    group: npt.ArrayLike,
    n_groups: int,
    threshold: float | FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """FMR and FNMR of every group in every draw, two float64 [draws, n_groups + 1]; the last entry is over all pairs.

    Args:
        score: float [P]; a pair is accepted iff its score > threshold. threshold: one for all draws, or [draws].
        Others as in :func:`accuracy_draws`.
    """
    scores, mated = check_scores(score), np.asarray(same, dtype=bool)
    groups = check_pairs(group, [str(i) for i in range(n_groups)], score=scores, same=mated)
    limit = np.broadcast_to(np.asarray(threshold, dtype=np.float64), weights.shape[:1])
    rates = []
    for part, wrong_when_accepted in ((~mated, True), (mated, False)):
        wrong, total = np.zeros((2, n_groups + 1, weights.shape[0]))
        for g in range(-1, n_groups):
            rows = np.flatnonzero(part & (groups == g))
            block = weights.T[rows]
            accepted = np.einsum("pd,pd->d", block, scores[rows, None] > limit, dtype=np.float64)
            # the place of group -1 is the last, which becomes the sum over all
            total[g] = block.sum(axis=0, dtype=np.float64)
            wrong[g] = accepted if wrong_when_accepted else total[g] - accepted
        wrong[-1], total[-1] = wrong.sum(axis=0), total.sum(axis=0)
        rates.append(_divide(wrong, total).T)
    return rates[0], rates[1]
