"""A student that learns from its teacher's embeddings of faces without identities; what EKD is compared with on real faces."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from common.distillation.stored_answers import StoredAnswers
from common.distillation.teacher import Teacher
from common.distributed import gather_rows
from common.recognition import FaceRecognizer


class LabelFree(FaceRecognizer):
    """Distillation alone: no head and no labels.

    Args:
        backbone: the student, [B, 3, H, W] -> [B, D_S]. teacher: fixed.
        distillation: module (student [N, D_S], teacher [N, D_T], labels) -> scalar; see `papers.ekd.baselines`.
        recognition: further arguments of `common.recognition.FaceRecognizer`; those of the head have no effect.
    """

    def __init__(self, backbone: nn.Module, teacher: Teacher, distillation: nn.Module, **recognition: Any) -> None:
        super().__init__(backbone, **recognition)
        self.teacher, self.distillation = teacher, distillation
        self.answers: StoredAnswers | None = None

    def prepare(self, data: Any) -> None:
        """Look up the teacher's answers in this data module."""
        if self.answers is None or self.answers.data is not data:
            self.answers = StoredAnswers(self.teacher, data)

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        assert self.answers is not None
        s = self.network(batch[0])
        loss: Tensor = self.distillation(gather_rows(s), gather_rows(self.answers(batch)), None)
        self.log("train/loss", loss, sync_dist=True)
        return loss
