"""The MobileFaceNet for 112x96 crops with published weights (Xiaoccer/MobileFaceNet_Pytorch, `core/model.py`)."""

import torch
from torch import nn

from common.activations import PReLU
from common.backbones.layers import check_images, initialize_fan_out
from common.backbones.mobilefacenet import ConvBlock


class Bottleneck(nn.Module):
    """Inverted bottleneck, flat in one `nn.Sequential` called `conv`; residual where the shape does not change."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            PReLU(hidden),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            PReLU(hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileFaceNet112x96(nn.Module):
    """MobileFaceNet for images of 112 rows and 96 columns: 999,552 parameters at 128 dimensions.

    It has the layers of the paper's Table 1 with a 7x6 global kernel; the embedding is a 1x1 convolution with a
    two-dimensional batch normalisation. The published weights expect RGB pixels as (x - 127.5) / 128.

    Args:
        embedding_size: dimensions D of the embedding; 128 in the published weights.
    """

    # expansion t, channels c, repetitions n, stride s of the first of them: Table 1 of the paper
    STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))

    def __init__(self, embedding_size: int = 128) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.input_size = (112, 96)
        self.conv1 = ConvBlock(3, 64, 3, 2, 1)
        self.dw_conv1 = ConvBlock(64, 64, 3, 1, 1, groups=64)
        blocks: list[nn.Module] = []
        channels = 64
        for expansion, out_channels, count, stride in self.STAGES:
            for position in range(count):
                blocks.append(Bottleneck(channels, out_channels, expansion, stride if position == 0 else 1))
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = ConvBlock(128, 512)
        self.linear7 = ConvBlock(512, 512, (7, 6), groups=512, activation=None)
        self.linear1 = ConvBlock(512, embedding_size, activation=None)
        initialize_fan_out(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embed images [B, 3, 112, 96], float, normalised to about [-1, 1]; returns raw embeddings [B, D].

        Raises:
            ValueError: the images are not 112x96.
        """
        check_images(images, self.input_size)
        x = self.blocks(self.dw_conv1(self.conv1(images)))
        return self.linear1(self.linear7(self.conv2(x))).flatten(1)
