"""Embeddings of a student and of a teacher, as EKD compares them."""

from __future__ import annotations

import torch
from torch import Tensor


def faces(
    identities: int = 24, each: int = 4, size: int = 32, other: int = 32, seed: int = 0, noise: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of a student and of a teacher around one centre an identity, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(identities).repeat_interleave(each)

    def network(dimensions: int) -> Tensor:
        centres = torch.randn(identities, dimensions, generator=generator, dtype=torch.float64)
        return centres[labels] + noise * torch.randn(len(labels), dimensions, generator=generator, dtype=torch.float64)

    return network(size), network(other), labels
