"""PocketNet's architecture search: weights and architecture are trained in turn, on two halves of the data.

DARTS of second order (Liu, Simonyan, Yang, ICLR 2019) as the official code has it (github.com/fdbtrs/PocketNet, `NAS/`). A step

    g       = d_w L_train(w, alpha)                                       on a batch of the first half
    h       = d_alpha L_val(w - xi (mu v + g + lambda w), alpha)          on a batch of the other: `unrolled.unrolled_gradient`
    w      <- SGD step with g, clipped
    alpha  <- Adam step with h

L is the cross-entropy of a linear classifier on the embedding, w its weights and the network's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from papers.pocketnet.supernet import Supernet
from papers.pocketnet.unrolled import unrolled_gradient

Labelled = tuple[Tensor, Tensor]


class ArchitectureSearch(L.LightningModule):
    """Search two cells on labelled faces; the outcome is the genotype that `network.found` keeps.

    Phases: a fit, then the computation `discretise`. For data of the form of `halves.SearchHalves`, on one device.

    Args:
        supernet: the network that is searched.
        num_classes: identities; None takes the data module's.
        lr, lr_end: of SGD for w: from one to the other along a cosine, an epoch at a time. momentum, weight_decay: of the same.
        max_gradient_norm: L2 norm to which w's gradient is clipped.
        alpha_lr, alpha_betas, alpha_weight_decay: of Adam for alpha.
        enlarge: the images of the first half are enlarged by this factor and a random part of the old size is cut out
            (paper: 112 -> 128 pixels); 1 leaves them as they are.

    Raises:
        ValueError: `enlarge` is below 1.
    """

    def __init__(
        self,
        supernet: Supernet,
        num_classes: int | None = None,
        lr: float = 0.1,
        lr_end: float = 0.004,
        momentum: float = 0.9,
        weight_decay: float = 3e-4,
        max_gradient_norm: float = 5.0,
        alpha_lr: float = 1.2e-3,
        alpha_betas: tuple[float, float] = (0.5, 0.999),
        alpha_weight_decay: float = 1e-3,
        enlarge: float = 128 / 112,
    ) -> None:
        super().__init__()
        if enlarge < 1:
            raise ValueError(f"enlarge is {enlarge}, but must be a factor of at least 1")
        self.automatic_optimization = False
        self.network = supernet
        self.lr, self.lr_end, self.momentum, self.weight_decay = lr, lr_end, momentum, weight_decay
        self.max_gradient_norm, self.enlarge = max_gradient_norm, enlarge
        self.alpha_lr, self.alpha_weight_decay = alpha_lr, alpha_weight_decay
        self.alpha_betas = (float(alpha_betas[0]), float(alpha_betas[1]))  # may come as a list
        self.classifier: Any = None
        if num_classes is not None:
            self._make_classifier(num_classes)

    def _make_classifier(self, num_classes: int) -> None:
        self.classifier = nn.Linear(self.network.embedding_size, num_classes)

    def prepare(self, data: Any) -> None:
        """Make the classifier when the data module has said how many identities there are."""
        if self.classifier is None:
            self._make_classifier(int(data.num_classes))

    def configure_model(self) -> None:
        """Lightning's hook for the same."""
        self.prepare(self.trainer.datamodule)  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> embedding [B, D]."""
        embedding: Tensor = self.network(x)
        return embedding

    def weights(self) -> dict[str, nn.Parameter]:
        """w by name: everything that is trained but alpha."""
        return {name: p for name, p in self.named_parameters() if not name.startswith("network.alphas.")}

    def alphas(self) -> dict[str, nn.Parameter]:
        """alpha by name."""
        return {name: p for name, p in self.named_parameters() if name.startswith("network.alphas.")}

    def configure_optimizers(self) -> Any:
        if self.trainer.world_size > 1:
            raise ValueError("a search runs on one device: its look-ahead gradient is not shared between processes")
        epochs = self.trainer.max_epochs
        if not epochs or epochs < 1:
            raise ValueError("a search needs its length in epochs, for the schedule of its rate")
        w = torch.optim.SGD(self.weights().values(), self.lr, self.momentum, weight_decay=self.weight_decay)
        alpha = torch.optim.Adam(
            self.alphas().values(), self.alpha_lr, self.alpha_betas, weight_decay=self.alpha_weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            w, lambda epoch: cosine_rate(self.lr, self.lr_end, epoch / epochs) / self.lr
        )
        return [w, alpha], [schedule]

    def training_step(self, batch: tuple[Labelled, Labelled], batch_idx: int) -> Tensor:
        (x, labels), held_out = batch
        train = (enlarged_crop(x, self.enlarge), labels)
        steps: Any = self.optimizers()
        w, alpha = steps[0], self.trainer.optimizers[1]  # Lightning counts the steps of the first alone
        weights, alphas = self.weights(), self.alphas()
        loss = F.cross_entropy(self.classifier(self.network(train[0])), labels)
        gradient = torch.autograd.grad(loss, [*weights.values()])
        ahead = self._look_ahead(train, held_out, gradient, w)
        for parameter, d in zip((*weights.values(), *alphas.values()), (*gradient, *ahead), strict=True):
            parameter.grad = d
        nn.utils.clip_grad_norm_(weights.values(), self.max_gradient_norm)
        w.step()
        alpha.step()
        self.log("train/loss", loss.detach())
        return loss.detach()

    def _look_ahead(
        self, train: Labelled, held_out: Labelled, gradient: Sequence[Tensor], optimizer: Any
    ) -> list[Tensor]:
        """h for every table of alpha."""
        weights, alphas = self.weights(), self.alphas()
        state, group = optimizer.state, optimizer.param_groups[0]
        zeros = [torch.zeros_like(p) for p in weights.values()]
        velocity = [
            state[p]["momentum_buffer"] if p in state else zero for p, zero in zip(weights.values(), zeros, strict=True)
        ]

        def loss_on(part: Labelled) -> Any:
            return lambda w, a: self.loss_at(dict(zip((*weights, *alphas), (*w, *a), strict=True)), *part)

        return unrolled_gradient(
            loss_on(train),
            loss_on(held_out),
            [p.detach() for p in weights.values()],
            list(alphas.values()),
            gradient,
            velocity,
            group["lr"],
            self.momentum,
            self.weight_decay,
        )

    def loss_at(self, parameters: dict[str, Tensor], x: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy with other parameters; batch statistics are not added to the running ones."""
        inside = {name.removeprefix("network."): p for name, p in parameters.items() if name.startswith("network.")}
        inside |= {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        embedding = functional_call(self.network, inside, (x,))
        logits = F.linear(embedding, parameters["classifier.weight"], parameters["classifier.bias"])
        return F.cross_entropy(logits, labels)

    def on_train_epoch_end(self) -> None:
        schedule: Any = self.lr_schedulers()
        schedule.step()

    def discretise(self, data: Any) -> None:
        """Write the strongest cells into the network's buffer."""
        self.network.found.keep(self.network.alphas.genotype())


def cosine_rate(start: float, end: float, progress: float) -> float:
    """Learning rate after a share of the training, from `start` to `end` along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def enlarged_crop(x: Tensor, factor: float) -> Tensor:
    """Enlarge images [B, C, H, W] bilinearly and cut a random H x W part out of each; a factor of 1 changes nothing."""
    height, width = x.shape[-2:]
    larger = (round(height * factor), round(width * factor))
    if larger == (height, width):
        return x
    big = F.interpolate(x, larger, mode="bilinear", align_corners=False)
    tops = torch.randint(larger[0] - height + 1, (len(x),)).tolist()
    lefts = torch.randint(larger[1] - width + 1, (len(x),)).tolist()
    cut = [image[:, t : t + height, s : s + width] for image, t, s in zip(big, tops, lefts, strict=True)]
    return torch.stack(cut).contiguous(memory_format=torch.channels_last)
