"""What the face-recognition backbones share: size arithmetic, activations, checks and one initialisation."""

from collections.abc import Sequence

import torch
from torch import nn

from common.activations import PReLU

ImageSize = int | Sequence[int]
"""Height and width of the input in pixels; one integer means a square."""

ACTIVATIONS = ("prelu", "relu", "relu6", "hardswish")
HALVINGS = 4  # every backbone here has four layers of stride 2
SMALLEST = 2**HALVINGS


def height_and_width(input_size: ImageSize) -> tuple[int, int]:
    """Return `input_size` as (height, width) in pixels.

    Raises:
        ValueError: a side is shorter than 16 pixels, or there are not one or two sides.
    """
    sides = (input_size, input_size) if isinstance(input_size, int) else tuple(int(side) for side in input_size)
    if len(sides) != 2 or min(sides) < SMALLEST:
        raise ValueError(
            f"input_size is {input_size!r}, but must be one side or (height, width) with at least {SMALLEST} pixels "
            f"each, because the network halves the image {HALVINGS} times."
        )
    return sides[0], sides[1]


def last_map_size(input_size: ImageSize) -> tuple[int, int]:
    """Height and width of the last feature map: each stride-2 layer (3x3, padding 1) rounds the half up; 112 -> 7."""
    height, width = height_and_width(input_size)
    for _ in range(HALVINGS):
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def check_images(images: torch.Tensor, input_size: tuple[int, int]) -> None:
    """Refuse images of another size than the network was built for: the embedding layer fits one size only.

    Raises:
        ValueError: `images` is not [B, 3, height, width].
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2:] != input_size:
        raise ValueError(
            f"The network was built for images [B, 3, {input_size[0]}, {input_size[1]}], but got "
            f"{list(images.shape)}; build it with the input_size of the data, or resize the images."
        )


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to the nearest multiple of 8 and at least 8; unchanged at width 1.

    Raises:
        ValueError: width is not positive.
    """
    if width <= 0:
        raise ValueError(
            f"width is {width}, but must be a positive factor of the channel counts; 1 is the full network."
        )
    return channels if width == 1 else max(8, int(channels * width / 8 + 0.5) * 8)


def check_counts(blocks: Sequence[int], stages: int) -> tuple[int, ...]:
    """Return the number of blocks in each stage as a tuple.

    Raises:
        ValueError: not `stages` numbers, or one of them is below 1.
    """
    counts = tuple(int(count) for count in blocks)
    if len(counts) != stages or min(counts) < 1:
        raise ValueError(f"blocks is {tuple(blocks)}, but must be {stages} block counts of at least 1, one a stage.")
    return counts


def activation_layer(name: str, channels: int) -> nn.Module:
    """A new activation: "prelu" has one slope a channel (0.25 at the start), the others have no parameters.

    Raises:
        ValueError: `name` is not one of `ACTIVATIONS`.
    """
    if name == "prelu":
        return PReLU(channels)
    if name == "relu":
        return nn.ReLU()
    if name == "relu6":
        return nn.ReLU6()
    if name == "hardswish":
        return nn.Hardswish()
    raise ValueError(f"activation is {name!r}, but must be one of {', '.join(ACTIVATIONS)}.")


def initialize_fan_out(network: nn.Module) -> None:
    """Kaiming-normal (fan out, ReLU gain) weights and zero biases, as MobileFaceNet and TFace start.

    Batch normalisations and PReLUs keep PyTorch's start (weight 1, bias 0; slope 0.25).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
