"""The running-range quantizer against vectors of the official code of QuantFace and SyPer, and hand calculations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.quantization.observers import freeze_ranges, set_tracking, unfreeze_ranges
from common.quantization.quantize_network import quantize_network
from common.quantization.running_range import (
    RunningRangeActivation,
    RunningRangePReLU,
    RunningRangeWeightQuantizer,
    fake_quantize_running_range,
    multiplicative_parameters,
    running_range_codes,
    running_range_values,
)
from common.quantization.schedule import RangeSchedule
from common.quantization.weight_quantizer import weight_ranges


def load(path: Path) -> dict[str, torch.Tensor]:
    with np.load(path) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
@pytest.mark.parametrize(("name", "upstream"), [("w4", "up4"), ("w2", "up2"), ("a4", "upa")])
def test_quantizer_matches_the_official_function(golden, name, upstream, bits):
    arrays = load(golden / "quantface" / "asym_quant.npz")
    x = arrays[name].clone().requires_grad_()
    if name == "a4":
        low, high = arrays["a4_min"], arrays["a4_max"]
    else:
        low, high = weight_ranges(x, "per_channel")
    prefix = f"{name}_k{bits}_"
    scale, zero_point = multiplicative_parameters(low, high, bits)
    assert torch.equal(scale.view(-1), arrays[prefix + "scale"])
    assert torch.equal(zero_point.view(-1), arrays[prefix + "zp"])
    codes = running_range_codes(x, low, high, bits)
    assert torch.equal(codes.float(), arrays[prefix + "code"])

    y = fake_quantize_running_range(x, low, high, bits)
    assert torch.equal(y.detach(), arrays[prefix + "deq"])
    assert torch.equal(running_range_values(codes, low, high, bits), arrays[prefix + "deq"])
    y.backward(arrays[upstream])
    assert torch.equal(x.grad, arrays[prefix + "grad"])


def test_constant_channel_is_reproduced_exactly(golden):
    weight = load(golden / "quantface" / "asym_quant.npz")["w4"]
    assert weight[4].unique().numel() == 1
    for bits in range(2, 9):
        quantizer = RunningRangeWeightQuantizer(bits)
        assert torch.equal(quantizer(weight)[4], weight[4])
        assert not quantizer.encode(weight, *weight_ranges(weight, "per_channel"))[4].any()


def test_hand_calculated_codes_and_values():
    x = torch.tensor([-1.0, -0.3, 0.0, 0.26, 0.7, 1.5, 2.0])
    low, high = torch.tensor(-1.0), torch.tensor(1.5)
    scale, zero_point = multiplicative_parameters(low, high, 4)
    assert (scale.item(), zero_point.item()) == (6.0, 2.0)
    assert running_range_codes(x, low, high, 4).tolist() == [-8, -4, -2, 0, 2, 7, 7]
    expected = torch.tensor([-1.0, -1 / 3, 0.0, 1 / 3, 2 / 3, 1.5, 1.5])
    torch.testing.assert_close(fake_quantize_running_range(x, low, high, 4), expected)

    x = torch.tensor([0.1, 0.5, 1.0])  # 0.5 lies half way between two codes: half to even
    low, high = torch.tensor(0.0), torch.tensor(1.0)
    assert running_range_codes(x, low, high, 2).tolist() == [-2, 0, 1]
    torch.testing.assert_close(fake_quantize_running_range(x, low, high, 2), torch.tensor([0.0, 2 / 3, 1.0]))

    half = torch.tensor([0.5])  # z = 1 is subtracted before rounding: round(0.5 - 1) = 0, not round(0.5) - 1 = -1
    low, high = torch.tensor(-1.0), torch.tensor(2.0)
    assert running_range_codes(half, low, high, 2).item() == 0
    assert fake_quantize_running_range(half, low, high, 2).item() == 1.0


def test_masked_gradient_is_zero_outside_the_range_only():
    x = torch.tensor([-1.2, -1.0, 0.3, 1.5, 1.6], requires_grad=True)
    low, high = torch.tensor(-1.0), torch.tensor(1.5)
    fake_quantize_running_range(x, low, high, 4, gradient="masked").sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="expected one of"):
        fake_quantize_running_range(x, low, high, 4, gradient="straight")


def test_error_is_at_most_half_a_step_and_codes_survive_a_second_pass():
    torch.manual_seed(0)
    weight = torch.randn(16, 3, 5, 5)
    for bits in range(2, 9):
        quantizer = RunningRangeWeightQuantizer(bits)
        low, high = weight_ranges(weight, "per_channel")
        value = quantizer(weight)
        step = ((high - low) / (2**bits - 1)).view(-1, 1, 1, 1)
        # The zero point is rounded, so the clamp at the top may cost another half step at most once.
        assert ((value - weight).abs() <= step * 0.501).all()
        assert all(channel.unique().numel() <= 2**bits for channel in value)
        codes = quantizer.encode(weight, low, high)
        assert torch.equal(quantizer.encode(value, low, high), codes)


def test_large_activations_are_quantized_like_small_ones_also_in_place_and_channels_last():
    torch.manual_seed(0)
    x = torch.randn(3, 40, 60, 60) * 2  # larger than two chunks, with clipping
    low, high = torch.tensor(-3.0), torch.tensor(2.5)
    expected = torch.stack([fake_quantize_running_range(each, low, high, 6) for each in x])
    assert torch.equal(fake_quantize_running_range(x, low, high, 6), expected)
    last = x.to(memory_format=torch.channels_last)
    assert torch.equal(fake_quantize_running_range(last, low, high, 6), expected)
    copy = x.clone()
    assert fake_quantize_running_range(copy, low, high, 6, inplace=True) is copy
    assert torch.equal(copy, expected)


def test_quant_act_follows_the_official_ranges(golden):
    arrays = load(golden / "quantface" / "quant_act.npz")
    quantizer = RunningRangeActivation(4)
    unfreeze_ranges(quantizer)
    for i in range(5):
        if i == 3:
            freeze_ranges(quantizer)
        y = quantizer(arrays[f"x{i}"])
        torch.testing.assert_close(y, arrays[f"y{i}"], atol=1e-6, rtol=0)
        assert torch.equal(quantizer.observer.low.view(1), arrays[f"min{i}"])
        assert torch.equal(quantizer.observer.high.view(1), arrays[f"max{i}"])


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("kind", ["conv", "lin", "prelu"])
def test_layers_match_the_official_modules_forward_and_backward(golden, kind, bits):
    arrays = load(golden / "quantface" / "quant_modules.npz")

    def of(name: str) -> torch.Tensor:
        return arrays[f"{kind}_k{bits}_{name}"]

    layers = {"conv": nn.Conv2d(4, 6, 3, 2, 1, groups=2), "lin": nn.Linear(7, 5), "prelu": nn.PReLU(4)}
    layer = layers[kind]
    with torch.no_grad():
        layer.weight.copy_(of("weight"))
        if kind != "prelu":
            layer.bias.copy_(of("bias"))
    quantized = quantize_network(nn.Sequential(layer), bits, bits)
    unfreeze_ranges(quantized)
    x = of("x").clone().requires_grad_()
    y = quantized(x)
    torch.testing.assert_close(y.detach(), of("y"), atol=1e-6, rtol=0)
    y.backward(of("up"))
    torch.testing.assert_close(x.grad, of("gx"), atol=1e-5, rtol=0)
    torch.testing.assert_close(quantized[0].weight.grad, of("gw"), atol=1e-5, rtol=0)
    if kind == "prelu":
        assert torch.equal(quantized[0].output.observer.low.view(1), of("min"))
        assert torch.equal(quantized[0].output.observer.high.view(1), of("max"))
    else:
        torch.testing.assert_close(quantized[0].bias.grad, of("gb"), atol=1e-5, rtol=0)


def test_fresh_prelu_has_equal_slopes_and_keeps_them():
    layer = RunningRangePReLU.from_float(nn.PReLU(5), 4)
    assert torch.equal(layer.weight_quantizer(layer.weight), torch.full((5,), 0.25))


class TinyNetwork(nn.Module):
    """The network of the official traces: conv, BN, PReLU, flatten, linear, BN."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.prelu = nn.PReLU(4)
        self.fc = nn.Linear(256, 6, bias=False)
        self.bn2 = nn.BatchNorm1d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn2(self.fc(self.prelu(self.bn1(self.conv1(x))).flatten(1)))


def starting_network(arrays: dict[str, torch.Tensor]) -> TinyNetwork:
    network = TinyNetwork()
    network.load_state_dict({name: arrays["init_" + name.replace(".", "_")] for name in network.state_dict()})
    return network.eval()


def distillation_step(
    student: nn.Module, teacher: nn.Module, x: torch.Tensor, optimizer: torch.optim.Optimizer
) -> tuple[float, float]:
    """One step of the papers' training loop: loss of the embeddings' directions, gradient norm before clipping."""
    wanted = nn.functional.normalize(teacher(x)).detach()
    loss = nn.functional.mse_loss(nn.functional.normalize(student(x)), wanted)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(student.parameters(), 5.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item(), norm.item()


def assert_final_state(student: nn.Module, arrays: dict[str, torch.Tensor], rtol: float, atol: float) -> None:
    for name, value in student.state_dict().items():
        if name.startswith("prelu.output"):
            continue
        torch.testing.assert_close(value, arrays["final_" + name.replace(".", "_")], rtol=rtol, atol=atol, msg=name)
    observer = student.prelu.output.observer
    torch.testing.assert_close(observer.low.view(1), arrays["final_prelu_quantAct_x_min"], rtol=rtol, atol=atol)
    torch.testing.assert_close(observer.high.view(1), arrays["final_prelu_quantAct_x_max"], rtol=rtol, atol=atol)


def test_training_follows_quantfaces_trace(golden):
    arrays = load(golden / "quantface" / "qat_trace.npz")
    teacher = starting_network(arrays)
    student = quantize_network(teacher, 6, 6).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = RangeSchedule.before_step(4)
    for step in range(1, 7):
        set_tracking(student, schedule.tracks(step, epoch=1))
        loss, norm = distillation_step(student, teacher, arrays["x"][step - 1], optimizer)
        assert loss == pytest.approx(arrays["loss"][step - 1].item(), rel=1e-4)
        assert norm == pytest.approx(arrays["gradnorm"][step - 1].item(), rel=1e-4)
    assert_final_state(student, arrays, rtol=1e-4, atol=1e-6)


def test_training_follows_sypers_epochs(golden):
    arrays = load(golden / "syper" / "qat_epoch_trace.npz")
    teacher = starting_network(arrays)
    student = quantize_network(teacher, 8, 8).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = RangeSchedule.frozen_after_epoch_above(5)
    step = 0
    for epoch in range(1, 11):
        optimizer.param_groups[0]["lr"] = 0.05 * (0.1 if epoch >= 8 else 1.0)
        for batch in arrays["x"][epoch - 1]:
            assert optimizer.param_groups[0]["lr"] == pytest.approx(arrays["lr"][step].item())
            set_tracking(student, schedule.tracks(step + 1, epoch))
            loss, _ = distillation_step(student, teacher, batch, optimizer)
            assert loss == pytest.approx(arrays["loss"][step].item(), rel=1e-4)
            observer = student.prelu.output.observer
            assert observer.low.item() == pytest.approx(arrays["act_min"][step].item(), rel=1e-4)
            assert observer.high.item() == pytest.approx(arrays["act_max"][step].item(), rel=1e-4)
            step += 1
    assert_final_state(student, arrays, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "tracked_steps", "tracked_epochs"),
    [
        (RangeSchedule.before_step(300), 299, None),
        (RangeSchedule.frozen_after_epoch_above(5), None, 6),
        (RangeSchedule.frozen_after_epoch(8), None, 8),
        (RangeSchedule.frozen_after_epoch(1), None, 1),
        (RangeSchedule(), None, None),
        (RangeSchedule(last_step=0), 0, None),
    ],
)
def test_schedules_freeze_where_the_papers_do(schedule, tracked_steps, tracked_epochs):
    steps = [step for step in range(1, 400) if schedule.tracks(step, epoch=1)]
    epochs = [epoch for epoch in range(1, 20) if schedule.tracks(1, epoch)]
    assert len(steps) == (399 if tracked_steps is None else tracked_steps)
    if tracked_steps != 0:
        assert epochs == list(range(1, 20 if tracked_epochs is None else tracked_epochs + 1))


def test_schedules_count_from_one():
    with pytest.raises(ValueError, match="count from 1"):
        RangeSchedule().tracks(0, 1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("inplace", [False, True])
def test_large_tensors_in_any_layout_give_the_numbers_of_small_ones(memory_format, inplace) -> None:
    """They are done piece by piece in the order of memory; nothing but the speed may depend on that."""
    x = torch.randn(4, 24, 61, 53, generator=torch.Generator().manual_seed(0))
    low, high = x.min(), x.max()
    expected = torch.stack([fake_quantize_running_range(image, low, high, 5) for image in x])
    y = fake_quantize_running_range(x.clone(memory_format=memory_format), low, high, 5, inplace=inplace)
    assert torch.equal(y, expected)
    assert y.is_contiguous(memory_format=memory_format)
