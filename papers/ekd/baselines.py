"""The losses that EKD is compared with, each to be given to `papers.ekd.method.EKD(distillation=...)`.

Every one sees the batches that EKD sees. The paper states no weight of any of them. Rule, fixed before any result of ours:
the published weight where one is known (RKD 25 and 50, SP 3,000, PKT 30,000; KD at T = 4 and DarkRank as they are); CCKD the
weight at which its kernel is as steep as SP's cosines; features 10, at which an untrained student's loss, 20, is about
ArcFace's; cosine, which is half of the same loss, with a quarter of its weight, to show what the weight does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from common.distillation.feature import cosine_distance, squared_distance
from common.distillation.relation import (
    correlation_congruence,
    hard_dark_rank,
    probabilistic_knowledge_transfer,
    rkd_loss,
    similarity_preserving,
)
from common.distillation.response import kd_loss

GAMMA = 0.4  # of CCKD's kernel; exp(-2 gamma) 2 gamma is its slope
SP_WEIGHT = 3000.0


@dataclass(frozen=True)
class Term:
    """A loss on (student [N, D_S], teacher [N, D_T]) and its weight. `free`: D_S and D_T may differ."""

    loss: Callable[[Tensor, Tensor], Tensor]
    weight: float
    free: bool


TERMS = {
    "feature_l2": Term(squared_distance, 10.0, False),  # of unit vectors, summed over dimensions
    "cosine": Term(cosine_distance, 5.0, False),  # half of feature_l2: the same loss at a quarter of its weight
    "fitnet": Term(
        partial(squared_distance, normalise=False, reduction="mean"), 10.0, False
    ),  # of embeddings as they are
    "sp": Term(partial(similarity_preserving, normalise="features"), SP_WEIGHT, True),
    "cckd": Term(
        partial(correlation_congruence, gamma=GAMMA), SP_WEIGHT / (math.exp(-2 * GAMMA) * 2 * GAMMA) ** 2, True
    ),
    "pkt": Term(probabilistic_knowledge_transfer, 30_000.0, True),
    "rkd": Term(rkd_loss, 1.0, True),
    "darkrank": Term(hard_dark_rank, 1.0, True),
}


class EmbeddingLoss(nn.Module):
    """One of `TERMS` times its weight.

    Args:
        name: of the term. weight: None takes the term's.

    Raises:
        ValueError: no such term.
    """

    def __init__(self, name: str, weight: float | None = None) -> None:
        super().__init__()
        if name not in TERMS:
            raise ValueError(f"there is no loss '{name}'; known are {', '.join(TERMS)}")
        self.term = TERMS[name]
        self.weight = self.term.weight if weight is None else weight

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """Embeddings [N, D_S] and [N, D_T] of all processes -> scalar.

        Raises:
            ValueError: D_S and D_T differ and the loss compares embeddings one by one.
        """
        return self.weight * self.term.loss(student, teacher)


class LogitKD(nn.Module):
    """KD on the logits of all training identities, both without a margin: T^2 KL(softmax(v / T) || softmax(z / T)).

    z: the student's logits, s cos(s_i, w_c) with its class centres w_c and logit scale s. v: the teacher's, s cos(t_i, m_c); a
    teacher is kept without its head, so m_c is the mean of its unit embeddings of identity c.

    Args:
        temperature: T. weight: of the loss.
    """

    def __init__(self, temperature: float = 4.0, weight: float = 1.0) -> None:
        super().__init__()
        self.temperature, self.weight = temperature, weight
        self._known: tuple[Any, Any] | None = None
        self._centres: Tensor | None = None  # follows from the teacher, so no part of a checkpoint

    def prepare(self, recognizer: Any, data: Any) -> None:
        """Remember the student (for its head) and the data (for the teacher's class centres)."""
        self.__dict__["_known"] = (recognizer, data)  # not a submodule: the recogniser holds this one
        self._centres = None

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """Embeddings [N, D_S] and [N, D_T] of all processes -> scalar."""
        if self._known is None:
            raise RuntimeError(
                "LogitKD needs the student's head: give it to papers.ekd.method.EKD, which calls prepare"
            )
        recognizer, data = self._known
        if self._centres is None:
            self._centres = class_means(recognizer.answers.all(student.device), data.train_labels)
        head = recognizer.head
        z = head.scale * head.cosine(student)
        v = head.scale * F.normalize(teacher) @ self._centres.T
        return self.weight * kd_loss(z, v, self.temperature)


def class_means(answers: Tensor, labels: Tensor) -> Tensor:
    """Answers [2, N, D] (as it is, mirrored) and labels int64 [N] in 0..C-1 -> unit class centres [C, D]."""
    labels = labels.to(answers.device)
    sums = answers.new_zeros(int(labels.max()) + 1, answers.shape[2])
    for side in F.normalize(answers, dim=2):
        sums.index_add_(0, labels, side)
    return F.normalize(sums)
