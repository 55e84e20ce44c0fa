"""The LeNets and CIFAR networks: sizes as the papers count them, initial distributions, names of published weights."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from common.backbones.cifar_plain import VGG, VGG16, VGG19, VGGC, VGGD, AlexNet, CifarNet, Conv, VGGLike
from common.backbones.cifar_resnet import CifarResNet, WideResNet
from common.backbones.initialization import RULES, initialize
from common.backbones.lenet import LeNet5, LeNet5Caffe, LeNet300100
from common.cost import count_macs
from common.weights import load_weights
from datasets.cifar import read_cifar


def count(network: nn.Module, what: str = "all") -> int:
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    if what == "weights":
        return sum(layer.weight.numel() for layer in layers)
    if what == "convolutions":
        return sum(layer.weight.numel() for layer in layers if isinstance(layer, nn.Conv2d))
    if what == "layers":  # SNIP's m: weights and biases, no normalisations
        return sum(p.numel() for layer in layers for p in layer.parameters())
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("build", "counts"),
    [
        (lambda: LeNet300100(), {"all": 266_610, "weights": 266_200}),
        (lambda: LeNet5Caffe(), {"all": 431_080}),
        (lambda: LeNet5(), {"all": 61_706}),
        (lambda: CifarResNet(20), {"all": 269_722}),
        (lambda: CifarResNet(32), {"all": 464_154}),
        (lambda: CifarResNet(44), {"all": 658_586}),
        (lambda: CifarResNet(56), {"all": 853_018}),
        (lambda: CifarResNet(110), {"all": 1_727_962}),
        (lambda: CifarResNet(20, shortcut="projection"), {"all": 272_474, "convolutions": 270_256}),
        (lambda: WideResNet(16, 8), {"all": 10_961_370}),
        (lambda: WideResNet(16, 10), {"all": 17_116_634}),
        (lambda: WideResNet(22, 8), {"all": 17_158_106}),
        (lambda: VGG16(), {"all": 14_987_722}),
        (lambda: VGGLike(), {"layers": 14_982_474}),
        (lambda: VGGC(), {"layers": 10_526_538}),
        (lambda: VGGD(), {"layers": 15_245_130}),
        (lambda: VGG19(), {"all": 20_040_522, "convolutions": 20_018_880}),
        (lambda: Conv(layers=2), {"weights": 4_300_992, "convolutions": 38_592}),
        (lambda: Conv(layers=4), {"weights": 2_425_024, "convolutions": 259_776}),
        (lambda: Conv(layers=6), {"weights": 2_261_184, "convolutions": 1_144_512}),
        (lambda: AlexNet(k=1), {"layers": 5_070_218}),
        (lambda: AlexNet(k=2), {"layers": 8_490_378}),
        (lambda: CifarNet(), {"all": 145_578}),
        (lambda: VGG(plan=(32, 64, "pool", 128, 128, "pool", *[256] * 3, "pool", *[256] * 3, "pool", *[256] * 3),
                     bias=False), {"all": 5_397_034}),
    ],
)  # fmt: skip
def test_sizes_are_the_papers(build, counts) -> None:
    with torch.device("meta"):
        network = build()
    assert {what: count(network, what) for what in counts} == counts


def test_multiply_accumulates_are_the_papers() -> None:
    plan_a = (32, 64, "pool", 128, 128, "pool", *[256] * 3, "pool", *[256] * 3, "pool", *[256] * 3)
    with torch.device("meta"):
        networks = [VGG16(), VGG(plan=plan_a, bias=False), CifarResNet(56), CifarResNet(110)]
    macs = [count_macs(network, 32) for network in networks]
    assert macs == [313_463_808, 206_279_680, 125_485_696, 252_887_680]


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (lambda: LeNet300100(7), (1, 28, 28)),
        (lambda: LeNet5Caffe(7, relu_after_convolutions=True), (1, 28, 28)),
        (lambda: LeNet5(7), (1, 28, 28)),
        (lambda: CifarResNet(8, 7, width=0.5), (3, 32, 32)),
        (lambda: CifarResNet(14, 7, shortcut="pool_pad", inner=(3, 16, 5, 32, 7, 64)), (3, 32, 32)),
        (lambda: WideResNet(10, 1, 7), (3, 32, 32)),
        (lambda: VGG(7, plan=(4, "pool", 6), kernels=(5, 1), hidden=(9, 8)), (3, 32, 32)),
        (lambda: VGG(7, plan=(4, "pool", 6), hidden=(), last_pool="none", input_size=16), (3, 16, 16)),
        (lambda: Conv(7, 6, dropout=0.5), (3, 32, 32)),
        (lambda: CifarNet(7), (3, 32, 32)),
        (lambda: AlexNet(7), (3, 32, 32)),
    ],
)
def test_every_parameter_trains_and_new_draws_differ(network, size) -> None:
    torch.manual_seed(0)
    model = network()
    logits = model(torch.randn(4, *size))
    assert logits.shape == (4, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    if hasattr(model, "features"):
        features = model.eval().features(torch.randn(4, *size))
        assert features.shape == (4, [m for m in model.modules() if isinstance(m, nn.Linear)][-1].in_features)
    before = [p.detach().clone() for p in model.parameters() if p.ndim > 1]
    model.initialize()
    assert not any(
        torch.equal(a, b) for a, b in zip(before, (p for p in model.parameters() if p.ndim > 1), strict=True)
    )


def test_lenet_caffe_has_no_relu_after_its_convolutions() -> None:
    torch.manual_seed(0)
    network, x = LeNet5Caffe(widths=(3, 4, 5)), torch.randn(2, 1, 28, 28)
    hidden = nn.functional.max_pool2d(network.conv2(nn.functional.max_pool2d(network.conv1(x), 2)), 2)
    assert bool((hidden < 0).any())
    torch.testing.assert_close(network(x), network.fc2(torch.relu(network.fc1(hidden.flatten(1)))))
    network.relu_after_convolutions = True
    assert not torch.allclose(network(x), network.fc2(torch.relu(network.fc1(hidden.flatten(1)))))


STANDARD_DEVIATIONS = {  # of a linear layer from 400 to 600
    "glorot_normal": (2 / 1000) ** 0.5,
    "glorot_uniform": (2 / 1000) ** 0.5,
    "he_normal": (2 / 400) ** 0.5,
    "he_fan_out": (2 / 600) ** 0.5,
    "variance_scaling": (1 / 400) ** 0.5,
    "variance_scaling_glorot": (1 / 500) ** 0.5,
    "variance_scaling_he": (2 / 400) ** 0.5,
    "normal": 0.1,
    "truncated_normal": 0.1,
}


@pytest.mark.parametrize("rule", RULES)
def test_initial_distributions(rule: str) -> None:
    torch.manual_seed(0)
    layer, norm = nn.Linear(400, 600), nn.BatchNorm1d(3)
    nn.init.constant_(norm.weight, 7)
    initialize(nn.Sequential(layer, norm), rule)
    weight = layer.weight.detach()
    expected = STANDARD_DEVIATIONS[rule]
    assert float(weight.std()) == pytest.approx(expected, rel=0.01)
    bound = {"glorot_uniform": 3**0.5}.get(rule, 2 / 0.8796256610342398 if "scaling" in rule or "trunc" in rule else 9)
    assert float(weight.abs().max()) <= bound * expected * 1.0001
    assert bool((layer.bias == 0).all())
    assert bool((norm.weight == 1).all())
    conv = nn.Conv2d(8, 300, 5)
    initialize(conv, "variance_scaling_glorot")
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (200 + 7500)) ** 0.5, rel=0.02)


def test_torchs_own_initialisation_and_an_unknown_one() -> None:
    layer = nn.Linear(400, 600)
    initialize(layer, "torch")
    assert bool((layer.bias != 0).any())
    with pytest.raises(ValueError, match="initialization is 'xavier', but must be one of torch, glorot_normal"):
        LeNet300100(initialization="xavier")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LeNet300100(hidden=()), "at least one hidden layer"),
        (lambda: LeNet5Caffe(widths=(3, 4)), "must be three numbers"),
        (lambda: CifarResNet(18), r"depth is 18, but must be 6n \+ 2"),
        (lambda: CifarResNet(20, shortcut="B"), "shortcut is 'B', but must be one of pad, pool_pad, projection"),
        (lambda: CifarResNet(20, width=0), "a positive factor"),
        (lambda: CifarResNet(20, inner=(16,)), "inner has 1 numbers, but the network has 9 blocks"),
        (lambda: WideResNet(18), r"depth is 18, but must be 6n \+ 4"),
        (lambda: VGG(plan=("pool",)), "0 convolutions"),
        (lambda: VGG(plan=(4,), kernels=(2,)), "one odd size for each"),
        (lambda: VGG(input_size=16), "are pooled away"),
        (lambda: VGG(last_pool="both"), "must be average, max or none"),
        (lambda: Conv(layers=3), "must be 2, 4 or 6"),
    ],
)
def test_refusals(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


PUBLISHED = {
    20: ("resnet20-12fca82f.th", 91.73),
    32: ("resnet32-d509ac18.th", 92.63),
    56: ("resnet56-4bfd9763.th", 93.39),
}


@pytest.mark.slow
@pytest.mark.skipif(
    "DATA" not in os.environ, reason="set DATA to a folder with CIFAR-10 and weights/ (minutes on one core)"
)
@pytest.mark.parametrize("depth", PUBLISHED)
def test_published_weights_have_their_published_accuracy(depth: int) -> None:
    data, (name, accuracy) = Path(os.environ["DATA"]).expanduser(), PUBLISHED[depth]
    test = read_cifar(data).test
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (torch.from_numpy(test.images).float() / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    network = CifarResNet(depth).eval()
    load_weights(network, data / "weights" / name)
    with torch.inference_mode():
        guesses = torch.cat([network(part).argmax(1) for part in images.split(100)])
    assert 100 * float((guesses == torch.from_numpy(test.labels)).double().mean()) == pytest.approx(accuracy, abs=1e-9)
