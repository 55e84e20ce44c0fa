"""Contrastive representation distillation (Y. Tian, D. Krishnan and P. Isola, ICLR 2020), with a memory of all images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CRD(nn.Module):
    """Noise-contrastive estimation between the student's embedding of an image and the teacher's, and the other way round.

    Symbols: a, b unit vectors [B, E] of student and teacher; memories A, B in R^{N x E}, one row an image; m negatives.

        h(a_i, j) = exp(<a_i, B_j> / tau) / Z                                    (1)   and h(b_i, j) with A in the place of B
        L = - 1/B sum_i ( log h_i0 / (h_i0 + m/N) + sum_{j=1..m} log (m/N) / (h_ij + m/N) )   (2)   both sides added
        A_i <- normalise(momentum A_i + (1 - momentum) a_i)                      (3)   after the scores were taken; B alike

    Each side's Z is N times the mean score of the first batch and fixed from then on. Z and memories are buffers, so a resumed
    training has the same loss. In several processes each memory sees its own process's images.

    Args:
        student_size, teacher_size: of the features. images: N of the training set.
        size: E. negatives: m, drawn uniformly with replacement. temperature: tau. momentum: of (3). eps: least of a denominator.

    Raises:
        ValueError: no images, or no negatives.
    """

    memory_student: Tensor
    memory_teacher: Tensor
    z_student: Tensor
    z_teacher: Tensor

    def __init__(
        self,
        student_size: int,
        teacher_size: int,
        images: int,
        size: int = 128,
        negatives: int = 16_384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        eps: float = 1e-7,
    ) -> None:
        super().__init__()
        if images < 1 or negatives < 1:
            raise ValueError(f"images is {images} and negatives is {negatives}; both must be at least 1")
        self.embed_student, self.embed_teacher = nn.Linear(student_size, size), nn.Linear(teacher_size, size)
        self.images, self.negatives = images, negatives
        self.temperature, self.momentum, self.eps = temperature, momentum, eps
        bound = math.sqrt(3 / size)
        self.register_buffer("memory_student", torch.empty(images, size).uniform_(-bound, bound))
        self.register_buffer("memory_teacher", torch.empty(images, size).uniform_(-bound, bound))
        self.register_buffer("z_student", torch.zeros(()))  # 0: not yet set
        self.register_buffer("z_teacher", torch.zeros(()))

    def forward(self, student: Tensor, teacher: Tensor, index: Tensor, contrast: Tensor | None = None) -> Tensor:
        """Scalar, the sum of both sides, each summed over candidates and averaged over the batch.

        Args:
            student, teacher: features [B, ...]. index: of the images in the training set, int64 [B].
            contrast: candidates int64 [B, m + 1] with `index` in column 0; None draws the others.
        """
        a = F.normalize(self.embed_student(student.flatten(1)), dim=1)
        b = F.normalize(self.embed_teacher(teacher.detach().flatten(1)), dim=1)
        ours, theirs = self.scores(a, b, index, self.draw(index) if contrast is None else contrast)
        return self.nce(ours) + self.nce(theirs)

    def draw(self, index: Tensor) -> Tensor:
        """Candidates int64 [B, m + 1]: the image itself, then m images drawn uniformly, itself not excluded."""
        others = torch.randint(self.images, (len(index), self.negatives), device=index.device)
        return torch.cat([index[:, None], others], dim=1)

    def scores(self, a: Tensor, b: Tensor, index: Tensor, contrast: Tensor) -> tuple[Tensor, Tensor]:
        """h of equation (1) for the student and for the teacher, [B, m + 1] each; sets Z at first, updates the memories."""
        ours = self._exponentials(self.memory_teacher, contrast, a)
        theirs = self._exponentials(self.memory_student, contrast, b)
        with torch.no_grad():
            for z, values in ((self.z_student, ours), (self.z_teacher, theirs)):
                z.copy_(torch.where(z > 0, z, values.detach().mean() * self.images))
            for memory, rows in ((self.memory_student, a), (self.memory_teacher, b)):
                moved = self.momentum * memory[index] + (1 - self.momentum) * rows.detach()
                memory.index_copy_(0, index, F.normalize(moved, dim=1))
        return ours / self.z_student.clone(), theirs / self.z_teacher.clone()

    def _exponentials(self, memory: Tensor, contrast: Tensor, rows: Tensor) -> Tensor:
        return torch.exp((memory[contrast] @ rows[:, :, None]).squeeze(2) / self.temperature)

    def nce(self, scores: Tensor) -> Tensor:
        """Equation (2) for scores [B, m + 1] with the positive in column 0."""
        noise = (scores.shape[1] - 1) / self.images
        positive = (scores[:, 0] / (scores[:, 0] + noise + self.eps)).log()
        negative = (noise / (scores[:, 1:] + noise + self.eps)).log().sum(dim=1)
        return -(positive + negative).mean()
