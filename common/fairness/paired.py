"""Two models on the same people: what compression took from every group, with intervals and corrected p-values.

Drops are counted against the uncompressed model *of the same seed*, on the same pairs or images, and every draw of the
bootstrap takes the same people for both: what the two models share cancels. Percent points; positive = lost.

An effect is a mean over S paired seeds. Its margin has two parts, which are added in quadrature: over people (the normal
quantile times the standard deviation of the draws) and over training (Student's quantile with S - 1 degrees of freedom
times s / sqrt S). Simulated with 2, 3 and 5 seeds and any ratio of the two parts, errors stay at or below 5, 1 and 0.1 %
alike; Satterthwaite's approximation, with three seeds and mostly training noise, errs ten times as often as it says at
0.1 %, which is where corrections for many comparisons look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import special

from common.fairness import summary
from common.fairness.bootstrap import accuracy_draws, weight_blocks
from common.fairness.groups import FEWEST_SUBJECTS, BoolArray, FloatArray, check_pairs, subjects_per_group
from common.fairness.multiplicity import holm

DRAWS = 2000
SMALLEST_P = 1e-12


@dataclass(frozen=True)
class Effect:
    """A number of a comparison, its interval, and the two-sided p-value of "it is 0" (of a ratio: 1).

    ``p_adjusted`` is corrected over the comparisons made together, NaN where nothing was corrected. Without a value all
    are NaN and ``reason`` says why; of one seed it says that training luck is not in the interval.
    """

    value: float
    low: float
    high: float
    p: float
    p_adjusted: float = float("nan")
    reason: str | None = None

    @property
    def sign(self) -> int:
        """1 if the interval lies above 0, -1 below, 0 if it holds 0 or there is none."""
        return int(self.low > 0) - int(self.high < 0)


def no_effect(reason: str) -> Effect:
    """An undefined effect."""
    nan = float("nan")
    return Effect(nan, nan, nan, nan, reason=reason)


ONE_SEED = "one seed: the interval covers the choice of people, not of training"


def effect(point: npt.ArrayLike, draws: npt.ArrayLike, level: float = 0.95, corrected: bool = False) -> Effect:
    """Mean over seeds with its interval.

    Args:
        point: float [S], the value at every seed. draws: float [D, S], its values in D draws of people.
        corrected: take the bias of the draws off (of a gap between groups, which noise alone widens: the measured one
            is too wide by about what the draws add once more). The value stays the measured one.

    Draws without a value are left out; with fewer than half of them left there is no effect.
    """
    value, sample = np.asarray(point, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    mean = sample.mean(axis=1)
    kept = mean[np.isfinite(mean)]
    if not np.isfinite(value).all():
        return no_effect("undefined at a seed")
    if 2 * kept.size < mean.size:
        return no_effect(f"{mean.size - kept.size} of {mean.size} draws have no value")
    seeds, estimate = value.size, float(value.mean())
    centre = 2 * estimate - float(kept.mean()) if corrected else estimate
    people = float(kept.var())
    training = float(value.var(ddof=1)) / seeds if seeds > 1 else 0.0
    reason = ONE_SEED if seeds == 1 else None
    if people + training < 1e-24:
        p = 1.0 if abs(centre) < 1e-12 else 1 / (1 + mean.size)
        return Effect(estimate, centre, centre, p, reason=reason or "the same in every draw and at every seed")
    radius = float(_margin((1 - level) / 2, people, training, seeds))
    return Effect(
        estimate, centre - radius, centre + radius, _p_value(abs(centre), people, training, seeds), reason=reason
    )


def _margin(tail: float, people: npt.ArrayLike, training: npt.ArrayLike, seeds: int) -> FloatArray:
    """Half width of the interval that leaves ``tail`` on each side; people and training are variances of the mean."""
    over_people = special.ndtri(tail) ** 2 * np.asarray(people, dtype=np.float64)
    if seeds < 2:
        return np.asarray(np.sqrt(over_people))
    return np.asarray(
        np.sqrt(over_people + special.stdtrit(seeds - 1, tail) ** 2 * np.asarray(training, dtype=np.float64))
    )


def _p_value(distance: float, people: float, training: float, seeds: int) -> float:
    """Two-sided level at which the interval of an effect just touches a point this far away."""
    low, high = SMALLEST_P / 2, 0.5
    if distance >= _margin(low, people, training, seeds):
        return SMALLEST_P
    for _ in range(60):  # of the logarithm: p-values are compared by ratios
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if distance >= _margin(middle, people, training, seeds) else (middle, high)
    return 2 * high


@dataclass(frozen=True)
class PairedReport:
    """What changed from the uncompressed to the compressed model.

    Attributes:
        overall: drop of the accuracy over all pairs. drop: group -> its drop.
        excess: group -> its drop minus the overall one, p-values corrected over the groups (Holm).
        gap_growth: gap between the best and the worst group, compressed minus uncompressed, corrected for bias.
        ser_ratio: SER of the compressed over that of the uncompressed model (1 = as skewed as before).
        undefined: group -> why it was not measured.
    """

    overall: Effect
    drop: Mapping[str, Effect]
    excess: Mapping[str, Effect]
    gap_growth: Effect
    ser_ratio: Effect
    undefined: Mapping[str, str]


def compare_models(
    uncompressed: npt.ArrayLike,
    compressed: npt.ArrayLike,
    group: npt.ArrayLike,
    group_names: Sequence[str],
    subject_a: npt.ArrayLike,
    subject_b: npt.ArrayLike | None = None,
    same: npt.ArrayLike | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> PairedReport:
    """Compare two models by their decisions on the same pairs or images.

    Args:
        uncompressed, compressed: bool [S, P] (or [P]), right decisions at S paired seeds: row s of both has the same seed.
        group: int [P], -1 = no group. subject_a, subject_b: int [P], the people; of images, who each one shows
            (``subject_b`` left out).
        same: bool [P], mated pairs; left out for images.
        draws, seed: of the bootstrap over subjects within groups. level: of the intervals.

    Raises ValueError when the two do not have the same seeds and pairs, or when a subject has two groups.
    """
    before, after = (np.atleast_2d(np.asarray(model, dtype=bool)) for model in (uncompressed, compressed))
    if before.shape != after.shape:
        raise ValueError(f"uncompressed has shape {before.shape}, compressed {after.shape}: pair them seed by seed.")
    other = subject_a if subject_b is None else subject_b
    mated = np.ones(before.shape[1], dtype=bool) if same is None else np.asarray(same, dtype=bool)
    groups = check_pairs(group, group_names, subject_a=subject_a, subject_b=other, same=mated, decisions=before[0])
    names, count = tuple(group_names), subjects_per_group(groups, len(group_names), subject_a, other)
    both = np.concatenate([before, after])
    once = np.ones((1, groups.size), dtype=np.float32)
    point = 100 * accuracy_draws(both, once, mated, groups, len(names))[0]
    blocks = weight_blocks(subject_a, other, groups, draws, seed)
    sample = 100 * np.concatenate([accuracy_draws(both, weights, mated, groups, len(names)) for weights in blocks])
    return _report(_Halves(point, sample, len(before)), names, count >= FEWEST_SUBJECTS, level)


@dataclass(frozen=True)
class _Halves:
    """Accuracies in percent of S uncompressed and then S compressed runs: point [2S, G+1], draws [D, 2S, G+1]."""

    point: FloatArray
    draws: FloatArray
    seeds: int

    def drop(self, place: int) -> tuple[FloatArray, FloatArray]:
        """What a group (last place: everyone) lost: [S] and [D, S]."""
        s = self.seeds
        return (
            self.point[:s, place] - self.point[s:, place],
            self.draws[:, :s, place] - self.draws[:, s:, place],
        )

    def growth(
        self, function: Callable[[FloatArray], FloatArray], measured: BoolArray
    ) -> tuple[FloatArray, FloatArray]:
        """Change of a summary over the measured groups: [S] and [D, S]."""
        inside, s = np.flatnonzero(measured), self.seeds
        point, draws = function(self.point[:, inside]), function(self.draws[..., inside])
        with np.errstate(invalid="ignore"):  # inf - inf: two perfect groups
            return point[s:] - point[:s], draws[:, s:] - draws[:, :s]


def _report(found: _Halves, names: tuple[str, ...], measured: BoolArray, level: float) -> PairedReport:
    overall = found.drop(-1)
    drop: dict[str, Effect] = {}
    excess: dict[str, Effect] = {}
    undefined: dict[str, str] = {}
    for i, name in enumerate(names):
        if not measured[i]:
            undefined[name] = f"group {name!r} has fewer than {FEWEST_SUBJECTS} subjects"
            drop[name] = excess[name] = no_effect(undefined[name])
            continue
        own = found.drop(i)
        drop[name] = effect(*own, level)
        excess[name] = effect(own[0] - overall[0], own[1] - overall[1], level)
    adjusted = holm([one.p for one in excess.values()])
    excess = {n: replace(one, p_adjusted=float(q)) for (n, one), q in zip(excess.items(), adjusted, strict=True)}
    if measured.sum() < 2:
        gap = ratio = no_effect(summary.NOT_ENOUGH)
    else:
        gap = effect(*found.growth(summary.group_gap, measured), level, corrected=True)
        ratio = _ratio(effect(*found.growth(_log_ser, measured), level, corrected=True))
    return PairedReport(effect(*overall, level), drop, excess, gap, ratio, undefined)


def _log_ser(percent: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(summary.ser(percent / 100))


def _ratio(log: Effect) -> Effect:
    """An effect of logarithms as one of ratios."""
    if np.isnan(log.value):
        return replace(log, reason="a group of one of the models made no error, so that its SER has no bound")
    return replace(log, value=float(np.exp(log.value)), low=float(np.exp(log.low)), high=float(np.exp(log.high)))
