"""Inf-FS without labels: how important each response of a layer is, from activations alone.

G. Roffo, S. Melzi, M. Cristani, "Infinite Feature Selection", ICCV 2015. NISP ranks its final responses with it. The equation
numbers are ours.

Symbols
    X       responses of N images, [N, d]; f_i: column i
    sigma   spread of two features, [d, d]; c: how little they repeat each other, [d, d]
    A       the graph of features, [d, d]; rho(A): its spectral radius

    sigma_ij = max(std f_i, std f_j), rescaled to [0, 1]                (1)
    c_ij     = 1 - |Spearman(f_i, f_j)|                                 (2)
    A        = alpha sigma + (1 - alpha) c                              (3)
    S        = (I - r A)^-1 - I,  r = 0.9 / rho(A)                      (4)   paths of every length
    s_i      = sum_j S_ij                                               (5)
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.stats import rankdata

Scale = Literal["unit", "raw"]
DAMPING = 0.9


def feature_graph(
    responses: np.ndarray, alpha: float = 0.5, scale: Scale = "unit", constant: float = 0.0
) -> np.ndarray:
    """A of (3), float64 [d, d].

    Args:
        responses: X, [N, d].
        alpha: weight of the spread against the difference, in [0, 1]. NISP does not state it.
        scale: `"unit"` scales features to [0, 1] and sigma to [0, 1] (the definition); `"raw"` takes standard deviations as
            they are (the Keras implementation of Li et al., with alpha 0.5).
        constant: c of a feature that never varies, whose correlation is undefined. 0 ranks dead neurons last; with 1 they
            would count as unlike all others.

    Raises:
        ValueError: fewer than two images, values that are not finite, or an argument out of its range.
    """
    if responses.ndim != 2 or len(responses) < 2:
        raise ValueError(f"responses are {list(responses.shape)}, but must be [N, d] of at least two images")
    if not np.isfinite(responses).all():
        raise ValueError("a response is NaN or infinite; the network has diverged")
    if not 0 <= alpha <= 1 or not 0 <= constant <= 1 or scale not in ("unit", "raw"):
        raise ValueError(f"{alpha=} and {constant=} must lie in [0, 1], and {scale=} must be unit or raw")
    features = np.asarray(responses, dtype=np.float64)
    width = np.ptp(features, axis=0)
    if scale == "unit":
        features = (features - features.min(axis=0)) / np.where(width > 0, width, 1)
    spread = features.std(axis=0, ddof=1)
    sigma = np.maximum(spread[:, None], spread[None, :])  # (1)
    if scale == "unit":
        low, range_ = sigma.min(), np.ptp(sigma)
        sigma = (sigma - low) / (range_ if range_ > 0 else 1)
    graph: np.ndarray = alpha * sigma + (1 - alpha) * _difference(features, width > 0, constant)  # (3)
    return graph


def inf_fs(responses: np.ndarray, alpha: float = 0.5, scale: Scale = "unit", constant: float = 0.0) -> np.ndarray:
    """Importance of every feature, float64 [d], not negative; the larger, the better.

    If no feature varies, or they all agree in everything, no ranking exists and all are 1. Takes O(d^3) time.

    Args, Raises: see `feature_graph`.
    """
    graph = feature_graph(responses, alpha, scale, constant)
    radius = spectral_radius(graph)
    if radius == 0:
        return np.ones(len(graph))
    ones = np.ones(len(graph))
    paths: np.ndarray = np.linalg.solve(np.eye(len(graph)) - DAMPING / radius * graph, ones) - ones  # (4), (5)
    return np.maximum(paths, 0)  # rounding


def spectral_radius(graph: np.ndarray) -> float:
    """Largest |eigenvalue| of a symmetric matrix."""
    return float(np.abs(np.linalg.eigvalsh(graph)).max())


def _difference(features: np.ndarray, varies: np.ndarray, constant: float) -> np.ndarray:
    """(2): 1 - |Spearman|, ties with their mean rank."""
    ranks = rankdata(features, axis=0)
    ranks -= ranks.mean(axis=0)
    length = np.linalg.norm(ranks, axis=0)
    ranks /= np.where(length > 0, length, 1)
    difference: np.ndarray = np.clip(1 - np.abs(ranks.T @ ranks), 0, 1)
    difference[~varies] = constant
    difference[:, ~varies] = constant
    return difference
