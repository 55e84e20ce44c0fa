"""Layers that compute with quantized weights and activations in floating point (fake quantization), for any scheme.

The layers keep the names, parameters and state-dict keys of the layers they replace, so a float state dict still fits
their weights; only the quantizers' ranges are added. `quantize_uniform` is the generic post-training / quantization-
aware network; schemes of single papers build on the same layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from common.quantization.affine import affine_parameters, code_bounds, fake_quantize, symmetric_parameters
from common.quantization.observers import (
    MinMaxObserver,
    MovingAverageObserver,
    PercentileObserver,
    RangeObserver,
    range_observers,
)
from common.quantization.weight_quantizer import UniformWeightQuantizer, WeightQuantizer

OBSERVERS: dict[str, type[RangeObserver]] = {
    "min_max": MinMaxObserver,
    "moving_average": MovingAverageObserver,
    "percentile": PercentileObserver,
}


class FakeQuantActivation(nn.Module):
    """Per-tensor activation quantizer with an observed range; any shape in, the same shape out.

    Affine codes 0..2^bits - 1 by default; `symmetric` gives signed narrow codes. `enabled = False` lets activations
    pass in float (while calibrating).
    """

    def __init__(self, bits: int, observer: RangeObserver, symmetric: bool = False) -> None:
        super().__init__()
        self.bits = bits
        self.symmetric = symmetric
        self.quant_min, self.quant_max = code_bounds(bits, signed=symmetric, narrow_range=symmetric)
        self.enabled = True
        self.observer = observer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Raises RangesNotObservedError if the range was never observed."""
        self.observer.observe(x)
        if not self.enabled:
            return x
        rule = symmetric_parameters if self.symmetric else affine_parameters
        scale, zero_point = rule(*self.observer.range(), self.quant_min, self.quant_max)
        return fake_quantize(x, scale, zero_point, self.quant_min, self.quant_max)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, symmetric={self.symmetric}"


class QuantConv2d(nn.Conv2d):
    """Conv2d whose weight passes through `weight_quantizer` at every forward; the bias stays float."""

    weight_quantizer: WeightQuantizer
    input_quantizer: nn.Module | None

    @classmethod
    def from_float(
        cls, conv: nn.Conv2d, weight_quantizer: WeightQuantizer, input_quantizer: nn.Module | None = None
    ) -> QuantConv2d:
        """Takes over the parameters of `conv` (the same Parameter objects)."""
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            device="meta",
        )
        return _take_over(layer, conv, weight_quantizer, input_quantizer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        return self._conv_forward(x, self.weight_quantizer(self.weight), self.bias)

    def weight_quantizers(self) -> dict[str, WeightQuantizer]:
        """The parameters that are stored as codes, and how."""
        return {"weight": self.weight_quantizer}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.weight_quantizer}"


class QuantLinear(nn.Linear):
    """Linear whose weight passes through `weight_quantizer` at every forward; the bias stays float."""

    weight_quantizer: WeightQuantizer
    input_quantizer: nn.Module | None

    @classmethod
    def from_float(
        cls, linear: nn.Linear, weight_quantizer: WeightQuantizer, input_quantizer: nn.Module | None = None
    ) -> QuantLinear:
        """Takes over the parameters of `linear` (the same Parameter objects)."""
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        return _take_over(layer, linear, weight_quantizer, input_quantizer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        return nn.functional.linear(x, self.weight_quantizer(self.weight), self.bias)

    def weight_quantizers(self) -> dict[str, WeightQuantizer]:
        """The parameters that are stored as codes, and how."""
        return {"weight": self.weight_quantizer}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.weight_quantizer}"


Layer = TypeVar("Layer", QuantConv2d, QuantLinear)


def _take_over(
    layer: Layer, source: nn.Conv2d | nn.Linear, quantizer: WeightQuantizer, input_quantizer: nn.Module | None
) -> Layer:
    """Gives a layer built without memory the parameters and the mode of `source`."""
    layer.weight = source.weight
    layer.register_parameter("bias", source.bias)  # type: ignore[arg-type]
    layer.weight_quantizer = quantizer
    layer.input_quantizer = input_quantizer
    layer.train(source.training)
    return layer


def replace_layers(
    network: nn.Module, convert: Callable[[str, nn.Module], nn.Module | None], keep_float: Iterable[str] = ()
) -> nn.Module:
    """Replaces every module for which `convert(qualified name, module)` returns one, in place; returns the network.

    `convert` returns None to have the module's children visited, and the module itself to leave all of it as it is.

    A module used in two places is replaced once. Modules named in `keep_float` (with all they contain) stay. Raises
    ValueError for a name in `keep_float` that does not exist, for convolutions and linear layers of kinds that would
    stay float unnoticed, and for layers with hooks or parametrizations, which would be lost.
    """
    kept = set(keep_float)
    unknown = kept - {name for name, _ in network.named_modules()}
    if unknown:
        raise ValueError(f"keep_float names modules that the network does not have: {', '.join(sorted(unknown))}.")
    replaced: dict[int, nn.Module] = {}

    def visit(name: str, module: nn.Module) -> nn.Module:
        if name in kept and name:
            return module
        if id(module) not in replaced:
            _refuse_hooks(name, module)
            new = convert(name, module)
            if new is None:
                _refuse_unknown(name, module)
                for child_name, child in module._modules.items():
                    if child is not None:
                        module._modules[child_name] = visit(f"{name}.{child_name}".lstrip("."), child)
            replaced[id(module)] = module if new is None else new
        return replaced[id(module)]

    return visit("", network)


def _refuse_unknown(name: str, module: nn.Module) -> None:
    """Layers that hold most of a network's weights and that `convert` did not know."""
    if isinstance(module, nn.modules.conv._ConvNd | nn.Linear | nn.Bilinear):
        raise ValueError(
            f"The layer {name or 'network'} is a {type(module).__name__}; only plain nn.Conv2d and nn.Linear are "
            "quantized, and it would stay float unnoticed. Quantize a float network, or name the layer in keep_float."
        )


def _refuse_hooks(name: str, module: nn.Module) -> None:
    """Hooks of a layer whose parameters a new layer takes over."""
    if not isinstance(module, nn.modules.conv._ConvNd | nn.Linear | nn.PReLU):
        return
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        raise ValueError(
            f"The layer {name or 'network'} carries hooks (pruning, a weight norm or a tap), which quantization would "
            "drop. Remove them first (torch.nn.utils.prune.remove makes pruning permanent)."
        )


def quantize_uniform(
    network: nn.Module,
    weight_bits: int,
    activation_bits: int | None,
    observer: str = "min_max",
    weight_granularity: str = "per_channel",
    symmetric_weights: bool = True,
    keep_float: Iterable[str] = (),
) -> nn.Module:
    """A deep copy in which every Conv2d and Linear has a fake-quantized weight and input (per tensor, affine).

    `activation_bits=None` quantizes weights only. `observer`: "min_max", "moving_average" or "percentile". Fold batch
    normalisations before (`bn_folding.fold_batch_norms`) if they are to be folded. Calibrate with `calibrating`.
    """
    if observer not in OBSERVERS:
        raise ValueError(f"The observer is {observer!r}; expected one of {', '.join(OBSERVERS)}.")
    weights = UniformWeightQuantizer(weight_bits, weight_granularity, symmetric_weights)

    def convert(name: str, module: nn.Module) -> nn.Module | None:
        if type(module) not in (nn.Conv2d, nn.Linear):
            return None
        inputs = None
        if activation_bits is not None:
            inputs = FakeQuantActivation(activation_bits, OBSERVERS[observer]()).to(module.weight.device)  # type: ignore[arg-type]
        if isinstance(module, nn.Conv2d):
            return QuantConv2d.from_float(module, weights, inputs)
        assert isinstance(module, nn.Linear)
        return QuantLinear.from_float(module, weights, inputs)

    return replace_layers(copy.deepcopy(network), convert, keep_float)


@contextmanager
def calibrating(network: nn.Module) -> Iterator[None]:
    """Inside the block forwards only collect ranges: eval mode, no gradient, activations pass in float, every range
    tracks.

    Afterwards the ranges are frozen, the activations quantized, and every module is in the mode it was in before.
    """
    modes = [(module, module.training) for module in network.modules()]
    quantizers = [module for module in network.modules() if isinstance(module, FakeQuantActivation)]
    observers = [observer for _, observer in range_observers(network)]
    network.eval()
    for quantizer in quantizers:
        quantizer.enabled = False
    for each in observers:
        each.tracking = True
    try:
        with torch.no_grad():
            yield
    finally:
        for each in observers:
            each.tracking = False
        for quantizer in quantizers:
            quantizer.enabled = True
        for module, training in modes:
            module.training = training
