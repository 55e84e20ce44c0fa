"""Layers that look at more than one row, made to look at the rows of all processes: batch normalisation and dropout.

`SynchronizedLayers` is a plugin of Lightning's Trainer. For the time of a fit on several devices it changes the class of
these layers and nothing else, so parameters, state-dict names, hooks and references stay, and afterwards the network is the
one it was.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning.plugins.layer_sync import LayerSync
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from common.distributed import draw_rows, gather_rows, processes, total

DROPOUTS: tuple[type[nn.Module], ...] = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
LAYERS: tuple[type[nn.Module], ...] = (_BatchNorm, *DROPOUTS)


class SynchronizedLayers(LayerSync):
    """Every BatchNorm normalises with the statistics of the whole step, every dropout draws what one process would draw.

    Give it to `Trainer(plugins=[...])`. On one device it has no effect.

    Raises:
        TypeError: a subclass of BatchNorm or dropout computes in its own way, which cannot be synchronised from outside.
    """

    def __init__(self) -> None:
        self._ordinary: list[tuple[nn.Module, type[nn.Module]]] = []

    def apply(self, model: nn.Module) -> nn.Module:
        """Synchronise the layers of the model, in place."""
        for name, module in model.named_modules():
            kind: Any = type(module)
            if issubclass(kind, LAYERS) and not issubclass(kind, nn.SyncBatchNorm):
                synchronized = _synchronized(kind)
                if synchronized is None:
                    raise TypeError(
                        f"'{name}' is a {kind.__name__}, a layer with a computation of its own: several devices "
                        "would each take their part of the batch for the whole. Train it on one device, or build it on "
                        "common.distributed."
                    )
                self._ordinary.append((module, kind))
                module.__class__ = synchronized
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Make every layer what it was."""
        for module, ordinary in self._ordinary:
            module.__class__ = ordinary
        self._ordinary.clear()
        return model


@functools.cache
def _synchronized(kind: Any) -> type[nn.Module] | None:
    """The subclass of a layer's class that looks at the rows of all processes; None if there is none."""
    if kind in DROPOUTS:
        return type(f"Synchronized{kind.__name__}", (_SynchronizedDropout, kind), {})
    if issubclass(kind, _BatchNorm) and kind.forward is _BatchNorm.forward:
        return type(f"Synchronized{kind.__name__}", (_SynchronizedBatchNorm, kind), {})
    return None


class _SynchronizedDropout(nn.Module):
    """Draws the mask of the whole batch, as one process does, and keeps its own rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or processes() == 1:
            return super().forward(x)
        dense = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        order = torch.channels_last if dense else torch.contiguous_format  # masks are drawn in the order of the memory

        def draw(rows: int) -> torch.Tensor:
            return super(_SynchronizedDropout, self).forward(
                x.new_ones(rows, *x.shape[1:]).contiguous(memory_format=order)
            )

        return x * draw_rows(draw, len(x))


class _SynchronizedBatchNorm(_BatchNorm):
    """On accelerators torch's `SyncBatchNorm`, on a CPU, which that refuses, the same in plain operations."""

    process_group = None  # this and the next line are what the forward pass of torch's class asks for
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or processes() == 1:
            return super().forward(x)
        if x.device.type != "cpu":
            return nn.SyncBatchNorm.forward(self, x)  # type: ignore[arg-type]
        self._check_input_dim(x)
        mean, variance, count = batch_statistics(x)
        if self.track_running_stats:
            self._follow(mean, variance * count / (count - 1))
        return _Normalize.apply(x, self.weight, self.bias, mean, variance, count, self.eps)

    @torch.no_grad()
    def _follow(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Move the running statistics towards the batch's; `momentum=None` is the plain average of all batches."""
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


@torch.no_grad()
def batch_statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Mean and biased variance of every channel over all processes, float64 [C] each, and the number of values a channel.

    x is [b, C, ...], of every process the same C; the other sizes may differ.

    Raises:
        ValueError: all processes together have one value a channel, which has no variance.
    """
    variance, mean = torch.var_mean(_full(x), _all_but_channels(x), correction=0)
    values = torch.full_like(mean, x.numel() // x.shape[1])
    means, variances, counts = gather_rows(torch.stack([mean, variance, values])[None].double()).unbind(1)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count
    variance = (counts * (variances + (means - mean) ** 2)).sum(0) / count
    if count[0] < 2:
        raise ValueError(f"Batch normalisation needs more than one value a channel; got {list(x.shape)}.")
    return mean, variance, int(count[0])


class _Normalize(torch.autograd.Function):
    """weight (x - mean) / sqrt(variance + eps) + bias, with the gradient through the statistics of all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        mean: torch.Tensor,
        variance: torch.Tensor,
        count: int,
        eps: float,
    ) -> torch.Tensor:
        dtype = _full(x).dtype
        mean, variance = mean.to(dtype), variance.to(dtype)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps))
        ctx.count = count
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, factor = ctx.saved_tensors
        shape, summed = [1, -1] + [1] * (x.ndim - 2), _all_but_channels(x)
        gradient = _full(gradients[0])
        normal = (_full(x) - mean.view(shape)) * factor.view(shape)
        by_bias, by_weight = gradient.sum(summed), (gradient * normal).sum(summed)  # DDP averages them
        of_mean, of_scale = (total(torch.stack([by_bias, by_weight])) / ctx.count).view(2, *shape)
        by_x = (gradient - of_mean - normal * of_scale) * factor.view(shape)
        if weight is not None:
            by_x = by_x * weight.view(shape)
        needs_weight, needs_bias = ctx.needs_input_grad[1:3]
        return (
            by_x.to(x.dtype),
            by_weight if needs_weight else None,
            by_bias if needs_bias else None,
            None,
            None,
            None,
            None,
        )


def _full(x: torch.Tensor) -> torch.Tensor:
    """x in at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _all_but_channels(x: torch.Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]
