"""PocketNet (Boutros et al., IEEE Access 2022, arXiv 2108.10710): face networks built from cells that a search has found.

Basis: the official code (github.com/fdbtrs/PocketNet, commit 2f860d77), read and not copied.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.backbones.layers import ImageSize, activation_layer, check_images, height_and_width
from common.backbones.pocketnet_cells import Cell, reductions
from common.backbones.pocketnet_genotypes import NODES, Genotype, genotype_of


class PocketNet(nn.Module):
    """A stem, `cells` cells of which three are reductions, and a tail that embeds the last map.

    PocketNetS has C = 16 and 18 cells (925,632 parameters at 128 dimensions, 991,424 at 256), PocketNetM C = 32 and 9 cells
    (1,686,656 and 1,752,448).

    Args:
        channels: C of the first cells; every reduction cell doubles it, and a cell gives four times its C.
        cells: their number, at least 4; the reductions stand at cells // 3, 2 cells // 3 and cells - 1.
        embedding_size: dimensions D of the embedding.
        genotype: of the cells, by name in `pocketnet_genotypes.GENOTYPES`, or a `Genotype`.
        input_size: side or (height, width) of the images, multiples of 16.
        tail_channels: of the layer before the embedding; None is the paper's 512, and 1024 at 512 dimensions.
        activation: "prelu" (the paper), "relu" (on a CPU half its time), "relu6" or "hardswish".

    Raises:
        ValueError: an argument is out of its range; the sentence says which.
    """

    def __init__(
        self,
        channels: int = 16,
        cells: int = 18,
        embedding_size: int = 128,
        genotype: str | Genotype = "casia",
        input_size: ImageSize = 112,
        tail_channels: int | None = None,
        activation: str = "prelu",
    ) -> None:
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f"channels is {channels}, but must be even and positive")
        self.embedding_size, self.genotype = embedding_size, genotype_of(genotype)
        self.input_size = multiple_of_16(input_size)
        before_last = last = NODES * channels
        self.stem = nn.Sequential(nn.Conv2d(3, last, 3, 2, 1, bias=False), nn.BatchNorm2d(last))
        self.cells = nn.ModuleList()
        after_reduction, places = False, reductions(cells)
        for place in range(cells):
            reduction = place in places
            channels *= 2 if reduction else 1
            nodes = self.genotype.reduction if reduction else self.genotype.normal
            self.cells.append(Cell(nodes, before_last, last, channels, after_reduction, reduction, activation))
            before_last, last, after_reduction = last, NODES * channels, reduction
        self.tail = tail(
            last,
            tail_channels or (1024 if embedding_size == 512 else 512),
            embedding_size,
            self.input_size,
            activation=activation,
        )
        initialize_uniform(self)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images [B, 3, height, width], float, normalised to about [-1, 1], as raw embeddings [B, D].

        Raises:
            ValueError: the images are not of the size that the network was built for.
        """
        check_images(images, self.input_size)
        before_last = last = self.stem(images)
        for cell in self.cells:
            before_last, last = last, cell(before_last, last)
        embedding: Tensor = self.tail(last)
        return embedding


class PocketNetS(PocketNet):
    """The small network, C = 16 and 18 cells: 925,632 parameters and 283.5 million multiply-accumulates at 128 dimensions."""

    def __init__(
        self, embedding_size: int = 128, genotype: str | Genotype = "casia", input_size: ImageSize = 112
    ) -> None:
        super().__init__(16, 18, embedding_size, genotype, input_size)


class PocketNetM(PocketNet):
    """The medium network, C = 32 and 9 cells: 1,686,656 parameters and 538.2 million multiply-accumulates at 128 dimensions."""

    def __init__(
        self, embedding_size: int = 128, genotype: str | Genotype = "casia", input_size: ImageSize = 112
    ) -> None:
        super().__init__(32, 9, embedding_size, genotype, input_size)


def multiple_of_16(input_size: ImageSize) -> tuple[int, int]:
    """`input_size` as (height, width).

    Raises:
        ValueError: a side is no multiple of 16, so that a map of odd size would have to be halved.
    """
    height, width = height_and_width(input_size)
    if height % 16 or width % 16:
        raise ValueError(
            f"input_size is {input_size!r}, but both sides must be multiples of 16: the network halves the image four "
            "times, and its reductions need even maps; 112, 96, 64, 48 and 32 pixels will do."
        )
    return height, width


def tail(
    in_channels: int,
    channels: int,
    embedding_size: int,
    input_size: tuple[int, int],
    groups: int | None = None,
    activation: str = "prelu",
) -> nn.Sequential:
    """From the last map to the embedding: 1 x 1, a kernel as large as the map, 1 x 1: [B, C, H / 16, W / 16] -> [B, D].

    Args:
        groups: of the large kernel; None is depthwise (the final network; the search's has 128 groups of 4 channels).
    """
    kernel = (input_size[0] // 16, input_size[1] // 16)
    return nn.Sequential(
        activation_layer(activation, in_channels),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        activation_layer(activation, channels),
        nn.Conv2d(channels, channels, kernel, groups=groups or channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, embedding_size, 1, bias=False),
        nn.BatchNorm2d(embedding_size),
        nn.Flatten(),
    )


@torch.no_grad()
def initialize_uniform(network: nn.Module) -> None:
    """Kaiming-uniform (fan in) weights for every convolution; normalisations and PReLUs keep PyTorch's start."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, a=0, mode="fan_in")
