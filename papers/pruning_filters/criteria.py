"""Which filters go: norms of their kernels, chance, or statistics of their feature maps; one layer at a time or front to back.

Scores are tensors [filters] by layer name; the smallest are removed, of equal ones the lower index first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.pruning import ChannelGraph, Evidence, choose_channels, filter_norms, score_filters
from common.pruning.channels import merged_slices
from common.pruning.scores import undisturbed

Scores = dict[str, Tensor]
NORMS: Mapping[str, tuple[int, int]] = {"l1_smallest": (1, 1), "l2": (2, 1), "l1_largest": (1, -1)}  # order, sign
ACTIVATIONS = ("mean_mean", "mean_std", "mean_l1", "mean_l2", "var_l2")
CRITERIA = (*NORMS, "random", *ACTIVATIONS)


def filter_scores(
    criterion: str, network: nn.Module, layers: Sequence[str], batches: Iterable[Any] = (), seed: int = 0
) -> Scores:
    """Scores of the filters of these layers.

    Args:
        criterion: one of `CRITERIA`: `"l1_smallest"` s_j = sum |F_j| (1), `"l2"`, `"l1_largest"` -s_j, `"random"`, or one of the
            statistics of `activation_statistics`.
        network: where they are. batches: (images, ...) for statistics of feature maps. seed: of random scores.

    Raises:
        ValueError: another criterion, or statistics without a batch.
    """
    if criterion in NORMS:
        order, sign = NORMS[criterion]
        return {name: sign * s for name, s in score_filters(f"l{order}", Evidence(network, tuple(layers))).items()}
    if criterion == "random":
        return score_filters("random", Evidence(network, tuple(layers), seed=seed))
    if criterion not in ACTIVATIONS:
        raise ValueError(f"there is no criterion {criterion!r}; there are {', '.join(CRITERIA)}")
    return activation_statistics(network, layers, batches)[criterion]


@torch.no_grad()
def activation_statistics(network: nn.Module, layers: Sequence[str], batches: Iterable[Any]) -> dict[str, Scores]:
    """Statistics of every feature map x_n over N images, on the outputs of convolutions before normalisation and ReLU.

    Returns:
        `mean_mean` 1/N sum mean(x_n), `mean_std` 1/N sum std(x_n), `mean_l1` 1/N sum ||x_n||_1, `mean_l2` 1/N sum ||x_n||_2,
        `var_l2` the variance of ||x_n||_2 over the images; each by layer, float64 [filters]. A linear layer's map is one number.

    Raises:
        ValueError: no batch.
    """
    sums: dict[str, dict[str, Tensor]] = {name: {} for name in layers}
    images = 0

    def watch(name: str) -> Callable[..., None]:
        def add(module: nn.Module, inputs: Any, output: Tensor) -> None:
            maps = output.reshape(*output.shape[:2], -1).double()  # [B, filters, positions]
            norms = torch.linalg.vector_norm(maps, dim=2)
            found = {
                "mean_mean": maps.mean(2),
                "mean_std": maps.std(2, correction=0),
                "mean_l1": maps.abs().sum(2),
                "mean_l2": norms,
                "squares": norms.square(),
            }
            for key, value in found.items():
                sums[name][key] = sums[name].get(key, 0) + value.sum(0)

        return add

    handles = [network.get_submodule(name).register_forward_hook(watch(name)) for name in layers]
    device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    try:
        with undisturbed(network):
            for batch in batches:
                images += len(batch[0])
                network(batch[0].to(device))
    finally:
        for handle in handles:
            handle.remove()
    if not images:
        raise ValueError("statistics of feature maps need images, and there was no batch")
    means = {name: {key: value / images for key, value in own.items()} for name, own in sums.items()}
    for own in means.values():
        own["var_l2"] = (own.pop("squares") - own["mean_l2"].square()).clamp_(min=0)
    return {key: {name: means[name][key] for name in layers} for key in ACTIVATIONS}


def select_filters(
    network: nn.Module,
    graph: ChannelGraph,
    ratios: Mapping[str, float],
    criterion: str = "l1_smallest",
    greedy: bool = False,
    batches: Iterable[Any] = (),
    seed: int = 0,
) -> dict[str, list[int]]:
    """The filters to remove from every layer.

    int(c (1 - p)) of c filters are kept, at least one. Layers that are tied by additions lose the channels that are chosen at the
    named one: naming a stage's projection shortcut prunes the second convolutions of its blocks alike.

    Args:
        network: the trained network. graph: of it. ratios: p by layer, in [0, 1).
        criterion, batches, seed: see `filter_scores`.
        greedy: layer by layer from the front, counting only kernels of feature maps that are left (3); norms alone can do that.

    Raises:
        ValueError: two named layers are tied to each other; a greedy selection by anything but kernels.
    """
    order = [name for name, _ in network.named_modules() if name in ratios]
    for name in ratios:
        graph.channels(name)  # says which layers there are
    _check_ties(graph, order)
    shares = {name: ratios[name] for name in order}
    if not shares:
        return {}
    if not greedy:
        scores = filter_scores(criterion, network, order, batches, seed)
        return choose_channels(graph, scores, shares, rounding="keep_fewer")
    if criterion not in NORMS:
        raise ValueError(
            f"the greedy selection counts kernels, which {criterion!r} does not look at: use {list(NORMS)}"
        )
    norm, sign = NORMS[criterion]
    removed: dict[str, list[int]] = {}
    for name in order:
        weight = network.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        left = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
        lost = merged_slices(graph, removed).get(name)
        if lost is not None:
            left[sorted(lost.inputs)] = False
        layer = {name: sign * filter_norms(weight, norm, inputs=left)}
        removed |= choose_channels(graph, layer, {name: shares[name]}, rounding="keep_fewer")
    return removed


def _check_ties(graph: ChannelGraph, layers: Sequence[str]) -> None:
    for at, name in enumerate(layers):
        tied = set(graph.group_of(name).layers) & set(layers[:at])
        if tied:
            raise ValueError(
                f"{name} and {', '.join(sorted(tied))} share their channels: name the one whose filters are to be ranked"
            )
