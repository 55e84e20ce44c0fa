"""The biometric arm: probabilities of identities, distilled from cosines without a margin.

A margin head gives logits s cos(theta + m) for the true class and s cos(theta) for the others, s = 30 to 64. Both are wrong for
soft targets: the margin lowers the true class's probability for the sake of the gradient alone, and s makes a softmax one-hot.
So student and teacher are compared by s' cos(theta), with a scale s' of its own and no margin; the temperature is relative
to s'.

    v_c = s' cos(t(x), m_c),  z_c = s' cos(s(x), w_c)                        (6)
    L = w_hard L_margin + w_soft T^2 KL(softmax(v / T) || softmax(z / T))    (7)

t, s are the embeddings of teacher and student, w_c the student's class weights. The store keeps a teacher's network and
not its class weights; m_c is the mean of the teacher's unit embeddings of identity c over its training images, as they are
and mirrored.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.distillation.response import kd_loss
from common.distillation.teacher import Teacher, TeacherAnswers
from common.recognition import FaceRecognizer


class IdentityKD(FaceRecognizer):
    """A face recogniser that also learns its teacher's probabilities of the training identities.

    Args:
        teacher: the frozen teacher; it must have been trained on the same identities, since its probabilities are of them.
        hard_weight, soft_weight: w_hard and w_soft of equation (7).
        temperature: T. distilled_scale: s'.
        margin_in_targets: control: student and teacher are compared with the margin and the scale of the head.
        recognition: options of `common.recognition.FaceRecognizer`.

    Raises:
        ValueError: weights, temperature or scale out of range; a training identity without an image, or a data
            module whose images are not numbered (at the start of the fit).
    """

    centres: Tensor

    def __init__(
        self,
        teacher: Teacher,
        hard_weight: float = 1.0,
        soft_weight: float = 1.0,
        temperature: float = 4.0,
        distilled_scale: float = 24.0,
        margin_in_targets: bool = False,
        **recognition: Any,
    ) -> None:
        super().__init__(**recognition)
        if min(hard_weight, soft_weight) < 0 or min(temperature, distilled_scale) <= 0:
            raise ValueError(
                f"{hard_weight=} and {soft_weight=} must not be negative, {temperature=} and {distilled_scale=} above 0"
            )
        self.teacher, self.margin_in_targets = teacher, margin_in_targets
        self.hard_weight, self.soft_weight = hard_weight, soft_weight
        self.temperature, self.distilled_scale = temperature, distilled_scale
        self.answers: TeacherAnswers | None = None

    def prepare(self, data: Any) -> None:
        """Make the head, and be ready to ask the teacher."""
        super().prepare(data)
        if self.answers is None:
            self.answers = TeacherAnswers(self.teacher, data)

    def on_fit_start(self) -> None:
        """Collect the centres m_c, [C, D]."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(data, "images"):
            raise ValueError("the training images are not numbered: wrap the data module in datasets.indexed.Indexed")
        assert self.answers is not None
        labels = torch.as_tensor(data.train_labels).to(self.device)
        self.centres = class_means(self.answers, labels, int(data.num_classes))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, labels = batch[0], batch[1]
        assert self.answers is not None
        embedding = self.network(x)
        loss = self.hard_weight * self.classification_loss(embedding, labels)
        if self.soft_weight:
            z, v = self.logits(embedding, self.answers(batch), labels)
            loss = loss + self.soft_weight * kd_loss(z, v, self.temperature)  # (7)
        self.log("train/loss", loss, sync_dist=True)
        return loss

    def logits(self, embedding: Tensor, answer: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Equation (6): logits [B, C] of the student's embeddings [B, D] and of the teacher's answers [B, D']."""
        z, v = self.head.cosine(embedding), F.linear(F.normalize(answer), self.centres)
        if self.margin_in_targets:
            return self.head.scale * self.head.apply_margin(z, labels), self.head.scale * self.head.apply_margin(
                v, labels
            )
        return self.distilled_scale * z, self.distilled_scale * v


def class_means(answers: TeacherAnswers, labels: Tensor, classes: int) -> Tensor:
    """Unit mean [C, D] of the teacher's unit embeddings of every identity's training images, as they are and mirrored.

    Args:
        answers: of a data module with numbered images (`datasets.indexed.Indexed`).
        labels: int64 [N], of its training images. classes: C.

    Raises:
        ValueError: an identity without an image.
    """
    counts = torch.bincount(labels, minlength=classes)
    if bool((counts == 0).any()):
        raise ValueError(f"the identity {int(counts.argmin())} has no training image, so that it has no centre")
    both = F.normalize(answers.all(labels.device), dim=2).sum(dim=0)
    return F.normalize(both.new_zeros(classes, both.shape[1]).index_add_(0, labels, both))
