"""What every cosine head shares: class weights, cosines in full precision, and the rules of the target entry."""

import torch
import torch.nn.functional as F
from torch import nn


class CosineHead(nn.Module):
    """Normalised softmax head: logits = scale * cos(embedding, class weight), with a margin where a subclass adds one.

    Train with the mean cross-entropy of the logits. Rows whose label is -1 have no target here: they get no margin
    (pass `ignore_index=-1` to the cross-entropy). Cosines and margins are computed in float32 (float64 for float64
    inputs) also under autocast and for half-precision embeddings: near 1 arccos has no precision left otherwise.

    Args:
        embedding_size: dimensions D of the embedding.
        num_classes: identities C; `weight` is [C, D] and starts from N(0, 0.01) as in InsightFace and PocketNet.
        scale: s, the length of the logits (64 in ArcFace and CosFace).

    Raises:
        ValueError: a size or the scale is not positive.
    """

    def __init__(self, embedding_size: int, num_classes: int, scale: float = 64.0) -> None:
        super().__init__()
        if embedding_size < 1 or num_classes < 2:
            raise ValueError(
                f"A head needs at least 1 dimension and 2 classes, but got embedding_size={embedding_size} "
                f"and num_classes={num_classes}."
            )
        if scale <= 0:
            raise ValueError(f"scale is {scale}, but must be positive; 64 is usual, 30 for few classes.")
        self.embedding_size = embedding_size
        self.num_classes = num_classes
        self.scale: float | torch.Tensor = scale
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size))
        nn.init.normal_(self.weight, 0.0, 0.01)

    def forward(
        self, embedding: torch.Tensor, labels: torch.Tensor | None = None, classes: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits [B, C] of raw embeddings [B, D]; without labels [B] (integers, -1 for no target) there is no margin.

        `classes` (distinct integers) restricts the logits to these classes; labels then count within them.

        Raises:
            ValueError: the shapes or the kind of the labels do not fit.
        """
        with torch.autocast(embedding.device.type, enabled=False):
            cosine = self.cosine(embedding, classes)
            if labels is not None:
                cosine = self.apply_margin(cosine, checked_labels(labels, len(cosine)))
            return self.scale * cosine

    def cosine(self, embedding: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """Cosines [B, C] in [-1, 1], in float32 or float64; `classes` restricts C to these rows of the weight."""
        if embedding.ndim != 2 or embedding.shape[1] != self.embedding_size:
            raise ValueError(
                f"The head expects embeddings [B, {self.embedding_size}], but got {list(embedding.shape)}."
            )
        weight = self.weight if classes is None else self.weight[classes]
        embedding, weight = full_precision(embedding, weight)
        return F.linear(F.normalize(embedding), self.unit_rows(weight)).clamp(-1.0, 1.0)

    def unit_rows(self, weight: torch.Tensor) -> torch.Tensor:
        """Class weights [C, D] of length 1; the gradient is the projected one."""
        return F.normalize(weight)

    def apply_margin(self, cosine: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cosines [B, C] to logits / scale; `labels` [B] may hold -1. Here without a margin: the normalised softmax."""
        return cosine

    def extra_repr(self) -> str:
        return f"{self.embedding_size}, {self.num_classes}, scale={float(self.scale):g}"


def full_precision(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors in their widest common type, at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def checked_labels(labels: torch.Tensor, rows: int) -> torch.Tensor:
    """Labels as int64 [B]; [B, 1] is accepted.

    Raises:
        ValueError: not one integer a row.
    """
    if labels.is_floating_point() or labels.numel() != rows:
        raise ValueError(
            f"The head expects one integer label a row, {rows} in all, but got {labels.dtype} {list(labels.shape)}."
        )
    return labels.reshape(-1).long()


def target_cosine(cosine: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The target's cosine of every row [B]; of class 0 where the label is -1 (`with_target` ignores those rows)."""
    return cosine.gather(1, labels.clamp(min=0)[:, None])[:, 0]


def with_target(cosine: torch.Tensor, labels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """`cosine` [B, C] with the target entry of each row replaced by `target` [B]; rows labelled -1 stay as they are."""
    target = torch.where(labels >= 0, target, target_cosine(cosine, labels))
    return cosine.scatter(1, labels.clamp(min=0)[:, None], target[:, None])


def filter_classes(cosine: torch.Tensor, labels: torch.Tensor, threshold: float) -> torch.Tensor:
    """Interclass filtering (Partial FC's code): wrong classes whose cosine exceeds `threshold` get logit 0.

    They stay in the softmax with a constant logit, so that likely label noise pushes nothing away. 0 is off.
    """
    if threshold <= 0:
        return cosine
    is_target = torch.arange(cosine.shape[1], device=cosine.device) == labels[:, None]
    return cosine.masked_fill((cosine > threshold) & ~is_target, 0.0)
