"""CoupleFace: make a small network agree with a large one on how similar a face is to other, similar people.

J. Liu, H. Qin, Y. Wu, J. Guo, D. Liang, K. Xu, "CoupleFace: Relation Matters for Face Recognition Distillation", ECCV 2022,
LNCS 13672, pp. 683-700, arXiv:2204.05502. Basis: reconstruction. Abstract and the survey's description were read; no official
code is known. What they say: a feature consistency term (FCD), informative mutual relations that are mined (MRD), a
relation-aware loss (RAD) that leaves pairs alone where the student already separates better than the teacher. Everything
else is our choice, and an argument. The equation numbers below are ours.

Symbols
    f^t, f^s   embeddings of teacher and student of one image, [N, d] for a batch; the teacher is frozen
    y          identities of the batch, 0 .. L - 1
    R(a, b)    cosine similarity
    p_l        prototype of identity l: normalised mean of the teacher's normalised embeddings of its images
    H_l        the K identities k != l of highest R(p_l, p_k): the people the teacher finds hardest to tell from l
    E^t, E^s   bank: the teacher's (the student's) embedding of the image of each identity that was seen last, [L, d]

Method
    L_fcd = 1/N sum_i || f^s_i / |f^s_i| - f^t_i / |f^t_i| ||^2                                          (1)
    L_rad = 1/(N K) sum_i sum_{k in H_{y_i}} max(R(f^s_i, E[k]) - R(f^t_i, E^t[k]) - q, 0)               (2)   E = E^t or E^s
    L     = L_cls + alpha L_fcd + beta L_rad                                                             (3)
    E^t[y_i] <- f^t_i, E^s[y_i] <- f^s_i after the losses; of several images of one identity the last     (4)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.distillation.feature import squared_distance
from common.distillation.stored_answers import StoredAnswers
from common.distillation.teacher import Teacher
from common.distributed import gather_rows, total
from common.experiment.callbacks import derived_seed
from common.recognition import FaceRecognizer
from papers.coupleface.mining import Prototypes, check_count, last_of_each, nearest_identities, random_identities

OPTIONS = {
    "negatives": ("hard", "random"),
    "bank": ("teacher", "student"),
    "initial_bank": ("prototypes", "zeros"),
    "feature_reduction": ("sum", "mean"),
}


class CoupleFace(FaceRecognizer):
    """ArcFace student, feature consistency and relation-aware distillation. For training only: what is kept is the student.

    Args:
        backbone: the student, [B, 3, H, W] -> [B, d].
        teacher: frozen, embeds in d dimensions too.
        feature_weight: alpha >= 0. relation_weight: beta >= 0. With both 0 the training is that of `FaceRecognizer`.
        num_hard_ids: K; the paper's number is not known to us (about 100 of 85,000), 5 % of few identities.
        slack: q >= 0; by how much the student may find a pair more alike than the teacher does.
        one_sided: False replaces max(., 0) in (2) by the absolute value (ablation).
        negatives: `"hard"`: H from the prototypes; `"random"`: K random identities each (ablation).
        bank: `"teacher"`: the student's embedding is compared with E^t, so that a student equal to its teacher has no loss;
            `"student"`: with E^s, whose rows are as old as the last image of that identity: an equal student has a loss.
        initial_bank: rows of identities not seen yet: `"prototypes"` p_l; `"zeros"`: their pairs count as 0.
        feature_reduction: (1) sums over the d dimensions, or takes their mean (d times smaller).
        records: points of the training at which `record` is kept (equal parts of it), see `curves`.
        recognition: everything else is `FaceRecognizer`'s: head, scale, margin, learning rate, schedule, ...

    Raises:
        ValueError: a weight or q below 0, a choice that does not exist; when the data are known, K of too few identities, or a
            teacher that embeds in another number of dimensions.
    """

    hard: Tensor
    teacher_bank: Tensor
    student_bank: Tensor
    record: Tensor
    mined: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        teacher: Teacher,
        feature_weight: float = 1.0,
        relation_weight: float = 1.0,
        num_hard_ids: int = 100,
        slack: float = 0.0,
        one_sided: bool = True,
        negatives: Literal["hard", "random"] = "hard",
        bank: Literal["teacher", "student"] = "teacher",
        initial_bank: Literal["prototypes", "zeros"] = "prototypes",
        feature_reduction: Literal["sum", "mean"] = "sum",
        records: int = 24,
        **recognition: Any,
    ) -> None:
        super().__init__(backbone, **recognition)
        for name, value in {
            "feature_weight": feature_weight,
            "relation_weight": relation_weight,
            "slack": slack,
        }.items():
            if not value >= 0:
                raise ValueError(f"{name} is {value}, but must be at least 0")
        chosen = {
            "negatives": negatives,
            "bank": bank,
            "initial_bank": initial_bank,
            "feature_reduction": feature_reduction,
        }
        for name, choice in chosen.items():
            if choice not in OPTIONS[name]:
                raise ValueError(f"{name} is '{choice}': choose {' or '.join(OPTIONS[name])}")
        if records < 1:
            raise ValueError(f"records is {records}, but must be at least 1")
        self.teacher = teacher
        self.feature_weight, self.relation_weight, self.num_hard_ids = feature_weight, relation_weight, num_hard_ids
        self.slack, self.one_sided, self.negatives, self.bank = slack, one_sided, negatives, bank
        self.initial_bank, self.feature_reduction = initial_bank, feature_reduction
        self.answers: StoredAnswers | None = None
        self.register_buffer("mined", torch.tensor(False))
        self.register_buffer("record", torch.zeros(records, 3, dtype=torch.float64))  # pairs, harder ones, sum of R(s)
        if self.num_classes is not None:
            self._make_bank(self.num_classes)

    # --- before training ----------------------------------------------------------------------------------------------

    def prepare(self, data: Any) -> None:
        """Head and bank, as large as the data module says."""
        super().prepare(data)
        if not hasattr(self, "hard"):
            self._make_bank(int(data.num_classes))
        if self.answers is None or self.answers.data is not data:
            self.answers = StoredAnswers(self.teacher, data)

    def _make_bank(self, identities: int) -> None:
        check_count(self.num_hard_ids, identities)
        self.register_buffer("hard", torch.zeros(identities, self.num_hard_ids, dtype=torch.int32))
        rows = {"teacher_bank": identities, "student_bank": identities if self.bank == "student" else 0}
        for name, count in rows.items():
            self.register_buffer(name, torch.zeros(count, self.embedding_size))
        # equal in all processes by themselves; otherwise each step would send the whole bank to everybody
        others = getattr(self, "_ddp_params_and_buffers_to_ignore", [])
        self._ddp_params_and_buffers_to_ignore = [*others, "hard", *rows, "record", "mined"]

    @torch.no_grad()
    def mine(self, data: Any) -> None:
        """H and the bank's first rows, from one look of the teacher at every training image as it is.

        Raises:
            ValueError: the teacher embeds in another number of dimensions; K is not below the number of identities.
        """
        self.prepare(data)
        prototypes = Prototypes(len(self.hard), self.embedding_size, self.device)
        for batch in stored_batches(data):
            images, labels, *rest = (part.to(self.device) for part in batch)
            prototypes.add(self._teacher_of((images, labels, *rest)), labels)
        if self.negatives == "hard":
            self.hard.copy_(nearest_identities(prototypes.unit(), self.num_hard_ids, prototypes.present))
        else:
            seed = derived_seed(torch.initial_seed() % 2**31, "random identities")
            self.hard.copy_(random_identities(len(self.hard), self.num_hard_ids, seed))
        if self.initial_bank == "prototypes":
            for bank in self._banks():
                bank.copy_(prototypes.unit())
        self.mined.fill_(True)

    def on_fit_start(self) -> None:
        """Mine first, where no phase of its own has done so."""
        if not bool(self.mined):
            self.mine(self.trainer.datamodule)  # type: ignore[attr-defined]

    def _teacher_of(self, batch: tuple[Tensor, ...]) -> Tensor:
        assert self.answers is not None
        return self.answers(batch)

    def _banks(self) -> tuple[Tensor, ...]:
        return (self.teacher_bank, self.student_bank) if self.bank == "student" else (self.teacher_bank,)

    # --- a step -------------------------------------------------------------------------------------------------------

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        x, labels = batch[:2]
        f_s, f_t = self.network(x), self._teacher_of(batch)
        loss = self.classification_loss(f_s, labels)
        if self.feature_weight:  # (1)
            loss = loss + self.feature_weight * squared_distance(f_s, f_t, reduction=self.feature_reduction)
        with torch.set_grad_enabled(self.relation_weight > 0):
            r_s, r_t = self.relations(f_s, f_t, labels)
        if self.relation_weight:
            loss = loss + self.relation_weight * relation_loss(r_s, r_t, self.slack, self.one_sided)
        self._count(r_s.detach(), r_t)
        self.remember(f_s.detach(), f_t, labels)
        self.log("train/loss", loss, sync_dist=True)
        return loss  # (3)

    def relations(self, f_s: Tensor, f_t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """R of every sample to the hard identities of its own: student's and teacher's, [N, K] each.

        Args:
            f_s, f_t: embeddings [N, d]. labels: int64 [N].
        """
        chosen = self.hard[labels].long()
        rows = self.teacher_bank[chosen]  # [N, K, d]
        if self.bank == "teacher":
            both = cosines(rows, torch.stack([f_s, f_t], 2))
            return both[..., 0], both[..., 1].detach()
        return cosines(self.student_bank[chosen], f_s[..., None])[..., 0], cosines(rows, f_t[..., None])[..., 0]

    @torch.no_grad()
    def remember(self, f_s: Tensor, f_t: Tensor, labels: Tensor) -> None:
        """(4): write the embeddings [N, d] of a step to the bank, those of all processes in the order of the batch."""
        labels = gather_rows(labels)
        last = last_of_each(labels)
        for bank, embedding in zip(self._banks(), (f_t, f_s), strict=False):
            bank[labels] = gather_rows(embedding)[last].to(bank.dtype)

    @torch.no_grad()
    def _count(self, r_s: Tensor, r_t: Tensor) -> None:
        pairs = torch.stack([torch.ones_like(r_s), (r_s > r_t).to(r_s), r_s]).double().sum((1, 2))
        steps = int(self.trainer.estimated_stepping_batches)
        self.record[min(self.global_step * len(self.record) // steps, len(self.record) - 1)] += total(pairs)

    def curves(self) -> dict[str, list[float]]:
        """How the relations changed over the equal parts of the training that had a step, see `records`.

        Returns:
            `harder`: percent of the pairs (sample, hard identity) with R(student) > R(teacher), one a part;
            `similarity`: the mean of R(student), one a part.
        """
        pairs, harder, similarity = self.record[self.record[:, 0] > 0].cpu().T
        return {"harder": (100 * harder / pairs).tolist(), "similarity": (similarity / pairs).tolist()}


def cosines(rows: Tensor, embeddings: Tensor) -> Tensor:
    """R of each row [N, K, d] to each embedding [N, d, M] of its sample: [N, K, M]; 0 for a row of zeros."""
    lengths = torch.linalg.vector_norm(rows, dim=2, keepdim=True).clamp(min=1e-12)
    return torch.bmm(rows, F.normalize(embeddings)) / lengths


def relation_loss(r_s: Tensor, r_t: Tensor, slack: float = 0.0, one_sided: bool = True) -> Tensor:
    """(2) from the relations of student and teacher, [N, K] each: their mean over all pairs.

    `one_sided=False` takes the absolute value in place of max(., 0).
    """
    excess = r_s - r_t - slack
    return (excess.relu() if one_sided else excess.abs()).mean()


def stored_batches(data: Any) -> Iterator[tuple[Tensor, ...]]:
    """Every training image once, not mirrored and not shared among processes, in the batches of the data module."""
    loader = data.train_dataloader()
    if loader.batch_size is not None:  # a loader of single images, which it puts together itself
        return iter(loader)
    order = range(len(loader.dataset))
    workers = loader.num_workers
    return iter(DataLoader(loader.dataset, None, sampler=order, num_workers=workers, generator=torch.Generator()))
