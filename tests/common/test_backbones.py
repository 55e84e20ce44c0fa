"""The backbones against the official networks: parameters, multiply-accumulates, names and embeddings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from shape_weights import fill, hashed, two_images
from torch.utils.flop_counter import FlopCounterMode

from common.backbones import (
    InsightMobileFaceNet,
    IResNet,
    IResNet18,
    IResNet34,
    IResNet50,
    IResNet100,
    IResNet200,
    MobileFaceNet,
    MobileFaceNet112x96,
)
from common.backbones.layers import last_map_size, scaled

LARGE = {"scale": 4, "blocks": (2, 8, 12, 4)}

PARAMETERS = [
    (MobileFaceNet, {}, 1_003_136, 0),
    (MobileFaceNet, {"embedding_size": 512}, 1_200_512, 0),
    (MobileFaceNet, {"final_norm_affine": False}, 1_002_880, 0),
    (MobileFaceNet, {"embedding_size": 512, "final_norm_affine": False}, 1_199_488, 0),
    (MobileFaceNet112x96, {}, 999_552, 0),
    (InsightMobileFaceNet, {}, 2_059_520, 0),
    (InsightMobileFaceNet, {"scale": 1, "embedding_size": 128}, 1_003_136, 0),
    (InsightMobileFaceNet, LARGE, 6_314_880, 0),
    (IResNet18, {}, 24_025_600, 512),
    (IResNet34, {}, 34_139_328, 512),
    (IResNet50, {}, 43_590_848, 512),
    (IResNet100, {}, 65_156_160, 512),
    (IResNet200, {}, 118_833_920, 512),
    (IResNet18, {"embedding_size": 128}, 14_390_656, 128),
    (IResNet100, {"embedding_size": 128}, 55_521_216, 128),
    (IResNet18, {"variant": "tface"}, 24_020_352, 0),
    (IResNet34, {"variant": "tface"}, 34_134_080, 0),
    (IResNet50, {"variant": "tface"}, 43_585_600, 0),
    (IResNet100, {"variant": "tface"}, 65_150_912, 0),
]


@pytest.mark.parametrize(("network", "options", "count", "frozen"), PARAMETERS)
def test_parameter_counts_are_the_official_ones(network, options, count, frozen):
    with torch.device("meta"):
        parameters = list(network(**options).parameters())
    assert sum(p.numel() for p in parameters) == count
    assert sum(p.numel() for p in parameters if not p.requires_grad) == frozen


def test_parameters_of_each_layer_of_the_paper():
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in MobileFaceNet().named_children()}
    assert list(counts.values()) == [1920, 768, 18432, 73728, 53248, 417792, 139008, 139264, 67072, 91904]


@pytest.mark.parametrize(
    ("network", "options", "macs", "tolerance"),
    [
        (MobileFaceNet, {}, 220_965_376, 0),
        (MobileFaceNet, {"embedding_size": 512}, 221.16e6, 5e3),
        (InsightMobileFaceNet, {}, 437_520_896, 0),
        (InsightMobileFaceNet, LARGE, 1816.5e6, 5e4),
        (IResNet18, {}, 2.610e9, 5e5),
        (IResNet34, {}, 4.460e9, 5e5),
        (IResNet50, {}, 6.309e9, 5e5),
        (IResNet100, {}, 12.090e9, 5e5),
        (IResNet200, {}, 23.419e9, 5e5),
    ],
)
def test_multiply_accumulates_are_the_official_ones(network, options, macs, tolerance):
    with torch.device("meta"):
        model, images = network(**options).eval(), torch.empty(1, 3, 112, 112)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    assert counter.get_total_flops() / 2 == pytest.approx(macs, rel=0, abs=tolerance)


# --- embeddings: the shape-only weights and images that golden/_fr_backbones_heads/README.md defines ---


def test_the_recipe_of_weights_and_images(golden: Path):
    np.testing.assert_allclose(hashed(7, 4), [0.26311824, 0.10448858, -0.05474351, 0.23483013], atol=1e-8)
    expected = np.load(golden / "_fr_backbones_heads/backbone_input_check.npz")
    images = two_images(float(expected["phase"]))
    np.testing.assert_allclose(images[0, 0, 0], expected["image_first_row"], rtol=1e-12)
    assert float(images.sum()) == pytest.approx(float(expected["image_sum"]), rel=1e-9)
    assert float(images[0, -1, -1, -1]) == pytest.approx(float(expected["image_last_pixel"]), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "network", "options"),
    [
        ("mbf_paper_scale1_emb128", MobileFaceNet, {}),
        ("mbf_paper_scale1_emb128", InsightMobileFaceNet, {"scale": 1, "embedding_size": 128}),
        ("mbf_tface_emb512", MobileFaceNet, {"embedding_size": 512, "final_norm_affine": False}),
        ("mbf_insight_scale2_emb512", InsightMobileFaceNet, {}),
        ("iresnet18_emb512", IResNet18, {}),
        ("iresnet18_tface_emb512", IResNet18, {"variant": "tface", "dropout": 0.4}),
        pytest.param("iresnet50_emb512", IResNet50, {}, marks=pytest.mark.slow),
    ],
)
def test_embeddings_equal_the_official_networks(golden: Path, name, network, options):
    expected = np.load(golden / f"_fr_backbones_heads/backbone_{name}.npz")
    phase, gain = float(expected["phase"]), float(expected["gain"])
    model = network(**options).double().eval()
    fill(model, phase, gain)
    with torch.no_grad():
        got = model(two_images(phase)).numpy()
        single = model.float()(two_images(phase).float()).numpy()
    size = np.abs(expected["embedding"]).max()
    np.testing.assert_allclose(got, expected["embedding"], rtol=1e-8, atol=1e-8 * size)
    np.testing.assert_allclose(single, expected["embedding"], rtol=1e-5, atol=1e-5 * size)


@pytest.mark.parametrize(
    ("name", "model"),
    [("mobilefacenet128", lambda: MobileFaceNet()), ("iresnet18", lambda: IResNet18(dropout=0.4))],
)
def test_quantface_state_dicts_load_by_name(golden: Path, name, model):
    expected = np.load(golden / f"quantface/backbone_{name}.npz")
    statistics = {}
    start = 0
    network = model().eval()
    own = network.state_dict()
    for norm in expected["bn_names"]:
        stop = start + own[f"{norm}.running_mean"].numel()
        statistics[f"{norm}.running_mean"] = expected["bn_mean"][start:stop]
        statistics[f"{norm}.running_var"] = expected["bn_var"][start:stop]
        start = stop
    state = {}
    for i, (key, shape) in enumerate(zip(expected["names"], expected["shapes"], strict=True)):
        sizes = [int(side) for side in shape.split(",")] if shape else []
        values = np.full(sizes, expected["a"][i])
        if expected["b"][i] != 0:
            draw = np.random.RandomState(int(expected["base"]) + i).standard_normal(int(np.prod(sizes)))
            values = values + expected["b"][i] * draw.reshape(sizes)
        state[str(key)] = torch.from_numpy(np.asarray(statistics.get(str(key), values), dtype=np.float32))
    assert list(state) == list(own), "names and order of the official state dict"
    network.load_state_dict(state)
    with torch.no_grad():
        got = network(torch.from_numpy(expected["x"])).numpy()
    np.testing.assert_allclose(got, expected["emb_fp32"], rtol=1e-3, atol=1e-4 * np.abs(expected["emb_fp32"]).max())


# --- options of ours: sizes, width, activations, refusals ---


@pytest.mark.parametrize(
    ("size", "last"), [(112, (7, 7)), ((112, 96), (7, 6)), (48, (3, 3)), (50, (4, 4)), (16, (1, 1))]
)
def test_last_map_size(size, last):
    assert last_map_size(size) == last


@pytest.mark.parametrize("size", [48, 50, (64, 40)])
@pytest.mark.parametrize(
    "model",
    [
        lambda size: MobileFaceNet(64, 0.25, size, (2, 3, 1)),
        lambda size: InsightMobileFaceNet(64, 2, (1, 2, 2, 1), size, 0.25),
        lambda size: IResNet(64, input_size=size, width=0.125, blocks=(1, 1, 1, 1)),
        lambda size: IResNet(64, input_size=size, width=0.125, blocks=[1, 1, 1, 1], variant="tface"),
    ],
)
def test_small_networks_embed_any_size_and_train_every_parameter(model, size):
    network = model(size)
    height, width = network.input_size
    images = torch.randn(4, 3, height, width)
    embedding = network(images)
    assert embedding.shape == (4, 64)
    (embedding * torch.randn(4, 64)).sum().backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.abs().sum() > 0), name
    with pytest.raises(ValueError, match="was built for images"):
        network(images[:, :, 1:])


def test_the_published_112x96_network_has_its_names():
    state = MobileFaceNet112x96().state_dict()
    assert len(state) == 333
    assert tuple(state["linear7.conv.weight"].shape) == (512, 1, 7, 6)
    assert tuple(state["blocks.14.conv.6.weight"].shape) == (128, 256, 1, 1)
    assert MobileFaceNet112x96().eval()(torch.zeros(1, 3, 112, 96)).shape == (1, 128)


def test_initialisation():
    torch.manual_seed(0)
    network = MobileFaceNet()
    weight = network.conv_6_sep.conv.weight
    assert float(weight.detach().std()) == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert float(network.conv1.prelu.weight.detach().unique()) == 0.25
    residual = IResNet18(blocks=(1, 1, 1, 1))
    assert float(residual.layer4[0].conv1.weight.detach().std()) == pytest.approx(0.1, rel=0.01)
    assert not residual.features.weight.requires_grad
    assert residual.features.bias.requires_grad


def test_channels_last_and_activation_names():
    network = MobileFaceNet(32, 0.25, 48, (1, 1, 1)).eval()
    images = torch.randn(2, 3, 48, 48)
    expected = network(images)
    got = network.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    with_relu = MobileFaceNet(32, 0.25, 48, (1, 1, 1), activation="relu").state_dict()
    assert set(network.state_dict()) - set(with_relu) == {k for k in network.state_dict() if "prelu" in k}


def test_scaled_channels():
    assert [scaled(64, width) for width in (0.1, 0.25, 0.375, 0.5, 1, 2)] == [8, 16, 24, 32, 64, 128]


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: MobileFaceNet(width=0), "width is 0"),
        (lambda: MobileFaceNet(input_size=8), "at least 16 pixels"),
        (lambda: MobileFaceNet(input_size=(112, 96, 3)), "one side or"),
        (lambda: MobileFaceNet(blocks=(4, 6)), "must be 3 block counts"),
        (lambda: MobileFaceNet(activation="gelu"), "must be one of prelu"),
        (lambda: InsightMobileFaceNet(scale=0), "scale is 0"),
        (lambda: IResNet18(blocks=(1, 0, 1, 1)), "at least 1"),
        (lambda: IResNet18(variant="torchvision"), "insightface, tface"),
    ],
)
def test_refusals(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()
