"""FairGRAPE: prune the weights that matter least for every group, so that each group keeps its share of importance.

X. Lin, S. Kim, J. Joo, "FairGRAPE: Fairness-Aware GRAdient Pruning mEthod for Face Attribute Classification", ECCV 2022,
arXiv:2207.10888. Basis: the official code (github.com/Bernardo1998/FairGRAPE), read and not copied; of the paper's text the
abstract and two equations. The equation numbers are ours; (1) is in `importance`, (2) and (3) in `greedy`.

Symbols
    W        weights of all convolutions and linear layers, the classifier included; no biases, no normalisations
    g, D_g   one of G groups of people, and its training images
    I_{g,w}  importance of weight w for group g                                                    (1)
    T_g, s_g share of group g in a layer's importance before and after a selection                 (2)
    q        share of the weights that one round keeps; p_i = min(1 - q^i, p) is pruned after round i

Method
    train W (three stages)                                                                         (4)
    for i = 1 .. n = ceil(ln(1 - p) / ln q):
        I from the present network, T from I; in each layer keep K_l = numel (1 - p_i) weights by (3)
        retrain W with the mask fixed                                                              (5)
    train what is left (three stages, as in (4))                                                   (6)

A stage is Adam, afresh, at its own rate; after each epoch the validation loss is taken, at its end the weights of the smallest
one go on, and at the end of (4) and of (6) those of the best of the three stages. A round of (5) is one such stage.

The label of the group is needed for pruning only, never by the trained network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pytorch_lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from common.experiment.callbacks import derived_seed
from common.pruning import KeptState, Masks, rounds_to_reach
from common.weights import load_weights
from papers.fairgrape.baselines import (
    class_balanced,
    distances,
    grasp_selection,
    keep_per_layer,
    random_selection,
    snip_selection,
    weight_selection,
)
from papers.fairgrape.greedy import Ranking, layer_counts, select_layer
from papers.fairgrape.importance import Batch, group_importance, group_losses, mean_loss, official_importance

Criterion = Literal["none", "fairgrape", "importance", "weight_selection", "lottery", "snip", "grasp", "random"]
ITERATIVE = ("fairgrape", "importance", "lottery")
FROM_DENSE = (*ITERATIVE, "weight_selection", "random")
AT_START = ("snip", "grasp")
CRITERIA = ("none", *FROM_DENSE, *AT_START)
TARGETS = ("dense", "uniform", "complexity")


class FairGRAPE(L.LightningModule):
    """One arm of the table: a network trained, pruned by a criterion and trained again. For `datasets.attributes` sets.

    Phases of a run are called `stage 1`, `stage 2`, ... for (4) and (6), `prune <i>` (computation `prune_round`) and
    `retrain <i>` for (5), and `best` (computation `take_best`) at the end.

    Args:
        network: images [B, 3, H, W] -> logits of all tasks [B, K].
        dense: weights file of the network after (4), from which pruning starts (`"snip"` and `"grasp"` start from `network` as
            it is); None for `criterion="none"`, which is (4) itself.
        criterion: `"fairgrape"`; `"importance"`: the same scores, summed over the groups and ranked in each layer; or a baseline:
            `"weight_selection"` (magnitudes, once), `"lottery"` (magnitudes in rounds, back to the dense weights after each),
            `"snip"` and `"grasp"` (once, before training, all layers ranked together), `"random"`; `"none"` prunes nothing.
        sparsity: p, share of the weights of every layer that is pruned, in [0, 1).
        keep: q of the iterative criteria.
        target_shares: T: `"dense"` is (2), of the network before each selection; `"uniform"`: 1/G; `"complexity"`: by the
            groups' training losses before each selection. The last two are ours, after a suggestion of the survey.
        importance: `"clean"` is (1); `"official"`: what the official code computes, see `official_importance`.
        norms: batch normalisation while scoring by (1), see `group_importance`.
        ranking, extra_candidates: see `greedy.select_layer`; the official code's default is 1 extra candidate, (3) has none.
        scoring_batches: mini-batches that importances are summed over; None: all of the training part.
        scoring_batch: images of such a mini-batch, and of SNIP's. samples_per_class: of GraSP's batch.
        rates: learning rates of the stages. retrain_rate: of (5).

    Raises:
        ValueError: an argument out of its range, or a dense network that is missing.
    """

    stage_loss: Tensor
    best_loss: Tensor
    rounds_done: Tensor
    deviations: Tensor

    def __init__(
        self,
        network: torch.nn.Module,
        dense: str | None = None,
        criterion: Criterion = "fairgrape",
        sparsity: float = 0.9,
        keep: float = 0.9,
        target_shares: Literal["dense", "uniform", "complexity"] = "dense",
        importance: Literal["clean", "official"] = "clean",
        norms: Literal["running", "batch"] = "running",
        ranking: Ranking = "importance",
        extra_candidates: int = 0,
        scoring_batches: int | None = None,
        scoring_batch: int = 64,
        samples_per_class: int = 10,
        rates: Sequence[float] = (1e-4, 1e-5, 1e-6),
        retrain_rate: float = 1e-5,
    ) -> None:
        super().__init__()
        _check(criterion, target_shares, importance, norms, dense)
        if scoring_batch < 2 or samples_per_class < 1 or extra_candidates < 0 or not rates:
            raise ValueError(
                f"{scoring_batch=} must be at least 2, {samples_per_class=} at least 1, {extra_candidates=} not negative, and "
                f"rates={tuple(rates)} at least one"
            )
        self.network = network
        self.masks = Masks(network)
        self.dense, self.criterion, self.sparsity, self.keep = dense, criterion, sparsity, keep
        self.target_shares, self.importance, self.norms = target_shares, importance, norms
        self.ranking, self.extra_candidates = ranking, extra_candidates
        self.scoring_batches, self.scoring_batch = scoring_batches, scoring_batch
        self.samples_per_class = samples_per_class
        self.rates, self.retrain_rate = tuple(rates), retrain_rate
        self.rounds = 0 if criterion == "none" else rounds_to_reach(sparsity, keep) if criterion in ITERATIVE else 1
        self.classes: tuple[int, ...] = ()
        self.stage_state, self.best_state = KeptState(network), KeptState(network)
        for name in ("stage_loss", "best_loss"):
            self.register_buffer(name, torch.tensor(torch.inf, dtype=torch.float64))
        self.register_buffer("rounds_done", torch.tensor(0))
        # Of every round, means over layers: max_g |s_g - T_g| of the selection and of the importance mask of the same size,
        # and max_g |s_g - 1/G| of the selection.
        self.register_buffer("deviations", torch.full((max(1, self.rounds), 3), torch.nan, dtype=torch.float64))
        self._rate = self.rates[0]
        self._is_stage = True

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> logits of all tasks [B, K]."""
        logits: Tensor = self.network(x)
        return logits

    def prepare(self, data: Any) -> None:
        """Take the number of classes of every task."""
        self.classes = tuple(len(task.classes) for task in data.tasks)

    def task_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of each task's logits, mean over the images and the tasks: [B, K] and int64 [B, T] -> []."""
        pieces = outputs.split(self.classes, dim=1)
        losses = [F.cross_entropy(logits, labels[:, t]) for t, logits in enumerate(pieces)]
        return torch.stack(losses).mean()

    # --- (4), (5), (6): training -------------------------------------------------------------------------------------------

    def start_phase(self, name: str) -> None:
        """Set the rate of a phase and forget the validation losses of the one before."""
        kind, _, number = name.partition(" ")
        self._is_stage = kind == "stage"
        if kind in ("stage", "retrain"):
            self._rate = self.rates[int(number) - 1] if self._is_stage else self.retrain_rate
            self.stage_loss.fill_(torch.inf)
        if name == "stage 1":
            self.best_loss.fill_(torch.inf)

    def on_fit_start(self) -> None:
        """Take the dense weights and prune in one step, where no phase of its own has done so."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not self.classes:
            self.prepare(data)
        if self.rounds and not int(self.rounds_done):
            self.rounds_done.fill_(self.rounds - 1)
            self.prune_round(data)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        return self.task_loss(self.network(x), labels)  # the masks guard the optimiser

    def configure_optimizers(self) -> Any:
        return self.masks.guard(torch.optim.Adam(self.network.parameters(), self._rate, fused=True))

    def on_train_epoch_end(self) -> None:
        """Keep the weights of the smallest validation loss, of the stage and of all stages."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        loss = mean_loss(self.network, data.batches("validation"), self.task_loss)
        if loss < float(self.stage_loss):
            self.stage_loss.fill_(loss)
            self.stage_state.keep(self.network)
        if self._is_stage and loss < float(self.best_loss):
            self.best_loss.fill_(loss)
            self.best_state.keep(self.network)

    def on_train_end(self) -> None:
        """Go on from the best epoch of the stage."""
        if torch.isfinite(self.stage_loss):
            self.stage_state.restore(self.network, self.masks)

    def take_best(self, data: Any = None) -> None:
        """End with the best of the stages."""
        self.best_state.restore(self.network, self.masks)

    # --- pruning -----------------------------------------------------------------------------------------------------------

    def prune_round(self, data: Any) -> None:
        """One round: importances of the present network, a selection, and its mask; the first one takes the dense weights."""
        if not self.classes:
            self.prepare(data)
        done = int(self.rounds_done)
        if self.criterion in FROM_DENSE and not self.masks.sparsity and self.dense is not None:
            load_weights(self.network, self.dense)
        reached = self.sparsity if done + 1 == self.rounds else min(1 - self.keep ** (done + 1), self.sparsity)
        self.masks.set(self._select(data, reached))
        if self.criterion == "lottery" and self.dense is not None:
            load_weights(self.network, self.dense)
            self.masks.apply_to_weights()
        self.rounds_done.fill_(done + 1)

    def _select(self, data: Any, sparsity: float) -> dict[str, Tensor]:
        weights, alive = self.masks.weights, self.masks.as_dict()
        counts, names = layer_counts(weights, sparsity), list(weights)
        if self.criterion in ("weight_selection", "lottery"):
            return weight_selection(weights, counts, alive)
        if self.criterion == "random":
            return random_selection(weights, counts, alive, self._seed("random"))
        if self.criterion == "snip":
            images, labels, _ = next(self._scoring(data))
            return snip_selection(self.network, names, (images, labels), self.task_loss, sparsity, self._seed("redraw"))
        if self.criterion == "grasp":
            batch = self._class_balanced(data)
            return grasp_selection(self.network, names, batch, self.task_loss, sparsity, self._seed("redraw"))
        importance = self._importance(data)
        if self.criterion == "importance":
            return keep_per_layer({name: i.sum(dim=0) for name, i in importance.items()}, counts, alive)
        return self._fair_selection(data, importance, counts, alive)

    def _fair_selection(
        self, data: Any, importance: dict[str, Tensor], counts: dict[str, int], alive: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """(2) and (3) in every layer; also notes how far the shares are from their targets."""
        groups = len(data.group_names)
        target = None
        if self.target_shares == "uniform":
            target = torch.full((groups,), 1 / groups, dtype=torch.float64)
        elif self.target_shares == "complexity":
            losses = group_losses(self.network, self._scoring(data), groups, self.task_loss)
            target = losses / losses.sum()
        masks, noted = {}, []
        for name, layer in importance.items():
            found = select_layer(
                layer,
                counts[name],
                alive[name],
                None if target is None else target.numpy(),
                self.ranking,
                self.extra_candidates,
                self.masks.weights[name],
            )
            masks[name] = found.mask.to(layer.device)
            noted.append(distances(layer, found, counts[name], alive[name]))
        self.deviations[int(self.rounds_done)] = torch.tensor(noted, dtype=torch.float64).mean(dim=0)
        return masks

    def _importance(self, data: Any) -> dict[str, Tensor]:
        weights, groups = self.masks.weights, len(data.group_names)
        if self.importance == "official":
            masks = self.masks.as_dict()
            return official_importance(self.network, weights, self._scoring(data), groups, self.task_loss, masks)
        return group_importance(self.network, weights, self._scoring(data), groups, self.task_loss, self.norms)

    def _scoring(self, data: Any) -> Iterator[Batch]:
        """Mini-batches of the training part in random order, not augmented; those of no group are left out."""
        known = (data.groups("train") >= 0).nonzero().flatten()
        generator = torch.Generator().manual_seed(self._seed("scoring batches"))
        order = known[torch.randperm(len(known), generator=generator)]
        if self.scoring_batches is not None:
            order = order[: self.scoring_batches * self.scoring_batch]
        for images, labels, group in data.batches("train", self.scoring_batch, order):
            yield images.to(self.device), labels.to(self.device), group.to(self.device)

    def _class_balanced(self, data: Any) -> tuple[Tensor, Tensor]:
        """GraSP's batch, see `baselines.class_balanced`."""
        labels = data.part("train").labels
        chosen = class_balanced(labels, self.classes, self.samples_per_class, self._seed("class batch"))
        images, own, _ = next(data.batches("train", len(labels), chosen))
        return images.to(self.device), own.to(self.device)

    def _seed(self, what: str) -> int:
        """Of one of the method's draws; the run's seed stands in the global generator, which a phase starts anew."""
        return derived_seed(torch.initial_seed() % 2**31, what)


def _check(criterion: str, target: str, importance: str, norms: str, dense: str | None) -> None:
    allowed = {
        "criterion": (criterion, CRITERIA),
        "target_shares": (target, TARGETS),
        "importance": (importance, ("clean", "official")),
        "norms": (norms, ("running", "batch")),
    }
    for name, (value, known) in allowed.items():
        if value not in known:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")
    if criterion == "none" and dense is not None:
        raise ValueError("criterion='none' trains the dense network itself: leave dense out")
