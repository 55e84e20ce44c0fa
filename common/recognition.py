"""Train a recogniser from labels: an embedding network under a margin head. The full-precision baseline of many papers."""

from __future__ import annotations

from typing import Any, Literal

import pytorch_lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import heads
from common.heads.sharded_checkpoint import own_in_checkpoint, whole_in_checkpoint
from common.heads.sharded_partial_fc import ShardedPartialFC
from common.schedules import Multiplier, one_cycle, polynomial, rate_for_batch, step_decay
from common.weights import load_weights


class FaceRecognizer(L.LightningModule):
    """An embedding network and the class weights of a margin head, trained with cross entropy by SGD.

    The defaults are those of InsightFace's arcface_torch as QuantFace uses it (ArcFace, step decay).

    Args:
        backbone: the network, [B, 3, H, W] -> [B, D].
        head: name of a head in `common.heads`, e.g. `"ArcFace"`, `"CosFace"`; `"ShardedPartialFC"` spreads the class weights over
            the devices of a fit, `head_options={"head": "ArcFace", "sample_rate": 0.1}` (needed from some 100,000 classes on).
        scale: logit scale s. margin: m, in radians (ArcFace) or cosine (CosFace).
        head_options: further arguments of the head, e.g. `{"gradient": "autograd"}` for QuantFace's ArcFace.
        embedding_size: D.
        num_classes: identities; None takes the data module's `num_classes`.
        lr: learning rate at a total batch of `reference_batch`, scaled in proportion; `reference_batch=0` takes it as it is.
        schedule: `"step"` multiplies by 0.1 after each share of the training in `lr_drops`; `"one_cycle"` warms up over 30 % and
            anneals; `"polynomial"` falls linearly to 0.
        margin_warm_up: share of the training over which the margin grows from 0 to `margin`; 0 uses it from the start.
        momentum, nesterov, weight_decay: of SGD.
        decay_norms: False exempts BatchNorm, PReLU and biases from weight decay (InsightFace decays everything).
        max_gradient_norm: L2 norm to which the backbone's gradient is clipped (the head's is not).
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: str = "ArcFace",
        scale: float = 64.0,
        margin: float = 0.5,
        head_options: dict[str, Any] | None = None,
        embedding_size: int = 128,
        num_classes: int | None = None,
        lr: float = 0.1,
        reference_batch: int = 512,
        schedule: Literal["step", "one_cycle", "polynomial"] = "step",
        lr_drops: tuple[float, ...] = (7 / 16, 13 / 16),
        margin_warm_up: float = 0.0,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 5e-4,
        decay_norms: bool = True,
        max_gradient_norm: float = 5.0,
    ) -> None:
        super().__init__()
        self.network = backbone
        self.head_name, self.scale, self.margin = head, scale, margin
        self.head_options = head_options or {}
        self.embedding_size, self.num_classes = embedding_size, num_classes
        self.lr, self.reference_batch = lr, reference_batch
        self.schedule, self.lr_drops, self.margin_warm_up = schedule, lr_drops, margin_warm_up
        self.momentum, self.nesterov, self.weight_decay, self.decay_norms = (
            momentum,
            nesterov,
            weight_decay,
            decay_norms,
        )
        self.max_gradient_norm = max_gradient_norm
        self.head: Any = None
        if num_classes is not None:
            self._make_head(num_classes)

    def _make_head(self, num_classes: int) -> None:
        head_class = getattr(heads, self.head_name, None)
        if head_class is None:
            raise ValueError(f"common.heads has no head '{self.head_name}'; it has {', '.join(heads.__all__)}")
        options = {"scale": self.scale, "margin": self.margin, **self.head_options}
        self.head = head_class(self.embedding_size, num_classes, **options)

    def prepare(self, data: Any) -> None:
        """Make the head when the data module has said how many identities there are."""
        if self.head is None:
            self._make_head(int(data.num_classes))

    def configure_model(self) -> None:
        """Lightning's hook for the same, in the process group of a fit on several devices."""
        self.prepare(self.trainer.datamodule)  # type: ignore[attr-defined]
        if isinstance(self.head, ShardedPartialFC):
            self.head.spread()
            others = getattr(self, "_ddp_params_and_buffers_to_ignore", [])
            self._ddp_params_and_buffers_to_ignore = [*others, *self.head.unshared("head")]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint holds the class weights of all devices."""
        if isinstance(self.head, ShardedPartialFC):
            whole_in_checkpoint(checkpoint, self.head, "head", self.trainer.optimizers)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Each device takes its part."""
        if isinstance(self.head, ShardedPartialFC):
            own_in_checkpoint(checkpoint, self.head)

    def on_fit_end(self) -> None:
        """What is stored after a fit is whole."""
        if isinstance(self.head, ShardedPartialFC):
            self.head.collect()

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> embedding [B, D], not normalised."""
        embedding: Tensor = self.network(x)
        return embedding

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        loss = self.classification_loss(self.network(x), labels)
        self.log("train/loss", loss, sync_dist=True)
        return loss

    def classification_loss(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy of the head for embeddings [B, D] and labels [B], at the margin of the present step."""
        assert self.head is not None
        if self.margin_warm_up:
            progress = self.global_step / self.trainer.estimated_stepping_batches
            self.head.margin = self.margin * min(1.0, progress / self.margin_warm_up)
        if isinstance(self.head, ShardedPartialFC):
            loss: Tensor = self.head(embedding, labels)
            return loss
        return F.cross_entropy(self.head(embedding, labels), labels)

    def configure_optimizers(self) -> Any:
        lr = rate_for_batch(self.lr, self.reference_batch, self.trainer)
        trained = [p for p in self.parameters() if p.requires_grad]
        if self.decay_norms:
            groups: list[dict[str, Any]] = [{"params": trained}]
        else:
            groups = [
                {"params": [p for p in trained if p.ndim > 1]},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ]
        optimizer = torch.optim.SGD(groups, lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._multiplier())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _multiplier(self) -> Multiplier:
        steps = int(self.trainer.estimated_stepping_batches)
        if self.schedule == "one_cycle":
            return one_cycle(steps)
        if self.schedule == "polynomial":
            return polynomial(steps)
        return step_decay([round(share * steps) for share in self.lr_drops])

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_gradient_norm)


class Pretrained(L.LightningModule):
    """A network that comes with its weights and is only measured.

    Args:
        backbone: the network. weights: its file (`.safetensors`, or a PyTorch checkpoint that holds only tensors).
    """

    def __init__(self, backbone: nn.Module, weights: str) -> None:
        super().__init__()
        load_weights(backbone, weights)
        self.network = backbone

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> embedding [B, D], not normalised."""
        embedding: Tensor = self.network(x)
        return embedding
