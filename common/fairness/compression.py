"""Who pays for compression: measures that compare dense models with compressed ones.

A population is K models that differ by their seed; K = 1 turns exemplars into plain disagreement of two models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from common.fairness.groups import BoolArray, FloatArray, GroupRates, IntArray, check_pairs
from common.fairness.summary import Summary


def norm_difference(
    dense: npt.ArrayLike, compressed: npt.ArrayLike, dense_overall: float, compressed_overall: float
) -> FloatArray:
    """(acc_g^c - acc^c) - (acc_g^d - acc^d) of every group [G]; positive = relatively spared (Hooker et al. 2019).

    The sum over groups weighted by their sizes is 0 when the overall accuracies are over the same samples.
    """
    return np.asarray(
        (np.asarray(compressed) - compressed_overall) - (np.asarray(dense) - dense_overall), dtype=np.float64
    )


@dataclass(frozen=True)
class GroupShift:
    """Shift of every group against the overall change, and Welch's t-test of it; arrays [G].

    ``t`` has the dense population first: positive = the group lost more than the average.
    """

    shift: FloatArray
    t: FloatArray
    p: FloatArray


def impacted_groups(
    dense: npt.ArrayLike, compressed: npt.ArrayLike, dense_overall: npt.ArrayLike, compressed_overall: npt.ArrayLike
) -> GroupShift:
    """Which groups (or classes) compression moves more than the average (Hooker et al. 2019; gen_tstatistic.py).

    The populations' mean overall accuracy is taken off every model's group accuracy, and the two sets of K numbers of a
    group are compared by Welch's two-sided t-test.

    Args:
        dense, compressed: accuracy (or recall) of K models in G groups, [K, G]; K may differ.
        dense_overall, compressed_overall: overall accuracy of the models, [K].

    Raises ValueError with fewer than two models in a population.
    """
    before, after = np.asarray(dense, dtype=np.float64), np.asarray(compressed, dtype=np.float64)
    if min(len(before), len(after)) < 2:
        raise ValueError(f"A t-test needs two models a population, but there are {len(before)} and {len(after)}.")
    base = before - float(np.asarray(dense_overall, dtype=np.float64).mean())
    other = after - float(np.asarray(compressed_overall, dtype=np.float64).mean())
    found = stats.ttest_ind(base, other, equal_var=False)
    return GroupShift(other.mean(axis=0) - base.mean(axis=0), np.asarray(found.statistic), np.asarray(found.pvalue))


def rate_change(dense: GroupRates, compressed: GroupRates) -> dict[str, dict[str, Summary]]:
    """Relative change of an error rate in every group, and its excess over the overall change (Hooker et al. 2020).

    ``change`` = (rate^c - rate^d) / rate^d, as a fraction (0.5 = half as many errors again); ``excess`` = change of the
    group - change over all pairs. Undefined with a reason when the dense rate is zero or a rate is missing.
    """
    overall = _change(dense.overall, compressed.overall, "the dense model makes no error at all")
    out: dict[str, dict[str, Summary]] = {}
    for i, name in enumerate(dense.group_names):
        why = dense.skipped.get(name) or compressed.skipped.get(name) or f"the dense {dense.metric} of {name!r} is zero"
        change = _change(float(dense.rate[i]), float(compressed.rate[i]), why)
        excess = Summary(change.value - overall.value, change.reason or overall.reason)
        out[name] = {"change": change, "excess": excess}
    return out


def _change(before: float, after: float, reason: str) -> Summary:
    if not before > 0 or np.isnan(after):
        return Summary(float("nan"), reason)
    return Summary((after - before) / before)


@dataclass(frozen=True)
class Exemplars:
    """Compression-identified exemplars: bool [N], and how many samples had no single most frequent label."""

    identified: BoolArray
    dense_mode: IntArray
    compressed_mode: IntArray
    dense_ties: int
    compressed_ties: int


def modal_label(prediction: npt.ArrayLike, n_classes: int) -> tuple[IntArray, BoolArray]:
    """Most frequent label of every sample over K models, and whether it was tied; int [K, N] -> int64 [N], bool [N].

    Of tied labels the smallest is taken (our rule). Raises ValueError for labels outside 0..n_classes-1.
    """
    labels = np.atleast_2d(np.asarray(prediction, dtype=np.int64))
    if labels.size and (labels.min() < 0 or labels.max() >= n_classes):
        raise ValueError(f"Labels {labels.min()}..{labels.max()} do not fit {n_classes} classes (0..{n_classes - 1}).")
    samples = labels.shape[1]
    votes = np.bincount((labels + np.arange(samples) * n_classes).ravel(), minlength=samples * n_classes)
    votes = votes.reshape(samples, n_classes)
    return votes.argmax(axis=1), np.count_nonzero(votes == votes.max(axis=1, keepdims=True), axis=1) > 1


def identified_exemplars(dense: npt.ArrayLike, compressed: npt.ArrayLike, n_classes: int) -> Exemplars:
    """Samples whose modal label differs between the populations (PIE / CIE, Hooker et al. 2019, 2020).

    ``dense``, ``compressed``: predicted labels, int [K, N]. The true label plays no part.
    """
    before, dense_tied = modal_label(dense, n_classes)
    after, compressed_tied = modal_label(compressed, n_classes)
    return Exemplars(before != after, before, after, int(dense_tied.sum()), int(compressed_tied.sum()))


def pie_all_runs(base: npt.ArrayLike, compressed: npt.ArrayLike) -> BoolArray:
    """Samples on which all of K compressed models [K, N] disagree with one base model [N]: a stricter exemplar."""
    return np.asarray((np.atleast_2d(np.asarray(compressed)) != np.asarray(base)).all(axis=0))


def over_representation(
    identified: npt.ArrayLike, group: npt.ArrayLike, group_names: Sequence[str]
) -> Mapping[str, Summary]:
    """Share of each group among the exemplars over its share of all samples; 1 = as often as its size says.

    ``identified`` bool [N]; ``group`` int [N], -1 = no group, left out.
    """
    groups = check_pairs(group, group_names, identified=identified)
    inside = groups >= 0
    size = np.bincount(groups[inside], minlength=len(group_names))
    hit = np.bincount(groups[inside & np.asarray(identified, dtype=bool)], minlength=len(group_names))
    out = {}
    for i, name in enumerate(group_names):
        if not hit.sum():
            out[name] = Summary(float("nan"), "no sample is an exemplar")
        elif not size[i]:
            out[name] = Summary(float("nan"), f"group {name!r} has no sample")
        else:
            out[name] = Summary(float(hit[i] / hit.sum() / (size[i] / size.sum())))
    return out
