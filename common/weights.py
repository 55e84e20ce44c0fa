"""Reading and writing a network's weights, without running code from the file and without loading half of it.

Two kinds of files: safetensors (`.safetensors`), which we write, and the files of `torch.save`, which are read by
`common.torch_file`. A file fits a network when names and shapes are equal; otherwise nothing is loaded. What we write holds
a SHA-256 of all names, types, shapes and values, which is compared; a stranger's file has none and is taken as it is.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from common.files import DamagedFileError, write_atomically
from common.torch_file import TorchFileError, UnsafeTorchFile, read_torch_file

# Where public checkpoints keep the network, in the order in which they are tried.
NESTED_KEYS = ("state_dict", "net_state_dict", "model_state_dict", "backbone_state_dict", "model", "net", "backbone")
SHOWN, LONGEST_NAME = 3, 200  # names shown of each kind of difference, and characters of each
SEAL = "fairpress"  # our entry in the metadata of a safetensors file
SEALED = re.compile(r'\{"network": "(\w+)", "sha256": ')  # how it begins
COUNTER = "num_batches_tracked"  # files from before PyTorch 0.4.1 have no such entries, and eval mode does not use them


class WeightsMismatchError(ValueError):
    """The file holds other weights than the network has; the message names the first differences."""


def load_weights(module: nn.Module, path: str | os.PathLike[str], key: str | None = None, prefix: str = "") -> None:
    """Copy the weights in a file into `module`, all of them or none.

    Values are converted to the module's own type (float32 unless the caller changed it) and device. A prefix "module."
    on every name (`DataParallel`) is dropped. Missing `num_batches_tracked` counters stay as they are.

    Args:
        module: the network, built with the arguments of the one that was saved.
        path: a `.safetensors` file, or any other name for a file of `torch.save`.
        key: entry of the torch file that holds the names and tensors; None looks for one of `NESTED_KEYS`.
        prefix: take only the names that start with this, without it, e.g. "student." of a Lightning checkpoint.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: the file cannot be read as weights (damaged, cut off, or a pickle of other things), or was
            written by `save_weights` and has changed since.
        WeightsMismatchError: missing, unexpected or mis-shaped names, or values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {str(path)!r}; check the path, or fetch the file first.")
    if path.suffix == ".safetensors":
        found, origin = _read_safetensors(path)
    else:
        found, origin = _tensors_of(_read_torch(path), key, path), ""
    found = _without_prefix(found, prefix, path)
    own = module.state_dict()
    _check_fit(found, own, f"{str(path)!r}{origin} does not fit {type(module).__name__}")
    with torch.no_grad():
        for name, tensor in own.items():
            if name in found:
                tensor.copy_(found[name])


def save_weights(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the module's parameters and buffers as safetensors, atomically; missing parent folders are created.

    Equal networks give equal files.

    Raises:
        ValueError: the name does not end in `.safetensors`.
        StorageError: the file system refused; an existing file keeps its content.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"The weights file is called {path.name!r}, but must end in .safetensors.")
    # A copy of each: safetensors refuses tensors that share memory, such as tied weights.
    tensors = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    # One entry only: safetensors writes several in random order.
    write_atomically(path, save(tensors, metadata=_metadata(tensors, type(module).__name__)))


def _metadata(tensors: Mapping[str, torch.Tensor], network: str) -> dict[str, str]:
    return {SEAL: json.dumps({"network": network, "sha256": _digest(tensors, network)}, ensure_ascii=False)}


def _digest(tensors: Mapping[str, torch.Tensor], network: str) -> str:
    """SHA-256 over the class of a network and the name, type, shape and bytes of every tensor."""
    digest = hashlib.sha256(network.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors, and a remark on the network that was saved."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise DamagedFileError(
            f"{str(path)!r} is not a readable safetensors file ({str(error)[:200]}); fetch or save it again."
        ) from error
    network = _unsealed(metadata, tensors, path)
    return tensors, f" (saved from {network})" if network else ""


def _unsealed(metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor], path: Path) -> str | None:
    """The network that was saved, after comparing the SHA-256; a file that is not ours may say it or not."""
    seals = [SEALED.match(entry) for entry in metadata.values()]
    if SEAL not in metadata and not any(seals):
        return metadata.get("network")
    for seal in seals:
        if seal and metadata == _metadata(tensors, seal[1]):
            return seal[1]
    raise DamagedFileError(
        f"{str(path)!r} is not as it was written: its weights do not have the SHA-256 that they should have; "
        "restore it or run again the command that made it."
    )


def _read_torch(path: Path) -> object:
    try:
        return read_torch_file(path.read_bytes())
    except UnsafeTorchFile as error:
        raise DamagedFileError(
            f"{str(path)!r} holds Python objects besides tensors, which could run code and are not "
            f"loaded: {error}. If you trust its source, save only its state_dict where it was made."
        ) from error
    except TorchFileError as error:
        raise DamagedFileError(
            f"{str(path)!r} cannot be read as a checkpoint: {error}. Fetch or save it again."
        ) from error


def _tensors_of(content: object, key: str | None, path: Path) -> dict[str, torch.Tensor]:
    """The names and tensors in a checkpoint."""
    if not isinstance(content, Mapping):
        raise DamagedFileError(
            f"{str(path)!r} holds a {type(content).__name__}, but weights are a mapping of names to tensors."
        )
    if key is None and not any(isinstance(value, torch.Tensor) for value in content.values()):
        key = next((name for name in NESTED_KEYS if isinstance(content.get(name), Mapping)), None)
    state = content if key is None else content.get(key)
    if not isinstance(state, Mapping):
        raise DamagedFileError(
            f"{str(path)!r} has no weights under {key!r}; it has {_names(sorted(map(str, content)))}."
        )
    others = [str(name) for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if others or not state:
        raise DamagedFileError(
            f"{str(path)!r} is no mapping of names to tensors: "
            f"{_names(others) if others else 'nothing'} is in it. Say with `key` which entry holds the weights."
        )
    return {str(name): value for name, value in state.items()}


def _without_prefix(found: dict[str, torch.Tensor], prefix: str, path: Path) -> dict[str, torch.Tensor]:
    chosen = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    if not chosen:
        raise WeightsMismatchError(
            f"{str(path)!r} has no name that starts with {prefix!r}; it has {_names(list(found))}."
        )
    if all(name.startswith("module.") for name in chosen):
        return {name.removeprefix("module."): value for name, value in chosen.items()}
    return chosen


def _check_fit(found: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], sentence: str) -> None:
    """Refuse weights that are not exactly the network's."""
    both = [name for name in own if name in found]
    differences = {
        "missing in the file": [name for name in own if name not in found and not name.endswith(COUNTER)],
        "not in the network": [name for name in found if name not in own],
        "of another shape": [
            f"{name} {list(found[name].shape)} instead of {list(own[name].shape)}"
            for name in both
            if found[name].shape != own[name].shape
        ],
        "of another kind": [
            f"{name} {found[name].dtype} instead of {own[name].dtype}"
            for name in both
            if found[name].is_floating_point() != own[name].is_floating_point()
        ],
        "not finite": [
            name
            for name in both
            if found[name].shape == own[name].shape and not bool(torch.isfinite(found[name]).all())
        ],
    }
    told = [f"{len(names)} {kind}: {_names(names)}" for kind, names in differences.items() if names]
    if told:
        raise WeightsMismatchError(
            f"{sentence}: {'; '.join(told)}. Nothing was loaded; build the network with the arguments of the saved one."
        )


def _names(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(name[:LONGEST_NAME] for name in names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
