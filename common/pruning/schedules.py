"""How sparse a network is at which round or step. All are functions of the step alone, so that a resumed run prunes as it would.

Sparsities rise, so that masks can be nested: each selection keeps a part of what the one before kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from common.pruning.selection import check_sparsity


def linear_rounds(final: float, rounds: int) -> tuple[float, ...]:
    """Sparsity after each round when every round prunes the same share of the original weights: s_i = S i / n.

    `linear_rounds(S, 1)` is pruning in one shot.

    Raises:
        ValueError: sparsity outside [0, 1), or no round.
    """
    check_sparsity(final)
    _at_least_one(rounds)
    return tuple(final * i / rounds for i in range(1, rounds + 1))


def geometric_rounds(keep: float, rounds: int) -> tuple[float, ...]:
    """Sparsity after each round when every round keeps the share `keep` of what is left: s_i = 1 - keep^i.

    0.8 is the lottery ticket's and FairGRAPE's way: 1 - 0.8^5 = 0.672.

    Raises:
        ValueError: `keep` outside (0, 1], or no round.
    """
    _check_keep(keep)
    _at_least_one(rounds)
    return tuple(1 - keep**i for i in range(1, rounds + 1))


def rounds_to_reach(sparsity: float, keep: float) -> int:
    """Rounds of keeping the share `keep` until at least `sparsity` is reached: ceil(ln(1 - S) / ln q).

    Raises:
        ValueError: sparsity outside [0, 1), or `keep` outside (0, 1).
    """
    check_sparsity(sparsity)
    _check_keep(keep)
    if keep == 1:
        raise ValueError("keep is 1, so that no number of rounds reaches a sparsity; it must be below 1")
    return max(0, math.ceil(math.log(1 - sparsity) / math.log(keep) - 1e-9))  # exact powers must not need a round more


@dataclass(frozen=True)
class GradualSchedule:
    """Sparsity rises in updates every `every` steps from `begin` to `end`, fast at first and flat at last.

    s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3 at t = t_0, t_0 + dt, ..., t_0 + n dt (Zhu and Gupta 2017, Eq. 1), held
    between updates, s_i before and s_f afterwards. With s_i = 0 and s_f = 0.9 the quarters give 0, .5203, .7875, .8859, .9.

    Attributes:
        final: s_f. begin: t_0, end: t_0 + n dt, every: dt; in steps (or epochs). initial: s_i.
        exponent: 3 is the paper's; 1 is linear.

    Raises:
        ValueError: a sparsity outside [0, 1), falling sparsity, or an end that no update falls on.
    """

    final: float
    begin: int
    end: int
    every: int = 1
    initial: float = 0.0
    exponent: float = 3.0

    def __post_init__(self) -> None:
        check_sparsity(self.final)
        check_sparsity(self.initial)
        if self.initial > self.final:
            raise ValueError(f"sparsity would fall from {self.initial} to {self.final}; pruned weights do not return")
        if self.every < 1 or self.begin < 0 or self.end <= self.begin or (self.end - self.begin) % self.every:
            raise ValueError(
                f"updates every {self.every} steps from {self.begin} to {self.end} are none: end must lie behind begin "
                "by a multiple of every, so that the final sparsity is reached"
            )
        if self.exponent <= 0:
            raise ValueError(f"the exponent is {self.exponent}, but must be positive; 3 is the paper's")

    def prunes_at(self, step: int) -> bool:
        """Whether masks are renewed at this step."""
        return self.begin <= step <= self.end and (step - self.begin) % self.every == 0

    def sparsity(self, step: int) -> float:
        """Sparsity that holds at a step: that of the last update at or before it."""
        return self.formula(step - max(0, step - self.begin) % self.every if step < self.end else self.end)

    def formula(self, step: float) -> float:
        """The curve itself at any moment, as contrib.model_pruning evaluates it: progress is clipped to [0, 1]."""
        progress = min(1.0, max(0.0, (step - self.begin) / (self.end - self.begin)))
        return self.final + (self.initial - self.final) * (1 - progress) ** self.exponent


def _at_least_one(rounds: int) -> None:
    if rounds < 1:
        raise ValueError(f"there must be at least one round, not {rounds}")


def _check_keep(keep: float) -> None:
    if not 0 < keep <= 1:
        raise ValueError(f"the kept share is {keep}, but must lie in (0, 1]")
