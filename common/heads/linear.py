"""The plain softmax classifier with the interface of the margin heads."""

import torch
from torch import nn


class Softmax(nn.Module):
    """Logits x W^T + b of the raw embedding: no normalisation, no scale, no margin.

    Args:
        embedding_size: dimensions D of the embedding.
        num_classes: classes C; `weight` is [C, D] and starts as `nn.Linear` does.
        bias: whether there is b.
    """

    def __init__(self, embedding_size: int, num_classes: int, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding_size, num_classes, bias)

    def forward(self, embedding: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [B, C] of embeddings [B, D]; the labels are not needed."""
        return self.linear(embedding)
