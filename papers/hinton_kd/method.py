"""Distillation of class probabilities at a temperature.

G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", NIPS 2014 Deep Learning Workshop,
arXiv:1503.02531. Basis: the paper's text as quoted in public notes, and mdistiller's loss for parity. The equation numbers
below are ours.

Symbols
    z, v   logits [B, C] of student and teacher (the paper's cumbersome model)
    T      temperature;  q = softmax(z / T),  p = softmax(v / T)
    y      labels [B]

Method
    p = softmax(v / T), of an ensemble the mean of its members' p             (1)
    C_soft = -sum_i p_i log q_i                                              (2)   = KL(p || q) + H(p)
    C_hard = -log softmax(z)_y                                               (3)   at temperature 1
    L = w_hard C_hard + w_soft T^2 C_soft                                    (4)   means over the batch
    dC_soft / dz_i = (q_i - p_i) / T                                         (5)

T^2 stands on the soft term alone: its gradient falls as 1/T^2, and without the factor a change of T would change the balance
of (4). For large T, minimising (4) matches centred logits: T^2 KL -> ||z - v||^2 / (2C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytorch_lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.distillation.response import ensemble_probabilities, kd_loss_to, soft_cross_entropy_to
from common.distillation.teacher import Teacher
from common.schedules import Multiplier, one_cycle, polynomial, step_decay


class HintonKD(L.LightningModule):
    """Train a classifier from labels, from teachers, or from both. Without teachers it is the hard-label training.

    Args:
        network: the student, images [B, C, H, W] -> logits [B, classes].
        teachers: frozen teachers of the same classes; several are an ensemble.
        hard_weight: w_hard. 0 for a transfer set without labels.
        soft_weight: w_soft; without teachers it has no meaning and must be 0.
        temperature: T, of teacher and student alike.
        soft_loss: `"kl"` or `"cross_entropy"`: the same gradient, values that differ by T^2 H(p).
        ensemble_mean: `"arithmetic"` or `"geometric"` mean of the members' probabilities.
        max_norm: after every step, the incoming weights of each hidden neuron are scaled down to this length; 0: not.
        max_gradient_norm: L2 norm to which the gradient is clipped; 0: not. At high T the soft term grows like the squared
            distance of logits, and a rate that suits labels can then leave only dead units.
        lr: of SGD. momentum, nesterov, weight_decay: of it.
        schedule: `"step"` multiplies by 0.1 after each share of the training in `lr_drops`; `"one_cycle"` warms up over 30 % and
            anneals; `"polynomial"` falls linearly to 0.
        lr_drops: see `schedule`.

    Raises:
        ValueError: weights, temperature or max_norm out of range; a soft weight without a teacher, or the other way round;
            labels are asked for and the transfer set has none (at the start of the fit).
    """

    def __init__(
        self,
        network: nn.Module,
        teachers: Sequence[Teacher] = (),
        hard_weight: float = 0.1,
        soft_weight: float = 0.9,
        temperature: float = 4.0,
        soft_loss: Literal["kl", "cross_entropy"] = "kl",
        ensemble_mean: Literal["arithmetic", "geometric"] = "arithmetic",
        max_norm: float = 0.0,
        max_gradient_norm: float = 0.0,
        lr: float = 0.05,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        schedule: Literal["step", "one_cycle", "polynomial"] = "polynomial",
        lr_drops: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if min(hard_weight, soft_weight) < 0 or hard_weight + soft_weight == 0 or temperature <= 0:
            raise ValueError(
                f"{hard_weight=} and {soft_weight=} must not be negative nor both 0, and {temperature=} must be above 0"
            )
        if min(max_norm, max_gradient_norm) < 0:
            raise ValueError(f"{max_norm=} and {max_gradient_norm=} must not be negative")
        if bool(teachers) != (soft_weight > 0):
            raise ValueError(
                f"soft_weight is {soft_weight} and there are {len(teachers)} teachers: soft targets need a teacher, and a "
                "teacher is asked for nothing else; for training from labels alone give soft_weight=0 and no teacher"
            )
        if soft_loss not in ("kl", "cross_entropy"):
            raise ValueError(f"soft_loss is '{soft_loss}'; expected 'kl' or 'cross_entropy'")
        self.network = network
        self.teachers = tuple(teachers)
        self.hard_weight, self.soft_weight, self.temperature = hard_weight, soft_weight, temperature
        self.soft_loss, self.ensemble_mean = soft_loss, ensemble_mean
        self.max_norm, self.max_gradient_norm = max_norm, max_gradient_norm
        self.lr, self.momentum, self.nesterov, self.weight_decay = lr, momentum, nesterov, weight_decay
        self.schedule, self.lr_drops = schedule, tuple(lr_drops)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, classes]."""
        logits: Tensor = self.network(x)
        return logits

    def on_fit_start(self) -> None:
        """Refuse labels that are not there before the first step."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.hard_weight and not getattr(data, "labelled", True):
            raise ValueError(
                f"hard_weight is {self.hard_weight}, but the transfer set has no labels: give hard_weight=0"
            )

    def soft_targets(self, x: Tensor) -> Tensor:
        """p of equation (1), [B, classes]."""
        return ensemble_probabilities([teacher(x) for teacher in self.teachers], self.temperature, self.ensemble_mean)

    def distillation_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """T^2 C_soft, or T^2 KL, of logits [B, classes] against soft targets of the same shape: the soft term of (4)."""
        loss = kd_loss_to if self.soft_loss == "kl" else soft_cross_entropy_to
        return loss(logits, targets, self.temperature)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        logits = self.network(x)
        loss = logits.new_zeros(())
        if self.hard_weight:
            loss = loss + self.hard_weight * F.cross_entropy(logits, labels)  # (3)
        if self.soft_weight:
            loss = loss + self.soft_weight * self.distillation_loss(logits, self.soft_targets(x))  # (2)
        return loss  # (4)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        if self.max_gradient_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.max_gradient_norm)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.max_norm:
            constrain(self.network, self.max_norm)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(
            self.network.parameters(), self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._multiplier())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _multiplier(self) -> Multiplier:
        steps = int(self.trainer.estimated_stepping_batches)
        if self.schedule == "one_cycle":
            return one_cycle(steps)
        if self.schedule == "polynomial":
            return polynomial(steps)
        return step_decay([round(share * steps) for share in self.lr_drops])


@torch.no_grad()
def constrain(network: nn.Module, max_norm: float) -> None:
    """Scale the incoming weights of each neuron of every linear layer but the last down to the length `max_norm`."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    for layer in layers[:-1]:
        layer.weight.copy_(torch.renorm(layer.weight, p=2, dim=0, maxnorm=max_norm))


class Measured(L.LightningModule):
    """A network that comes with its weights and is only measured.

    Args:
        network: images [B, C, H, W] -> logits [B, classes].
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, classes]."""
        logits: Tensor = self.network(x)
        return logits
