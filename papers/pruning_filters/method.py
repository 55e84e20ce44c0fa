"""Pruning filters: remove whole filters with small kernels from a trained network, once, and train what is left a little more.

H. Li, A. Kadav, I. Durdanovic, H. Samet, H. P. Graf, "Pruning Filters for Efficient ConvNets", ICLR 2017, arXiv:1608.08710.
Basis: the text, and Liu et al.'s PyTorch scripts (github.com/Eric-mingjie/rethinking-network-pruning, commit 2ac473d), read and
not copied; the authors published no code that is known. The equation numbers below are ours.

Symbols
    x_i       input maps of convolution i, [n_i, h_i, w_i]
    F_{i,j}   filter j of convolution i, [n_i, k, k], j = 1 .. n_{i+1}; K_{j,l} its kernel for input map l, [k, k]
    p_i       share of the filters that convolution i loses
    m_i       number of them: n_{i+1} - int(n_{i+1} (1 - p_i)), never all

Method
    s_j = sum_{l=1}^{n_i} sum |K_{j,l}| = ||F_{i,j}||_1                          (1)   without data
    remove the m_i filters of smallest s_j, their feature maps and normalisation entries, and the kernels of
    convolution i + 1 that read them: the cost of both falls by m_i / n_{i+1}    (2)
    several layers, greedy: in s_j count only l whose map is left after (2) in convolution i - 1; independent: all l   (3)
    residual blocks: the first convolution alone; or the projection shortcut, whose indices the second convolutions of
    the stage take over, since their outputs are added to it                     (4)
    all layers once, then train on at a small constant rate                      (5)
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytorch_lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.experiment.callbacks import derived_seed
from common.pruning import ChannelGraph, accept_pruned, prunable_weights, redraw, remove_channels
from common.pruning.scores import undisturbed
from common.schedules import step_decay
from common.weights import load_weights
from papers.pruning_filters.criteria import ACTIVATIONS, CRITERIA, NORMS, select_filters


class FilterPruning(L.LightningModule):
    """Remove filters once, train on. Without ratios the dense reference.

    Args:
        network: images [B, C, H, W] -> logits [B, classes].
        weights: file of its trained parameters; None takes it as it is.
        ratios: p_i by the name of a convolution (or linear layer), in [0, 1); see `configurations`.
        criterion: one of `criteria.CRITERIA`: `"l1_smallest"` (the paper) or its controls.
        greedy: select front to back by the kernels that are left (3), else every layer by itself.
        classes: outputs to keep, for a task of fewer classes (the survey's); None for all.
        scratch: control: draw the pruned network's parameters anew.
        statistics_images: training images (the first ones in stored order) for the criteria on feature maps; 0 for all.
        lr, momentum, weight_decay: of SGD.
        lr_drops: shares of the training after which the rate is multiplied by 0.1; none for the constant rate of (5).
        validate_every: steps between two looks at the validation part, to keep the best weights beside the last; 0 for none.

    Raises:
        ValueError: an argument out of its range; nothing in the network can be pruned.
        FileNotFoundError, WeightsMismatchError: `weights` is missing or belongs to another network.
    """

    pruned: Tensor
    best_accuracy: Tensor

    def __init__(
        self,
        network: nn.Module,
        weights: str | None = None,
        ratios: Mapping[str, float] | None = None,
        criterion: str = "l1_smallest",
        greedy: bool = False,
        classes: Sequence[int] | None = None,
        scratch: bool = False,
        statistics_images: int = 50_000,
        lr: float = 0.001,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        lr_drops: Sequence[float] = (),
        validate_every: int = 0,
    ) -> None:
        super().__init__()
        ratios = dict(ratios or {})
        for name, ratio in ratios.items():
            if not 0 <= ratio < 1:
                raise ValueError(
                    f"the ratio of {name} is {ratio}, but must lie in [0, 1): it is the share of filters removed"
                )
        if criterion not in CRITERIA:
            raise ValueError(f"criterion is {criterion!r}, but must be one of {', '.join(CRITERIA)}")
        if greedy and criterion not in NORMS:
            raise ValueError(
                f"greedy counts kernels, which {criterion!r} does not look at: use one of {', '.join(NORMS)}"
            )
        if statistics_images < 0 or validate_every < 0 or not all(0 < share < 1 for share in lr_drops):
            raise ValueError(f"{statistics_images=}, {validate_every=} must be at least 0, {lr_drops=} inside (0, 1)")
        if weights is not None:
            load_weights(network, weights)
        self.original_weights = sum(weight.numel() for weight in prunable_weights(network).values())
        self.network: nn.Module = accept_pruned(network)
        self.best = self._twin() if validate_every else None
        self.ratios, self.criterion, self.greedy = ratios, criterion, greedy
        self.classes = None if classes is None else tuple(int(label) for label in classes)
        self.scratch, self.statistics_images = scratch, statistics_images
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.lr_drops, self.validate_every = tuple(lr_drops), validate_every
        self.register_buffer("best_accuracy", torch.tensor(-1.0, dtype=torch.float64))
        self.register_buffer("pruned", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, classes]."""
        logits: Tensor = self.network(x)
        return logits

    def prune(self, data: Any) -> None:
        """(1) to (4): choose the filters of all layers and build the smaller network.

        Warns with `EmptiedLayerWarning` where a layer would have lost everything and kept one filter.
        """
        graph = self.graph(data)
        removed = self.select(data, graph)
        if self.classes is not None:
            layer, others = self._other_outputs(graph)
            removed[layer] = others
        self.network = remove_channels(self.network, removed, graph=graph, outputs=self.classes is not None)
        if self.scratch:
            redraw(self.network, self.derived("scratch"))
        if self.best is not None:
            self.best = self._twin()
        self.pruned.fill_(True)

    def select(self, data: Any, graph: ChannelGraph) -> dict[str, list[int]]:
        """The filters that the ratios remove from the present network, by layer."""
        batches = self.statistics_batches(data) if self.criterion in ACTIVATIONS else ()
        seed = self.derived("random")
        return select_filters(self.network, graph, self.ratios, self.criterion, self.greedy, batches, seed)

    def graph(self, data: Any) -> ChannelGraph:
        """Which channels of the present network belong together."""
        example = torch.zeros(2, int(data.in_channels), *map(int, data.image_size))
        with undisturbed(self.network):
            return ChannelGraph(self.network, example)

    def statistics_batches(self, data: Any) -> Iterator[Any]:
        """Training images without augmentation, in stored order, as (images, labels) of at most 500."""
        left = self.statistics_images or len(data.labels("train"))
        for images, labels in data.loader("train", 500):
            yield images[:left], labels[:left]
            left -= len(images)
            if left <= 0:
                return

    def _other_outputs(self, graph: ChannelGraph) -> tuple[str, list[int]]:
        """The output layer and its neurons of classes that are not kept."""
        assert self.classes is not None
        layer = next(group.layers[-1] for group in graph.groups if group.output)
        count = graph.channels(layer)
        if sorted(set(self.classes)) != list(self.classes) or not set(self.classes) <= set(range(count)):
            raise ValueError(
                f"classes is {self.classes}, but must be some of 0 to {count - 1} in rising order, each once"
            )
        return layer, [label for label in range(count) if label not in self.classes]

    def _twin(self) -> nn.Module:
        return copy.deepcopy(self.network).requires_grad_(False)

    def derived(self, what: str) -> int:
        """Of one of the method's draws; the run's seed stands in the global generator, which a phase starts anew."""
        return derived_seed(torch.initial_seed() % 2**31, what)

    def on_fit_start(self) -> None:
        """Prune first, where no phase of its own has done so."""
        if (self.ratios or self.classes is not None) and not bool(self.pruned):
            self.prune(self.trainer.datamodule)  # type: ignore[attr-defined]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        return F.cross_entropy(self.network(x), labels)  # (5)

    def optimizer_of(self, network: nn.Module) -> torch.optim.Optimizer:
        """SGD on all parameters of a network: nothing is frozen, nothing is masked."""
        return torch.optim.SGD(network.parameters(), self.lr, self.momentum, weight_decay=self.weight_decay)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_of(self.network)
        if not self.lr_drops:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = step_decay([round(share * steps) for share in self.lr_drops])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, schedule), "interval": "step"},
        }

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.validate_every and self.global_step % self.validate_every == 0:
            self._keep_if_best(self.trainer.datamodule.val_dataloader())  # type: ignore[attr-defined]

    @torch.no_grad()
    def _keep_if_best(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Keep the weights if none so far were right on more validation images."""
        self.network.eval()
        right, seen = 0, 0
        for images, labels in batches:
            right += int((self.network(images.to(self.device)).argmax(1) == labels.to(self.device)).sum())
            seen += len(labels)
        self.network.train()
        if self.best is not None and seen and right / seen > float(self.best_accuracy):
            self.best_accuracy.fill_(right / seen)
            own = itertools.chain(self.network.parameters(), self.network.buffers())
            for kept, now in zip(itertools.chain(self.best.parameters(), self.best.buffers()), own, strict=True):
                kept.copy_(now)

    def best_network(self) -> nn.Module | None:
        """A copy of the network with the weights of the best validation accuracy; None if that was never looked at."""
        if self.best is None or float(self.best_accuracy) < 0:
            return None
        return copy.deepcopy(self.best)
