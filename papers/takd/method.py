"""TAKD: a student that is too small for its teacher learns from a teaching assistant of a size in between.

S. I. Mirzadeh, M. Farajtabar, A. Li, N. Levine, A. Matsukawa, H. Ghasemzadeh, "Improved Knowledge Distillation via Teacher
Assistant", AAAI 2020, arXiv:1902.03393. Basis: the paper's text and the official code
(github.com/imirzadeh/Teacher-Assistant-Knowledge-Distillation, commit 0f8168f), read and not copied.

Symbols
    a_s, a_t   logits of student and teacher, [B, C]
    y          labels in 0..C-1, [B]
    T          temperature > 0 (the paper's tau); lam: weight of the teacher, in [0, 1]
    N_0 > N_1 > ... > N_k = S    networks of falling capacity

Method
    L_SL = mean_B CE(softmax(a_s), y)                              (1)
    L_KD = T^2 KL( softmax(a_t / T) || softmax(a_s / T) )          (2)   summed over classes, mean over the batch
    L    = (1 - lam) L_SL + lam L_KD                               (3)
    N_0 is trained by (1); N_i from scratch by (3) with N_(i-1), the best of its own training, as the teacher   (4)

This module is one hop of (4): one network, trained from scratch. A chain is arms, each of which takes the weights of the arm
before (`papers.takd.family.Chain.path`); every arm is stored, so that paths share their beginnings and a killed chain goes on
at the hop that was killed. Without a teacher it is the paper's NOKD; with N_0 as the teacher of S it is BLKD.

The official code takes PyTorch's default mean over all entries in (2), C times less than the equation: published values of
lam and T belong to `kl_reduction="official_mean"`.
"""

from __future__ import annotations

from typing import Any, Literal

import pytorch_lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.distillation.response import kd_loss
from common.distillation.teacher import Teacher
from common.pruning import KeptState
from papers.takd.heuristic import Assistants, validation_accuracy
from papers.takd.schedule import Schedule, by_step, epoch_rates

REDUCTIONS: dict[str, Literal["batchmean", "mean"]] = {"batchmean": "batchmean", "official_mean": "mean"}
SELECTIONS = ("last", "val")


class TAKD(L.LightningModule):
    """One hop: train a network from scratch by (3).

    Args:
        network: N_i, images [B, C, H, W] -> logits [B, classes].
        teacher: N_(i-1), frozen and in eval mode; None trains by (1).
        teaching_assistants: in place of `teacher`: choose among several by the paper's heuristic, in the phase `choose`.
        lam, temperature: of (3) and (2). With `lam=0` nobody is asked.
        kl_reduction: `"batchmean"` is (2); `"official_mean"` divides it by the number of classes.
        lr, schedule, drops: see `epoch_rates`. momentum, nesterov, weight_decay: of SGD, on all parameters.
        select: `"val"` ends with the weights of the epoch that was right on most validation images (of equals the last one),
            `"last"` with those of the last epoch. Never on test images.
        watch_test: count the test images that every epoch is right on. The paper reports the best of these counts; here it
            decides nothing.

    Raises:
        ValueError: an argument out of its range; a teacher's weight without a teacher.
    """

    best_accuracy: Tensor
    best_on_test: Tensor
    chosen: Tensor

    def __init__(
        self,
        network: nn.Module,
        teacher: Teacher | None = None,
        teaching_assistants: Assistants | None = None,
        lam: float = 0.5,
        temperature: float = 5.0,
        kl_reduction: str = "batchmean",
        lr: float = 0.1,
        schedule: Schedule = "paper",
        drops: tuple[float, ...] = (80 / 150, 120 / 150),
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float = 1e-4,
        select: str = "val",
        watch_test: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= lam <= 1 or temperature <= 0:
            raise ValueError(f"lam is {lam} and must lie in [0, 1]; temperature is {temperature} and must be positive")
        if kl_reduction not in REDUCTIONS or select not in SELECTIONS:
            raise ValueError(
                f"{kl_reduction=}, {select=}; expected one of {', '.join(REDUCTIONS)} and one of {', '.join(SELECTIONS)}"
            )
        if lam and teacher is None and teaching_assistants is None:
            raise ValueError(f"lam is {lam}, but there is no teacher; give one, or lam=0 to train from labels alone")
        epoch_rates(schedule, 1, lr, drops)
        self.network = network
        self.given_teacher, self.assistants = teacher, teaching_assistants
        self.lam, self.temperature, self.kl_reduction = lam, temperature, kl_reduction
        self.lr, self.schedule, self.drops = lr, schedule, tuple(drops)
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay
        self.select, self.watch_test = select, watch_test
        self.best = KeptState(network) if select == "val" else None
        self.register_buffer("best_accuracy", torch.tensor(-1.0, dtype=torch.float64))
        self.register_buffer("best_on_test", torch.tensor(-1.0, dtype=torch.float64))
        self.register_buffer("chosen", torch.tensor(-1))

    @property
    def teacher(self) -> Teacher | None:
        """N_(i-1): the given one, or the chosen assistant as N_0 has taught it."""
        if self.assistants is None:
            return self.given_teacher
        if int(self.chosen) < 0:
            raise RuntimeError("no assistant has been chosen: run the phase that computes `choose` first")
        return self.assistants.distilled[int(self.chosen)]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, classes]; T is 1 here."""
        logits: Tensor = self.network(x)
        return logits

    def choose(self, data: Any) -> None:
        """The paper's heuristic: the assistant whose own accuracy alone is nearest to the mean of teacher's and student's."""
        if self.assistants is None:
            raise ValueError("there are no assistants to choose from")
        self.chosen.fill_(self.assistants.nearest(data))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        teacher = self.teacher if self.lam else None
        a_s = self.network(x)
        l_sl = F.cross_entropy(a_s, y)  # (1)
        if teacher is None:
            return l_sl
        a_t = teacher(x)
        if a_t.shape != a_s.shape:
            raise ValueError(
                f"the teacher answers with {a_t.shape[1]} classes, the student with {a_s.shape[1]}: both must be trained "
                "on the same classes"
            )
        l_kd = kd_loss(a_s, a_t, self.temperature, reduction=REDUCTIONS[self.kl_reduction])  # (2)
        loss: Tensor = (1 - self.lam) * l_sl + self.lam * l_kd  # (3)
        return loss

    def on_train_epoch_end(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.network.eval()
        if self.best is not None:
            accuracy = validation_accuracy(self.network, data, self.device)
            if accuracy >= float(self.best_accuracy):
                self.best_accuracy.fill_(accuracy)
                self.best.keep(self.network)
        if self.watch_test:
            with torch.no_grad():
                on = [(x.to(self.device), y.to(self.device)) for x, y in data.loader("test")]
                right = sum(int((self.network(x).argmax(1) == y).sum()) for x, y in on)
            self.best_on_test.fill_(max(float(self.best_on_test), right / sum(len(y) for _, y in on)))
        self.network.train()

    def on_train_end(self) -> None:
        """(4): what is kept, measured and teaches the next hop is the best of this one's training."""
        if self.best is not None:
            self.best.restore(self.network)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(
            self.network.parameters(), self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )
        steps = int(self.trainer.estimated_stepping_batches)
        an_epoch = min(int(self.trainer.num_training_batches), steps)
        rates = epoch_rates(self.schedule, max(1, round(steps / an_epoch)), self.lr, self.drops)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, by_step(rates, self.lr, an_epoch))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
