"""What a weight quantizer is, so that layers, packing and storage need not know which scheme they serve.

A weight quantizer is a rule from ranges [low, high] to codes: monotone in the weight, and with codes that survive being
decoded and encoded again. The ranges are those of the current weight, one pair an output channel (dimension 0) or one
pair a tensor, recomputed at every forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from common.quantization.affine import (
    affine_parameters,
    check_bits,
    code_bounds,
    dequantize,
    fake_quantize,
    quantize,
    symmetric_parameters,
)

GRANULARITIES = ("per_channel", "per_tensor")


class WeightQuantizer(Protocol):
    """Quantizes a weight of any shape [C, ...]; implementations are frozen dataclasses of plain values."""

    @property
    def bits(self) -> int:
        """Width of a code, 2..8."""

    @property
    def granularity(self) -> str:
        """ "per_channel" (one range per index of dimension 0) or "per_tensor"."""

    @property
    def signed(self) -> bool:
        """Whether codes are signed (stored in two's complement)."""

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        """The values that the layer computes with, [C, ...], differentiable with respect to `weight`."""

    def encode(self, weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Integer codes (int32, shape of `weight`) for given ranges ([C] or 0-dimensional)."""

    def decode(self, codes: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """The values of codes: bit for bit what `__call__` gives for a weight with these codes and ranges."""


def check_granularity(granularity: str) -> None:
    """Raises ValueError unless the granularity is one of the two that exist."""
    if granularity not in GRANULARITIES:
        raise ValueError(f"The granularity is {granularity!r}; expected one of {', '.join(GRANULARITIES)}.")


def weight_ranges(weight: torch.Tensor, granularity: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(low, high) of a weight: shape [C] per channel (dimension 0), 0-dimensional per tensor; no gradient."""
    check_granularity(granularity)
    values = weight.detach()
    if granularity == "per_tensor":
        low, high = torch.aminmax(values)
    else:
        low, high = torch.aminmax(values.reshape(values.shape[0], -1), dim=1)
    return low, high


@dataclass(frozen=True)
class UniformWeightQuantizer:
    """Min-max weight quantizer: symmetric with narrow range (the default) or affine; masked straight-through gradient.

    Symmetric: S = max|w| / (2^(b-1) - 1), Z = 0, codes -(2^(b-1) - 1) .. 2^(b-1) - 1, as gemmlowp and brevitas do.
    Affine: signed codes of the full range, Z free.
    """

    bits: int
    granularity: str = "per_channel"
    symmetric: bool = True

    def __post_init__(self) -> None:
        check_bits(self.bits)
        check_granularity(self.granularity)

    @property
    def signed(self) -> bool:
        return True

    @property
    def _axis(self) -> int | None:
        return 0 if self.granularity == "per_channel" else None

    def _parameters(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int, int]:
        quant_min, quant_max = code_bounds(self.bits, narrow_range=self.symmetric)
        rule = symmetric_parameters if self.symmetric else affine_parameters
        return *rule(low, high, quant_min, quant_max), quant_min, quant_max

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        parameters = self._parameters(*weight_ranges(weight, self.granularity))
        return fake_quantize(weight, *parameters, axis=self._axis)

    def encode(self, weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return quantize(weight, *self._parameters(low, high), axis=self._axis)

    def decode(self, codes: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        scale, zero_point, _, _ = self._parameters(low, high)
        return dequantize(codes, scale, zero_point, axis=self._axis)
