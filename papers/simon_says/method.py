"""Simon Says: prune filters step by step while the unpruned network teaches, so that pruning moves the errors less unevenly.

C. Blakeney, N. Huish, Y. Yan, Z. Zong, "Simon Says: Evaluating and Mitigating Bias in Pruned Neural Networks with Knowledge
Distillation", 2021, arXiv:2106.07849. Basis: the abstract and the official code (github.com/codestar12/pruning-distilation-bias,
commits fea1456 and 3e0c199) with its result notebooks, read and not copied; the text of the paper was not read.

Symbols
    s(t)       share of the filters of every layer that is pruned at epoch t = 1, 2, ...
    z_s, z_t   logits of student and teacher [B, K];  F_s, F_t  responses of their stages and of the pooling
    y          labels [B];  T temperature, 4

Method
    s(t) = s_f + (s_0 - s_f) (1 - (t - t_0) / span)^3,  span = floor((t_end - t_0 - 1) / freq) freq              (1)
        before epoch t = t_0, t_0 + freq, ... < t_end; masks stay from t_end on
    of every convolution and linear layer but the last, the share s(t) of filters with the smallest L1 norm is zeroed   (2)
    L = gamma CE(z_s, y) + alpha KL_T(z_t, z_s) + beta L_feat(F_s, F_t)                                          (3)

The student is a copy of its teacher. Filters are masked and not removed: a pruned one still emits its normalisation's shift.
What CEV and SDE say of several such students is measured in `papers.simon_says.population`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.distillation.contrastive import CRD
from common.distillation.feature import attention_transfer
from common.distillation.relation import probabilistic_knowledge_transfer, similarity_preserving
from common.distillation.response import kd_loss
from common.distillation.taps import FeatureTaps
from common.distillation.teacher import Teacher
from common.pruning import Masks
from common.pruning.filters import filter_norms
from common.pruning.schedules import GradualSchedule
from common.schedules import step_decay
from common.weights import load_weights

Features = Sequence[Tensor]  # of the stages, front to back, and the pooled vector [B, D]


def attention(student: Features, teacher: Features) -> Tensor:
    """AT: sum over stages of the mean squared difference of unit attention maps."""
    pairs = zip(student[:-1], teacher[:-1], strict=True)
    return torch.stack([attention_transfer(s, t) for s, t in pairs]).sum()


def hints(student: Features, teacher: Features) -> Tensor:
    """AllHint: sum over stages of the mean squared difference of the maps. The paper's rows "FSP" are this."""
    pairs = zip(student[:-1], teacher[:-1], strict=True)
    return torch.stack([F.mse_loss(s, t) for s, t in pairs]).sum()


def similarity(student: Features, teacher: Features) -> Tensor:
    """SP on the last map."""
    return similarity_preserving(student[-2], teacher[-2])


def probabilities(student: Features, teacher: Features) -> Tensor:
    """PKT on the pooled vector, mean over all pairs."""
    return probabilistic_knowledge_transfer(student[-1], teacher[-1])


FEATURE_LOSSES: Mapping[str, Callable[[Features, Features], Tensor]] = {
    "at": attention,
    "hints": hints,
    "sp": similarity,
    "pkt": probabilities,
}
CONTRASTIVE = "crd"  # keeps a memory, so it is a module and no function


def agp(initial: float, final: float, begin: int, end: int, every: int) -> GradualSchedule:
    """(1): pruning falls on epochs begin, begin + every, ..., all before `end`.

    The official code at its head asks for `epoch % freq == 1`, which with its freq = 1 never holds: it never prunes.
    """
    return GradualSchedule(final, begin, begin + (end - begin - 1) // every * every, every, initial)


@torch.no_grad()
def keep_largest(weight: Tensor, rate: float, structured: bool) -> Tensor:
    """(2) for one layer: bool mask of the weight's shape; round(rate n) of n filters, or of n weights, are False.

    What is zero already is smallest and goes first, so the rate is of the whole layer and not of what is left.
    """
    sizes = filter_norms(weight) if structured else weight.abs().flatten()
    kept = torch.ones(len(sizes), dtype=torch.bool, device=weight.device)
    kept[sizes.argsort(stable=True)[: round(rate * len(sizes))]] = False
    return kept.view(-1, *[1] * (weight.ndim - 1)).expand_as(weight) if structured else kept.view_as(weight)


class SimonSays(L.LightningModule):
    """Gradual pruning under distillation. With `sparsity=0` and no weights: the unpruned network, trained from labels.

    Args:
        network: images [B, C, H, W] -> logits [B, K].
        teacher: the unpruned network, frozen and in eval mode; None where alpha and beta are 0.
        weights: of the unpruned network, from which the student starts.
        sparsity, initial_sparsity: s_f and s_0. begin: t_0. end_share: t_end as a share of the epochs. every: freq, in epochs.
        structured: whole filters, or single weights by their magnitude.
        gamma, alpha, beta, temperature: of (3). feature: L_feat: `"at"`, `"hints"`, `"sp"`, `"pkt"`, `"crd"` or None.
        stages, pooled, classifier: names of modules: whose maps and vector L_feat compares, and the layer that is not pruned.
        negatives: of CRD, with `datasets.retraining.Retraining(numbered=True)`.
        lr, momentum, weight_decay: of SGD. drops: shares of the epochs after which the rate is divided by 10.

    Raises:
        ValueError: an argument out of its range; a teacher's weight without a teacher.
    """

    pruned_epoch: Tensor

    def __init__(
        self,
        network: nn.Module,
        teacher: Teacher | None = None,
        weights: str | None = None,
        sparsity: float = 0.45,
        initial_sparsity: float = 0.05,
        begin: int = 1,
        end_share: float = 0.75,
        every: int = 5,
        structured: bool = True,
        gamma: float = 1.0,
        alpha: float = 0.0,
        beta: float = 0.0,
        feature: str | None = None,
        temperature: float = 4.0,
        stages: Sequence[str] = ("layer1", "layer2", "layer3"),
        pooled: str = "pool",
        classifier: str = "fc",
        negatives: int = 16_384,
        lr: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        drops: Sequence[float] = (150 / 240, 180 / 240, 210 / 240),
    ) -> None:
        super().__init__()
        if not 0 <= sparsity < 1 or min(gamma, alpha, beta) < 0 or not 0 < end_share <= 1:
            raise ValueError(
                f"{sparsity=} must lie in [0, 1), {end_share=} in (0, 1]; {gamma=}, {alpha=}, {beta=} be >= 0"
            )
        if feature not in (None, CONTRASTIVE, *FEATURE_LOSSES):
            raise ValueError(f"{feature=}; expected one of {', '.join((*FEATURE_LOSSES, CONTRASTIVE))}, or None")
        if (alpha or beta) and teacher is None:
            raise ValueError(f"{alpha=} and {beta=} weigh a teacher, but there is none")
        if bool(beta) != (feature is not None):
            raise ValueError(f"{beta=} and {feature=}: a feature loss needs a weight, and a weight a feature loss")
        if weights is not None:
            load_weights(network, weights)
        self.network, self.teacher = network, teacher
        self.masks = Masks(network, dense=(classifier,))
        self.sparsity, self.initial_sparsity = sparsity, min(initial_sparsity, sparsity)
        self.begin, self.end_share, self.every, self.structured = begin, end_share, every, structured
        self.gamma, self.alpha, self.beta = gamma, alpha, beta
        self.feature, self.temperature = feature, temperature
        self.features_of, self.classifier, self.negatives = (*stages, pooled), classifier, negatives
        self.lr, self.momentum, self.weight_decay, self.drops = lr, momentum, weight_decay, tuple(drops)
        self.taps = FeatureTaps(network, self.features_of) if feature else None
        self.teacher_taps = FeatureTaps(teacher.network, self.features_of) if feature and teacher else None
        self.crd: CRD | None = None
        self.register_buffer("pruned_epoch", torch.tensor(0))

    def prepare(self, data: Any) -> None:
        """Make CRD's memory, which has one row for every training image."""
        if self.feature == CONTRASTIVE and self.crd is None:
            size = int(self.network.get_submodule(self.classifier).in_features)  # type: ignore[arg-type]
            self.crd = CRD(size, size, images=len(data.training_labels()), negatives=self.negatives)

    def configure_model(self) -> None:
        """Lightning's hook for the same."""
        self.prepare(self.trainer.datamodule)  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, K]."""
        logits: Tensor = self.network(x)
        return logits

    def on_train_epoch_start(self) -> None:
        """(1) and (2): prune before the epoch is trained; once, also where a killed run goes on in its middle."""
        if not self.sparsity:
            return
        epochs, epoch = int(self.trainer.max_epochs or 0), self.current_epoch + 1
        end = int(self.end_share * epochs)
        schedule = agp(self.initial_sparsity, self.sparsity, self.begin, end, self.every)
        if schedule.prunes_at(epoch) and int(self.pruned_epoch) < epoch:
            self.prune(schedule.formula(epoch))
            self.pruned_epoch.fill_(epoch)

    def prune(self, rate: float) -> None:
        """(2): the share `rate` of every layer but the classifier."""
        self.masks.set({n: keep_largest(w, rate, self.structured) for n, w in self.masks.weights.items()})

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        x, y = batch[0], batch[1]
        z_s = self.network(x)
        loss: Tensor = self.gamma * F.cross_entropy(z_s, y)
        if self.teacher is None:
            return loss
        z_t = self.teacher(x)
        if self.alpha:
            loss = loss + self.alpha * kd_loss(z_s, z_t, self.temperature)
        if self.taps is not None and self.teacher_taps is not None:
            student, teacher = (self._features(taps) for taps in (self.taps, self.teacher_taps))
            loss = loss + self.beta * self._feature_loss(student, teacher, batch)
        return loss  # (3)

    def _features(self, taps: FeatureTaps) -> list[Tensor]:
        found = taps.take()
        return [found[path] for path in self.features_of]

    def _feature_loss(self, student: Features, teacher: Features, batch: Sequence[Tensor]) -> Tensor:
        if self.crd is None:
            return FEATURE_LOSSES[str(self.feature)](student, teacher)
        if len(batch) < 3:
            raise ValueError(
                "CRD has to know which images a batch holds: use datasets.retraining.Retraining(numbered=True)"
            )
        found: Tensor = self.crd(student[-1], teacher[-1], batch[2])
        return found

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(
            [p for p in self.parameters() if p.requires_grad], self.lr, self.momentum, weight_decay=self.weight_decay
        )
        self.masks.guard(optimizer)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, step_decay([round(share * steps) for share in self.drops])
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
