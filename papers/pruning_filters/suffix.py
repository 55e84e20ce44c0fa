"""Running a network from one of its layers on, so that many variants of that layer share what comes before it.

A network is written down as a list of operations (torch.fx). At a layer, what is computed so far and still needed is kept, and
every variant of the network starts from there: a sweep over all layers then costs half of what whole passes would cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

Values = dict[fx.Node, Any]


class _Tracer(fx.Tracer):
    """Follows also a part of a `Sequential` that the forward pass cuts out."""

    def path_of_module(self, mod: nn.Module) -> str:
        try:
            return super().path_of_module(mod)
        except NameError:
            if isinstance(mod, nn.Sequential):
                return ""
            raise


class Operations:
    """The operations of a network, in order.

    Args:
        network: one input, one output; its forward pass does not depend on the values. Operations behind a layer must not change
            in place what was computed before that layer.
    """

    def __init__(self, network: nn.Module) -> None:
        self.nodes = list(_Tracer().trace(network).nodes)
        place = {node: i for i, node in enumerate(self.nodes)}
        self._last_use = {node: max((place[user] for user in node.users), default=-1) for node in self.nodes}
        self._layers = {str(node.target): i for i, node in enumerate(self.nodes) if node.op == "call_module"}

    def sweep(
        self, network: nn.Module, variants: Mapping[str, Sequence[nn.Module]], images: Tensor
    ) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """Outputs of a network and of variants of it.

        Args:
            network: that was traced. images: [B, C, H, W].
            variants: by layer name: networks of the same operations that differ from it in this layer and behind it alone,
                such as copies that have lost filters of the layer.

        Returns:
            The network's output, and those of the variants, by layer.

        Raises:
            ValueError: a layer that the forward pass does not use.
        """
        unknown = set(variants) - set(self._layers)
        if unknown:
            raise ValueError(f"the forward pass uses no {', '.join(sorted(unknown))}")
        starts = {self._layers[name]: name for name in variants}
        found: dict[str, list[Tensor]] = {}
        values: Values = {}
        for i, node in enumerate(self.nodes):
            if i in starts:
                found[starts[i]] = [self._run(variant, i, dict(values), images) for variant in variants[starts[i]]]
            self._step(network, i, node, values, images)
        return values[self.nodes[-1]], found

    def _run(self, network: nn.Module, start: int, values: Values, images: Tensor) -> Tensor:
        """From an operation to the output; `values` holds what was computed before and is still needed."""
        for i in range(start, len(self.nodes)):
            self._step(network, i, self.nodes[i], values, images)
        output: Tensor = values[self.nodes[-1]]
        return output

    def _step(self, network: nn.Module, i: int, node: fx.Node, values: Values, images: Tensor) -> None:
        args = fx.node.map_arg(node.args, values.__getitem__)
        options = fx.node.map_arg(node.kwargs, values.__getitem__)
        values[node] = _compute(network, node, args, options, images)
        for source in node.all_input_nodes:
            if self._last_use[source] <= i:
                values.pop(source, None)


def _compute(network: nn.Module, node: fx.Node, args: Any, options: Any, images: Tensor) -> Any:
    if node.op == "placeholder":
        return images
    if node.op == "output":
        return args[0]
    if node.op == "call_module":
        return network.get_submodule(str(node.target))(*args, **options)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **options)
    if node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        return getattr(network.get_submodule(owner), name)
    assert callable(node.target)
    return node.target(*args, **options)


def logits_of(network: nn.Module, batches: Any, device: torch.device) -> Tensor:
    """Outputs on all batches, float32 on the CPU, in eval mode."""
    network.to(device).eval()
    with torch.inference_mode():
        return torch.cat([network(images.to(device)).cpu() for images, _ in batches])
