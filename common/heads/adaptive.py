"""Heads with a state that follows the training: AdaCos (its scale) and CurricularFace (its curriculum)."""

import math

import torch
from torch import nn

from common.distributed import gather_rows, total
from common.heads.cosine import CosineHead, target_cosine, with_target
from common.heads.margins import checked_margin, cosine_of_angle_plus, cosine_of_angle_plus_monotone


class AdaCos(CosineHead):
    """Normalised softmax whose scale adapts itself, without a margin (Zhang et al., arXiv 1905.00292).

    The scale starts at sqrt(2) ln(C - 1) and is computed anew in each training step as ln B / cos(min(pi/4, median
    target angle)), where B is the batch's mean of sum_{j != y} exp(s c_j) under the previous s. It is a buffer, so that
    checkpoints keep it; in eval mode it stays.

    Args:
        embedding_size: D.
        num_classes: C, at least 3; weights start Xavier-uniform.
        scale: the first scale; None is the paper's.
        dynamic: False keeps the first scale ("fixed AdaCos").

    Raises:
        ValueError: fewer than 3 classes, or a size or scale out of range.
    """

    scale: torch.Tensor

    def __init__(self, embedding_size: int, num_classes: int, scale: float | None = None, dynamic: bool = True) -> None:
        if num_classes < 3:
            raise ValueError(
                f"AdaCos needs at least 3 classes for a positive scale, but got num_classes={num_classes}."
            )
        first = math.sqrt(2.0) * math.log(num_classes - 1) if scale is None else scale
        super().__init__(embedding_size, num_classes, first)
        del self.scale
        self.register_buffer("scale", torch.tensor(first, dtype=torch.float64))
        self.dynamic = dynamic
        nn.init.xavier_uniform_(self.weight)

    def apply_margin(self, cosine: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.training and self.dynamic:
            self._adapt(cosine.detach(), labels)
        return cosine

    @torch.no_grad()
    def _adapt(self, cosine: torch.Tensor, labels: torch.Tensor) -> None:
        # ln B without overflow, row by row
        wrong = (self.scale * cosine).scatter(1, labels.clamp(min=0)[:, None], -math.inf).logsumexp(1)
        rows = gather_rows(torch.stack([wrong, target_cosine(cosine, labels).acos()], 1))
        present = gather_rows(labels) >= 0
        if not bool(present.any()):
            return
        wrong, angles = rows[present].unbind(1)
        log_average = wrong.logsumexp(0) - math.log(len(wrong))
        self.scale.copy_(log_average / angles.median().clamp(max=math.pi / 4).cos())


class CurricularFace(CosineHead):
    """ArcFace's target logit, and wrong classes harder than the target weighted by t + cosine (arXiv 2004.00288).

    A class j is hard if c_j > cos(theta_y + m); its logit is s c_j (t + c_j). t, the running mean of the target
    cosines, starts at 0, is updated before its use, is a buffer, and stays in eval mode. No gradient flows through it.

    Args:
        embedding_size: D. num_classes: C. scale: s. margin: m in radians.
        momentum: share of the old t.

    Raises:
        ValueError: an argument is out of range.
    """

    t: torch.Tensor

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        scale: float = 64.0,
        margin: float = 0.5,
        momentum: float = 0.99,
    ) -> None:
        super().__init__(embedding_size, num_classes, scale)
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum is {momentum}, but must be in [0, 1].")
        self.margin = checked_margin(margin)
        self.momentum = momentum
        self.register_buffer("t", torch.zeros(()))

    def apply_margin(self, cosine: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        target = target_cosine(cosine, labels)
        present = labels >= 0
        if self.training:
            self._follow(target.detach(), present)
        # Compared is cos(theta + m) itself; the target logit is its monotone continuation, as in the official code.
        border = cosine_of_angle_plus(target, self.margin).detach()
        hard = (cosine > border[:, None]) & present[:, None]
        # A copy: the backward pass of an earlier batch must not see a later t.
        reweighted = torch.where(hard, cosine * (self.t.clone().to(cosine) + cosine), cosine)
        moved = cosine_of_angle_plus_monotone(target, self.margin)
        return with_target(reweighted, labels, moved)

    @torch.no_grad()
    def _follow(self, target: torch.Tensor, present: torch.Tensor) -> None:
        """Move t towards the mean target cosine of the rows that have a target; without any, t stays."""
        summed, count = total(torch.stack([(target * present).sum(), present.sum().to(target)]))
        moved = (1.0 - self.momentum) * summed / count.clamp(min=1) + self.momentum * self.t
        self.t.copy_(torch.where(count > 0, moved, self.t))
