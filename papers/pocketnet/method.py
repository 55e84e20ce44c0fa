"""PocketNet's multi-step knowledge distillation: the student meets its teacher at the age that it has itself.

F. Boutros, P. Siebke, M. Klemt, N. Damer, F. Kirchbuchner, A. Kuijper, "PocketNet: Extreme Lightweight Face Recognition Network
Using Neural Architecture Search and Multistep Knowledge Distillation", IEEE Access 10:46823-46833, 2022, arXiv:2108.10710. Basis:
the official code (github.com/fdbtrs/PocketNet, commit 2f860d77), read and not copied. The equation numbers below are ours. The
networks are in `common.backbones.pocketnet`, the search that found their cells in `search.py`.

Symbols
    x, y     faces [B, 3, H, W] and their identities [B]
    S        the student; f = S(x), [B, d]
    T_e      the teacher after the share e / E of its own training, e = 1..E; T_E is the finished one; g = T_e(x), [B, d]
    f^, g^   f / ||f||, g / ||g||
    w        weight of the distillation term, 100

In epoch e of the student's training (its first is e = 1)
    L     = L_arc(f, y) + w L_mse                                          (1)
    L_mse = 1/(B d) sum_i ||f^_i - g^_i||^2                                (2)   mean over all B d entries
    g     = T_E(x): ordinary distillation;   g = T_e(x): multi-step        (3)
so that ||f^ - g^||^2 weighs w/d. L_arc is ArcFace with s = 64 and m = 0.5; its class weights belong to the student alone. S and
T_e see the very same (mirrored) images. The teacher was trained beforehand and its network kept; in the paper for as many epochs
as the student will be, so that epoch e of the one meets epoch e of the other.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.distillation.feature import cosine_distance, squared_distance
from common.distillation.stored_answers import StoredAnswers
from common.distillation.teacher import Teacher
from common.recognition import FaceRecognizer

WATCHED = (
    "arcface",
    "to_present",
    "to_final",
)  # L_arc; L_mse to the teacher of this epoch; L_mse to the finished teacher


class MultiStepKD(FaceRecognizer):
    """Train a student from labels and from a teacher that is finished, or that matures with it.

    Args:
        backbone: S, images [B, 3, H, W] -> [B, d].
        teacher: the finished teacher T_E; None for none. With `kd_weight=0` it is only watched.
        successive: files of T_1, ..., T_E for multi-step distillation; empty for the finished teacher alone.
        kd_weight: w of (1). The paper's 100 at d = 128 weighs ||f^ - g^||^2 by w/d = 0.78.
        distance: `"mse"`, (2); `"cosine"`, ours: the mean of 1 - cos(f, g), which is (2) times d/2.
        classification_weight: of L_arc; 0 learns from the teacher alone, without labels and without a head.
        epochs: for how many epochs the losses can be recorded; training for longer is refused.
        watch_every: record the losses in every so many-th step (the teacher is asked for that where no loss needs it).
        recognition: options of `FaceRecognizer`. Its defaults are the paper's but for `lr_drops`: the rate falls before the
            epochs 7, 13, 19 and 24 (from 0) of 26.

    Raises:
        ValueError: an argument out of its range; teacher and student of different embedding size.
        FileNotFoundError, DamagedFileError, WeightsMismatchError: a file of `successive` is missing, damaged or of another
            network. All of them are read here, before any training (the official loop would stop in the middle).
    """

    history: Tensor
    sums: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        teacher: Teacher | None = None,
        successive: Sequence[str] = (),
        kd_weight: float = 100.0,
        distance: Literal["mse", "cosine"] = "mse",
        classification_weight: float = 1.0,
        epochs: int = 26,
        watch_every: int = 1,
        **recognition: Any,
    ) -> None:
        super().__init__(backbone, **recognition)
        if distance not in ("mse", "cosine"):
            raise ValueError(f"distance is '{distance}'; expected 'mse' or 'cosine'")
        if min(kd_weight, classification_weight) < 0 or kd_weight + classification_weight == 0:
            raise ValueError(
                f"{kd_weight=}, {classification_weight=}: both must be 0 or more, and one of them more, or nothing is learnt"
            )
        if epochs < 1 or watch_every < 1:
            raise ValueError(f"{epochs=}, {watch_every=}: expected whole numbers of at least 1")
        if teacher is None and (successive or classification_weight == 0):
            raise ValueError("distillation needs the finished teacher: give `teacher`")
        self.teacher, self.present = teacher, teacher
        self.successive = tuple(successive)
        if teacher is not None:
            _check_sizes(backbone, teacher.network)
        if teacher is not None and self.successive:
            self.present = Teacher(copy.deepcopy(teacher.network))
            for weights in self.successive:
                self.present.load(weights)
        self.kd_weight = kd_weight if teacher is not None else 0.0
        self.distance, self.classification_weight = distance, classification_weight
        self.epochs, self.watch_every = epochs, watch_every
        self.answers: StoredAnswers | None = None
        self._present_epoch = -1
        self.register_buffer("history", torch.full((len(WATCHED), epochs), math.nan, dtype=torch.float64))
        self.register_buffer(
            "sums", torch.zeros(len(WATCHED) + 1, dtype=torch.float64)
        )  # of this epoch; last: their number

    def prepare(self, data: Any) -> None:
        """Make the head, unless no label is looked at."""
        if self.classification_weight:
            super().prepare(data)

    def on_train_start(self) -> None:
        """Refuse a training that has more epochs than teachers, before its first step."""
        planned = math.ceil(self.trainer.estimated_stepping_batches / self.trainer.num_training_batches)
        if self.successive and planned > len(self.successive):
            raise ValueError(
                f"the student is to be trained for {planned} epochs, but the teacher was kept after {len(self.successive)} "
                "epochs only: keep it after every epoch, or train the student for as many"
            )
        if planned > self.epochs:
            raise ValueError(
                f"the losses of {planned} epochs are to be recorded, there is room for {self.epochs}: raise epochs"
            )
        if self.teacher is not None:
            self.answers = StoredAnswers(self.teacher, self.trainer.datamodule)  # type: ignore[attr-defined]

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        x, labels = batch[0], batch[1]
        f = self.network(x)
        watched = batch_idx % self.watch_every == 0
        loss = arcface = f.new_zeros(())
        if self.classification_weight:
            arcface = self.classification_loss(f, labels)
            loss = self.classification_weight * arcface
        g = self.present_answer(batch) if self.kd_weight or watched else None
        if g is not None and self.kd_weight:
            loss = loss + self.kd_weight * self.distillation_loss(f, g)  # (1)
        if watched:
            self._watch(arcface, f.detach(), g, batch)
        self.log("train/loss", loss, sync_dist=True)
        return loss

    def distillation_loss(self, f: Tensor, g: Tensor) -> Tensor:
        """L_mse of (2), or the cosine distance, for the student's f and the teacher's g, both [B, d] and not normalised."""
        return cosine_distance(f, g) if self.distance == "cosine" else squared_distance(f, g, reduction="mean")

    def present_answer(self, batch: Sequence[Tensor]) -> Tensor | None:
        """g of (3), [B, d], for the images of a batch; None without a teacher."""
        if not self.successive or self.present is None:
            return self.final_answer(batch)
        if self._present_epoch != self.current_epoch:  # here, for a run that goes on in the middle of an epoch
            self.present.load(self.successive[self.current_epoch])
            self._present_epoch = self.current_epoch
        return self.present(batch[0])

    def final_answer(self, batch: Sequence[Tensor]) -> Tensor | None:
        """T_E(x), [B, d]; looked up where the data module numbers its images."""
        return None if self.answers is None else self.answers(batch)

    @torch.no_grad()
    def _watch(self, arcface: Tensor, f: Tensor, g: Tensor | None, batch: Sequence[Tensor]) -> None:
        nothing = f.new_full((), math.nan)
        final = self.final_answer(batch) if self.successive else g
        errors = [nothing if t is None else squared_distance(f, t, reduction="mean") for t in (g, final)]
        seen = torch.stack([arcface if self.classification_weight else nothing, *errors, f.new_ones(())])
        self.sums += seen.to(self.sums.dtype)

    def on_train_epoch_end(self) -> None:
        """The epoch's means, over all processes, into the record."""
        means = self.trainer.strategy.reduce(self.sums[:-1] / self.sums[-1], reduce_op="mean")
        self.history[:, self.current_epoch] = means
        self.sums.zero_()


def _check_sizes(student: nn.Module, teacher: nn.Module) -> None:
    sizes = [getattr(network, "embedding_size", None) for network in (student, teacher)]
    if None not in sizes and sizes[0] != sizes[1]:
        raise ValueError(
            f"the student embeds in {sizes[0]} dimensions and the teacher in {sizes[1]}: train a teacher of the student's "
            "embedding size, as the paper does"
        )
