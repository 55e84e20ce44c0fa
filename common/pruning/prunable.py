"""Which parameters of a network may be pruned."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from torch import nn


def prunable_weights(network: nn.Module, dense: Iterable[str] = (), biases: bool = False) -> dict[str, nn.Parameter]:
    """The prunable parameters by their names in the network, in module order, a shared one once.

    Prunable are the weights of convolutions and linear layers; normalisations, activations and embeddings are not.

    Args:
        network: any module.
        dense: names of modules (`"fc3"`, `"layer1.0"`) or parameters that stay dense, with all they contain.
        biases: also the biases of these layers (SNIP's official code scores weights and biases together).

    Raises:
        ValueError: a name in `dense` does not exist, or nothing is left to prune.
    """
    exceptions = tuple(dense)
    _check_names(network, exceptions)
    found: dict[str, nn.Parameter] = {}
    known: set[int] = set()
    for path, module in network.named_modules():
        if not isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            continue
        for kind in ("weight", "bias") if biases else ("weight",):
            parameter, name = module._parameters.get(kind), f"{path}.{kind}".lstrip(".")
            if parameter is None or id(parameter) in known or _inside(name, exceptions):
                continue
            known.add(id(parameter))
            found[name] = parameter
    if not found:
        raise ValueError(
            f"{type(network).__name__} has no prunable layer: prunable are the weights of convolutions and linear "
            f"layers{f' outside of {_listed(exceptions)}' if exceptions else ''}. A network under "
            "torch.nn.utils.prune or a parametrization has to be made plain first."
        )
    return found


def _check_names(network: nn.Module, names: tuple[str, ...]) -> None:
    known = [name for name, _ in network.named_modules() if name] + [name for name, _ in network.named_parameters()]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{name!r} is to stay dense, but {type(network).__name__} has no such layer{hint}")


def _inside(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names)
