"""The LeNets of the pruning papers, for grey images of 28x28 pixels (MNIST, Fashion-MNIST)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.backbones.initialization import initialize


class LeNet300100(nn.Module):
    """784-300-100-10 with ReLU: 266,610 parameters, of them 266,200 weights.

    Args:
        classes: of the output. hidden: neurons of the hidden layers. inputs: pixels times channels of an image.
        initialization: see `common.backbones.initialization`; `"variance_scaling"` is SNIP's, `"glorot_normal"` the lottery
            ticket's.

    Raises:
        ValueError: an unknown initialization, or no hidden layer.
    """

    def __init__(
        self,
        classes: int = 10,
        hidden: Sequence[int] = (300, 100),
        inputs: int = 784,
        initialization: str = "glorot_normal",
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("hidden is empty, but the network needs at least one hidden layer")
        self.initialization = initialization
        sizes = (inputs, *hidden)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.output = nn.Linear(sizes[-1], classes)
        self.initialize()

    def initialize(self) -> None:
        """Draw all parameters anew."""
        initialize(self, self.initialization)

    def features(self, images: Tensor) -> Tensor:
        """Responses of the last hidden layer, [B, 100]."""
        x = images.flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        return x

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, ...] with `inputs` numbers each -> logits [B, classes]."""
        logits: Tensor = self.output(self.features(images))
        return logits


class LeNet5Caffe(nn.Module):
    """Caffe's LeNet-5: conv 5x5 to 20, max-pool, conv 5x5 to 50, max-pool, 800-500-10; 431,080 parameters.

    Convolutions are unpadded. Between convolution and pooling there is no ReLU in Caffe and in SNIP's official code; PyTorch
    ports have one.

    Args:
        classes: of the output. widths: channels of the convolutions and neurons of the hidden layer.
        relu_after_convolutions: see above. initialization: see `common.backbones.initialization`.

    Raises:
        ValueError: an unknown initialization, or not three widths.
    """

    def __init__(
        self,
        classes: int = 10,
        widths: Sequence[int] = (20, 50, 500),
        relu_after_convolutions: bool = False,
        initialization: str = "variance_scaling",
    ) -> None:
        super().__init__()
        if len(widths) != 3:
            raise ValueError(f"widths is {tuple(widths)}, but must be three numbers: conv1, conv2, fc1")
        self.initialization = initialization
        self.relu_after_convolutions = relu_after_convolutions
        self.conv1 = nn.Conv2d(1, widths[0], 5)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5)
        self.fc1 = nn.Linear(widths[1] * 16, widths[2])
        self.fc2 = nn.Linear(widths[2], classes)
        self.initialize()

    def initialize(self) -> None:
        """Draw all parameters anew."""
        initialize(self, self.initialization)

    def features(self, images: Tensor) -> Tensor:
        """Responses of the layer before the classifier, [B, 500] (NISP's final response layer)."""
        x = images
        for conv in (self.conv1, self.conv2):
            x = conv(x)
            x = F.max_pool2d(F.relu(x) if self.relu_after_convolutions else x, 2)
        return F.relu(self.fc1(x.flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 1, 28, 28] -> logits [B, classes]."""
        logits: Tensor = self.fc2(self.features(images))
        return logits


class LeNet5(nn.Module):
    """LeCun et al. 1998 with ReLU and max-pooling: conv 5x5 to 6 (padding 2), to 16, 400-120-84-10; 61,706 parameters.

    Args:
        classes: of the output. initialization: see `common.backbones.initialization`.
    """

    def __init__(self, classes: int = 10, initialization: str = "glorot_normal") -> None:
        super().__init__()
        self.initialization = initialization
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)
        self.initialize()

    def initialize(self) -> None:
        """Draw all parameters anew."""
        initialize(self, self.initialization)

    def features(self, images: Tensor) -> Tensor:
        """Responses of the layer before the classifier, [B, 84]."""
        x = F.max_pool2d(torch.relu(self.conv1(images)), 2)
        x = F.max_pool2d(torch.relu(self.conv2(x)), 2)
        return torch.relu(self.fc2(torch.relu(self.fc1(x.flatten(1)))))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 1, 28, 28] -> logits [B, classes]."""
        logits: Tensor = self.fc3(self.features(images))
        return logits
