"""What a network costs: parameters, non-zero weights, multiply-accumulates, bytes of a real file, measured latency.

Compression is true compression: bytes of a file that was written, headers included, against the float32 file of the
same network. Zeros that a dense file stores all the same therefore compress nothing; :attr:`Cost.nonzeros` shows them.

A weight is taken as the forward pass uses it. Known are layers that list ``weight_quantizers()`` (parameter name ->
function of the weight), masks of ``torch.nn.utils.prune`` and parametrizations of ``torch.nn.utils.parametrize``. A
method that masks in another way must write its zeros into the weights before it is measured.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils.flop_counter import FlopCounterMode

from common.files import write_atomically
from common.provenance import cpu_int8_instructions, cpu_model

# A module with one of these attributes computes in float what another arithmetic would do.
SIMULATION_MARKS = ("weight_bits", "activation_bits", "weight_quantizers", "bits")


@dataclass(frozen=True)
class Cost:
    """What :func:`measure_cost` found."""

    parameters: int  # elements of all parameters, shared ones once
    nonzeros: int  # of them, those that are not 0 as the forward pass uses them
    macs: int  # multiply-accumulates of convolutions and matrix products for one image
    stored_bytes: int  # of a file really written
    fp32_bytes: int  # 4 a number of the same network in float32 (as papers count), without any file around it
    compression: float  # fp32_bytes / stored_bytes: a file has a header, so a float network comes out just below 1


@dataclass(frozen=True)
class Latency:
    """What :func:`measure_latency` found: milliseconds for one image."""

    median_ms: float
    spread_ms: float  # interquartile range
    threads: int
    repeats: int
    cpu: str
    int8_instructions: tuple[str, ...]
    simulated: bool  # the network simulates quantization in float: this is not the speed of its integer arithmetic

    def result(self) -> dict[str, Any]:
        """The entry ``latency_ms`` of a stored result, plain JSON values."""
        return {
            "median": self.median_ms,
            "spread": self.spread_ms,
            "threads": self.threads,
            "repeats": self.repeats,
            "cpu": self.cpu,
            "int8_instructions": list(self.int8_instructions),
            "simulated": self.simulated,
        }


def measure_cost(
    network: nn.Module,
    input_size: int | Sequence[int],
    packed_writer: Callable[[nn.Module, Path], object] | None = None,
) -> Cost:
    """Count and store a network. Its weights, buffers and modes are afterwards what they were.

    Args:
        network: maps float [1, C, H, W] to anything.
        input_size: side, (height, width) or (channels, height, width) of its images; three channels unless given.
        packed_writer: writes a network to a path (``common.quantization.storage.save_packed``); its file is what is
            measured. Without one the network is written as safetensors in its own dtypes, so that a network whose
            quantization is only simulated compresses nothing.

    Raises:
        ValueError: the input size is none.
        StorageError: the temporary folder is full.
        Exception: what the network or the writer raises, e.g. on ranges that were never observed.
    """
    tensors = _stored_tensors(network)
    fp32_bytes = 4 * sum(tensor.numel() for tensor in tensors.values())
    stored_bytes = _written_bytes(network, tensors, packed_writer)
    return Cost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        nonzeros=sum(int(torch.count_nonzero(weight)) for weight in _used_parameters(network).values()),
        macs=count_macs(network, input_size),
        stored_bytes=stored_bytes,
        fp32_bytes=fp32_bytes,
        compression=fp32_bytes / stored_bytes,
    )


def count_macs(network: nn.Module, input_size: int | Sequence[int]) -> int:
    """Multiply-accumulates of one image: of convolutions and matrix products alone, as papers count them.

    Batch normalisation, activations, additions and the simulation of quantization are not counted.
    """
    counter = FlopCounterMode(display=False)
    with _undisturbed(network), torch.no_grad(), counter:
        network(_image(network, input_size))
    return counter.get_total_flops() // 2


def measure_latency(
    network: nn.Module, input_size: int | Sequence[int], threads: int = 1, repeats: int = 30, warmup: int = 5
) -> Latency:
    """Time a network on the CPU, one image at a time, in eval and inference mode; modes and buffers are restored.

    The latency of a network with simulated quantization is the simulation's, slower than the float network, and must
    not be reported as int8 speed: ``simulated`` says so. Integer speed is measured on the exported network.

    Args:
        network: on the CPU; maps float [1, C, H, W] to anything.
        input_size: as in :func:`measure_cost`.
        threads: of torch inside one operation, restored afterwards.
        repeats: timed calls, at least 2.
        warmup: calls before them that are not timed.

    Raises:
        ValueError: the network is not on the CPU, or a number is out of its range.
    """
    if threads < 1 or repeats < 2 or warmup < 0:
        raise ValueError(
            f"{threads=}, {repeats=}, {warmup=}: expected at least 1 thread, 2 repeats and 0 warm-up calls"
        )
    image = _image(network, input_size)
    if image.device.type != "cpu":
        raise ValueError(
            f"latency is measured on the CPU, but the network is on {image.device}; call network.cpu() first"
        )
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with _undisturbed(network), torch.inference_mode():
            for _ in range(warmup):
                network(image)
            milliseconds = [_milliseconds(network, image) for _ in range(repeats)]
    finally:
        torch.set_num_threads(threads_before)
    lower, median, upper = statistics.quantiles(milliseconds, n=4, method="inclusive")
    return Latency(
        median_ms=median,
        spread_ms=upper - lower,
        threads=threads,
        repeats=repeats,
        cpu=cpu_model(),
        int8_instructions=cpu_int8_instructions(),
        simulated=is_simulated(network),
    )


def is_simulated(network: nn.Module) -> bool:
    """Whether a module of the network simulates quantization in float (it says so by one of ``SIMULATION_MARKS``)."""
    return any(hasattr(module, mark) for module in network.modules() for mark in SIMULATION_MARKS)


def _milliseconds(network: nn.Module, image: torch.Tensor) -> float:
    begin = time.perf_counter_ns()
    network(image)
    return (time.perf_counter_ns() - begin) / 1e6


def _image(network: nn.Module, input_size: int | Sequence[int]) -> torch.Tensor:
    """One image of noise in [-1, 1] where the network lives; the global random state is left alone."""
    sizes = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    shape = (3, *sizes) if len(sizes) == 2 else sizes
    if len(shape) != 3 or any(not isinstance(size, int) or size < 1 for size in shape):
        raise ValueError(f"input_size is {input_size!r}, expected a side, (height, width) or (channels, height, width)")
    image = torch.rand((1, *shape), generator=torch.Generator().manual_seed(0)) * 2 - 1
    like = next(network.parameters(), None)
    return image if like is None else image.to(like.device, like.dtype)


@contextmanager
def _undisturbed(network: nn.Module) -> Iterator[None]:
    """Eval mode inside; every module's mode and every buffer (running statistics, observed ranges) restored after."""
    modes = [(module, module.training) for module in network.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in network.buffers()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def _used_parameters(network: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter as the forward pass uses it: quantized, masked, parametrized; shared ones once."""
    used: dict[str, torch.Tensor] = {}
    with _undisturbed(network), torch.no_grad():
        known: set[int] = set()
        for path, module in network.named_modules():
            own = {name: p for name, p in module.named_parameters(recurse=False) if id(p) not in known}
            known.update(map(id, own.values()))
            if own and isinstance(module, ParametrizationList):
                used[path] = module()
                continue
            quantizers = module.weight_quantizers() if hasattr(module, "weight_quantizers") else {}
            for name, weight in own.items():
                weight, plain = _unmasked(module, name, weight)
                used[f"{path}.{plain}"] = quantizers[plain](weight) if plain in quantizers else weight
    return used


def _unmasked(module: nn.Module, name: str, weight: torch.Tensor) -> tuple[torch.Tensor, str]:
    """The weight under its mask and its plain name, where ``torch.nn.utils.prune`` holds it as two tensors."""
    plain = name.removesuffix("_orig")
    mask = getattr(module, f"{plain}_mask", None) if plain != name else None
    return (weight, name) if mask is None else (weight * mask, plain)


def _stored_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and persistent buffers that a file of the float network would hold.

    Masks are not kept (their zeros are in the weights), nor are ranges of activations, which belong to a quantization
    and not to the network. Quantized weights are in float.
    """
    tensors: dict[str, torch.Tensor] = {}
    persistent = network.state_dict().keys()
    modules = dict(network.named_modules())
    with torch.no_grad():
        for path, parameter in network.named_parameters():
            owner, _, name = path.rpartition(".")
            tensors[path] = _unmasked(modules[owner], name, parameter)[0]
        for path, buffer in network.named_buffers():
            is_mask = path.endswith("_mask") and f"{path.removesuffix('_mask')}_orig" in tensors
            if path in persistent and not is_mask and "observer" not in path.split("."):
                tensors[path] = buffer
    # safetensors refuses views of one storage, so that each tensor is copied into its own.
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }


def _written_bytes(
    network: nn.Module, tensors: dict[str, torch.Tensor], packed_writer: Callable[[nn.Module, Path], object] | None
) -> int:
    with tempfile.TemporaryDirectory(prefix="fairpress-cost-") as folder:
        path = Path(folder) / "network"
        if packed_writer is None:
            write_atomically(path, safetensors_bytes(tensors))
        else:
            packed_writer(network, path)
        return os.path.getsize(path)
