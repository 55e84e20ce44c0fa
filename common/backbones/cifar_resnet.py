"""Residual networks for 32x32 images: He et al. 2016 (Section 4.2) and their wide successors (Zagoruyko and Komodakis 2016)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.backbones.initialization import initialize

SHORTCUTS = ("pad", "pool_pad", "projection")


class PaddedShortcut(nn.Module):
    """Where a stage begins: subsampled, with zero channels added; no parameters (He et al.'s option A).

    Args:
        added: channels to add. pooled: average 2x2 pixels and put the zeros behind, as in rethinking-network-pruning;
            otherwise take every second pixel and put the zeros on both sides, as in the published weights.
    """

    def __init__(self, added: int, pooled: bool) -> None:
        super().__init__()
        self.added, self.pooled = added, pooled

    def forward(self, x: Tensor) -> Tensor:
        if self.pooled:
            return F.pad(F.avg_pool2d(x, 2), (0, 0, 0, 0, 0, self.added))
        before = self.added // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, self.added - before))


class BasicBlock(nn.Module):
    """conv 3x3, BN, ReLU, conv 3x3, BN, plus the shortcut, ReLU. `inner` is the width between the convolutions."""

    def __init__(self, in_channels: int, inner: int, channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1 or in_channels != channels:
            if shortcut == "projection":
                self.shortcut = nn.Sequential(
                    nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
                )
            else:
                self.shortcut = PaddedShortcut(channels - in_channels, pooled=shortcut == "pool_pad")

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet of 6n + 2 layers for CIFAR: a stem, three stages of n blocks, global average pooling, a linear classifier.

    With depths 20, 32, 44, 56, 110 and padded shortcuts it has 269,722, 464,154, 658,586, 853,018 and 1,727,962 parameters,
    and the names of akamaster/pytorch_resnet_cifar10, so that its published weights load (images normalised with mean
    .485 .456 .406 and standard deviation .229 .224 .225).

    Args:
        depth: 6n + 2. classes: of the output.
        shortcut: `"pad"` or `"pool_pad"` (see `PaddedShortcut`) or `"projection"` (option B: 1x1 convolution and BN).
        widths: channels of the stages; (16, 32, 64) is published. width: factor of them, rounded, for smaller dense networks.
        inner: channels between the two convolutions of each block, front to back, where they differ from the stage's.
        initialization: see `common.backbones.initialization`.

    Raises:
        ValueError: an argument is out of its range; the sentence says which.
    """

    def __init__(
        self,
        depth: int = 20,
        classes: int = 10,
        shortcut: str = "pad",
        widths: Sequence[int] = (16, 32, 64),
        width: float = 1.0,
        inner: Sequence[int] | None = None,
        initialization: str = "he_normal",
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth is {depth}, but must be 6n + 2: 20, 32, 44, 56, 110, ...")
        if shortcut not in SHORTCUTS:
            raise ValueError(f"shortcut is {shortcut!r}, but must be one of {', '.join(SHORTCUTS)}")
        if len(widths) != 3 or width <= 0:
            raise ValueError(
                f"widths is {tuple(widths)} times {width}, but must be three channel counts and a positive factor"
            )
        blocks = (depth - 2) // 6
        stages = [max(1, round(count * width)) for count in widths]
        between = [stage for stage in stages for _ in range(blocks)] if inner is None else [int(c) for c in inner]
        if len(between) != 3 * blocks:
            raise ValueError(f"inner has {len(between)} numbers, but the network has {3 * blocks} blocks")
        self.initialization = initialization
        self.conv1 = nn.Conv2d(3, stages[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stages[0])
        inputs = [stages[0], stages[0], stages[1]]
        made = [
            nn.Sequential(
                *(
                    BasicBlock(
                        inputs[s] if b == 0 else stages[s],
                        between[s * blocks + b],
                        stages[s],
                        2 if b == 0 and s > 0 else 1,
                        shortcut,
                    )
                    for b in range(blocks)
                )
            )
            for s in range(3)
        ]
        self.layer1, self.layer2, self.layer3 = made
        self.linear = nn.Linear(stages[2], classes)
        self.initialize()

    def initialize(self) -> None:
        """Draw all parameters anew."""
        initialize(self, self.initialization)

    def features(self, images: Tensor) -> Tensor:
        """Globally averaged responses of the last stage, [B, 64] (NISP's final response layer)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return x.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, 32, 32] -> logits [B, classes]."""
        logits: Tensor = self.linear(self.features(images))
        return logits


class WideBlock(nn.Module):
    """BN, ReLU, conv 3x3, BN, ReLU, conv 3x3, plus the shortcut (1x1 convolution of the activated input where widths change)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        changes = in_channels != channels or stride != 1
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return y + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """WRN-depth-factor: WRN-16-8 has 10.96 M parameters, WRN-16-10 17.1 M, WRN-22-8 17.2 M.

    Args:
        depth: 6n + 4. factor: widening of the stages (16, 32, 64). classes: of the output.
        initialization: see `common.backbones.initialization`.

    Raises:
        ValueError: the depth is none.
    """

    def __init__(
        self, depth: int = 16, factor: int = 8, classes: int = 10, initialization: str = "variance_scaling"
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth is {depth}, but must be 6n + 4: 10, 16, 22, 28, 40, ...")
        blocks = (depth - 4) // 6
        self.initialization = initialization
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        stages, channels = [], 16
        for stage, width in enumerate((16 * factor, 32 * factor, 64 * factor)):
            stages.append(nn.Sequential())
            for block in range(blocks):
                stages[-1].append(WideBlock(channels, width, 2 if block == 0 and stage > 0 else 1))
                channels = width
        self.layer1, self.layer2, self.layer3 = stages
        self.bn = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, classes)
        self.initialize()

    def initialize(self) -> None:
        """Draw all parameters anew."""
        initialize(self, self.initialization)

    def features(self, images: Tensor) -> Tensor:
        """Globally averaged responses of the last stage, [B, 64 factor]."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        return torch.relu(self.bn(x)).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, 32, 32] -> logits [B, classes]."""
        logits: Tensor = self.linear(self.features(images))
        return logits
