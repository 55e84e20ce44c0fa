"""Uniform quantizers with an additive zero point: x ≈ scale * (code - zero_point).

Symbols, as in Jacob et al. (CVPR 2018, section 2.1) and torch: `scale` S > 0 is the step, `zero_point` Z the integer
code of real 0, [quant_min, quant_max] the integer bounds. Every range is widened to hold 0, so that zero padding,
ReLU and dead inputs are represented exactly.

    q  = clamp(round(x / S) + Z, quant_min, quant_max)        round: half to even
    x^ = S * (q - Z)

Per tensor: S and Z have no dimension (or one element). Per channel: they have shape [C] and belong to dimension
`axis` of x. Half-precision inputs are computed and returned in float32, so that autocast never rounds a code.
"""

from __future__ import annotations

from typing import Any

import torch

# The smallest scale; it keeps dead channels finite. The value is torch's (the epsilon of float32).
SMALLEST_SCALE = torch.finfo(torch.float32).eps
MIN_BITS, MAX_BITS = 2, 8


def code_bounds(bits: int, signed: bool = True, narrow_range: bool = False) -> tuple[int, int]:
    """Smallest and largest integer code of `bits` bits.

    Unsigned: [0, 2^b - 1]; signed: [-2^(b-1), 2^(b-1) - 1]; narrow signed, which drops the most negative code:
    [-(2^(b-1) - 1), 2^(b-1) - 1]. Raises ValueError outside 2..8 bits, and for a narrow unsigned range.
    """
    check_bits(bits)
    if not signed:
        if narrow_range:
            raise ValueError("narrow_range drops the most negative code, so it needs signed=True; got signed=False.")
        return 0, 2**bits - 1
    half = 2 ** (bits - 1)
    return (1 - half if narrow_range else -half), half - 1


def check_bits(bits: int) -> None:
    """Raises ValueError unless `bits` is an integer in 2..8."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"bits is {bits!r}; the quantizers here take a whole number from {MIN_BITS} to {MAX_BITS}.")


def affine_parameters(
    low: torch.Tensor, high: torch.Tensor, quant_min: int, quant_max: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of the range [low, high] (any shape, one range an element), widened to hold 0.

    S = max((high - low) / (quant_max - quant_min), eps); Z = clamp(quant_min - round(low / S)). Both have the shape
    of `low`; Z is a whole number kept in the same floating dtype.
    """
    low, high = _with_zero(low, high)
    scale = ((high - low) / (quant_max - quant_min)).clamp_min(SMALLEST_SCALE)
    zero_point = (quant_min - torch.round(low / scale)).clamp(quant_min, quant_max)
    return scale, zero_point


def symmetric_parameters(
    low: torch.Tensor, high: torch.Tensor, quant_min: int, quant_max: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point (always 0) of the range [low, high].

    Signed codes: S = max(-low, high) / ((quant_max - quant_min) / 2), so the divisor is 127 for narrow and 127.5 for
    full 8 bits. Unsigned codes (quant_min 0, for inputs that are never negative): S = high / quant_max.
    """
    low, high = _with_zero(low, high)
    largest = high if quant_min == 0 else torch.maximum(-low, high)
    steps = float(quant_max) if quant_min == 0 else (quant_max - quant_min) / 2
    scale = (largest / steps).clamp_min(SMALLEST_SCALE)
    return scale, torch.zeros_like(scale)


def _with_zero(low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The ranges in float32 (or float64), widened so that 0 lies inside."""
    return in_full_precision(low).clamp_max(0.0), in_full_precision(high).clamp_min(0.0)


def in_full_precision(x: torch.Tensor) -> torch.Tensor:
    """`x` itself, or a float32 copy of it if it is float16 or bfloat16."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def quantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    quant_min: int,
    quant_max: int,
    axis: int | None = None,
) -> torch.Tensor:
    """Codes of x: int32, shape of x."""
    scale, zero_point = along_axis(scale, x, axis), along_axis(zero_point, x, axis)
    codes = torch.div(in_full_precision(x.detach()), scale).round_().add_(zero_point)
    return codes.clamp_(quant_min, quant_max).to(torch.int32)


def dequantize(
    codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: int | None = None
) -> torch.Tensor:
    """Real values of integer codes: dtype of `scale`, shape of `codes`."""
    scale, zero_point = along_axis(scale, codes, axis), along_axis(zero_point, codes, axis)
    return codes.to(scale.dtype).sub_(zero_point).mul_(scale)


def fake_quantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    quant_min: int,
    quant_max: int,
    axis: int | None = None,
) -> torch.Tensor:
    """Quantize and dequantize in one go, differentiable by the straight-through estimator; shape of x.

    dx^/dx = 1 where quant_min <= round(x/S) + Z <= quant_max (tested on the code before it is clamped, as torch does)
    and 0 elsewhere; scale and zero point get no gradient.
    """
    scale, zero_point = along_axis(scale, x, axis), along_axis(zero_point, x, axis)
    return _FakeQuantize.apply(in_full_precision(x), scale, zero_point, quant_min, quant_max)


def along_axis(parameter: torch.Tensor, x: torch.Tensor, axis: int | None) -> torch.Tensor:
    """View of a per-channel parameter [C] that broadcasts over dimension `axis` of x; per-tensor ones stay as they are.

    Raises ValueError if the number of channels does not fit.
    """
    if axis is None:
        if parameter.numel() != 1:
            raise ValueError(
                f"Got {parameter.numel()} scales for a tensor of shape {tuple(x.shape)} without an axis; give axis=0 "
                "for weights quantized per output channel, or one scale."
            )
        return parameter.reshape(())
    if parameter.ndim != 1 or parameter.shape[0] != x.shape[axis]:
        raise ValueError(
            f"Per-channel parameters of shape {tuple(parameter.shape)} do not fit dimension {axis} of a tensor of "
            f"shape {tuple(x.shape)}; expected ({x.shape[axis]},)."
        )
    shape = [1] * x.ndim
    shape[axis] = -1
    return parameter.view(shape)


class _FakeQuantize(torch.autograd.Function):
    """x -> x^ with the masked straight-through gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, quant_min: int, quant_max: int
    ) -> torch.Tensor:
        codes = torch.div(x, scale).round_().add_(zero_point)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward((codes >= quant_min) & (codes <= quant_max))
        return codes.clamp_(quant_min, quant_max).sub_(zero_point).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None, None
