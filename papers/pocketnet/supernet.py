"""The network that is searched: every edge of a cell carries a mixture of all operations (DARTS, Liu et al., ICLR 2019).

Symbols
    alpha   a number for every operation of every edge; the normal cells share 14 x 8 of them, the reduction cells as many
    node    the sum over the edges from all earlier states of  sum_o softmax(alpha_edge)_o o(state)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.backbones import PocketNet
from common.backbones.layers import ImageSize, check_images
from common.backbones.pocketnet import initialize_uniform, multiple_of_16, tail
from common.backbones.pocketnet_cells import input_layers, operation, reductions, stride_of
from common.backbones.pocketnet_genotypes import INPUTS, NODES, PRIMITIVES, Edge, Genotype, Node
from common.weights import load_weights

ALPHA_SPREAD = 1e-3
STEM_FACTOR = 3


class MixedOperation(nn.Module):
    """All operations side by side, without scale and shift of their batch normalisations."""

    def __init__(self, channels: int, stride: int, activation: str = "prelu") -> None:
        super().__init__()
        self.operations = nn.ModuleList(
            operation(name, channels, stride, affine=False, activation=activation) for name in PRIMITIVES
        )

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """sum_o weights_o o(x) for x [B, C, H, W] and weights [8]."""
        mixed: Tensor = sum(weight * layer(x) for weight, layer in zip(weights, self.operations, strict=True))
        return mixed


class SearchCell(nn.Module):
    """A cell whose four nodes are connected to all states before them; arguments as of `pocketnet_cells.Cell`."""

    def __init__(
        self,
        before_last: int,
        last: int,
        channels: int,
        after_reduction: bool,
        reduction: bool,
        activation: str = "prelu",
    ) -> None:
        super().__init__()
        self.reduction = reduction
        self.input0, self.input1 = input_layers(before_last, last, channels, after_reduction, False, activation)
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                MixedOperation(channels, stride_of(state, reduction), activation) for state in range(INPUTS + place)
            )
            for place in range(NODES)
        )

    def forward(self, before_last: Tensor, last: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Two inputs and, for node i, the weights [2 + i, 8] of its edges -> [B, 4 C, H, W] or half of it."""
        states = [self.input0(before_last), self.input1(last)]
        for node, of_edges in zip(self.nodes, weights, strict=True):
            edges: Any = node
            states.append(sum(edge(x, w) for edge, x, w in zip(edges, states, of_edges, strict=True)))
        return torch.cat(states[INPUTS:], dim=1)


class Alphas(nn.Module):
    """The 224 numbers that are searched: for node i of either cell [2 + i, 8], from N(0, 0.001)."""

    def __init__(self) -> None:
        super().__init__()
        self.normal, self.reduction = (
            nn.ParameterList(ALPHA_SPREAD * torch.randn(INPUTS + place, len(PRIMITIVES)) for place in range(NODES))
            for _ in range(2)
        )

    def genotype(self) -> Genotype:
        """The strongest cells, see `strongest`."""
        return Genotype(strongest(list(self.normal)), strongest(list(self.reduction)))


class Found(nn.Module):
    """The outcome of a search as a buffer, so that it is kept with the network: [cell, node, edge, (operation, state)]."""

    choices: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("choices", torch.full((2, NODES, INPUTS, 2), -1, dtype=torch.int64))

    def keep(self, genotype: Genotype) -> None:
        """Write a genotype down."""
        cells = [
            [[(PRIMITIVES.index(name), state) for name, state in node] for node in nodes]
            for nodes in (genotype.normal, genotype.reduction)
        ]
        self.choices.copy_(torch.tensor(cells))

    def genotype(self) -> Genotype:
        """The genotype that was kept.

        Raises:
            ValueError: there is none yet.
        """
        if bool((self.choices < 0).any()):
            raise ValueError("the search has not chosen its cells: it was interrupted before its last phase")
        normal, reduction = (
            tuple(_node([(PRIMITIVES[int(at)], int(state)) for at, state in node]) for node in nodes)
            for nodes in self.choices.cpu()
        )
        return Genotype(normal, reduction)


class Supernet(nn.Module):
    """Stem, searched cells, tail: 2,792,528 parameters with the paper's arguments and without classifier.

    Args:
        channels: C of the first cells; cells: their number, at least 4, with reductions as in `PocketNet`.
        embedding_size: D. input_size: side or (height, width) of the images, multiples of 16.
        tail_channels: of the layer before the embedding, a multiple of 4: the large kernel has groups of 4 channels here.
        activation: see `PocketNet`.

    Raises:
        ValueError: an argument is out of its range; the sentence says which.
    """

    def __init__(
        self,
        channels: int = 16,
        cells: int = 8,
        embedding_size: int = 128,
        input_size: ImageSize = 112,
        tail_channels: int = 512,
        activation: str = "prelu",
    ) -> None:
        super().__init__()
        if channels < 2 or channels % 2 or tail_channels % 4:
            raise ValueError(f"{channels=}, {tail_channels=}: expected an even number and a multiple of 4")
        self.embedding_size, self.input_size = embedding_size, multiple_of_16(input_size)
        before_last = last = STEM_FACTOR * channels
        self.stem = nn.Sequential(nn.Conv2d(3, last, 3, 2, 1, bias=False), nn.BatchNorm2d(last))
        self.cells = nn.ModuleList()
        after_reduction, places = False, reductions(cells)
        for place in range(cells):
            reduction = place in places
            channels *= 2 if reduction else 1
            self.cells.append(SearchCell(before_last, last, channels, after_reduction, reduction, activation))
            before_last, last, after_reduction = last, NODES * channels, reduction
        self.tail = tail(
            last, tail_channels, embedding_size, self.input_size, tail_channels // 4, activation=activation
        )
        initialize_uniform(self)
        self.alphas, self.found = Alphas(), Found()

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, height, width] -> embeddings [B, D]."""
        check_images(images, self.input_size)
        normal, reduction = (
            [F.softmax(table, dim=1) for table in cell] for cell in (self.alphas.normal, self.alphas.reduction)
        )
        before_last = last = self.stem(images)
        for cell in self.cells:
            before_last, last = last, cell(before_last, last, reduction if cell.reduction else normal)
        embedding: Tensor = self.tail(last)
        return embedding


def strongest(alphas: Sequence[Tensor]) -> tuple[Node, ...]:
    """Discretise a cell: of every edge the operation of the largest alpha, `none` apart; of every node the two edges whose
    such alpha is largest, the larger first.

    Args:
        alphas: for node i [2 + i, 8], before the softmax.
    """
    nodes = []
    for table in alphas:
        best, which = table.detach()[:, :-1].max(dim=1)  # `none` is the last
        edges = best.topk(INPUTS).indices.tolist()
        nodes.append(_node([(PRIMITIVES[int(which[state])], state) for state in edges]))
    return tuple(nodes)


def _node(edges: Sequence[Edge]) -> Node:
    first, second = edges
    return first, second


def searched_network(weights: str | os.PathLike[str], **options: Any) -> PocketNet:
    """The PocketNet of the cells that a search has found.

    Args:
        weights: what the search kept of its supernet. options: of `PocketNet`, but its genotype.

    Raises:
        FileNotFoundError, DamagedFileError, WeightsMismatchError: see `common.weights.load_weights`.
        ValueError: the search has not chosen.
    """
    found = Found()
    load_weights(found, weights, prefix="found.")
    return PocketNet(genotype=found.genotype(), **options)
