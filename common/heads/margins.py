"""Fixed margins: the normalised softmax, CosFace and ArcFace."""

import math

import torch

from common.heads.cosine import CosineHead, filter_classes, target_cosine, with_target

GRADIENTS = ("exact", "autograd", "straight_through")
NEAREST_TO_ONE = 1.0 - 1e-7  # beyond this the derivative of the sine is cut off; it is infinite at 1


def sine_of(cosine: torch.Tensor) -> torch.Tensor:
    """sqrt(1 - cosine^2), exact in value, with a finite gradient: none beyond |cosine| = 1 - 1e-7."""
    inside = cosine.clamp(-NEAREST_TO_ONE, NEAREST_TO_ONE)
    sine = ((1.0 - inside) * (1.0 + inside)).sqrt()
    exact = ((1.0 - cosine) * (1.0 + cosine)).detach().clamp(min=0.0).sqrt()
    return sine + (exact - sine).detach()


def cosine_of_angle_plus(cosine: torch.Tensor, margin: float | torch.Tensor) -> torch.Tensor:
    """cos(theta + margin) where theta = arccos(cosine); margin in radians, a number or one a cosine."""
    if isinstance(margin, torch.Tensor):
        return cosine * margin.cos() - sine_of(cosine) * margin.sin()
    return cosine * math.cos(margin) - sine_of(cosine) * math.sin(margin)


def cosine_of_angle_plus_monotone(cosine: torch.Tensor, margin: float) -> torch.Tensor:
    """cos(theta + margin), continued by the line cosine - margin sin(margin) where theta + margin exceeds pi.

    Without the line the logit would rise again for the hardest samples (ArcFace's and CurricularFace's code).
    """
    line = cosine - margin * math.sin(math.pi - margin)
    return torch.where(cosine > math.cos(math.pi - margin), cosine_of_angle_plus(cosine, margin), line)


class NormalizedSoftmax(CosineHead):
    """scale * cosine, no margin; with C classes and all cosines 0 the loss is ln C."""


class CosFace(CosineHead):
    """Target logit scale * (cosine - margin) (arXiv 1801.09414, Eq. 4).

    Args:
        embedding_size: D. num_classes: C. scale: s. margin: m; 0.40 in InsightFace, 0.35 in the paper and ElasticFace.
        interclass_filtering_threshold: see `common.heads.cosine.filter_classes`; 0 is off.

    Raises:
        ValueError: a size, the scale, the margin or the threshold is out of range.
    """

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        scale: float = 64.0,
        margin: float = 0.40,
        interclass_filtering_threshold: float = 0.0,
    ) -> None:
        super().__init__(embedding_size, num_classes, scale)
        self.margin = checked_margin(margin)
        self.interclass_filtering_threshold = checked_threshold(interclass_filtering_threshold)

    def apply_margin(self, cosine: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        cosine = filter_classes(cosine, labels, self.interclass_filtering_threshold)
        return with_target(cosine, labels, target_cosine(cosine, labels) - self.margin)


class ArcFace(CosineHead):
    """Target logit scale * cos(theta + margin) (arXiv 1801.07698, Eq. 3).

    Three published implementations, which do not train alike, chosen by `gradient`:

    - "exact": the paper's function with its true gradient, and a line where theta + margin > pi (PocketNet, TFace,
      CurricularFace's code). We cut the gradient of the sine beyond |cosine| = 1 - 1e-7, where theirs becomes infinite.
    - "autograd": the true gradient without the line, so that the logit rises again beyond pi (ElasticFace, QuantFace).
    - "straight_through": the value of "autograd", but the gradient of scale * cosine (InsightFace computes the margin
      without gradient).

    Args:
        embedding_size: D. num_classes: C. scale: s. margin: m in radians, 0.5 in the paper.
        gradient: see above.
        interclass_filtering_threshold: see `common.heads.cosine.filter_classes`; 0 is off.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        scale: float = 64.0,
        margin: float = 0.5,
        gradient: str = "exact",
        interclass_filtering_threshold: float = 0.0,
    ) -> None:
        super().__init__(embedding_size, num_classes, scale)
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient is {gradient!r}, but must be one of {', '.join(GRADIENTS)}.")
        self.margin = checked_margin(margin)
        self.gradient = gradient
        self.interclass_filtering_threshold = checked_threshold(interclass_filtering_threshold)

    def apply_margin(self, cosine: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        cosine = filter_classes(cosine, labels, self.interclass_filtering_threshold)
        target = target_cosine(cosine, labels)
        if self.gradient == "exact":
            moved = cosine_of_angle_plus_monotone(target, self.margin)
        elif self.gradient == "autograd":
            moved = cosine_of_angle_plus(target, self.margin)
        else:
            moved = target + (cosine_of_angle_plus(target, self.margin) - target).detach()
        return with_target(cosine, labels, moved)


def checked_margin(margin: float, limit: float = math.pi) -> float:
    """The margin.

    Raises:
        ValueError: not in [0, limit).
    """
    if not 0.0 <= margin < limit:
        raise ValueError(f"margin is {margin}, but must be at least 0 and below {limit:.4g}.")
    return margin


def checked_threshold(threshold: float) -> float:
    """The cosine threshold of interclass filtering.

    Raises:
        ValueError: not in [0, 1].
    """
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"interclass_filtering_threshold is {threshold}, but must be a cosine in [0, 1]; 0 is off.")
    return threshold
