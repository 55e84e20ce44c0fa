"""Homographies between planes: from points by least squares, and applied to points (x, y)."""

from __future__ import annotations

import numpy as np


def least_squares_homography(source: np.ndarray, target: np.ndarray, steps: int = 50) -> np.ndarray:
    """The H [3, 3] with H[2, 2] = 1 that minimises sum_k |H(source_k) - target_k|^2, points [K, 2], K >= 4.

    A direct linear transform (R. Hartley and A. Zisserman, "Multiple View Geometry", 2nd ed., section 4.1) is the start of
    Levenberg-Marquardt steps. OpenCV's `findHomography(method=0)` seeks the same minimum and stops a little before it.

    Raises:
        ValueError: other shapes, fewer than four points, or points that determine no homography.
    """
    source, target = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 2 or len(source) < 4:
        raise ValueError(f"Expected two arrays [K, 2] with K >= 4, got {source.shape} and {target.shape}.")
    a, b = _to_unit(source), _to_unit(target)
    from_points, to_points = project(a, source), project(b, target)
    h = _linear_homography(from_points, to_points)
    damping, error = 1e-4, np.inf
    for _ in range(steps):
        residual, jacobian = _residual(h, from_points, to_points)
        error = float(residual @ residual)
        normal = jacobian.T @ jacobian
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), jacobian.T @ residual)
        new = h - step
        changed, _ = _residual(new, from_points, to_points)
        if changed @ changed < error:
            h, damping = new, damping / 3
        else:
            damping *= 4
    found = np.linalg.inv(b) @ np.append(h, 1.0).reshape(3, 3) @ a
    return np.asarray(found / found[2, 2])


def project(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The images [K, 2] of points [K, 2] under a homography [3, 3]."""
    mapped = points @ homography[:, :2].T + homography[:, 2]
    return np.asarray(mapped[:, :2] / mapped[:, 2:])


def _to_unit(points: np.ndarray) -> np.ndarray:
    """Move the centre of points to 0 and their mean distance from it to 1, by one factor: Eq. 1 keeps its minimum."""
    centre = points.mean(0)
    spread = np.abs(points - centre).mean()
    if not (np.isfinite(points).all() and np.ptp(points, axis=0).all()):
        raise ValueError("The points lie on a line or are not finite: they determine no homography.")
    return np.array([[1 / spread, 0, -centre[0] / spread], [0, 1 / spread, -centre[1] / spread], [0, 0, 1.0]])


def _linear_homography(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The first eight entries [8] of the direct linear transform."""
    (x, y), (u, v), one, nil = source.T, target.T, np.ones(len(source)), np.zeros(len(source))
    rows = [np.stack([x, y, one, nil, nil, nil, -u * x, -u * y, -u], 1)]
    rows.append(np.stack([nil, nil, nil, x, y, one, -v * x, -v * y, -v], 1))
    h = np.linalg.svd(np.concatenate(rows))[2][-1]
    return np.asarray(h[:8] / h[8])


def _residual(h: np.ndarray, source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """H(p) - q [2K] and its derivatives by the eight entries [2K, 8]."""
    (x, y), one, nil = source.T, np.ones(len(source)), np.zeros(len(source))
    u, v, w = (h[i] * x + h[i + 1] * y + (h[i + 2] if i < 6 else 1.0) for i in (0, 3, 6))
    u, v = u / w, v / w
    by_u = np.stack([x, y, one, nil, nil, nil, -u * x, -u * y], 1) / w[:, None]
    by_v = np.stack([nil, nil, nil, x, y, one, -v * x, -v * y], 1) / w[:, None]
    return np.concatenate([u - target[:, 0], v - target[:, 1]]), np.concatenate([by_u, by_v])
