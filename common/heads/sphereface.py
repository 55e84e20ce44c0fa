"""SphereFace (Liu et al., arXiv 1704.08063) in the form of the authors' later code (opensphere)."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from common.heads.cosine import CosineHead, target_cosine, with_target

CLOSEST_ANGLE_COSINE = 1.0 - 1e-5


class SphereFace(CosineHead):
    """Target logit scale * psi(theta), psi(theta) = (-1)^k cos(m theta) - 2k with k = floor(m theta / pi).

    As there, embeddings are normalised, the value of psi is used with the gradient of the cosine, and in training the
    class weights themselves are normalised before each step, so that their gradient is not projected.

    Args:
        embedding_size: D.
        num_classes: C; weights start Xavier-normal.
        scale: s; 30, and 64 for the authors' MS1M models.
        margin: m, a factor of the angle, at least 1; 1.7 in the later code, 4 in the paper.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, embedding_size: int, num_classes: int, scale: float = 30.0, margin: float = 1.7) -> None:
        super().__init__(embedding_size, num_classes, scale)
        if margin < 1.0:
            raise ValueError(f"margin is {margin}, but SphereFace multiplies the angle by it: it must be at least 1.")
        self.margin = margin
        nn.init.xavier_normal_(self.weight)

    def forward(
        self, embedding: torch.Tensor, labels: torch.Tensor | None = None, classes: torch.Tensor | None = None
    ) -> torch.Tensor:
        if self.training:
            # Through `.data`: a second forward pass before the backward pass changes nothing that autograd kept.
            self.weight.data.copy_(F.normalize(self.weight.data))
        return super().forward(embedding, labels, classes)

    def unit_rows(self, weight: torch.Tensor) -> torch.Tensor:
        return weight if self.training else F.normalize(weight)

    def apply_margin(self, cosine: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        target = target_cosine(cosine, labels)
        with torch.no_grad():
            angle = self.margin * target.clamp(-CLOSEST_ANGLE_COSINE, CLOSEST_ANGLE_COSINE).acos()
            k = (angle / math.pi).floor()
            psi = (1.0 - 2.0 * (k % 2)) * angle.cos() - 2.0 * k
        return with_target(cosine, labels, target + (psi - target).detach())
