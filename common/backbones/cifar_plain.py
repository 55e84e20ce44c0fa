"""Plain convolutional networks for 32x32 images: the VGG variants of the pruning papers, Conv-2/4/6, Cifar-net, AlexNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.backbones.initialization import initialize

POOL = "pool"
Plan = Sequence[int | str]


class VGG(nn.Module):
    """3x3 convolutions with batch normalisation and ReLU, max-pooling between blocks, and a classifier.

    The names are those of Liu et al.'s `vgg.py` (`feature.0.weight`, `classifier.0.weight`). Use one of the papers' networks
    below, or give the arguments.

    Args:
        classes: of the output.
        plan: channels of the convolutions, `"pool"` for 2x2 max-pooling. kernels: their kernel sizes; None for 3 throughout.
        hidden: neurons of the layers between the features and the output, each with batch normalisation and ReLU.
        bias: whether convolutions have one.
        last_pool: 2x2 pooling of the last map, `"average"`, `"max"` or `"none"`.
        input_size: side of the images. initialization: see `common.backbones.initialization`.

    Raises:
        ValueError: an argument is out of its range; the sentence says which.
    """

    default_plan: ClassVar[Plan] = (64, 64, POOL, 128, 128, POOL, *[256] * 3, POOL, *[512] * 3, POOL, *[512] * 3)
    default_hidden: ClassVar[Sequence[int]] = (512,)
    default_kernels: ClassVar[Sequence[int] | None] = None
    default_bias: ClassVar[bool] = True
    default_last_pool: ClassVar[str] = "max"

    def __init__(
        self,
        classes: int = 10,
        plan: Plan | None = None,
        kernels: Sequence[int] | None = None,
        hidden: Sequence[int] | None = None,
        bias: bool | None = None,
        last_pool: Literal["average", "max", "none"] | None = None,
        input_size: int = 32,
        initialization: str = "variance_scaling",
    ) -> None:
        super().__init__()
        plan = self.default_plan if plan is None else plan
        widths = [int(entry) for entry in plan if entry != POOL]
        kernels = self.default_kernels if kernels is None else kernels
        sizes = [3] * len(widths) if kernels is None else [int(size) for size in kernels]
        if not widths or len(sizes) != len(widths) or any(size % 2 == 0 for size in sizes):
            raise ValueError(
                f"there are {len(widths)} convolutions and kernels {sizes}: expected one odd size for each"
            )
        self.initialization = initialization
        self.last_pool = self.default_last_pool if last_pool is None else last_pool
        if self.last_pool not in ("average", "max", "none"):
            raise ValueError(f"last_pool is {last_pool!r}, but must be average, max or none")
        self.feature = _features(plan, sizes, self.default_bias if bias is None else bias)
        side = input_size // 2 ** (sum(entry == POOL for entry in plan) + (self.last_pool != "none"))
        if side < 1:
            raise ValueError(
                f"images of {input_size} pixels are pooled away; give larger ones or a plan with less pooling"
            )
        self.classifier = nn.Sequential()
        inputs = widths[-1] * side * side
        for neurons in self.default_hidden if hidden is None else hidden:
            self.classifier.extend([nn.Linear(inputs, neurons), nn.BatchNorm1d(neurons), nn.ReLU(inplace=True)])
            inputs = neurons
        self.classifier.append(nn.Linear(inputs, classes))
        self.initialize()

    def initialize(self) -> None:
        """Draw all parameters anew."""
        initialize(self, self.initialization)

    def features(self, images: Tensor) -> Tensor:
        """Inputs of the last linear layer."""
        x = self.feature(images)
        if self.last_pool != "none":
            x = F.avg_pool2d(x, 2) if self.last_pool == "average" else F.max_pool2d(x, 2)
        return self.classifier[:-1](x.flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, 32, 32] -> logits [B, classes]."""
        logits: Tensor = self.classifier[-1](self.features(images))
        return logits


def _features(plan: Plan, kernels: Sequence[int], bias: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels, sizes = 3, iter(kernels)
    for entry in plan:
        if entry == POOL:
            layers.append(nn.MaxPool2d(2))
            continue
        width, size = int(entry), next(sizes)
        layers += [nn.Conv2d(channels, width, size, padding=size // 2, bias=bias), nn.BatchNorm2d(width)]
        layers.append(nn.ReLU(inplace=True))
        channels = width
    return nn.Sequential(*layers)


class VGG16(VGG):
    """Li et al. 2017 (Pruning Filters), as Liu et al. implement it: no biases; 14,987,722 parameters, 313,463,808 MACs."""

    default_bias = False
    default_last_pool = "average"


class VGGLike(VGG):
    """SNIP's VGG-like: 14,982,474 weights and biases beside the normalisations."""


class VGGC(VGG):
    """SNIP's VGG-C: 1x1 kernels in the third convolutions of blocks 3 to 5, FC 512-512; 10,526,538 weights and biases."""

    default_hidden = (512, 512)
    default_kernels = (3, 3, 3, 3, 3, 3, 1, 3, 3, 1, 3, 3, 1)


class VGGD(VGG):
    """SNIP's VGG-D: FC 512-512; 15,245,130 weights and biases beside the normalisations."""

    default_hidden = (512, 512)


class VGG19(VGG):
    """The lottery ticket's VGG-19: no hidden layer; 20,040,522 parameters, 20,018,880 of them convolution weights."""

    default_plan = (64, 64, POOL, 128, 128, POOL, *[256] * 4, POOL, *[512] * 4, POOL, *[512] * 4)
    default_hidden = ()
    default_last_pool = "average"


class Conv(nn.Module):
    """The lottery ticket's Conv-2, -4 and -6: pairs of 3x3 convolutions and max-pooling, FC 256-256-classes, ReLU.

    4,300,992, 2,425,024 and 2,261,184 weights. (The paper's figure says 1.7 M for Conv-6; its sparsities fit 2.26 M.)

    Args:
        classes: of the output. layers: 2, 4 or 6 convolutions (64, 64, 128, 128, 256, 256).
        dropout: after the ReLUs of both hidden linear layers; 0.5 in the paper's dropout experiment, else 0.
        initialization: see `common.backbones.initialization`.

    Raises:
        ValueError: another number of layers.
    """

    def __init__(
        self, classes: int = 10, layers: int = 2, dropout: float = 0.0, initialization: str = "glorot_normal"
    ) -> None:
        super().__init__()
        if layers not in (2, 4, 6):
            raise ValueError(f"layers is {layers}, but must be 2, 4 or 6")
        self.initialization = initialization
        parts: list[nn.Module] = []
        channels = 3
        for width in (64, 128, 256)[: layers // 2]:
            for _ in range(2):
                parts += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            parts.append(nn.MaxPool2d(2))
        self.feature = nn.Sequential(*parts)
        side = 32 >> (layers // 2)
        self.fc1 = nn.Linear(channels * side * side, 256)
        self.fc2 = nn.Linear(256, 256)
        self.fc3 = nn.Linear(256, classes)
        self.dropout = nn.Dropout(dropout)
        self.initialize()

    def initialize(self) -> None:
        """Draw all parameters anew."""
        initialize(self, self.initialization)

    def features(self, images: Tensor) -> Tensor:
        """Responses of the layer before the classifier, [B, 256]."""
        x = self.dropout(F.relu(self.fc1(self.feature(images).flatten(1))))
        return self.dropout(F.relu(self.fc2(x)))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, 32, 32] -> logits [B, classes]."""
        logits: Tensor = self.fc3(self.features(images))
        return logits


class CifarNet(nn.Module):
    """Caffe's quick CIFAR-10 network: three 5x5 convolutions (32, 32, 64), pooling 3x3 of stride 2, FC 64-classes.

    Args:
        classes: of the output. initialization: see `common.backbones.initialization`.
    """

    def __init__(self, classes: int = 10, initialization: str = "he_normal") -> None:
        super().__init__()
        self.initialization = initialization
        self.conv1 = nn.Conv2d(3, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 32, 5, padding=2)
        self.conv3 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc1 = nn.Linear(64 * 16, 64)
        self.fc2 = nn.Linear(64, classes)
        self.initialize()

    def initialize(self) -> None:
        """Draw all parameters anew."""
        initialize(self, self.initialization)

    def features(self, images: Tensor) -> Tensor:
        """Responses of the layer before the classifier, [B, 64]; it has no activation."""
        x = F.relu(F.max_pool2d(self.conv1(images), 3, 2, ceil_mode=True))
        x = F.avg_pool2d(F.relu(self.conv2(x)), 3, 2, ceil_mode=True)
        x = F.avg_pool2d(F.relu(self.conv3(x)), 3, 2, ceil_mode=True)
        features: Tensor = self.fc1(x.flatten(1))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, 32, 32] -> logits [B, classes]."""
        logits: Tensor = self.fc2(self.features(images))
        return logits


class AlexNet(nn.Module):
    """SNIP's AlexNet-s (k = 1; 5,070,218 weights and biases beside the normalisations) and -b (k = 2; 8,490,378).

    Convolutions 11x11 (96), 5x5 (256), 3x3 (384, 384, 256), all of stride 2 with TensorFlow's "same" padding, then FC
    256 - 1024 k - 1024 k - classes; batch normalisation and ReLU after each. (The paper's text says 512 k.)

    Args:
        classes: of the output. k: see above. initialization: see `common.backbones.initialization`.
    """

    def __init__(self, classes: int = 10, k: int = 1, initialization: str = "variance_scaling") -> None:
        super().__init__()
        self.initialization = initialization
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        channels = 3
        for width, size in ((96, 11), (256, 5), (384, 3), (384, 3), (256, 3)):
            self.convolutions.append(nn.Conv2d(channels, width, size, 2))
            self.norms.append(nn.BatchNorm2d(width))
            channels = width
        self.classifier = nn.Sequential()
        for inputs in (256, 1024 * k):
            self.classifier.extend([nn.Linear(inputs, 1024 * k), nn.BatchNorm1d(1024 * k), nn.ReLU(inplace=True)])
        self.classifier.append(nn.Linear(1024 * k, classes))
        self.initialize()

    def initialize(self) -> None:
        """Draw all parameters anew."""
        initialize(self, self.initialization)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, 32, 32] -> logits [B, classes]."""
        x = images
        for conv, norm in zip(self.convolutions, self.norms, strict=True):
            x = torch.relu(norm(conv(_pad_same(x, conv.kernel_size[0]))))  # type: ignore[index, arg-type]
        logits: Tensor = self.classifier(x.flatten(1))
        return logits


def _pad_same(x: Tensor, kernel: int) -> Tensor:
    """TensorFlow's "same" padding for stride 2: the odd pixel goes to the right and below."""
    padding = []
    for side in (x.shape[-1], x.shape[-2]):
        total = max(kernel - (2 - side % 2), 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding)
