"""From images to embeddings, and from embeddings to the cosine of every pair.

Source of the conventions: InsightFace ``recognition/arcface_torch/eval/verification.py``. The network sees every image
and its mirror image; both embeddings are added before they are normalised ("sum"). Some published networks
(MobileFaceNet, 112 x 96) concatenate them and remove the mean embedding of the training folds before the cosine
("concatenate", ``mean_removed_scores``).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

Flip = Literal["sum", "concatenate", "none"]
_PAIRS_AT_ONCE = 1 << 14


class Images(Protocol):
    """What ``embed`` reads: uint8 [N, 3, H, W], in memory or decoded slice by slice."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Tensor | NDArray[np.uint8]: ...


def embed(
    network: nn.Module,
    images: Images,
    divisor: float = 127.5,
    flip: Flip = "sum",
    batch_size: int = 128,
    device: torch.device | str | None = None,
    channels_last: bool = True,
) -> NDArray[np.float32]:
    """Un-normalised embeddings float32 [N, D] ([N, 2D] for ``flip="concatenate"``).

    Args:
        network: maps float32 [B, 3, H, W] to [B, D]; runs in eval mode without gradients, and every module gets its own
            training flag back afterwards, also after an error.
        images: uint8 [N, 3, H, W], RGB; pixels enter the network as (x - 127.5) / divisor.
        flip: "sum" adds the embedding of the mirrored image, "concatenate" puts it behind, "none" leaves it out.
        batch_size: images a forward pass (a mirrored batch is a second pass of the same size).
        device: where to run; the network is moved there and stays there. Default: where its parameters are.
        channels_last: memory layout of the input; the faster one for convolutions on CPUs and tensor cores.

    Raises TypeError when images are not uint8 (normalised images would be normalised twice), ValueError when the
    network does not return [B, D] or when an embedding is NaN or infinite (the message names the image).
    """
    if flip not in ("sum", "concatenate", "none"):
        raise ValueError(f"flip={flip!r} is unknown; choose 'sum', 'concatenate' or 'none'.")
    return np.concatenate(
        [
            _joined(plain, mirrored, flip)
            for plain, mirrored in _views(network, images, divisor, flip != "none", batch_size, device, channels_last)
        ]
    )


def embedding_norm(
    network: nn.Module,
    images: Images,
    divisor: float = 127.5,
    batch_size: int = 128,
    device: torch.device | str | None = None,
    channels_last: bool = True,
) -> float:
    """Mean L2 norm of the raw embeddings of all images and all mirror images, the "XNorm" of InsightFace's logs."""
    norms = [
        np.linalg.norm(np.concatenate((plain, mirrored)).astype(np.float64), axis=1)
        for plain, mirrored in _views(network, images, divisor, True, batch_size, device, channels_last)
    ]
    return float(np.concatenate(norms).mean())


def _joined(plain: NDArray[np.float32], mirrored: NDArray[np.float32], flip: Flip) -> NDArray[np.float32]:
    if flip == "sum":
        return plain + mirrored
    return np.concatenate((plain, mirrored), axis=1) if flip == "concatenate" else plain


def _views(
    network: nn.Module,
    images: Images,
    divisor: float,
    mirror: bool,
    batch_size: int,
    device: torch.device | str | None,
    channels_last: bool,
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Embeddings of the images and of their mirror images, batch by batch (the second empty unless ``mirror``)."""
    if len(images) == 0 or batch_size < 1:
        raise ValueError(f"There are {len(images)} images and a batch size of {batch_size}: both must be at least 1.")
    state = next((tensor for group in (network.parameters(), network.buffers()) for tensor in group), None)
    target = torch.device(device) if device is not None else state.device if state is not None else torch.device("cpu")
    network.to(target)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    with evaluating(network), torch.inference_mode():
        for start in range(0, len(images), batch_size):
            pixels = torch.as_tensor(images[start : start + batch_size])
            if pixels.dtype != torch.uint8 or pixels.ndim != 4:
                raise TypeError(
                    f"Images {start}.. are {pixels.dtype} of shape {tuple(pixels.shape)}; expected uint8 [N, 3, H, W] "
                    "with pixels from 0 to 255: they are normalised here."
                )
            batch = pixels.to(target).to(torch.float32, memory_format=layout).sub_(127.5).div_(divisor)
            plain = _forward(network, batch, start, "image")
            mirrored = _forward(network, batch.flip(-1), start, "mirrored image") if mirror else plain[:0]
            yield plain, mirrored


def _forward(network: nn.Module, batch: Tensor, start: int, what: str) -> NDArray[np.float32]:
    output = network(batch)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(batch):
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"{type(network).__name__} returned {got} for {len(batch)} images; embeddings [B, D] were expected."
        )
    finite = torch.isfinite(output).all(dim=1)
    if not finite.all():
        bad = torch.nonzero(~finite).flatten()
        raise ValueError(
            f"{type(network).__name__} gave NaN or infinite embeddings for {len(bad)} of the {len(batch)} images of a "
            f"batch, the first one for {what} {start + int(bad[0])}. The training has probably diverged."
        )
    return output.float().cpu().numpy()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module has the training flag that it had (frozen parts stay in eval mode)."""
    flags = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def pair_scores(
    embeddings: ArrayLike, first: ArrayLike, second: ArrayLike, mean: ArrayLike | None = None
) -> NDArray[np.float32]:
    """Cosine float32 [P] of the embeddings in rows ``first`` and ``second``; computed in float64, rounded once.

    Args:
        embeddings: [N, D], un-normalised. Zero rows have cosine 0 with everything.
        first, second: int [P], rows from 0 to N - 1.
        mean: [D], subtracted from every embedding before normalising.

    Raises ValueError on shapes that do not fit and IndexError on rows that do not exist.
    """
    rows, left, right = _checked(embeddings, first, second)
    used = rows.astype(np.float64)  # a copy: the caller's embeddings stay as they are
    if mean is not None:
        used -= np.asarray(mean, dtype=np.float64)
    norm = np.linalg.norm(used, axis=1, keepdims=True)
    used /= np.where(norm == 0, 1.0, norm)
    score = np.empty(len(left), dtype=np.float32)
    for start in range(0, len(left), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        score[part] = np.einsum("pd,pd->p", used[left[part]], used[right[part]])
    return score


def mean_removed_scores(
    embeddings: ArrayLike, first: ArrayLike, second: ArrayLike, fold: ArrayLike
) -> NDArray[np.float32]:
    """Cosines [F, P] whose row f has the mean embedding of all other folds removed, for ``folded_accuracy(score=...)``.

    The mean is taken over both images of every pair outside the f-th fold (an image counts as often as it is used), so
    that the held-out fold has no part in it. Rows follow the rising order of the fold labels. The score of a pair under
    its own fold is ``scores[place, arange(P)]`` with ``place = numpy.unique(fold, return_inverse=True)[1]``.

    Arguments and errors as in ``pair_scores``; ``fold`` int [P].
    """
    rows, left, right = _checked(embeddings, first, second)
    names, place = np.unique(np.asarray(fold), return_inverse=True)
    if place.shape != left.shape or len(names) < 2:
        raise ValueError(f"`fold` needs one label for each of the {len(left)} pairs and at least two different ones.")
    uses = np.zeros((len(names), len(rows)))
    for ends in (left, right):
        np.add.at(uses, (place, ends), 1.0)
    uses = uses.sum(axis=0) - uses
    means = (uses @ rows) / uses.sum(axis=1, keepdims=True)
    return np.stack([pair_scores(rows, left, right, mean=mean) for mean in means])


def _checked(
    embeddings: ArrayLike, first: ArrayLike, second: ArrayLike
) -> tuple[NDArray[np.floating], NDArray[np.integer], NDArray[np.integer]]:
    rows, left, right = np.asarray(embeddings), np.asarray(first), np.asarray(second)
    if rows.ndim != 2 or left.ndim != 1 or left.shape != right.shape:
        raise ValueError(
            f"Embeddings {rows.shape}, first {left.shape}, second {right.shape} do not fit: [N, D], [P], [P] expected."
        )
    for name, ends in (("first", left), ("second", right)):
        if ends.dtype.kind not in "iu":
            raise ValueError(f"`{name}` is {ends.dtype}; image indices are integers.")
        if len(ends) and (ends.min() < 0 or ends.max() >= len(rows)):
            raise IndexError(f"`{name}` points to image {ends.min() if ends.min() < 0 else ends.max()} of {len(rows)}.")
    return rows, left, right
