"""When activation ranges are tracked during quantization-aware training.

The papers that track running ranges stop at different moments; each rule is one constructor here. Steps and epochs
count from 1, and the answer depends on nothing else, so that a resumed run freezes at the same place.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RangeSchedule:
    """Ranges are tracked through step `last_step` and epoch `last_epoch` (both included; None: no such limit)."""

    last_step: int | None = None
    last_epoch: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("last_step", self.last_step), ("last_epoch", self.last_epoch)):
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}; expected 0 (never track) or a positive count.")

    @classmethod
    def before_step(cls, step: int) -> RangeSchedule:
        """Tracked while the step is smaller than `step`: QuantFace tests `step < 300`, so steps 1..299 are tracked."""
        return cls(last_step=step - 1)

    @classmethod
    def frozen_after_epoch_above(cls, epochs: int) -> RangeSchedule:
        """Frozen at the end of the first epoch e > `epochs`: SyPer's rule, so with 5 the epochs 1..6 are tracked."""
        return cls(last_epoch=epochs + 1)

    @classmethod
    def frozen_after_epoch(cls, epochs: int) -> RangeSchedule:
        """Frozen at the end of the first epoch e >= `epochs`.

        With 8 the epochs 1..8 are tracked (Kolf et al., IJCB 2022, periocular recognition); with 1 only the first
        epoch is (Kolf et al., IJCB 2023, colour quantization, whose epoch 0 it is).
        """
        return cls(last_epoch=epochs)

    def tracks(self, step: int, epoch: int) -> bool:
        """Whether this training step tracks the ranges; both counts start at 1 and `step` runs over all epochs."""
        if step < 1 or epoch < 1:
            raise ValueError(f"Got step {step} and epoch {epoch}; both count from 1 (Lightning counts from 0: add 1).")
        within_steps = self.last_step is None or step <= self.last_step
        within_epochs = self.last_epoch is None or epoch <= self.last_epoch
        return within_steps and within_epochs
