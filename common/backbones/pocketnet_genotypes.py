"""Cells found by architecture search, as data: which operation carries which state to which node.

A cell has two inputs, the outputs of the two cells before it (states 0 and 1), and four nodes (states 2 to 5). A node is the sum
of two operations, each on an earlier state; the cell's output is the concatenation of its nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

PRIMITIVES = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "dw_conv_3x3",
    "dw_conv_5x5",
    "dw_conv_7x7",
    "dw_conv_1x1",
    "none",
)
NODES = 4
INPUTS = 2  # of a cell, and of a node

Edge = tuple[str, int]
Node = tuple[Edge, Edge]


@dataclass(frozen=True)
class Genotype:
    """The two cells of a network.

    Attributes:
        normal, reduction: four nodes each, a node two (operation, state) pairs; node i may read the states 0 to i + 1.

    Raises:
        ValueError: another number of nodes, an unknown operation, `none`, a state that is not yet there.
    """

    normal: tuple[Node, ...]
    reduction: tuple[Node, ...]

    def __post_init__(self) -> None:
        for kind, nodes in (("normal", self.normal), ("reduction", self.reduction)):
            if len(nodes) != NODES or any(len(node) != INPUTS for node in nodes):
                raise ValueError(f"the {kind} cell needs {NODES} nodes of {INPUTS} edges each, got {nodes!r}")
            for place, node in enumerate(nodes):
                for operation, state in node:
                    if operation not in PRIMITIVES[:-1]:
                        raise ValueError(
                            f"{operation!r} in the {kind} cell is none of the operations {', '.join(PRIMITIVES[:-1])}"
                        )
                    if not 0 <= state < INPUTS + place:
                        raise ValueError(
                            f"node {place} of the {kind} cell reads state {state}, but only 0 to {INPUTS + place - 1} are there"
                        )

    def __str__(self) -> str:
        cells = (("normal", self.normal), ("reduction", self.reduction))
        return "; ".join(
            f"{kind}: " + ", ".join(" + ".join(f"{op}({state})" for op, state in node) for node in nodes)
            for kind, nodes in cells
        )


#: PocketNet's cells: found on CASIA-WebFace, and (the paper's ablation) on CIFAR-10.
GENOTYPES = {
    "casia": Genotype(
        normal=(
            (("dw_conv_3x3", 0), ("dw_conv_1x1", 1)),
            (("dw_conv_3x3", 2), ("dw_conv_5x5", 0)),
            (("dw_conv_3x3", 3), ("dw_conv_3x3", 0)),
            (("dw_conv_3x3", 4), ("skip_connect", 0)),
        ),
        reduction=(
            (("dw_conv_3x3", 1), ("dw_conv_7x7", 0)),
            (("skip_connect", 2), ("dw_conv_5x5", 1)),
            (("max_pool_3x3", 0), ("skip_connect", 2)),
            (("max_pool_3x3", 0), ("max_pool_3x3", 1)),
        ),
    ),
    "cifar10": Genotype(
        normal=(
            (("dw_conv_7x7", 0), ("dw_conv_3x3", 1)),
            (("dw_conv_1x1", 1), ("dw_conv_1x1", 2)),
            (("max_pool_3x3", 2), ("dw_conv_7x7", 3)),
            (("dw_conv_5x5", 4), ("max_pool_3x3", 0)),
        ),
        reduction=(
            (("max_pool_3x3", 0), ("dw_conv_7x7", 1)),
            (("max_pool_3x3", 0), ("max_pool_3x3", 1)),
            (("max_pool_3x3", 0), ("max_pool_3x3", 2)),
            (("max_pool_3x3", 0), ("max_pool_3x3", 1)),
        ),
    ),
}


def genotype_of(given: str | Genotype) -> Genotype:
    """A genotype by name or as it is.

    Raises:
        ValueError: there is none of that name.
    """
    if isinstance(given, Genotype):
        return given
    if given not in GENOTYPES:
        raise ValueError(f"there is no genotype {given!r}; known are {', '.join(GENOTYPES)}")
    return GENOTYPES[given]
