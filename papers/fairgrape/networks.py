"""The networks of the table: torchvision's ResNet-34 and MobileNetV2 from ImageNet weights, and a small one for CPUs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn

from common.backbones.cifar_resnet import BasicBlock
from common.backbones.initialization import initialize
from common.weights import load_weights


class SmallResNet(nn.Module):
    """A residual network for faces of 32 to 64 pixels: a stem of stride 2, three stages, global average pooling, a classifier.

    Args:
        outputs: logits of all tasks. widths: channels of the stages. blocks: of each.
    """

    def __init__(self, outputs: int, widths: Sequence[int] = (12, 24, 48), blocks: int = 1) -> None:
        super().__init__()
        channels = widths[0]
        self.conv1 = nn.Conv2d(3, channels, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        stages = []
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                stages.append(BasicBlock(channels, width, width, stride, "projection"))
                channels = width
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(channels, outputs)
        self.initialize()

    def initialize(self) -> None:
        """Draw all parameters anew."""
        initialize(self, "he_normal")

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> logits [B, outputs]."""
        x = self.stages(torch.relu(self.bn1(self.conv1(images))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def resnet34(outputs: int, weights: str | None = None) -> nn.Module:
    """torchvision's ResNet-34 with a new last layer.

    Args:
        outputs: logits of all tasks. weights: torchvision's file of ImageNet weights (`resnet34-b627a593.pth`); None: random.

    Raises:
        FileNotFoundError, DamagedFileError, WeightsMismatchError: see `common.weights.load_weights`.
    """
    network = torchvision.models.resnet34(weights=None)
    if weights is not None:
        load_weights(network, weights)
    network.fc = nn.Linear(network.fc.in_features, outputs)
    return network


def mobilenet_v2(outputs: int, weights: str | None = None) -> nn.Module:
    """torchvision's MobileNetV2 with a new last layer; see `resnet34`. Its file is `mobilenet_v2-b0353104.pth`."""
    network = torchvision.models.mobilenet_v2(weights=None)
    if weights is not None:
        load_weights(network, weights)
    last = network.classifier[1]
    network.classifier[1] = nn.Linear(last.in_features, outputs)
    return network
