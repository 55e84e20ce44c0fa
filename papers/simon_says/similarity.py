"""How far the inner responses of two networks lie apart: SVCCA distance.

M. Raghu, J. Gilmer, J. Yosinski, J. Sohl-Dickstein, "SVCCA", NeurIPS 2017, arXiv:1706.05806.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.distillation.taps import FeatureTaps
from common.distillation.teacher import Teacher

VARIANCE = 0.99


def svcca_distance(x: Tensor, y: Tensor, variance: float = VARIANCE) -> float:
    """1 - mean canonical correlation of two sets of responses to the same M inputs.

    Each set is centred and reduced to the leading singular directions that hold `variance` of its variance. With orthonormal
    bases U_x, U_y of what is left, the canonical correlations are the singular values of U_x^T U_y.

    Args:
        x: [M, D]. y: [M, D'].

    Returns:
        0 for the same space (also rotated, scaled, shifted), 1 for spaces at right angles; 1 where one set is constant.

    Raises:
        ValueError: different numbers of inputs.
    """
    if len(x) != len(y):
        raise ValueError(f"the responses are to {len(x)} and {len(y)} inputs: both networks must see the same ones")
    first, second = _leading(x, variance), _leading(y, variance)
    if not first.shape[1] or not second.shape[1]:
        return 1.0
    return 1 - float(torch.linalg.svdvals(first.T @ second).clamp(max=1).mean())


def _leading(x: Tensor, variance: float) -> Tensor:
    """Orthonormal columns [M, K] of the leading directions; K is 0 where nothing varies."""
    centred = x.double() - x.double().mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    held = s.square().cumsum(0)
    if not float(held[-1]) > 1e-24:
        return u[:, :0]
    return u[:, : int((held < variance * held[-1]).sum()) + 1]


@torch.no_grad()
def responses(network: Teacher, images: Tensor, paths: Sequence[str], side: int) -> dict[str, Tensor]:
    """Responses of named modules, [M, D]; of maps every position of the map, averaged down to `side` x `side`, is an input."""
    with FeatureTaps(network.network, paths) as taps:
        network(images)
        found = taps.take()
    return {path: _rows(features, side) for path, features in found.items()}


def _rows(features: Tensor, side: int) -> Tensor:
    if features.ndim == 2:
        return features
    smaller = F.adaptive_avg_pool2d(features, min(side, features.shape[-1]))
    return smaller.permute(0, 2, 3, 1).flatten(0, 2)


def svcca_distances(
    base: Teacher, other: Teacher, data: Any, paths: Sequence[str], images: int, side: int = 4
) -> dict[str, float]:
    """SVCCA distance of every named module on the first test images; nothing is chosen by it."""
    x, _ = next(iter(data.loader("test", images)))
    ours, theirs = (responses(network, x, paths, side) for network in (base, other))
    return {path: svcca_distance(ours[path], theirs[path]) for path in paths}
