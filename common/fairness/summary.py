"""Summaries of group rates: one number for how unequal a model is.

The functions of the first part take rates as fractions, float [..., G] (groups last, so that they run over bootstrap
draws at once), and return float [...]. They never smooth: fewer than two groups or a missing rate give NaN; a ratio
whose denominator is zero gives ``inf`` (0/0: NaN). The second part adds the reason to every undefined value.

Parity is 0 for gap, standard deviations and GARBE, and 1 for SER, FDR, IR, differentials and max/geomean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.fairness.groups import FloatArray, GroupRates

NOT_ENOUGH = "fewer than two groups have a measured rate"


def _rates(rate: npt.ArrayLike) -> FloatArray:
    """Rates in which a row with a missing rate is all NaN; with fewer than two groups, two missing ones stand in."""
    values = np.asarray(rate, dtype=np.float64)
    if values.shape[-1] < 2:
        return np.full((*values.shape[:-1], 2), np.nan)
    return np.where(np.isnan(values).any(axis=-1, keepdims=True), np.nan, values)


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """above / below; inf for x/0, NaN for 0/0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(above / below)


def group_mean(rate: npt.ArrayLike) -> FloatArray:
    """Unweighted mean over groups ("Avg" of RFW tables)."""
    return np.asarray(_rates(rate).mean(axis=-1))


def worst_group(rate: npt.ArrayLike) -> FloatArray:
    """Lowest rate (for accuracies)."""
    return np.asarray(_rates(rate).min(axis=-1))


def group_gap(rate: npt.ArrayLike) -> FloatArray:
    """Highest minus lowest rate."""
    values = _rates(rate)
    return np.asarray(values.max(axis=-1) - values.min(axis=-1))


def std_population(rate: npt.ArrayLike) -> FloatArray:
    """Standard deviation over groups with ddof 0 (numpy's default; used by public RFW evaluation code)."""
    return np.asarray(_rates(rate).std(axis=-1, ddof=0))


def std_sample(rate: npt.ArrayLike) -> FloatArray:
    """Standard deviation over groups with ddof 1 (what the RFW tables of Wang & Deng, CVPR 2020, agree with).

    The *degree of bias* of Gong et al. (ECCV 2020) is a standard deviation over groups as well.
    """
    return np.asarray(_rates(rate).std(axis=-1, ddof=1))


def ser(accuracy: npt.ArrayLike) -> FloatArray:
    """Skewed error ratio, max error / min error (Wang & Deng, CVPR 2020); ``inf`` when the best group is perfect."""
    return differential(1 - np.asarray(accuracy, dtype=np.float64))


def differential(error: npt.ArrayLike) -> FloatArray:
    """Largest over smallest error rate: the false negative (positive) differential when given FNMR (FMR).

    Terms after ISO/IEC 19795-10, with the larger rate in the numerator.
    """
    values = _rates(error)
    return _ratio(values.max(axis=-1), values.min(axis=-1))


def max_over_geomean(error: npt.ArrayLike) -> FloatArray:
    """Largest rate over the geometric mean (NIST FRVT Part 8, NISTIR 8429)."""
    values = _rates(error)
    with np.errstate(divide="ignore"):
        geomean = np.exp(np.log(values).mean(axis=-1))
    return _ratio(values.max(axis=-1), geomean)


def fdr(fmr: npt.ArrayLike, fnmr: npt.ArrayLike, alpha: float = 0.5) -> FloatArray:
    """Fairness discrepancy rate (Pereira & Marcel, IEEE T-BIOM 2021), in [0, 1].

    FDR = 1 - (a max|FMR_g - FMR_h| + (1 - a) max|FNMR_g - FNMR_h|). FMR gaps are small, so the FNMR gap dominates.
    """
    return np.asarray(1 - (alpha * group_gap(fmr) + (1 - alpha) * group_gap(fnmr)))


def inequity_rate(fmr: npt.ArrayLike, fnmr: npt.ArrayLike, alpha: float = 0.5) -> FloatArray:
    """Inequity rate of NIST, as formalised by Howard et al. (arXiv 2203.05051), at least 1.

    IR = (max FMR / min FMR)^a (max FNMR / min FNMR)^(1-a).
    """
    return np.asarray(differential(fmr) ** alpha * differential(fnmr) ** (1 - alpha))


def mean_difference(values: npt.ArrayLike) -> FloatArray:
    """Half the mean absolute difference between two different groups: (sum_ij |x_i - x_j|) / (2 G (G-1))."""
    ordered = np.sort(_rates(values), axis=-1)
    size = ordered.shape[-1]
    # sum_ij |x_i - x_j| = 2 sum_k (2k - G + 1) x_(k) over the sorted values, k from 0
    return np.asarray((ordered * (2 * np.arange(size) - size + 1)).sum(axis=-1) / (size * (size - 1)))


def gini(error: npt.ArrayLike) -> FloatArray:
    """Gini coefficient times G/(G-1): 0 = equal, 1 = one group has all the errors. No error at all: 0, our choice."""
    mean = _rates(error).mean(axis=-1)
    return np.where(mean == 0, 0.0, mean_difference(error) / np.where(mean == 0, 1.0, mean))


def garbe(fmr: npt.ArrayLike, fnmr: npt.ArrayLike, alpha: float = 0.5) -> FloatArray:
    """Gini aggregation rate for biometric equitability (Howard et al., arXiv 2203.05051), in [0, 1].

    GARBE = a Gini(FMR) + (1 - a) Gini(FNMR).
    """
    return np.asarray(alpha * gini(fmr) + (1 - alpha) * gini(fnmr))


def min_over_max(rate: npt.ArrayLike) -> FloatArray:
    """Lowest over highest accuracy, in [0, 1] (the fairness measure of Stoychev & Gunes for facial expressions)."""
    values = _rates(rate)
    return _ratio(values.min(axis=-1), values.max(axis=-1))


def rule_of_three(comparisons: int) -> float:
    """95 % upper bound of an error rate when none of ``comparisons`` independent trials erred: 3/n, at most 1.

    Pairs that share subjects are not independent, so the bound is the least that may be claimed.
    Raises ValueError without any comparison.
    """
    if comparisons < 1:
        raise ValueError("A bound needs at least one comparison; a group without any has no rate at all.")
    return min(1.0, 3.0 / comparisons)


@dataclass(frozen=True)
class Summary:
    """A summary and, where its value is NaN or infinite, the reason as a sentence."""

    value: float
    reason: str | None = None


def summarise_accuracy(table: GroupRates) -> dict[str, Summary]:
    """Mean, worst group, gap, both standard deviations, SER and min/max of the measured groups; fractions, ratios."""
    rate, names = _measured(table)
    perfect = [name for name, value in zip(names, rate, strict=True) if value == 1]
    made = {"ser": f"group {perfect[0]!r} made no error, so the ratio has no bound" if perfect else None}
    if len(perfect) == len(names):
        made["ser"] = "no group made an error"
    made["min_over_max"] = "no group has a correct decision" if rate.size and not rate.any() else None
    functions = {
        "mean": group_mean,
        "worst_group": worst_group,
        "group_gap": group_gap,
        "std_population": std_population,
        "std_sample": std_sample,
        "ser": ser,
        "min_over_max": min_over_max,
    }
    return {name: _explained(float(call(rate)), rate.size, made.get(name)) for name, call in functions.items()}


def summarise_errors(fmr: GroupRates, fnmr: GroupRates, alpha: float = 0.5) -> dict[str, Summary]:
    """FDR, IR, GARBE, and differential and max/geomean of FMR and of FNMR, over the groups measured in both tables."""
    both = fmr.measured & fnmr.measured
    names = [name for name, kept in zip(fmr.group_names, both, strict=True) if kept]
    rates = {"fmr": fmr.rate[both], "fnmr": fnmr.rate[both]}
    zero: dict[str, str | None] = {}
    for which, rate in rates.items():
        without = [name for name, value in zip(names, rate, strict=True) if value == 0]
        zero[which] = f"the {which.upper()} of group {without[0]!r} is zero" if without else None
    out = {
        "fdr": _explained(float(fdr(rates["fmr"], rates["fnmr"], alpha)), len(names), None),
        "ir": _explained(
            float(inequity_rate(rates["fmr"], rates["fnmr"], alpha)), len(names), zero["fmr"] or zero["fnmr"]
        ),
        "garbe": _explained(float(garbe(rates["fmr"], rates["fnmr"], alpha)), len(names), None),
    }
    for which, rate in rates.items():
        out[f"{which}_differential"] = _explained(float(differential(rate)), len(names), zero[which])
        out[f"{which}_max_over_geomean"] = _explained(float(max_over_geomean(rate)), len(names), zero[which])
    return out


def _measured(table: GroupRates) -> tuple[FloatArray, list[str]]:
    names = [name for name in table.group_names if name not in table.skipped]
    return table.rate[table.measured], names


def _explained(value: float, groups: int, reason: str | None) -> Summary:
    if np.isfinite(value):
        return Summary(value)
    return Summary(value, NOT_ENOUGH if groups < 2 else reason)
