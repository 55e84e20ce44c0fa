"""Partial FC (An et al., arXiv 2203.15565): a step sees the batch's classes and some random others."""

import torch
import torch.nn.functional as F
from torch import nn

from common.distributed import average, gather_rows
from common.heads.cosine import CosineHead, checked_labels

LARGEST_LOSS = 69.07755278982137  # -ln(1e-30), where the official code stops the probability


def sample_classes(labels: torch.Tensor, num_classes: int, sample_rate: float) -> torch.Tensor:
    """The classes of one step, sorted: every class in `labels` and random others up to int(sample_rate * num_classes).

    Labels of -1 name no class. If the batch alone has more classes than that, exactly those are returned.
    """
    positives = labels[labels >= 0].unique()
    count = int(sample_rate * num_classes)
    if len(positives) >= count:
        return positives
    priority = torch.rand(num_classes, device=labels.device)
    priority[positives] = 2.0
    return priority.topk(count).indices.sort().values


class PartialFC(nn.Module):
    """Mean cross-entropy of a margin head over a sample of its classes.

    The rows of classes that were not drawn get a zero gradient (weight decay and momentum still move them).

    Of several processes each holds the whole matrix and all draw the same classes, so that they compute what one does.
    With the matrix spread over the processes: `common.heads.sharded_partial_fc`.

    Args:
        head: any head of this package that is a `CosineHead`; its weight [C, D] stays whole.
        sample_rate: share of the classes in each step, in (0, 1]; 1 is the head's plain cross-entropy.

    Raises:
        ValueError: the rate is not in (0, 1].
    """

    def __init__(self, head: CosineHead, sample_rate: float = 1.0) -> None:
        super().__init__()
        if not 0.0 < sample_rate <= 1.0:
            raise ValueError(f"sample_rate is {sample_rate}, but must be above 0 and at most 1.")
        self.head = head
        self.sample_rate = sample_rate

    def forward(self, embedding: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean loss (a scalar) of raw embeddings [B, D] and labels [B], -1 for a row that does not count."""
        labels = checked_labels(labels, len(embedding))
        if not self.training or self.sample_rate == 1.0:
            return capped_cross_entropy(self.head(embedding, labels), labels)
        classes = sample_classes(gather_rows(labels), self.head.num_classes, self.sample_rate)
        places = torch.where(labels >= 0, torch.searchsorted(classes, labels), labels)
        return capped_cross_entropy(self.head(embedding, places, classes), places)


def capped_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over the rows with a target of -ln max(p, 1e-30), with the gradient of the plain cross-entropy.

    Of several processes each returns the share of its rows, times the number of processes: their mean is the mean over all
    rows, also where some have more rows with a target than others.
    """
    present = labels >= 0
    losses = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")[present]
    losses = losses + (losses.clamp(max=LARGEST_LOSS) - losses).detach()
    return losses.sum() / average(present.sum().to(losses))
