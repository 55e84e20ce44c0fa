"""MaskInv: a face network learns to embed a masked face where its unmasked twin embeds the same face without the mask.

M. Huber, F. Boutros, F. Kirchbuchner, N. Damer, "Mask-invariant Face Recognition through Template-level Knowledge
Distillation", FG 2021, arXiv:2112.05646. Basis: the official code (github.com/fdbtrs/Masked-Face-Recognition-KD), read and not
copied; of the paper the abstract, the overview figure and what the survey says of it. The equation numbers are ours.

Symbols
    x, y    an aligned face, [B, 3, H, W], and its identity
    x'      mask(x) with probability p = 0.5, else x (`datasets.masked_faces.MaskedFaces`)
    T, S    teacher, frozen and in eval mode, and student: the same architecture
    g, f    T(x) and S(x'), [B, d], each divided by its L2 norm; the teacher never sees a mask
    m_i     margin of sample i, drawn anew in every step from N(m, 0.05^2); s: logit scale

Losses
    L_ElasticArc = mean_i CE(s cos(theta_i + m_i at the target), y_i)           (1)   of f, masked and unmasked samples alike
    L_KD = 1/(B d) sum (f - g)^2 = 2/d (1 - mean cos(f, g))                     (2)
    L = L_ElasticArc + lambda L_KD                                              (3)

"Low guided" (LG): lambda = 100. "High guided" (HG): the same until L_ElasticArc has stabilised, then lambda = 3000 (4). Both
belong to d = 512: the mean of (2) makes lambda/d the weight of the squared distance, which is kept where d differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from common.distillation.feature import squared_distance
from common.distillation.response import kd_loss
from common.distillation.stored_answers import StoredAnswers
from common.distillation.teacher import Teacher
from common.recognition import FaceRecognizer
from common.schedules import Multiplier

REFERENCE_SIZE = 512


class MaskInv(FaceRecognizer):
    """Train the student S on faces with and without masks, by labels and by the templates of the teacher T.

    Args:
        backbone: S, built as T is; [B, 3, H, W] -> [B, d].
        teacher: T with its weights.
        kd_weight: lambda at d = 512; 0 leaves the teacher out (mask augmentation alone).
        late_kd_weight: lambda from `late_from` on; None keeps `kd_weight` (LG).
        late_from: share of the training after which (4) switches; the paper's run does it after 20 of 26 epochs.
        late_lr_factor: the rate is multiplied by this from then on; the official HG configuration implies 10.
        student_init: `"teacher"` starts from T's weights, `"scratch"` from those the backbone has.
        classify: False leaves (1) out, for faces without identities.
        response_weight: ours, after the survey's suggestion: weight of the divergence between what the class weights of the
            student's head say of g and of f, at `temperature`, without margin; they take no gradient from it.
        batch_statistics: False keeps S's BatchNorm statistics at those it starts with (for short trainings).
        head, scale, margin, head_options, embedding_size: see `FaceRecognizer`; the defaults are the paper's.
        recognition: further arguments of `FaceRecognizer` (rate, schedule, weight decay, ...).

    Raises:
        ValueError: an option out of range; S and T of different architecture; at the first step, batches that do not tell
            what the teacher sees, or templates of different size.
    """

    def __init__(
        self,
        backbone: nn.Module,
        teacher: Teacher,
        kd_weight: float = 100.0,
        late_kd_weight: float | None = None,
        late_from: float = 20 / 26,
        late_lr_factor: float = 1.0,
        student_init: Literal["teacher", "scratch"] = "teacher",
        classify: bool = True,
        response_weight: float = 0.0,
        temperature: float = 4.0,
        batch_statistics: bool = True,
        head: str = "ElasticArcFace",
        scale: float = 64.0,
        margin: float = 0.5,
        head_options: dict[str, Any] | None = None,
        embedding_size: int = 512,
        **recognition: Any,
    ) -> None:
        _check_options(kd_weight, late_kd_weight, late_from, response_weight, student_init, classify)
        super().__init__(backbone, head, scale, margin, head_options, embedding_size, **recognition)
        self.teacher, self.classify = teacher, classify
        self.kd_weight, self.late_kd_weight = kd_weight, late_kd_weight
        self.late_from, self.late_lr_factor = late_from, late_lr_factor
        self.response_weight, self.temperature = response_weight, temperature
        self.batch_statistics = batch_statistics
        self.answers: StoredAnswers | None = None
        if student_init == "teacher":
            _start_from(backbone, teacher.network)

    @property
    def lambda_per_dimension(self) -> float:
        """Weight of the squared distance ||f - g||^2 at the end of the training: lambda / 512."""
        last = self.kd_weight if self.late_kd_weight is None else self.late_kd_weight
        return last / REFERENCE_SIZE

    def prepare(self, data: Any) -> None:
        """Make the head, unless nothing is classified, and remember where the clean images are."""
        if self.classify:
            super().prepare(data)
        if self.answers is None or self.answers.data is not data:
            self.answers = StoredAnswers(self.teacher, data)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        x, labels = batch[0], batch[1]
        embedding = self.network(x)
        loss = embedding.new_zeros(())
        if self.classify:
            loss = loss + self.classification_loss(embedding, labels)  # Eq. 1
        if self.kd_weight or self.late_kd_weight or self.response_weight:
            template = self.template(batch)
            weight = self.weight_at(self.global_step) * embedding.shape[1] / REFERENCE_SIZE
            loss = loss + weight * squared_distance(embedding, template, reduction="mean")  # Eq. 2 and 3
            if self.response_weight:
                loss = loss + self.response_weight * self._response_loss(embedding, template)
        self.log("train/loss", loss, sync_dist=True)
        return loss

    def template(self, batch: Sequence[Tensor]) -> Tensor:
        """T(x) [B, d], raw: of the images at the end of the batch, or looked up by index and flip."""
        if len(batch) == 5:
            return self.teacher(batch[4])
        if len(batch) == 4 and self.answers is not None:
            return self.answers(batch)
        raise ValueError(
            "The batches do not tell what the teacher sees from what the student sees: wrap the data in "
            "datasets.masked_faces.MaskedFaces."
        )

    def _response_loss(self, embedding: Tensor, template: Tensor) -> Tensor:
        classes = self.head.unit_rows(self.head.weight).detach()
        student, teacher = (self.head.scale * nn.functional.normalize(e) @ classes.T for e in (embedding, template))
        return kd_loss(student, teacher, self.temperature)

    def weight_at(self, step: int) -> float:
        """Eq. 4: lambda (of d = 512) in the given optimiser step."""
        if self.late_kd_weight is None or step < self._switch_step():
            return self.kd_weight
        return self.late_kd_weight

    def _switch_step(self) -> int:
        return round(self.late_from * int(self.trainer.estimated_stepping_batches))

    def _multiplier(self) -> Multiplier:
        usual = super()._multiplier()
        if self.late_lr_factor == 1.0:
            return usual
        switch = self._switch_step()
        return lambda step: usual(step) * (self.late_lr_factor if step >= switch else 1.0)

    def train(self, mode: bool = True) -> MaskInv:
        """Train mode, but for the BatchNorm layers whose statistics are kept."""
        super().train(mode)
        if not self.batch_statistics:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def on_train_start(self) -> None:
        self.train()


def _check_options(
    kd_weight: float, late: float | None, late_from: float, response: float, student_init: str, classify: bool
) -> None:
    if min(kd_weight, response, 0.0 if late is None else late) < 0 or not 0 <= late_from <= 1:
        raise ValueError(
            f"kd_weight={kd_weight}, late_kd_weight={late}, response_weight={response} must be at least 0, "
            f"late_from={late_from} a share, 0..1."
        )
    if student_init not in ("teacher", "scratch"):
        raise ValueError(f"student_init is {student_init!r}; expected teacher or scratch.")
    if not classify and (response or not (kd_weight or late)):
        raise ValueError(
            "Without classification there are no class weights, and without kd_weight nothing to learn from."
        )


def _start_from(backbone: nn.Module, teacher: nn.Module) -> None:
    """Give the student the teacher's weights."""
    own, other = ({name: value.shape for name, value in net.state_dict().items()} for net in (backbone, teacher))
    if own != other:
        differing = sorted(name for name in own.keys() | other.keys() if own.get(name) != other.get(name))
        raise ValueError(
            f"Student and teacher are the same architecture in this paper, but {len(differing)} entries differ, the first "
            f"being {differing[0]}: {own.get(differing[0])} in the student, {other.get(differing[0])} in the teacher. "
            "Build both alike, or set student_init='scratch' (the templates must still have one size)."
        )
    backbone.load_state_dict(teacher.state_dict())
