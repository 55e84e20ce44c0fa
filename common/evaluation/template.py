"""Template verification of IJB-B and IJB-C: many images a person side, one score a pair of templates.

Source: InsightFace ``recognition/arcface_torch/eval_ijbc.py``. The embedding of an image is that of the image plus that
of its mirror image, not normalised (its length tells the quality), times the face detector's confidence. Images of one
medium (a video) are averaged, the media of a template added, and the sum is normalised. The score of two templates is
the dot product. TAR at the nearest FAR: ``ScoreList.nearest_far``.
"""

import numpy as np
import scipy.sparse
import torch
from numpy.typing import ArrayLike, NDArray

# A matrix product computes an entry about this many times faster than a gathered dot product of two rows.
_GATHER_COST = 64
_PAIRS_GATHERED = 1 << 10  # their rows stay in the processor's cache


def quality_weighted(plain: ArrayLike, mirrored: ArrayLike, detector_score: ArrayLike) -> NDArray[np.float32]:
    """Image features float32 [N, D] = (plain + mirrored) * detector score; [N, D], [N, D], [N], nothing normalised."""
    left, right, weight = (np.asarray(values, dtype=np.float32) for values in (plain, mirrored, detector_score))
    if left.ndim != 2 or left.shape != right.shape or weight.shape != left.shape[:1]:
        raise ValueError(
            f"Embeddings {left.shape}, mirrored {right.shape}, detector scores {weight.shape} do not fit: "
            "[N, D], [N, D] and [N] were expected."
        )
    return (left + right) * weight[:, None]


def template_features(
    features: ArrayLike, template: ArrayLike, media: ArrayLike
) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """Unit templates float32 [T, D] and their labels [T], in rising order.

    Template = normalised sum over its media of the mean over the medium's images.

    Args:
        features: [N, D] un-normalised image features (``quality_weighted``).
        template, media: int [N]. A medium belongs to its template: the same media label in two templates is two media.

    Raises ValueError on shapes that do not fit and on NaN or infinite features.
    """
    rows = np.asarray(features)
    templates, medium = np.asarray(template), np.asarray(media)
    if rows.ndim != 2 or templates.shape != rows.shape[:1] or medium.shape != rows.shape[:1]:
        raise ValueError(
            f"Features {rows.shape}, template {templates.shape}, media {medium.shape} do not fit: [N, D], [N], [N]."
        )
    labels, row = np.unique(templates, return_inverse=True)
    _, column = np.unique(medium, return_inverse=True)
    media_of_image, images = np.unique(
        row * (column.max(initial=0) + 1) + column, return_inverse=True, return_counts=True
    )[1:]
    # One sparse product, no loop and no copy of the features: an image weighs 1 / (images of its medium).
    weight = 1.0 / images[media_of_image]
    mixing = scipy.sparse.csr_array((weight, (row, np.arange(len(rows)))), shape=(len(labels), len(rows)))
    summed = mixing @ rows.astype(np.float64, copy=False)
    if not np.isfinite(summed).all():
        bad = labels[~np.isfinite(summed).all(axis=1)]
        raise ValueError(f"{len(bad)} templates hold NaN or infinite features, the first one template {bad[0]}.")
    norm = np.linalg.norm(summed, axis=1, keepdims=True)
    return (summed / np.where(norm == 0, 1.0, norm)).astype(np.float32), labels


def template_rows(labels: ArrayLike, wanted: ArrayLike) -> NDArray[np.int64]:
    """Row of each wanted template label in ``labels`` (rising, as ``template_features`` returns them).

    Raises KeyError naming the first label that is not there.
    """
    known, asked = np.asarray(labels), np.asarray(wanted)
    place = np.searchsorted(known, asked)
    found = known[np.minimum(place, len(known) - 1)] == asked
    if not found.all():
        raise KeyError(
            f"Template {asked[~found][0]} of the pair list has no image ({(~found).sum()} such entries in all)."
        )
    return place


def template_scores(
    templates: ArrayLike,
    first: NDArray[np.integer],
    second: NDArray[np.integer],
    block_bytes: int = 1 << 26,
    pairs_at_once: int = 1 << 20,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Dot products float32 [P] of the templates in rows ``first`` and ``second``.

    One matrix product of a block of templates with all templates serves every pair that begins in the block: far
    cheaper a pair than gathering two rows, from about T * T / 16 pairs on (below that rows are gathered, in blocks
    too).

    Args:
        templates: [T, D] unit rows.
        first, second: int [P], rows of ``templates`` (``template_rows``); P may be 10^8.
        block_bytes: upper bound of the block of the score matrix. The peak on top of the inputs and the output is about
            block_bytes + 40 bytes * pairs_at_once.
        pairs_at_once: pairs looked up at a time.
        out: where to write, e.g. a ``numpy.memmap`` float32 [P]; a new array by default.

    Raises ValueError on shapes that do not fit and IndexError on rows that do not exist.
    """
    rows = torch.as_tensor(np.ascontiguousarray(templates, dtype=np.float32))
    if rows.ndim != 2 or first.ndim != 1 or first.shape != second.shape:
        raise ValueError(
            f"Templates {tuple(rows.shape)}, first {first.shape}, second {second.shape}: [T, D], [P], [P] expected."
        )
    for name, ends in (("first", first), ("second", second)):
        if len(ends) and (ends.min() < 0 or ends.max() >= len(rows)):
            raise IndexError(f"`{name}` points outside the {len(rows)} templates ({ends.min()} to {ends.max()}).")
    scores = np.empty(len(first), dtype=np.float32) if out is None else out
    if scores.shape != first.shape or scores.dtype != np.float32:
        raise ValueError(f"`out` is {scores.dtype} of shape {scores.shape}; float32 {first.shape} was expected.")
    if len(first) * _GATHER_COST < len(rows) ** 2:
        _gathered(rows.numpy(), first, second, scores)
        return scores
    block = max(1, min(len(rows), block_bytes // (4 * max(1, len(rows)))))
    product = torch.empty(block, len(rows))
    for low in range(0, len(rows), block):
        part = rows[low : low + block]
        table = torch.mm(part, rows.T, out=product[: len(part)]).numpy().reshape(-1)
        for start in range(0, len(first), pairs_at_once):
            offset = first[start : start + pairs_at_once].astype(np.int64)
            offset -= low
            chosen = np.flatnonzero(offset.view(np.uint64) < len(part))  # rows below the block are huge when unsigned
            place = offset[chosen] * len(rows) + second[start + chosen]
            scores[start + chosen] = table.take(place)
    return scores


def _gathered(
    rows: NDArray[np.float32], first: NDArray[np.integer], second: NDArray[np.integer], scores: NDArray[np.float32]
) -> None:
    for start in range(0, len(first), _PAIRS_GATHERED):
        part = slice(start, start + _PAIRS_GATHERED)
        scores[part] = np.einsum("pd,pd->p", rows[first[part]], rows[second[part]])
