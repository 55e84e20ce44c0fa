"""Drawing primitives of the face renderer.

Only operations that IEEE 754 rounds exactly (+, -, x, /, sqrt, floor, min, max) touch pixels: no `exp`, no `sin`, no
matrix product and no fused multiply-add. Each of them gives one answer whatever the vector width, the batch shape and
the number of threads, which is why an image is the same bytes however it is batched.
"""

from __future__ import annotations

import torch
from torch import Tensor


def wave(x: Tensor) -> Tensor:
    """Parabolic stand-in of sin(2 pi x): period 1, range [-1, 1]."""
    w = x - torch.floor(x + 0.5)
    return w * (8.0 - w.abs() * 16.0)


def bump(squared_radius: Tensor) -> Tensor:
    """Smooth hill of a squared radius: 1 at 0, falling to exactly 0 at 1 and beyond."""
    hill = (1.0 - squared_radius).clamp_(min=0.0)
    return hill * hill


def cover(distance: Tensor, softness: float | Tensor) -> Tensor:
    """Coverage in [0, 1] of a shape from its signed distance (negative inside); the edge is `softness` wide."""
    return (0.5 - distance / softness).clamp_(0.0, 1.0)


def paint(image: Tensor, alpha: Tensor, colour: Tensor) -> None:
    """Blend `colour` [B,3,1,1] or [B,3,H,W] over `image` [B,3,H,W] in place with opacity `alpha` [B,H,W]; alpha 0
    leaves a pixel's bits."""
    image.add_((colour - image).mul_(alpha.unsqueeze(1)))


def darken(image: Tensor, alpha: Tensor) -> None:
    """Multiply `image` [B,3,H,W] in place by 1 - `alpha` [B,H,W]."""
    image.mul_((1.0 - alpha).unsqueeze(1))


def grid(size: int) -> tuple[Tensor, Tensor]:
    """Pixel-centre coordinates in [-1, 1], x to the right [1,1,W] and y down [1,H,1]."""
    axis = (torch.arange(size, dtype=torch.float32) + 0.5) * (2.0 / size) - 1.0
    return axis.view(1, 1, size), axis.view(1, size, 1)
