"""Teaching assistants for face recognition (ours): the same hop with embeddings in place of logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from common.distillation.feature import cosine_distance
from common.distillation.teacher import Teacher, TeacherAnswers
from common.recognition import FaceRecognizer


class FaceHop(FaceRecognizer):
    """One hop on faces: L = (1 - lam) L_SL + lam w mean_B(1 - cos(f_s, f_t)), with the margin head's cross entropy as L_SL.

    Args:
        backbone: N_i, [B, 3, H, W] -> embedding f_s [B, D].
        teacher: N_(i-1), with embeddings f_t of the same size D.
        lam: weight of the teacher, in [0, 1]. feature_weight: w, which brings 1 - cos to the size of the cross entropy.
        options: of `FaceRecognizer`.

    Raises:
        ValueError: lam outside [0, 1], or a negative feature_weight.
    """

    def __init__(
        self, backbone: nn.Module, teacher: Teacher, lam: float = 0.5, feature_weight: float = 20.0, **options: Any
    ) -> None:
        super().__init__(backbone, **options)
        if not 0 <= lam <= 1 or feature_weight < 0:
            raise ValueError(
                f"lam is {lam} and must lie in [0, 1]; feature_weight is {feature_weight} and must be >= 0"
            )
        self.teacher, self.lam, self.feature_weight = teacher, lam, feature_weight
        self.answers: TeacherAnswers | None = None

    def prepare(self, data: Any) -> None:
        """Make the head, and remember whose images the teacher will be asked about."""
        super().prepare(data)
        if self.answers is None:
            self.answers = TeacherAnswers(self.teacher, data)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        assert self.answers is not None
        f_s, f_t = self.network(batch[0]), self.answers(batch)
        if f_s.shape != f_t.shape:
            raise ValueError(
                f"the teacher's embeddings have {f_t.shape[1]} dimensions, the student's {f_s.shape[1]}: give both networks "
                "the same embedding_size"
            )
        l_sl = self.classification_loss(f_s, batch[1])
        loss: Tensor = (1 - self.lam) * l_sl + self.lam * self.feature_weight * cosine_distance(f_s, f_t)
        self.log("train/loss", loss, sync_dist=True)
        return loss
