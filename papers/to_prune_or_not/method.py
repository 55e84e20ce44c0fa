"""Gradual magnitude pruning: the sparsity of every layer rises while the network trains, fast at first and flat at last.

M. H. Zhu, S. Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017,
arXiv:1710.01878. Basis: quotations of the text, the README and the source of tensorflow.contrib.model_pruning and IntelLabs'
distiller, read and not copied. The equation numbers below are ours.

Symbols
    W_l    weight of prunable layer l, N_l numbers; convolutions and linear layers, without those that stay dense by name
    M_l    its mask in {0, 1}^N_l; the forward pass uses W_l * M_l
    t      optimiser steps that are done; updates of the masks at t = t_0, t_0 + dt, ..., t_0 + n dt
    s_t    sparsity that an update reaches in every layer; s_i initial (0), s_f final

Method
    s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3                        (1)
    M_l = 0 for the k_l = floor(s_t N_l) smallest |W_l|, 1 for the others     (2)   ties: the lower index goes
    train W * M                                                                (3)   masks stay as they are after t_0 + n dt

Who may come back. (2) ranks all weights, masked ones too. Through the product (3) a masked weight gets the gradient 0, so
that it moves by momentum and weight decay alone. We zero it and its momentum at once: what is masked stays masked. With
`keep_masked` its value is kept and drifts, as in contrib. With `regrow` the gradient passes the mask as if it were not there
(straight through): masked weights go on learning and may come back, which is how Gale, Elsen and Hooker (2019) describe the
method.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import pytorch_lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from common.pruning import (
    EmptiedLayerWarning,
    GradualSchedule,
    Masks,
    histogram_threshold,
    keep_largest,
    magnitude,
    select_per_layer,
)
from common.schedules import one_cycle
from common.weights import load_weights

OPTIMIZERS = ("sgd", "rmsprop")
DECAYS = ("cosine", "constant", "exponential")


class GradualPruning(L.LightningModule):
    """Train a network, new or trained already, and prune it on the way. With `sparsity=0` the dense reference.

    Args:
        network: images [B, C, H, W] -> logits [B, classes].
        weights: file to start from (the trained dense network); None for the network's own initial weights.
        sparsity: s_f, share of every prunable layer that is masked at the end, in [0, 1).
        initial_sparsity: s_i.
        begin, end, every: t_0, t_0 + n dt and dt, in optimiser steps. `end=begin` prunes to s_f in one shot.
        exponent: of (1): 3 is the paper's, 1 is linear.
        dense: names of layers that are not pruned.
        keep_masked: keep the values of masked weights (contrib); momentum and weight decay go on moving them.
        regrow: pass gradients through the masks, so that masked weights go on learning.
        threshold: `"exact"` is (2); `"histogram"`: contrib's threshold from 255 bins of |W_l|, M_l = |W_l| > threshold.
        threshold_decay: share of the old threshold in the new one, with `"histogram"` (contrib: 0.9; Hooker et al.: 0).
        last_update: step of the last update where they go on at s_f after `end`, as contrib's do; None: `end`.
        optimizer: `"sgd"` or `"rmsprop"`. lr, momentum, weight_decay: of it.
        lr_decay: `"cosine"` to 0 over the fit, `"constant"`, or `"exponential"`: times `lr_factor` every `lr_period` steps.
        label_smoothing: of the cross-entropy.

    Raises:
        ValueError: an argument out of its range, an update that would fall behind the last step, a layer in `dense` that the
            network lacks, or nothing to prune.
    """

    thresholds: Tensor
    returned: Tensor
    updates: Tensor

    def __init__(
        self,
        network: nn.Module,
        weights: str | None = None,
        sparsity: float = 0.9,
        initial_sparsity: float = 0.0,
        begin: int = 0,
        end: int = 1000,
        every: int = 100,
        exponent: float = 3.0,
        dense: tuple[str, ...] = (),
        keep_masked: bool = False,
        regrow: bool = False,
        threshold: Literal["exact", "histogram"] = "exact",
        threshold_decay: float = 0.9,
        last_update: int | None = None,
        optimizer: Literal["sgd", "rmsprop"] = "sgd",
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        lr_decay: Literal["cosine", "constant", "exponential"] = "cosine",
        lr_period: int = 1,
        lr_factor: float = 0.94,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= sparsity < 1:
            raise ValueError(
                f"sparsity is {sparsity}, but must lie in [0, 1): it is the share that is masked at the end"
            )
        if threshold not in ("exact", "histogram") or optimizer not in OPTIMIZERS or lr_decay not in DECAYS:
            raise ValueError(
                f"{threshold=}, {optimizer=}, {lr_decay=}; expected exact or histogram; one of {', '.join(OPTIMIZERS)}; one of "
                f"{', '.join(DECAYS)}"
            )
        if not 0 <= threshold_decay < 1 or lr_period < 1:
            raise ValueError(f"{threshold_decay=} must lie in [0, 1), {lr_period=} be at least 1")
        if weights is not None:
            load_weights(network, weights)
        self.network = network
        self.masks = Masks(network, dense=dense)
        self.schedule = _schedule(sparsity, initial_sparsity, begin, end, every, exponent) if sparsity else None
        self.last_update = end if last_update is None else last_update
        if self.last_update < end:
            raise ValueError(f"last_update is {last_update}, but the sparsity rises until step {end}")
        self.sparsity, self.threshold, self.threshold_decay = sparsity, threshold, threshold_decay
        self.keep_masked, self.regrow = keep_masked, regrow
        self.optimizer_name, self.lr, self.momentum, self.weight_decay = optimizer, lr, momentum, weight_decay
        self.lr_decay, self.lr_period, self.lr_factor = lr_decay, lr_period, lr_factor
        self.label_smoothing = label_smoothing
        self.register_buffer("thresholds", torch.zeros(len(self.masks.weights), dtype=torch.float64))
        self.register_buffer("returned", torch.zeros((), dtype=torch.int64))  # weights that came back, over all updates
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def product(self) -> bool:
        """Whether masks are multiplied in the forward pass, while `network` holds the unmasked W during the fit."""
        return self.schedule is not None and (self.regrow or self.keep_masked)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, classes] of W * M."""
        logits: Tensor
        if not self.product:
            logits = self.network(x)  # W is zero where M is
        else:
            through = straight_through if self.regrow else torch.mul
            pairs = zip(self.masks.weights.items(), self.masks.buffers(), strict=True)
            logits = functional_call(self.network, {name: through(w, mask) for (name, w), mask in pairs}, (x,))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        return F.cross_entropy(self(x), labels, label_smoothing=self.label_smoothing)  # (3)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """The update at t, after optimiser step t and before the next one."""
        t = self.global_step
        if self.schedule is None or not self.schedule.begin <= t <= self.last_update:
            return
        if (t - self.schedule.begin) % self.schedule.every == 0:
            self.update_masks(self.schedule.sparsity(t))

    @torch.no_grad()
    def update_masks(self, sparsity: float) -> None:
        """(2) for all layers at s_t. Every layer keeps at least one weight, since floor(s_t N_l) < N_l.

        Warns with `EmptiedLayerWarning` where no weight exceeds a smoothed threshold; the largest one is kept.
        """
        scores, before = magnitude(self.masks.weights), self.masks.as_dict()
        if self.threshold == "histogram":
            kept = self._above_thresholds(scores, sparsity)
        else:
            kept = select_per_layer(scores, sparsity, rounding="keep_more")  # floor(s_t N) are masked
        self.returned += sum((mask & ~before[name]).sum() for name, mask in kept.items())
        self.updates += 1
        values = {name: w.clone() for name, w in self.masks.weights.items()} if self.product else {}
        self.masks.set(kept, revive=True)  # zeroes W and its momentum at M = 0 ...
        for name, value in values.items():
            self.masks.weights[name].copy_(value)  # ... which is undone where W is to live on

    def _above_thresholds(self, scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """contrib's masks: thresholds from histograms, smoothed over the updates."""
        kept, emptied = {}, []
        for at, (name, w) in enumerate(scores.items()):
            new = histogram_threshold(w, sparsity)
            self.thresholds[at].mul_(self.threshold_decay).add_((1 - self.threshold_decay) * new)
            kept[name] = w.double() > self.thresholds[at]
            if not bool(kept[name].any()):
                emptied.append(name)
                kept[name] = keep_largest(w, 1)
        if emptied:
            text = f"no weight of {', '.join(emptied)} exceeds the smoothed threshold; the largest one was kept"
            warnings.warn(text, EmptiedLayerWarning, stacklevel=3)
        return kept

    def on_train_end(self) -> None:
        """W * M is what is deployed and measured."""
        if self.product:
            self.masks.apply_to_weights()

    def configure_optimizers(self) -> Any:
        steps = int(self.trainer.estimated_stepping_batches)
        if self.schedule is not None and self.last_update >= steps:
            raise ValueError(
                f"the last update of the masks is at step {self.last_update}, but the fit has {steps}: end must lie before "
                "that, so that the network recovers and the final sparsity is reached"
            )
        trained = [p for p in self.network.parameters() if p.requires_grad]
        optimizer: torch.optim.Optimizer
        if self.optimizer_name == "rmsprop":
            optimizer = torch.optim.RMSprop(
                trained, self.lr, alpha=0.9, eps=1.0, weight_decay=self.weight_decay, momentum=self.momentum
            )
        else:
            optimizer = torch.optim.SGD(trained, self.lr, self.momentum, weight_decay=self.weight_decay)
        if not self.product:
            self.masks.guard(optimizer)  # gradient 0 at M = 0, and no momentum that revives
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, steps: int) -> Callable[[int], float]:
        if self.lr_decay == "cosine":
            return one_cycle(steps, warm_up=0.0)
        if self.lr_decay == "exponential":
            return lambda step: math.pow(self.lr_factor, step // self.lr_period)
        return lambda step: 1.0


def straight_through(w: Tensor, mask: Tensor) -> Tensor:
    """w * mask exactly, whose gradient is that of w itself."""
    return w + (w * mask - w).detach()


def _schedule(final: float, initial: float, begin: int, end: int, every: int, exponent: float) -> GradualSchedule:
    if end == begin:  # in one shot: from s_i = s_f, a second update right after it changes nothing
        return GradualSchedule(final, begin, begin + 1, 1, final)
    return GradualSchedule(final, begin, end, every, initial, exponent)
