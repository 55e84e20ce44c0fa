"""Losses on what teacher and student say of the classes.

Symbols: z, v in R^{B x C} logits of student and teacher; T > 0 temperature; y int64 [B] labels;
q = softmax(z / T), p = softmax(v / T). The teacher's side is detached.

    C_soft = - sum_i p_i log q_i                                    (1)   G. Hinton et al., arXiv:1503.02531
    T^2 KL(p || q) = T^2 (C_soft - H(p))                            (2)   the same gradient, 0 where q = p
    T^2 (alpha TCKD + beta NCKD)                                    (3)   B. Zhao et al., CVPR 2022

The factor T^2 keeps the gradient's size when T changes: d(2)/dz = T (q - p) a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["batchmean", "mean"]


def kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, reduction: Reduction = "batchmean"
) -> Tensor:
    """T^2 KL(p || q), equation (2), scalar.

    Args:
        student_logits, teacher_logits: [B, C]. temperature: T.
        reduction: `"batchmean"` sums over classes and takes the mean over the batch; `"mean"` takes the mean over all B C
            entries, C times less, to which some published weights belong.

    Raises:
        ValueError: the shapes differ, T is not positive, or there is no such reduction.
    """
    _check(student_logits, teacher_logits, temperature)
    log_q = F.log_softmax(student_logits / temperature, dim=1)
    log_p = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    return temperature**2 * _reduce(F.kl_div(log_q, log_p, reduction="none", log_target=True), reduction)


def kd_loss_to(
    student_logits: Tensor, probabilities: Tensor, temperature: float, reduction: Reduction = "batchmean"
) -> Tensor:
    """Equation (2) against probabilities [B, C] that are given, such as those of an ensemble; otherwise like `kd_loss`."""
    _check(student_logits, probabilities, temperature)
    log_q = F.log_softmax(student_logits / temperature, dim=1)
    entries = F.kl_div(log_q, probabilities.detach(), reduction="none")
    return temperature**2 * _reduce(entries, reduction)


def soft_cross_entropy(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, reduction: Reduction = "batchmean"
) -> Tensor:
    """T^2 C_soft, equation (1): the gradient of `kd_loss`, a value that is T^2 H(p) higher. Arguments as there."""
    return soft_cross_entropy_to(student_logits, _probabilities(teacher_logits, temperature), temperature, reduction)


def soft_cross_entropy_to(
    student_logits: Tensor, probabilities: Tensor, temperature: float, reduction: Reduction = "batchmean"
) -> Tensor:
    """T^2 times equation (1) against probabilities [B, C] that are given; otherwise like `soft_cross_entropy`."""
    _check(student_logits, probabilities, temperature)
    log_q = F.log_softmax(student_logits / temperature, dim=1)
    return temperature**2 * _reduce(-probabilities.detach() * log_q, reduction)


def ensemble_probabilities(
    members: Sequence[Tensor], temperature: float, mean: Literal["arithmetic", "geometric"] = "arithmetic"
) -> Tensor:
    """Soft targets [B, C] of several teachers: the mean of their probabilities at T, never of their logits.

    Args:
        members: logits [B, C], one a teacher. temperature: T.
        mean: `"arithmetic"`, or `"geometric"` (renormalised).

    Raises:
        ValueError: no member, T not positive, or no such mean.
    """
    if not members:
        raise ValueError("an ensemble of teachers needs at least one member")
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    logs = torch.stack([F.log_softmax(logits.detach() / temperature, dim=1) for logits in members])
    if mean == "arithmetic":
        return logs.exp().mean(dim=0)
    if mean == "geometric":
        return torch.softmax(logs.mean(dim=0), dim=1)
    raise ValueError(f"mean is '{mean}'; expected 'arithmetic' or 'geometric'")


def decoupled_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """DKD, equation (3), scalar: summed over classes, mean over the batch.

    TCKD is the divergence between (true class, all others together), NCKD that among the other classes, renormalised.

    Args:
        student_logits, teacher_logits: [B, C] with C > 1. labels: int64 [B].
        temperature: T. alpha: weight of TCKD. beta: weight of NCKD (8; 6 for VGG-13 to MobileNetV2).

    Raises:
        ValueError: the shapes differ, T is not positive, or there is a single class.
    """
    _check(student_logits, teacher_logits, temperature)
    if student_logits.shape[1] < 2:
        raise ValueError("decoupled distillation needs at least two classes")
    z_binary, z_others = _decouple(student_logits / temperature, labels)
    v_binary, v_others = _decouple(teacher_logits.detach() / temperature, labels)
    target = F.kl_div(z_binary, v_binary, reduction="batchmean", log_target=True)
    others = F.kl_div(z_others, v_others, reduction="batchmean", log_target=True)
    return temperature**2 * (alpha * target + beta * others)


def warm_up(epoch: int, epochs: int = 20) -> float:
    """Factor of DKD's whole distillation term in an epoch counted from 1: min(epoch / epochs, 1)."""
    return min(epoch / epochs, 1.0)


def _decouple(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """log (true, all others together) [B, 2], and log-probabilities among the others [B, C - 1]."""
    batch, classes = logits.shape
    true = F.one_hot(labels, classes).bool()
    others = logits[~true].view(batch, classes - 1)
    both = torch.stack([logits[true], others.logsumexp(dim=1)], dim=1)
    return F.log_softmax(both, dim=1), F.log_softmax(others, dim=1)


def _probabilities(logits: Tensor, temperature: float) -> Tensor:
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    return torch.softmax(logits.detach() / temperature, dim=1)


def _reduce(entries: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "batchmean":
        return entries.sum() / len(entries)
    if reduction == "mean":
        return entries.mean()
    raise ValueError(f"reduction is '{reduction}'; expected 'batchmean' or 'mean'")


def _check(student: Tensor, teacher: Tensor, temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student says {list(student.shape)}, the teacher {list(teacher.shape)}: both must have the same classes. "
            "A teacher of other identities can be distilled by its features (common.distillation.feature)."
        )
