"""The lottery ticket: prune the smallest trained weights, put the survivors back to where they began, train again.

J. Frankle, M. Carbin, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks", ICLR 2019, arXiv:1803.03635v5.
Basis: the paper's text and two code bases by its first author (github.com/facebookresearch/open_lth, commit 2ce732f;
github.com/google-research/lottery-ticket-hypothesis), read and not copied. The equation numbers below are ours.

Symbols
    theta      all parameters; theta_0 their initial values, theta_j those after j steps of training
    m_k        mask in {0, 1}, one a prunable weight, after k prunings; m_0 = 1. Biases and normalisations are never pruned
    p_l        share of the remaining weights of layer l that one pruning removes
    P_m        share of the prunable weights that remain

One level (k) of the search
    theta_j^(k)  = train(m_k * theta_0)                                                            (1)
    m_(k+1)      = m_k without the share p_l of smallest |theta_j^(k)| in every layer l             (2)
                   (or without the share p of the smallest of all layers together)
    start again  at m_(k+1) * theta_0                                                              (3)

A run is one level: it takes theta_j^(k) from the run before it, prunes (2), resets (3) and trains (1). What is alive there is
what is not zero: a remaining weight that training has brought to exactly 0 would be the first to go anyway.

Early stopping is found after the fact (section 2): training runs its whole length, the validation loss is taken every 100 steps,
and the step of its minimum, with the weights of that step, is kept beside the last ones.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytorch_lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.experiment.callbacks import derived_seed
from common.pruning import (
    KeptState,
    Masks,
    magnitude,
    redraw,
    select_globally,
    select_per_layer,
    shuffle_within_layers,
)
from common.schedules import Multiplier, step_decay
from common.weights import load_weights

Start = Literal["rewind", "reinit", "finetune", "random_mask"]
STARTS = ("rewind", "reinit", "finetune", "random_mask")


class LotteryTicket(L.LightningModule):
    """One level of the search, or one of its controls. For data sets that are held in memory (`ImagesInMemory`).

    Args:
        network: images [B, C, H, W] -> logits [B, classes]; redrawn by its own `initialize()`.
        trained: weights file of the level before (theta_j); None: the dense network, nothing is pruned.
        rate: p, the share of remaining weights that one pruning removes, in [0, 1).
        rates: layer name -> its own p_l (the paper prunes the output layer at half the rate).
        rounds: how many prunings at once: the share 1 - (1 - p_l)^rounds goes (one-shot pruning to a later level's P_m).
        scope: rank the weights of every layer by themselves, or of all layers together (deep networks in the paper).
        dense: names of layers that are not pruned.
        start: `"rewind"` (3); `"reinit"`: other initial weights under the same mask; `"random_mask"`: as many weights a layer at
            random places, other initial weights; `"finetune"`: theta_j stays, what the paper left out.
        draw: which of several redraws (`reinit`, `random_mask`).
        optimizer: `"adam"`, or `"sgd"` with momentum. lr, momentum, weight_decay: of it.
        milestones: steps from which the rate is a tenth of what it was; warmup: steps over which it rises from 0.
        steps: length of the training, for the record of validation losses.
        validate_every: steps between two of them; 0 for none.

    Raises:
        ValueError: an argument out of its range, a layer that there is not, or nothing to prune.
    """

    drawn: Tensor
    losses: Tensor
    best_loss: Tensor
    best_step: Tensor

    def __init__(
        self,
        network: nn.Module,
        trained: str | None = None,
        rate: float = 0.2,
        rates: Mapping[str, float] | None = None,
        rounds: int = 1,
        scope: Literal["layer", "global"] = "layer",
        dense: Sequence[str] = (),
        start: Start = "rewind",
        draw: int = 0,
        optimizer: Literal["adam", "sgd"] = "adam",
        lr: float = 1.2e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        milestones: Sequence[int] = (),
        warmup: int = 0,
        steps: int = 50_000,
        validate_every: int = 100,
    ) -> None:
        super().__init__()
        if scope not in ("layer", "global") or start not in STARTS or optimizer not in ("adam", "sgd"):
            raise ValueError(
                f"{scope=}, {start=}, {optimizer=}; expected layer or global; one of {', '.join(STARTS)}; adam or sgd"
            )
        if rounds < 1 or warmup < 0 or steps < 1 or validate_every < 0:
            raise ValueError(f"{rounds=} and {steps=} must be at least 1, {warmup=} and {validate_every=} at least 0")
        if scope == "global" and rates:
            raise ValueError("one ranking over all layers has one rate: give `rates` to scope='layer' only")
        if start == "finetune" and trained is None:
            raise ValueError("start='finetune' goes on from trained weights: give them in `trained`")
        self.network = network
        self.masks = Masks(network, dense)
        self.trained, self.rounds, self.scope, self.start, self.draw = trained, rounds, scope, start, draw
        self.rates = _rates_of(self.masks.weights, rate, rates or {})
        self.optimizer_name, self.lr, self.momentum, self.weight_decay = optimizer, lr, momentum, weight_decay
        self.milestones, self.warmup = tuple(milestones), warmup
        self.validate_every = validate_every
        self.early = KeptState(network) if validate_every else None
        self.register_buffer("losses", torch.full((steps // validate_every if validate_every else 0,), torch.nan))
        self.register_buffer("best_loss", torch.tensor(torch.inf, dtype=torch.float64))
        self.register_buffer("best_step", torch.tensor(0))
        self.register_buffer("drawn", torch.tensor(False))
        self._validation: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, classes]."""
        logits: Tensor = self.network(x)
        return logits

    def begin(self, data: Any = None) -> None:
        """(2) and (3): the mask from the trained weights of the level before, and the weights to start from."""
        redraw(self.network, self._seed(f"{self.start} {self.draw}" if self._is_redrawn else "theta 0"))
        if self.trained is not None:
            theta_j = copy.deepcopy(self.network)
            load_weights(theta_j, self.trained)
            kept = self._prune({name: theta_j.get_parameter(name).detach() for name in self.masks.weights})
            if self.start == "finetune":
                self.network.load_state_dict(theta_j.state_dict())
            if self.start == "random_mask":
                kept = shuffle_within_layers(kept, self._seed(f"mask {self.draw}"))
            self.masks.set(kept)
        self.drawn.fill_(True)

    def on_fit_start(self) -> None:
        """Begin, where no phase of its own has done so."""
        if not bool(self.drawn):
            self.begin()

    @property
    def _is_redrawn(self) -> bool:
        return self.start in ("reinit", "random_mask")

    def _prune(self, theta_j: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(2): masks bool, of the weights' shapes; of R remaining weights exactly round(p R) go."""
        alive, scores = {name: weight != 0 for name, weight in theta_j.items()}, magnitude(theta_j)
        removed = {name: 1 - (1 - rate) ** self.rounds for name, rate in self.rates.items()}
        if self.scope == "layer":
            return select_per_layer(scores, removed, alive, of="remaining", rounding="nearest_pruned")
        share = next(iter(removed.values()))
        return select_globally(scores, share, alive, of="remaining", rounding="nearest_pruned")

    def _seed(self, what: str) -> int:
        """Of one of the method's draws: theta_0 is the same at every level of a trial, and in all of its controls."""
        return derived_seed(torch.initial_seed() % 2**31, what)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        return F.cross_entropy(self.network(x), labels)  # (1): the masks guard the optimiser

    def configure_optimizers(self) -> Any:
        parameters = self.network.parameters()
        optimizer: torch.optim.Optimizer
        if self.optimizer_name == "adam":
            optimizer = torch.optim.Adam(parameters, self.lr, weight_decay=self.weight_decay, fused=True)
        else:
            optimizer = torch.optim.SGD(parameters, self.lr, self.momentum, weight_decay=self.weight_decay)
        self.masks.guard(optimizer)
        if not self.milestones and not self.warmup:
            return optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, with_warmup(self.milestones, self.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.validate_every and self.global_step % self.validate_every == 0:
            self._validate()

    @torch.no_grad()
    def _validate(self) -> None:
        """Take the validation loss; keep the weights where it is the smallest so far."""
        if self._validation is None:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            self._validation = data.inputs("validation").to(self.device), data.labels("validation").to(self.device)
        self.network.eval()
        pieces = zip(*(part.split(1000) for part in self._validation), strict=True)
        total = sum(float(F.cross_entropy(self.network(x), y, reduction="sum")) for x, y in pieces)
        self.network.train()
        loss = total / len(self._validation[1])
        self.losses[self.global_step // self.validate_every - 1] = loss
        if self.early is not None and loss < float(self.best_loss):
            self.best_loss.fill_(loss)
            self.best_step.fill_(self.global_step)
            self.early.keep(self.network)

    def early_network(self) -> nn.Module | None:
        """A copy of the network as it was at the smallest validation loss; None if none was taken."""
        if self.early is None or not int(self.best_step):
            return None
        network = copy.deepcopy(self.network)
        self.early.restore(network)
        return network


def with_warmup(milestones: Sequence[int], warmup: int) -> Multiplier:
    """A tenth from each milestone on, and over the first `warmup` steps a linear rise: factor min(1, step / warmup)."""
    decay = step_decay(milestones)
    return lambda step: decay(step) * (min(1.0, step / warmup) if warmup else 1.0)


def _rates_of(weights: Mapping[str, Any], rate: float, rates: Mapping[str, float]) -> dict[str, float]:
    """Weight name -> p_l.

    Raises:
        ValueError: a rate outside [0, 1), or for a layer that is not pruned.
    """
    for name, value in {"rate": rate, **rates}.items():
        if not 0 <= value < 1:
            raise ValueError(f"the pruning rate {name} is {value}, but must lie in [0, 1): a share of what remains")
    layers = {name.removesuffix(".weight"): name for name in weights}
    unknown = [name for name in rates if name not in layers]
    if unknown:
        raise ValueError(
            f"there is a rate for {', '.join(unknown)}; the layers that are pruned are {', '.join(layers)}"
        )
    return {name: rates.get(layer, rate) for layer, name in layers.items()}
