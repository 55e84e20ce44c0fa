"""A network for colour images that looks at grey ones."""

from __future__ import annotations

from torch import Tensor, nn


class OnGreyImages(nn.Module):
    """Shows every grey image to a network as three equal colour channels.

    Args:
        network: images [B, 3, H, W] -> logits.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def initialize(self) -> None:
        """Draw all parameters anew."""
        self.network.initialize()  # type: ignore[operator]

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 1, H, W] -> logits [B, classes]."""
        logits: Tensor = self.network(images.expand(-1, 3, -1, -1))
        return logits
