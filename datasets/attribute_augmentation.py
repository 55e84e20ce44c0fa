"""FairGRAPE's augmentation of training images, from the ranges of its official code (which uses imgaug).

Each image: a mirror image (drawn by the sampler), a crop of 0 to 5 % a side (probability 1/2), an affine map (scale 1 to 1.1 an
axis, translation up to 10 %, rotation up to 15 degrees, shear up to 8 degrees, border repeated), and zero to five of ten
further changes, drawn without replacement, in random order. Left out are the two that need more than a filter, superpixels and
piecewise affine maps; each of them would replace little of an image, with probability 1/2 where drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFilter

Pixels = np.ndarray
"""float32 [H, W, 3] in 0..255."""
Change = Callable[[Pixels, np.random.Generator], Pixels]


def augmented(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """uint8 [3, H, W] -> uint8 [3, H, W], changed as the generator says."""
    pixels = warped(image.permute(1, 2, 0).numpy(), rng).astype(np.float32)
    for at in rng.permutation(len(CHANGES))[: int(rng.integers(0, 6))]:
        pixels = np.clip(CHANGES[at](pixels, rng), 0, 255)
    out = np.ascontiguousarray(np.rint(pixels).astype(np.uint8).transpose(2, 0, 1))
    return torch.from_numpy(out)


def warped(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The crop and the affine map as one resampling, uint8 [H, W, 3]; outside of the image its border is repeated."""
    height, width = pixels.shape[:2]
    cut = rng.uniform(0, 0.05, 4) if rng.random() < 0.5 else np.zeros(4)  # left, top, right, bottom
    scale, move = rng.uniform(1, 1.1, 2), rng.uniform(-0.1, 0.1, 2)
    turn, shear = np.radians(rng.uniform(-15, 15)), np.radians(rng.uniform(-8, 8))
    # Output position, centred, -> input position: undo translation, rotation, shear, scale; then into the crop.
    forward = np.array([[math.cos(turn), -math.sin(turn + shear)], [math.sin(turn), math.cos(turn + shear)]]) @ np.diag(
        scale
    )
    back = np.linalg.inv(forward)
    kept = np.array([1 - cut[0] - cut[2], 1 - cut[1] - cut[3]])
    centre = np.array([width, height]) / 2
    size = np.array([width, height])
    matrix = np.diag(kept) @ back
    corner = np.array([cut[0], cut[1]]) * size
    offset = corner + kept * (centre - back @ (centre + move * size))
    border = max(height, width) // 2
    padded = np.pad(pixels, ((border, border), (border, border), (0, 0)), "edge")
    coefficients = (*matrix[0], offset[0] + border, *matrix[1], offset[1] + border)
    resampling = Image.Resampling.BILINEAR if rng.random() < 0.5 else Image.Resampling.NEAREST
    return np.asarray(
        Image.fromarray(padded).transform((width, height), Image.Transform.AFFINE, coefficients, resampling)
    )


def _filtered(pixels: Pixels, kernel: np.ndarray) -> Pixels:
    """3x3 correlation of every channel, border repeated."""
    wide = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), "edge")
    height, width = pixels.shape[:2]
    out = np.zeros_like(pixels)
    for row in range(3):
        for column in range(3):
            out += kernel[row, column] * wide[row : row + height, column : column + width]
    return out


def _blur(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    image = Image.fromarray(np.rint(pixels).astype(np.uint8))
    kind = int(rng.integers(0, 3))
    if kind == 0:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 3))))
    elif kind == 1:
        image = image.filter(ImageFilter.BoxBlur((float(rng.integers(2, 8)) - 1) / 2))
    else:
        image = image.filter(ImageFilter.MedianFilter(int(rng.integers(1, 6)) * 2 + 1))
    return np.asarray(image, dtype=np.float32)


def _overlaid(pixels: Pixels, kernel: np.ndarray, alpha: float) -> Pixels:
    return (1 - alpha) * pixels + alpha * _filtered(pixels, kernel)


def _sharpen(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    alpha, lightness = rng.uniform(0, 0.3), rng.uniform(0.75, 1.5)
    kernel = np.full((3, 3), -1.0)
    kernel[1, 1] = 8 + lightness
    return _overlaid(pixels, kernel, alpha)


def _emboss(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    alpha, s = rng.uniform(0, 0.3), rng.uniform(0, 2)
    return _overlaid(pixels, np.array([[-1 - s, -s, 0], [-s, 1, s], [0, s, 1 + s]]), alpha)


def _edges(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Half of the times drawn; edges of all directions, or of one."""
    if rng.random() < 0.5:
        return pixels
    alpha, angle = rng.uniform(0, 0.3), rng.uniform(0, 2 * math.pi)
    kernel = np.array([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
    if rng.random() < 0.5:
        places = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1)]
        near = [max(0.0, math.cos(math.atan2(r, c) - angle)) ** 4 if (r, c) != (0, 0) else 0.0 for r, c in places]
        kernel = np.array(near).reshape(3, 3) / sum(near)
        kernel[1, 1] = -1.0
    return _overlaid(pixels, kernel, alpha)


def _noise(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    channels = 3 if rng.random() < 0.5 else 1
    deviation = rng.uniform(0, 0.05 * 255)
    return pixels + deviation * rng.standard_normal((*pixels.shape[:2], channels), dtype=np.float32)


def _dropout(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    channels = 3 if rng.random() < 0.5 else 1
    return pixels * (rng.random((*pixels.shape[:2], channels)) >= rng.uniform(0.01, 0.02))


def _per_channel(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """One draw for all channels, or one for each: [1] or [3], with equal probability."""
    return rng.uniform(low, high, 3 if rng.random() < 0.5 else 1).astype(np.float32)


def _add(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return pixels + _per_channel(rng, -15, 15)


def _multiply(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return pixels * _per_channel(rng, 0.75, 1.25)


def _contrast(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return (pixels - 128) * _per_channel(rng, 0.75, 1.75) + 128


def _grey(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    alpha = float(rng.uniform(0, 1))
    grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return (1 - alpha) * pixels + alpha * grey[:, :, None]


CHANGES: tuple[Change, ...] = (
    _blur,
    _sharpen,
    _emboss,
    _edges,
    _noise,
    _dropout,
    _add,
    _multiply,
    _contrast,
    _grey,
)
