"""Turns a float network into its simulated-quantized twin by the scheme of `running_range`."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from common.activations import PReLU
from common.quantization.layers import QuantConv2d, QuantLinear, replace_layers
from common.quantization.running_range import (
    QuantizedOutput,
    RunningRangeActivation,
    RunningRangePReLU,
    RunningRangeWeightQuantizer,
    check_gradient,
)

PRELUS = (nn.PReLU, PReLU)
PARAMETER_FREE_ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Hardswish,
    nn.Hardsigmoid,
)


def quantize_network(
    network: nn.Module,
    weight_bits: int | None,
    activation_bits: int | None,
    weight_granularity: str = "per_channel",
    gradient: str = "pass_through",
    keep_float: Iterable[str] = (),
) -> nn.Module:
    """A deep copy of `network` whose weights and activations are quantized; the input network is not touched.

    - Conv2d, Linear: weights per output channel (or per tensor), biases float.
    - PReLU: slopes per tensor with `activation_bits`, then the output.
    - ReLU and other activations without parameters: the output.
    - residual units: the output. A unit is a module with a true attribute `residual`, that is, one that ends with an
      addition. Everything else (input, batch normalisation, outputs of convolutions, embedding) stays float. State-
      dict keys of the float network stay as they are; ranges are added under `<activation>.output.observer` and
      `<unit>.output_quantizer.observer`.

    Ranges start unobserved and frozen: call `unfreeze_ranges` before the first training or calibration step.
    `None` bits leave the weights or the activations in float. Modules in `keep_float` are left alone. Build the
    optimizer after this call: the copy has its own parameters.

    Source: QuantFace (ICPR 2022), official `quantize_model`; `weight_granularity="per_tensor"` and
    `gradient="masked"` are our options. Raises ValueError for values outside their range and for layers it does not
    know.
    """
    check_gradient(gradient)
    weights = None if weight_bits is None else RunningRangeWeightQuantizer(weight_bits, weight_granularity, gradient)

    def activation(like: nn.Module) -> RunningRangeActivation:
        assert activation_bits is not None
        return RunningRangeActivation(activation_bits, gradient).to(_device(like))

    def convert(name: str, module: nn.Module) -> nn.Module | None:
        if type(module) is nn.Conv2d:
            return module if weights is None else QuantConv2d.from_float(module, weights)
        if type(module) is nn.Linear:
            return module if weights is None else QuantLinear.from_float(module, weights)
        if activation_bits is None:
            return module if type(module) in (*PRELUS, *PARAMETER_FREE_ACTIVATIONS) else None
        if isinstance(module, nn.PReLU) and type(module) in PRELUS:
            return RunningRangePReLU.from_float(module, activation_bits, gradient).to(module.weight.device)
        if type(module) in PARAMETER_FREE_ACTIVATIONS:
            return QuantizedOutput(module, activation(network))
        return None

    kept = tuple(keep_float)
    twin = replace_layers(copy.deepcopy(network), convert, kept)
    if activation_bits is not None:
        for name, unit in list(twin.named_modules()):
            if getattr(unit, "residual", False) is True and not _inside(name, kept):
                unit.output_quantizer = activation(network)
                unit.register_forward_hook(_quantize_output)
    return twin


def _quantize_output(unit: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    """Forward hook of a residual unit."""
    return unit.output_quantizer(output)  # type: ignore[operator]


def _device(network: nn.Module) -> torch.device:
    """The device of the network's first parameter or buffer (the CPU if it has none)."""
    for tensor in (*network.parameters(), *network.buffers()):
        return tensor.device
    return torch.device("cpu")


def _inside(name: str, kept: tuple[str, ...]) -> bool:
    """Whether a module is one of the kept ones or lies inside one."""
    return any(name == each or name.startswith(f"{each}.") for each in kept)
