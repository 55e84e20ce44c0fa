"""common/cost.py: counts checked by hand or against a paper, files that are written, and nothing left changed."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from common.backbones import MobileFaceNet
from common.cost import Cost, count_macs, is_simulated, measure_cost, measure_latency
from common.quantization.quantize_network import quantize_network
from common.quantization.storage import save_packed
from common.weights import save_weights


class Small(nn.Module):
    """Shapes small enough to count by hand, for images [B, 3, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)  # 108 weights, 8*8*108 MACs
        self.norm = nn.BatchNorm2d(4)  # 8 parameters; 8 running values and a counter
        self.depthwise = nn.Conv2d(4, 4, 8, groups=4)  # 256 + 4 weights, 256 MACs
        self.linear = nn.Linear(4, 5)  # 20 + 5 weights, 20 MACs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.depthwise(self.norm(self.conv(x)).relu()).flatten(1))


SMALL_PARAMETERS = 108 + 8 + 260 + 25
SMALL_MACS = 64 * 108 + 256 + 20


@pytest.fixture
def small() -> Small:
    torch.manual_seed(0)
    network = Small()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(0.5, 1.0)  # no zeros but those that a test makes
    return network


def test_mobilefacenet_costs_what_is_published() -> None:
    cost = measure_cost(MobileFaceNet(), 112)
    assert (cost.parameters, cost.macs) == (1_003_136, 220_965_376)


def test_small_network_by_hand(small: Small, tmp_path: Path) -> None:
    cost = measure_cost(small, 8)
    assert (cost.parameters, cost.nonzeros, cost.macs) == (SMALL_PARAMETERS, SMALL_PARAMETERS, SMALL_MACS)
    assert cost.fp32_bytes == 4 * sum(value.numel() for value in small.state_dict().values())
    assert cost.fp32_bytes < cost.stored_bytes < cost.fp32_bytes + 2048, "a header, and nothing else"
    save_weights(small, tmp_path / "a.safetensors")  # the same file but for the name and the SHA-256
    assert 64 < (tmp_path / "a.safetensors").stat().st_size - cost.stored_bytes < 192


@pytest.mark.parametrize("size", [8, (8, 8), (3, 8, 8), [3, 8, 8]])
def test_forms_of_the_input_size(small: Small, size: int | tuple[int, ...]) -> None:
    assert count_macs(small, size) == SMALL_MACS


def test_oblong_gray_images() -> None:
    assert count_macs(nn.Conv2d(1, 2, 3, padding=1), (1, 10, 6)) == 60 * 18


@pytest.mark.parametrize("size", [0, (3,), (3, 8, 8, 8), (3, 8, -1), (8, 8.0)])
def test_what_is_no_input_size(small: Small, size: int | tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected a side"):
        count_macs(small, size)


def test_macs_do_not_depend_on_simulated_quantization_or_gradients(small: Small) -> None:
    quantized = quantize_network(small, 4, None)
    assert count_macs(quantized, 8) == SMALL_MACS
    with torch.inference_mode():
        assert count_macs(small, 8) == SMALL_MACS
    assert measure_cost(nn.Sequential(small).requires_grad_(False), 8).macs == SMALL_MACS


def test_shared_parameters_count_once() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8, bias=False)
            self.second = nn.Linear(8, 8, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x))

    cost = measure_cost(Shared(), 8)
    assert (cost.parameters, cost.nonzeros, cost.macs) == (64, 64, 2 * 3 * 8 * 64)
    assert cost.fp32_bytes == 64 * 4


def test_zeros_are_seen_wherever_they_are_made(small: Small) -> None:
    prune.l1_unstructured(small.depthwise, "weight", amount=100)
    assert measure_cost(small, 8).nonzeros == SMALL_PARAMETERS - 100
    prune.remove(small.depthwise, "weight")
    assert measure_cost(small, 8).nonzeros == SMALL_PARAMETERS - 100

    class LastRowOff(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return torch.cat([weight[:-1], torch.zeros_like(weight[-1:])])

    parametrize.register_parametrization(small.linear, "weight", LastRowOff())
    cost = measure_cost(small, 8)
    assert (cost.parameters, cost.nonzeros) == (SMALL_PARAMETERS, SMALL_PARAMETERS - 104)


def test_a_mask_neither_enlarges_the_file_nor_the_reference(small: Small) -> None:
    plain = measure_cost(small, 8)
    prune.l1_unstructured(small.depthwise, "weight", amount=100)
    masked = measure_cost(small, 8)
    assert masked.parameters == SMALL_PARAMETERS
    assert masked.fp32_bytes == plain.fp32_bytes
    assert masked.stored_bytes == pytest.approx(plain.stored_bytes, abs=8), "zeros in a dense file compress nothing"


def test_quantized_weights_count_as_they_are_used(small: Small) -> None:
    with torch.no_grad():
        small.linear.weight.zero_()
        small.linear.weight[:, 0] = 1.0
        small.linear.weight[:, 1] = 1e-4  # rounds to 0 in 2 bits
    assert measure_cost(small, 8).nonzeros == SMALL_PARAMETERS - 10
    quantized = quantize_network(small, 2, None, keep_float=("conv", "depthwise"))
    assert measure_cost(quantized, 8).nonzeros == SMALL_PARAMETERS - 15


def test_the_packed_file_is_what_is_measured() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 400, bias=False))
    sizes: dict[int, Cost] = {
        bits: measure_cost(quantize_network(network, bits, None), 8, save_packed) for bits in (8, 4, 2)
    }
    for bits, cost in sizes.items():
        codes, ranges = 192 * 400 * bits // 8, 400 * 2 * 4
        assert codes + ranges <= cost.stored_bytes <= codes + ranges + 1024
        assert cost.compression == cost.fp32_bytes / cost.stored_bytes
        assert cost.fp32_bytes == sizes[8].fp32_bytes
    simulated = measure_cost(quantize_network(network, 4, None), 8)
    assert simulated.stored_bytes > simulated.fp32_bytes, "simulated alone, nothing shrinks"


def test_any_writer_will_do(small: Small) -> None:
    def writer(network: nn.Module, path: Path) -> None:
        assert network is small
        path.write_bytes(bytes(1000))

    assert measure_cost(small, 8, writer).stored_bytes == 1000


def test_a_half_precision_network_is_half_as_large() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 400, bias=False)).half()
    assert measure_cost(network, 8).compression == pytest.approx(2.0, abs=0.01)


MEASURES: dict[str, Callable[[nn.Module], object]] = {
    "cost": lambda network: measure_cost(network, 8),
    "latency": lambda network: measure_latency(network, 8, repeats=2, warmup=1),
}


@pytest.mark.parametrize("name", MEASURES)
def test_nothing_is_changed_by_measuring(small: Small, name: str) -> None:
    quantized = quantize_network(small, 4, None)
    prune.l1_unstructured(small.depthwise, "weight", amount=100)
    for network in (small, quantized):
        network.train()
        network.get_submodule("norm").eval()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        generator, threads = torch.get_rng_state(), torch.get_num_threads()
        MEASURES[name](network)
        assert network.training
        assert not network.get_submodule("norm").training
        assert network.get_submodule("conv").training
        assert torch.equal(torch.get_rng_state(), generator)
        assert torch.get_num_threads() == threads
        after = network.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_ranges_that_are_being_tracked_are_not_widened() -> None:
    class Tracking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("highest", torch.tensor(0.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.highest.copy_(torch.maximum(self.highest, x.max()))  # type: ignore[operator,arg-type]
            return x * self.highest  # type: ignore[operator]

    network = Tracking()
    measure_latency(network, 8, repeats=2)
    assert count_macs(network, 8) == 0
    assert network.highest == 0


def test_everything_is_restored_after_an_error(small: Small) -> None:
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        measure_latency(small, 4, threads=threads + 1)  # too small for the depthwise kernel
    assert small.training
    assert torch.get_num_threads() == threads


class Sleeping(nn.Module):
    """Takes 2 ms in eval mode without gradients, 100 ms otherwise, and 20 ms in each fourth call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape == (1, 3, 8, 8)
        self.calls += 1
        expected = not self.training and torch.is_inference_mode_enabled() and torch.get_num_threads() == 1
        time.sleep(0.1 if not expected else 0.02 if self.calls % 4 == 0 else 0.002)
        return x


def test_latency_is_the_median_of_single_images_in_inference_mode() -> None:
    network = Sleeping()
    latency = measure_latency(network, 8, threads=1, repeats=16, warmup=4)
    assert network.calls == 20
    assert 2.0 <= latency.median_ms < 15.0
    assert latency.spread_ms < 25.0
    assert (latency.threads, latency.repeats, latency.simulated) == (1, 16, False)
    assert json.loads(json.dumps(latency.result()))["median"] == latency.median_ms


def test_simulated_quantization_says_so(small: Small) -> None:
    assert not is_simulated(small)
    assert measure_latency(quantize_network(small, 8, None), 8, repeats=2).simulated
    for mark in ("weight_bits", "activation_bits"):
        other = nn.Sequential(nn.Identity())
        setattr(other[0], mark, 8)
        assert is_simulated(other)


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"repeats": 1}, {"warmup": -1}])
def test_numbers_out_of_range(small: Small, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected at least 1 thread, 2 repeats"):
        measure_latency(small, 8, **wrong)


def test_latency_elsewhere_than_on_the_cpu_is_refused(small: Small) -> None:
    with pytest.raises(ValueError, match=r"the network is on meta; call network\.cpu\(\) first"):
        measure_latency(small.to("meta"), 8)
