"""How many parameters the networks of this paper have at a width, by arithmetic, and the sparsity that matches two of them.

Arms are planned without building a network. The numbers are those of the modules themselves (tested).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

# MobileNet v1 (Howard et al. 2017): channels of the stem and of each 1x1 convolution; strides of the stem and of each depthwise
# convolution, and those for 32 x 32 pixels, which end at 2 x 2.
MOBILENET = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
MOBILENET_STRIDES = (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
MOBILENET_CIFAR_STRIDES = (1, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


@dataclass(frozen=True)
class Footprint:
    """Parameters of a network: `unpruned` ones (layers that stay dense, biases, normalisations) and `prunable` weights."""

    unpruned: int
    prunable: int

    @property
    def parameters(self) -> int:
        """All of them: the non-zero parameters (NNZ) of the dense network."""
        return self.unpruned + self.prunable

    def nnz(self, sparsity: float) -> float:
        """Non-zero parameters at a sparsity of the prunable weights."""
        return self.unpruned + (1 - sparsity) * self.prunable

    def sparsity_for(self, nnz: float) -> float:
        """s of nnz = unpruned + (1 - s) prunable, rounded to six digits.

        Raises:
            ValueError: no sparsity in [0, 1) gives so many.
        """
        sparsity = round(1 - (nnz - self.unpruned) / self.prunable, 6)
        if not 0 <= sparsity < 1:
            raise ValueError(
                f"{nnz:,.0f} non-zero parameters cannot be matched: the network has {self.parameters:,} and never fewer "
                f"than the {self.unpruned:,} that are not pruned; compare it with another width"
            )
        return sparsity


def scaled(channels: Sequence[int], width: float) -> tuple[int, ...]:
    """Channel counts times a width factor, rounded, at least 1."""
    return tuple(max(1, round(count * width)) for count in channels)


def lenet(hidden: Sequence[int], inputs: int = 784, classes: int = 10) -> Footprint:
    """`LeNet300100`: all weights are pruned, biases are not."""
    sizes = (inputs, *hidden, classes)
    return Footprint(sum(sizes[1:]), sum(a * b for a, b in itertools.pairwise(sizes)))


def resnet(depth: int = 20, width: float = 1.0, classes: int = 10) -> Footprint:
    """`CifarResNet` with padded shortcuts: the stem stays dense."""
    blocks, stages = (depth - 2) // 6, scaled((16, 32, 64), width)
    norms, prunable = 2 * stages[0], stages[-1] * classes
    for stage, (before, channels) in enumerate(zip((stages[0], *stages), stages, strict=False)):
        first = channels if stage == 0 else before
        prunable += 9 * channels * (first + (2 * blocks - 1) * channels)
        norms += 2 * blocks * 2 * channels
    return Footprint(27 * stages[0] + norms + classes, prunable)


def convnet(width: float, channels: Sequence[int], in_channels: int = 1, classes: int = 10) -> Footprint:
    """`ConvNet`: the stem stays dense."""
    counts = scaled(channels, width)
    prunable = sum(9 * a * b for a, b in itertools.pairwise(counts)) + counts[-1] * classes
    return Footprint(9 * in_channels * counts[0] + 2 * sum(counts) + classes, prunable)


def mobilenet(width: float, channels: Sequence[int], in_channels: int = 3, classes: int = 1000) -> Footprint:
    """`MobileNet`: the stem and the depthwise convolutions stay dense."""
    counts = scaled(channels, width)
    prunable = sum(a * b for a, b in itertools.pairwise(counts)) + counts[-1] * classes
    norms = 2 * counts[0] + sum(2 * a + 2 * b for a, b in itertools.pairwise(counts))
    return Footprint(9 * in_channels * counts[0] + 9 * sum(counts[:-1]) + norms + classes, prunable)
