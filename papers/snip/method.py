"""SNIP: prune a network once, before training, by how strongly each connection influences the loss of one mini-batch.

N. Lee, T. Ajanthan, P. H. S. Torr, "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019,
arXiv:1810.02340. Basis: the text of the submission and the official TensorFlow code (github.com/namhoonlee/snip-public,
commit f028496), read and not copied. The equation numbers below are ours.

Symbols
    w      parameters of convolutions and linear layers, biases included, m in number; normalisations are not pruned
    c      indicators in {0, 1}^m, one a parameter
    D^b    one mini-batch of training images with their true labels
    kappa  parameters that are kept; the sparsity is (m - kappa) / m

Method
    g_j = dL(c * w; D^b) / dc_j at c = 1  =  w_j dL / dw_j         (1)   connection sensitivity
    s_j = |g_j| / sum_k |g_k|,  k over all layers                  (2)   saliency
    c_j = 1 for the kappa largest s_j, kappa = round(m (1 - sparsity))   (3)
    train c * w with c fixed                                       (4)

The official code scores one draw of the weights and trains another under the mask, with batch normalisation in eval mode
while scoring. Algorithm 1 of the text trains the weights that were scored: `redraw=False`.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any, Literal

import pytorch_lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.backbones.initialization import initialize
from common.experiment.callbacks import derived_seed
from common.pruning import (
    EmptiedLayerWarning,
    KeptState,
    Masks,
    magnitude,
    prunable_weights,
    random_scores,
    redraw,
    select_globally,
    shuffle_within_layers,
    signed_snip,
    snip,
)
from common.schedules import step_decay

Criterion = Literal["snip", "snip_signed", "magnitude", "random"]
CRITERIA = ("snip", "snip_signed", "magnitude", "random")


class SNIP(L.LightningModule):
    """Score, mask once, train. With `sparsity=0` the dense reference. For data sets that are held in memory (`ImagesInMemory`).

    Args:
        network: images [B, C, H, W] -> logits [B, classes]; redrawn by its own `initialize()`.
        sparsity: share of the m parameters that is pruned, in [0, 1).
        criterion: `"snip"` (1)-(3); `"snip_signed"`, ours: g with its sign, so that connections whose removal lowers the loss go
            first; `"magnitude"` and `"random"`: the controls, ranked globally as well.
        shuffle_layers: control: afterwards, permute the mask inside each layer.
        scoring_batch: |D^b|: 100 for MNIST, 128 for CIFAR.
        scoring_class: take D^b from one class only; None for all.
        scoring_initialization, training_initialization: rules of `common.backbones.initialization` for the weights that are
            scored and those that are trained; None for the network's own.
        redraw: train freshly drawn weights under the mask (official code); False: those that were scored (Algorithm 1).
        biases: score and prune biases too (official code). They start at 0, so that almost all of them are pruned.
        scoring_norms: batch normalisation while scoring: `"initial"` statistics (official code), or those of the `"batch"`.
        optimizer: `"sgd"` with momentum, or `"adam"` (the paper's study of initial distributions).
        lr, momentum: of the optimiser. weight_decay: its L2 term, on w alone (official code), not on normalisations.
        lr_period, lr_factor: the rate is multiplied by the factor every so many steps; 0 keeps it.
        validate_every: steps between two looks at the validation part, to keep the best weights beside the last; 0 for none.

    Raises:
        ValueError: an argument out of its range; nothing in the network can be pruned.
    """

    pruned: Tensor
    best_accuracy: Tensor

    def __init__(
        self,
        network: nn.Module,
        sparsity: float = 0.9,
        criterion: Criterion = "snip",
        shuffle_layers: bool = False,
        scoring_batch: int = 100,
        scoring_class: int | None = None,
        scoring_initialization: str | None = None,
        training_initialization: str | None = None,
        redraw: bool = True,
        biases: bool = True,
        scoring_norms: Literal["initial", "batch"] = "initial",
        optimizer: Literal["sgd", "adam"] = "sgd",
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        lr_period: int = 25_000,
        lr_factor: float = 0.1,
        validate_every: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= sparsity < 1:
            raise ValueError(f"sparsity is {sparsity}, but must lie in [0, 1): it is the share that is pruned")
        if criterion not in CRITERIA or optimizer not in ("sgd", "adam") or scoring_norms not in ("initial", "batch"):
            raise ValueError(
                f"{criterion=}, {optimizer=}, {scoring_norms=}; expected one of {', '.join(CRITERIA)}; sgd or adam; initial "
                "or batch"
            )
        if scoring_batch < 1 or lr_period < 0 or validate_every < 0:
            raise ValueError(f"{scoring_batch=} must be at least 1, {lr_period=} and {validate_every=} at least 0")
        self.network = network
        self.masks = Masks(network, biases=biases)
        self.sparsity, self.criterion, self.shuffle_layers = sparsity, criterion, shuffle_layers
        self.scoring_batch, self.scoring_class = scoring_batch, scoring_class
        self.scoring_initialization, self.training_initialization = scoring_initialization, training_initialization
        self.redraws, self.scoring_norms = redraw, scoring_norms
        self.optimizer_name, self.lr, self.momentum, self.weight_decay = optimizer, lr, momentum, weight_decay
        self.lr_period, self.lr_factor = lr_period, lr_factor
        self.validate_every = validate_every
        self.best = KeptState(network) if validate_every else None
        self.register_buffer("best_accuracy", torch.tensor(-1.0, dtype=torch.float64))
        self.register_buffer("pruned", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, classes]."""
        logits: Tensor = self.network(x)
        return logits

    def prune(self, data: Any) -> None:
        """(1) to (3): draw the weights that are scored, score them on one mini-batch, mask, draw the weights that are trained.

        Warns with `EmptiedLayerWarning` where a layer keeps nothing: no signal passes it, and what is trained is dead. Nothing is
        kept in its place, since that would be another method.
        """
        self._draw("scoring weights", self.scoring_initialization)
        if self.sparsity:
            kept = select_globally(self._scores(data), self.sparsity, minimum=0)
            if self.shuffle_layers:
                kept = shuffle_within_layers(kept, self._seed("shuffle"))
            emptied = [name for name, mask in kept.items() if name.endswith("weight") and not bool(mask.any())]
            if emptied:
                warnings.warn(
                    f"{', '.join(emptied)} kept nothing: the network is dead", EmptiedLayerWarning, stacklevel=2
                )
            self.masks.set(kept)
        if self.redraws:
            self._draw("trained weights", self.training_initialization)
        self.pruned.fill_(True)

    def on_fit_start(self) -> None:
        """Prune first, where no phase of its own has done so."""
        if not bool(self.pruned):
            self.prune(self.trainer.datamodule)  # type: ignore[attr-defined]

    def _draw(self, what: str, rule: str | None) -> None:
        draw = None if rule is None else lambda network: initialize(network, rule)
        redraw(self.network, self._seed(what), self.masks, draw)

    def _seed(self, what: str) -> int:
        """Of one of the method's draws; the run's seed stands in the global generator, which a phase starts anew."""
        return derived_seed(torch.initial_seed() % 2**31, what)

    def _scores(self, data: Any) -> dict[str, Tensor]:
        weights = self.masks.weights
        if self.criterion == "magnitude":
            return magnitude(weights)
        if self.criterion == "random":
            return random_scores(weights, self._seed("random"))
        score = snip if self.criterion == "snip" else signed_snip
        batches = self._scoring_batches(data)
        return score(self.network, weights, batches, training=self.scoring_norms == "batch")

    def _scoring_batches(self, data: Any) -> list[tuple[Tensor, Tensor]]:
        """D^b with its true labels, in pieces that fit into memory: without augmentation, drawn without replacement."""
        labels = data.labels("train")
        known = torch.arange(len(labels))
        if self.scoring_class is not None:
            known = known[labels == self.scoring_class]
        if len(known) < self.scoring_batch:
            raise ValueError(
                f"a scoring batch of {self.scoring_batch} images is asked for, but only {len(known)} training images can be in it"
            )
        generator = torch.Generator().manual_seed(self._seed("scoring batch"))
        chosen = known[torch.randperm(len(known), generator=generator)[: self.scoring_batch]]
        part = data.part("train").select(chosen.numpy())
        images = data.normalisation(part.images).to(self.device)
        pieces = self.scoring_batch if self.scoring_norms == "batch" else 1000
        return list(zip(images.split(pieces), part.labels.to(self.device).split(pieces), strict=True))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        return F.cross_entropy(self.network(x), labels)  # (4): the masks guard the optimiser

    def configure_optimizers(self) -> Any:
        decayed = list(prunable_weights(self.network, biases=True).values())
        known = {id(weight) for weight in decayed}
        others = [p for p in self.network.parameters() if id(p) not in known]  # of normalisations
        groups = [{"params": decayed, "weight_decay": self.weight_decay}]
        groups += [{"params": others, "weight_decay": 0.0}] if others else []
        optimizer: torch.optim.Optimizer
        if self.optimizer_name == "adam":
            optimizer = torch.optim.Adam(groups, self.lr, fused=True)
        else:
            optimizer = torch.optim.SGD(groups, self.lr, self.momentum)
        self.masks.guard(optimizer)
        if not self.lr_period:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = step_decay(list(range(self.lr_period, steps + 1, self.lr_period)), self.lr_factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, schedule), "interval": "step"},
        }

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.validate_every and self.global_step % self.validate_every == 0:
            self._keep_if_best()

    @torch.no_grad()
    def _keep_if_best(self) -> None:
        """Keep the weights if none so far were right on more validation images."""
        self.network.eval()
        right, seen = 0, 0
        for images, labels in self.trainer.datamodule.val_dataloader():  # type: ignore[attr-defined]
            right += int((self.network(images.to(self.device)).argmax(1) == labels.to(self.device)).sum())
            seen += len(labels)
        self.network.train()
        if self.best is not None and seen and right / seen > float(self.best_accuracy):
            self.best_accuracy.fill_(right / seen)
            self.best.keep(self.network)

    def best_network(self) -> nn.Module | None:
        """A copy of the network with the weights of the best validation accuracy; None if that was never looked at."""
        if self.best is None or float(self.best_accuracy) < 0:
            return None
        network = copy.deepcopy(self.network)
        self.best.restore(network)
        return network
