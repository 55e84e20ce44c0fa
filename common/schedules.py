"""Learning-rate schedules as functions of the step alone, so that a resumed run continues with the rate it would have had.

Each function returns the multiplier of the base rate at optimiser step k = 0, 1, ...; give it to
`torch.optim.lr_scheduler.LambdaLR` and step that every optimiser step (Lightning: `"interval": "step"`).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from typing import Any

Multiplier = Callable[[int], float]


def step_decay(milestones: Sequence[int], factor: float = 0.1) -> Multiplier:
    """Multiply by `factor` from each milestone (a step number) on."""
    ordered = sorted(milestones)
    return lambda step: factor ** bisect.bisect_right(ordered, step)


def polynomial(total: int, power: float = 1.0) -> Multiplier:
    """(1 - k / total)^power; the schedule of InsightFace's arcface_torch with power 1."""
    _positive(total)
    return lambda step: max(0.0, 1.0 - step / total) ** power


def one_cycle(total: int, warm_up: float = 0.3, start: float = 0.1, end: float = 0.0) -> Multiplier:
    """Cosine from `start` to 1 over the first `warm_up` of the steps, then cosine down to `end` (Smith and Topin 2018)."""
    _positive(total)
    if not 0 <= warm_up < 1:
        raise ValueError(f"warm_up is the share of steps before the peak, 0 <= warm_up < 1, not {warm_up}")
    peak = warm_up * total

    def multiplier(step: int) -> float:
        if step < peak:
            return start + (1 - start) * 0.5 * (1 - math.cos(math.pi * step / peak))
        return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - peak) / (total - peak))))

    return multiplier


def rate_for_batch(lr: float, reference_batch: int, trainer: Any) -> float:
    """A learning rate stated at a total batch of `reference_batch`, in proportion to the batch of all processes together.

    Args:
        lr: the stated rate. reference_batch: where it holds; 0 takes `lr` as it is, as does a data module without `batch_size`.
        trainer: Lightning's, attached to its data module.
    """
    batch = getattr(trainer.datamodule, "batch_size", None)
    return lr * (batch / reference_batch) if reference_batch and batch else lr


def _positive(total: int) -> None:
    if total < 1:
        raise ValueError(f"a schedule needs at least one step, not {total}")
