"""The learning rate of every epoch: what the paper says, what its code does, and a cosine."""

from __future__ import annotations

import math
from typing import Literal

from common.schedules import Multiplier, step_decay

Schedule = Literal["paper", "official_bug", "cosine"]
SCHEDULES = ("paper", "official_bug", "cosine")
OFFICIAL_RATE = 0.01


def epoch_rates(schedule: Schedule, epochs: int, lr: float, drops: tuple[float, ...]) -> list[float]:
    """The rate of every epoch.

    Args:
        schedule: `"paper"`: a tenth after each share in `drops` (ResNets: 80 and 120 of 150 epochs; plain nets: constant);
            `"official_bug"`: what the official code does. Its first branch asks for `epoch < int(epoch / 2)`, which never
            holds, so that ResNets train at 0.01 until three quarters of the epochs and at 0.001 afterwards; plain nets, which
            have no drops, at 0.01. `lr` is not used; `"cosine"`: from `lr` to 0 (ours).
        epochs: in all. lr: the first rate. drops: shares of the epochs, in (0, 1).

    Raises:
        ValueError: another schedule, or no epoch.
    """
    if schedule not in SCHEDULES or epochs < 1:
        raise ValueError(f"{schedule=}, {epochs=}: expected one of {', '.join(SCHEDULES)} and at least one epoch")
    if schedule == "cosine":
        return [lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs)) for epoch in range(epochs)]
    if schedule == "official_bug":
        late = int(epochs * 3 / 4) if drops else epochs
        return [OFFICIAL_RATE if epoch < late else OFFICIAL_RATE / 10 for epoch in range(epochs)]
    decay = step_decay([round(share * epochs) for share in drops])
    return [lr * decay(epoch) for epoch in range(epochs)]


def by_step(rates: list[float], lr: float, steps_an_epoch: int) -> Multiplier:
    """The multiplier of `lr` at every optimiser step; after the last epoch the last rate stays."""
    return lambda step: rates[min(step // steps_an_epoch, len(rates) - 1)] / lr
