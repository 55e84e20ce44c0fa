"""Which layers' channels belong together: the dependency graph of torch-pruning, as groups of layers by name.

Removing a filter of a convolution removes its batch-normalisation entry, its PReLU slope and its slice of every layer that
reads it. Where outputs are added (residual streams), the channels of all summands go together; a depthwise convolution ties
its outputs to its inputs, and a grouped one ties them by whole groups.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import torch
import torch_pruning as tp
from torch import Tensor, nn

Removed = Mapping[str, Iterable[int]]
"""Output channels to remove, by the name of a layer; layers tied to it need not be named."""


class ChannelGraphError(ValueError):
    """Channels cannot be removed as asked; the message says from which layer and why."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only be removed together.

    Attributes:
        layers: convolutions and linear layers that make these channels; several in a residual stream.
        followers: normalisations, PReLUs and depthwise convolutions that they pass through.
        readers: layers whose inputs they are.
        channels: how many there are. block: how many neighbours go together (the group of a grouped convolution; else 1).
        output: the network's output is made of them.
    """

    layers: tuple[str, ...]
    followers: tuple[str, ...]
    readers: tuple[str, ...]
    channels: int
    block: int
    output: bool


@dataclass
class Slices:
    """Positions that one layer loses: along its outputs, along its inputs, or the same along both."""

    outputs: set[int]
    inputs: set[int]


class _GroupedConv2d(nn.Conv2d):
    """Marks a grouped convolution in the traced copy."""


class _GroupedPruner(tp.pruner.function.ConvPruner):
    """Tells the graph that a grouped convolution's outputs follow its inputs; the surgery is done elsewhere."""

    prune_in_channels = tp.pruner.function.ConvPruner.prune_out_channels


class ChannelGraph:
    """The dependencies of one network.

    Args:
        network: is copied, not changed. Its forward must be traceable by autograd and must not hard-code channel counts.
        example: a batch of one or more inputs, of the size that the network is used with.

    Raises:
        ChannelGraphError: the network has no convolution or linear layer, or a grouped convolution with more outputs than
            inputs or fewer.
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        twin = copy.deepcopy(network).requires_grad_(True)
        self._names = {module: name for name, module in twin.named_modules()}
        for module, name in self._names.items():
            if isinstance(module, nn.Conv2d) and 1 < module.groups < module.out_channels:
                if module.in_channels != module.out_channels:
                    raise ChannelGraphError(
                        f"{name} is a grouped convolution from {module.in_channels} to {module.out_channels} channels; "
                        "only those with equal numbers can be followed"
                    )
                module.__class__ = _GroupedConv2d
        device = next((weight.device for weight in twin.parameters()), torch.device("cpu"))
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*Unknown operation.*")  # custom functions here are elementwise
            self._graph = tp.DependencyGraph().build_dependency(
                twin, example.to(device), customized_pruners={_GroupedConv2d: _GroupedPruner()}
            )
        self._known: dict[str, ChannelGroup] = {}
        self._traced = {self._names[m]: m for m in self._graph.module2node if m in self._names}
        if not any(_makes_channels(module) for module in self._traced.values()):
            raise ChannelGraphError(
                f"{type(network).__name__} has no convolution or linear layer to remove channels from"
            )

    def channels(self, layer: str) -> int:
        """Output channels of a convolution or linear layer.

        Raises:
            ChannelGraphError: there is no such layer, or the forward pass does not use it.
        """
        if not self.has_channels(layer):
            known = ", ".join(name for name, each in self._names_in_order() if _makes_channels(each))
            raise ChannelGraphError(
                f"{layer!r} is no convolution or linear layer that the network uses; there are {known}"
            )
        module = self._traced[layer]
        count = module.out_channels if isinstance(module, nn.modules.conv._ConvNd) else module.out_features
        return int(count)

    def has_channels(self, layer: str) -> bool:
        """Whether this is a convolution or linear layer that the network uses."""
        return isinstance(self._traced.get(layer), nn.modules.conv._ConvNd | nn.Linear)

    def slices(self, layer: str, channels: Iterable[int]) -> dict[str, Slices]:
        """What every layer loses when these output channels of one layer go.

        Raises:
            ChannelGraphError: an unknown layer or channel, half a group of a grouped convolution, or a residual stream whose
                parameter-free shortcut changes the number of channels (Li et al.: then only the first convolutions of
                blocks can be pruned).
        """
        wanted, count = sorted(set(channels)), self.channels(layer)
        if wanted and not 0 <= wanted[0] <= wanted[-1] < count:
            raise ChannelGraphError(
                f"{layer} has channels 0 to {count - 1}, not {wanted[-1] if wanted[0] >= 0 else wanted[0]}"
            )
        found, _ = self._follow(layer, wanted)
        self._check(layer, found)
        return found

    def _follow(self, layer: str, channels: list[int]) -> tuple[dict[str, Slices], bool]:
        """Slices by layer, and whether an operation outside of layers makes the network's output of them."""
        module = self._traced[layer]
        pruner = self._graph.get_pruner_of_module(module)
        found: dict[str, Slices] = {}
        to_output = False
        for dependency, positions in self._graph.get_pruning_group(module, pruner.prune_out_channels, channels):
            to_output |= dependency.target.type == tp.ops.OPTYPE.OUTPUT
            target = self._names.get(dependency.target.module)
            if target is None:
                continue
            lost = found.setdefault(target, Slices(set(), set()))
            if self._graph.is_out_channel_pruning_fn(dependency.handler):
                lost.outputs.update(positions)
            if self._graph.is_in_channel_pruning_fn(dependency.handler):
                lost.inputs.update(positions)
        return found, to_output

    def _check(self, layer: str, found: Mapping[str, Slices]) -> None:
        for name, lost in found.items():
            module = self._traced[name]
            if isinstance(module, _GroupedConv2d):
                size = module.out_channels // module.groups
                blocks = {position // size for position in lost.outputs}
                if len(lost.outputs) != len(blocks) * size:
                    raise ChannelGraphError(
                        f"{name} has {module.groups} groups of {size} channels, and {layer} can only lose whole groups: "
                        f"channels {sorted(lost.outputs)[:8]} split one"
                    )
            if _makes_channels(module) and lost.outputs and self.channels(name) != self.channels(layer):
                raise ChannelGraphError(
                    f"the {self.channels(layer)} channels of {layer} are added to the {self.channels(name)} of {name} through "
                    "a shortcut without parameters, so that neither can lose channels; prune the first convolutions of the "
                    "blocks, or build the network with projection shortcuts"
                )

    @cached_property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """All groups whose channels can be removed, in the order of the network; the output's group is among them."""
        found: dict[tuple[str, ...], ChannelGroup] = {}
        for name, module in self._names_in_order():
            if _makes_channels(module):
                with suppress(ChannelGraphError):
                    group = self.group_of(name)
                    found.setdefault(group.layers, group)
        return tuple(found.values())

    def group_of(self, layer: str) -> ChannelGroup:
        """The group that a layer's outputs belong to.

        Raises:
            ChannelGraphError: as `slices`.
        """
        if layer not in self._known:
            group = self._group(layer)
            self._known.update(dict.fromkeys((layer, *group.layers), group))
        return self._known[layer]

    def _group(self, layer: str) -> ChannelGroup:
        found, to_output = self._follow(layer, list(range(self.channels(layer))))
        self._check(layer, found)
        makers = [n for n, lost in found.items() if lost.outputs and _makes_channels(self._traced[n])]
        followers = [n for n, lost in found.items() if lost.outputs and not _makes_channels(self._traced[n])]
        grouped = [m for m in map(self._traced.__getitem__, followers) if isinstance(m, _GroupedConv2d)]
        ends = {n for n in found if not self._graph.module2node[self._traced[n]].outputs}
        order = {name: i for i, (name, _) in enumerate(self._names_in_order())}
        return ChannelGroup(
            layers=tuple(sorted(makers, key=order.__getitem__)),
            followers=tuple(sorted(followers, key=order.__getitem__)),
            readers=tuple(sorted((n for n, lost in found.items() if not lost.outputs), key=order.__getitem__)),
            channels=self.channels(layer),
            block=max((m.out_channels // m.groups for m in grouped), default=1),
            output=to_output or any(found[name].outputs for name in ends),
        )

    def _names_in_order(self) -> Iterable[tuple[str, nn.Module]]:
        return ((name, module) for module, name in self._names.items() if name in self._traced)


def _makes_channels(module: nn.Module) -> bool:
    """Whether a layer's outputs are its own (a depthwise or grouped convolution's follow its inputs)."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.groups == 1
    return isinstance(module, nn.Linear)
