"""Batch normalisation folded into the convolution or linear layer before it (Jacob et al., CVPR 2018, section 3.2).

    k = gamma / sqrt(variance + eps)         per output channel
    weight' = k * weight,  bias' = beta + k * (bias - mean)

`fold_batch_norms` folds a trained network for inference. `QuantConvBn2d` trains with the folded weight quantized and
batch statistics in use (the one-pass form of torch: y = BN(conv(x, FQ(k w)) / k + bias), with k from the running
variance). A batch normalisation before a convolution, such as the leading one of IResNet's blocks, cannot be folded
when the convolution pads with zeros (the padding would have to become -mean/std); it stays a float layer.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from common.quantization.layers import QuantConv2d
from common.quantization.weight_quantizer import WeightQuantizer

SMALLEST_FACTOR = 1e-8  # training divides by k; a channel whose gamma is 0 must stay finite

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def batch_norm_factors(norm: BatchNorm) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(k, beta, mean), each [C], of running statistics. Raises ValueError if the layer keeps none."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError(
            "A batch normalisation without running statistics (track_running_stats=False) cannot be folded: its result "
            "depends on the batch. Keep it as a layer."
        )
    k = torch.rsqrt(norm.running_var + norm.eps)
    beta = torch.zeros_like(k)
    if norm.affine:
        k, beta = norm.weight * k, norm.bias
    return k, beta, norm.running_mean


@torch.no_grad()
def fold_layer(layer: nn.Conv2d | nn.Linear, norm: BatchNorm) -> nn.Conv2d | nn.Linear:
    """A new float layer with a bias that computes norm(layer(x)) in eval mode. Neither argument is changed.

    Raises ValueError if the channel counts differ or the layer is not a plain Conv2d or Linear.
    """
    if type(layer) not in (nn.Conv2d, nn.Linear):
        raise ValueError(f"Only plain Conv2d and Linear layers are folded; got a {type(layer).__name__}.")
    if layer.weight.shape[0] != norm.num_features:
        raise ValueError(
            f"The layer has {layer.weight.shape[0]} outputs, the normalisation {norm.num_features} channels."
        )
    k, beta, mean = batch_norm_factors(norm)
    folded = copy.deepcopy(layer)
    folded.weight.mul_(k.view(-1, *[1] * (layer.weight.ndim - 1)))
    bias = torch.zeros_like(mean) if layer.bias is None else layer.bias
    folded.register_parameter("bias", nn.Parameter(beta + k * (bias - mean)))
    return folded


def fold_batch_norms(network: nn.Module, example: torch.Tensor) -> nn.Module:
    """A deep copy, in eval mode, in which every foldable batch normalisation is folded and replaced by nn.Identity.

    `example` is an input the network accepts; one forward pass on it finds the pairs (a normalisation whose input is
    the very output of a Conv2d or Linear, both used once), and a second one checks that the folded network computes
    the same.
    Raises ValueError if it does not (a layer's output is read elsewhere, too, or overwritten in place).
    """
    folded = copy.deepcopy(network).eval()
    expected, pairs = _pairs(folded, example)
    for layer_name, norm_name in pairs:
        layer, norm = folded.get_submodule(layer_name), folded.get_submodule(norm_name)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        assert isinstance(norm, BatchNorm)
        folded.set_submodule(layer_name, fold_layer(layer, norm).eval())
        folded.set_submodule(norm_name, nn.Identity())
    with torch.no_grad():
        difference = (folded(example) - expected).abs().max().item()
    allowed = 1e-3 * max(expected.abs().max().item(), 1e-6)
    if not difference <= allowed:
        raise ValueError(
            f"After folding {len(pairs)} batch normalisations the output differs by {difference:.3g} (allowed "
            f"{allowed:.3g}): some layer's output is used by something else than its normalisation. Fold the pairs "
            "that are safe with fold_layer."
        )
    return folded


def _pairs(network: nn.Module, example: torch.Tensor) -> tuple[torch.Tensor, list[tuple[str, str]]]:
    """The network's output on `example`, and (layer name, normalisation name) of the foldable pairs."""
    producer: dict[int, str] = {}
    calls: dict[str, int] = {}
    found: list[tuple[str, str]] = []
    alive: list[torch.Tensor] = []  # keeps outputs alive, so that an id belongs to one tensor only
    handles = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(module, BatchNorm):
                if id(inputs[0]) in producer:
                    found.append((producer[id(inputs[0])], name))
            else:
                producer[id(output)] = name
                alive.append(output)

        return hook

    for name, module in network.named_modules():
        if type(module) in (nn.Conv2d, nn.Linear) or isinstance(module, BatchNorm):
            handles.append(module.register_forward_hook(watch(name)))
    try:
        with torch.no_grad():
            output = network(example)
    finally:
        for handle in handles:
            handle.remove()
    layers = [layer for layer, _ in found]
    once = [(a, b) for a, b in found if calls[a] == 1 == calls[b] and layers.count(a) == 1]
    return output, once


class QuantConvBn2d(nn.Module):
    """Conv2d and BatchNorm2d trained as one layer with the folded weight quantized; [B, C, H, W] in and out.

    Training: k uses the running variance (before this batch's update), the normalisation the batch statistics. Eval:
    the same with running statistics, which equals the folded quantized convolution. `freeze_statistics` ends the use
    of batch statistics (for the last part of training).
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d,
        weight_quantizer: WeightQuantizer,
        input_quantizer: nn.Module | None = None,
    ) -> None:
        """Takes over `conv` and `norm` themselves."""
        super().__init__()
        if type(conv) is not nn.Conv2d or conv.out_channels != norm.num_features:
            raise ValueError(
                f"Expected a plain Conv2d whose {norm.num_features} output channels the BatchNorm2d normalises; got a "
                f"{type(conv).__name__} with {conv.out_channels}."
            )
        self.conv = conv
        self.norm = norm
        self.weight_quantizer = weight_quantizer
        self.input_quantizer = input_quantizer
        self.statistics_frozen = False
        self.train(conv.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        k = self._factors()
        weight = self.weight_quantizer(self.conv.weight * k.view(-1, 1, 1, 1))
        y = self.conv._conv_forward(x, weight, None) / k.view(1, -1, 1, 1)
        if self.conv.bias is not None:
            y = y + self.conv.bias.view(1, -1, 1, 1)
        if self.statistics_frozen:
            norm = self.norm
            return nn.functional.batch_norm(
                y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
        return self.norm(y)

    def _factors(self) -> torch.Tensor:
        """k [C], kept away from 0."""
        k, _, _ = batch_norm_factors(self.norm)
        return torch.where(k.abs() < SMALLEST_FACTOR, torch.full_like(k, SMALLEST_FACTOR), k)

    def freeze_statistics(self) -> None:
        """From now on the running statistics are used and kept, also in train mode."""
        self.statistics_frozen = True

    def fold(self) -> QuantConv2d:
        """The layer for inference: a quantized convolution with a bias; its output equals this layer's in eval mode."""
        return QuantConv2d.from_float(fold_layer(self.conv, self.norm), self.weight_quantizer, self.input_quantizer)  # type: ignore[arg-type]
