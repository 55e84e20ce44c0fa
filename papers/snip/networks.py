"""SNIP's networks that no other paper needs: recurrent ones over the rows of a digit, and those of Tiny-ImageNet."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from common.backbones.initialization import initialize


class RowRecurrent(nn.Module):
    """One LSTM or GRU layer that reads an image row by row: rows -> linear -> cell -> classes at the last row.

    The cell's gates are linear layers on (input, state), with one bias, as TensorFlow's cells are: 136,586 (LSTM, 128 units),
    535,306 (LSTM, 256), 103,690 (GRU, 128) and 403,978 (GRU, 256) parameters; the paper says 137k, 536k, 104k and 404k.

    Args:
        cell: `"lstm"` (with 1 added to the forget gate) or `"gru"` (with 1 added to both gates).
        units: of the state. classes: of the output. row: pixels of a row.
        initialization: see `common.backbones.initialization`.
    """

    def __init__(
        self,
        cell: Literal["lstm", "gru"],
        units: int = 128,
        classes: int = 10,
        row: int = 28,
        initialization: str = "variance_scaling_glorot",
    ) -> None:
        super().__init__()
        if cell not in ("lstm", "gru"):
            raise ValueError(f"cell is {cell!r}, but must be 'lstm' or 'gru'")
        self.cell, self.units, self.initialization = cell, units, initialization
        self.rows = nn.Linear(row, units)
        self.gates = nn.Linear(2 * units, (4 if cell == "lstm" else 2) * units)
        self.candidate = nn.Linear(2 * units, units) if cell == "gru" else None
        self.output = nn.Linear(units, classes)
        self.initialize()

    def initialize(self) -> None:
        """Draw all parameters anew."""
        initialize(self, self.initialization)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 1, H, row] -> logits [B, classes]."""
        steps = self.rows(images.squeeze(1)).unbind(1)
        state = images.new_zeros(len(images), self.units)
        memory = state
        for x in steps:
            if self.candidate is None:
                write, forget, new, read = self.gates(torch.cat([x, state], 1)).chunk(4, 1)
                memory = torch.sigmoid(forget + 1) * memory + torch.sigmoid(write) * torch.tanh(new)
                state = torch.sigmoid(read) * torch.tanh(memory)
            else:
                reset, keep = torch.sigmoid(self.gates(torch.cat([x, state], 1)) + 1).chunk(2, 1)
                new = torch.tanh(self.candidate(torch.cat([x, reset * state], 1)))
                state = keep * state + (1 - keep) * new
        logits: Tensor = self.output(state)
        return logits


def for_64_pixels(network: nn.Module) -> nn.Module:
    """A network for 32x32 pixels with the stride of its first convolution doubled, as the paper uses it on Tiny-ImageNet."""
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.stride = tuple(2 * int(step) for step in first.stride)
    return network
