"""Filter-pruned networks of Li et al. 2017 and of Liu et al.'s scripts: the same channels, weights, outputs and sizes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.backbones.cifar_plain import VGG
from common.backbones.cifar_resnet import CifarResNet
from common.cost import count_macs
from common.pruning import (
    ChannelGraph,
    Evidence,
    choose_channels,
    filter_norms,
    keep_count,
    keep_largest,
    remove_channels,
    score_filters,
)


def state(vectors: np.lib.npyio.NpzFile, prefix: str, rename: dict[str, str]) -> dict[str, torch.Tensor]:
    found = {}
    for key in vectors.files:
        if key.startswith(prefix):
            name = key[len(prefix) :]
            for old, new in rename.items():
                name = name.replace(old, new)
            found[name] = torch.from_numpy(vectors[key])
    return found


def assert_same(network: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    got = network.state_dict()
    assert set(got) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=0, msg=name)


def test_l1_pruned_vgg_of_the_reference_code(golden: Path) -> None:
    vectors = np.load(golden / "pruning_filters/rethinking_vgg_l1.npz")
    plan = ["pool" if width < 0 else int(width) for width in vectors["cfg_before"]]
    network = VGG(plan=plan, hidden=(9,), bias=False, last_pool="average").eval()
    network.load_state_dict(state(vectors, "before_", {}))
    x = torch.from_numpy(vectors["x"])
    torch.testing.assert_close(network(x).detach(), torch.from_numpy(vectors["logits_before"]), rtol=1e-5, atol=1e-5)
    convs = [f"feature.{i}" for i, module in enumerate(network.feature) if isinstance(module, nn.Conv2d)]
    widths = [int(width) for width in vectors["cfg_after"] if width > 0]
    removed = {}
    for i, (name, width) in enumerate(zip(convs, widths, strict=True)):
        mask = keep_largest(filter_norms(network.get_submodule(name).weight), width)
        assert torch.equal(mask, torch.from_numpy(vectors[f"mask_conv{i + 1}"]).bool()), name
        removed[name] = (~mask).nonzero().flatten().tolist()
    thin = remove_channels(network, removed, x)
    assert_same(thin, state(vectors, "after_", {}))
    torch.testing.assert_close(thin(x).detach(), torch.from_numpy(vectors["logits_after"]), rtol=1e-5, atol=1e-5)


def test_l1_pruned_resnet_of_the_reference_code(golden: Path) -> None:
    vectors = np.load(golden / "pruning_filters/rethinking_resnet8_l1.npz")
    network = CifarResNet(8, shortcut="pool_pad").eval()
    network.load_state_dict(state(vectors, "before_", {"fc.": "linear."}))
    x = torch.from_numpy(vectors["x"])
    torch.testing.assert_close(network(x).detach(), torch.from_numpy(vectors["logits_before"]), rtol=1e-5, atol=1e-5)
    graph = ChannelGraph(network, x)
    ratios = {"layer1.0.conv1": 0.6, "layer3.0.conv1": 0.1}  # the second block is skipped
    scores = score_filters("l1", Evidence(network, tuple(ratios)))
    removed = choose_channels(graph, scores, ratios, rounding="keep_fewer")
    for i in (1, 2, 3):
        gone = np.flatnonzero(vectors[f"mask_block{i}_conv1"] == 0).tolist()
        assert removed.get(f"layer{i}.0.conv1", []) == gone
    assert keep_count(16, 0.6, "keep_fewer") == int(vectors["cfg_after"][0])
    thin = remove_channels(network, removed, graph=graph)
    torch.testing.assert_close(thin(x).detach(), torch.from_numpy(vectors["logits_after"]), rtol=1e-5, atol=1e-5)
    assert [getattr(thin, f"layer{i}")[0].conv1.out_channels for i in (1, 2, 3)] == vectors["cfg_after"].tolist()


PRUNED_RESNETS = [  # Li et al., Table 1: depth, ratios of the stages, skipped layers, MACs, parameters
    (56, (0.1, 0.1, 0.1), (16, 20, 38, 54), 1.12e8, 773_336),
    (56, (0.6, 0.3, 0.1), (16, 18, 20, 34, 38, 54), 9.09e7, 735_712),
    (110, (0.5, 0.0, 0.0), (36,), 2.13e8, 1_688_522),
    (110, (0.5, 0.4, 0.3), (36, 38, 74), 1.55e8, 1_168_424),
]


@pytest.mark.parametrize(("depth", "ratios", "skipped", "macs", "parameters"), PRUNED_RESNETS)
def test_sizes_of_the_papers_pruned_resnets(depth, ratios, skipped, macs, parameters) -> None:
    network, blocks = CifarResNet(depth), (depth - 2) // 6
    graph = ChannelGraph(network, torch.randn(1, 3, 32, 32))
    sparsity = {}
    for block in range(3 * blocks):
        stage, within = divmod(block, blocks)
        if 2 + 2 * block not in skipped and ratios[stage]:  # convolutions count from 1, the stem
            sparsity[f"layer{stage + 1}.{within}.conv1"] = ratios[stage]
    scores = score_filters("l1", Evidence(network, tuple(sparsity)))
    thin = remove_channels(network, choose_channels(graph, scores, sparsity, rounding="keep_fewer"), graph=graph)
    assert sum(p.numel() for p in thin.parameters()) == parameters
    assert count_macs(thin, 32) == pytest.approx(macs, rel=5e-3)
