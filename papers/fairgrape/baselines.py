"""The methods that FairGRAPE is compared with, as masks: weight selection, SNIP, GraSP, importance without groups, chance.

Everywhere exactly as many weights are kept as were asked for, and at least one a layer. The official code keeps weights above
the K-th largest score, and so one less.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from common.pruning.scores import connection_sensitivity, magnitude, random_scores, undisturbed
from common.pruning.selection import keep_largest, select_globally
from papers.fairgrape.greedy import Selection, shares

TaskLoss = Callable[[Tensor, Tensor], Tensor]
Masks = dict[str, Tensor]


def keep_per_layer(
    scores: Mapping[str, Tensor], counts: Mapping[str, int], alive: Mapping[str, Tensor] | None = None
) -> Masks:
    """The `counts[name]` largest scores of every layer, among what is alive: bool masks by weight name."""
    return {
        name: keep_largest(score, counts[name], None if alive is None else alive[name].to(score.device) != 0)
        for name, score in scores.items()
    }


def weight_selection(weights: Mapping[str, Tensor], counts: Mapping[str, int], alive: Mapping[str, Tensor]) -> Masks:
    """The largest |w| of every layer ("WS", after Han et al., Deep Compression; "Lottery" uses the same rule)."""
    return keep_per_layer(magnitude(weights), counts, alive)


def random_selection(
    weights: Mapping[str, Tensor], counts: Mapping[str, int], alive: Mapping[str, Tensor], seed: int
) -> Masks:
    """Weights of every layer drawn uniformly (the official code has this baseline, but it cannot run)."""
    return keep_per_layer(random_scores(weights, seed), counts, alive)


def xavier_redrawn(network: nn.Module, names: Sequence[str], seed: int) -> nn.Module:
    """A copy of the network with the named weights redrawn by Glorot's normal rule; global generators are left alone."""
    own = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in names:
            weight = own.get_parameter(name)
            fresh = torch.empty(weight.shape)
            nn.init.xavier_normal_(fresh, generator=generator)
            weight.copy_(fresh)
    return own


def snip_selection(
    network: nn.Module,
    names: Sequence[str],
    batch: tuple[Tensor, Tensor],
    loss: TaskLoss,
    sparsity: float,
    seed: int | None,
) -> Masks:
    """SNIP on one mini-batch, ranked over all layers together: |w dL/dw| with Glorot-redrawn weights.

    Args:
        batch: images [B, C, H, W] and labels int64 [B, tasks]. seed: of the redraw; None scores the weights as they are.
    """
    own = network if seed is None else xavier_redrawn(network, names, seed)
    weights = {name: own.get_parameter(name) for name in names}
    sensitivity = connection_sensitivity(
        own, weights, [batch], lambda scored, given: loss(scored(given[0]), given[1]), training=True
    )
    return select_globally(magnitude(sensitivity), sparsity, rounding="keep_fewer")


def grasp_scores(
    network: nn.Module,
    names: Sequence[str],
    batch: tuple[Tensor, Tensor],
    loss: TaskLoss,
    temperature: float = 200.0,
) -> dict[str, Tensor]:
    """GraSP: S = -w * (H g), by weight name; what has the largest S is pruned first (Wang et al., ICLR 2020).

    With the two halves h of the batch, L_h of logits divided by the temperature, g = dL_1/dw + dL_2/dw held fixed, and
    z_h = sum_w g_w dL_h/dw:  H g = d(z_1 + z_2)/dw. S is divided by |sum S|, which changes no order.

    Raises:
        ValueError: a batch of fewer than two images.
    """
    images, labels = batch
    if len(images) < 2:
        raise ValueError("GraSP halves its batch and needs at least two images; give more samples a class")
    middle = len(images) // 2
    halves = [(images[:middle], labels[:middle]), (images[middle:], labels[middle:])]
    weights = [network.get_parameter(name) for name in names]

    def gradients(half: tuple[Tensor, Tensor], graph: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss(network(half[0]) / temperature, half[1]), weights, create_graph=graph)

    with undisturbed(network, training=True), torch.enable_grad():
        first = [gradients(half, graph=False) for half in halves]
        g = [sum(pair) for pair in zip(*first, strict=True)]
        product = [torch.zeros_like(weight) for weight in weights]
        for half in halves:
            z = sum((a * b).sum() for a, b in zip(g, gradients(half, graph=True), strict=True))
            for total, part in zip(product, torch.autograd.grad(z, weights), strict=True):
                total += part
    scores = {name: -w.detach() * h for name, w, h in zip(names, weights, product, strict=True)}
    norm = float(sum(score.double().sum() for score in scores.values()))
    return {name: score / (abs(norm) + 1e-10) for name, score in scores.items()}


def grasp_selection(
    network: nn.Module,
    names: Sequence[str],
    batch: tuple[Tensor, Tensor],
    loss: TaskLoss,
    sparsity: float,
    seed: int | None,
) -> Masks:
    """GraSP ranked over all layers together; linear layers are redrawn by Glorot's rule before they are scored.

    Args:
        batch: images of all classes in equal numbers, sorted by class, and their labels. seed: as in `snip_selection`.
    """
    own = network
    if seed is not None:
        linear = {f"{path}.weight" for path, module in network.named_modules() if isinstance(module, nn.Linear)}
        own = xavier_redrawn(network, [name for name in names if name in linear], seed)
    scores = grasp_scores(own, names, batch, loss)
    return select_globally({name: -score for name, score in scores.items()}, sparsity, rounding="nearest_pruned")


def class_balanced(labels: Tensor, classes: Sequence[int], samples: int, seed: int) -> Tensor:
    """Which training images GraSP scores on: as many of every class, sorted by class; of several tasks, one with each attribute.

    Args:
        labels: int64 [N, T]. classes: of each task. samples: images a class. seed: of the draw.

    Returns:
        Index int64 [M].

    Raises:
        ValueError: a class has too few training images.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    wanted = [(t, 1, 1) for t in range(len(classes))]
    if len(classes) == 1:
        wanted = [(0, c, samples) for c in range(classes[0])]
    chosen = []
    for task, label, count in wanted:
        having = order[labels[order, task] == label][:count]
        if len(having) < count:
            raise ValueError(
                f"GraSP needs {count} training images of class {label} of task {task}, and there are {len(having)}; lower "
                "samples_per_class"
            )
        chosen.append(having)
    return torch.cat(chosen)


def distances(importance: Tensor, found: Selection, count: int, alive: Tensor) -> tuple[float, float, float]:
    """max_g |s_g - T_g| of a selection and of the importance mask of its size, and max_g |s_g - 1/G| of the selection."""
    plain = keep_per_layer({"": importance.sum(dim=0)}, {"": count}, {"": alive})[""]
    kept = shares(importance[:, plain].double().cpu().numpy())
    equal = 1 / len(found.share)
    return found.deviation, float(abs(kept - found.target).max()), float(abs(found.share - equal).max())
