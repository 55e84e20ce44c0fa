"""Operations and cells of differentiable architecture search (DARTS) as PocketNet uses them.

Every convolution is without bias and comes after its activation; `affine=False` takes scale and shift from the batch
normalisations, as the search does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.backbones.layers import activation_layer
from common.backbones.pocketnet_genotypes import Node


class DepthwisePointwise(nn.Module):
    """A depthwise k x k convolution with padding k // 2 and a 1 x 1 convolution: [B, C, H, W] -> [B, C', H / s, W / s]."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, kernel, stride, kernel // 2, groups=in_channels, bias=False
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.depthwise.kernel_size == (1, 1) and torch.is_grad_enabled():
            # Two 1 x 1 convolutions in a row are one, of the product of their weights: in training a pass over the maps less.
            weight = self.pointwise.weight * self.depthwise.weight.view(1, -1, 1, 1)
            return F.conv2d(x, weight, stride=self.depthwise.stride)
        return self.pointwise(self.depthwise(x))


class SeparableConv(nn.Sequential):
    """Activation, depthwise k x k, 1 x 1, batch normalisation: [B, C, H, W] -> [B, C', H / s, W / s], rounded up."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        affine: bool = True,
        activation: str = "prelu",
    ) -> None:
        super().__init__(
            activation_layer(activation, in_channels),
            DepthwisePointwise(in_channels, out_channels, kernel, stride),
            nn.BatchNorm2d(out_channels, affine=affine),
        )


class Pool(nn.Sequential):
    """3 x 3 pooling and batch normalisation; an average does not count the padding."""

    def __init__(self, kind: str, channels: int, stride: int, affine: bool) -> None:
        pool: nn.Module = (
            nn.MaxPool2d(3, stride, 1) if kind == "max" else nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        )
        super().__init__(pool, nn.BatchNorm2d(channels, affine=affine))


class FactorizedReduce(nn.Module):
    """Half the resolution without losing pixels: two paths of stride 2, the second one pixel further right and down.

    [B, C, H, W] -> [B, C', H / 2, W / 2] for even H and W.
    """

    def __init__(self, in_channels: int, out_channels: int, affine: bool = True, activation: str = "prelu") -> None:
        super().__init__()
        if out_channels % 2:
            raise ValueError(f"out_channels is {out_channels}, but both paths give half of them: take an even number")
        self.activation = activation_layer(activation, in_channels)
        self.path1, self.path2 = (DepthwisePointwise(in_channels, out_channels // 2, 1, 2) for _ in range(2))
        self.bn = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(x)
        return self.bn(torch.cat([self.path1(x), self.path2(x[:, :, 1:, 1:])], dim=1))


class Zero(nn.Module):
    """`none`: no connection, zeros of the shape that the other operations give."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


def operation(name: str, channels: int, stride: int, affine: bool = True, activation: str = "prelu") -> nn.Module:
    """One of `PRIMITIVES` on `channels` channels: [B, C, H, W] -> [B, C, H / stride, W / stride].

    Raises:
        ValueError: there is no such operation.
    """
    if name == "none":
        return Zero(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine, activation)
    if name in ("max_pool_3x3", "avg_pool_3x3"):
        return Pool(name[:3], channels, stride, affine)
    if name.startswith("dw_conv_") and name[8:] in ("1x1", "3x3", "5x5", "7x7"):
        return SeparableConv(channels, channels, int(name[8]), stride, affine, activation)
    raise ValueError(f"there is no operation {name!r}")


def input_layers(
    before_last: int, last: int, channels: int, after_reduction: bool, affine: bool = True, activation: str = "prelu"
) -> tuple[nn.Module, nn.Module]:
    """What brings both inputs of a cell to its channels, and the first one to the second's resolution."""
    first: nn.Module = (
        FactorizedReduce(before_last, channels, affine, activation)
        if after_reduction
        else SeparableConv(before_last, channels, 1, 1, affine, activation)
    )
    return first, SeparableConv(last, channels, 1, 1, affine, activation)


def stride_of(state: int, reduction: bool) -> int:
    """Stride of an edge: a reduction cell halves the resolution on the way from its two inputs."""
    return 2 if reduction and state < 2 else 1


def reductions(cells: int) -> tuple[int, ...]:
    """Positions of the reduction cells: at a third, at two thirds and at the end.

    Raises:
        ValueError: fewer than four cells, whose positions would fall together.
    """
    if cells < 4:
        raise ValueError(f"cells is {cells}, but three of them are reduction cells at different places: take 4 or more")
    return cells // 3, 2 * cells // 3, cells - 1


class Cell(nn.Module):
    """A cell of the final network.

    Args:
        nodes: of the genotype, normal or reduction.
        before_last, last: channels of its two inputs; channels: C of every node, so that the output has 4 C.
        after_reduction: whether the cell before it halved the resolution. reduction: whether it does.
        activation: before every convolution, of `common.backbones.layers.ACTIVATIONS`.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        before_last: int,
        last: int,
        channels: int,
        after_reduction: bool,
        reduction: bool,
        activation: str = "prelu",
    ) -> None:
        super().__init__()
        self.input0, self.input1 = input_layers(before_last, last, channels, after_reduction, activation=activation)
        self.states = [(node[0][1], node[1][1]) for node in nodes]
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                operation(name, channels, stride_of(state, reduction), activation=activation) for name, state in node
            )
            for node in nodes
        )

    def forward(self, before_last: Tensor, last: Tensor) -> Tensor:
        """Two inputs [B, *, H, W] (the first twice as large after a reduction) -> [B, 4 C, H, W] or half of it."""
        states = [self.input0(before_last), self.input1(last)]
        for node, (first, second) in zip(self.nodes, self.states, strict=True):
            edges: Any = node
            states.append(edges[0](states[first]) + edges[1](states[second]))
        return torch.cat(states[2:], dim=1)
