"""The MobileFaceNets of InsightFace (`recognition/arcface_torch/backbones/mobilefacenet.py`), with its module names.

"mobilefacenet-0.45G" of the InsightFace tables is `InsightMobileFaceNet()` (scale 2). It is not the paper's net with
twice the channels: only the maps between the bottlenecks double, the hidden widths stay, and the second layer keeps 64
groups, so that it is not depthwise any more.
"""

from collections.abc import Sequence

import torch
from torch import nn

from common.activations import PReLU
from common.backbones.layers import (
    ImageSize,
    check_counts,
    check_images,
    height_and_width,
    initialize_fan_out,
    last_map_size,
    scaled,
)


class ConvBlock(nn.Module):
    """Convolution without bias, batch normalisation and (if `active`) PReLU, in one `nn.Sequential` called `layers`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        active: bool = True,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        if active:
            self.layers.append(PReLU(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Bottleneck(nn.Module):
    """1x1 expansion to `hidden` channels, 3x3 depthwise convolution, linear 1x1 projection."""

    def __init__(self, in_channels: int, out_channels: int, hidden: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.layers = nn.Sequential(
            ConvBlock(in_channels, hidden),
            ConvBlock(hidden, hidden, 3, stride, 1, groups=hidden),
            ConvBlock(hidden, out_channels, active=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class ResidualStage(nn.Module):
    """`count` residual bottlenecks of stride 1."""

    def __init__(self, channels: int, hidden: int, count: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Bottleneck(channels, channels, hidden, 1, True) for _ in range(count)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class GlobalDepthwise(nn.Module):
    """Global depthwise convolution, linear embedding, batch normalisation."""

    def __init__(self, channels: int, embedding_size: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvBlock(channels, channels, kernel, groups=channels, active=False),
            nn.Flatten(),
            nn.Linear(channels, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class InsightMobileFaceNet(nn.Module):
    """InsightFace's MobileFaceNet; the default is `get_mbf` (2,059,520 parameters, 437,520,896 multiply-accumulates).

    `scale=4, blocks=(2, 8, 12, 4)` is `get_mbf_large` (6,314,880); `scale=1, embedding_size=128` is the paper's net.

    Args:
        embedding_size: dimensions D of the embedding.
        scale: factor of the channels between the bottlenecks only.
        blocks: blocks of the four stages; 1 in the first place is one convolution with 64 groups, not a bottleneck.
        input_size: side or (height, width) of the images.
        width: factor of every channel count (also the hidden ones), rounded to multiples of 8, for small networks.

    Raises:
        ValueError: an argument is out of its range; the sentence says which.
    """

    def __init__(
        self,
        embedding_size: int = 512,
        scale: int = 2,
        blocks: Sequence[int] = (1, 4, 6, 2),
        input_size: ImageSize = 112,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if scale < 1:
            raise ValueError(f"scale is {scale}, but must be a whole factor of at least 1.")
        self.embedding_size = embedding_size
        self.input_size = height_and_width(input_size)
        counts = check_counts(blocks, stages=4)
        c64, c128, c256, c512 = (scaled(channels, width) for channels in (64, 128, 256, 512))
        narrow, wide = c64 * scale, c128 * scale
        first = (
            ConvBlock(narrow, narrow, 3, 1, 1, groups=c64) if counts[0] == 1 else ResidualStage(narrow, c128, counts[0])
        )
        self.layers = nn.ModuleList(
            [
                ConvBlock(3, narrow, 3, 2, 1),
                first,
                Bottleneck(narrow, narrow, c128, 2, False),
                ResidualStage(narrow, c128, counts[1]),
                Bottleneck(narrow, wide, c256, 2, False),
                ResidualStage(wide, c256, counts[2]),
                Bottleneck(wide, wide, c512, 2, False),
                ResidualStage(wide, c256, counts[3]),
            ]
        )
        self.conv_sep = ConvBlock(wide, c512)
        self.features = GlobalDepthwise(c512, embedding_size, last_map_size(input_size))
        initialize_fan_out(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embed images [B, 3, H, W], float, normalised to about [-1, 1], as raw embeddings [B, D].

        Raises:
            ValueError: the images are not of the size that the network was built for.
        """
        check_images(images, self.input_size)
        x = images
        for layer in self.layers:
            x = layer(x)
        return self.features(self.conv_sep(x))
