"""Uniform quantizers, observers, fake-quant layers and folding, against vectors made with torch.ao and by hand."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.backbones import IResNet18, MobileFaceNet
from common.quantization import RangesNotObservedError, calibrating, quantize_uniform
from common.quantization.affine import (
    affine_parameters,
    code_bounds,
    dequantize,
    fake_quantize,
    quantize,
    symmetric_parameters,
)
from common.quantization.bn_folding import QuantConvBn2d, fold_batch_norms, fold_layer
from common.quantization.layers import FakeQuantActivation, QuantConv2d, QuantLinear
from common.quantization.observers import (
    MinMaxObserver,
    MovingAverageObserver,
    PercentileObserver,
    RunningExtremeObserver,
)
from common.quantization.weight_quantizer import UniformWeightQuantizer, weight_ranges


@pytest.fixture(scope="module")
def torch_ao(golden) -> dict[str, torch.Tensor]:
    with np.load(golden / "_quantization_primer" / "torch_ao_quant.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def rng(low: float, high: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(low), torch.tensor(high)


@pytest.mark.parametrize("bits", [8, 6, 4, 2])
def test_affine_quantizer_matches_torch(torch_ao, bits):
    x = torch_ao["x"].clone().requires_grad_()
    quant_min, quant_max = code_bounds(bits, signed=False)
    scale, zero_point = affine_parameters(*torch.aminmax(x.detach()), quant_min, quant_max)
    torch.testing.assert_close(scale.view(1), torch_ao[f"affine_u{bits}_scale"])
    assert zero_point.item() == torch_ao[f"affine_u{bits}_zero_point"].item()
    y = fake_quantize(x, torch_ao[f"affine_u{bits}_used_scale"], zero_point, quant_min, quant_max)
    torch.testing.assert_close(y.detach(), torch_ao[f"affine_u{bits}_y"])
    y.sum().backward()
    assert torch.equal(x.grad, torch_ao[f"affine_u{bits}_grad_x"])
    assert 0 < x.grad.mean() < 1  # the smaller scale clips some elements


@pytest.mark.parametrize("bits", [8, 6, 4, 2])
def test_symmetric_quantizers_match_torch(torch_ao, bits):
    bounds = code_bounds(bits, narrow_range=True)
    x = torch_ao["x"]
    scale, zero_point = symmetric_parameters(*torch.aminmax(x), *bounds)
    torch.testing.assert_close(scale.view(1), torch_ao[f"sym_s{bits}_scale"])
    torch.testing.assert_close(fake_quantize(x, scale, zero_point, *bounds), torch_ao[f"sym_s{bits}_y"])
    if bits == 6:
        return
    weight = torch_ao["w"]
    scale, zero_point = symmetric_parameters(*weight_ranges(weight, "per_channel"), *bounds)
    torch.testing.assert_close(scale, torch_ao[f"perch_s{bits}_scale"])
    values = UniformWeightQuantizer(bits)(weight)
    torch.testing.assert_close(values, torch_ao[f"perch_s{bits}_y"])
    assert not values[4].any()  # the dead channel


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero_point"),
    [
        (-1.0, 3.0, 4 / 255, 64),
        (0.5, 3.0, 3 / 255, 0),
        (-3.0, -0.25, 3 / 255, 255),
        (-0.1, 10.0, 10.1 / 255, 3),
        (0.0, 6.0, 6 / 255, 0),
    ],
)
def test_affine_parameters_by_hand(low, high, scale, zero_point):
    got = affine_parameters(*rng(low, high), 0, 255)
    assert got[0].item() == pytest.approx(scale, rel=1e-6)
    assert got[1].item() == zero_point


def test_codes_values_and_gradients_by_hand():
    scale, zero_point = affine_parameters(*rng(-1.0, 3.0), 0, 255)
    x = torch.tensor([0.0, -1.0, 3.0, 0.5, 3.5, -2.0], requires_grad=True)
    assert quantize(x, scale, zero_point, 0, 255).tolist() == [64, 0, 255, 96, 255, 0]
    y = fake_quantize(x, scale, zero_point, 0, 255)
    torch.testing.assert_close(y.detach(), torch.tensor([0.0, -1.003922, 2.996078, 0.501961, 2.996078, -1.003922]))
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]

    x = torch.tensor([12.3, 12.74, 12.8], requires_grad=True)  # the mask is on codes: 127.4 still rounds to 127
    fake_quantize(x, torch.tensor(0.1), torch.tensor(0.0), -128, 127).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 0.0]


def test_symmetric_scales_by_hand():
    scale, zero_point = symmetric_parameters(*rng(-0.3, 0.7), *code_bounds(4, narrow_range=True))
    assert scale.item() == pytest.approx(0.1)
    x = torch.tensor([0.7, -0.7, 0.24, 0.36, -1.0])
    assert quantize(x, scale, zero_point, -7, 7).tolist() == [7, -7, 2, 4, -7]
    full, _ = symmetric_parameters(*rng(-0.3, 0.7), *code_bounds(4))
    assert full.item() == pytest.approx(0.7 / 7.5)
    unsigned, zero_point = symmetric_parameters(*rng(0.0, 3.0), *code_bounds(2, signed=False))
    assert (unsigned.item(), zero_point.item()) == (1.0, 0.0)
    assert quantize(torch.tensor([0.4, 0.6, 2.5, 7.0]), unsigned, zero_point, 0, 3).tolist() == [0, 1, 2, 3]
    ternary = UniformWeightQuantizer(2)
    weight = torch.tensor([[0.4, 0.6, -0.51, 1.0]])
    assert ternary.encode(weight, *weight_ranges(weight, "per_channel")).tolist() == [[0, 1, -1, 1]]


def test_per_channel_beats_per_tensor_on_unequal_rows():
    weight = torch.tensor([[0.5, -1.0], [0.02, 0.01]])
    assert UniformWeightQuantizer(8, "per_tensor").encode(weight, *weight_ranges(weight, "per_tensor"))[1].tolist() == [
        3,
        1,
    ]
    torch.testing.assert_close(UniformWeightQuantizer(8)(weight)[1], weight[1], rtol=0.01, atol=0)


@given(
    bits=st.integers(2, 8),
    low=st.floats(-10, 10, width=32),
    width=st.floats(2**-10, 10, width=32),
    values=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20),
)
@settings(max_examples=80, deadline=None)
def test_error_zero_and_idempotence_of_any_affine_quantizer(bits, low, width, values):
    bounds = code_bounds(bits, signed=False)
    scale, zero_point = affine_parameters(*rng(low, low + width), *bounds)
    x = torch.tensor(values)
    y = fake_quantize(x, scale, zero_point, *bounds)
    lowest, highest = scale * (bounds[0] - zero_point), scale * (bounds[1] - zero_point)
    inside = (x >= lowest) & (x <= highest)
    assert ((x - y).abs()[inside] <= scale * 0.5001).all()
    assert torch.equal(fake_quantize(y, scale, zero_point, *bounds), y)
    assert torch.equal(dequantize(quantize(x, scale, zero_point, *bounds), scale, zero_point), y)
    assert fake_quantize(torch.zeros(1), scale, zero_point, *bounds).item() == 0.0


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="2 to 8"):
        code_bounds(1)
    with pytest.raises(ValueError, match="signed"):
        code_bounds(8, signed=False, narrow_range=True)
    with pytest.raises(ValueError, match="axis=0"):
        fake_quantize(torch.ones(3, 2), torch.ones(3), torch.zeros(3), 0, 255)
    with pytest.raises(ValueError, match=r"expected \(2,\)"):
        fake_quantize(torch.ones(3, 2), torch.ones(3), torch.zeros(3), 0, 255, axis=1)
    with pytest.raises(ValueError, match="per_channel, per_tensor"):
        UniformWeightQuantizer(8, "per_row")
    with pytest.raises(ValueError, match="observer"):
        quantize_uniform(nn.Linear(2, 2), 8, 8, observer="histogram")
    for observer, value in ((MovingAverageObserver, 0.0), (PercentileObserver, 0.5)):
        with pytest.raises(ValueError, match="expected a number"):
            observer(value)


def test_half_precision_is_computed_in_float32():
    x = torch.randn(50).bfloat16().requires_grad_()
    scale, zero_point = affine_parameters(*torch.aminmax(x.detach()), 0, 255)
    y = fake_quantize(x, scale, zero_point, 0, 255)
    assert y.dtype == scale.dtype == torch.float32
    y.sum().backward()
    assert x.grad.dtype == torch.bfloat16


def watch(observer: nn.Module, *batches: torch.Tensor) -> tuple[float, float]:
    observer.tracking = True
    for batch in batches:
        observer.observe(batch)
    observer.tracking = False
    observer.observe(torch.tensor([-1e9, 1e9]))
    low, high = observer.range()
    return low.item(), high.item()


def test_moving_average_matches_torch(torch_ao):
    observer = MovingAverageObserver(torch_ao["ema_constant"].item())
    for batch, expected in zip(torch_ao["ema_batches"], torch_ao["ema_min_max"], strict=True):
        assert watch(observer, batch) == pytest.approx(expected.tolist(), rel=1e-5)


def test_observers_by_hand():
    first, second = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 7.0])
    assert watch(MinMaxObserver(), first, second) == (1.0, 7.0)
    assert watch(RunningExtremeObserver(), first, second) == (0.0, 7.0)
    low, high = watch(MovingAverageObserver(0.1), torch.tensor([-1.0, 2.0]), torch.tensor([-3.0, 4.0]))
    assert (low, high) == (pytest.approx(-1.2), pytest.approx(2.2))
    hundred = torch.arange(1.0, 101.0)
    assert watch(PercentileObserver(0.98), hundred) == (3.0, 98.0)
    assert watch(PercentileObserver(0.98), hundred, hundred + 2) == (4.0, 99.0)
    assert watch(PercentileObserver(1.0), hundred, hundred + 2) == (2.0, 101.0)
    with pytest.raises(RangesNotObservedError, match="never been observed"):
        FakeQuantActivation(8, MinMaxObserver())(first)


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
