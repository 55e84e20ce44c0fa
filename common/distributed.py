"""What several processes that train one run together have to exchange so that they compute what one process computes.

Of W processes, process r holds the rows r, r + W, r + 2W, ... of every step's batch (`datasets.memory.EpochBatches`), all
equally many. Whatever depends on more than one row goes through the functions below; in one process they do nothing.

Gradients: every process differentiates its own loss, the mean over its own rows, and DDP averages the gradients of the
parameters. The differentiable functions here therefore have the gradient of the sum of all processes' losses.

Random numbers: all processes seed alike and draw equally often, so their generators agree. What is drawn for the rows of a
batch is drawn for all its rows in every process, which keeps its own (`draw_rows`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable


def processes() -> int:
    """W, the number of processes that train together; 1 outside of a fit on several devices."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """r, the number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather_rows(x: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, [b, ...] -> [W b, ...], in the order of the step's batch; differentiable.

    Every process must give the same shape and type.
    """
    if processes() == 1:
        return x
    if x.dtype == torch.bool:  # gloo has no type for it
        return _GatherRows.apply(x.to(torch.uint8)).to(torch.bool)
    return _GatherRows.apply(x)


def own_rows(x: torch.Tensor) -> torch.Tensor:
    """This process's rows of the step's batch, [W b, ...] -> [b, ...]."""
    return x if processes() == 1 else x[rank() :: processes()]


def draw_rows(draw: Callable[[int], torch.Tensor], rows: int) -> torch.Tensor:
    """Random numbers of this process's `rows` rows, [rows, ...], from `draw(rows of the whole batch)`."""
    return own_rows(draw(rows * processes()))


def total(x: torch.Tensor) -> torch.Tensor:
    """Sum of x over the processes, same shape; differentiable."""
    return x if processes() == 1 else _Total.apply(x)


def average(x: torch.Tensor) -> torch.Tensor:
    """Mean of x over the processes, same shape; differentiable."""
    return x if processes() == 1 else _Total.apply(x) / processes()


@torch.no_grad()
def extremes(low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest `low` and the largest `high` of all processes, elementwise; NaN if one is NaN; no gradient."""
    if processes() == 1:
        return low, high
    lows, highs = gather_rows(torch.stack([low, high])[None]).unbind(1)
    return lows.amin(0), highs.amax(0)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(processes())]
        dist.all_gather(parts, x)
        return torch.stack(parts, 1).flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return own_rows(_sum(gradients[0]))


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return _sum(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return _sum(gradients[0])


def _sum(x: torch.Tensor) -> torch.Tensor:
    summed = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(summed)
    return summed


@contextmanager
def process_group_ends() -> Iterator[None]:
    """End the process group, if there is one, with the block: around a fit, so that everything else is done alone.

    What runs between two fits (calibration, pruning, the benchmark) then sees whole batches in every process and waits for
    nobody. The processes agree on a fresh port for the next group: one that starts it sooner must not meet the old one.
    """
    try:
        yield
        if processes() > 1:
            port = [_free_port() if rank() == 0 else 0]
            dist.broadcast_object_list(port)
            os.environ["MASTER_PORT"] = str(port[0])
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
