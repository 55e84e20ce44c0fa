"""QuantFace: low-bit face recognition by distilling a network into its own quantised copy, without labels.

F. Boutros, N. Damer, A. Kuijper, "QuantFace: Towards Lightweight Face Recognition by Synthetic Data Low-bit Quantization",
ICPR 2022, pp. 855-862, arXiv:2206.10526. Basis: the official code (github.com/fdbtrs/QuantFace, commit a603c26), read and
not copied. The equation numbers below are ours.

Symbols
    x        faces, [B, 3, H, W], RGB, (pixel - 127.5) / 127.5
    T        teacher: the trained full-precision network, fixed, in eval mode
    S        student: T with weights of b_w bits and activations of b_a bits, in train mode
    f_T, f_S embeddings divided by their L2 norm, [B, D]
    [a, b]   range of a tensor: of a weight, per output channel, from its present values; of an activation, the extremes
             seen while ranges are tracked
    k        bits (b_w for weights, b_a for activations); n = 2^k - 1

Quantiser (`common.quantization`)
    s  = n / max(b - a, 1e-8)                               (1)   codes per unit
    z  = round(s a) + 2^(k-1)                               (2)
    q  = clamp(round(s r - z), -2^(k-1), 2^(k-1) - 1)       (3)   r: a weight or an activation
    r^ = (q + z) / s                                        (4)   d r^ / d r := 1, also where (3) clips
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import pytorch_lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.quantization import RangeSchedule, freeze_ranges, quantize_network, unfreeze_ranges
from common.schedules import rate_for_batch, step_decay
from common.weights import load_weights


class QuantFace(L.LightningModule):
    """Fine-tune the quantised copy S of a trained network T until it embeds faces as T does.

    Args:
        backbone: the network, [B, 3, H, W] -> [B, D]; T and S are made from it.
        weights: file of T's trained parameters (`.safetensors`, or a PyTorch checkpoint that holds only tensors). None takes the
            backbone as it is, for a backbone that comes with its weights.
        weight_bits: b_w, 2..8. activation_bits: b_a, 2..8. The paper uses the same for both: 8 or 6.
        weight_granularity: `"per_channel"` (the paper) or `"per_tensor"` (our ablation) ranges of the weights.
        tracked_steps: activation ranges widen during this many first steps and are fixed afterwards.
        lr: SGD learning rate at a total batch of `reference_batch`, scaled in proportion to the batch that is used.
        reference_batch: see `lr`; 0 takes `lr` as it is.
        momentum, weight_decay: of SGD with Nesterov momentum.
        lr_drops: shares of the training after which the rate is multiplied by 0.1. The paper's real-data run has none, its
            synthetic-data run one, before the last of 11 epochs: (10 / 11,).
        max_gradient_norm: L2 norm to which S's gradient is clipped.
        batch_statistics: True (official code): BatchNorm of S uses and updates batch statistics. False keeps T's statistics.

    Raises:
        FileNotFoundError, WeightsMismatchError: `weights` is missing or belongs to another network (the official code goes on
            with random weights).
    """

    def __init__(
        self,
        backbone: nn.Module,
        weights: str | None = None,
        weight_bits: int = 8,
        activation_bits: int = 8,
        weight_granularity: Literal["per_channel", "per_tensor"] = "per_channel",
        tracked_steps: int = 299,
        lr: float = 0.1,
        reference_batch: int = 512,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        lr_drops: tuple[float, ...] = (),
        max_gradient_norm: float = 5.0,
        batch_statistics: bool = True,
    ) -> None:
        super().__init__()
        if weights is not None:
            load_weights(backbone, weights)
        self.teacher = copy.deepcopy(backbone).requires_grad_(False).eval()
        self.student = quantize_network(backbone, weight_bits, activation_bits, weight_granularity=weight_granularity)
        self.ranges = RangeSchedule(last_step=tracked_steps)
        self.tracked_steps = tracked_steps
        self.lr, self.reference_batch = lr, reference_batch
        self.momentum, self.weight_decay = momentum, weight_decay
        self.lr_drops = lr_drops
        self.max_gradient_norm = max_gradient_norm
        self.batch_statistics = batch_statistics

    @property
    def network(self) -> nn.Module:
        """What is deployed and measured: S."""
        return self.student

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> embedding of S, [B, D], not normalised."""
        embedding: Tensor = self.student(x)
        return embedding

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, _ = batch  # labels are never used: any faces will do
        f_s = F.normalize(self.student(x))
        with torch.no_grad():
            f_t = F.normalize(self.teacher(x))
        loss = distillation_loss(f_s, f_t)
        self.log("train/loss", loss, sync_dist=True)
        self.log("train/cosine", 1 - loss.detach() * f_s.shape[1] / 2, sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, _ = batch
        cosine = F.cosine_similarity(self.student(x), self.teacher(x)).mean()
        self.log("val/cosine", cosine, batch_size=len(x))  # to choose settings by, without labels

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.ranges.tracks(self.global_step + 1, self.current_epoch + 1):
            unfreeze_ranges(self.student)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        freeze_ranges(self.student)  # whatever comes next, validation above all, must not widen the ranges

    def calibrate(self, data: L.LightningDataModule) -> None:
        """Post-training quantization, the suite's control: track the ranges over `tracked_steps` batches and train nothing.

        BatchNorm keeps T's statistics, weights stay T's rounded to b_w bits.
        """
        self.student.eval()
        unfreeze_ranges(self.student)
        passes = 0
        with torch.no_grad():
            while passes < self.tracked_steps:
                for x, _ in data.train_dataloader():
                    self.student(x.to(self.device, self.dtype))
                    passes += 1
                    if passes == self.tracked_steps:
                        break
        freeze_ranges(self.student)

    def train(self, mode: bool = True) -> QuantFace:
        """Train mode is S's; T stays in eval mode, and S's BatchNorm too if it keeps T's statistics."""
        super().train(mode)
        self.teacher.eval()
        if not self.batch_statistics:
            for module in self.student.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def on_train_start(self) -> None:
        self.train()

    def configure_optimizers(self) -> Any:
        lr = rate_for_batch(self.lr, self.reference_batch, self.trainer)
        trained = [p for p in self.student.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(
            trained, lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.momentum > 0
        )
        steps = self.trainer.estimated_stepping_batches
        schedule = step_decay([round(share * steps) for share in self.lr_drops])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, schedule), "interval": "step"},
        }

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        nn.utils.clip_grad_norm_(self.student.parameters(), self.max_gradient_norm)


def distillation_loss(f_s: Tensor, f_t: Tensor) -> Tensor:
    """Mean over batch and dimensions of the squared difference of unit embeddings, [B, D] each -> scalar.

    Eq. 5: L = 1/(B D) sum (f_S - f_T)^2 = 2/D (1 - mean cos). The 1/D sets the effective learning rate: it is not a sum.
    """
    return F.mse_loss(f_s, f_t)
