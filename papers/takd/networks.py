"""The paper's networks for 32x32 images: plain nets of 2 to 10 convolutions, and ResNets with projection shortcuts.

Layers, their order and their initialisation are those of the official code (plain_cnn_cifar.py, resnet_cifar.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from common.backbones.cifar_resnet import CifarResNet
from common.backbones.initialization import initialize

P = "pool"
Layers = Sequence[int | str]
_DEEP: Layers = (32, 32, P, 64, 64, P, 128, 128, P, *[256] * 4, P)

#: convolution widths with poolings, and neurons of the hidden linear layer, by data set and depth
PLANS: Mapping[str, Mapping[int, tuple[Layers, tuple[int, ...]]]] = {
    "cifar10": {
        2: ((16, P, 16, P), ()),
        4: ((16, 16, P, 32, 32, P), ()),
        6: ((16, 16, P, 32, 32, P, 64, 64, P), ()),
        8: ((16, 16, P, 32, 32, P, 64, 64, P, 128, 128, P), (64,)),
        10: (_DEEP, (128,)),
    },
    "cifar100": {
        2: ((32, P, 32, P), ()),
        4: ((32, 32, P, 64, 64, P), ()),
        6: ((32, 32, P, 64, 64, P, 128, 128), ()),
        8: ((32, 32, P, 64, 64, P, 128, 128, P, 256, 256, P), (64,)),
        10: (_DEEP, (512,)),
    },
}


class Plane(nn.Module):
    """A plain net: conv 3x3 (with bias), BN, ReLU; max-pooling 2x2; at most one hidden linear layer with ReLU; the classifier.

    Parameters at 32 pixels: CIFAR-10 13,082, 37,338, 82,778, 327,962, 2,487,850; CIFAR-100 215,172, 475,652, 1,107,204,
    1,246,276, 2,931,460 for 2, 4, 6, 8, 10 convolutions.

    Args:
        depth: convolutions: 2, 4, 6, 8 or 10.
        classes: of the output.
        variant: `"cifar10"` or `"cifar100"`, whose nets are wider and of which the one of 6 convolutions pools twice only.
        in_channels, input_size: of the images. width: factor of all hidden widths, rounded, for smaller demonstrations.

    Raises:
        ValueError: an argument is out of its range; images that are pooled away.
    """

    def __init__(
        self,
        depth: int,
        classes: int = 10,
        variant: str = "cifar10",
        in_channels: int = 3,
        input_size: int = 32,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if variant not in PLANS or depth not in PLANS[variant]:
            raise ValueError(f"{depth=}, {variant=}: expected 2, 4, 6, 8 or 10 and one of {', '.join(PLANS)}")
        if width <= 0:
            raise ValueError(f"width is {width}, but must be positive")
        plan, hidden = PLANS[variant][depth]
        side = input_size >> plan.count(P)
        if side < 1:
            raise ValueError(f"images of {input_size} pixels are pooled away by {plan.count(P)} poolings")
        layers: list[nn.Module] = []
        channels = in_channels
        for entry in plan:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2))
                continue
            outputs = max(1, round(entry * width))
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            channels = outputs
        self.feature = nn.Sequential(*layers)
        self.classifier = nn.Sequential()
        inputs = channels * side * side
        for neurons in hidden:
            neurons = max(1, round(neurons * width))
            self.classifier.extend([nn.Linear(inputs, neurons), nn.ReLU(inplace=True)])
            inputs = neurons
        self.classifier.append(nn.Linear(inputs, classes))

    def initialize(self) -> None:
        """Draw all parameters anew, as torch draws them by default."""
        initialize(self, "torch")

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, S, S] -> logits [B, classes]."""
        logits: Tensor = self.classifier(self.feature(images).flatten(1))
        return logits


class ResNet(CifarResNet):
    """The ResNet of 6n + 2 layers with 1x1 convolutions and BN as shortcuts, convolutions drawn by He's rule over the fan out.

    Parameters for 8, 14, 20, 26, 32, 44, 56, 110 layers: CIFAR-10 78,042, 175,258, 272,474, 369,690, 466,906, 661,338,
    855,770, 1,730,714; CIFAR-100 83,892, 181,108, 278,324, 375,540, 472,756, 667,188, 861,620, 1,736,564.

    Args:
        depth: 6n + 2. classes: of the output.
    """

    def __init__(self, depth: int, classes: int = 10) -> None:
        super().__init__(depth, classes, shortcut="projection", initialization="he_fan_out")

    def initialize(self) -> None:
        """Draw all parameters anew; the classifier as torch draws it by default, which the official code leaves alone."""
        super().initialize()
        self.linear.reset_parameters()
