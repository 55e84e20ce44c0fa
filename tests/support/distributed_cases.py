"""Small trainings that one process and two processes carry out alike; each gives the tensors that have to agree.

A case takes nothing and returns named tensors. It splits its batch by `distributed.own_rows` and averages gradients as DDP
does, so that it is the same code in one process and in two.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import distributed, heads, synchronized_layers
from common.distributed import gather_rows, own_rows, processes
from common.heads import adaptive, elastic, partial_fc
from common.heads.partial_fc import PartialFC
from common.quantization import observers
from common.quantization.bn_folding import QuantConvBn2d
from common.quantization.layers import FakeQuantActivation
from common.quantization.weight_quantizer import UniformWeightQuantizer
from common.synchronized_layers import SynchronizedLayers

Case = Callable[[], dict[str, Tensor]]
ROWS, DIMENSIONS, CLASSES, STEPS = 12, 6, 20, 3
CASES: dict[str, Case] = {}
ROW_BY_ROW = {  # nothing in them depends on another row, so there is nothing to synchronise
    f"head {name}" for name in ("ArcFace", "CosFace", "NormalizedSoftmax", "Softmax", "SphereFace")
}


def case(name: str) -> Callable[[Case], Case]:
    def register(function: Case) -> Case:
        CASES[name] = function
        return function

    return register


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def step(model: nn.Module, loss: Tensor, lr: float) -> None:
    """Differentiate, average the gradients over the processes as DDP does, and take a step of SGD."""
    model.zero_grad()
    loss.backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.data -= lr * distributed.average(parameter.grad)


# --- heads ---------------------------------------------------------------------------------------------------------

# The second process has four rows without a target, the first none: no mean over a part is the mean over the batch.
LABELS = torch.tensor([3, -1, 7, -1, 1, 3, 19, -1, 12, -1, 0, 7])


def train_head(head: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(5)
    head = head.double().train()
    for parameter in head.parameters():
        parameter.data = numbers(*parameter.shape, seed=1)
    results: dict[str, Tensor] = {}
    for k in range(STEPS):
        embedding = own_rows(numbers(ROWS, DIMENSIONS, seed=10 + k)).clone().requires_grad_()
        own = own_rows(LABELS)
        if isinstance(head, PartialFC):
            loss = head(embedding, own)
        else:
            summed = F.cross_entropy(head(embedding, own), own, ignore_index=-1, reduction="sum")
            loss = summed / distributed.average((own >= 0).sum().double())
        step(head, loss, lr=0.05)
        assert embedding.grad is not None
        results[f"loss {k}"] = distributed.average(loss.detach())
        results[f"gradient {k}"] = gather_rows(embedding.grad) / processes()
    return results | {f"state {name}": value.clone() for name, value in head.state_dict().items()}


def _add_heads() -> None:
    variants: dict[str, Callable[[], nn.Module]] = {
        name: functools.partial(getattr(heads, name), DIMENSIONS, CLASSES)
        for name in heads.__all__
        if name not in ("CosineHead", "PartialFC", "ShardedPartialFC")
    }
    variants |= {
        "CurricularFace, quick": lambda: heads.CurricularFace(DIMENSIONS, CLASSES, scale=8.0, momentum=0.3),
        "ElasticArcFace+": lambda: heads.ElasticArcFace(DIMENSIONS, CLASSES, plus=True),
        "ElasticCosFace+, code": lambda: heads.ElasticCosFace(DIMENSIONS, CLASSES, plus=True, plus_mode="code"),
        "PartialFC": lambda: PartialFC(heads.CosFace(DIMENSIONS, CLASSES, scale=8.0), sample_rate=0.5),
        "PartialFC of ElasticArcFace": lambda: PartialFC(heads.ElasticArcFace(DIMENSIONS, CLASSES), sample_rate=0.6),
    }
    for name, make in variants.items():
        CASES[f"head {name}"] = lambda make=make: train_head(make())  # type: ignore[misc]


_add_heads()


# --- layers --------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Convolution and linear layers, each followed by what is tested."""

    def __init__(self, maps: nn.Module, rows: nn.Module) -> None:
        super().__init__()
        self.conv, self.maps = nn.Conv2d(3, 4, 3), maps
        self.linear, self.rows = nn.Linear(4, 5), rows

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(self.linear(self.maps(self.conv(x)).relu().mean((2, 3))))


def train_net(net: nn.Module, dtype: torch.dtype = torch.float64, channels_last: bool = True) -> dict[str, Tensor]:
    torch.manual_seed(5)
    net = net.to(dtype).train()
    for k, parameter in enumerate(net.parameters()):
        parameter.data = numbers(*parameter.shape, seed=k).to(dtype)
    sync = SynchronizedLayers()
    sync.apply(net)
    results: dict[str, Tensor] = {}
    for k in range(STEPS):
        x = (1 + 2 * numbers(ROWS, 3, 6, 5, seed=20 + k)).to(dtype)
        x = own_rows(x.to(memory_format=torch.channels_last) if channels_last else x).requires_grad_()
        x.retain_grad()
        output = net(x)
        step(net, (output - own_rows(numbers(ROWS, *output.shape[1:], seed=30).to(dtype))).square().mean(), lr=0.05)
        results[f"output {k}"] = gather_rows(output.detach())
        assert x.grad is not None
        results[f"gradient {k}"] = gather_rows(x.grad) / processes()
    sync.revert(net)
    net.eval()
    results["in eval mode"] = net(numbers(2, 3, 6, 5).to(dtype)).detach()
    return results | {f"state {name}": value.clone() for name, value in net.state_dict().items()}


@case("batch norm")
def _batch_norm() -> dict[str, Tensor]:
    return train_net(Net(nn.BatchNorm2d(4), nn.BatchNorm1d(5)))


@case("batch norm, contiguous, float32")
def _batch_norm_float32() -> dict[str, Tensor]:
    return train_net(Net(nn.BatchNorm2d(4), nn.BatchNorm1d(5)), torch.float32, channels_last=False)


@case("batch norm with options")
def _batch_norm_with_options() -> dict[str, Tensor]:
    rows = nn.BatchNorm1d(5, affine=False, track_running_stats=False)
    return train_net(Net(nn.BatchNorm2d(4, momentum=None, eps=0.1), rows))  # type: ignore[arg-type]


@case("dropout")
def _dropout() -> dict[str, Tensor]:
    return train_net(Net(nn.Dropout(0.5), nn.Dropout(0.4)))


@case("dropout of channels")
def _dropout_of_channels() -> dict[str, Tensor]:
    return train_net(Net(nn.Dropout2d(0.5), nn.Identity()), channels_last=False)


@case("folded batch norm, quantized")
def _folded() -> dict[str, Tensor]:
    activations = FakeQuantActivation(8, observers.MovingAverageObserver(0.3))
    folded = QuantConvBn2d(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), UniformWeightQuantizer(8), activations)
    observers.unfreeze_ranges(folded)
    return train_net(folded)


# --- ranges --------------------------------------------------------------------------------------------------------

OBSERVERS: dict[str, Callable[[], observers.RangeObserver]] = {
    "smallest and largest": observers.MinMaxObserver,
    "running extremes": observers.RunningExtremeObserver,
    "moving average": lambda: observers.MovingAverageObserver(0.25),
    "percentile": lambda: observers.PercentileObserver(0.9),
}


def observe(observer: observers.RangeObserver) -> dict[str, Tensor]:
    observer.double().tracking = True
    for k in range(STEPS):
        observer.observe(own_rows(numbers(ROWS, 4, 3, seed=k) + k))
    return dict(observer.state_dict())


for _name, _make in OBSERVERS.items():
    CASES[f"range, {_name}"] = lambda make=_make: observe(make())  # type: ignore[misc]


# --- primitives ----------------------------------------------------------------------------------------------------


@case("rows are gathered in the order of the batch")
def _gather() -> dict[str, Tensor]:
    whole = numbers(ROWS, 2)
    x = own_rows(whole).clone().requires_grad_()
    weights = numbers(ROWS, 2, seed=1)
    everything = gather_rows(x)
    # the loss of the whole batch in every process, through one nonlinear function of all rows
    (everything * weights).sum().square().backward()
    assert x.grad is not None
    return {
        "rows": everything.detach(),
        "gradient": gather_rows(x.grad) / processes(),
        "boolean": gather_rows(own_rows(whole > 0)).double(),
    }


@case("sums and means over processes")
def _reduce() -> dict[str, Tensor]:
    x = own_rows(numbers(ROWS, 2)).clone().requires_grad_()
    summed, mean = distributed.total(x.sum(0)), distributed.average(x.mean(0))
    (summed.square() * mean).sum().backward()
    assert x.grad is not None
    return {"sum": summed.detach(), "mean": mean.detach(), "gradient": gather_rows(x.grad) / processes()}


@case("a NaN in one process is seen in all")
def _nan() -> dict[str, Tensor]:
    x = numbers(ROWS)
    x[1] = torch.nan
    low, high = distributed.extremes(*torch.aminmax(own_rows(x)))
    return {"low": low, "high": high}


@case("random numbers of the rows")
def _draw() -> dict[str, Tensor]:
    torch.manual_seed(3)
    rows = len(own_rows(torch.zeros(ROWS)))
    return {f"draw {k}": gather_rows(distributed.draw_rows(torch.rand, rows)) for k in range(2)}


# --- with and without ----------------------------------------------------------------------------------------------


def run_cases() -> dict[str, dict[str, Tensor]]:
    return {name: compute() for name, compute in CASES.items()}


def both_ways() -> dict[str, dict[str, dict[str, Tensor]]]:
    """In each of two processes: all cases, and all cases with everything that synchronises taken out."""
    torch.distributed.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]), world_size=2)
    synchronized = run_cases()
    with without_synchronization():
        alone = run_cases()
    torch.distributed.destroy_process_group()
    return {"synchronized": synchronized, "alone": alone}


@contextmanager
def without_synchronization() -> Iterator[None]:
    """Heads, layers and observers as if every process were alone."""
    alone: dict[str, Any] = {
        "gather_rows": lambda x: x,
        "own_rows": lambda x: x,
        "total": lambda x: x,
        "average": lambda x: x,
        "extremes": lambda low, high: (low, high),
        "draw_rows": lambda draw, rows: draw(rows),
        "processes": lambda: 1,
    }
    with mock.patch.multiple(synchronized_layers, **_of(synchronized_layers, alone)):
        patches = [mock.patch.multiple(m, **_of(m, alone)) for m in (adaptive, elastic, partial_fc, observers)]
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()


def _of(module: Any, replacements: dict[str, Any]) -> dict[str, Any]:
    """Those replacements whose name the module has."""
    return {name: value for name, value in replacements.items() if hasattr(module, name)}


def largest_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Over all tensors, relative to the largest value of each (at least 1); infinite where one is NaN and the other not."""
    assert ours.keys() == theirs.keys()
    worst = 0.0
    for name, value in ours.items():
        other = theirs[name]
        assert value.shape == other.shape, (name, value.shape, other.shape)
        value, other = value.double(), other.double()
        if not torch.equal(value.isnan(), other.isnan()):
            return float("inf")
        difference = (value - other).nan_to_num(0.0).abs().max() / other.nan_to_num(0.0).abs().max().clamp(min=1.0)
        worst = max(worst, float(difference))
    return worst
