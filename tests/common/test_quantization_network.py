"""Whole networks quantized: layer counts, official embeddings, state dicts, ranges never observed, speed."""

import copy
import math
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from common.backbones import (
    InsightMobileFaceNet,
    IResNet18,
    IResNet50,
    MobileFaceNet,
    MobileFaceNet112x96,
)
from common.quantization import (
    RangesNotObservedError,
    freeze_ranges,
    frozen_ranges,
    quantize_network,
    require_observed_ranges,
    unfreeze_ranges,
)
from common.quantization.layers import QuantConv2d, QuantLinear
from common.quantization.running_range import QuantizedOutput, RunningRangeActivation, RunningRangePReLU


def counts(network: nn.Module) -> tuple[int, int, int, int]:
    kinds = (QuantConv2d, QuantLinear, RunningRangePReLU, RunningRangeActivation)
    conv, linear, prelu, activation = (sum(isinstance(module, kind) for module in network.modules()) for kind in kinds)
    return conv, linear, prelu, activation


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (MobileFaceNet, (49, 1, 33, 45)),
        (IResNet18, (21, 1, 9, 17)),
        (IResNet50, (53, 1, 25, 49)),
        (InsightMobileFaceNet, (49, 1, 33, 45)),
        (MobileFaceNet112x96, (50, 0, 33, 45)),
    ],
)
def test_as_many_quantizers_as_in_the_official_networks(network, expected):
    with torch.device("meta"):
        original = network()
    assert counts(quantize_network(original, 8, 8)) == expected
    assert counts(original) == (0, 0, 0, 0)


def small() -> MobileFaceNet:
    torch.manual_seed(0)
    network = MobileFaceNet(embedding_size=16, width=0.25, input_size=32, blocks=(1, 1, 1))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def calibrated(network: nn.Module, images: torch.Tensor) -> nn.Module:
    unfreeze_ranges(network)
    with torch.no_grad():
        network(images)
    freeze_ranges(network)
    return network


def official_network(arrays: np.lib.npyio.NpzFile, network: nn.Module) -> nn.Module:
    """Fills a network with the reference's pseudo-random state, tensor by tensor in the official order."""
    state = network.state_dict()
    assert list(state) == arrays["names"].tolist()
    for i, name in enumerate(state):
        scale = arrays["b"][i]
        if name.endswith("num_batches_tracked"):
            continue
        values = np.full(state[name].shape, arrays["a"][i])
        if scale != 0:
            noise = np.random.RandomState(int(arrays["base"]) + i).standard_normal(state[name].numel())
            values = values + scale * noise.reshape(state[name].shape)
        state[name] = torch.from_numpy(np.asarray(values, dtype=np.float32))
    start = 0
    for name in arrays["bn_names"]:
        stop = start + state[f"{name}.running_mean"].numel()
        state[f"{name}.running_mean"] = torch.from_numpy(arrays["bn_mean"][start:stop])
        state[f"{name}.running_var"] = torch.from_numpy(arrays["bn_var"][start:stop])
        start = stop
    network.load_state_dict(state)
    return network.eval()


@pytest.mark.parametrize(
    ("file", "build"),
    [("mobilefacenet128", MobileFaceNet), ("iresnet18", lambda: IResNet18(dropout=0.4))],
)
def test_quantized_embeddings_and_ranges_match_the_official_ones(golden, file, build):
    with np.load(golden / "quantface" / f"backbone_{file}.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    network = official_network(arrays, build())
    images = torch.from_numpy(arrays["x"])
    for bits, cosine in ((8, 0.98), (6, 0.93)):
        quantized = calibrated(quantize_network(network, bits, bits), images)
        with torch.no_grad():
            embedding = quantized(images)
        expected = torch.from_numpy(arrays[f"emb_w{bits}a{bits}"])
        assert nn.functional.cosine_similarity(embedding, expected).min() >= cosine
        quantizers = [(n, m) for n, m in quantized.named_modules() if isinstance(m, RunningRangeActivation)]
        assert len(quantizers) == len(arrays["act_names"])
        lows = np.array([module.observer.low.item() for _, module in quantizers])
        highs = np.array([module.observer.high.item() for _, module in quantizers])
        width = arrays[f"act_max_k{bits}"] - arrays[f"act_min_k{bits}"]
        # Rounding cascades in random networks, so only the early ranges are the same to the last digits.
        np.testing.assert_allclose(lows[:3], arrays[f"act_min_k{bits}"][:3], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(highs[:3], arrays[f"act_max_k{bits}"][:3], rtol=1e-3, atol=1e-5)
        assert np.median(np.abs(lows - arrays[f"act_min_k{bits}"]) / width) < 0.05
        assert np.median(np.abs(highs - arrays[f"act_max_k{bits}"]) / width) < 0.05


def test_state_dict_keeps_the_float_names_and_round_trips():
    network, images = small(), torch.randn(4, 3, 32, 32)
    quantized = calibrated(quantize_network(network, 6, 6), images)
    state = quantized.state_dict()
    assert set(network.state_dict()) <= set(state)
    added = set(state) - set(network.state_dict())
    assert all(".observer." in name for name in added)
    fresh = quantize_network(small(), 6, 6)
    with pytest.raises(RangesNotObservedError):
        fresh(images)
    fresh.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(fresh(images), quantized(images))


def test_evaluation_before_calibration_names_the_layers():
    quantized = quantize_network(small(), 8, 8).eval()
    with pytest.raises(RangesNotObservedError, match=r"conv1\.prelu\.output\.observer"):
        require_observed_ranges(quantized)
    with pytest.raises(RangesNotObservedError, match="unfreeze_ranges"):
        quantized(torch.randn(1, 3, 32, 32))
    calibrated(quantized, torch.randn(2, 3, 32, 32))
    require_observed_ranges(quantized)
    quantized.conv1.prelu.output.observer.high.fill_(float("nan"))
    with pytest.raises(RangesNotObservedError, match="not finite"):
        require_observed_ranges(quantized)


def test_frozen_ranges_do_not_move_and_tracking_comes_back():
    quantized = calibrated(quantize_network(small(), 8, 8), torch.randn(2, 3, 32, 32))
    unfreeze_ranges(quantized)
    before = copy.deepcopy(quantized.state_dict())
    with frozen_ranges(quantized), torch.no_grad():
        quantized(torch.randn(2, 3, 32, 32) * 100)
    assert all(torch.equal(value, before[name]) for name, value in quantized.state_dict().items())
    with torch.no_grad():
        quantized(torch.randn(2, 3, 32, 32) * 100)
    observer = "conv1.prelu.output.observer.high"
    assert quantized.state_dict()[observer] > before[observer]


def test_the_float_network_is_untouched_and_the_copy_has_its_own_parameters():
    network = small()
    before = copy.deepcopy(network.state_dict())
    quantized = quantize_network(network, 4, 4).train()
    unfreeze_ranges(quantized)
    optimizer = torch.optim.SGD(quantized.parameters(), lr=0.1)
    quantized(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in quantized.parameters())
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not {id(p) for p in network.parameters()} & {id(p) for p in quantized.parameters()}


def test_granularity_changes_the_weights_that_the_layer_uses():
    network = small()
    layers = {
        g: quantize_network(network, 4, None, weight_granularity=g).conv1.conv for g in ("per_channel", "per_tensor")
    }
    weight = network.conv1.conv.weight.detach()
    levels = {g: layer.weight_quantizer(layer.weight).detach() for g, layer in layers.items()}
    assert levels["per_tensor"].unique().numel() <= 16 < levels["per_channel"].unique().numel()
    errors = {g: (value - weight).square().sum().item() for g, value in levels.items()}
    assert errors["per_channel"] < errors["per_tensor"]


def test_parts_can_stay_float():
    images = torch.randn(2, 3, 32, 32)
    kept = calibrated(quantize_network(small(), 4, 4, keep_float=("conv1", "output_layer.linear")), images)
    assert type(kept.conv1.conv) is nn.Conv2d
    assert not isinstance(kept.conv1.prelu, RunningRangePReLU)
    assert type(kept.output_layer.linear) is nn.Linear
    weights_only = quantize_network(small(), 4, None)
    require_observed_ranges(weights_only)
    assert counts(weights_only)[1:] == (1, 0, 0)
    activations_only = quantize_network(small(), None, 4)
    assert counts(activations_only)[0] == 0 < counts(activations_only)[3]
    with pytest.raises(ValueError, match="nonsense"):
        quantize_network(small(), 4, 4, keep_float=("nonsense",))


def test_relu_gets_an_output_quantizer_also_where_one_module_is_used_twice():
    relu = nn.ReLU(inplace=True)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu)
    quantized = quantize_network(network, 8, 8)
    assert isinstance(quantized[1], QuantizedOutput)
    assert quantized[1] is quantized[3]
    unfreeze_ranges(quantized)
    quantized(torch.randn(1, 3, 8, 8)).sum().backward()
    assert quantized[0].weight.grad.abs().sum() > 0


class SpecialConv(nn.Conv2d):
    """A convolution with another forward."""


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Conv1d(1, 1, 1)), "Conv1d"),
        (nn.Sequential(SpecialConv(1, 1, 1)), "SpecialConv"),
        (quantize_network(nn.Sequential(nn.Linear(2, 2)), 8, 8), "QuantLinear"),
        (nn.Sequential(nn.utils.spectral_norm(nn.Linear(2, 2))), "hooks"),
        (nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(2, 2))), "ParametrizedLinear"),
    ],
)
def test_layers_that_would_stay_float_unnoticed_are_refused(network, message):
    with pytest.raises(ValueError, match=message):
        quantize_network(network, 8, 8)


@pytest.mark.parametrize("bits", [0, 1, 9, 8.0, True])
def test_bits_outside_two_to_eight_are_refused(bits):
    with pytest.raises(ValueError, match="bits"):
        quantize_network(small(), bits, 8)
    with pytest.raises(ValueError, match="bits"):
        quantize_network(small(), 8, bits)


def test_autocast_keeps_the_codes_in_full_precision():
    images = torch.randn(2, 3, 32, 32)
    quantized = calibrated(quantize_network(small(), 8, 8), images)
    outputs = []
    quantized.conv1.prelu.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        quantized(images)
    observer = quantized.conv1.prelu.output.observer
    step = (observer.high - observer.low) / 255
    codes = outputs[0] / step
    assert outputs[0].dtype == torch.float32
    assert (codes - codes.round()).abs().max() < 1e-3


def step_time(step: Callable[[], None]) -> float:
    """Processor seconds of one thread: other processes on the machine do not count."""
    start = time.process_time()
    step()
    return time.process_time() - start


@pytest.mark.speed
def test_a_quantized_training_step_costs_at_most_a_third_more():
    torch.manual_seed(0)
    network = MobileFaceNet(embedding_size=64, width=0.5, input_size=64, blocks=(2, 2, 1)).train()
    quantized = quantize_network(network, 8, 8)
    images = torch.randn(16, 3, 64, 64)

    def run(net: nn.Module) -> None:
        net.zero_grad()
        net(images).square().mean().backward()

    for tracking in (unfreeze_ranges, freeze_ranges):
        tracking(quantized)
        plain = fake = math.inf
        for repetition in range(12):  # the minimum over interleaved repetitions; a busy machine needs more of them
            plain = min(plain, step_time(lambda: run(network)))
            fake = min(fake, step_time(lambda: run(quantized)))
            if repetition >= 3 and fake <= 1.35 * plain:
                break
        assert fake <= 1.35 * plain, f"{fake / plain:.2f} times the float step"
