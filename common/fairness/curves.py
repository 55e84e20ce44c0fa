"""Group metrics of verification over thresholds, and those that are defined by how a threshold was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.fairness import summary
from common.fairness.groups import (
    FloatArray,
    GroupRates,
    check_pairs,
    check_scores,
    group_rates,
    operating_point,
    verification_rates,
)
from common.fairness.summary import NOT_ENOUGH, Summary


@dataclass(frozen=True)
class FdrCurve:
    """FDR, IR and GARBE over operating points, arrays [F]; NaN or inf where a summary is undefined.

    ``fmr`` is the target, ``realised`` what the threshold really has. ``area`` is the area under FDR over log10 of the
    target FMR divided by the length of that axis (auFDR): the mean FDR, in [0, 1], 1 = equal.
    """

    fmr: FloatArray
    realised: FloatArray
    fdr: FloatArray
    ir: FloatArray
    garbe: FloatArray
    area: Summary


def fdr_curve(
    score: npt.ArrayLike,
    same: npt.ArrayLike,
    group: npt.ArrayLike,
    group_names: Sequence[str],
    subject_a: npt.ArrayLike,
    subject_b: npt.ArrayLike,
    fmr: Sequence[float],
    alpha: float = 0.5,
) -> FdrCurve:
    """The summaries of the error rates at a row of global thresholds, one for each target FMR in rising order.

    Thresholds are chosen on the non-mated pairs within groups of these very scores. Arguments as in
    :func:`~common.fairness.groups.verification_rates`.

    Raises ValueError for targets that are not rising, or too low for the number of pairs.
    """
    targets = np.asarray(fmr, dtype=np.float64)
    if targets.size < 2 or not (np.diff(targets) > 0).all():
        raise ValueError(f"The targets of a curve must rise, and be two or more, but are {list(targets)}.")
    scores, mated = check_scores(score), np.asarray(same, dtype=bool)
    impostor = ~mated & (check_pairs(group, group_names, score=scores, same=mated) >= 0)
    rows, realised = [], []
    for target in targets:
        point = operating_point(scores, impostor, float(target))
        rates = verification_rates(scores, mated, group, group_names, subject_a, subject_b, point.threshold)
        both = rates["fmr"].measured & rates["fnmr"].measured
        pair = rates["fmr"].rate[both], rates["fnmr"].rate[both], alpha
        rows.append([float(call(*pair)) for call in (summary.fdr, summary.inequity_rate, summary.garbe)])
        realised.append(point.realised_fmr)
    values, ir, garbe = np.array(rows).T
    place = np.log10(targets)
    area = float(np.trapezoid(values, place) / (place[-1] - place[0]))
    reason = NOT_ENOUGH if np.isnan(area) else None
    return FdrCurve(targets, np.array(realised), values, ir, garbe, Summary(area, reason))


def accuracy_less_std(
    score: npt.ArrayLike,
    same: npt.ArrayLike,
    group: npt.ArrayLike,
    group_names: Sequence[str],
    threshold: npt.ArrayLike,
) -> FloatArray:
    """Pooled accuracy minus its standard deviation over groups (ddof 0), at every threshold: float64 [T], fractions.

    Public RFW evaluation code picks the *threshold* by its maximum; choose on other data than those that are reported.
    NaN with fewer than two groups.
    """
    scores, mated = check_scores(score), np.asarray(same, dtype=bool)
    groups = check_pairs(group, group_names, score=scores, same=mated)
    limits = np.atleast_1d(np.asarray(threshold, dtype=np.float64))
    right = (scores[None, :] > limits[:, None]) == mated
    present = [right[:, groups == g].mean(axis=1) for g in range(len(group_names)) if (groups == g).any()]
    if not present:
        return np.full(limits.shape, np.nan)
    return np.asarray(right.mean(axis=1) - summary.std_population(np.stack(present, axis=1)))


def accuracy_at_group_threshold(
    score: npt.ArrayLike,
    same: npt.ArrayLike,
    fold: npt.ArrayLike,
    group: npt.ArrayLike,
    group_names: Sequence[str],
    subject_a: npt.ArrayLike,
    subject_b: npt.ArrayLike,
) -> GroupRates:
    """Accuracy of every group at thresholds *of its own*, one a fold: how the tables of RFW papers are made.

    The threshold of a fold maximises the accuracy of the group's pairs in the other folds (middle of the best range).
    A group that would do badly at the common threshold looks better here than in use, so that the metric carries this
    name and never stands for an accuracy at one global threshold. Its difference to that says what the common
    threshold costs the group.

    Args:
        fold: int [P]. Others as in :func:`~common.fairness.groups.verification_rates`.

    Raises ValueError when a group has pairs in one fold only.
    """
    scores, mated = check_scores(score), np.asarray(same, dtype=bool)
    groups = check_pairs(group, group_names, score=scores, same=mated, fold=fold)
    folds, correct = np.asarray(fold), np.zeros(mated.shape, dtype=bool)
    for g, name in enumerate(group_names):
        inside = groups == g
        for k in np.unique(folds[inside]):
            learn, judge = inside & (folds != k), inside & (folds == k)
            if not learn.any():
                raise ValueError(f"Group {name!r} has pairs in fold {k} only; a threshold is fitted on the others.")
            correct[judge] = (scores[judge] > _best_threshold(scores[learn], mated[learn])) == mated[judge]
    return group_rates("acc_at_group_threshold", correct, groups, group_names, subject_a, subject_b, groups >= 0)


def _best_threshold(score: FloatArray, mated: npt.NDArray[np.bool_]) -> float:
    """The threshold of the most right decisions, in the middle between the two scores that enclose it."""
    order = np.argsort(score, kind="stable")
    ordered, genuine = score[order], mated[order]
    # accept what lies above place k: rejected impostors below it plus accepted mated pairs above it
    right = np.concatenate([[0], np.cumsum(~genuine)]) + genuine.sum() - np.concatenate([[0], np.cumsum(genuine)])
    edge = np.concatenate([[ordered[0] - 1], ordered, [ordered[-1] + 1]])
    middle = (edge[:-1] + edge[1:]) / 2
    distinct = edge[:-1] < edge[1:]
    return float(middle[np.argmax(np.where(distinct, right, -1))])


def smoothed_rate(table: GroupRates) -> FloatArray:
    """(errors + 1) / (comparisons + 2) of every group [G] (Laplace): never 0, so that ratios of it always exist.

    Another quantity than the rate; a table that shows it has to call it smoothed. NaN for groups without a rate.
    """
    return np.where(table.measured, (table.numerator + 1) / (table.denominator + 2), np.nan)


def max_over_mean(error: npt.ArrayLike) -> FloatArray:
    """Largest error rate over the arithmetic mean of all, in [1, G]; defined with zero errors in a group, unlike
    :func:`~common.fairness.summary.max_over_geomean`."""
    values = np.asarray(error, dtype=np.float64)
    if values.shape[-1] < 2:
        return np.full(values.shape[:-1], np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(values.max(axis=-1) / values.mean(axis=-1))
