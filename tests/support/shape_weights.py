"""The shape-only weights and images that golden/_fr_backbones_heads/README.md defines."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


def hashed(seed: int, count: int) -> np.ndarray:
    """Uniform numbers in [-0.5, 0.5), [count], from a hash of the position."""
    mask = np.uint64(0xFFFFFFFF)
    h = (np.arange(count, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(seed * 97)) & mask
    h = ((h ^ (h >> np.uint64(16))) * np.uint64(0x85EBCA6B)) & mask
    h = ((h ^ (h >> np.uint64(13))) * np.uint64(0xC2B2AE35)) & mask
    return (h ^ (h >> np.uint64(16))) / 2.0**32 - 0.5


@torch.no_grad()
def fill(network: nn.Module, phase: float, gain: float) -> None:
    """Give every layer the weights that the recipe assigns to its shape."""

    def put(tensor: torch.Tensor, values: np.ndarray) -> None:
        tensor.copy_(torch.from_numpy(values).reshape(tensor.shape))

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            count = module.weight.numel()
            spread = gain * np.sqrt(2 / (count / module.weight.shape[0])) * np.sqrt(12)
            put(module.weight, spread * hashed(round(10 * phase) + count, count))
            if module.bias is not None:
                put(module.bias, 0.05 * np.cos(0.3 * np.arange(module.bias.numel()) + phase))
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            k = np.arange(module.num_features)
            if module.affine:
                put(module.weight, 1 + 0.1 * np.sin(0.9 * k + phase))
                put(module.bias, 0.1 * np.cos(1.1 * k + phase))
            put(module.running_mean, 0.1 * np.sin(0.5 * k + phase))
            put(module.running_var, 1 + 0.3 * np.cos(0.7 * k + phase))
        elif isinstance(module, nn.PReLU):
            put(module.weight, 0.25 + 0.05 * np.sin(1.3 * np.arange(module.num_parameters) + phase))


def two_images(phase: float) -> torch.Tensor:
    """float64 [2, 3, 112, 112]."""
    k = np.arange(3 * 112 * 112)
    first = np.sin(0.013 * k + 0.7 * np.sin(0.0011 * k) + phase).reshape(3, 112, 112)
    return torch.from_numpy(np.stack([first, 0.5 * first[:, :, ::-1]]))
