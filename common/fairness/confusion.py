"""Errors of classifiers class by class and group by group, and how compression shifts them (CEV, SDE, disparities)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from common.fairness.columns import class_labels
from common.fairness.groups import FloatArray, IntArray, check_pairs
from common.fairness.summary import NOT_ENOUGH, Summary

Variant = Literal["2106", "2110"]
FEWEST_CLASSES = 3  # of two classes, FPR of one is FNR of the other: CEV and SDE would see each change twice


def confusion(truth: npt.ArrayLike, prediction: npt.ArrayLike, n_classes: int) -> IntArray:
    """Counts [K, K], rows true and columns predicted, from labels int [N] (predictions [R, N]: counts [R, K, K]).

    Raises ValueError for labels outside 0..n_classes-1 or for columns of different lengths.
    """
    true = class_labels("truth", truth, n_classes)
    chosen = class_labels("prediction", prediction, n_classes)
    if true.ndim != 1 or chosen.shape[-1:] != true.shape:
        raise ValueError(f"truth has shape {true.shape} and prediction {chosen.shape}: both need one entry a sample.")
    rows = np.atleast_2d(chosen)
    cells = np.arange(len(rows))[:, None] * n_classes**2 + true * n_classes + rows
    counts = np.bincount(cells.ravel(), minlength=len(rows) * n_classes**2).reshape(-1, n_classes, n_classes)
    return counts if chosen.ndim > 1 else counts[0]


@dataclass(frozen=True)
class ClassErrors:
    """One-vs-rest error rates of K classes, float64 [..., K]; NaN where a class (or its complement) has no sample."""

    fpr: FloatArray
    fnr: FloatArray


def class_errors(counts: npt.ArrayLike, smoothed: bool = False) -> ClassErrors:
    """FPR and FNR of every class against the rest from confusion counts [..., K, K].

    ``smoothed`` takes (errors + 1) / (samples + 2) instead, which is never 0: another quantity, to be named as such,
    and to be used for both models of a comparison or for none.
    """
    table = np.asarray(counts, dtype=np.float64)
    right = np.diagonal(table, axis1=-2, axis2=-1)
    of_class, predicted = table.sum(axis=-1), table.sum(axis=-2)
    others = table.sum(axis=(-2, -1))[..., None] - of_class
    more, most = (1, 2) if smoothed else (0, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return ClassErrors((predicted - right + more) / (others + most), (of_class - right + more) / (of_class + most))


@dataclass(frozen=True)
class ErrorShift:
    """How unevenly compression moved the errors of K classes (or groups).

    Attributes:
        cev: combined error variance; sde: symmetric distance error. Both 0 when nothing moved *unevenly*, which is no
            sign that nothing was lost: show accuracy beside them.
        fpr_change, fnr_change: relative change of every class [K], in percent (2106) or as fractions (2110); NaN where
            it was left out.
        left_out: class -> why it could not be counted.
    """

    cev: Summary
    sde: Summary
    fpr_change: FloatArray
    fnr_change: FloatArray
    left_out: dict[int, str] = field(default_factory=dict)


def error_shift(
    base: ClassErrors, compressed: ClassErrors, variant: Variant = "2106", zero: Literal["drop", "raise"] = "drop"
) -> ErrorShift:
    """CEV and SDE of compressed models against the one base model that they were made from (Blakeney et al. 2021).

    With x = relative change of FPR and y = relative change of FNR of a class, *rates averaged over the R runs first*:

    - ``"2106"`` (arXiv 2106.07849, percent): CEV = 1/(2K) sum (x - mean x)^2 + (y - mean y)^2,
      SDE = 1/K sum |x - y| / sqrt 2;
    - ``"2110"`` (arXiv 2110.04397, fractions): the same without 1/2 and without 1/sqrt 2.

    CEV_2106 = 5000 CEV_2110 and SDE_2106 = 70.71 SDE_2110: numbers of the two papers cannot be compared as they stand.

    Args:
        base: rates [K]. compressed: rates [K], or [R, K] of R runs.
        zero: a class whose base rate is 0 has no relative change; ``"drop"`` leaves it out and says so, ``"raise"``
            raises ValueError. (`class_errors(..., smoothed=True)` for both models is the third way.)

    Raises ValueError for fewer than three classes, or for an unknown variant.
    """
    if variant not in ("2106", "2110"):
        raise ValueError(f"variant is {variant!r}; expected '2106' or '2110', the paper whose scale is meant.")
    if base.fpr.size < FEWEST_CLASSES:
        raise ValueError(f"CEV and SDE need {FEWEST_CLASSES} classes or groups, but there are {base.fpr.size}.")
    scale = 100.0 if variant == "2106" else 1.0
    before = np.stack([base.fpr, base.fnr])
    after = np.stack([np.atleast_2d(rate).mean(axis=0) for rate in (compressed.fpr, compressed.fnr)])
    left_out = _without_change(before, after)
    if left_out and zero == "raise":
        raise ValueError("; ".join(f"class {k}: {why}" for k, why in left_out.items()))
    with np.errstate(divide="ignore", invalid="ignore"):
        change = scale * (after - before) / before
    change[:, list(left_out)] = np.nan
    kept = np.delete(change, list(left_out), axis=1)
    if kept.shape[1] < 2:
        nothing = Summary(float("nan"), f"{len(left_out)} of {base.fpr.size} classes have no relative change")
        return ErrorShift(nothing, nothing, change[0], change[1], left_out)
    spread = float(((kept - kept.mean(axis=1, keepdims=True)) ** 2).sum(axis=0).mean())
    distance = float(np.abs(kept[0] - kept[1]).mean())
    if variant == "2106":
        spread, distance = spread / 2, distance / float(np.sqrt(2))
    reason = f"{len(left_out)} of {base.fpr.size} classes left out" if left_out else None
    return ErrorShift(Summary(spread, reason), Summary(distance, reason), change[0], change[1], left_out)


def _without_change(before: FloatArray, after: FloatArray) -> dict[int, str]:
    """Classes whose relative change does not exist, with the reason; rates [2, K], FPR before FNR."""
    found = {}
    for k in range(before.shape[1]):
        for name, b, a in zip(("FPR", "FNR"), before[:, k], after[:, k], strict=True):
            if np.isnan(b) or np.isnan(a):
                found[k] = f"its {name} has no sample"
            elif b == 0:
                found[k] = f"the {name} of the base model is zero"
    return found


def intraclass_disparity(
    truth: npt.ArrayLike, prediction: npt.ArrayLike, group: npt.ArrayLike, group_names: Sequence[str], n_classes: int
) -> tuple[dict[int, Summary], Summary]:
    """Disparity of the recalls of the groups, for every class and on average (Dominguez-Catena et al. 2022).

    Of class k: 1/(G-1) sum_g (1 - R_g / max R), R_g = share of the samples of class k and group g that is recognised;
    0 = equal recall, 1 = recognised in one group only; 0 when no group is recognised at all. Groups without a sample of
    the class are left out, and a class with fewer than two groups is undefined.

    Args:
        truth, prediction: int [N], 0..n_classes-1. group: int [N], -1 = no group, left out.

    Returns:
        {class: disparity}, and the mean over the defined classes; the reason counts the others.
    """
    true, chosen = (class_labels(n, v, n_classes) for n, v in (("truth", truth), ("prediction", prediction)))
    groups = check_pairs(group, group_names, truth=true, prediction=chosen)
    inside = groups >= 0
    cells = (groups * n_classes + true)[inside]
    shape = (len(group_names), n_classes)
    size = np.bincount(cells, minlength=shape[0] * n_classes).reshape(shape)
    hits = np.bincount(cells[(true == chosen)[inside]], minlength=shape[0] * n_classes).reshape(shape)
    found = {}
    for k in range(n_classes):
        recall = hits[size[:, k] > 0, k] / size[size[:, k] > 0, k]
        if recall.size < 2:
            found[k] = Summary(float("nan"), NOT_ENOUGH)
        else:
            best = float(recall.max())
            found[k] = Summary(float((1 - recall / best).sum() / (recall.size - 1)) if best else 0.0)
    defined = [one.value for one in found.values() if one.reason is None]
    if not defined:
        return found, Summary(float("nan"), "no class is there in two groups")
    missing = n_classes - len(defined)
    reason = f"{missing} of {n_classes} classes are not there in two groups" if missing else None
    return found, Summary(float(np.mean(defined)), reason)
