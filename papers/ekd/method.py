"""EKD: teach a student those relations between faces that decide its TPR at a given FPR.

Y. Huang, J. Wu, X. Xu, S. Ding, "Evaluation-oriented Knowledge Distillation for Deep Face Recognition", CVPR 2022,
pp. 18740-18749. Basis: the official code (github.com/Tencent/TFace, commit 171ec14, recognition/tasks/ekd), read and not
copied. The equation numbers below are ours.

Symbols
    s_i, t_i   embeddings of image i by student (trained) and teacher (fixed), [D_S] and [D_T], not normalised
    y_i        identity of image i; N images a step, of all processes together
    S_ij, T_ij cosines of the pairs i < j within each network; only these are compared, so D_S and D_T may differ
    P, M       number of positive (y_i = y_j) and of negative pairs of the step
    a_k        1 / FPR_k: 10, 10^2, ..., 10^6
    u, v       negative cosines of student and of teacher, each sorted by itself, highest first
    tau_k      running threshold at FPR_k, one list for the student and one for the teacher
    T, m       temperature 0.01 of the soft rank, momentum 0.01 of the thresholds

One step
    tau^S_k <- (1 - m) tau^S_k + m u[floor(M / a_k)]                       (1)   the same for tau^T with v
    r(c)    =  sum_k sigmoid((c - tau_k) / T)                              (2)   how many thresholds a pair has passed
    L_pos   =  mean over positive pairs of (r^S(S_ij) - r^T(T_ij))^2       (3)
    L_neg   =  the same over the 2,000 negative pairs with the highest S_ij  (4)
    L       =  L_ArcFace(general half) + 0.02 L_pos + 0.01 L_neg           (5)

A pair that lies on the same side of all thresholds in both networks has equal ranks and no gradient: (2) chooses the critical
pairs by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.distillation.stored_answers import StoredAnswers
from common.distillation.teacher import Teacher
from common.distributed import gather_rows
from common.recognition import FaceRecognizer

LARGEST_EXPONENT = 50.0  # of (2), as in the official code


class EvaluationOrientedLoss(nn.Module):
    """0.02 L_pos + 0.01 L_neg of a batch, equations (1) to (5); the thresholds are part of its state.

    A batch without positive pairs has no L_pos, one without negative pairs has no L_neg and leaves the thresholds as they are.

    Args:
        divisors: a_k, rising; the paper's ablation keeps three of the six.
        temperature: T. momentum: m, share of the step's threshold in the running one.
        hardest: how many negative pairs count.
        negatives: `"hardest"` for the student, or as many at `"random"` (the paper's ablation).
        form: `"rank"`, equation (3); `"similarity"`, the paper's ablation: squared differences of the cosines of those pairs
            that have passed unequally many thresholds in the two networks; `"indicator"`: hard ranks in (3), which have no
            gradient, so that nothing is distilled.
        anchor_init: `"zero"` (official), or the thresholds of the `"first_batch"` that has negative pairs.
        positive_weight, negative_weight: of L_pos and L_neg.
        similarity_slope: factor of the cosines for `form="similarity"`; None takes the slope of (2) at a threshold, 1 / (4 T).

    Raises:
        ValueError: an argument is out of its range.
    """

    student_thresholds: Tensor
    teacher_thresholds: Tensor
    started: Tensor

    def __init__(
        self,
        divisors: Sequence[int] = (10, 100, 1_000, 10_000, 100_000, 1_000_000),
        temperature: float = 0.01,
        momentum: float = 0.01,
        hardest: int = 2000,
        negatives: Literal["hardest", "random"] = "hardest",
        form: Literal["rank", "similarity", "indicator"] = "rank",
        anchor_init: Literal["zero", "first_batch"] = "zero",
        positive_weight: float = 0.02,
        negative_weight: float = 0.01,
        similarity_slope: float | None = None,
    ) -> None:
        super().__init__()
        if not divisors or any(a < 1 for a in divisors) or list(divisors) != sorted(set(divisors)):
            raise ValueError(f"divisors are 1 / FPR, rising, at least 1, not {list(divisors)}")
        if temperature <= 0 or not 0 < momentum <= 1 or hardest < 1:
            raise ValueError(
                f"temperature must be above 0, momentum in (0, 1] and hardest at least 1, not {temperature}, {momentum} "
                f"and {hardest}"
            )
        _one_of("negatives", negatives, ("hardest", "random"))
        _one_of("form", form, ("rank", "similarity", "indicator"))
        _one_of("anchor_init", anchor_init, ("zero", "first_batch"))
        self.divisors = tuple(int(a) for a in divisors)
        self.temperature, self.momentum, self.hardest = temperature, momentum, hardest
        self.negatives, self.form, self.anchor_init = negatives, form, anchor_init
        self.positive_weight, self.negative_weight = positive_weight, negative_weight
        self.similarity_slope = 1 / (4 * temperature) if similarity_slope is None else similarity_slope
        self.register_buffer("student_thresholds", torch.zeros(len(self.divisors)))
        self.register_buffer("teacher_thresholds", torch.zeros(len(self.divisors)))
        self.register_buffer("started", torch.tensor(anchor_init == "zero"))

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Embeddings [N, D_S] and [N, D_T], identities int64 [N] of all processes -> scalar.

        Memory is that of the N x N cosines, whatever the number of identities.

        Raises:
            ValueError: not one teacher embedding and one label a student embedding.
        """
        if not len(student) == len(teacher) == len(labels):
            raise ValueError(
                f"{len(student)} student embeddings, {len(teacher)} teacher embeddings and {len(labels)} labels: expected "
                "equally many"
            )
        with torch.autocast(student.device.type, enabled=False):  # 16-bit cosines are coarser than the temperature
            first, second = torch.triu_indices(len(student), len(student), 1, device=student.device)
            ours = cosines(student)[first, second]  # S_ij
            theirs = cosines(teacher.detach())[first, second]  # T_ij
            same = labels[first] == labels[second]
            ours_negative, theirs_negative = ours[~same], theirs[~same]
            order = ours_negative.detach().argsort(descending=True)
            self._follow(ours_negative.detach()[order], theirs_negative.sort(descending=True).values)
            chosen = self._choose(order)
            positive = self._distance(ours[same], theirs[same])  # Eq. 3
            negative = self._distance(ours_negative[chosen], theirs_negative[chosen])  # Eq. 4
            return self.positive_weight * positive + self.negative_weight * negative

    @torch.no_grad()
    def _follow(self, u: Tensor, v: Tensor) -> None:
        """Eq. 1. u, v: negative cosines [M], highest first."""
        if not len(u):
            return
        at = [len(u) // a for a in self.divisors]  # M < a_k: 0, the hardest pair; a_k = 1 would be behind the last
        at = [min(k, len(u) - 1) for k in at]
        for running, sorted_cosines in ((self.student_thresholds, u), (self.teacher_thresholds, v)):
            present = sorted_cosines[at].to(running.dtype)
            followed = self.momentum * present + (1 - self.momentum) * running
            running.copy_(torch.where(self.started, followed, present))
        self.started.fill_(True)

    def _choose(self, order: Tensor) -> Tensor:
        """Positions of the negatives that count; `order` int64 [M]: hardest for the student first."""
        if self.negatives == "random":  # all processes draw alike
            order = torch.randperm(len(order)).to(order.device)
        return order[: self.hardest]

    def _distance(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Mean over pairs of cosines [Q] each; 0 without a pair."""
        if not len(ours):
            return ours.sum()
        if self.form == "similarity":
            unequal = hard_rank(ours.detach(), self.student_thresholds) != hard_rank(theirs, self.teacher_thresholds)
            difference = self.similarity_slope * (ours - theirs) * unequal
            return difference.square().sum() / unequal.sum().clamp(min=1)
        return self.rank_loss(ours, theirs, self.student_thresholds, self.teacher_thresholds)

    def rank_loss(self, ours: Tensor, theirs: Tensor, tau_student: Tensor, tau_teacher: Tensor) -> Tensor:
        """Mean of (r^S - r^T)^2 over pairs with cosines [Q]; thresholds [K]."""
        if self.form == "indicator":
            return (hard_rank(ours, tau_student) - hard_rank(theirs, tau_teacher)).square().mean() + 0 * ours.sum()
        return F.mse_loss(
            soft_rank(ours, tau_student, self.temperature), soft_rank(theirs, tau_teacher, self.temperature)
        )


def cosines(x: Tensor) -> Tensor:
    """Embeddings [N, D] -> [N, N], in at least 32 bits."""
    unit = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1)
    return unit @ unit.T


def soft_rank(c: Tensor, tau: Tensor, temperature: float) -> Tensor:
    """Eq. 2: cosines [Q], thresholds [K] -> [Q], 0..K."""
    exponent = (c[:, None] - tau.to(c.dtype)) / temperature
    return exponent.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).sigmoid().sum(1)


def hard_rank(c: Tensor, tau: Tensor) -> Tensor:
    """Eq. 2 with indicators 1[c > tau_k] in place of sigmoids, [Q]; no gradient."""
    return (c[:, None] > tau.to(c.dtype)).to(c.dtype).sum(1)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is '{value}'; expected one of {', '.join(known)}")


class EKD(FaceRecognizer):
    """A student that learns from labels in the general half of every batch and from its teacher in all of it.

    The data module gives batches (images, labels, index, flip, general): `datasets.balanced_batches.BalancedBatches`.

    Args:
        backbone: the student, [B, 3, H, W] -> [B, D_S]; only it is kept.
        teacher: fixed, [B, 3, H, W] -> [B, D_T].
        distillation: module (student [N, D_S], teacher [N, D_T], labels [N]) -> scalar over the batch of all processes; None is
            `EvaluationOrientedLoss()`. The losses that the paper compares with are in `papers.ekd.baselines`; one that has
            `prepare(recognizer, data)` is told of both before the training.
        kept_answers: True asks the teacher once an image and keeps its answers; False asks it at every step (data that do not
            fit memory).
        recognition: further arguments of `common.recognition.FaceRecognizer`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        teacher: Teacher,
        distillation: nn.Module | None = None,
        kept_answers: bool = True,
        **recognition: Any,
    ) -> None:
        super().__init__(backbone, **recognition)
        self.teacher = teacher
        self.distillation: nn.Module = EvaluationOrientedLoss() if distillation is None else distillation
        self.kept_answers = kept_answers
        self.answers: StoredAnswers | None = None

    def prepare(self, data: Any) -> None:
        """Make the head, and look up the teacher's answers in this data module."""
        super().prepare(data)
        if self.answers is None or self.answers.data is not data:
            self.answers = StoredAnswers(self.teacher, data)
            if hasattr(self.distillation, "prepare"):
                self.distillation.prepare(self, data)  # type: ignore[operator]

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        images, labels, index, flip, general = batch
        s = self.network(images)
        t = self._teacher_of(images, labels, index, flip)
        kd = self.distillation(gather_rows(s), gather_rows(t), gather_rows(labels))
        loss = self.classification_loss(s[general], labels[general]) + kd  # Eq. 5
        self.log("train/loss", loss, sync_dist=True)
        return loss

    def _teacher_of(self, images: Tensor, labels: Tensor, index: Tensor, flip: Tensor) -> Tensor:
        if not self.kept_answers:
            return self.teacher(images)
        assert self.answers is not None
        return self.answers((images, labels, index, flip))
