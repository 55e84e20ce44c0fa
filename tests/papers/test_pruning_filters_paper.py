"""Which filters go: every criterion, greedy and independent, residual blocks, and Liu et al.'s pruned networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.backbones.cifar_plain import VGG
from common.backbones.cifar_resnet import CifarResNet
from common.pruning import ChannelGraph
from papers.pruning_filters.configurations import convolutions, of_depth
from papers.pruning_filters.criteria import ACTIVATIONS, activation_statistics, filter_scores, select_filters
from papers.pruning_filters.method import FilterPruning


def two_layers() -> tuple[nn.Sequential, ChannelGraph]:
    """The card's hand check: l1 sums 3, 1, 2 in the first layer; kernels 1, 9, 1 and 3, 3, 3 in the second."""
    net = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([3.0, -1.0, 2.0]).view(3, 1, 1, 1))  # type: ignore[operator]
        net[1].weight.copy_(torch.tensor([[1.0, 9.0, -1.0], [3.0, -3.0, 3.0]]).view(2, 3, 1, 1))  # type: ignore[operator]
    return net, ChannelGraph(net, torch.rand(1, 1, 2, 2))


def test_greedy_counts_only_kernels_of_maps_that_are_left() -> None:
    net, graph = two_layers()
    ratios = {"0": 0.3, "1": 0.5}
    assert select_filters(net, graph, ratios) == {"0": [1], "1": [1]}
    assert select_filters(net, graph, ratios, greedy=True) == {"0": [1], "1": [0]}
    assert select_filters(net, graph, {"1": 0.5, "0": 0.3}, greedy=True) == {"0": [1], "1": [0]}  # front to back anyway
    assert select_filters(net, graph, ratios, "l1_largest") == {"0": [0], "1": [0]}
    assert select_filters(net, graph, {"1": 0.5}, greedy=True) == {"1": [1]}


def test_greedy_and_independent_of_the_golden_vectors(golden: Path) -> None:
    vectors = np.load(golden / "pruning_filters/derived_greedy_vs_independent.npz")
    net = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 7, 3, bias=False), nn.Conv2d(7, 1, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.from_numpy(vectors["W1"]))  # type: ignore[operator]
        net[1].weight.copy_(torch.from_numpy(vectors["W2"]))  # type: ignore[operator]
    graph = ChannelGraph(net, torch.rand(1, 3, 8, 8))
    ratios = {"0": 0.5, "1": 0.42}
    for greedy, key in ((False, "drop_layer2_independent"), (True, "drop_layer2_greedy")):
        found = select_filters(net, graph, ratios, greedy=greedy)
        assert found["0"] == sorted(vectors["drop_layer1"].tolist())
        assert found["1"] == sorted(vectors[key].tolist())


def golden_state(vectors: Any, prefix: str, rename: tuple[str, str] = ("", "")) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix).replace(*rename): torch.from_numpy(vectors[key])
        for key in vectors.files
        if key.startswith(prefix)
    }


class Shape:
    """As much of a data module as the surgery looks at."""

    in_channels, image_size = 3, (32, 32)


def test_the_method_makes_liu_et_als_pruned_vgg(golden: Path) -> None:
    vectors = np.load(golden / "pruning_filters/rethinking_vgg_l1.npz")
    plan = ["pool" if width < 0 else int(width) for width in vectors["cfg_before"]]
    after = [int(width) for width in vectors["cfg_after"] if width > 0]
    net = VGG(plan=plan, hidden=(9,), bias=False, last_pool="average")
    net.load_state_dict(golden_state(vectors, "before_"))
    before = [int(width) for width in vectors["cfg_before"] if width > 0]
    ratios = {name: 1 - (b + 0.5) / a for name, a, b in zip(convolutions(plan), before, after, strict=True) if a != b}
    method = FilterPruning(net, ratios=ratios)
    method.prune(Shape())
    for name, value in golden_state(vectors, "after_").items():
        torch.testing.assert_close(method.network.state_dict()[name], value, rtol=0, atol=0, msg=name)
    logits = method.network.eval()(torch.from_numpy(vectors["x"])).detach()
    torch.testing.assert_close(logits, torch.from_numpy(vectors["logits_after"]), rtol=1e-5, atol=1e-5)


def test_the_method_makes_liu_et_als_pruned_resnet(golden: Path) -> None:
    vectors = np.load(golden / "pruning_filters/rethinking_resnet8_l1.npz")
    net = CifarResNet(8, shortcut="pool_pad")
    net.load_state_dict(golden_state(vectors, "before_", ("fc.", "linear.")))
    method = FilterPruning(net, ratios=of_depth(8, (0.6, 0.3, 0.1), (4,)))
    method.prune(Shape())
    logits = method.network.eval()(torch.from_numpy(vectors["x"])).detach()
    torch.testing.assert_close(logits, torch.from_numpy(vectors["logits_after"]), rtol=1e-5, atol=1e-5)
    inner = [method.network.get_submodule(f"layer{i}.0.conv1").out_channels for i in (1, 2, 3)]
    assert inner == vectors["cfg_after"].tolist()


def test_statistics_of_feature_maps_by_hand() -> None:
    """Before normalisation and ReLU, in eval mode, over several batches."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, -2.0]).view(2, 1, 1, 1))  # type: ignore[operator]
    images = torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, -8.0]]).view(3, 1, 1, 2)
    found = activation_statistics(net, ["0"], [(images[:2],), (images[2:],)])
    expected = {
        "mean_mean": (3.5 + 0 - 1) / 3,
        "mean_std": (0.5 + 0 + 7) / 3,
        "mean_l1": (7 + 0 + 14) / 3,
        "mean_l2": (5 + 0 + 10) / 3,
        "var_l2": (25 + 0 + 100) / 3 - 25,
    }
    assert set(expected) == set(ACTIVATIONS)
    factors = {"mean_mean": -2, "mean_std": 2, "mean_l1": 2, "mean_l2": 2, "var_l2": 4}
    for key, value in expected.items():
        assert found[key]["0"].tolist() == pytest.approx([value, factors[key] * value]), key
    assert int(net[1].num_batches_tracked) == 0  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there was no batch"):
        filter_scores("mean_std", net, ["0"])


def test_criteria_and_ties() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, (1, 2), bias=False), nn.Conv2d(3, 1, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0, 4.0], [0.0, -6.0], [6.0, 0.0]]).view(3, 1, 1, 2))  # type: ignore[operator]
    assert filter_scores("l1_smallest", net, ["0"])["0"].tolist() == [7, 6, 6]
    assert filter_scores("l1_largest", net, ["0"])["0"].tolist() == [-7, -6, -6]
    assert filter_scores("l2", net, ["0"])["0"].tolist() == pytest.approx([5, 6, 6])
    graph = ChannelGraph(net, torch.rand(1, 1, 3, 3))
    assert select_filters(net, graph, {"0": 0.3}) == {"0": [1]}
    random = [filter_scores("random", net, ["0"], seed=seed)["0"].tolist() for seed in (0, 0, 1)]
    assert random[0] == random[1] != random[2]


def test_a_projection_decides_for_the_second_convolutions() -> None:
    """(4): the indices of the shortcut's smallest filters, whatever the second convolutions' own are."""
    torch.manual_seed(0)
    net = CifarResNet(14, shortcut="projection")
    graph = ChannelGraph(net, torch.rand(2, 3, 8, 8))
    found = select_filters(net, graph, {"layer2.0.shortcut.0": 0.5})
    shortcut = net.get_submodule("layer2.0.shortcut.0").weight.detach().abs().flatten(1).sum(1)  # type: ignore[operator]
    assert found == {"layer2.0.shortcut.0": sorted(shortcut.argsort(stable=True)[:16].tolist())}
    method = FilterPruning(net, ratios={"layer2.0.shortcut.0": 0.5})
    method.prune(Shape())
    kept = sorted(set(range(32)) - set(found["layer2.0.shortcut.0"]))
    for name in ("layer2.0.conv2", "layer2.1.conv2"):
        weight = method.network.get_submodule(name).weight
        assert torch.equal(weight, net.get_submodule(name).weight[kept])  # type: ignore[index, arg-type]
    assert method.network.get_submodule("layer3.0.conv1").in_channels == 16
    with pytest.raises(ValueError, match="share their channels"):
        select_filters(net, graph, {"layer2.0.shortcut.0": 0.5, "layer2.1.conv2": 0.5})
