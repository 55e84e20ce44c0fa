"""The networks of the paper's table: multiply-accumulates and parameters."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from common.backbones.cifar_plain import VGG16
from common.backbones.cifar_resnet import CifarResNet
from common.cost import count_macs
from papers.pruning_filters import configurations
from papers.pruning_filters.configurations import convolutions, first_convolutions, of_depth
from papers.pruning_filters.method import FilterPruning
from papers.pruning_filters.networks import ResNet34


class Shape:
    """As much of a data module as the surgery looks at."""

    in_channels, image_size = 3, (32, 32)


def small(net: nn.Module, ratios: dict[str, float], side: int = 32) -> nn.Module:
    method = FilterPruning(net, ratios=ratios)
    shape = Shape()
    shape.image_size = (side, side)
    method.prune(shape)
    return method.network


@pytest.mark.parametrize(
    ("made", "ratios", "macs", "parameters"),
    [
        (VGG16, configurations.VGG16_A, 206_279_680, 5_397_034),
        (lambda: CifarResNet(56), configurations.RESNET56_A, 112_000_000, 773_336),
        (lambda: CifarResNet(56), configurations.RESNET56_B, 90_900_000, 735_712),
        (lambda: CifarResNet(110), configurations.RESNET110_A, 213_000_000, 1_688_522),
        (lambda: CifarResNet(110), configurations.RESNET110_B, 155_000_000, 1_168_424),
    ],
)
def test_the_papers_configurations_have_its_sizes(made: Any, ratios: Any, macs: int, parameters: int) -> None:
    net = small(made(), ratios)
    assert sum(p.numel() for p in net.parameters()) == parameters
    exact = macs % 1_000 != 0
    assert count_macs(net, 32) == (macs if exact else pytest.approx(macs, rel=5e-3))


@pytest.mark.parametrize(
    ("ratios", "fewer_macs", "fewer_parameters"),
    [
        (configurations.RESNET34_A, 15.5, 7.6),
        (configurations.RESNET34_B, 24.2, 10.8),
        (configurations.RESNET34_C, 7.5, 7.2),
    ],
)
def test_resnet34_for_imagenet(ratios: Any, fewer_macs: float, fewer_parameters: float) -> None:
    """The paper's 3.64e9 and 21.6 M, and its percents, leave the projections out; to one unit of its last digit."""

    def counted(net: nn.Module) -> tuple[int, int]:
        macs, parameters = count_macs(net, 224), sum(p.numel() for p in net.parameters())
        for stage, side in ((2, 28), (3, 14), (4, 7)):
            shortcut = net.get_submodule(f"layer{stage}.0.downsample")
            parameters -= sum(p.numel() for p in shortcut.parameters())
            macs -= shortcut.get_submodule("0").weight.numel() * side * side  # type: ignore[operator, union-attr]
        return macs, parameters

    whole = ResNet34()
    before = counted(whole)
    assert before == pytest.approx((3.64e9, 21.6e6), rel=2e-3)
    after = counted(small(whole, ratios, 64))
    lost = [100 * (1 - a / b) for a, b in zip(after, before, strict=True)]
    assert lost == pytest.approx([fewer_macs, fewer_parameters], abs=0.1)


def test_numbers_of_first_convolutions() -> None:
    assert list(first_convolutions((2, 1), (0.5, 0.25))) == ["layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1"]
    assert first_convolutions((2, 1), (0.5, 0.25), (4,)) == {"layer1.0.conv1": 0.5, "layer2.0.conv1": 0.25}
    assert len(configurations.RESNET56_B) == 27 - 6
    assert convolutions((8, "pool", 9, 9)) == ["feature.0", "feature.4", "feature.7"]
    with pytest.raises(ValueError, match="not numbers of first convolutions"):
        of_depth(56, (0.1, 0.1, 0.1), (3,))
    with pytest.raises(ValueError, match="3 stages and 2 ratios"):
        of_depth(56, (0.1, 0.1))


def test_second_convolutions_need_a_projection() -> None:
    with pytest.raises(ValueError, match="a shortcut without parameters"):
        small(CifarResNet(8), {"layer1.0.conv2": 0.5}, 8)
