"""NISP: prune a trained network once, in all layers together, by how much each neuron matters to the final responses.

R. Yu, A. Li, C.-F. Chen, J.-H. Lai, V. I. Morariu, X. Han, M. Gao, C.-Y. Lin, L. S. Davis, "NISP: Pruning Networks using Neuron
Importance Score Propagation", CVPR 2018, arXiv:1711.05908. There is no official code; basis: abstract, quotations and two
independent implementations, read and not copied. What they leave open is an argument. The equation numbers are ours.

Symbols
    X       final responses of N training images, [N, d]: what goes into the classifier
    s_l     importance of the neurons of layer l, not negative; s_n: of the final responses
    W^(l)   weight of layer l; s*_l in {0, 1}: which neurons are kept, N_l in number

Method
    s_n = Inf-FS(X)                                                      (1)   `papers.nisp.ranking`, without labels
    minimise  sum_m < s_n, |F(x_m) - F(s*_l x_m)| >,  |s*_l|_0 = N_l     (2)   F: from layer l to the final responses
      is bounded by a constant times  sum_j s_l,j (1 - s*_l,j)
    s_l = |W^(l+1)|^T (s*_(l+1) s_(l+1))                                 (3)   `papers.nisp.propagation`
    s*_l keeps the N_l largest s_l; a channel's score is the sum over its positions    (4)
    channels are removed, and the small network is fine-tuned once       (5)
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import pytorch_lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.evaluation.classification import margin
from common.experiment.callbacks import derived_seed
from common.pruning import (
    ChannelGraph,
    EmptiedLayerWarning,
    accept_pruned,
    keep_count,
    linear_rounds,
    prunable_weights,
    redraw,
    remove_channels,
)
from common.schedules import step_decay
from common.weights import load_weights
from papers.nisp.criteria import (
    Removed,
    choose_by_chance,
    choose_by_importance,
    choose_by_magnitude,
    final_responses,
    output_layer,
    prunable_groups,
)
from papers.nisp.ranking import inf_fs

Criterion = Literal["nisp", "magnitude", "random"]
OPTIONS = {
    "criterion": ("nisp", "magnitude", "random"),
    "ranking": ("inf_fs", "uniform"),
    "scale": ("unit", "raw"),
    "norms": ("identity", "scale"),
    "optimizer": ("adam", "sgd"),
}


class NISP(L.LightningModule):
    """Train, or take weights and prune and fine-tune them. For data sets that are held in memory (`ImagesInMemory`).

    Args:
        network: images [B, C, H, W] -> logits [B, classes].
        weights: file of trained weights; empty for the network as it was drawn.
        ratio: share of the neurons and channels that every hidden layer loses, in [0, 1); 0 prunes nothing.
        layer_ratios: other ratios, by layer; the paper presets them from a budget of FLOPs, memory or accuracy.
        criterion: `"nisp"`, or the baselines `"magnitude"` (L1 of filters and neurons, layer by layer) and `"random"`.
        ranking: s_n by `"inf_fs"`, or `"uniform"`: all final responses matter the same.
        response_layer: the final responses are what goes into this layer; empty for the layer that makes the output.
        response_images: N; training images without augmentation.
        alpha, scale: of Inf-FS, see `papers.nisp.ranking`.
        norms: batch normalisation keeps scores (`"identity"`) or scales them by |gamma| / sigma (`"scale"`).
        zero_pruned: s* in (3); False lets importance flow from pruned neurons too.
        rounds: ours: reach the ratio in so many rounds of pruning and fine-tuning, in equal steps.
        redraw: control: after pruning draw the small network's weights anew, to train it from scratch.
        optimizer: `"adam"` or `"sgd"`. lr, momentum, weight_decay: of it.
        lr_drops, lr_factor: at these shares of the training the rate is multiplied by the factor.
        tracked_epochs: remember the accuracy on the test part right after pruning and after each of so many epochs of
            fine-tuning. It is measured, and decides nothing.

    Raises:
        ValueError: an argument out of its range. FileNotFoundError, WeightsMismatchError: see `load_weights`.
    """

    rounds_done: Tensor
    epochs_before: Tensor
    epochs_done: Tensor
    dense_accuracy: Tensor
    after_pruning: Tensor
    curve: Tensor

    def __init__(
        self,
        network: nn.Module,
        weights: str = "",
        ratio: float = 0.5,
        layer_ratios: dict[str, float] | None = None,
        criterion: Criterion = "nisp",
        ranking: Literal["inf_fs", "uniform"] = "inf_fs",
        response_layer: str = "",
        response_images: int = 2000,
        alpha: float = 0.5,
        scale: Literal["unit", "raw"] = "unit",
        norms: Literal["identity", "scale"] = "identity",
        zero_pruned: bool = True,
        rounds: int = 1,
        redraw: bool = False,
        optimizer: Literal["adam", "sgd"] = "adam",
        lr: float = 1e-4,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        lr_drops: tuple[float, ...] = (),
        lr_factor: float = 0.1,
        tracked_epochs: int = 0,
    ) -> None:
        super().__init__()
        given = locals()
        wrong = [f"{name} is {given[name]!r}" for name, known in OPTIONS.items() if given[name] not in known]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}; expected one of {OPTIONS[wrong[0].split()[0]]}")
        if response_images < 2 or rounds < 1 or tracked_epochs < 0:
            raise ValueError(
                f"{response_images=} must be at least 2, {rounds=} at least 1, {tracked_epochs=} at least 0"
            )
        if weights:
            load_weights(network, weights)
        self.network = accept_pruned(network)
        self.original_channels = {name: len(weight) for name, weight in prunable_weights(network).items()}
        self.original_channels = {name.removesuffix(".weight"): count for name, count in self.original_channels.items()}
        self.original_weights = sum(weight.numel() for weight in prunable_weights(network).values())
        self.ratio, self.layer_ratios = ratio, dict(layer_ratios or {})
        unknown = sorted(self.layer_ratios.keys() - self.original_channels.keys())
        if unknown:
            raise ValueError(f"layer_ratios names {', '.join(unknown)}; there are {', '.join(self.original_channels)}")
        for share in (ratio, *self.layer_ratios.values()):
            linear_rounds(share, rounds)  # refuses shares outside [0, 1)
        self.criterion, self.ranking, self.response_layer = criterion, ranking, response_layer
        self.response_images, self.alpha, self.scale = response_images, alpha, scale
        self.norms, self.zero_pruned, self.rounds, self.redraws = norms, zero_pruned, rounds, redraw
        self.optimizer_name, self.lr, self.momentum, self.weight_decay = optimizer, lr, momentum, weight_decay
        self.lr_drops, self.lr_factor, self.tracked_epochs = tuple(lr_drops), lr_factor, tracked_epochs
        self.register_buffer("rounds_done", torch.tensor(0))
        self.register_buffer("epochs_before", torch.tensor(0))  # of this round, and done in all
        self.register_buffer("epochs_done", torch.tensor(0))
        self.register_buffer("dense_accuracy", torch.tensor(-1.0, dtype=torch.float64))
        self.register_buffer("after_pruning", torch.empty(0))  # margins of the test images, see `common.evaluation`
        self.register_buffer("curve", torch.full((tracked_epochs,), -1.0, dtype=torch.float64))
        self.register_load_state_dict_pre_hook(_take_size_of_margins)
        self.register_load_state_dict_post_hook(lambda method, keys: method._set_layout())
        self._set_layout()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, classes]."""
        logits: Tensor = self.network(x)
        return logits

    def prune(self, data: Any) -> None:
        """(1) to (4), and the removal: `self.network` is a smaller one afterwards. One round of them.

        Warns with `EmptiedLayerWarning` where a layer would lose everything and one channel is kept.

        Raises:
            ValueError: the network has no hidden layer, or ratios of layers that are tied to each other differ.
            PropagationError: no rule says how scores pass an operation of the network.
        """
        if self.tracked_epochs and not int(self.rounds_done):
            self.dense_accuracy.fill_(float((self._margins(data) > 0).double().mean()))
        example = torch.zeros(1, int(data.in_channels), *map(int, data.image_size), device=self.device)
        graph = ChannelGraph(self.network, example)
        removed = self._choose(graph, example, data)
        self.network = remove_channels(self.network, removed, graph=graph)
        if self.redraws:
            redraw(self.network, self._seed("scratch"))
        self._set_layout()
        self.rounds_done += 1
        self.epochs_before.copy_(self.epochs_done)
        if self.tracked_epochs:
            self.after_pruning = self._margins(data)

    def _set_layout(self) -> None:
        """The faster layout on CPUs, and the same one after every surgery and resume, since last bits depend on it."""
        self.network.to(memory_format=torch.channels_last)

    def _choose(self, graph: ChannelGraph, example: Tensor, data: Any) -> Removed:
        sparsity = self._sparsity(graph)
        if self.criterion == "magnitude":
            return choose_by_magnitude(self.network, graph, sparsity)
        if self.criterion == "random":
            return choose_by_chance(graph, sparsity, self._seed("random"))
        layer = self.response_layer or output_layer(graph)
        importance = self._importance(layer, data)
        return choose_by_importance(
            self.network, graph, example, importance, layer, sparsity, self.norms, self.zero_pruned
        )

    def _importance(self, layer: str, data: Any) -> Tensor:
        """(1): s_n, float64 [d], from training images alone."""
        responses = final_responses(self.network, layer, self._response_batches(data))
        if self.ranking == "uniform":
            return torch.ones(responses.shape[1], dtype=torch.float64)
        return torch.from_numpy(inf_fs(responses.numpy(), self.alpha, self.scale))

    def _response_batches(self, data: Any) -> list[Tensor]:
        """N training images, neither shifted nor mirrored, drawn without replacement; all of them where there are fewer."""
        part = data.part("train")
        generator = torch.Generator().manual_seed(self._seed("responses"))
        chosen = torch.randperm(len(part), generator=generator)[: self.response_images]
        images = data.normalisation(part.select(chosen.numpy()).images)
        return [batch.to(self.device) for batch in images.split(500)]

    def _sparsity(self, graph: ChannelGraph) -> dict[str, float]:
        """Share of the present channels that this round removes, by the first layer of each group."""
        found, emptied = {}, []
        for group in prunable_groups(graph):
            first = group.layers[0]
            shares = {self.layer_ratios.get(name, self.ratio) for name in group.layers}
            if len(shares) > 1:
                raise ValueError(f"{', '.join(group.layers)} lose the same channels; give them the same ratio")
            reached = linear_rounds(shares.pop(), self.rounds)[min(int(self.rounds_done), self.rounds - 1)]
            kept = keep_count(self.original_channels[first], reached)
            if kept < 1:
                emptied.append(first)
            found[first] = 1 - min(max(kept, 1), group.channels) / group.channels
        if emptied:
            warnings.warn(
                f"the ratio would leave nothing of {', '.join(emptied)}; one channel each was kept",
                EmptiedLayerWarning,
                stacklevel=2,
            )
        return found

    def _seed(self, what: str) -> int:
        """Of one of the method's draws; the run's seed stands in the global generator, which a phase starts anew."""
        return derived_seed(torch.initial_seed() % 2**31, what)

    @torch.no_grad()
    def _margins(self, data: Any) -> Tensor:
        """Logit of the true class minus the largest other one, float32 [N], on the test part; positive where it is right."""
        modes = {module: module.training for module in self.network.modules()}
        self.network.eval()
        logits = torch.cat([self.network(images.to(self.device)).float() for images, _ in data.loader("test")])
        for module, training in modes.items():
            module.training = training
        return margin(logits, data.labels("test").to(self.device))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        return F.cross_entropy(self.network(x), labels)  # (5)

    def on_train_epoch_end(self) -> None:
        epoch = int(self.epochs_before) + self.current_epoch
        if epoch < self.tracked_epochs:
            self.curve[epoch] = (self._margins(self.trainer.datamodule) > 0).double().mean()  # type: ignore[attr-defined]
            self.epochs_done.fill_(epoch + 1)

    def configure_optimizers(self) -> Any:
        """Prune first, where no phase of its own has done so: the optimiser holds the small network's parameters."""
        if self.ratio and not int(self.rounds_done):
            self.prune(self.trainer.datamodule)  # type: ignore[attr-defined]
        trained = [p for p in self.network.parameters() if p.requires_grad]
        optimizer: torch.optim.Optimizer
        if self.optimizer_name == "adam":
            optimizer = torch.optim.Adam(trained, self.lr, weight_decay=self.weight_decay, fused=True)
        else:
            optimizer = torch.optim.SGD(trained, self.lr, self.momentum, weight_decay=self.weight_decay)
        if not self.lr_drops:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = step_decay([round(share * steps) for share in self.lr_drops], self.lr_factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, schedule), "interval": "step"},
        }


def _take_size_of_margins(method: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """A checkpoint taken after pruning holds one margin a test image."""
    if (saved := state.get(f"{prefix}after_pruning")) is not None:
        method.after_pruning = torch.empty_like(saved)
