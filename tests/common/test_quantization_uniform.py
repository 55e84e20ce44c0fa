"""Uniform quantizers and observers against vectors made with torch.ao and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.quantization import RangesNotObservedError, quantize_uniform
from common.quantization.affine import (
    affine_parameters,
    code_bounds,
    dequantize,
    fake_quantize,
    quantize,
    symmetric_parameters,
)
from common.quantization.layers import FakeQuantActivation
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
