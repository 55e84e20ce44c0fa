"""The paper's sensitivity curves: every layer alone loses a share of its filters, and the network is measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.cost import measure_cost
from common.evaluation.benchmark import Measurement
from common.evaluation.classification import add_decisions, margin, pruning_cost
from common.pruning import ChannelGraph, choose_channels, remove_channels
from papers.pruning_filters.configurations import ORDER, SET
from papers.pruning_filters.criteria import ACTIVATIONS, Scores, activation_statistics, filter_scores
from papers.pruning_filters.method import FilterPruning
from papers.pruning_filters.suffix import Operations, logits_of


@dataclass(frozen=True)
class Point:
    """One layer that has lost some of its filters.

    Attributes:
        layer: name; place: its number among the convolutions of the network, from 1.
        criterion: what chose the filters; percent: share asked for; kept, filters: what is left, and what there was.
        retrained: whether the network was trained on afterwards.
    """

    layer: str
    place: int
    criterion: str
    percent: float
    kept: int
    filters: int
    retrained: bool = False


class Sensitivity:
    """Accuracy on the test part with filters missing from one layer at a time; nothing is selected by it.

    Args:
        percents: criterion -> shares of the filters to remove, in percent.
        layers: to sweep; None for every convolution whose channels are tied to no other layer: all of a plain network, the first
            ones of residual blocks.
        retrained: shares after which the network is trained on, by `l1_smallest`. retrain_steps: how long, at the method's rate.
        parts_of_network: name -> layers whose decisions at `parts_percent` are pooled for a claim: one an image and layer.
        batch_size: images at a time.

    Raises:
        ValueError: shares outside [0, 100), or none at all.
    """

    def __init__(
        self,
        percents: Mapping[str, Sequence[float]],
        layers: Sequence[str] | None = None,
        retrained: Sequence[float] = (),
        retrain_steps: int = 0,
        parts_of_network: Mapping[str, Sequence[str]] | None = None,
        parts_percent: float = 50,
        batch_size: int = 250,
    ) -> None:
        every = [*itertools.chain(*percents.values()), *retrained]
        if not every or not all(0 <= percent < 100 for percent in every):
            raise ValueError(f"percents is {dict(percents)}, {retrained=}: expected shares in [0, 100), at least one")
        self.percents = {criterion: tuple(shares) for criterion, shares in percents.items()}
        self.layers, self.batch_size = layers, batch_size
        self.retrained, self.retrain_steps = tuple(retrained), retrain_steps
        self.parts_of_network = {name: tuple(part) for name, part in (parts_of_network or {}).items()}
        self.parts_percent = parts_percent

    def measure(self, method: FilterPruning, data: Any) -> Measurement:
        """Decisions of the whole network as `"test"`, with every point of the sweep as its metric `sensitivity`.

        Further sets: `ORDER`, one decision for every layer and share >= 50 % that all three criteria have, right where smallest
        >= random > largest; and the parts of the network.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        method.network.to(device).eval()
        graph = method.graph(data)
        names = self._swept(method.network, graph)
        points, variants = self._variants(method, data, graph, names)
        whole, logits = _sweep(method.network, variants, self._batches(data), device)
        answers = dict(zip(points, (out for name in names for out in logits[name]), strict=True))
        answers |= self._retrained(method, data, graph, names, device)
        return self._measurement(method, data, whole, answers)

    def _batches(self, data: Any) -> Iterator[Any]:
        return iter(data.loader(SET, self.batch_size))

    def _swept(self, network: nn.Module, graph: ChannelGraph) -> list[str]:
        if self.layers is not None:
            return list(self.layers)
        single = {group.layers[0] for group in graph.groups if len(group.layers) == 1 and not group.output}
        return [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d) and name in single]

    def _variants(
        self, method: FilterPruning, data: Any, graph: ChannelGraph, names: Sequence[str]
    ) -> tuple[list[Point], dict[str, list[nn.Module]]]:
        """Points, layer by layer, and the network of each."""
        scores = self._scores(method, data, names)
        points, variants = [], {}
        for name in names:
            wanted = [(criterion, percent) for criterion, shares in self.percents.items() for percent in shares]
            variants[name] = [_without(method.network, graph, name, scores[c][name], p) for c, p in wanted]
            for (criterion, percent), small in zip(wanted, variants[name], strict=True):
                points.append(_point(method.network, name, criterion, percent, small))
        return points, variants

    def _scores(self, method: FilterPruning, data: Any, names: Sequence[str]) -> dict[str, Scores]:
        """By criterion and layer; one pass over the training images for all statistics of feature maps."""
        seen = any(criterion in ACTIVATIONS for criterion in self.percents)
        found = activation_statistics(method.network, names, method.statistics_batches(data)) if seen else {}
        seed = method.derived("sensitivity")
        return {
            c: found[c] if c in found else filter_scores(c, method.network, names, seed=seed) for c in self.percents
        }

    def _retrained(
        self, method: FilterPruning, data: Any, graph: ChannelGraph, names: Sequence[str], device: torch.device
    ) -> dict[Point, Tensor]:
        """Points of `retrained` with the logits of networks that were trained on."""
        found = {}
        scores = filter_scores("l1_smallest", method.network, names) if self.retrained else {}
        for name, percent in itertools.product(names if self.retrained else (), self.retrained):
            small = _without(method.network, graph, name, scores[name], percent)
            train_on(small, method, data, self.retrain_steps, device)
            point = _point(method.network, name, "l1_smallest", percent, small, retrained=True)
            found[point] = logits_of(small, self._batches(data), device)
        return found

    def _measurement(
        self, method: FilterPruning, data: Any, whole: Tensor, answers: Mapping[Point, Tensor]
    ) -> Measurement:
        labels = data.labels(SET).cpu()
        correct = {point: (logits.argmax(1) == labels).numpy() for point, logits in answers.items()}
        groups, names = labels.numpy(), tuple(data.class_names)
        rows = [{**asdict(point), **_accuracies(right, groups, len(names))} for point, right in correct.items()]
        found = Measurement({}, {}, {}, {}, {})
        right = (whole.argmax(1) == labels).numpy()
        score = margin(whole, labels).numpy()
        add_decisions(found, SET, right, score, groups, names, {"sensitivity": rows})
        ahead = order_of_criteria(rows)
        if len(ahead):
            add_decisions(found, ORDER, ahead >= 0, ahead, np.full(len(ahead), -1), ())
        for name, layers in self.parts_of_network.items():
            own = [
                right
                for point, right in correct.items()
                if point.layer in layers and (point.criterion, point.percent) == ("l1_smallest", self.parts_percent)
                and not point.retrained
            ]  # fmt: skip
            pooled, images = np.concatenate(own), np.tile(np.arange(len(labels)), len(own))
            none = np.full(len(pooled), -1)
            add_decisions(found, name, pooled, pooled.astype(np.float32), none, (), subject=images)
        method.network.to("cpu")
        size = (int(data.in_channels), *map(int, data.image_size))
        found.cost.update(asdict(measure_cost(method.network, size)))
        found.cost.update(pruning_cost(method.network, None, method.original_weights))
        return found


def order_of_criteria(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """For every layer and share of at least 50 %: how far accuracies are from violating smallest >= random > largest.

    Returns:
        float [decisions], in percent points; at least 0 where the order holds.
    """
    found: dict[tuple[str, float], dict[str, float]] = {}
    for row in rows:
        if row["percent"] >= 50 and not row["retrained"]:
            found.setdefault((row["layer"], row["percent"]), {})[row["criterion"]] = row["accuracy"]
    ahead = []
    for point in found.values():
        if {"l1_smallest", "random", "l1_largest"} <= set(point):
            over, under = point["l1_smallest"] - point["random"], point["random"] - point["l1_largest"]
            ahead.append(min(over, under if under > 0 else min(under, -1e-3)))
    return np.array(ahead, dtype=np.float32)


def train_on(network: nn.Module, method: FilterPruning, data: Any, steps: int, device: torch.device) -> None:
    """Train a network on for so many steps at the method's constant rate, on the method's training batches."""
    optimizer, loader = method.optimizer_of(network), data.train_dataloader()
    network.to(device).train()
    done = 0
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        for images, labels in loader:
            if done == steps:
                return
            loss = F.cross_entropy(network(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
        if not done:
            raise ValueError("the training part gives no batch: it is smaller than the batch size")


@torch.inference_mode()
def _sweep(
    network: nn.Module, variants: Mapping[str, Sequence[nn.Module]], batches: Iterator[Any], device: torch.device
) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """Logits of the network and of all variants on all batches, float32 on the CPU."""
    operations = Operations(network)
    whole: list[Tensor] = []
    pieces: dict[str, list[list[Tensor]]] = {name: [[] for _ in own] for name, own in variants.items()}
    for images, _ in batches:
        logits, others = operations.sweep(network, variants, images.to(device))
        whole.append(logits.cpu())
        for name, outputs in others.items():
            for piece, output in zip(pieces[name], outputs, strict=True):
                piece.append(output.cpu())
    return torch.cat(whole), {name: [torch.cat(piece) for piece in own] for name, own in pieces.items()}


def _without(network: nn.Module, graph: ChannelGraph, name: str, scores: Tensor, percent: float) -> nn.Module:
    removed = choose_channels(graph, {name: scores}, round(percent / 100, 6), rounding="keep_fewer")
    return remove_channels(network, removed, graph=graph)


def _point(
    network: nn.Module, name: str, criterion: str, percent: float, small: nn.Module, retrained: bool = False
) -> Point:
    convolutions = [path for path, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    before, after = (each.get_submodule(name).weight for each in (network, small))
    assert isinstance(before, Tensor)
    assert isinstance(after, Tensor)
    return Point(name, convolutions.index(name) + 1, criterion, float(percent), len(after), len(before), retrained)


def _accuracies(correct: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, Any]:
    """Accuracy of all images and of the worst class, in percent."""
    per_class = [float(correct[labels == label].mean()) for label in range(classes) if (labels == label).any()]
    return {"accuracy": 100 * float(correct.mean()), "worst_class": 100 * min(per_class)}
