"""From scores to masks: how many are kept, and which.

Everywhere exactly as many are kept as were asked for. Of equal scores the one at the lower position is pruned first, so that
a selection is the same on every machine. What official codes do differently is an option, off by default.

Scores are tensors by parameter or layer name, of any shape: one number a weight, or one a filter.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["nearest", "nearest_pruned", "keep_more", "keep_fewer"]
Share = Literal["all", "remaining"]
ROUNDINGS: Mapping[str, Callable[[Fraction, int], int]] = {
    "nearest": lambda kept, total: round(kept),
    "nearest_pruned": lambda kept, total: total - round(total - kept),
    "keep_more": lambda kept, total: math.ceil(kept),
    "keep_fewer": lambda kept, total: math.floor(kept),
}


class EmptiedLayerWarning(UserWarning):
    """A layer would have lost everything, and something of it was kept."""


def keep_count(total: int, sparsity: float, rounding: Rounding = "nearest") -> int:
    """How many of `total` are kept at a sparsity, computed exactly on the decimal as it is written: (1000, 0.9) -> 100.

    Args:
        rounding: of total (1 - sparsity): `"nearest"` (halves to even), `"nearest_pruned"` (the pruned number is rounded so),
            `"keep_more"` (up: floor(s N) are pruned) or `"keep_fewer"` (down, as in `int(channels * (1 - ratio))`).

    Raises:
        ValueError: sparsity outside [0, 1), or another rounding.
    """
    check_sparsity(sparsity)
    kept = total * (1 - Fraction(repr(float(sparsity))))
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding is {rounding!r}; expected one of {', '.join(ROUNDINGS)}")
    return ROUNDINGS[rounding](kept, total)


def check_sparsity(sparsity: float) -> None:
    """Raises ValueError for a sparsity outside [0, 1)."""
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity is {sparsity}, but must lie in [0, 1): it is the share of weights that is pruned")


def keep_largest(scores: Tensor, count: int, among: Tensor | None = None) -> Tensor:
    """Mask of the `count` largest scores: exactly as many, of equal scores the later ones.

    Args:
        scores: any shape. count: how many are kept; more than there are keeps all.
        among: bool, shape of the scores: only these can be kept.

    Returns:
        bool, shape of the scores.

    Raises:
        ValueError: a score is NaN or infinite.
    """
    flat = scores.detach().flatten()
    if not bool(torch.isfinite(flat).all()):
        raise ValueError("a score is NaN or infinite; the network that was scored has diverged")
    places = None if among is None else among.flatten().nonzero().flatten()
    candidates = flat if places is None else flat[places]
    pruned = len(candidates) - max(0, count)
    if pruned <= 0:
        chosen = torch.ones_like(candidates, dtype=torch.bool)
    elif count <= 0:
        chosen = torch.zeros_like(candidates, dtype=torch.bool)
    else:
        threshold = candidates.kthvalue(pruned).values
        ties = candidates == threshold
        surplus = pruned - int((candidates < threshold).sum())
        chosen = (candidates > threshold) | (ties & (ties.cumsum(0) > surplus))
    if places is None:
        return chosen.reshape(scores.shape)
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[places] = chosen
    return mask.reshape(scores.shape)


def select_per_layer(
    scores: Mapping[str, Tensor],
    sparsity: float | Mapping[str, float],
    alive: Mapping[str, Tensor] | None = None,
    of: Share = "all",
    rounding: Rounding = "nearest",
    extra: int = 0,
    minimum: int = 1,
) -> dict[str, Tensor]:
    """Prune every layer to its own sparsity.

    Args:
        scores: by layer; the larger, the more important.
        sparsity: pruned share, one for all layers or one a layer.
        alive: masks so far, by layer; what is pruned stays pruned, so that masks are nested.
        of: the sparsity is a share of `"all"` of the layer's weights (the state to reach), or of the `"remaining"` ones.
        rounding: see `keep_count`.
        extra: prune that many more; 1 is what google-research/lottery-ticket-hypothesis and FairGRAPE's magnitude rule do.
        minimum: of a layer that would lose more, so many are kept, with an `EmptiedLayerWarning`; 0 allows empty layers.

    Returns:
        Masks by layer: bool, shape of the scores, True where kept.

    Raises:
        ValueError: no layer, a sparsity outside [0, 1) or missing, or a score that is not finite.
    """
    _check(scores, alive)
    masks, emptied = {}, []
    for name, layer in scores.items():
        if isinstance(sparsity, Mapping) and name not in sparsity:
            raise ValueError(f"no sparsity is given for {name}; give one for each of {', '.join(scores)}")
        share = sparsity[name] if isinstance(sparsity, Mapping) else sparsity
        living = None if alive is None else alive[name] != 0
        left = layer.numel() if living is None else int(living.sum())
        count = keep_count(layer.numel() if of == "all" else left, share, rounding) - extra
        least = min(minimum, left)
        if count < least:
            emptied.append(name)
        masks[name] = _named(name, layer, max(count, least), living)
    _warn(emptied, minimum)
    return masks


def select_globally(
    scores: Mapping[str, Tensor],
    sparsity: float,
    alive: Mapping[str, Tensor] | None = None,
    of: Share = "all",
    rounding: Rounding = "nearest",
    extra: int = 0,
    minimum: int = 1,
    counted: int | None = None,
) -> dict[str, Tensor]:
    """Prune all layers together by one ranking of their scores.

    Args:
        scores, alive, of, rounding, minimum, extra: as in `select_per_layer`. A layer that is kept at its minimum takes the
            place of the smallest scores of others, so that the total is exact. open_lth prunes `extra=1` too many.
        counted: how many weights the sparsity is a share of, where that is not all scored ones: open_lth counts the weights
            of the layers that it never prunes.

    Returns:
        Masks by layer, as `select_per_layer`.

    Raises:
        ValueError: no layer, a sparsity outside [0, 1), or a score that is not finite.
    """
    _check(scores, alive)
    living = {name: torch.ones_like(layer, dtype=torch.bool) for name, layer in scores.items()}
    if alive is not None:
        living = {name: alive[name].to(layer.device) != 0 for name, layer in scores.items()}
    everything = torch.cat([layer.detach().flatten() for layer in scores.values()])
    open_places = torch.cat([mask.flatten() for mask in living.values()])
    left = int(open_places.sum())
    scored = len(everything) if of == "all" else left
    base = scored if counted is None else counted
    count = scored - (base - keep_count(base, sparsity, rounding)) - extra
    # What each layer is sure of: its best ones. If none would be emptied, these are among the largest anyway.
    sure = {name: _named(name, layer, minimum, living[name]) for name, layer in scores.items()}
    sure_places = torch.cat([mask.flatten() for mask in sure.values()])
    chosen = keep_largest(everything, count - int(sure_places.sum()), open_places & ~sure_places) | sure_places
    emptied = []
    if minimum:
        plain = _split(keep_largest(everything, count, open_places), scores)
        emptied = [name for name in scores if int(plain[name].sum()) < int(sure[name].sum())]
    _warn(emptied, minimum)
    return _split(chosen, scores)


def shuffle_within_layers(masks: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Masks with as many kept weights in each layer at random positions: the control that asks whether positions matter.

    Layer number i in alphabetical order is permuted by the sorted order of normal draws of a CPU generator with seed + i.
    """
    shuffled = {}
    for i, name in enumerate(sorted(masks)):
        flat = masks[name].flatten()
        draws = torch.randn(len(flat), generator=torch.Generator().manual_seed(seed + i))
        shuffled[name] = flat[draws.argsort().to(flat.device)].reshape(masks[name].shape)
    return {name: shuffled[name] for name in masks}


def histogram_threshold(weights: Tensor, sparsity: float, bins: int = 255) -> float:
    """The magnitude below which tensorflow.contrib.model_pruning prunes: the edge of a histogram bin, not an exact rank.

    |w| is binned over [0, max |w|]; the threshold is the number of bins whose cumulative share is below the sparsity, in
    units of a bin. Masks are |w| > threshold. contrib smooths it over updates: new = 0.9 old + 0.1 threshold.
    """
    check_sparsity(sparsity)
    magnitude = weights.detach().abs().flatten()
    largest = float(magnitude.max())
    if largest == 0:
        return 0.0
    place = (magnitude / largest * bins).long().clamp_(max=bins - 1)
    cumulative = torch.bincount(place, minlength=bins).cumsum(0) / len(magnitude)
    return int((cumulative < sparsity).sum()) / bins * largest


def removed_indices(masks: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Positions that one-dimensional masks (one value a filter) prune, by layer; layers that lose nothing are left out."""
    indices = {name: (mask == 0).nonzero().flatten().tolist() for name, mask in masks.items()}
    return {name: positions for name, positions in indices.items() if positions}


def _named(name: str, scores: Tensor, count: int, among: Tensor | None) -> Tensor:
    try:
        return keep_largest(scores, count, None if among is None else among.to(scores.device))
    except ValueError as error:
        raise ValueError(f"scores of {name}: {error}") from error


def _split(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    pieces = flat.split([layer.numel() for layer in like.values()])
    return {name: piece.reshape(layer.shape) for (name, layer), piece in zip(like.items(), pieces, strict=True)}


def _check(scores: Mapping[str, Tensor], alive: Mapping[str, Tensor] | None) -> None:
    if not scores:
        raise ValueError("there is no layer to prune: the scores are empty")
    for name in scores if alive is not None else ():
        assert alive is not None
        if name not in alive or alive[name].shape != scores[name].shape:
            raise ValueError(f"the masks so far have none of shape {list(scores[name].shape)} for {name}")


def _warn(emptied: list[str], minimum: int) -> None:
    if emptied and minimum:
        # Python shows equal warnings of one place once, so that a loop over rounds does not repeat it.
        warnings.warn(
            f"the sparsity would have left fewer than {minimum} in {', '.join(emptied)}; {minimum} each were kept",
            EmptiedLayerWarning,
            stacklevel=3,
        )
