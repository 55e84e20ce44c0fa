"""Real channel removal: a smaller network that computes what the masked one computes.

    graph = ChannelGraph(network, example)
    scores = score_filters("l1", Evidence(network, ("layer1.0.conv1", "layer2.0.conv1")))
    removed = choose_channels(graph, scores, sparsity=0.5)            # {"layer1.0.conv1": [0, 3, ...], ...}
    small = remove_channels(network, removed, graph=graph)            # fewer parameters, fewer multiply-accumulates
    masked = mask_channels(network, removed, graph=graph)             # the same outputs at the old size

Optimisers, masks and kept states of the large network do not fit the small one: make new ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from common.pruning.channel_graph import ChannelGraph, ChannelGraphError, ChannelGroup, Removed, Slices
from common.pruning.selection import Rounding, removed_indices, select_globally, select_per_layer

Kept = dict[str, list[int]]
"""Output channels that are left, by layer, as positions in the network they were removed from."""


def choose_channels(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    sparsity: float | Mapping[str, float],
    scope: Literal["layer", "global"] = "layer",
    rounding: Rounding = "nearest",
    minimum: int = 1,
) -> dict[str, list[int]]:
    """The least important channels, at least one of each group kept.

    Args:
        graph: of the network. scores: [channels] by layer; scores of layers that are tied to each other are added, and layers
            without scores lose nothing unless they are tied to one that has them.
        sparsity: share of channels to remove, in [0, 1); one for all, or (scope "layer") one for each scored layer.
        scope: rank inside each group, or over all of them (only if scores of different layers can be compared).
        rounding: of the number kept, see `keep_count`; `"keep_fewer"` is int(channels (1 - ratio)).
        minimum: of a group that would lose more, so many channels are kept, with a warning.

    Returns:
        Removed channels by layer (one layer for each group).

    Raises:
        ValueError: sparsity outside [0, 1), scores of another length, unknown layers, layers whose channels cannot be removed.
    """
    groups: dict[str, ChannelGroup] = {}
    summed: dict[str, Tensor] = {}
    for name, layer in scores.items():
        if layer.shape != (graph.channels(name),):
            raise ChannelGraphError(
                f"{name} has {graph.channels(name)} channels, but its scores are {list(layer.shape)}"
            )
        group = graph.group_of(name)
        first = next((known for known, other in groups.items() if other.layers == group.layers), name)
        groups[first] = group
        blocks = layer.reshape(-1, group.block).sum(1)
        summed[first] = summed[first] + blocks if first in summed else blocks
    if scope == "global":
        if isinstance(sparsity, Mapping):
            raise ChannelGraphError("a global ranking takes one sparsity, not one for each layer")
        masks = select_globally(summed, sparsity, rounding=rounding, minimum=minimum)
    else:
        masks = select_per_layer(summed, sparsity, rounding=rounding, minimum=minimum)
    return {
        name: [block * groups[name].block + i for block in blocks_gone for i in range(groups[name].block)]
        for name, blocks_gone in removed_indices(masks).items()
    }


def remove_channels(
    network: nn.Module,
    removed: Removed,
    example: Tensor | None = None,
    graph: ChannelGraph | None = None,
    outputs: bool = False,
) -> nn.Module:
    """A smaller copy of a network, without these output channels and all that belongs to them.

    In eval mode it computes what `mask_channels` of the same channels computes. Modes, types and `requires_grad` are those of
    the network, which is not touched; nothing removed is the identity.

    Args:
        network: any network that `ChannelGraph` can follow. removed: output channels by layer.
        example: a batch of inputs, where no graph is given. graph: of this very network.
        outputs: allow channels of the network's output (embedding dimensions) to be removed.

    Raises:
        ChannelGraphError: unknown layers or channels, a layer that would lose everything, the output, half a group of a grouped
            convolution, a shortcut without parameters, or a kind of layer that is not known.
    """
    lost = _lost(network, removed, example, graph, outputs)
    small = copy.deepcopy(network)
    for name, slices in lost.items():
        _shrink(name, small.get_submodule(name), slices)
    return small


def mask_channels(
    network: nn.Module,
    removed: Removed,
    example: Tensor | None = None,
    graph: ChannelGraph | None = None,
    outputs: bool = False,
) -> nn.Module:
    """A copy of a network, of its size, in which these channels are exactly zero everywhere.

    Filters, biases and batch-normalisation weights and biases are zeroed: with the filter alone a normalisation would still
    emit a constant. Arguments and errors as in `remove_channels`.
    """
    lost = _lost(network, removed, example, graph, outputs)
    masked = copy.deepcopy(network)
    with torch.no_grad():
        for name, slices in lost.items():
            _zero(masked.get_submodule(name), sorted(slices.outputs))
    return masked


def kept_channels(graph: ChannelGraph, removed: Removed) -> Kept:
    """The channels that are left in every layer that loses some, tied layers and depthwise convolutions included."""
    lost = merged_slices(graph, removed)
    return {
        name: [i for i in range(graph.channels(name)) if i not in slices.outputs]
        for name, slices in lost.items()
        if slices.outputs and graph.has_channels(name)
    }


def removed_channels(graph: ChannelGraph, kept: Mapping[str, Iterable[int]]) -> dict[str, list[int]]:
    """The opposite of `kept_channels`: with the network's spec, lists of kept channels rebuild a pruned network."""
    return {name: sorted(set(range(graph.channels(name))) - set(left)) for name, left in kept.items()}


def compose_kept(first: Kept, then: Kept) -> Kept:
    """Kept channels of two removals in a row, as positions in the network before the first."""
    both = {name: [first[name][i] for i in left] if name in first else list(left) for name, left in then.items()}
    return {**first, **both}


def merged_slices(graph: ChannelGraph, removed: Removed) -> dict[str, Slices]:
    """What every layer loses, for removals from several layers together."""
    total: dict[str, Slices] = {}
    for layer, channels in removed.items():
        for name, slices in graph.slices(layer, channels).items():
            own = total.setdefault(name, Slices(set(), set()))
            own.outputs |= slices.outputs
            own.inputs |= slices.inputs
    return total


def _lost(
    network: nn.Module, removed: Removed, example: Tensor | None, graph: ChannelGraph | None, outputs: bool
) -> dict[str, Slices]:
    if graph is None:
        if example is None:
            raise ChannelGraphError("give an example batch, or the network's ChannelGraph")
        graph = ChannelGraph(network, example)
    lost = merged_slices(graph, removed)
    for layer, channels in removed.items():
        if set(channels) and not outputs and graph.group_of(layer).output:
            raise ChannelGraphError(
                f"the channels of {layer} are the network's output; pass outputs=True if it is to become smaller"
            )
    for name, slices in lost.items():
        if graph.has_channels(name) and len(slices.outputs) >= graph.channels(name):
            raise ChannelGraphError(f"{name} would lose all of its {graph.channels(name)} channels; keep at least one")
    return lost


def _shrink(name: str, module: nn.Module, lost: Slices) -> None:
    """Take slices out of a layer's tensors, and put its sizes right."""
    if isinstance(module, nn.modules.conv._ConvNd):
        size = module.out_channels // module.groups
        if module.groups == 1:
            _keep(module, "weight", 1, lost.inputs)
        else:
            module.groups -= len(lost.outputs) // size
        _keep(module, "weight", 0, lost.outputs)
        _keep(module, "bias", 0, lost.outputs)
        module.in_channels -= len(lost.inputs)
        module.out_channels -= len(lost.outputs)
    elif isinstance(module, nn.Linear):
        _keep(module, "weight", 1, lost.inputs)
        _keep(module, "weight", 0, lost.outputs)
        _keep(module, "bias", 0, lost.outputs)
        module.in_features -= len(lost.inputs)
        module.out_features -= len(lost.outputs)
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            _keep(module, tensor, 0, lost.outputs)
        module.num_features -= len(lost.outputs)
    elif isinstance(module, nn.PReLU):
        if module.num_parameters > 1:
            _keep(module, "weight", 0, lost.outputs)
            module.num_parameters -= len(lost.outputs)
    else:
        raise ChannelGraphError(f"{name} is a {type(module).__name__}, of which it is not known how it loses channels")


@torch.no_grad()
def _keep(module: nn.Module, name: str, axis: int, lost: set[int]) -> None:
    """Replace a parameter or buffer by what is left of it along an axis."""
    tensor = getattr(module, name)
    if tensor is None or not lost:
        return
    left = torch.tensor([i for i in range(tensor.shape[axis]) if i not in lost], device=tensor.device)
    rest = tensor.detach().index_select(axis, left)
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        rest = rest.contiguous(memory_format=torch.channels_last)
    setattr(module, name, nn.Parameter(rest, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else rest)


def _zero(module: nn.Module, channels: list[int]) -> None:
    """Make a layer's output zero in these channels, given that its input is."""
    if isinstance(module, nn.PReLU):
        return
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.affine:
        module.running_mean[channels] = 0  # type: ignore[index]
        return
    for name in ("weight", "bias"):
        tensor = getattr(module, name)
        if tensor is not None:
            tensor[channels] = 0
