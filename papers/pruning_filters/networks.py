"""Networks that only this paper needs: those for grey images, and ResNet-34 with projection shortcuts."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet


def for_grey_images(network: nn.Module) -> nn.Module:
    """A network for colour images with a first convolution that reads one channel; all its parameters are drawn anew."""
    name, first = next((n, module) for n, module in network.named_modules() if isinstance(module, nn.Conv2d))
    owner, _, own = name.rpartition(".")
    grey = nn.Conv2d(
        1, first.out_channels, first.kernel_size, first.stride, first.padding, bias=first.bias is not None  # type: ignore[arg-type]
    )  # fmt: skip
    setattr(network.get_submodule(owner), own, grey)
    initialize = network.initialize
    assert callable(initialize)
    initialize()
    return network


class ResNet34(ResNet):
    """torchvision's ResNet-34: images [B, 3, 224, 224] -> logits [B, classes], projections where stages begin.

    Args:
        classes: of the output.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__(BasicBlock, [3, 4, 6, 3], num_classes=classes)

    def initialize(self) -> None:
        """Draw all parameters anew, as He et al. do; normalisations start at 1 and 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d | nn.Linear):
                module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = super().forward(x)
        return logits
