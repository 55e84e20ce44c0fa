"""Five-point alignment of faces to the ArcFace template (InsightFace `python-package/insightface/utils/face_align.py`).

Coordinates are (x, y) in pixels, pixel centres at integers, as OpenCV counts. Points come in the order image-left eye,
image-right eye, nose tip, image-left mouth corner, image-right mouth corner.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

#: where the five points lie in an aligned image of 112x112 (float32 as in InsightFace)
TEMPLATE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    dtype=np.float32,
)


def template(size: int = 112) -> np.ndarray:
    """The five points [5, 2] in an aligned image of size x size.

    Multiples of 112 scale the template; multiples of 128 scale it to size/128 and shift it by 8 pixels to the right.

    Raises:
        ValueError: a multiple of neither.
    """
    if size > 0 and size % 112 == 0:
        return TEMPLATE_112.astype(np.float64) * (size / 112)
    if size > 0 and size % 128 == 0:
        return TEMPLATE_112.astype(np.float64) * (size / 128) + np.array([8 * size / 128, 0])
    raise ValueError(f"The template is defined for multiples of 112 or 128 pixels, not for {size}.")


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The similarity transform [2, 3] that maps `points` [K, 2] onto `target` [K, 2] with the least squared error.

    S. Umeyama, "Least-squares estimation of transformation parameters between two point patterns", TPAMI 1991,
    Eq. 40-42: rotation, one scale and a translation, no reflection.

    Raises:
        ValueError: other shapes, values that are not finite, or points that all coincide.
    """
    points, target = np.asarray(points, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if points.shape != target.shape or points.ndim != 2 or points.shape[1] != 2 or len(points) < 2:
        raise ValueError(f"Expected two arrays [K, 2] with K >= 2, got {points.shape} and {target.shape}.")
    if not (np.isfinite(points).all() and np.isfinite(target).all()):
        raise ValueError("Landmarks must be finite.")
    centre, goal = points.mean(0), target.mean(0)
    p, q = points - centre, target - goal
    variance = (p**2).sum() / len(p)
    if variance == 0:
        raise ValueError("All landmarks coincide; no transform can be estimated.")
    u, d, vt = np.linalg.svd(q.T @ p / len(p))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    rotation = u @ np.diag(sign) @ vt
    scale = (d * sign).sum() / variance
    return np.concatenate([scale * rotation, (goal - scale * rotation @ centre)[:, None]], axis=1)


def estimate(landmarks: np.ndarray, size: int = 112) -> np.ndarray:
    """The transform [2, 3] of five landmarks [5, 2] onto the template of size x size."""
    return similarity(landmarks, template(size))


def warp(image: Image.Image, matrix: np.ndarray, size: int = 112) -> Image.Image:
    """Apply a transform [2, 3] (input -> output coordinates): bilinear, black outside, size x size.

    Like OpenCV's `warpAffine` up to rounding (OpenCV interpolates in steps of 1/32 pixel).
    """
    inverse = np.linalg.inv(matrix[:, :2])
    offset = -inverse @ matrix[:, 2]
    # Pillow counts from the corner of a pixel, the template from its centre: half a pixel on both sides.
    offset = offset + 0.5 - inverse @ np.array([0.5, 0.5])
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    return image.transform((size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)


def align(image: Image.Image, landmarks: np.ndarray, size: int = 112) -> Image.Image:
    """The face with landmarks [5, 2], aligned to size x size."""
    return warp(image, estimate(landmarks, size), size)


def five_of_68(points: np.ndarray) -> np.ndarray:
    """Five points out of 68 (iBUG order, 0-based): eye centres from their corners, nose tip 30, mouth 48 and 54."""
    points = np.asarray(points, dtype=np.float64)
    if points.shape != (68, 2):
        raise ValueError(f"Expected 68 points [68, 2], got {points.shape}.")
    left, right = points[[36, 39]].mean(0), points[[42, 45]].mean(0)
    return np.stack([left, right, points[30], points[48], points[54]])
