"""ElasticFace (Boutros et al., arXiv 2109.09416): the margin of every sample is drawn anew in every step."""

import torch

from common.distributed import gather_rows, own_rows
from common.heads.cosine import CosineHead, target_cosine, with_target
from common.heads.margins import checked_margin, cosine_of_angle_plus

PLUS_MODES = ("code", "rank")


class ElasticHead(CosineHead):
    """Draws margins m_i ~ N(margin, sigma) from PyTorch's global random numbers; shared by the two heads below.

    Of several processes each draws the margins of the whole batch and takes its own.

    Args:
        embedding_size: D. num_classes: C. scale: s.
        margin: mean E of the margins.
        sigma: their standard deviation; 0 makes the margin fixed.
        plus: ElasticFace+: sort the drawn margins and hand them out by the target cosines.
        plus_mode: "rank" gives the smallest margin to the largest target cosine and so on, which the paper describes;
            "code" is the official code: it indexes the sorted margins by the sorting permutation, not by the rank.

    In eval mode there is no margin, with or without labels.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        scale: float = 64.0,
        margin: float = 0.5,
        sigma: float = 0.05,
        plus: bool = False,
        plus_mode: str = "rank",
    ) -> None:
        super().__init__(embedding_size, num_classes, scale)
        if sigma < 0:
            raise ValueError(f"sigma is {sigma}, but a standard deviation cannot be negative.")
        if plus_mode not in PLUS_MODES:
            raise ValueError(f"plus_mode is {plus_mode!r}, but must be one of {', '.join(PLUS_MODES)}.")
        self.margin = checked_margin(margin)
        self.sigma = sigma
        self.plus = plus
        self.plus_mode = plus_mode

    def apply_margin(self, cosine: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return cosine
        target = target_cosine(cosine, labels)
        all_targets, present = gather_rows(target.detach()), gather_rows(labels) >= 0
        margins = torch.zeros_like(all_targets)
        margins[present] = self.margins_of(all_targets[present])
        return with_target(cosine, labels, self.moved(target, own_rows(margins)))

    def margins_of(self, target: torch.Tensor) -> torch.Tensor:
        """One margin for each target cosine [B]."""
        margins = self.draw(len(target)).to(target)
        if not self.plus:
            return margins
        order = target.argsort(descending=True)
        margins = margins.sort().values
        # order[k] is the sample in place k; the place of a sample is the inverse permutation
        return margins[order] if self.plus_mode == "code" else margins[order.argsort()]

    def draw(self, count: int) -> torch.Tensor:
        """`count` new margins."""
        return torch.normal(self.margin, self.sigma, (count,), device=self.weight.device)

    def moved(self, target: torch.Tensor, margins: torch.Tensor) -> torch.Tensor:
        """The target cosines [B] with their margins [B]; here CosFace's."""
        return target - margins


class ElasticCosFace(ElasticHead):
    """Target logit scale * (cosine - m_i); published with margin 0.35, sigma 0.05, and 0.02 for the plus form."""

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        scale: float = 64.0,
        margin: float = 0.35,
        sigma: float = 0.05,
        plus: bool = False,
        plus_mode: str = "rank",
    ) -> None:
        super().__init__(embedding_size, num_classes, scale, margin, sigma, plus, plus_mode)


class ElasticArcFace(ElasticHead):
    """Target logit scale * cos(theta + m_i); published with margin 0.5, sigma 0.05, and 0.0175 for the plus form.

    The true gradient and no line beyond pi, as in the official code.
    """

    def moved(self, target: torch.Tensor, margins: torch.Tensor) -> torch.Tensor:
        return cosine_of_angle_plus(target, margins)
