"""The networks of the paper's experiment on MNIST."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.backbones.initialization import initialize
from common.distillation.response import ensemble_probabilities
from common.weights import load_weights


class MLP(nn.Module):
    """784-h-...-h-10 with ReLU; teacher 784-1200-1200-10 (2,395,210 parameters), student 784-800-800-10 (1,276,810).

    Args:
        hidden: neurons of the hidden layers. classes: of the output. inputs: pixels times channels of an image.
        input_dropout: share of pixels, dropout: share of hidden neurons that are dropped while training.
        initialization: see `common.backbones.initialization`.
        member: draws of the weights that are thrown away first, so that teachers of one seed differ.

    Raises:
        ValueError: no hidden layer; a share outside [0, 1); an unknown initialization.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (800, 800),
        classes: int = 10,
        inputs: int = 784,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        initialization: str = "he_normal",
        member: int = 0,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("hidden is empty, but the network needs at least one hidden layer")
        if not (0 <= input_dropout < 1 and 0 <= dropout < 1):
            raise ValueError(f"{input_dropout=} and {dropout=} must lie in [0, 1)")
        sizes = (inputs, *hidden)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.output = nn.Linear(sizes[-1], classes)
        self.input_dropout, self.dropout = input_dropout, dropout
        self.initialization = initialization
        for _ in range(member + 1):
            self.initialize()

    def initialize(self) -> None:
        """Draw all parameters anew."""
        initialize(self, self.initialization)

    def features(self, images: Tensor) -> Tensor:
        """Responses of the last hidden layer, [B, h]."""
        x = F.dropout(images.flatten(1), self.input_dropout, self.training)
        for layer in self.hidden:
            x = F.dropout(F.relu(layer(x)), self.dropout, self.training)
        return x

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, ...] with `inputs` numbers each -> logits [B, classes]."""
        logits: Tensor = self.output(self.features(images))
        return logits


class Ensemble(nn.Module):
    """Several trained networks that answer with the mean of their probabilities at T = 1.

    Args:
        members: the networks. weights: their files.

    Raises:
        ValueError: not one file a member.
    """

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[str]) -> None:
        super().__init__()
        for member, path in zip(members, weights, strict=True):
            load_weights(member, path)
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, ...] -> logarithms of the mean probabilities [B, classes], which are logits of them."""
        return torch.log(ensemble_probabilities([member(images) for member in self.members], 1.0))
