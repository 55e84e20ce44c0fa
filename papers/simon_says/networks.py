"""The paper's network: a residual network of three stages that is four times as wide as He et al.'s."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.backbones.cifar_resnet import BasicBlock
from common.backbones.initialization import initialize


class ResNetX4(nn.Module):
    """resnet32x4 of RepDistiller: 6n + 2 layers, a stem and stages of 64, 128 and 256 channels; 7,433,860 parameters.

    Its stages are `layer1`, `layer2`, `layer3`, the pooled vector is the output of `pool`, the classifier is `fc`.

    Args:
        depth: 6n + 2. classes: of the output. in_channels: of the images.
        widths: channels of stem and stages. initialization: see `common.backbones.initialization`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        depth: int = 32,
        classes: int = 100,
        in_channels: int = 3,
        widths: Sequence[int] = (32, 64, 128, 256),
        initialization: str = "he_fan_out",
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6 or len(widths) != 4:
            raise ValueError(
                f"{depth=}, widths={tuple(widths)}: expected 6n + 2 layers (8, 14, 20, 32, ...) and four widths"
            )
        self.initialization = initialization
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages, inputs = [], widths[0]
        for stage, width in enumerate(widths[1:]):
            blocks = nn.Sequential()
            for block in range((depth - 2) // 6):
                blocks.append(BasicBlock(inputs, width, width, 2 if block == 0 and stage > 0 else 1, "projection"))
                inputs = width
            stages.append(blocks)
        self.layer1, self.layer2, self.layer3 = stages
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(inputs, classes)
        self.initialize()

    def initialize(self) -> None:
        """Draw all parameters anew."""
        initialize(self, self.initialization)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> logits [B, classes]."""
        x = torch.relu(self.bn1(self.conv1(images)))
        logits: Tensor = self.fc(self.pool(self.layer3(self.layer2(self.layer1(x)))))
        return logits
