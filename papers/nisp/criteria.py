"""Which channels go: NISP's sweep from the final responses to the input, and the criteria that it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from common.pruning import ChannelGraph, ChannelGroup, choose_channels, filter_norms, random_scores
from papers.nisp.propagation import Norms, PropagationError, channel_scores, propagate

Removed = dict[str, list[int]]


def prunable_groups(graph: ChannelGraph) -> tuple[ChannelGroup, ...]:
    """Channels that can go: all hidden ones, tied ones together; not the output.

    Raises:
        ValueError: there are none.
    """
    groups = tuple(group for group in graph.groups if not group.output)
    if not groups:
        raise ValueError(
            "the network has no hidden layer whose channels could be removed, so that nothing can be pruned"
        )
    return groups


def output_layer(graph: ChannelGraph) -> str:
    """The layer that makes the network's output: its input are the final responses.

    Raises:
        ValueError: there is none, or several.
    """
    layers = [name for group in graph.groups if group.output for name in group.layers]
    if len(layers) != 1:
        raise ValueError(f"{len(layers)} layers make the network's output; name the layer after the final responses")
    return layers[0]


def final_responses(network: nn.Module, layer: str, batches: Sequence[Tensor]) -> Tensor:
    """X of Inf-FS, float64 [N, d]: what goes into a layer, in eval mode, for batches of images."""
    seen: list[Tensor] = []
    modes = {module: module.training for module in network.modules()}
    hook = network.get_submodule(layer).register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].detach().flatten(1).double().cpu())
    )
    try:
        network.eval()
        with torch.no_grad():
            for images in batches:
                network(images)
    finally:
        hook.remove()
        for module, training in modes.items():
            module.training = training
    return torch.cat(seen)


def choose_by_importance(
    network: nn.Module,
    graph: ChannelGraph,
    example: Tensor,
    importance: Tensor,
    response_layer: str,
    sparsity: Mapping[str, float],
    norms: Norms = "identity",
    zero_pruned: bool = True,
) -> Removed:
    """NISP: from the last layer to the first, score, keep the best of each, and let nothing flow from what is pruned.

    Tied layers (a residual stream) are scored together, at all their points, when the sweep meets the last of them.

    Args:
        network, example: see `propagate`. graph: of the network.
        importance: s_n, [d]. response_layer: whose input the final responses are.
        sparsity: by the first layer of each group: share of its channels to remove.
        norms: rule for batch normalisation. zero_pruned: False propagates the scores of pruned channels too.

    Raises:
        PropagationError: a layer that is to be pruned does not lead to the final responses.
    """
    groups = [group for group in prunable_groups(graph) if sparsity.get(group.layers[0], 0)]
    maps = propagate(network, example, importance, response_layer, norms=norms)
    behind = [name for group in groups for name in group.layers if name not in maps]
    if behind:
        raise PropagationError(
            f"{', '.join(behind)} do not lead to the input of {response_layer}, so that they get no score; do not prune them"
        )
    order = list(maps)
    kept: dict[str, Tensor] = {}
    removed: Removed = {}
    for group in sorted(groups, key=lambda group: max(map(order.index, group.layers)), reverse=True):
        if kept and zero_pruned:
            maps = propagate(network, example, importance, response_layer, kept, norms)
        total = torch.stack([channel_scores(maps[name]) for name in group.layers]).sum(0)
        chosen = choose_channels(graph, {group.layers[0]: total}, sparsity[group.layers[0]])
        removed.update(chosen)
        mask = torch.ones(group.channels, dtype=torch.bool)
        mask[chosen.get(group.layers[0], [])] = False
        kept.update(dict.fromkeys(group.layers, mask))
    return removed


def choose_by_magnitude(network: nn.Module, graph: ChannelGraph, sparsity: Mapping[str, float]) -> Removed:
    """The baseline: L1 norms of filters and neurons, layer by layer; of tied layers their sum."""
    modules = dict(network.named_modules())

    def norms(group: ChannelGroup) -> Tensor:
        return torch.stack([filter_norms(modules[name].weight) for name in group.layers]).sum(0)

    return _choose(graph, sparsity, norms)


def choose_by_chance(graph: ChannelGraph, sparsity: Mapping[str, float], seed: int) -> Removed:
    """The control: uniform draws."""
    empty = {group.layers[0]: torch.empty(group.channels) for group in prunable_groups(graph)}
    draws = random_scores(empty, seed)
    return _choose(graph, sparsity, lambda group: draws[group.layers[0]])


def _choose(graph: ChannelGraph, sparsity: Mapping[str, float], score: Callable[[ChannelGroup], Tensor]) -> Removed:
    groups = [group for group in prunable_groups(graph) if sparsity.get(group.layers[0], 0)]
    scores = {group.layers[0]: score(group) for group in groups}
    return choose_channels(graph, scores, {name: sparsity[name] for name in scores}) if scores else {}
