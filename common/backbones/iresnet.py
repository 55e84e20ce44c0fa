"""IResNet, the residual network of ArcFace (arXiv 1801.07698, Section 3.1); names of InsightFace's `iresnet.py`."""

from collections.abc import Sequence
from typing import ClassVar

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

VARIANTS = ("insightface", "tface")


class IResNetBlock(nn.Module):
    """BN, conv 3x3, BN, PReLU, conv 3x3 (stride), BN, plus the shortcut; nothing follows the addition."""

    residual = True  # as in MobileFaceNet's bottlenecks; quantization puts an output quantizer after such units

    def __init__(
        self, in_channels: int, channels: int, stride: int, downsample: nn.Module | None, activation: str
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = activation_layer(activation, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        y = self.bn3(self.conv2(y))
        return y + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """A stem at full resolution, four stages of stride 2, and a linear embedding of the flattened last map.

    Use one of the depths `IResNet18`, `IResNet34`, `IResNet50`, `IResNet100`, `IResNet200`, or give `blocks`.

    Args:
        embedding_size: dimensions D of the embedding.
        dropout: probability before the embedding layer; InsightFace 0, TFace 0.4, QuantFace 0.4 for 18 and 50 layers.
        input_size: side or (height, width) of the images; decides the inputs of the embedding layer (7x7x512 at 112).
        width: factor of every channel count, rounded to multiples of 8; 1 is the published network.
        blocks: blocks of the four stages instead of the depth's own.
        variant: "insightface", or "tface": the first shortcut subsamples (`MaxPool2d(1, 2)`) instead of a convolution
            where the channels stay, the last batch normalisation has no parameters, Kaiming initialisation.
        activation: "prelu" (published), "relu", "relu6" or "hardswish".

    In the "insightface" variant the last batch normalisation's weight is fixed to 1 (it does not train; its bias does).

    Raises:
        ValueError: an argument is out of its range; the sentence says which.
    """

    default_blocks: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)

    def __init__(
        self,
        embedding_size: int = 512,
        dropout: float = 0.0,
        input_size: ImageSize = 112,
        width: float = 1.0,
        blocks: Sequence[int] | None = None,
        variant: str = "insightface",
        activation: str = "prelu",
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}, but must be one of {', '.join(VARIANTS)}.")
        self.embedding_size = embedding_size
        self.input_size = height_and_width(input_size)
        self.variant = variant
        counts = check_counts(self.default_blocks if blocks is None else blocks, stages=4)
        stem, *channels = (scaled(count, width) for count in (64, 64, 128, 256, 512))
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.prelu = activation_layer(activation, stem)
        self.layer1 = self._stage(stem, channels[0], counts[0], activation)
        self.layer2 = self._stage(channels[0], channels[1], counts[1], activation)
        self.layer3 = self._stage(channels[1], channels[2], counts[2], activation)
        self.layer4 = self._stage(channels[2], channels[3], counts[3], activation)
        self.bn2 = nn.BatchNorm2d(channels[3])
        self.dropout = nn.Dropout(dropout)
        rows, columns = last_map_size(input_size)
        self.fc = nn.Linear(channels[3] * rows * columns, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size, affine=variant == "insightface")
        self._initialize()

    def _stage(self, in_channels: int, channels: int, count: int, activation: str) -> nn.Sequential:
        shortcut: nn.Module
        if self.variant == "tface" and in_channels == channels:
            shortcut = nn.MaxPool2d(1, 2)
        else:
            shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, 2, bias=False),
                nn.BatchNorm2d(channels),
            )
        stage = nn.Sequential(IResNetBlock(in_channels, channels, 2, shortcut, activation))
        for _ in range(count - 1):
            stage.append(IResNetBlock(channels, channels, 1, None, activation))
        return stage

    def _initialize(self) -> None:
        if self.variant == "tface":
            initialize_fan_out(self)
            return
        self.features.weight.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embed images [B, 3, H, W], float, normalised to about [-1, 1], as raw embeddings [B, D].

        Raises:
            ValueError: the images are not of the size that the network was built for.
        """
        check_images(images, self.input_size)
        x = self.prelu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(self.dropout(self.bn2(x).flatten(1))))


class IResNet18(IResNet):
    """24,025,600 parameters (24,025,088 trained), 2.610 G multiply-accumulates at 112x112 and 512 dimensions."""


class IResNet34(IResNet):
    """34,139,328 parameters (34,138,816 trained), 4.460 G multiply-accumulates at 112x112 and 512 dimensions."""

    default_blocks = (3, 4, 6, 3)


class IResNet50(IResNet):
    """43,590,848 parameters (43,590,336 trained), 6.309 G multiply-accumulates at 112x112 and 512 dimensions."""

    default_blocks = (3, 4, 14, 3)


class IResNet100(IResNet):
    """65,156,160 parameters (65,155,648 trained), 12.090 G multiply-accumulates at 112x112 and 512 dimensions."""

    default_blocks = (3, 13, 30, 3)


class IResNet200(IResNet):
    """118,833,920 parameters, 23.419 G multiply-accumulates at 112x112 and 512 dimensions."""

    default_blocks = (6, 26, 60, 6)
