"""Bias amplification: does a model exaggerate the correlations of its training data?

All measures are signed fractions: 0 = as biased as the data, > 0 = amplified.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from common.fairness.columns import binary_labels
from common.fairness.groups import FloatArray
from common.fairness.summary import Summary

FEWEST_POSITIVES = 10  # Iofinova et al.: an attribute rarer than this on either side is not judged
SMALLEST_SKEW = 0.1  # nor one whose training shares differ by less than a tenth of the smaller
UNSURE = 0.4  # distance of a probability from 1/2 below which a decision is called uncertain


def _binary(name: str, values: npt.ArrayLike, rows: int | None = None) -> FloatArray:
    """0/1 columns [N, K] as float64; raises ValueError for other shapes or values."""
    columns = np.asarray(values, dtype=np.float64)
    if columns.ndim != 2 or not np.isin(columns, (0, 1)).all():
        raise ValueError(f"{name} must hold zeros and ones, [samples, labels], but has shape {columns.shape}.")
    if rows is not None and len(columns) != rows:
        raise ValueError(f"{name} has {len(columns)} samples, but {rows} are expected: one row a sample in all inputs.")
    return columns


def _given(cause: FloatArray, effect: FloatArray) -> FloatArray:
    """P(effect = 1 | cause = 1) for every pair of columns, [causes, effects]; NaN where the cause never occurs."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(cause.T @ effect / cause.sum(axis=0)[:, None])


def directional_amplification(
    attribute: npt.ArrayLike,
    task: npt.ArrayLike,
    attribute_prediction: npt.ArrayLike,
    task_prediction: npt.ArrayLike,
    train_attribute: npt.ArrayLike | None = None,
    train_task: npt.ArrayLike | None = None,
) -> dict[str, Summary]:
    """Directional bias amplification A->T and T->A (Wang & Russakovsky, ICML 2021).

    Mean over attributes a and tasks t of y_at D_at, with y_at the sign of P(A=1,T=1) - P(A=1) P(T=1) in the training
    labels (the test labels when none are given) and, for A->T, D_at = P(T^=1 | A=1) - P(T=1 | A=1).
    Pairs whose condition never occurs are left out of the mean.

    Args:
        attribute, attribute_prediction: 0/1 [N, |A|], one-hot: *both* columns of a binary attribute.
        task, task_prediction: 0/1 [N, |T|].

    Returns:
        {"attribute_to_task": Summary, "task_to_attribute": Summary}.
    """
    a = _binary("attribute", attribute)
    t = _binary("task", task, len(a))
    a_hat, t_hat = (
        _binary("attribute_prediction", attribute_prediction, len(a)),
        _binary("task_prediction", task_prediction, len(a)),
    )
    train_a = a if train_attribute is None else _binary("train_attribute", train_attribute)
    train_t = t if train_task is None else _binary("train_task", train_task, len(train_a))
    joint = train_a.T @ train_t / len(train_a)
    sign = np.sign(joint - np.outer(train_a.mean(axis=0), train_t.mean(axis=0)))
    return {
        "attribute_to_task": _mean(sign * (_given(a, t_hat) - _given(a, t))),
        "task_to_attribute": _mean(sign * (_given(t, a_hat) - _given(t, a)).T),
    }


def _mean(values: FloatArray) -> Summary:
    defined = values[~np.isnan(values)]
    if not defined.size:
        return Summary(float("nan"), "no attribute and task occur in the labels")
    return Summary(float(defined.mean()))


def cooccurrence_amplification(
    train_object: npt.ArrayLike,
    train_attribute: npt.ArrayLike,
    object_prediction: npt.ArrayLike,
    attribute_prediction: npt.ArrayLike,
) -> Summary:
    """Bias amplification of Zhao et al. (EMNLP 2017): how much more often predicted objects come with their attribute.

    b(o, a) = c(o, a) / sum_a' c(o, a'); the mean over objects o of sum_a [b_pred(o, a) - b_train(o, a)] over the
    attributes with b_train(o, a) > 1/|A|. Objects never seen in training or never predicted are left out; the reason
    counts the latter when a value remains.

    Args:
        train_object, object_prediction: 0/1 [N, |O|]; train_attribute, attribute_prediction: 0/1 [N, |A|].
    """
    shares = []
    for objects, attributes in (
        (_binary("train_object", train_object), train_attribute),
        (_binary("object_prediction", object_prediction), attribute_prediction),
    ):
        count = objects.T @ _binary("attributes", attributes, len(objects))
        with np.errstate(divide="ignore", invalid="ignore"):
            shares.append(count / count.sum(axis=1, keepdims=True))
    train, predicted = shares
    seen = ~np.isnan(train).any(axis=1)
    kept = seen & ~np.isnan(predicted).any(axis=1)
    missing = int(np.count_nonzero(seen & ~kept))
    reason = f"{missing} of {seen.sum()} objects are never predicted" if missing else None
    if not kept.any():
        return Summary(float("nan"), reason or "no object occurs in the training labels")
    amplified = np.where(train > 1 / train.shape[1], predicted - train, 0.0).sum(axis=1)
    return Summary(float(amplified[kept].mean()), reason)


def identity_amplification(
    target: npt.ArrayLike,
    prediction: npt.ArrayLike,
    identity: npt.ArrayLike,
    train_share_with: float,
    train_share_without: float,
) -> Summary:
    """Bias amplification of one attribute with respect to a binary identity attribute (Iofinova et al., CVPR 2023).

    With s the side of the identity attribute on which the task attribute is more frequent in training:
    BA = #(prediction, s) / #(prediction) - #(target, s) / #(target) on the test set.

    Args:
        target, prediction, identity: 0/1 [N].
        train_share_with, train_share_without: training share of the attribute where identity is 1, and where it is 0.

    Undefined (NaN with the reason) when the attribute has fewer than 10 positives on either side, when the training
    shares differ by less than a tenth of the smaller one, or when it is never predicted.
    """
    columns = {"target": target, "prediction": prediction, "identity": identity}
    true, chosen, side = (binary_labels(name, column) for name, column in columns.items())
    positives = [int(np.count_nonzero(true & (side == which))) for which in (True, False)]
    if min(positives) < FEWEST_POSITIVES:
        return Summary(float("nan"), f"{min(positives)} positives on one side; {FEWEST_POSITIVES} are needed")
    low = min(train_share_with, train_share_without)
    if abs(train_share_with - train_share_without) < SMALLEST_SKEW * low:
        return Summary(float("nan"), "the attribute is about equally frequent on both sides of the training data")
    if not chosen.any():
        return Summary(float("nan"), "the attribute is never predicted")
    skewed = side if train_share_with > train_share_without else ~side
    return Summary(float(skewed[chosen].mean() - skewed[true].mean()))


def mean_amplification(attributes: Iterable[Summary]) -> Summary:
    """Mean over attributes with respect to one identity attribute, as Iofinova et al. report it; the rest is counted."""
    every = list(attributes)
    defined = [one.value for one in every if not np.isnan(one.value)]
    missing = len(every) - len(defined)
    if not defined:
        return Summary(float("nan"), f"none of {len(every)} attributes can be judged")
    return Summary(float(np.mean(defined)), f"{missing} of {len(every)} attributes left out" if missing else None)


def uncertain_share(logit: npt.ArrayLike) -> FloatArray:
    """Share of samples on which the model is unsure, |sigmoid(z) - 1/2| < 0.4 (Iofinova et al., CVPR 2023).

    ``logit`` float [N, ...] -> [...]. Raises ValueError when a logit is not finite.
    """
    z = np.asarray(logit, dtype=np.float64)
    if not np.isfinite(z).all():
        raise ValueError(f"{int((~np.isfinite(z)).sum())} of {z.size} logits are not finite.")
    return np.asarray((np.abs(0.5 * np.tanh(z / 2)) < UNSURE).mean(axis=0))
