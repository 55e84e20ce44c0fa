"""Intervals: percentiles of bootstrap draws, disparities that can be zero, and the analytic interval for rare errors.

A percentile interval of a gap never reaches 0, even between equal groups: the gap of noisy rates is always positive.
But every disparity used here is a *seminorm* n of a transformed rate vector u (range, standard deviation, mean
difference, weighted sums of them), and |n(u^) - n(u)| <= n(u^ - u). The bootstrap distribution of n(u* - u^) therefore
bounds the error of the estimate: ``n(u^) +- quantile_95 n(u* - u^)`` covers the true disparity in at least 95 % of
experiments, about exactly so when the groups are equal (it is then Tukey's test of the range), conservatively when one
pair of groups stands apart. The worst group is treated alike with the largest deviation of any group, because the
lowest of several noisy rates lies below the lowest true one on average.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from common.fairness import summary
from common.fairness.groups import FloatArray


@dataclass(frozen=True)
class Interval:
    """Interval of the given level; ``undefined`` draws had no value and are not part of it. NaN when none had one."""

    low: float
    high: float
    undefined: int = 0


def percentile_interval(draws: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Central ``level`` interval of bootstrap draws [D]; draws may be infinite, NaN ones are counted and left out."""
    values = np.asarray(draws, dtype=np.float64).ravel()
    defined = np.sort(values[~np.isnan(values)])
    tail = (1 - level) / 2
    return Interval(_quantile(defined, tail), _quantile(defined, 1 - tail), values.size - defined.size)


def _quantile(ordered: FloatArray, share: float) -> float:
    """Linear interpolation of sorted values as numpy does it, but infinite neighbours do not make it NaN."""
    if not ordered.size:
        return float("nan")
    place = share * (ordered.size - 1)
    low = int(place)
    below, above = ordered[low], ordered[min(low + 1, ordered.size - 1)]
    if below == above or place == low:
        return float(below)
    return float(below + (above - below) * (place - low))


def deviation_radius(deviation: npt.ArrayLike, level: float = 0.95) -> Interval:
    """The interval around 0 that holds ``level`` of the sizes of deviation [D]; NaN sizes are counted and left out."""
    values = np.asarray(deviation, dtype=np.float64)
    defined = np.sort(values[~np.isnan(values)])
    radius = _quantile(defined, level)
    return Interval(-radius, radius, values.size - defined.size)


def accuracy_intervals(accuracy: npt.ArrayLike, draws: npt.ArrayLike, level: float = 0.95) -> dict[str, Interval]:
    """Intervals of worst group, gap, both standard deviations and SER, from accuracies [G] and their draws [D, G].

    Fractions; SER a ratio, of which the logarithm is taken, so that its interval is unbounded when a group is perfect.
    """
    rate, sample = np.asarray(accuracy, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    with np.errstate(divide="ignore"):
        log_error, log_sample = np.log(1 - rate), np.log(1 - sample)
    sizes: dict[str, Callable[[npt.ArrayLike], FloatArray]] = {
        "worst_group": lambda values: np.abs(np.asarray(values)).max(axis=-1),
        "group_gap": summary.group_gap,
        "std_population": summary.std_population,
        "std_sample": summary.std_sample,
    }
    bounds = {"worst_group": (0.0, 1.0), "group_gap": (0.0, 1.0)}
    out = {}
    for name, size in sizes.items():
        radius = deviation_radius(size(sample - rate), level)
        out[name] = _around(float(getattr(summary, name)(rate)), radius, *bounds.get(name, (0.0, np.inf)))
    with np.errstate(invalid="ignore"):
        radius = deviation_radius(summary.group_gap(log_sample - log_error), level)
    out["ser"] = _around_ratio(float(summary.ser(rate)), radius)
    return out


def error_intervals(
    fmr: npt.ArrayLike,
    fnmr: npt.ArrayLike,
    fmr_draws: npt.ArrayLike,
    fnmr_draws: npt.ArrayLike,
    alpha: float = 0.5,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Intervals of FDR, IR and GARBE from error rates [G] and their draws [D, G], all as fractions."""
    rates = [np.asarray(rate, dtype=np.float64) for rate in (fmr, fnmr)]
    samples = [np.asarray(draws, dtype=np.float64) for draws in (fmr_draws, fnmr_draws)]

    def radius(transform: Callable[[FloatArray], FloatArray], size: Callable[[npt.ArrayLike], FloatArray]) -> Interval:
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [size(transform(draw) - transform(rate)) for draw, rate in zip(samples, rates, strict=True)]
        return deviation_radius(alpha * parts[0] + (1 - alpha) * parts[1], level)

    same = radius(lambda rate: rate, summary.group_gap)
    relative = radius(lambda rate: rate / rate.mean(axis=-1, keepdims=True), summary.mean_difference)
    return {
        "fdr": _around(float(summary.fdr(rates[0], rates[1], alpha)), same, 0.0, 1.0),
        "garbe": _around(float(summary.garbe(rates[0], rates[1], alpha)), relative, 0.0, 1.0),
        "ir": _around_ratio(float(summary.inequity_rate(rates[0], rates[1], alpha)), radius(np.log, summary.group_gap)),
    }


def _around(estimate: float, radius: Interval, low: float, high: float) -> Interval:
    """The interval ``estimate`` + radius, cut to the range of the metric."""
    return Interval(max(low, estimate + radius.low), min(high, estimate + radius.high), radius.undefined)


def _around_ratio(estimate: float, radius: Interval) -> Interval:
    """As :func:`_around` for a ratio >= 1 whose radius is one of logarithms; an infinite estimate bounds nothing."""
    if not np.isfinite(estimate):
        return Interval(float("nan"), float("nan"), radius.undefined)
    with np.errstate(over="ignore"):
        return Interval(
            max(1.0, estimate * float(np.exp(radius.low))), estimate * float(np.exp(radius.high)), radius.undefined
        )


def plugin_variance(error: npt.ArrayLike, subject_a: npt.ArrayLike, subject_b: npt.ArrayLike) -> float:
    """Variance of a mean error over pairs that share subjects (Fogliato, Patil & Perona, IJCV 2024, plug-in estimator).

    With e = error - mean over the n pairs: sum_i (sum_k e_ik)^2 / n^2 for mated pairs (i with itself), and
    (sum_pairs e_ij^2 + max(0, sum_i sum_{j != k} e_ij e_ik)) / n^2 for non-mated ones.

    Args:
        error: bool [P], wrong decisions on pairs that are all mated or all non-mated. subject_a, subject_b: int [P].

    Raises ValueError when there is no pair, or when mated and non-mated pairs are mixed.
    """
    wrong = np.asarray(error, dtype=np.float64)
    a, b = np.asarray(subject_a), np.asarray(subject_b)
    mated = a == b
    if not wrong.size or (mated.any() and not mated.all()):
        raise ValueError(
            f"The variance needs pairs of one kind, but there are {mated.sum()} mated of {mated.size} pairs."
        )
    e = wrong - wrong.mean()
    if mated.all():
        sums = np.bincount(np.unique(a, return_inverse=True)[1], weights=e)
        return float((sums**2).sum() / wrong.size**2)
    member = np.unique(np.concatenate([a, b]), return_inverse=True)[1]
    both = np.tile(e, 2)
    sums, squares = np.bincount(member, weights=both), np.bincount(member, weights=both**2)
    shared = float((sums**2 - squares).sum())
    return float(((e**2).sum() + max(0.0, shared)) / wrong.size**2)


def wilson_interval(rate: float, variance: float, comparisons: int, level: float = 0.95) -> Interval:
    """Wilson interval with the effective number of comparisons p(1-p)/variance; keeps coverage for rare errors.

    Rates of 0 and 1 have no variance to estimate; ``comparisons`` then stands for their number.
    """
    n = rate * (1 - rate) / variance if variance > 0 and 0 < rate < 1 else float(comparisons)
    z = float(norm.ppf((1 + level) / 2))
    middle = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * float(np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2)))
    return Interval(0.0 if rate == 0 else float(middle - half), 1.0 if rate == 1 else float(middle + half))
