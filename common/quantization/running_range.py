"""The quantizer of QuantFace (Boutros et al., ICPR 2022) and of the papers that took it over.

    n  = 2^k - 1
    s  = n / max(high - low, 1e-8)          a multiplicative scale: codes per unit
    z  = round(s * low) + 2^(k-1)           a whole number; codes are signed
    q  = clamp(round(s * x - z), -2^(k-1), 2^(k-1) - 1)
    x^ = (q + z) / s

`round` is half to even; everything is computed in float32 (float64 for float64 inputs) in exactly this order, since
another order gives other codes near ties. A constant channel (high = low) has s = n * 1e8 and is reproduced as it is.

Weights: low and high are the extremes of the current weight, per output channel, recomputed at every forward.
Activations: per tensor, the running extremes of all batches seen while tracking, starting at 0. Gradient: passed to
every element, clipped ones too ("pass_through": what the official code does), or only to elements inside [low, high]
("masked": what the paper on periocular recognition writes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from common.activations import prelu
from common.quantization.affine import check_bits, in_full_precision
from common.quantization.observers import RunningExtremeObserver
from common.quantization.weight_quantizer import WeightQuantizer, check_granularity, weight_ranges

GRADIENTS = ("pass_through", "masked")
SMALLEST_RANGE = 1e-8
CHUNK = 1 << 17  # elements: half a MiB of float32, so that the passes below run in a core's cache


def multiplicative_parameters(low: torch.Tensor, high: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(s, z) of ranges of any shape; z is a whole number kept in floating point."""
    scale = (2**bits - 1) / (high - low).clamp_min(SMALLEST_RANGE)
    return scale, torch.round(scale * low) + 2 ** (bits - 1)


def check_gradient(gradient: str) -> None:
    """Raises ValueError unless the gradient rule is one of the two that exist."""
    if gradient not in GRADIENTS:
        raise ValueError(f"The gradient is {gradient!r}; expected one of {', '.join(GRADIENTS)}.")


def running_range_codes(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes of x (int32, shape of x); `low` and `high` are 0-dimensional, or [C] for dimension 0 of x."""
    scale, zero_point = _leading(x, *multiplicative_parameters(low, high, bits))
    codes = torch.mul(in_full_precision(x.detach()), scale).sub_(zero_point).round_()
    return codes.clamp_(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).to(torch.int32)


def running_range_values(codes: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bits: int) -> torch.Tensor:
    """x^ of codes, bit for bit as `fake_quantize_running_range` computes it."""
    scale, zero_point = _leading(codes, *multiplicative_parameters(low, high, bits))
    return codes.to(scale.dtype).add_(zero_point).div_(scale)


def fake_quantize_running_range(
    x: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    bits: int,
    gradient: str = "pass_through",
    inplace: bool = False,
) -> torch.Tensor:
    """x^ of x (any shape); `low` and `high` are 0-dimensional or hold one element, or are [C] for dimension 0 of x.

    `inplace` overwrites x, which must then be a fresh tensor that nothing else reads and no backward pass needs; it
    saves the allocation, which costs more than the arithmetic. Ranges get no gradient.
    """
    scale, zero_point = _leading(x, *multiplicative_parameters(low, high, bits))
    x = in_full_precision(x)
    if gradient == "pass_through":
        return _PassThrough.apply(x, scale, zero_point, bits, inplace)
    check_gradient(gradient)
    return _Masked.apply(x, scale, zero_point, bits, *_leading(x, low, high))


def _leading(x: torch.Tensor, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Views that broadcast over dimension 0 of x, or 0-dimensional ones."""
    if parameters[0].numel() == 1:
        return tuple(parameter.reshape(()) for parameter in parameters)
    return tuple(parameter.view(-1, *[1] * (x.ndim - 1)) for parameter in parameters)


def _is_dense(x: torch.Tensor) -> bool:
    return x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _flat(x: torch.Tensor) -> torch.Tensor:
    """The elements of a dense tensor in the order of its memory, as a view."""
    return x.view(-1) if x.is_contiguous() else x.permute(0, 2, 3, 1).view(-1)


def _quantize_dequantize(
    x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int, inplace: bool
) -> torch.Tensor:
    """x^, written over x if `inplace`.

    Large dense tensors with one range are done piece by piece on a CPU, so that the passes stay in its cache.
    """
    half = 2 ** (bits - 1)
    large = x.numel() > 2 * CHUNK and scale.ndim == 0 and x.device.type == "cpu" and _is_dense(x)
    if not large or torch.compiler.is_compiling():
        y = x.mul_(scale) if inplace else x * scale
        return y.sub_(zero).round_().clamp_(-half, half - 1).add_(zero).div_(scale)
    y = x if inplace else torch.empty_like(x)
    for source, target in zip(_flat(x).split(CHUNK), _flat(y).split(CHUNK), strict=True):
        torch.mul(source, scale, out=target).sub_(zero).round_().clamp_(-half, half - 1).add_(zero).div_(scale)
    return y


class _PassThrough(torch.autograd.Function):
    """x -> x^; the gradient passes unchanged."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int, inplace: bool
    ) -> torch.Tensor:
        if inplace:
            ctx.mark_dirty(x)
        return _quantize_dequantize(x, scale, zero, bits, inplace)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return gradients[0], None, None, None, None


class _Masked(torch.autograd.Function):
    """x -> x^; the gradient passes where low <= x <= high."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        scale: torch.Tensor,
        zero: torch.Tensor,
        bits: int,
        low: torch.Tensor,
        high: torch.Tensor,
    ) -> torch.Tensor:
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward((x >= low) & (x <= high))
        return _quantize_dequantize(x, scale, zero, bits, inplace=False)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None, None, None


@dataclass(frozen=True)
class RunningRangeWeightQuantizer:
    """The scheme for a weight [C, ...]; its range is that of the current weight."""

    bits: int
    granularity: str = "per_channel"
    gradient: str = "pass_through"

    def __post_init__(self) -> None:
        check_bits(self.bits)
        check_granularity(self.granularity)
        check_gradient(self.gradient)

    @property
    def signed(self) -> bool:
        return True

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        weight = in_full_precision(weight)
        low, high = weight_ranges(weight, self.granularity)
        return fake_quantize_running_range(weight, low, high, self.bits, self.gradient)

    def encode(self, weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return running_range_codes(weight, low, high, self.bits)

    def decode(self, codes: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return running_range_values(codes, low, high, self.bits)


class RunningRangeActivation(nn.Module):
    """`QuantAct`: quantizes activations of any shape with their running extremes.

    While tracking, a batch widens the range before it is quantized with it.
    """

    def __init__(self, bits: int, gradient: str = "pass_through") -> None:
        super().__init__()
        check_bits(bits)
        check_gradient(gradient)
        self.bits = bits
        self.gradient = gradient
        self.observer = RunningExtremeObserver()

    def forward(self, x: torch.Tensor, inplace: bool = False) -> torch.Tensor:
        """x^ in the shape of x; raises RangesNotObservedError if frozen before any batch was tracked.

        `inplace`: see `fake_quantize_running_range` (ignored with the masked gradient).
        """
        self.observer.observe(x)
        return fake_quantize_running_range(x, *self.observer.range(), self.bits, self.gradient, inplace)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, gradient={self.gradient}"


class RunningRangePReLU(nn.PReLU):
    """PReLU whose slopes [C] are quantized per tensor with the activations' bits, and its output after it."""

    weight_quantizer: RunningRangeWeightQuantizer
    output: RunningRangeActivation

    @classmethod
    def from_float(cls, prelu: nn.PReLU, bits: int, gradient: str = "pass_through") -> RunningRangePReLU:
        """Takes over the slopes of `prelu` (the same Parameter object)."""
        layer = cls(prelu.num_parameters, device="meta")
        layer.weight = prelu.weight
        layer.weight_quantizer = RunningRangeWeightQuantizer(bits, "per_tensor", gradient)
        layer.output = RunningRangeActivation(bits, gradient)
        return layer.train(prelu.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # PReLU's backward needs its input and slopes, not its output, which may therefore be overwritten.
        y = prelu(in_full_precision(x), self.weight_quantizer(self.weight))
        return self.output(y, inplace=True)

    def weight_quantizers(self) -> dict[str, WeightQuantizer]:
        """The parameters that are stored as codes, and how."""
        return {"weight": self.weight_quantizer}


class QuantizedOutput(nn.Module):
    """An activation without parameters (ReLU and its like) and the quantizer of its output."""

    def __init__(self, activation: nn.Module, output: RunningRangeActivation) -> None:
        super().__init__()
        self.activation = activation
        self.output = output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.activation(x))
