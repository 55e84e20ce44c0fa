"""The paper's networks by layer and ratio: Table 1 of Li et al. 2017.

Convolutions count from 1, the stem; the first convolutions of the blocks are the even numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

VGG16_PLAN: tuple[int | str, ...] = (
    64,
    64,
    "pool",
    128,
    128,
    "pool",
    *[256] * 3,
    "pool",
    *[512] * 3,
    "pool",
    *[512] * 3,
)
RESNET34_BLOCKS = (3, 4, 6, 3)
Ratios = dict[str, float]
SET, ORDER = "test", "smallest, random, largest"  # what the sensitivity benchmark calls its decisions


def convolutions(plan: Sequence[int | str]) -> list[str]:
    """Names of the convolutions of a `common.backbones.cifar_plain.VGG` with this plan."""
    names, at = [], 0
    for entry in plan:
        if entry == "pool":
            at += 1
        else:
            names.append(f"feature.{at}")
            at += 3
    return names


def uniform(layers: Iterable[str], percent: float) -> Ratios:
    """One ratio for all layers."""
    return dict.fromkeys(layers, round(percent / 100, 6))


def first_convolutions(blocks: Sequence[int], ratios: Sequence[float], skip: Iterable[int] = ()) -> Ratios:
    """Ratios of the first convolutions of residual blocks.

    Args:
        blocks: how many each stage has. ratios: of the stages; 0 for none.
        skip: numbers of convolutions that keep all their filters.

    Raises:
        ValueError: a number to skip is that of no first convolution, or there is not one ratio a stage.
    """
    if len(ratios) != len(blocks):
        raise ValueError(f"there are {len(blocks)} stages and {len(ratios)} ratios; give one for each")
    found: dict[int, tuple[str, float]] = {}
    for stage, (count, ratio) in enumerate(zip(blocks, ratios, strict=True)):
        for block in range(count):
            found[2 + 2 * len(found)] = (f"layer{stage + 1}.{block}.conv1", ratio)
    wrong = sorted(set(skip) - set(found))
    if wrong:
        raise ValueError(f"{wrong} are not numbers of first convolutions, which are {min(found)}, 4, ... {max(found)}")
    return {name: ratio for number, (name, ratio) in found.items() if ratio and number not in set(skip)}


def of_depth(depth: int, ratios: Sequence[float], skip: Iterable[int] = ()) -> Ratios:
    """`first_convolutions` of a CIFAR ResNet of 6n + 2 layers."""
    return first_convolutions([(depth - 2) // 6] * 3, ratios, skip)


_VGG = convolutions(VGG16_PLAN)
VGG16_A = uniform([_VGG[0], *_VGG[7:]], 50)
RESNET56_A = of_depth(56, (0.1, 0.1, 0.1), (16, 20, 38, 54))
RESNET56_B = of_depth(56, (0.6, 0.3, 0.1), (16, 18, 20, 34, 38, 54))
RESNET110_A = of_depth(110, (0.5, 0.0, 0.0), (36,))
RESNET110_B = of_depth(110, (0.5, 0.4, 0.3), (36, 38, 74))
_SENSITIVE = (2, 8, 14, 16, 26, 28, 30, 32)
RESNET34_A = first_convolutions(RESNET34_BLOCKS, (0.3, 0.3, 0.3, 0.3), _SENSITIVE)
RESNET34_B = first_convolutions(RESNET34_BLOCKS, (0.5, 0.6, 0.4, 0.4), _SENSITIVE)
RESNET34_C: Ratios = {
    "layer3.0.downsample.0": 0.2
}  # stage 3's shortcuts and, with the same indices, its second convolutions


def percents(first: int, last: int, step: int) -> tuple[int, ...]:
    """Shares from the first to the last."""
    return tuple(range(first, last + 1, step))
