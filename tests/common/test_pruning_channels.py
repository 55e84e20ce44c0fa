"""Channel removal: the smaller network computes what the masked one computes, in every family of networks."""

import copy

import pytest
import torch
from torch import nn

from common.activations import PReLU
from common.backbones import InsightMobileFaceNet, IResNet, MobileFaceNet, MobileFaceNet112x96
from common.backbones.cifar_plain import VGG, Conv
from common.backbones.cifar_resnet import CifarResNet, WideResNet
from common.backbones.lenet import LeNet5Caffe, LeNet300100
from common.cost import count_macs
from common.pruning import (
    ChannelGraph,
    ChannelGraphError,
    EmptiedLayerWarning,
    Evidence,
    choose_channels,
    compose_kept,
    kept_channels,
    mask_channels,
    remove_channels,
    removed_channels,
    score_filters,
)


class Fire(nn.Module):
    """Two branches put side by side, normalised together, and read twice (SqueezeNet, DenseNet, U-Net)."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(3, 6, 1)
        self.one, self.three = nn.Conv2d(6, 5, 1), nn.Conv2d(6, 7, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.head = nn.Conv2d(12, 8, 3)
        self.last = nn.Linear(8 + 12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.squeeze(x))
        x = torch.relu(self.norm(torch.cat([self.one(x), self.three(x)], 1)))
        return self.last(torch.cat([self.head(x).mean((2, 3)), x.mean((2, 3))], 1))


GREY, CIFAR, FACE = (1, 28, 28), (3, 32, 32), (3, 48, 48)
FAMILIES = {
    "LeNet-300-100": (lambda: LeNet300100(hidden=(30, 20)), GREY),
    "LeNet-5-Caffe": (lambda: LeNet5Caffe(widths=(5, 7, 20)), GREY),
    "VGG": (lambda: VGG(plan=(8, 6, "pool", 7, "pool", 10, "pool", 9, "pool"), hidden=(12,)), CIFAR),
    "VGG, bias-free, flattened maps": (lambda: VGG(plan=(8, "pool", 6, "pool"), hidden=(9, 8), bias=False), CIFAR),
    "Conv-4": (lambda: Conv(layers=4), CIFAR),
    "ResNet-20, padded": (lambda: CifarResNet(20, widths=(4, 6, 8)), CIFAR),
    "ResNet-20, pooled": (lambda: CifarResNet(20, widths=(4, 6, 8), shortcut="pool_pad"), CIFAR),
    "ResNet-56, projections": (lambda: CifarResNet(56, widths=(4, 6, 8), shortcut="projection"), CIFAR),
    "concatenation": (Fire, (3, 9, 9)),
    "WRN-16": (lambda: WideResNet(16, 1), CIFAR),
    "MobileFaceNet": (lambda: MobileFaceNet(32, 0.25, 48, (2, 2, 1)), FACE),
    "MobileFaceNet of InsightFace": (lambda: InsightMobileFaceNet(32, 2, (1, 1, 2, 1), 48, 0.25), FACE),
    "MobileFaceNet 112x96": (lambda: MobileFaceNet112x96(), (3, 112, 96)),
    "IResNet": (lambda: IResNet(32, input_size=48, width=0.125, blocks=(2, 1, 1, 1), dropout=0.4), FACE),
    "IResNet of TFace": (lambda: IResNet(32, input_size=48, width=0.125, blocks=(1, 2, 1, 1), variant="tface"), FACE),
}


def trained_looking(network: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and statistic away from its initial value, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.copy_(0.3 * torch.randn(module.running_mean.shape, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
                if module.affine:
                    module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=generator))
                    module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=generator))
            elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=generator))
            elif isinstance(module, PReLU):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator))
    return network.eval()


def images(size: tuple[int, ...], count: int = 2) -> torch.Tensor:
    return torch.randn(count, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_thin_network_computes_what_the_masked_one_does(family: str) -> None:
    build, size = FAMILIES[family]
    torch.manual_seed(0)
    network = trained_looking(build())
    x = images(size)
    graph = ChannelGraph(network, x[:1])
    inner = [group for group in graph.groups if not group.output]
    scores = score_filters("random", Evidence(network, tuple(group.layers[0] for group in inner), seed=4))
    removed = choose_channels(graph, scores, 0.4)
    assert len(removed) == len(inner) > 0
    before = copy.deepcopy(network.state_dict())
    thin, masked = remove_channels(network, removed, graph=graph), mask_channels(network, removed, graph=graph)
    with torch.no_grad():
        expected, got, dense = masked(x), thin(x), network(x)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert float((dense - expected).abs().max()) > 1e-3 * float(dense.abs().max()), "something was removed"
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items()), "a copy"
    parameters = [sum(weight.numel() for weight in each.parameters()) for each in (thin, masked)]
    assert parameters[0] < 0.85 * parameters[1]
    assert count_macs(thin, size) < 0.85 * count_macs(masked, size)
    for group in inner:
        for name in (*group.layers, *(group.followers if family != "concatenation" else ())):
            lost = len(removed[group.layers[0]])
            module = thin.get_submodule(name)
            assert module.weight.shape[0] == group.channels - lost if getattr(module, "affine", True) else True
            if isinstance(module, nn.Conv2d):
                assert module.out_channels == group.channels - lost
    assert [p.requires_grad for p in thin.parameters()] == [p.requires_grad for p in network.parameters()]
    thin.train()
    loss = thin(images(size, 4)).square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in thin.parameters() if p.requires_grad), (
        "it trains"
    )


def test_groups_of_the_primers_networks() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ).eval()  # fmt: skip
    x = torch.randn(1, 3, 8, 8)
    graph = ChannelGraph(network, x)
    assert [(g.layers, g.followers, g.readers, g.channels, g.output) for g in graph.groups] == [
        (("0",), ("1",), ("3",), 8, False), (("3",), ("4",), ("8",), 16, False), (("8",), (), (), 10, True),
    ]  # fmt: skip
    one = remove_channels(network, {"0": [2, 6]}, graph=graph)
    half = remove_channels(network, {"0": range(4), "3": range(8)}, x)
    assert [sum(p.numel() for p in each.parameters()) for each in (network, half, one)] == [1586, 510, 1240]
    assert [count_macs(each, (3, 8, 8)) for each in (network, half, one)] == [87_712, 25_424, 65_824]
    zeroed = copy.deepcopy(network)
    with torch.no_grad():
        zeroed[0].weight[[2, 6]] = 0  # the trap: the normalisation still emits a constant
        zeroed[1].bias[[2, 6]] = 0.5
    assert not torch.allclose(zeroed(x), one(x), atol=1e-3)


def test_a_residual_stream_goes_together_and_a_padded_one_not_at_all() -> None:
    padded = ChannelGraph(CifarResNet(56), images(CIFAR, 1))
    inner = [group for group in padded.groups if not group.output]
    assert [group.layers for group in inner] == [(f"layer{s}.{b}.conv1",) for s in (1, 2, 3) for b in range(9)]
    for layer in ("conv1", "layer1.3.conv2", "layer3.0.conv2"):
        with pytest.raises(
            ChannelGraphError, match=r"through a shortcut without parameters.*first convolutions of the blocks"
        ):
            padded.group_of(layer)
    projected = ChannelGraph(CifarResNet(20, shortcut="projection"), images(CIFAR, 1))
    stage = projected.group_of("layer2.1.conv2")
    assert stage.layers == ("layer2.0.conv2", "layer2.0.shortcut.0", "layer2.1.conv2", "layer2.2.conv2")
    assert stage.readers == ("layer2.1.conv1", "layer2.2.conv1", "layer3.0.conv1", "layer3.0.shortcut.0")
    scores = {"layer2.1.conv2": -torch.arange(32.0), "layer2.0.shortcut.0": torch.zeros(32)}
    scores["layer2.0.shortcut.0"][5] = -100
    removed = choose_channels(projected, scores, 1 / 16)
    assert removed == {"layer2.1.conv2": [5, 31]}, "tied scores are added"
    kept = kept_channels(projected, removed)
    assert set(kept) == set(stage.layers)
    assert all(left == [i for i in range(31) if i != 5] for left in kept.values())


def test_whole_groups_of_a_grouped_convolution() -> None:
    network = trained_looking(InsightMobileFaceNet(32, 2, (1, 1, 1, 1), 48, 0.25))
    graph = ChannelGraph(network, images(FACE, 1))
    first = graph.groups[0]
    assert (first.channels, first.block) == (32, 2)
    with pytest.raises(ChannelGraphError, match=r"has 16 groups of 2 channels.*whole groups"):
        remove_channels(network, {first.layers[0]: [0, 1, 3]}, graph=graph)
    scores = torch.ones(32)
    scores[[4, 9, 8]] = 0.1
    removed = choose_channels(graph, {first.layers[0]: scores}, 1 / 16)
    assert removed == {first.layers[0]: [8, 9]}
    thin = remove_channels(network, removed, graph=graph)
    grouped = thin.layers[1].layers[0]
    assert (grouped.groups, grouped.in_channels, grouped.out_channels) == (15, 30, 30)
    with pytest.raises(ChannelGraphError, match="0 is a grouped convolution from 4 to 8 channels"):
        ChannelGraph(nn.Sequential(nn.Conv2d(4, 8, 1, groups=2)), torch.randn(1, 4, 5, 5))


def test_global_ranking_keeps_one_of_each() -> None:
    network = LeNet5Caffe(widths=(4, 6, 10))
    graph = ChannelGraph(network, images(GREY, 1))
    scores = {"conv1": torch.full((4,), 9.0), "conv2": torch.arange(6.0), "fc1": torch.full((10,), 8.0)}
    with pytest.warns(EmptiedLayerWarning, match="fewer than 1 in conv2"):
        removed = choose_channels(graph, scores, 0.5, scope="global")
    assert sum(map(len, removed.values())) == 10
    assert removed["conv2"] == [0, 1, 2, 3, 4]
    with pytest.raises(ChannelGraphError, match="one sparsity"):
        choose_channels(graph, scores, {"conv1": 0.5}, scope="global")
    assert choose_channels(graph, {"conv1": torch.rand(4)}, {"conv1": 0.5}).keys() == {"conv1"}
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
        choose_channels(graph, scores, 1.0)


def test_nothing_removed_is_the_identity_and_modes_stay() -> None:
    network = trained_looking(MobileFaceNet(32, 0.25, 48, (1, 1, 1)))
    network.conv1.train()
    network.conv_3.requires_grad_(False)
    thin = remove_channels(network.to(memory_format=torch.channels_last), {"conv1.conv": []}, images(FACE, 1))
    assert all(torch.equal(value, thin.state_dict()[name]) for name, value in network.state_dict().items())
    thin = remove_channels(network, {"conv1.conv": [0]}, images(FACE, 1))
    assert [m.training for m in thin.modules()] == [m.training for m in network.modules()]
    assert not any(p.requires_grad for p in thin.conv_3.parameters())
    assert thin.conv_23.conv.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_removals_can_follow_each_other_and_be_rebuilt_from_lists() -> None:
    network = trained_looking(CifarResNet(8, widths=(6, 8, 10), shortcut="projection"))
    x = images(CIFAR)
    graph = ChannelGraph(network, x)
    first = {"layer1.0.conv1": [0, 3], "layer2.0.conv2": [1]}
    small = remove_channels(network, first, graph=graph)
    second_graph = ChannelGraph(small, x)
    second = {"layer1.0.conv1": [1], "layer3.0.conv1": [9]}
    smaller = remove_channels(small, second, graph=second_graph)
    kept = compose_kept(kept_channels(graph, first), kept_channels(second_graph, second))
    assert kept["layer1.0.conv1"] == [1, 4, 5]
    assert kept["layer2.0.shortcut.0"] == [0, 2, 3, 4, 5, 6, 7]
    rebuilt = remove_channels(network, removed_channels(graph, kept), graph=graph)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(x), smaller(x), rtol=0, atol=0)


@pytest.mark.parametrize("family", ["MobileFaceNet", "MobileFaceNet of InsightFace"])
def test_lists_of_depthwise_and_grouped_convolutions_rebuild_too(family: str) -> None:
    build, size = FAMILIES[family]
    network = trained_looking(build())
    x = images(size)
    graph = ChannelGraph(network, x)
    removed = {graph.groups[0].layers[0]: [2, 3], graph.groups[2].layers[1]: [0]}
    kept = kept_channels(graph, removed)
    depthwise = [name for name in kept if network.get_submodule(name).groups > 1]
    assert depthwise
    alone = removed_channels(graph, {name: kept[name] for name in depthwise[:1]})
    assert list(alone.values()) == [[2, 3]]
    for lists in (removed_channels(graph, kept), alone | {graph.groups[2].layers[0]: [0]}):
        rebuilt = remove_channels(network, lists, graph=graph)
        thin = remove_channels(network, removed, graph=graph)
        assert all(torch.equal(rebuilt.state_dict()[name], value) for name, value in thin.state_dict().items())


def test_refusals() -> None:
    network = LeNet5Caffe(widths=(4, 6, 10))
    graph = ChannelGraph(network, images(GREY, 1))
    for removed, message in (
        ({"conv1": [0, 1, 2, 3]}, "conv1 would lose all of its 4 channels; keep at least one"),
        ({"conv1": [4]}, "conv1 has channels 0 to 3, not 4"),
        ({"conv1": [-1]}, "conv1 has channels 0 to 3, not -1"),
        (
            {"conv3": [0]},
            "'conv3' is no convolution or linear layer that the network uses; there are conv1, conv2, fc1, fc2",
        ),
        ({"fc2": [0]}, "the channels of fc2 are the network's output; pass outputs=True"),
    ):
        with pytest.raises(ChannelGraphError, match=message):
            remove_channels(network, removed, graph=graph)
    with pytest.raises(ChannelGraphError, match="give an example batch"):
        remove_channels(network, {"conv1": [0]})
    with pytest.raises(ChannelGraphError, match="no convolution or linear layer to remove"):
        ChannelGraph(nn.Sequential(nn.BatchNorm2d(3)), torch.randn(1, 3, 4, 4))
    with pytest.raises(ChannelGraphError, match=r"conv1 has 4 channels, but its scores are \[5\]"):
        choose_channels(graph, {"conv1": torch.rand(5)}, 0.5)
    normalised = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1))
    with pytest.raises(ChannelGraphError, match="1 is a GroupNorm, of which it is not known"):
        remove_channels(normalised, {"0": [0]}, torch.randn(1, 3, 4, 4))


def test_an_embedding_can_become_smaller_if_that_is_meant() -> None:
    network = trained_looking(IResNet(32, input_size=48, width=0.125, blocks=(1, 1, 1, 1)))
    x = images(FACE)
    thin = remove_channels(network, {"fc": [0, 5, 31]}, x, outputs=True)
    left = [i for i in range(32) if i not in (0, 5, 31)]
    with torch.no_grad():
        torch.testing.assert_close(thin(x), network(x)[:, left], rtol=1e-5, atol=1e-5)
    assert not thin.features.weight.requires_grad


def test_a_normalisation_without_parameters_is_masked_too() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.Conv2d(6, 4, 3))
    trained_looking(network)
    network[1].running_mean.fill_(-1)  # a zero comes out of it as 1 / sigma
    x = images((3, 9, 9))
    thin, masked = remove_channels(network, {"0": [1, 4]}, x), mask_channels(network, {"0": [1, 4]}, x)
    torch.testing.assert_close(thin(x), masked(x), rtol=1e-5, atol=1e-5)


def test_tracing_works_without_gradients_and_in_half_of_the_network_frozen() -> None:
    network = LeNet5Caffe(widths=(4, 6, 10)).requires_grad_(False)
    with torch.no_grad():
        thin = remove_channels(network, {"conv2": [0]}, images(GREY, 1))
    assert thin.fc1.in_features == 5 * 16
    assert not any(p.requires_grad for p in thin.parameters())
