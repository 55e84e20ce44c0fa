"""Claims: what a paper says its table shows, written down before any result exists.

A claim is data. It names quantities (an arm, a pair set, a metric), combines them linearly and says on which side of a
bound the combination lies. How it is judged from stored results is in `common.experiment.judge`; this module computes
nothing and imports nothing heavy, so that a paper's `table.py` can declare claims for free.

    superior("kd_beats_ptq", "W6A6 with KD beats calibration alone", on("w6a6"), on("w6a6_ptq"))
    within("w8a8_easy", "W8A8 costs at most 0.2 pp", on("w8a8"), on("fp32"), margin=0.2)
    larger_drop("hard_suffers", "...", on("w6a6", "hard"), on("fp32", "hard"), on("w6a6", "easy"), on("fp32", "easy"))
    monotone("bits", "FP32 >= W8A8 >= W6A6", [on("fp32"), on("w8a8"), on("w6a6")])
    conjunction("c2", "the ordering holds on every benchmark", [claim_on_easy, claim_on_hard])

where `on = lambda arm, pair_set="easy": Quantity(arm, pair_set, "accuracy")`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

METRICS = ("accuracy", "worst_group", "group_gap", "group_std", "ser")
GROUP_PREFIX = "group:"
NUMBER_PREFIX = "number:"
SOURCES = ("paper", "suite")
KINDS = ("superior", "within", "larger_drop", "monotone")


@dataclass(frozen=True)
class Quantity:
    """One number of a table: a metric of an arm on a pair set, averaged over seeds.

    Attributes:
        arm: name of the arm.
        pair_set: name of the verification set.
        metric: `"accuracy"`, `"worst_group"` (lowest group accuracy), `"group_gap"` (highest - lowest), `"group_std"`
            (ddof 1), `"group:<name>"` (accuracy of one group): percent points, 0..100; `"ser"` (highest group error
            / lowest, a ratio >= 1); or `"number:<key>"`, any other number that a run's metrics hold for the pair set
            (iterations, a loss): it has no decisions, so that only seeds are resampled.

    Raises:
        ValueError: the metric is none of these.
    """

    arm: str
    pair_set: str
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        is_named = any(len(self.metric) > len(p) for p in (GROUP_PREFIX, NUMBER_PREFIX) if self.metric.startswith(p))
        if self.metric not in METRICS and not is_named:
            raise ValueError(
                f"'{self.metric}' is not a metric that a claim can speak of: "
                f"use {', '.join(METRICS)}, group:<name of the group> or number:<key of a metric>"
            )

    def __str__(self) -> str:
        return f"{self.arm}/{self.pair_set}" + ("" if self.metric == "accuracy" else f"/{self.metric}")


@dataclass(frozen=True)
class Contrast:
    """A linear combination of quantities and the side of a bound on which the claim puts it.

    Attributes:
        terms: (coefficient, quantity) pairs; the value is the sum of coefficient x quantity.
        bound: the value that the combination is compared with.
        above: True when the claim says value > bound, False when it says value < bound.
        label: what is printed for it; made from the terms when empty.

    Raises:
        ValueError: no terms, a coefficient that is zero or not finite, a bound that is not finite.
    """

    terms: tuple[tuple[float, Quantity], ...]
    bound: float = 0.0
    above: bool = True
    label: str = ""

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("a contrast without quantities says nothing: give it at least one term")
        for coefficient, quantity in self.terms:
            if not math.isfinite(coefficient) or coefficient == 0:
                raise ValueError(
                    f"the coefficient of {quantity} is {coefficient}: expected a finite number other than 0"
                )
        _finite("bound", self.bound)
        if not self.label:
            object.__setattr__(self, "label", _formula(self.terms))

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """The quantities it is made of."""
        return tuple(quantity for _, quantity in self.terms)


@dataclass(frozen=True)
class Trend:
    """Quantities that the claim orders from the highest to the lowest.

    The value is Kendall's tau-a between the stated order and the measured one: the mean over all pairs of +1 (the
    earlier quantity is higher), 0 (equal) and -1; 1 = exactly this order. The claim says value > 0.

    Attributes:
        ordered: at least two quantities, highest first.
        margin: a later quantity may be higher by less than this and still counts as in order (0: no tolerance), in
            their unit.
        label: what is printed for it; made from the quantities when empty.

    Raises:
        ValueError: fewer than two quantities, one of them twice, a negative margin.
    """

    ordered: tuple[Quantity, ...]
    margin: float = 0.0
    label: str = ""

    def __post_init__(self) -> None:
        if len(self.ordered) < 2 or len(set(self.ordered)) < len(self.ordered):
            raise ValueError("an order needs at least two quantities, none of them twice")
        _margin(self.margin)
        if not self.label:
            object.__setattr__(self, "label", " >= ".join(str(quantity) for quantity in self.ordered))

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """The quantities it orders."""
        return self.ordered

    @property
    def bound(self) -> float:
        """Tau of no order."""
        return 0.0

    @property
    def above(self) -> bool:
        """A trend claims tau > 0."""
        return True


@dataclass(frozen=True)
class Claim:
    """A statement that a table can hold up or refute.

    Attributes:
        key: identifier, unique in its table; text: the statement as printed.
        kind: `"superior"`, `"within"`, `"larger_drop"` or `"monotone"`.
        tests: what has to be true, all of it: the claim holds if every test holds, fails if any fails, else it is
            inconclusive.
        margin: the margin in `unit` that was stated with the claim.
        unit: unit of the effect (`"pp"` percent points, `"ratio"` for SER, `"tau"` for trends, `"number"` for others).
        source: `"paper"` when the paper says it, `"suite"` when it is a control of ours.

    Raises:
        ValueError: an unknown kind or source, or no tests.
    """

    key: str
    text: str
    kind: str
    tests: tuple[Contrast | Trend, ...]
    margin: float = 0.0
    unit: str = "pp"
    source: str = "paper"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"claim '{self.key}' is of kind '{self.kind}': expected one of {', '.join(KINDS)}")
        if self.source not in SOURCES:
            raise ValueError(f"claim '{self.key}' comes from '{self.source}': expected one of {', '.join(SOURCES)}")
        if not self.tests:
            raise ValueError(f"claim '{self.key}' holds no test: give it at least one contrast")
        _margin(self.margin)

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Every quantity it speaks of, once, in order of appearance."""
        return tuple(dict.fromkeys(quantity for test in self.tests for quantity in test.quantities))

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm it speaks of, once, in order of appearance."""
        return tuple(dict.fromkeys(quantity.arm for quantity in self.quantities))


def superior(key: str, text: str, a: Quantity, b: Quantity, *, margin: float = 0.0, source: str = "paper") -> Claim:
    """A beats B: A - B > margin (0 unless the paper's own difference is claimed)."""
    contrast = Contrast(((1.0, a), (-1.0, b)), bound=_margin(margin))
    return Claim(key, text, "superior", (contrast,), margin, _unit(a, b), source)


def within(key: str, text: str, a: Quantity, b: Quantity, *, margin: float, source: str = "paper") -> Claim:
    """A drops at most `margin` below B: B - A < margin."""
    contrast = Contrast(((1.0, b), (-1.0, a)), bound=_margin(margin), above=False)
    return Claim(key, text, "within", (contrast,), margin, _unit(a, b), source)


def larger_drop(
    key: str,
    text: str,
    a: Quantity,
    reference: Quantity,
    other: Quantity,
    other_reference: Quantity,
    *,
    margin: float = 0.0,
    source: str = "paper",
) -> Claim:
    """The drop from `reference` to `a` exceeds that from `other_reference` to `other`.

    (reference - a) - (other_reference - other) > margin, e.g. `a`, `reference` = W6A6, FP32 on the hard set and
    `other`, `other_reference` = W6A6, FP32 on the easy set.
    """
    terms = ((1.0, reference), (-1.0, a), (-1.0, other_reference), (1.0, other))
    label = f"({reference} - {a}) - ({other_reference} - {other})"
    contrast = Contrast(terms, bound=_margin(margin), label=label)
    return Claim(key, text, "larger_drop", (contrast,), margin, _unit(a, reference, other, other_reference), source)


def monotone(
    key: str, text: str, ordered_quantities: Sequence[Quantity], *, margin: float = 0.0, source: str = "paper"
) -> Claim:
    """The quantities fall in the order given, highest first (a later one may be higher by less than `margin`)."""
    return Claim(key, text, "monotone", (Trend(tuple(ordered_quantities), margin),), margin, "tau", source)


def conjunction(key: str, text: str, claims: Iterable[Claim]) -> Claim:
    """One claim that says all of these: same kind, unit and source; margins may differ (the largest is kept for
    printing).

    Raises:
        ValueError: no claims, or claims of different kinds, units or sources.
    """
    parts = tuple(claims)
    if not parts:
        raise ValueError(f"claim '{key}' joins no claims")
    for name in ("kind", "unit", "source"):
        values = sorted({getattr(part, name) for part in parts})
        if len(values) > 1:
            raise ValueError(
                f"claim '{key}' joins claims of different {name} ({', '.join(values)}): declare them one by one"
            )
    tests = tuple(test for part in parts for test in part.tests)
    return replace(parts[0], key=key, text=text, tests=tests, margin=max(part.margin for part in parts))


def _unit(*quantities: Quantity) -> str:
    units = {_unit_of(quantity.metric) for quantity in quantities}
    if len(units) > 1:
        names = ", ".join(str(quantity) for quantity in quantities)
        raise ValueError(f"{names} have different units ({', '.join(sorted(units))}): compare like with like")
    return units.pop()


def _unit_of(metric: str) -> str:
    if metric.startswith(NUMBER_PREFIX):
        return "number"
    return "ratio" if metric == "ser" else "pp"


def _formula(terms: Sequence[tuple[float, Quantity]]) -> str:
    text = ""
    for coefficient, quantity in terms:
        sign = "-" if coefficient < 0 else "+"
        factor = "" if abs(coefficient) == 1 else f"{abs(coefficient):g} x "
        text += f" {sign} {factor}{quantity}"
    return text[3:] if text.startswith(" + ") else text[1:]


def _finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"the {name} is {value}: expected a finite number")


def _margin(value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"the margin is {value}: expected a finite number >= 0 in the unit of the metric")
    return float(value)
