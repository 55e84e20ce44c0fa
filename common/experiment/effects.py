"""One test of a claim on the draws of the bootstrap: effect, interval, p-value (see `common.experiment.judge`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from common.experiment.claims import Contrast, Quantity, Trend
from common.experiment.evidence import NotJudged
from common.experiment.resampling import FloatArray, stretch

HOLDS, FAILS, INCONCLUSIVE = "holds", "fails", "inconclusive"
SIDE = 0.025  # each side of a 95 % interval
DECIMALS = 9  # sums of floats that should be equal differ in the last bits; a tie has to stay a tie
VISIBLE = float(stats.norm.isf(SIDE) + stats.norm.isf(0.2))  # 1.96 + 0.84: 80 % power


# Mean of a quantity over seeds [], the same in every draw of people [B], and the drawn seeds' deviation from it [B].
Values = Mapping[Quantity, tuple[FloatArray, FloatArray, FloatArray]]


@dataclass(frozen=True)
class Finding:
    """One test of a claim, or one step of a trend.

    Attributes:
        label: what was compared.
        effect, low, high: value and 95 % interval (None: undefined).
        bound, above: what was claimed.
        verdict: uncorrected.
        smallest_visible: smallest distance from the bound that would have been seen with 80 % power (None for tau).
    """

    label: str
    effect: float | None
    low: float | None
    high: float | None
    bound: float
    above: bool
    verdict: str
    smallest_visible: float | None


class Sample:
    """Value and draws of one test, turned so that the claim says: value > 0."""

    def __init__(self, test: Contrast | Trend, values: Values, seeds: int) -> None:
        self.test, self.seeds = test, seeds
        self.inputs = [values[quantity] for quantity in test.quantities]
        self.variances = [self._variances(coefficients) for coefficients in self._linear_parts()]
        self.sign = 1.0 if test.above else -1.0
        self._known: dict[float, FloatArray] = {}
        self.effect = float(self._combine(np.array([point for point, _, _ in self.inputs])))
        if not math.isfinite(self.effect):
            raise NotJudged(f"'{test.label}' is undefined: a quantity in it is a ratio to a group without errors")
        self.undefined = int(np.count_nonzero(~np.isfinite(self.draws(SIDE))))

    def _combine(self, quantities: FloatArray) -> FloatArray:
        """[Q, ...] -> [...]: the contrast, or tau of the trend."""
        if isinstance(self.test, Contrast):
            with np.errstate(invalid="ignore"):
                coefficients = [coefficient for coefficient, _ in self.test.terms]
                return np.round(np.tensordot(coefficients, quantities, axes=1), DECIMALS)
        first, second = np.triu_indices(len(quantities), 1)
        ahead = np.round(quantities[first] - quantities[second] + self.test.margin, DECIMALS)
        return np.asarray(np.sign(ahead).mean(axis=0))

    def _linear_parts(self) -> FloatArray:
        """[parts, Q]: the contrast itself, or the neighbouring differences of the trend."""
        if isinstance(self.test, Contrast):
            return np.array([[coefficient for coefficient, _ in self.test.terms]])
        size = len(self.test.ordered)
        return np.eye(size)[:-1] - np.eye(size)[1:]

    def _variances(self, coefficients: FloatArray) -> tuple[float, float]:
        """Variance of a linear combination over the draws' seeds and over their people, undefined draws left out."""
        with np.errstate(invalid="ignore"):
            people, seeds = (coefficients @ np.array([parts[at] for parts in self.inputs]) for at in (1, 2))
        return float(seeds.var()), float(people[np.isfinite(people)].var()) if np.isfinite(people).any() else 0.0

    def draws(self, level: float) -> FloatArray:
        """Value in every draw, float64 [B], NaN or infinite where undefined."""
        if level not in self._known:
            factor = max(stretch(self.seeds, level, between, within) for between, within in self.variances)
            quantities = np.array([mean + factor * deviation for _, mean, deviation in self.inputs])
            self._known[level] = self._combine(quantities)
        return self._known[level]

    def contradicting(self, level: float) -> int:
        """Number of draws that do not support the claim."""
        ahead = self.sign * (self.draws(level) - self.test.bound)
        return int(np.count_nonzero(~(np.isfinite(ahead) & (ahead > 0))))

    def distance(self, level: float) -> float:
        """How far on the claimed side of the bound the value is, in standard errors."""
        ahead = self.sign * (self.effect - self.test.bound)
        error = self.standard_error(level)
        return ahead / error if error else math.copysign(math.inf, ahead) if ahead else 0.0

    def standard_error(self, level: float) -> float:
        """Standard deviation over the defined draws; 0 when they all agree."""
        draws = self.draws(level)
        draws = draws[np.isfinite(draws)]
        return float(draws.std()) if len(draws) else 0.0

    def excursions(self, level: float) -> FloatArray:
        """By how many standard errors each draw lies further on the claimed side than the value, float64 [B]."""
        error = self.standard_error(level)
        further = self.sign * (self.draws(level) - self.effect)
        if not error:
            return np.where(np.isfinite(further), 0.0, np.inf)
        return np.where(np.isfinite(further), further / error, np.inf)

    def finding(self) -> Finding:
        """Effect, interval and uncorrected verdict; an undefined draw lies beyond either end of the interval."""
        draws = self.draws(SIDE)
        defined = np.isfinite(draws)
        low = float(np.quantile(np.where(defined, draws, -np.inf), SIDE, method="lower"))
        high = float(np.quantile(np.where(defined, draws, np.inf), 1 - SIDE, method="higher"))
        bound = self.test.bound
        right, wrong = (low > bound, high < bound) if self.test.above else (high < bound, low > bound)
        verdict = HOLDS if right else FAILS if wrong else INCONCLUSIVE
        visible = None if isinstance(self.test, Trend) else VISIBLE * self.standard_error(SIDE)
        return Finding(
            self.test.label, self.effect, _finite(low), _finite(high), bound, self.test.above, verdict, visible
        )


def draws_as_far(samples: Sequence[Sample], level: float) -> int:
    """Number of draws whose largest excursion over the tests is as large as the furthest distance on the wrong side."""
    furthest = max(-sample.distance(level) for sample in samples)
    excursions = np.max([sample.excursions(level) for sample in samples], axis=0)
    return int(np.count_nonzero(excursions >= furthest))


def smallest_level(contradicting: Callable[[float], int], draws: int) -> float:
    """Smallest level p with (1 + contradicting draws at level p)/(1 + draws) <= p, by bisection."""

    def share(level: float) -> float:
        return (1 + contradicting(level)) / (1 + draws)

    low, high = 1 / (1 + draws), 1.0
    if share(low) <= low:
        return low
    for _ in range(16):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if share(middle) <= middle else (middle, high)
    return high


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
