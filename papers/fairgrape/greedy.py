"""Which weights of a layer stay, so that every group keeps its share of the layer's importance (FairGRAPE's selection).

Symbols, for one layer of N weights and G groups
    I        importances [G, N], not negative; 0 where a weight is pruned
    T_g      share of group g that the selection aims at; sum_g T_g = 1
    M_g      importance for group g of what is selected so far
    s_g      M_g / sum_h M_h, the share that the selection has

    T_g = sum_w I_{g,w} / sum_h sum_w I_{h,w}                                                      (2)
    g* = argmin_g (s_g - T_g): the group that lacks most takes its next most important weight       (3)

Multiplied by sum_h M_h > 0, s_g - T_g becomes the deficit d_g = M_g - T_g sum_h M_h. A selected weight adds the same vector
to it whenever it comes, I_{g,w} - T_g sum_h I_{h,w}, so that a step costs one minimum and one sum of G numbers, and layers
of millions of weights are selected exactly, without an approximation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.pruning.selection import keep_count

FloatArray = npt.NDArray[np.float64]
Ranking = Literal["importance", "relative", "squared"]
RANKINGS = ("importance", "relative", "squared")
BLOCK = 8192  # candidates whose rows are turned into Python numbers at once


@dataclass(frozen=True)
class Selection:
    """What was selected in one layer.

    Attributes:
        mask: bool, shape of the weights. share: s_g of the selected weights [G]; target: T_g [G]. Both sum to 1.
    """

    mask: Tensor
    share: FloatArray
    target: FloatArray

    @property
    def deviation(self) -> float:
        """max_g |s_g - T_g|."""
        return float(np.abs(self.share - self.target).max())


def shares(importance: FloatArray) -> FloatArray:
    """Shares of the groups [G] in importances [G, N] (2); equal ones where all are zero."""
    mass = importance.sum(axis=1)
    total = mass.sum()
    return mass / total if total > 0 else np.full(len(mass), 1 / len(mass))


def select_layer(
    importance: Tensor,
    count: int,
    alive: Tensor | None = None,
    target: FloatArray | None = None,
    ranking: Ranking = "importance",
    extra_candidates: int = 0,
    magnitude: Tensor | None = None,
    literal: bool = False,
) -> Selection:
    """Select `count` weights of a layer by (3).

    Args:
        importance: I, float [G, ...]. count: K; more than there are survivors keeps all of them.
        alive: shape of one group's importance: only these can be selected; None: all.
        target: T [G], from outside; None: (2), of the importances of what is alive.
        ranking: by what a group ranks its candidates: `"importance"` I_g (the paper), `"relative"` I_g / sum_h I_h, or
            `"squared"` I_g^2 / sum_h I_h (options 1 and 2 of the official code's `delta_p`).
        extra_candidates: the group is chosen anew only after so many more candidates (`para_batch` of the official code, whose
            default is 1); 0 is exactly (3).
        magnitude: |w|, shape of one group's importance: the order in a layer whose importances are all zero.
        literal: with the other two rankings, add what the official code adds: it overwrites the importances of a group by
            its ranking when it reaches that group, so that a weight picked for group g adds rankings for the groups up to
            g and importances for the later ones.

    Returns:
        Selection. Of equal rankings the lower position comes first.

    Raises:
        ValueError: importances that are negative or not finite, no group, or a target of another length or that is no share.
    """
    groups, shape = importance.shape[0], importance.shape[1:]
    places = np.arange(shape.numel())
    if alive is not None:
        places = np.flatnonzero(alive.detach().cpu().numpy().ravel())
    raw = importance.detach().reshape(groups, shape.numel()).double().cpu().numpy()[:, places]
    _check(raw, target)
    aim = shares(raw) if target is None else np.asarray(target, dtype=np.float64)
    if count >= len(places):
        chosen = np.ones(len(places), dtype=bool)
    elif not raw.any():
        # 0/0 in (2): nothing tells the groups apart, so equal targets and the largest weights.
        order = np.arange(len(places))
        if magnitude is not None:
            order = np.argsort(-magnitude.detach().reshape(-1).cpu().numpy()[places], kind="stable")
        chosen = np.zeros(len(places), dtype=bool)
        chosen[order[: max(0, count)]] = True
    else:
        ranked = _ranked(raw, ranking)
        chosen = _greedy(raw, ranked, aim, max(0, count), extra_candidates, literal)
    mask = np.zeros(shape.numel(), dtype=bool)
    mask[places[chosen]] = True
    return Selection(torch.from_numpy(mask.reshape(tuple(shape))), shares(raw[:, chosen]), aim)


def _check(raw: FloatArray, target: FloatArray | None) -> None:
    if not len(raw):
        raise ValueError("there is no group: importances are [groups, ...], with at least one group")
    if not np.isfinite(raw).all() or (raw < 0).any():
        raise ValueError("an importance is negative, NaN or infinite; the network that was scored has diverged")
    if target is not None:
        aim = np.asarray(target, dtype=np.float64)
        if aim.shape != (len(raw),) or (aim < 0).any() or not np.isclose(aim.sum(), 1):
            raise ValueError(
                f"the target {aim.tolist()} is no share of {len(raw)} groups: not negative, with a sum of 1"
            )


def _ranked(raw: FloatArray, ranking: Ranking) -> FloatArray:
    if ranking not in RANKINGS:
        raise ValueError(f"ranking is {ranking!r}; expected one of {', '.join(RANKINGS)}")
    if ranking == "importance":
        return raw
    total = raw.sum(axis=0)
    over = raw if ranking == "relative" else raw * raw
    return np.divide(over, total, out=np.zeros_like(raw), where=total > 0)


def _greedy(
    raw: FloatArray, ranked: FloatArray, target: FloatArray, count: int, extra_candidates: int, literal: bool
) -> npt.NDArray[np.bool_]:
    """(3) over the survivors: bool [N]."""
    selected = np.zeros(raw.shape[1], dtype=np.uint8)
    taken = memoryview(selected.data)  # the same bytes; single ones are read and written five times as fast
    # Where the group is chosen before every candidate, those already selected change nothing and are left out early.
    known = None if extra_candidates else selected
    queues = [_queue(g, raw, ranked, target, literal, known) for g in range(len(raw))]
    # No mass yet: every share is 1/G.
    deficit: list[float] = (1 / len(raw) - target).tolist()
    left, begun, examined, group = count, False, 0, 0
    while left:
        if examined % (extra_candidates + 1) == 0:
            group = deficit.index(min(deficit))
        examined += 1
        candidate = next(queues[group], None)
        if candidate is None:  # this group has nothing more to offer: another one takes its turn
            deficit[group], examined = float("inf"), 0
            continue
        place, row = candidate
        if taken[place]:
            continue
        taken[place] = 1
        left -= 1
        deficit = [a + b for a, b in zip(deficit, row, strict=True)] if begun else row
        begun = begun or any(row)
    return selected.astype(bool)


def _queue(
    group: int,
    raw: FloatArray,
    ranked: FloatArray,
    target: FloatArray,
    literal: bool,
    selected: npt.NDArray[np.uint8] | None,
) -> Iterator[tuple[int, list[float]]]:
    """Candidates of a group, best first: place, and what selecting it adds to the deficits of all groups [G].

    Args:
        selected: bool [N] as it changes; those that are selected when their block comes are left out. None: all come.
    """
    order = np.argsort(-ranked[group], kind="stable")
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        if selected is not None:
            block = block[selected[block] == 0]
        mass = raw[:, block]
        if literal:
            mass = np.concatenate([ranked[: group + 1, block], raw[group + 1 :, block]])
        gain = mass - target[:, None] * mass.sum(axis=0)
        yield from zip(block.tolist(), gain.T.tolist(), strict=True)


def layer_counts(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, int]:
    """K of every layer: numel (1 - sparsity), rounded down, computed exactly on the decimal, and at least 1.

    The official code computes it in floating point, so that 1,000 weights at 0.9 keep 99 there and 100 here.
    """
    return {name: max(1, keep_count(w.numel(), sparsity, "keep_fewer")) for name, w in weights.items()}
