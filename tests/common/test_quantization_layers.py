"""Networks of generic fake-quant layers, calibration, and batch-normalisation folding (vectors made with torch.ao)."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from common.backbones import IResNet18, MobileFaceNet
from common.quantization import calibrating, quantize_uniform
from common.quantization.bn_folding import QuantConvBn2d, fold_batch_norms, fold_layer
from common.quantization.layers import QuantConv2d, QuantLinear
from common.quantization.weight_quantizer import UniformWeightQuantizer


def small() -> MobileFaceNet:
    torch.manual_seed(0)
    network = MobileFaceNet(embedding_size=16, width=0.25, input_size=32, blocks=(1, 1, 1))
    randomize_statistics(network)
    return network.eval()


def randomize_statistics(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, 0.0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0.0, 0.2)


@pytest.mark.parametrize("observer", ["min_max", "moving_average", "percentile"])
def test_post_training_quantization_gets_better_with_bits(observer):
    images = torch.randn(8, 3, 32, 32)
    network = small()
    similarity = []
    for bits in (2, 4, 8):
        quantized = quantize_uniform(network, bits, bits, observer)
        assert sum(isinstance(module, QuantConv2d | QuantLinear) for module in quantized.modules()) == 23
        quantized.conv1.bn.train()
        with calibrating(quantized):
            quantized(images)
        assert quantized.conv1.bn.training
        quantized.eval()
        with torch.no_grad():
            similarity.append(nn.functional.cosine_similarity(quantized(images), network(images)).mean().item())
    assert similarity[0] < similarity[1] < similarity[2]
    assert similarity[2] > (0.97 if observer == "percentile" else 0.98)


def test_calibrating_looks_at_float_activations_and_leaves_batch_norms_alone():
    quantized = quantize_uniform(small(), 8, 2)
    before = copy.deepcopy(quantized.state_dict())
    images = torch.randn(4, 3, 32, 32)
    with calibrating(quantized):
        calibrated = quantized(images)
    weights_only = quantize_uniform(small(), 8, None)
    with torch.no_grad():
        assert torch.equal(calibrated, weights_only(images))
    assert not calibrated.requires_grad
    changed = {name for name, value in quantized.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(".observer." in name for name in changed)


def test_training_one_layer_by_straight_through_gradients():
    torch.manual_seed(0)
    layer = quantize_uniform(nn.Sequential(nn.Linear(8, 4)), 4, 8)
    x = torch.randn(64, 8)
    target = x @ torch.randn(8, 4)
    with calibrating(layer):
        layer(x)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(150):
        loss = nn.functional.mse_loss(layer(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_fold_by_hand():
    linear = nn.Linear(2, 1, bias=False)
    norm = nn.BatchNorm1d(1, eps=1.0).eval()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, -2.0]]))
        norm.weight.fill_(2.0)
        norm.bias.fill_(0.5)
        norm.running_mean.fill_(1.0)
        norm.running_var.fill_(3.0)
    folded = fold_layer(linear, norm)
    torch.testing.assert_close(folded.weight.detach(), torch.tensor([[1.0, -2.0]]))
    torch.testing.assert_close(folded.bias.detach(), torch.tensor([-1.5 + 1.0]))
    x = torch.randn(5, 2)
    torch.testing.assert_close(folded(x), norm(linear(x)))


@pytest.mark.parametrize(
    ("network", "left"),
    [
        (lambda: MobileFaceNet(16, 0.25, 32, (1, 1, 1)), 0),
        # The leading normalisation of the eight blocks and the one before the embedding follow no convolution.
        (lambda: IResNet18(16, width=0.125, input_size=32), 9),
    ],
)
def test_folding_whole_networks(network, left):
    torch.manual_seed(0)
    original = network()
    randomize_statistics(original)
    example = torch.randn(2, 3, 32, 32)
    folded = fold_batch_norms(original, example)
    assert sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in folded.modules()) == left
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = original.eval()(images)
        torch.testing.assert_close(folded(images), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


class OutputReadTwice(nn.Module):
    """The convolution's output is used before and after its normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.bn = nn.BatchNorm2d(2)
        nn.init.uniform_(self.bn.running_var, 3.0, 4.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y + self.bn(y)


def test_folding_refuses_what_it_would_break():
    with pytest.raises(ValueError, match="something else"):
        fold_batch_norms(OutputReadTwice(), torch.randn(1, 1, 3, 3))
    with pytest.raises(ValueError, match="running statistics"):
        fold_layer(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))
    with pytest.raises(ValueError, match="2 outputs"):
        fold_layer(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(3))


def conv_bn(golden) -> tuple[QuantConvBn2d, dict[str, torch.Tensor]]:
    with np.load(golden / "_quantization_primer" / "convbn_qat.npz") as stored:
        arrays = {name: torch.from_numpy(np.asarray(stored[name])) for name in stored.files}
    conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    norm = nn.BatchNorm2d(4, eps=arrays["eps"].item(), momentum=arrays["momentum"].item())
    with torch.no_grad():
        conv.weight.copy_(arrays["weight"])
        norm.weight.copy_(arrays["gamma"])
        norm.bias.copy_(arrays["beta"])
        norm.running_mean.copy_(arrays["running_mean"])
        norm.running_var.copy_(arrays["running_var"])
    return QuantConvBn2d(conv, norm, UniformWeightQuantizer(8)), arrays


def test_training_with_folding_matches_torch(golden):
    layer, arrays = conv_bn(golden)
    y = layer.train()(arrays["x"])
    torch.testing.assert_close(y.detach(), arrays["y_train"], rtol=1e-4, atol=1e-5)
    y.backward(arrays["upstream"])
    for name, parameter in (("weight", layer.conv.weight), ("gamma", layer.norm.weight), ("beta", layer.norm.bias)):
        torch.testing.assert_close(parameter.grad, arrays[f"grad_{name}"], rtol=1e-4, atol=1e-4)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(layer.norm, name), arrays[f"{name}_after"], rtol=1e-5, atol=1e-6)
    layer.eval()
    with torch.no_grad():
        torch.testing.assert_close(layer(arrays["x"]), arrays["y_eval_after"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.fold().eval()(arrays["x"]), arrays["y_eval_after"], rtol=1e-4, atol=1e-5)


def test_frozen_statistics_stay_and_a_zero_gamma_stays_finite(golden):
    layer, arrays = conv_bn(golden)
    layer.train().freeze_statistics()
    layer = copy.deepcopy(layer).train()
    before = copy.deepcopy(layer.norm.state_dict())
    trained = layer(arrays["x"])
    assert all(torch.equal(value, before[name]) for name, value in layer.norm.state_dict().items())
    torch.testing.assert_close(trained, layer.eval()(arrays["x"]))

    layer, arrays = conv_bn(golden)
    with torch.no_grad():
        layer.norm.weight[1] = 0.0
    y = layer.train()(arrays["x"])
    y.square().sum().backward()
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in layer.parameters())
