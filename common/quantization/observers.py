"""Observers: modules that watch activations and keep the range to quantize them with.

An observer changes its range only while `tracking` is on. Ranges are buffers: they travel with the state dict. When
several processes train together, a batch is that of all of them: every process ends up with the same range, the one
that a single process would have observed. Nothing here looks at `training`: whether a batch may move the ranges is
decided by the training schedule alone, so that evaluation cannot widen them by accident.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from common.distributed import extremes, gather_rows
from common.quantization.affine import in_full_precision


class RangesNotObservedError(RuntimeError):
    """Activations were to be quantized with ranges that no batch has ever set."""


class RangeObserver(nn.Module):
    """A range [low, high] (0-dimensional buffers) of one activation tensor, with the rule that updates it.

    Subclasses say how a batch changes the range (`_update`). `low = high = 0` and `batches_observed = 0` at the start.
    """

    low: torch.Tensor
    high: torch.Tensor
    batches_observed: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.tracking = False
        self._known_observed = False  # saves reading a buffer (a device synchronisation) at every forward
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("batches_observed", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def observe(self, x: torch.Tensor) -> None:
        """Lets the batch x (any shape) change the range if `tracking` is on; otherwise does nothing."""
        if not self.tracking:
            return
        self._update(in_full_precision(x.detach()))
        self.batches_observed += 1
        self._known_observed = True

    def _update(self, x: torch.Tensor) -> None:
        raise TypeError(f"{type(self).__name__} does not say how a batch changes its range; use one of its subclasses.")

    def range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(low, high). Raises RangesNotObservedError if no batch was ever observed."""
        if not self._known_observed:
            if not self.observed:
                raise RangesNotObservedError(
                    "An activation was to be quantized, but its range has never been observed, so it would collapse to "
                    "about 0. Call unfreeze_ranges(network) and run calibration or training batches first, or load a "
                    "state dict that holds ranges; require_observed_ranges(network) names the layers."
                )
            self._known_observed = True
        return self.low, self.high

    @property
    def observed(self) -> bool:
        """Whether at least one batch has set the range."""
        return bool(self.batches_observed.item() > 0)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._known_observed = False
        super()._load_from_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"low={self.low.item():.6g}, high={self.high.item():.6g}, tracking={self.tracking}"


class MinMaxObserver(RangeObserver):
    """Smallest and largest value seen so far; the first batch sets both (exact, sensitive to outliers)."""

    def _update(self, x: torch.Tensor) -> None:
        low, high = extremes(*torch.aminmax(x))
        first = self.batches_observed == 0
        self.low.copy_(torch.where(first, low, torch.minimum(self.low, low)))
        self.high.copy_(torch.where(first, high, torch.maximum(self.high, high)))


class RunningExtremeObserver(RangeObserver):
    """Smallest and largest value seen so far, both starting at 0, so that the range only widens and always holds 0.

    This is what QuantFace does (Boutros et al., ICPR 2022, official code); it differs from `MinMaxObserver` when all
    activations of the first batches have one sign.
    """

    def _update(self, x: torch.Tensor) -> None:
        low, high = extremes(*torch.aminmax(x))
        torch.minimum(self.low, low, out=self.low)
        torch.maximum(self.high, high, out=self.high)


class MovingAverageObserver(RangeObserver):
    """Exponential moving average of each batch's extremes: low += c * (low_batch - low); the first batch sets both.

    `constant` is c in (0, 1]; 0.01 is torch's default.
    """

    def __init__(self, constant: float = 0.01) -> None:
        super().__init__()
        if not 0.0 < constant <= 1.0:
            raise ValueError(f"The averaging constant is {constant}; expected a number in (0, 1].")
        self.constant = constant

    def _update(self, x: torch.Tensor) -> None:
        low, high = extremes(*torch.aminmax(x))
        weight = torch.where(self.batches_observed == 0, 1.0, self.constant).to(low.dtype)
        self.low.lerp_(low, weight)
        self.high.lerp_(high, weight)


class PercentileObserver(RangeObserver):
    """Mean over batches of each batch's quantiles 1 - p and p, which leaves outliers to be clipped.

    `percentile` is p in (0.5, 1]; quantiles are order statistics (nearest rank), so p = 1 gives the mean of the
    extremes.
    """

    def __init__(self, percentile: float = 0.9999) -> None:
        super().__init__()
        if not 0.5 < percentile <= 1.0:
            raise ValueError(f"The percentile is {percentile}; expected a number in (0.5, 1].")
        self.percentile = percentile

    def _update(self, x: torch.Tensor) -> None:
        values = gather_rows(x.flatten())
        rank_high = max(1, min(values.numel(), round(self.percentile * values.numel())))
        high = values.kthvalue(rank_high).values
        low = values.kthvalue(values.numel() + 1 - rank_high).values
        weight = 1.0 / (self.batches_observed + 1).to(low.dtype)
        self.low.lerp_(low, weight)
        self.high.lerp_(high, weight)


def range_observers(network: nn.Module) -> Iterator[tuple[str, RangeObserver]]:
    """(qualified name, observer) of every observer of a network, in module order."""
    for name, module in network.named_modules():
        if isinstance(module, RangeObserver):
            yield name, module


def set_tracking(network: nn.Module, tracking: bool) -> None:
    """Turns the tracking of every activation range of the network on or off."""
    for _, observer in range_observers(network):
        observer.tracking = tracking


def unfreeze_ranges(network: nn.Module) -> None:
    """From now on every batch that passes through the network updates its activation ranges."""
    set_tracking(network, True)


def freeze_ranges(network: nn.Module) -> None:
    """From now on the activation ranges stay as they are."""
    set_tracking(network, False)


@contextmanager
def frozen_ranges(network: nn.Module) -> Iterator[None]:
    """Inside the block no range moves (evaluation); afterwards every observer tracks or rests as before."""
    before = [(observer, observer.tracking) for _, observer in range_observers(network)]
    freeze_ranges(network)
    try:
        yield
    finally:
        for observer, tracking in before:
            observer.tracking = tracking


def require_observed_ranges(network: nn.Module) -> None:
    """Raises RangesNotObservedError that names every layer whose range was never observed or is not finite.

    Call it before an evaluation; a network without observers passes.
    """
    unobserved = [name for name, observer in range_observers(network) if not observer.observed]
    if unobserved:
        raise RangesNotObservedError(
            f"{len(unobserved)} activation ranges have never been observed: {_listed(unobserved)}. Evaluating "
            "now would quantize with an empty range. Call unfreeze_ranges(network), run calibration or training "
            "batches, then freeze_ranges(network)."
        )
    broken = [
        name
        for name, observer in range_observers(network)
        if not bool(torch.isfinite(observer.low) & torch.isfinite(observer.high))
    ]
    if broken:
        raise RangesNotObservedError(
            f"{len(broken)} activation ranges are not finite: {_listed(broken)}. The batches they were observed on "
            "held NaN or infinite activations; look at the training loss, then calibrate again."
        )


def _listed(names: list[str], most: int = 8) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
