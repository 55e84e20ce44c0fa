"""The fairness columns of a verification table, with intervals, as plain values that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from common.fairness import bootstrap, intervals, summary
from common.fairness.groups import (
    BoolArray,
    FloatArray,
    GroupRates,
    IntArray,
    OperatingPoint,
    check_pairs,
    check_scores,
    group_rates,
    operating_point,
    verification_rates,
)

ACCURACY_NAMES = {"worst_group": "worst_group", "group_gap": "group_gap", "std_sample": "group_std", "ser": "ser"}
ERROR_NAMES = ("fdr", "ir", "garbe")
CHOSEN_ON = "in-sample, on the non-mated pairs within groups"
NO_INTERVAL = intervals.Interval(float("nan"), float("nan"))


class _Report:
    """Collects values; what is NaN or infinite becomes None and is named with its reason."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}
        self.intervals: dict[str, Any] = {}
        self.undefined_draws: dict[str, int] = {}

    def put(self, name: str, found: summary.Summary, interval: intervals.Interval, factor: float = 1.0) -> None:
        """One metric; ``factor`` turns fractions into percent."""
        self.values[name] = _plain(found.value * factor)
        if self.values[name] is None:
            self.reasons[name] = found.reason or "the value is not a number"
        self.intervals[name] = _ends(interval, factor)
        self.count(name, interval)

    def put_groups(self, name: str, table: GroupRates, draws: FloatArray, level: float) -> None:
        """A rate of every group in percent, with percentile intervals of draws [D, G + 1]."""
        self.values[name], self.intervals[name] = {}, {}
        for i, (label, rate) in enumerate(zip(table.group_names, table.rate, strict=True)):
            self.values[name][label] = _plain(100 * float(rate))
            if label in table.skipped:
                self.reasons[f"{name}/{label}"] = table.skipped[label]
            if label in table.skipped:
                self.intervals[name][label] = None
                continue
            found = _with_rare_errors(intervals.percentile_interval(draws[:, i], level), table, i)
            self.intervals[name][label] = _ends(found, 100)
            self.count(f"{name}/{label}", found)

    def count(self, name: str, interval: intervals.Interval) -> None:
        if interval.undefined:
            self.undefined_draws[name] = interval.undefined


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _ends(interval: intervals.Interval, factor: float) -> list[float | None] | None:
    """[low, high], or None when no draw had a value; an unbounded end is None."""
    if math.isnan(interval.low):
        return None
    return [_plain(interval.low * factor), _plain(interval.high * factor)]


def _with_rare_errors(found: intervals.Interval, table: GroupRates, i: int) -> intervals.Interval:
    """A rate of exactly 0 (or 1) is the same in every draw: the rule of three says what may still be claimed."""
    wrong, pairs = int(table.numerator[i]), int(table.denominator[i])
    if wrong == 0:
        return intervals.Interval(0.0, summary.rule_of_three(pairs), found.undefined)
    if wrong == pairs:
        return intervals.Interval(1 - summary.rule_of_three(pairs), 1.0, found.undefined)
    return found


def verification_report(
    score: npt.ArrayLike,
    correct: npt.ArrayLike,
    same: npt.ArrayLike,
    fold: npt.ArrayLike,
    group: npt.ArrayLike,
    group_names: Sequence[str],
    subject_a: npt.ArrayLike,
    subject_b: npt.ArrayLike,
    fmr: float = 1e-2,
    *,
    alpha: float = 0.5,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """Group metrics of one model on one pair list, each with an interval over resampled subjects.

    Args:
        score: float [P], similarity. correct: bool [P], decisions of the fold protocol at one threshold for all groups.
        same: bool [P]. fold: int [P]. group: int [P], index into ``group_names``, -1 = none.
        subject_a, subject_b: int [P].
        fmr: target FMR of the global threshold of the error rates; it is chosen on the in-group non-mated pairs of
            these very scores ("in-sample"), and again in every draw.
        alpha: weight of FMR against FNMR in FDR, IR and GARBE. draws, seed, level: of the bootstrap.

    Returns:
        Percent (0..100): group_accuracy, group_fnmr, group_fmr ({group: value}), worst_group, group_gap, group_std
        (ddof 1). Ratios: ser, ir (parity 1). In [0, 1]: fdr (parity 1), garbe (parity 0).
        "intervals": {metric: [low, high]} in the metric's unit, {metric: {group: [low, high]}} for rates of groups, and
        of the overall "accuracy"; None where there is none, and an end that is None is unbounded.
        "undefined": names whose value is None, and "undefined_reasons": {name: why}; a group's is "group_fmr/<group>".
        Also pairs, subjects, folds, "counts" of every group, "group_details" (further summaries and the worst group's
        name), "operating_point" (None when there are too few pairs for ``fmr``) and "bootstrap".

    Raises ValueError for columns of different lengths, scores that are not finite, or a subject of two groups.
    """
    scores, names = check_scores(score), tuple(group_names)
    columns = {"score": scores, "correct": correct, "same": same, "fold": fold}
    groups = check_pairs(group, names, subject_a=subject_a, subject_b=subject_b, **columns)
    people = np.asarray(subject_a), np.asarray(subject_b)
    pairs = _Pairs(scores, np.asarray(correct, dtype=bool), np.asarray(same, dtype=bool), groups, names, *people)
    table = group_rates("accuracy", pairs.correct, groups, names, *people)
    point, refused = _operating_point(pairs, fmr)
    limit = np.inf if point is None else point.threshold
    rates = verification_rates(scores, pairs.same, groups, names, *people, threshold=limit)
    samples = _draws(pairs, point, draws, seed)
    report = _Report()
    _put_accuracy(report, table, samples["accuracy"], level)
    if refused is None:
        _put_errors(report, rates, samples, alpha, level)
    else:
        _put_no_errors(report, names, refused)
    return {
        **report.values,
        "pairs": int(groups.size),
        "subjects": int(np.union1d(*people).size),
        "folds": int(np.unique(fold).size),
        "counts": _counts(table, rates, point is not None),
        "undefined": sorted(report.reasons),
        "undefined_reasons": report.reasons,
        "intervals": report.intervals,
        "operating_point": None if point is None else {**asdict(point), "chosen_on": CHOSEN_ON, "alpha": alpha},
        "bootstrap": {
            "draws": draws, "seed": seed, "level": level, "unit": "subject within group",
            "undefined_draws": report.undefined_draws,
        },
    }  # fmt: skip


@dataclass(frozen=True)
class _Pairs:
    """The columns of a pair list, validated; arrays [P]."""

    score: FloatArray
    correct: BoolArray
    same: BoolArray
    group: IntArray
    names: tuple[str, ...]
    subject_a: npt.NDArray[Any]
    subject_b: npt.NDArray[Any]

    @property
    def impostor(self) -> BoolArray:
        """Non-mated pairs within a group: those that choose the threshold."""
        return np.asarray(~self.same & (self.group >= 0))


def _operating_point(pairs: _Pairs, fmr: float) -> tuple[OperatingPoint | None, str | None]:
    """The global threshold, or the reason why there are too few pairs for one."""
    impostors = np.count_nonzero(pairs.impostor)
    if impostors * fmr < 1:
        return None, f"{impostors} non-mated pairs within groups are too few to show an FMR of {fmr:g}"
    return operating_point(pairs.score, pairs.impostor, fmr), None


def _draws(pairs: _Pairs, point: OperatingPoint | None, draws: int, seed: int) -> dict[str, FloatArray]:
    """Accuracy, FMR and FNMR in every draw of subjects, each [draws, n_groups + 1]; the threshold is chosen anew."""
    what = pairs.same, pairs.group, len(pairs.names)
    parts: dict[str, list[FloatArray]] = {"accuracy": [], "fmr": [], "fnmr": []}
    for weights in bootstrap.weight_blocks(pairs.subject_a, pairs.subject_b, pairs.group, draws, seed):
        parts["accuracy"].append(bootstrap.accuracy_draws(pairs.correct, weights, *what)[:, 0])
        if point is not None:
            limit = bootstrap.threshold_draws(pairs.score, pairs.impostor, weights, point.target_fmr)
            fmr, fnmr = bootstrap.error_draws(pairs.score, weights, *what, threshold=limit)
            parts["fmr"].append(fmr)
            parts["fnmr"].append(fnmr)
    return {name: np.concatenate(blocks) for name, blocks in parts.items() if blocks}


def _put_accuracy(report: _Report, table: GroupRates, draws: FloatArray, level: float) -> None:
    report.put_groups("group_accuracy", table, draws, level)
    kept = table.measured
    found = summary.summarise_accuracy(table)
    ranges = intervals.accuracy_intervals(table.rate[kept], draws[:, :-1][:, kept], level) if kept.sum() >= 2 else {}
    for ours, name in ACCURACY_NAMES.items():
        report.put(name, found[ours], ranges.get(ours, NO_INTERVAL), 1.0 if name == "ser" else 100.0)
    report.intervals["accuracy"] = _ends(intervals.percentile_interval(draws[:, -1], level), 100)
    worst = table.group_names[int(np.nanargmin(table.rate))] if kept.any() else None
    report.values["group_details"] = {
        "worst_group_name": worst,
        "group_mean": _plain(100 * found["mean"].value),
        "group_std_population": _plain(100 * found["std_population"].value),
        "min_over_max": _plain(found["min_over_max"].value),
    }


def _put_errors(
    report: _Report, rates: Mapping[str, GroupRates], draws: Mapping[str, FloatArray], alpha: float, level: float
) -> None:
    for name in ("fnmr", "fmr"):
        report.put_groups(f"group_{name}", rates[name], draws[name], level)
    found = summary.summarise_errors(rates["fmr"], rates["fnmr"], alpha)
    kept = rates["fmr"].measured & rates["fnmr"].measured
    ranges = {}
    if kept.sum() >= 2:
        points = [rates[name].rate[kept] for name in ("fmr", "fnmr")]
        samples = [draws[name][:, :-1][:, kept] for name in ("fmr", "fnmr")]
        ranges = intervals.error_intervals(points[0], points[1], samples[0], samples[1], alpha, level)
    for name in ERROR_NAMES:
        report.put(name, found.pop(name), ranges.get(name, NO_INTERVAL))
    report.values["group_details"] |= {name: _plain(entry.value) for name, entry in found.items()}


def _put_no_errors(report: _Report, names: tuple[str, ...], reason: str) -> None:
    for name in ("group_fnmr", "group_fmr"):
        report.values[name], report.reasons[name], report.intervals[name] = dict.fromkeys(names), reason, None
    for name in ERROR_NAMES:
        report.put(name, summary.Summary(float("nan"), reason), NO_INTERVAL)


def _counts(table: GroupRates, rates: Mapping[str, GroupRates], at_threshold: bool) -> dict[str, dict[str, int]]:
    """The counts behind the rates of every group; false matches and non-matches only if there is a threshold."""
    out: dict[str, dict[str, int]] = {}
    for i, name in enumerate(table.group_names):
        out[name] = {
            "subjects": int(table.subjects[i]),
            "mated": int(rates["fnmr"].denominator[i]),
            "non_mated": int(rates["fmr"].denominator[i]),
            "correct": int(table.numerator[i]),
        }
        if at_threshold:
            out[name]["false_non_matches"] = int(rates["fnmr"].numerator[i])
            out[name]["false_matches"] = int(rates["fmr"].numerator[i])
    return out
