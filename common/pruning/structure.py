"""Pruned networks in files, and back: a network built from its spec takes the sizes of what is loaded into it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from common.files import DamagedFileError, write_atomically
from common.pruning.channels import Kept
from common.weights import WeightsMismatchError, load_weights

STRUCTURE = "pruned"  # the metadata entry of the file


def save_pruned(
    network: nn.Module, path: str | os.PathLike[str], kept: Mapping[str, Iterable[int]] | None = None
) -> None:
    """Write a pruned network as safetensors, atomically, with the channels that were kept.

    Args:
        network: after `remove_channels`. path: ends in `.safetensors`.
        kept: see `kept_channels`; positions in the unpruned network.

    Raises:
        ValueError: the name does not end in `.safetensors`, or a list has another length than its layer has channels.
        StorageError: the file system refused.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"The weights file is called {path.name!r}, but must end in .safetensors.")
    lists = {name: [int(i) for i in left] for name, left in (kept or {}).items()}
    tensors = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    wrong = _wrong_lists(lists, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if wrong:
        raise ValueError(f"the kept channels do not fit the network: {wrong}")
    write_atomically(path, save(tensors, metadata={STRUCTURE: json.dumps(lists, sort_keys=True)}))


def load_pruned(network: nn.Module, path: str | os.PathLike[str]) -> Kept:
    """Give a network, built unpruned, the sizes and weights of a file; a file of an unpruned network loads as well.

    Args:
        network: built with the arguments of the network that was pruned; it is changed in place, with new parameters.
        path: written by `save_pruned`, or by `common.weights.save_weights`.

    Returns:
        The kept channels by layer; empty where the file names none.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it cannot be read, or its lists of channels do not fit its weights.
        WeightsMismatchError: it is not a pruned form of this network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {str(path)!r}; check the path, or fetch the file first.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(STRUCTURE, "{}")
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise DamagedFileError(f"{str(path)!r} is not a readable safetensors file ({error}); save it again.") from error
    kept = _read_lists(text, shapes, path)
    resize(network, shapes)
    load_weights(network, path)
    return kept


def resize(network: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give layers the sizes of these tensors (a state dict's names and shapes), in place; values are then undefined.

    Layers only become smaller. Names that the network does not have are left to whoever loads the values.

    Raises:
        WeightsMismatchError: a tensor is no slice of the network's own; nothing was changed.
    """
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    changed = {name: tuple(shape) for name, shape in shapes.items() if name in own and tuple(shape) != own[name]}
    for name, shape in changed.items():
        module = network.get_submodule(name.rpartition(".")[0])
        smaller = len(shape) == len(own[name]) and all(0 < a <= b for a, b in zip(shape, own[name], strict=True))
        if not smaller or shape[2:] != own[name][2:] or not isinstance(module, KINDS):
            raise WeightsMismatchError(
                f"{name} is {list(shape)}, but {list(own[name])} here: no pruned form of this network"
            )
    for name in changed:
        path, _, tensor = name.rpartition(".")
        _resize_tensor(network.get_submodule(path), tensor, changed[name])
    for path in dict.fromkeys(name.rpartition(".")[0] for name in changed):
        _set_sizes(network.get_submodule(path))


def accept_pruned(network: nn.Module) -> nn.Module:
    """From now on `load_state_dict` of this network, or of a module that holds it, takes states of its pruned forms.

    A LightningModule that prunes channels in one phase and trains in the next calls this in its constructor: when it is
    resumed after the surgery, the checkpoint meets a network that was built unpruned. Copies accept pruned states too.

    Returns:
        The network.
    """
    network.register_load_state_dict_pre_hook(_resize_before_loading)
    return network


def _resize_before_loading(network: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    resize(network, {name.removeprefix(prefix): t.shape for name, t in state.items() if name.startswith(prefix)})


KINDS = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.PReLU)


def _resize_tensor(module: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    old = getattr(module, name)
    new = old.detach().new_zeros(shape)
    setattr(module, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)


def _set_sizes(module: nn.Module) -> None:
    """Make a layer's numbers agree with its tensors."""
    if isinstance(module, nn.modules.conv._ConvNd):
        of_a_group = module.out_channels // module.groups
        if module.groups > 1:  # whole groups are removed, so that their size stays
            module.groups = module.weight.shape[0] // of_a_group
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        like = module.weight if module.affine else module.running_mean
        assert like is not None
        module.num_features = like.shape[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.shape[0]


def _read_lists(text: str, shapes: Mapping[str, tuple[int, ...]], path: Path) -> Kept:
    try:
        lists = json.loads(text)
        problem = "they are no lists of numbers by layer" if not _are_lists(lists) else _wrong_lists(lists, shapes)
    except (ValueError, RecursionError) as error:
        problem = str(error)
    if problem:
        raise DamagedFileError(f"the kept channels in {str(path)!r} cannot be used: {problem}; save it again.")
    return dict(lists)


def _are_lists(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(left, list) and all(type(i) is int and i >= 0 for i in left) for left in value.values()
    )


def _wrong_lists(lists: Kept, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What does not fit between lists of kept channels and the weights, or nothing."""
    for name, left in lists.items():
        shape = shapes.get(f"{name}.weight")
        if shape is None:
            return f"there is no layer {name}"
        if len(left) != shape[0] or sorted(set(left)) != left:
            return f"{name} has {shape[0]} channels, but the list names {len(set(left))}, or not in order"
    return ""
