"""PocketNet's networks: counts, embeddings, cells and gradients equal those of the official classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shape_weights import fill, two_images
from torch import nn

from common.backbones import PocketNet, PocketNetM, PocketNetS
from common.backbones.pocketnet_cells import Cell, DepthwisePointwise, FactorizedReduce, Pool, operation, reductions
from common.backbones.pocketnet_genotypes import GENOTYPES, Genotype
from common.cost import count_macs

NETWORKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "S128": (PocketNetS, {}),
    "S256": (PocketNetS, {"embedding_size": 256}),
    "M128": (PocketNetM, {}),
    "M256": (PocketNetM, {"embedding_size": 256}),
    "S128_cifar10genotype": (PocketNetS, {"genotype": "cifar10"}),
}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("network", "options", "parameters"),
    [
        (PocketNetS, {}, 925_632),
        (PocketNetS, {"embedding_size": 256}, 991_424),
        (PocketNetM, {}, 1_686_656),
        (PocketNetM, {"embedding_size": 256}, 1_752_448),
        (PocketNetS, {"genotype": "cifar10"}, 885_184),
        (PocketNetM, {"genotype": "cifar10"}, 1_495_168),
    ],
)
def test_parameter_counts_are_the_official_ones(network: Any, options: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        assert count(network(**options)) == parameters


@pytest.mark.parametrize(("network", "macs"), [(PocketNetS, 283.54e6), (PocketNetM, 538.22e6)])
def test_multiply_accumulates_are_the_official_ones(network: Any, macs: float) -> None:
    with torch.device("meta"):
        model = network()
    model.to_empty(device="cpu")
    assert count_macs(model, 112) == pytest.approx(macs, abs=5e3)


@pytest.mark.parametrize(
    ("network", "cells", "stem", "tail"),
    [
        (
            PocketNetS,
            [5_632] * 6 + [10_688, 16_832] + [18_944] * 4 + [35_712, 60_288] + [68_608] * 3 + [128_768],
            1_856,
            356_096,
        ),
        (
            PocketNetM,
            [18_944] * 3 + [35_712, 60_288, 68_608, 128_768, 227_072, 486_912],
            3_712,
            618_752,
        ),
    ],
)
def test_every_part_has_its_official_size(network: Any, cells: list[int], stem: int, tail: int) -> None:
    with torch.device("meta"):
        model = network()
    assert [count(cell) for cell in model.cells] == cells
    assert (count(model.stem), count(model.tail)) == (stem, tail)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_embeddings_equal_the_official_networks(golden: Path, name: str) -> None:
    expected = np.load(golden / "pocketnet" / f"backbone_{name}.npz")
    network, options = NETWORKS[name]
    model = network(**options).double().eval()
    fill(model, float(expected["phase"]), float(expected["gain"]))
    maps: list[torch.Tensor] = []
    for cell in model.cells:
        cell.register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.no_grad():
        got = model(two_images(float(expected["phase"]))).numpy()
    assert count(model) == int(expected["n_params"])
    size = np.abs(expected["embedding"]).max()
    np.testing.assert_allclose(got, expected["embedding"], rtol=1e-8, atol=1e-8 * size)
    np.testing.assert_allclose([m.mean() for m in maps], expected["cell_mean"], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose([m.std() for m in maps], expected["cell_std"], rtol=1e-8)


@pytest.mark.parametrize(
    ("name", "after_reduction", "reduction"),
    [("normal", False, False), ("reduction", False, True), ("normal_after_reduction", True, False)],
)
def test_cells_and_their_gradients_equal_the_official_ones(
    golden: Path, name: str, after_reduction: bool, reduction: bool
) -> None:
    expected = np.load(golden / "pocketnet" / f"cell_{name}.npz")
    nodes = GENOTYPES["casia"].reduction if reduction else GENOTYPES["casia"].normal
    cell = Cell(nodes, 12, 8, 4, after_reduction, reduction).double().eval()
    fill(cell, float(expected["phase"]), float(expected["gain"]))
    assert count(cell) == int(expected["n_params"])
    s0, s1 = (torch.from_numpy(expected[name]).requires_grad_() for name in ("s0", "s1"))
    out = cell(s0, s1)
    out.square().mean().backward()
    np.testing.assert_allclose(out.detach().numpy(), expected["out"], rtol=1e-9, atol=1e-12)
    for tensor, key in ((s0, "grad_s0"), (s1, "grad_s1")):
        assert tensor.grad is not None
        np.testing.assert_allclose(tensor.grad.numpy(), expected[key], rtol=1e-9, atol=1e-14)


def test_reductions_stand_at_thirds_and_at_the_end() -> None:
    assert (reductions(18), reductions(9), reductions(8)) == ((6, 12, 17), (3, 6, 8), (2, 5, 7))
    with pytest.raises(ValueError, match="take 4 or more"):
        reductions(3)


@pytest.mark.parametrize(("size", "last"), [(48, (3, 3)), (32, (2, 2)), ((112, 96), (7, 6))])
def test_other_image_sizes_are_an_argument(size: Any, last: tuple[int, int]) -> None:
    model = PocketNet(4, 4, 16, input_size=size, tail_channels=32).eval()
    height, width = model.input_size
    assert model.tail[4].kernel_size == last
    assert model(torch.zeros(2, 3, height, width)).shape == (2, 16)
    with pytest.raises(ValueError, match="built for images"):
        model(torch.zeros(2, 3, height, width + 16))


def test_images_whose_maps_cannot_be_halved_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        PocketNet(input_size=40)


def test_embeddings_of_512_have_a_wider_tail() -> None:
    with torch.device("meta"):
        assert PocketNetS(512).tail[1].out_channels == 1024
        assert PocketNetS(256).tail[1].out_channels == 512


def test_factorized_reduce_sees_every_second_pixel_in_both_paths() -> None:
    """The second path is one pixel further: without the shift odd pixels would never be read."""
    layer = FactorizedReduce(1, 2).eval()
    with torch.no_grad():
        for path in (layer.path1, layer.path2):
            path.depthwise.weight.fill_(1.0)
            path.pointwise.weight.fill_(1.0)
        x = torch.arange(1.0, 17.0).reshape(1, 1, 4, 4)
        first, second = layer(x)[0] * (1 + layer.bn.eps) ** 0.5
    torch.testing.assert_close(first, x[0, 0, ::2, ::2])
    torch.testing.assert_close(second, x[0, 0, 1::2, 1::2])


@pytest.mark.parametrize("stride", [1, 2])
def test_two_pointwise_convolutions_in_one_are_the_same_function(stride: int) -> None:
    """Training multiplies the weights of a depthwise 1 x 1 and the 1 x 1 behind it; values and gradients stay."""
    layer, x = DepthwisePointwise(6, 4, 1, stride).double(), torch.randn(2, 6, 8, 8, dtype=torch.float64)
    x.requires_grad_()
    slow = layer.pointwise(layer.depthwise(x))
    fast = layer(x)
    torch.testing.assert_close(fast, slow)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), slow)
    wanted = (x, layer.depthwise.weight, layer.pointwise.weight)
    pairs = zip(
        torch.autograd.grad(fast.sin().sum(), wanted), torch.autograd.grad(slow.sin().sum(), wanted), strict=True
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)


def test_average_pooling_does_not_count_the_padding() -> None:
    pooled = Pool("avg", 1, 1, affine=False).eval()(torch.ones(1, 1, 4, 4))
    torch.testing.assert_close(pooled, torch.ones(1, 1, 4, 4) / (1 + 1e-5) ** 0.5)


def test_initial_weights_are_kaiming_uniform() -> None:
    torch.manual_seed(0)
    weight = PocketNetS().tail[1].weight.detach()
    bound = (6 / weight.shape[1]) ** 0.5
    assert float(weight.abs().max()) <= bound
    assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.01)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((("dw_conv_3x3", 0), ("none", 1)), "'none' in the normal cell"),
        ((("dw_conv_3x3", 0), ("dw_conv_9x9", 1)), "'dw_conv_9x9' in the normal cell"),
        ((("dw_conv_3x3", 0), ("skip_connect", 2)), "node 0 of the normal cell reads state 2"),
        ((("dw_conv_3x3", 0),), "4 nodes of 2 edges"),
    ],
)
def test_genotypes_that_make_no_network_are_refused(change: Any, words: str) -> None:
    casia = GENOTYPES["casia"]
    with pytest.raises(ValueError, match=words):
        Genotype((change, *casia.normal[1:]), casia.reduction)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no genotype 'imagenet'; known are casia, cifar10"):
        PocketNet(genotype="imagenet")
    with pytest.raises(ValueError, match="no operation 'conv'"):
        operation("conv", 4, 1)
