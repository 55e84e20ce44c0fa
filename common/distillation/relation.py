"""Losses on relations among the samples of a batch: sizes of student's and teacher's features may differ.

Features are embeddings [B, D] or maps, flattened to [B, D]; each loss is a scalar. The teacher's side is detached. A batch of
one sample has no relations and is refused.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def pairwise_distances(features: Tensor, squared: bool = False, eps: float = 1e-12) -> Tensor:
    """Euclidean distances [B, B] of [B, D], 0 on the diagonal; squares below `eps` count as `eps`, without gradient."""
    squares = features.square().sum(dim=1)
    found = (squares[:, None] + squares[None] - 2 * features @ features.T).clamp(min=eps)
    found = found if squared else found.sqrt()
    return found.masked_fill(torch.eye(len(features), dtype=torch.bool, device=features.device), 0.0)


def rkd_distance(student: Tensor, teacher: Tensor, squared: bool = False, eps: float = 1e-12) -> Tensor:
    """RKD-D (W. Park et al., CVPR 2019): mean over all B^2 entries of the smooth L1 between distance matrices.

    Each matrix is divided by the mean over its pairs i != j.

    Args:
        student, teacher: [B, ...]. squared: of squared distances. eps: least square of a distance.
    """
    student, teacher = _flat(student, teacher)
    return F.smooth_l1_loss(_relative(student, squared, eps), _relative(teacher, squared, eps))


def _relative(features: Tensor, squared: bool, eps: float) -> Tensor:
    distances = pairwise_distances(features, squared, eps)
    count = len(features)
    return distances / (distances.sum() / (count * (count - 1)))


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD-A: mean over all B^3 entries of the smooth L1 between the cosines of the angles that any three samples form."""
    student, teacher = _flat(student, teacher)
    return F.smooth_l1_loss(_angles(student), _angles(teacher))


def _angles(features: Tensor) -> Tensor:
    """[B, B, B]: at sample i, the cosine between the directions to j and to k."""
    directions = F.normalize(features[None] - features[:, None], dim=2)
    return directions @ directions.transpose(1, 2)


def rkd_loss(student: Tensor, teacher: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Tensor:
    """RKD: the weighted sum of `rkd_distance` and `rkd_angle`."""
    return distance_weight * rkd_distance(student, teacher) + angle_weight * rkd_angle(student, teacher)


def similarity_preserving(student: Tensor, teacher: Tensor, normalise: Literal["rows", "features"] = "rows") -> Tensor:
    """SP (F. Tung and G. Mori, ICCV 2019): squared Frobenius distance of the two Gram matrices, over B^2.

    Args:
        student, teacher: [B, ...].
        normalise: `"rows"` of the Gram matrices (the paper), or the `"features"` before (cosines, as EKD compares with).

    Raises:
        ValueError: a batch of one; different batches; no such normalisation.
    """
    if normalise not in ("rows", "features"):
        raise ValueError(f"normalise is '{normalise}'; expected 'rows' or 'features'")
    student, teacher = _flat(student, teacher)
    return (_gram(student, normalise) - _gram(teacher, normalise)).square().mean()


def _gram(features: Tensor, normalise: str) -> Tensor:
    if normalise == "features":
        features = F.normalize(features, dim=1)
        return features @ features.T
    return F.normalize(features @ features.T, dim=1)


def probabilistic_knowledge_transfer(
    student: Tensor, teacher: Tensor, reduction: Literal["mean", "batchmean"] = "mean", eps: float = 1e-7
) -> Tensor:
    """PKT (N. Passalis and A. Tefas, ECCV 2018): divergence of the similarities of every sample to all, as probabilities.

    Cosines are mapped to [0, 1] and divided by their row's sum: t for the teacher, s for the student; t log(t / s).

    Args:
        student, teacher: [B, ...].
        reduction: `"mean"` over B^2 entries (to which the published weight 30,000 belongs), or `"batchmean"`, the sum over a row,
            B times more.
        eps: keeps quotients finite.

    Raises:
        ValueError: a batch of one; different batches; no such reduction.
    """
    student, teacher = _flat(student, teacher)
    s, t = _neighbours(student, eps), _neighbours(teacher, eps)
    entries = t * ((t + eps) / (s + eps)).log()
    if reduction == "mean":
        return entries.mean()
    if reduction == "batchmean":
        return entries.sum() / len(entries)
    raise ValueError(f"reduction is '{reduction}'; expected 'mean' or 'batchmean'")


def _neighbours(features: Tensor, eps: float) -> Tensor:
    unit = features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + eps)
    similarity = (unit @ unit.T + 1) / 2
    return similarity / similarity.sum(dim=1, keepdim=True)


def correlation_congruence(student: Tensor, teacher: Tensor, gamma: float = 0.4, terms: int = 2) -> Tensor:
    """CCKD (B. Peng et al., ICCV 2019): mean over B^2 of the squared difference of Gaussian kernels, as Taylor series.

        k(x, y) = exp(-2 gamma) sum_{n < terms} (2 gamma)^n / n! <x, y>^n,   x, y of unit length

    Args:
        student, teacher: [B, ...]. gamma: of the kernel. terms: of the series, 2 as EKD compares with; 3 is its second order.

    Raises:
        ValueError: a batch of one; different batches; fewer than 2 terms, which would be a constant.
    """
    if terms < 2:
        raise ValueError(f"terms is {terms}: the series needs at least 2, its first is a constant")
    student, teacher = _flat(student, teacher)
    return (_kernel(student, gamma, terms) - _kernel(teacher, gamma, terms)).square().mean()


def _kernel(features: Tensor, gamma: float, terms: int) -> Tensor:
    unit = F.normalize(features, dim=1)
    cosine = unit @ unit.T
    weights = [math.exp(-2 * gamma) * (2 * gamma) ** n / math.factorial(n) for n in range(terms)]
    return torch.stack([weight * cosine.pow(n) for n, weight in enumerate(weights)]).sum(dim=0)


def hard_dark_rank(student: Tensor, teacher: Tensor, alpha: float = 3.0, beta: float = 3.0, length: int = 3) -> Tensor:
    """DarkRank, hard version (Y. Chen et al., AAAI 2018): likelihood of the teacher's ranking under the student's scores.

    Scores are -alpha d^beta for the distances d of unit vectors. Of every sample the teacher's `length` nearest others in their
    order count; the loss is the mean over the batch of -sum_i (s_i - logsumexp_{j >= i} s_j).

    Args:
        student, teacher: [B, ...]. alpha, beta: of the scores. length: of the ranking; a batch of B ranks at most B - 1.
    """
    student, teacher = _flat(student, teacher)
    own = torch.eye(len(student), dtype=torch.bool, device=student.device)
    ours, theirs = (-alpha * pairwise_distances(F.normalize(side, dim=1)).pow(beta) for side in (student, teacher))
    nearest = theirs.masked_fill(own, -torch.inf).argsort(dim=1, descending=True)[:, : min(length, len(student) - 1)]
    ranked = ours.gather(1, nearest)
    rest = ranked.flip(1).logcumsumexp(dim=1).flip(1)
    return (rest - ranked).sum(dim=1).mean()


def _flat(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if len(student) != len(teacher):
        raise ValueError(f"the student's batch has {len(student)} samples, the teacher's {len(teacher)}")
    if len(student) < 2:
        raise ValueError("a batch of one sample has no relations: distil it by its features, or take a larger batch")
    return student.flatten(1), teacher.detach().flatten(1)
