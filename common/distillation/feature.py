"""Losses on features: embeddings [B, D] or maps [B, C, H, W] of one layer of student and teacher, a scalar each.

The teacher's side is detached. With unit vectors ||s - t||^2 = 2 - 2 cos(s, t).
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the batch of 1 - cos(s, t) for embeddings [B, D].

    Raises:
        ValueError: embeddings of different size.
    """
    _same_size(student, teacher)
    return (1 - F.cosine_similarity(student, teacher.detach(), dim=1)).mean()


def squared_distance(
    student: Tensor, teacher: Tensor, normalise: bool = True, reduction: Literal["sum", "mean"] = "sum"
) -> Tensor:
    """||s - t||^2 of embeddings [B, D].

    Args:
        student, teacher: [B, D]. normalise: bring both to unit length first.
        reduction: `"sum"` over dimensions, then the mean over the batch; `"mean"` over all B D entries, D times less.

    Raises:
        ValueError: embeddings of different size; no such reduction.
    """
    _same_size(student, teacher)
    teacher = teacher.detach()
    if normalise:
        student, teacher = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
    entries = (student - teacher).square()
    if reduction == "sum":
        return entries.sum() / len(entries)
    if reduction == "mean":
        return entries.mean()
    raise ValueError(f"reduction is '{reduction}'; expected 'sum' or 'mean'")


def attention_transfer(student: Tensor, teacher: Tensor, power: float = 2.0) -> Tensor:
    """AT of one stage (S. Zagoruyko and N. Komodakis, ICLR 2017): mean over B and positions of the squared difference.

    The attention of a map is the mean over channels of x^power, flattened and brought to unit length. The larger of two maps
    is average-pooled to the size of the smaller.

    Args:
        student: [B, C, H, W]. teacher: [B, C', H', W']. power: p.
    """
    student, teacher = _same_resolution(student, teacher.detach())
    return (_attention(student, power) - _attention(teacher, power)).square().mean()


def _attention(maps: Tensor, power: float) -> Tensor:
    return F.normalize(maps.pow(power).mean(dim=1).flatten(1), dim=1)


def hint_loss(mapped: Tensor, teacher: Tensor) -> Tensor:
    """FitNet (A. Romero et al., ICLR 2015): mean over all entries of (r(s) - t)^2, with r(s) from a `ConvRegressor`.

    Raises:
        ValueError: the shapes differ.
    """
    if mapped.shape != teacher.shape:
        raise ValueError(
            f"the mapped hint has the shape {list(mapped.shape)}, the teacher's map {list(teacher.shape)}: "
            "put a ConvRegressor of these sizes in between"
        )
    return F.mse_loss(mapped, teacher.detach())


class ConvRegressor(nn.Module):
    """r: [B, C, H, W] -> [B, C', H', W'] with BatchNorm and ReLU, for `hint_loss`.

    Half the size: 3x3 with stride 2; twice the size: a transposed 4x4 with stride 2; otherwise a kernel that cuts off the
    difference, 1x1 for equal sizes.

    Args:
        student, teacher: (channels, height, width) of the two maps. relu: False leaves the ReLU out.

    Raises:
        ValueError: the teacher's map is larger, but not by a factor of 2.
    """

    def __init__(self, student: tuple[int, int, int], teacher: tuple[int, int, int], relu: bool = True) -> None:
        super().__init__()
        (channels, *size), (wanted, *target) = student, teacher
        if size == [2 * side for side in target]:
            self.conv: nn.Module = nn.Conv2d(channels, wanted, 3, stride=2, padding=1)
        elif [2 * side for side in size] == target:
            self.conv = nn.ConvTranspose2d(channels, wanted, 4, stride=2, padding=1)
        elif all(side >= other for side, other in zip(size, target, strict=True)):
            kernel = (1 + size[0] - target[0], 1 + size[1] - target[1])
            self.conv = nn.Conv2d(channels, wanted, kernel)
        else:
            raise ValueError(
                f"a map of {size[0]}x{size[1]} cannot be brought to the teacher's {target[0]}x{target[1]}: choose layers "
                "where the student's map is at least as large, or half as large"
            )
        self.norm = nn.BatchNorm2d(wanted)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W']."""
        mapped: Tensor = self.norm(self.conv(x))
        return F.relu(mapped) if self.relu else mapped


class VID(nn.Module):
    """Variational information distillation (S. Ahn et al., CVPR 2019): Gaussian negative log-likelihood of the teacher's map.

        0.5 ((mu(s) - t)^2 / sigma_c^2 + log sigma_c^2),   sigma_c^2 = softplus(a_c) + eps

    mean over all entries; mu is three 1x1 convolutions; a, one a channel, is trained with it. The larger of two maps is
    average-pooled to the size of the smaller.

    Args:
        student_channels, teacher_channels: C and C' of the maps. variance: every sigma_c^2 at the beginning. eps: its least.
    """

    def __init__(self, student_channels: int, teacher_channels: int, variance: float = 5.0, eps: float = 1e-5) -> None:
        super().__init__()
        widths = (student_channels, teacher_channels, teacher_channels, teacher_channels)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 1, bias=False) for a, b in itertools.pairwise(widths))
        self.eps = eps
        self.log_scale = nn.Parameter(torch.full((teacher_channels,), math.log(math.expm1(variance - eps))))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Maps [B, C, H, W] and [B, C', H', W'] -> scalar."""
        mean, teacher = _same_resolution(student, teacher.detach())
        for index, conv in enumerate(self.convs):
            mean = conv(mean if index == 0 else F.relu(mean))
        variance = (F.softplus(self.log_scale) + self.eps)[:, None, None]
        return 0.5 * ((mean - teacher).square() / variance + variance.log()).mean()


def _same_resolution(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller one's size."""
    if student.shape[2] > teacher.shape[2]:
        return F.adaptive_avg_pool2d(student, (teacher.shape[2], teacher.shape[3])), teacher
    if student.shape[2:] != teacher.shape[2:]:
        return student, F.adaptive_avg_pool2d(teacher, (student.shape[2], student.shape[3]))
    return student, teacher


def _same_size(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student's embeddings are {list(student.shape)}, the teacher's {list(teacher.shape)}: build both with the "
            "same embedding size, project the student's, or use a loss on relations (common.distillation.relation)"
        )
