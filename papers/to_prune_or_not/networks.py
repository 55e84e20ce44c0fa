"""Networks of a width: MobileNet v1, and a small convolutional one for small images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from common.backbones.initialization import initialize
from papers.to_prune_or_not.footprint import MOBILENET, MOBILENET_STRIDES, scaled


def _step(a: int, b: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, BN, ReLU."""
    conv = nn.Conv2d(a, b, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(b), nn.ReLU())


class MobileNet(nn.Module):
    """MobileNet v1 (Howard et al. 2017): a stem, then pairs of depthwise 3x3 and 1x1 convolutions, pooling, a classifier.

    With 1000 classes and widths 1, .75, .5, .25 it has 4,231,976, 2,585,560, 1,331,592 and 470,072 parameters. The paper
    prunes the 1x1 convolutions and the classifier: `dense=("stem", "depthwise")`.

    Args:
        width: factor of all channels, rounded. classes: of the output. in_channels: of the images.
        channels: of the stem and of each 1x1 convolution. strides: of the stem and of each depthwise convolution.
        initialization: see `common.backbones.initialization`.

    Raises:
        ValueError: not one stride for each number of channels, or a width that is not positive.
    """

    def __init__(
        self,
        width: float = 1.0,
        classes: int = 1000,
        in_channels: int = 3,
        channels: Sequence[int] = MOBILENET,
        strides: Sequence[int] = MOBILENET_STRIDES,
        initialization: str = "he_fan_out",
    ) -> None:
        super().__init__()
        counts = _counts(width, channels, strides)
        self.initialization = initialization
        self.stem = _step(in_channels, counts[0], 3, strides[0])
        pairs = list(itertools.pairwise(counts))
        self.depthwise = nn.ModuleList(_step(a, a, 3, s, a) for (a, _), s in zip(pairs, strides[1:], strict=True))
        self.pointwise = nn.ModuleList(_step(a, b, 1) for a, b in pairs)
        self.linear = nn.Linear(counts[-1], classes)
        self.initialize()

    def initialize(self) -> None:
        """Draw all parameters anew."""
        initialize(self, self.initialization)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> logits [B, classes]."""
        x = self.stem(images)
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            x = pointwise(depthwise(x))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class ConvNet(nn.Module):
    """Convolutions 3x3 with BN and ReLU, pooling, a classifier: what the demo prunes on digits of 8x8 pixels.

    A MobileNet so small would consist mostly of depthwise weights and normalisations, which are not pruned.

    Args:
        width: factor of all channels, rounded. classes: of the output. in_channels: of the images.
        channels, strides: of the stem and of the convolutions behind it.
        initialization: see `common.backbones.initialization`.

    Raises:
        ValueError: not one stride for each number of channels, or a width that is not positive.
    """

    def __init__(
        self,
        width: float = 1.0,
        classes: int = 10,
        in_channels: int = 1,
        channels: Sequence[int] = (16, 32, 64),
        strides: Sequence[int] = (1, 2, 2),
        initialization: str = "he_normal",
    ) -> None:
        super().__init__()
        counts = _counts(width, channels, strides)
        self.initialization = initialization
        self.stem = _step(in_channels, counts[0], 3, strides[0])
        steps = zip(itertools.pairwise(counts), strides[1:], strict=True)
        self.convolutions = nn.Sequential(*(_step(a, b, 3, stride) for (a, b), stride in steps))
        self.linear = nn.Linear(counts[-1], classes)
        self.initialize()

    def initialize(self) -> None:
        """Draw all parameters anew."""
        initialize(self, self.initialization)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> logits [B, classes]."""
        logits: Tensor = self.linear(self.convolutions(self.stem(images)).mean((2, 3)))
        return logits


def _counts(width: float, channels: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    if width <= 0 or len(channels) != len(strides) or len(channels) < 2:
        raise ValueError(
            f"width is {width}, channels {tuple(channels)}, strides {tuple(strides)}; expected a positive factor and as many "
            "strides as channels, at least two"
        )
    return scaled(channels, width)
