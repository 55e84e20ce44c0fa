"""Initial distributions by name, as papers state them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

TRUNCATED_STD = 0.8796256610342398  # of a standard normal cut off at two standard deviations
FIXED_STD = 0.1  # of "normal" and "truncated_normal"; SNIP does not state its fixed variance, this is our choice


def _truncated(weight: Tensor, std: float) -> None:
    """Normal, cut off at two standard deviations and widened so that `std` is what is left (TensorFlow's way)."""
    wide = std / TRUNCATED_STD
    nn.init.trunc_normal_(weight, 0.0, wide, -2 * wide, 2 * wide)


def _fan_in(weight: Tensor) -> int:
    return weight[0].numel()


def _fan_average(weight: Tensor) -> float:
    return (weight[0].numel() + weight.shape[0] * weight[0][0].numel()) / 2


RULES: Mapping[str, Callable[[Tensor], object]] = {
    # std = sqrt(2 / (fan_in + fan_out)): the lottery ticket's "Gaussian Glorot"
    "glorot_normal": nn.init.xavier_normal_,
    "glorot_uniform": nn.init.xavier_uniform_,
    # std = sqrt(2 / fan_in); fan_out: sqrt(2 / fan_out)
    "he_normal": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "he_fan_out": lambda weight: nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu"),
    # TensorFlow's variance_scaling_initializer: its default (scale 1, fan in: SNIP's official code), VS-X and VS-H
    "variance_scaling": lambda weight: _truncated(weight, math.sqrt(1 / _fan_in(weight))),
    "variance_scaling_glorot": lambda weight: _truncated(weight, math.sqrt(1 / _fan_average(weight))),
    "variance_scaling_he": lambda weight: _truncated(weight, math.sqrt(2 / _fan_in(weight))),
    "normal": lambda weight: nn.init.normal_(weight, 0.0, FIXED_STD),
    "truncated_normal": lambda weight: _truncated(weight, FIXED_STD),
}


@torch.no_grad()
def initialize(network: nn.Module, rule: str) -> None:
    """Draw the weights of all convolutions and linear layers by a rule; their biases become 0.

    Normalisations start at weight 1, bias 0 and empty statistics. The rule `"torch"` calls every layer's own
    `reset_parameters` instead, biases included.

    Raises:
        ValueError: there is no such rule.
    """
    if rule != "torch" and rule not in RULES:
        raise ValueError(f"initialization is {rule!r}, but must be one of torch, {', '.join(RULES)}")
    for module in network.modules():
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear) and rule != "torch":
            RULES[rule](module.weight)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.modules.conv._ConvNd | nn.Linear | nn.modules.batchnorm._BatchNorm):
            module.reset_parameters()
