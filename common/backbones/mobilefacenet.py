"""MobileFaceNet (Chen et al., "MobileFaceNets", arXiv 1804.07573, Table 1).

The module names (`conv1.conv.weight`, `conv_23.conv_dw.bn.weight`, ...) are those of QuantFace's code and of the public
PyTorch code that it descends from, so that such state dicts load.
"""

from collections.abc import Sequence

import torch
from torch import nn

from common.backbones.layers import (
    ImageSize,
    activation_layer,
    check_counts,
    check_images,
    height_and_width,
    initialize_fan_out,
    last_map_size,
    scaled,
)


class ConvBlock(nn.Module):
    """Convolution without bias, batch normalisation and (unless `activation` is None) an activation.

    The activation's attribute is called `prelu` whatever it is, because published state dicts use that name.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        activation: str | None = "prelu",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.prelu = None if activation is None else activation_layer(activation, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x))
        return x if self.prelu is None else self.prelu(x)


class Bottleneck(nn.Module):
    """1x1 expansion to `hidden` channels, 3x3 depthwise convolution, linear 1x1 projection (the paper's Figure 2)."""

    def __init__(
        self, in_channels: int, out_channels: int, hidden: int, stride: int, residual: bool, activation: str
    ) -> None:
        super().__init__()
        self.residual = residual
        self.conv = ConvBlock(in_channels, hidden, activation=activation)
        self.conv_dw = ConvBlock(hidden, hidden, 3, stride, 1, groups=hidden, activation=activation)
        self.project = ConvBlock(hidden, out_channels, activation=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(self.conv_dw(self.conv(x)))
        return x + y if self.residual else y


class ResidualStage(nn.Module):
    """`count` residual bottlenecks of stride 1."""

    def __init__(self, channels: int, hidden: int, count: int, activation: str) -> None:
        super().__init__()
        self.model = nn.Sequential(*(Bottleneck(channels, channels, hidden, 1, True, activation) for _ in range(count)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class GlobalDepthwise(nn.Module):
    """Global depthwise convolution (a kernel as large as the map) and the linear embedding with batch normalisation."""

    def __init__(self, channels: int, embedding_size: int, kernel: tuple[int, int], final_norm_affine: bool) -> None:
        super().__init__()
        self.conv_6_dw = ConvBlock(channels, channels, kernel, groups=channels, activation=None)
        self.linear = nn.Linear(channels, embedding_size, bias=False)
        self.bn = nn.BatchNorm1d(embedding_size, affine=final_norm_affine)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.linear(self.conv_6_dw(x).flatten(1)))


class MobileFaceNet(nn.Module):
    """The paper's network: 1,003,136 parameters and 220,965,376 multiply-accumulates at 112x112 and 128 dimensions.

    Args:
        embedding_size: dimensions D of the embedding; 128 in the paper, 512 (1,200,512 parameters) in many comparisons.
        width: factor of every channel count, rounded to multiples of 8; 1 is the paper's network.
        input_size: side or (height, width) of the images; the global depthwise kernel takes the size of the last map.
        blocks: residual bottlenecks of the stages at 1/4, 1/8 and 1/16 of the resolution.
        final_norm_affine: whether the last batch normalisation has weight and bias; TFace has none (1,199,488 at 512).
        activation: "prelu" (the paper), "relu", "relu6" or "hardswish".

    Raises:
        ValueError: an argument is out of its range; the sentence says which.
    """

    def __init__(
        self,
        embedding_size: int = 128,
        width: float = 1.0,
        input_size: ImageSize = 112,
        blocks: Sequence[int] = (4, 6, 2),
        final_norm_affine: bool = True,
        activation: str = "prelu",
    ) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.input_size = height_and_width(input_size)
        quarter, eighth, sixteenth = check_counts(blocks, stages=3)
        c64, c128, c256, c512 = (scaled(channels, width) for channels in (64, 128, 256, 512))
        self.conv1 = ConvBlock(3, c64, 3, 2, 1, activation=activation)
        self.conv2_dw = ConvBlock(c64, c64, 3, 1, 1, groups=c64, activation=activation)
        self.conv_23 = Bottleneck(c64, c64, c128, 2, False, activation)
        self.conv_3 = ResidualStage(c64, c128, quarter, activation)
        self.conv_34 = Bottleneck(c64, c128, c256, 2, False, activation)
        self.conv_4 = ResidualStage(c128, c256, eighth, activation)
        self.conv_45 = Bottleneck(c128, c128, c512, 2, False, activation)
        self.conv_5 = ResidualStage(c128, c256, sixteenth, activation)
        self.conv_6_sep = ConvBlock(c128, c512, activation=activation)
        self.output_layer = GlobalDepthwise(c512, embedding_size, last_map_size(input_size), final_norm_affine)
        initialize_fan_out(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embed images [B, 3, H, W], float, normalised to about [-1, 1], as raw embeddings [B, D].

        Raises:
            ValueError: the images are not of the size that the network was built for.
        """
        check_images(images, self.input_size)
        x = self.conv2_dw(self.conv1(images))
        x = self.conv_3(self.conv_23(x))
        x = self.conv_4(self.conv_34(x))
        x = self.conv_5(self.conv_45(x))
        return self.output_layer(self.conv_6_sep(x))
