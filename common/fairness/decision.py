"""Fairness of binary decisions (attributes, attacks): rates of groups, and parity of selection and of errors.

The differences and ratios are fairlearn's, but fairlearn rates an empty cell as 0: a group without a positive sample
gets a true positive rate of 0 and makes the equal-opportunity difference jump to 1. Here such groups are set aside
first, and named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from common.fairness.columns import binary_labels
from common.fairness.groups import GroupRates, group_rates
from common.fairness.summary import NOT_ENOUGH, Summary


def decision_rates(
    truth: npt.ArrayLike,
    decision: npt.ArrayLike,
    group: npt.ArrayLike,
    group_names: Sequence[str],
    subject: npt.ArrayLike | None = None,
) -> dict[str, GroupRates]:
    """Accuracy, selection rate, TPR, TNR, FPR and FNR of every group.

    Args:
        truth, decision: 0/1 or bool [N]. group: int [N], -1 = no group. subject: int [N], who each sample shows; every
            sample another person when None.

    Raises ValueError for other labels (CelebA's -1 would count as yes).
    """
    true, chosen = binary_labels("truth", truth), binary_labels("decision", decision)
    people = np.arange(true.size) if subject is None else np.asarray(subject)
    everyone = np.ones(true.shape, dtype=bool)
    cells = {
        "accuracy": (true == chosen, everyone),
        "selection_rate": (chosen, everyone),
        "tpr": (chosen, true),
        "fnr": (~chosen, true),
        "fpr": (chosen, ~true),
        "tnr": (~chosen, ~true),
    }
    return {
        name: group_rates(name, event, group, group_names, people, people, counted)
        for name, (event, counted) in cells.items()
    }


def rate_difference(table: GroupRates, to_overall: bool = False) -> Summary:
    """Largest minus smallest rate, or largest distance of a group from the overall rate (NaN without two groups)."""
    rate = table.rate[table.measured]
    if rate.size < 2:
        return Summary(float("nan"), NOT_ENOUGH)
    return Summary(float(np.abs(rate - table.overall).max() if to_overall else np.ptp(rate)))


def rate_ratio(table: GroupRates, to_overall: bool = False) -> Summary:
    """Smallest over largest rate, or the smallest ratio of a group to the overall rate or its inverse; in [0, 1]."""
    rate = table.rate[table.measured]
    if rate.size < 2:
        return Summary(float("nan"), NOT_ENOUGH)
    if not rate.any():
        return Summary(float("nan"), f"the {table.metric} of every group is zero")
    if not to_overall:
        return Summary(float(rate.min() / rate.max()))
    with np.errstate(divide="ignore"):
        return Summary(float(np.minimum(rate / table.overall, table.overall / rate).min()))


def decision_fairness(
    truth: npt.ArrayLike,
    decision: npt.ArrayLike,
    group: npt.ArrayLike,
    group_names: Sequence[str],
    subject: npt.ArrayLike | None = None,
) -> dict[str, Summary]:
    """Demographic parity, equal opportunity and equalized odds, as difference (parity 0) and ratio (parity 1).

    Computed by fairlearn over the groups that have every cell the metric needs: any sample for demographic parity,
    positives for equal opportunity, positives and negatives for equalized odds (worst of TPR and FPR; ``_mean``: their
    average). Arguments as in :func:`decision_rates`; the tables of those say which groups are set aside and why.
    """
    from fairlearn import metrics  # brings pandas and scikit-learn, seconds of import

    tables = decision_rates(truth, decision, group, group_names, subject)
    rows = {
        "demographic_parity": ("selection_rate",),
        "equal_opportunity": ("tpr",),
        "equalized_odds": ("tpr", "fpr"),
    }
    out: dict[str, Summary] = {}
    for name, needs in rows.items():
        kept = np.logical_and.reduce([tables[need].measured for need in needs])
        for kind in ("difference", "ratio"):
            call: Callable[..., Any] = getattr(metrics, f"{name}_{kind}")
            out[f"{name}_{kind}"] = _over(kept, call, truth, decision, group)
            if name == "equalized_odds":
                out[f"{name}_{kind}_mean"] = _over(kept, call, truth, decision, group, agg="mean")
    return out


def _over(
    kept: npt.NDArray[np.bool_],
    call: Callable[..., Any],
    truth: npt.ArrayLike,
    decision: npt.ArrayLike,
    group: npt.ArrayLike,
    **options: str,
) -> Summary:
    """fairlearn's ``call`` on the samples of the ``kept`` groups."""
    if kept.sum() < 2:
        return Summary(float("nan"), NOT_ENOUGH)
    groups = np.asarray(group)
    inside = (groups >= 0) & kept[groups]
    true, chosen = (np.asarray(column, dtype=int)[inside] for column in (truth, decision))
    value = float(call(true, chosen, sensitive_features=groups[inside], **options))
    return Summary(value, None if np.isfinite(value) else "the rate of every group is zero")
