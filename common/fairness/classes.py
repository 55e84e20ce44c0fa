"""The fairness columns of a classification table (attributes, expressions), with intervals over people, as JSON values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from common.fairness import intervals, summary
from common.fairness.bootstrap import accuracy_draws, weight_blocks
from common.fairness.columns import GroupColumn, binary_labels, class_labels
from common.fairness.confusion import intraclass_disparity
from common.fairness.decision import decision_fairness
from common.fairness.groups import FloatArray, GroupRates, check_pairs, group_rates
from common.fairness.summary import Summary

NAMES = {"worst_group": 100.0, "group_gap": 100.0, "std_sample": 100.0, "ser": 1.0}
PRINTED = {"std_sample": "group_std"}
UNRESAMPLED = "images without a person are resampled one by one"


def classification_report(
    truth: npt.ArrayLike,
    prediction: npt.ArrayLike,
    column: GroupColumn,
    n_classes: int,
    subject: npt.ArrayLike | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """Accuracy of every group and its summaries, each with an interval over resampled people.

    Args:
        truth, prediction: int [N], 0..n_classes-1. column: the groups of the samples (crossed ones included).
        subject: int [N], who each sample shows; without it every image is taken for another person, and the report
            says so. draws, seed, level: of the bootstrap within groups.

    Returns:
        Percent: accuracy, group_accuracy ({group: value}), worst_group, group_gap, group_std (ddof 1). Ratio: ser.
        In [0, 1]: disparity (mean over classes of the groups' recall disparity), and for two classes the parities of
        :func:`~common.fairness.decision.decision_fairness`. Then "intervals", "undefined", "undefined_reasons",
        "counts" of every group, "group_column" and "bootstrap", as in
        :func:`~common.fairness.report.verification_report`. What is undefined is None and named with its reason.

    Raises ValueError for labels out of range, columns of different lengths, or a subject of two groups.
    """
    true, chosen = (class_labels(n, v, n_classes) for n, v in (("truth", truth), ("prediction", prediction)))
    people = np.arange(true.size) if subject is None else np.asarray(subject)
    groups = check_pairs(column.index, column.names, truth=true, prediction=chosen, subject=people)
    correct = true == chosen
    table = group_rates("accuracy", correct, groups, column.names, people, people)
    everyone = np.ones(true.shape, dtype=bool)  # a sample shows one person: every weight is its person's multiplicity
    sample = np.concatenate(
        [
            accuracy_draws(correct, weights, everyone, groups, len(column.names))[:, 0]
            for weights in weight_blocks(people, people, groups, draws, seed)
        ]
    )
    found: dict[str, Any] = {"accuracy": 100 * table.overall, **_group_values(table)}
    reasons = {f"group_accuracy/{name}": why for name, why in table.skipped.items()}
    ranges = _intervals(table, sample, level)
    summaries = {PRINTED.get(name, name): (one, NAMES[name]) for name, one in _named(table).items()}
    summaries["disparity"] = (intraclass_disparity(true, chosen, groups, column.names, n_classes)[1], 1.0)
    if n_classes == 2:
        decided = decision_fairness(binary_labels("truth", true), chosen == 1, groups, column.names, people)
        summaries |= {name: (one, 1.0) for name, one in decided.items()}
    for name, (one, factor) in summaries.items():
        found[name] = factor * one.value if math.isfinite(one.value) else None
        if one.reason is not None:
            reasons[name] = one.reason
    return {
        **found,
        "samples": int(true.size),
        "subjects": int(np.unique(people).size),
        "group_column": column.name,
        "counts": {
            name: {"subjects": int(table.subjects[i]), "samples": size, "correct": int(table.numerator[i])}
            for i, (name, size) in enumerate(column.sizes.items())
        },
        "undefined": sorted(name for name in reasons if _is_none(found, name)),
        "undefined_reasons": reasons,
        "intervals": ranges,
        "bootstrap": {
            "draws": draws, "seed": seed, "level": level, "unit": "subject within group",
            **({"note": UNRESAMPLED} if subject is None else {}),
        },
    }  # fmt: skip


def _group_values(table: GroupRates) -> dict[str, Any]:
    return {
        "group_accuracy": {
            name: None if name in table.skipped else 100 * float(rate)
            for name, rate in zip(table.group_names, table.rate, strict=True)
        }
    }


def _named(table: GroupRates) -> dict[str, Summary]:
    found = summary.summarise_accuracy(table)
    return {name: found[name] for name in NAMES}


def _intervals(table: GroupRates, sample: FloatArray, level: float) -> dict[str, Any]:
    """Intervals of every group's accuracy, of the overall one and of the summaries, in their units."""
    own: dict[str, Any] = {}
    for i, name in enumerate(table.group_names):
        right, size = int(table.numerator[i]), int(table.denominator[i])
        if name in table.skipped:
            own[name] = None
        elif right in (0, size):  # the same in every draw: the rule of three says what may still be claimed
            bound = 100 * summary.rule_of_three(size)
            own[name] = [0.0, bound] if right == 0 else [100 - bound, 100.0]
        else:
            own[name] = _ends(intervals.percentile_interval(sample[:, i], level), 100)
    out = {"group_accuracy": own, "accuracy": _ends(intervals.percentile_interval(sample[:, -1], level), 100)}
    kept = table.measured
    if kept.sum() >= 2:
        ranges = intervals.accuracy_intervals(table.rate[kept], sample[:, :-1][:, kept], level)
        out |= {PRINTED.get(name, name): _ends(ranges[name], factor) for name, factor in NAMES.items()}
    return out


def _ends(interval: intervals.Interval, factor: float) -> list[float | None] | None:
    if math.isnan(interval.low):
        return None
    ends = [factor * interval.low, factor * interval.high]
    return [end if math.isfinite(end) else None for end in ends]


def _is_none(found: dict[str, Any], name: str) -> bool:
    head, _, group = name.partition("/")
    value = found.get(head)
    return value is None or (bool(group) and isinstance(value, dict) and value.get(group) is None)


def metric_by_group(
    metric: Callable[..., float], truth: npt.ArrayLike, prediction: npt.ArrayLike, column: GroupColumn
) -> dict[str, Summary]:
    """Any metric of scikit-learn's form, `metric(truth, prediction)`, in every group, through fairlearn's `MetricFrame`.

    A group without a sample, or of one class only where the metric needs both, is undefined with the reason; fairlearn
    itself would leave the first out without a word. Samples of no group are left out.

    Args:
        metric: such as `sklearn.metrics.roc_auc_score`. truth, prediction: [N].
    """
    from fairlearn.metrics import MetricFrame  # brings pandas and scikit-learn, seconds of import

    groups = check_pairs(column.index, column.names, truth=truth, prediction=prediction)
    inside = groups >= 0
    true, chosen = np.asarray(truth)[inside], np.asarray(prediction)[inside]
    failed: dict[int, str] = {}

    def guarded(some_truth: Any, some_prediction: Any, place: Any) -> float:
        try:
            return float(metric(some_truth, some_prediction))
        except ValueError as error:  # what scikit-learn raises where a metric does not exist
            failed[int(np.asarray(place)[0])] = str(error)
            return float("nan")

    found: dict[str, Summary] = {}
    frame = MetricFrame(
        metrics=guarded,
        y_true=true,
        y_pred=chosen,
        sensitive_features=groups[inside],
        sample_params={"place": groups[inside]},
    ).by_group
    for i, name in enumerate(column.names):
        if i not in frame.index:
            found[name] = Summary(float("nan"), f"group {name!r} has no sample")
            continue
        value = float(frame.loc[i])
        why = failed.get(i) or (None if math.isfinite(value) else f"not defined on the samples of group {name!r}")
        found[name] = Summary(value, why)
    return found
