"""Which generated images are compared: identity-disjoint folds with balanced genuine and within-group impostor
pairs, as RFW does it.

RFW (Wang et al., "Racial Faces in the Wild", ICCV 2019, section 3) tests every group by itself on pairs of its own
people.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from datasets.generated.nuisance import FRONTAL_YAW, SIDE_YAW
from datasets.pairs import PairSet

FOLDS = 10
ANY, EASY, TURNED = 0, 1, 2
"""What an image can serve as: anything; frontal and unobstructed; from the side and unobstructed."""

Fits = Callable[[np.ndarray, np.ndarray], np.ndarray]


def views(yaw: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """ANY, EASY or TURNED of images by their yaw (radians) [N] and whether nothing hides the face [N]."""
    turn = np.abs(yaw)
    frontal, side = clear & (turn < FRONTAL_YAW + 1e-6), clear & (turn > SIDE_YAW[0] - 1e-6)
    return np.where(frontal, EASY, np.where(side, TURNED, ANY))


@dataclass(frozen=True)
class Protocol:
    """One list of pairs over a pool of images."""

    name: str
    pairs: int
    """Most genuine pairs in a fold of a group; there are as many impostor pairs. Fewer if the pool holds fewer that
    fit, and then equally few in every group, so that folds stay balanced over groups and over genuine and impostor
    pairs."""
    fits: Fits
    """Whether images of these views may be compared; vectorised and symmetric."""


def anyhow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.ones(np.broadcast(a, b).shape, dtype=bool)


def both_frontal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a == EASY) & (b == EASY)


def across_pose(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a == EASY) & (b == TURNED)) | ((a == TURNED) & (b == EASY))


def protocols(mixed: int) -> tuple[Protocol, ...]:
    """The pair sets: "mixed" any two images, "frontal" two frontal and unobstructed ones (easy), "cross_pose" one such
    image and one from the side (hard)."""
    smaller = max(1, mixed // 3)
    return (
        Protocol("mixed", mixed, anyhow),
        Protocol("frontal", smaller, both_frontal),
        Protocol("cross_pose", smaller, across_pose),
    )


def candidates(subject: np.ndarray, view: np.ndarray, members: np.ndarray, fits: Fits) -> tuple[np.ndarray, np.ndarray]:
    """All genuine and all impostor pairs [n,2] of the images `members` that fit."""
    a, b = np.triu_indices(len(members), 1)
    a, b = members[a], members[b]
    allowed = fits(view[a], view[b])
    pairs = np.stack([a[allowed], b[allowed]], axis=1)
    same = subject[pairs[:, 0]] == subject[pairs[:, 1]]
    return pairs[same], pairs[~same]


def build(
    protocol: Protocol,
    images: torch.Tensor,
    subject: np.ndarray,
    group: np.ndarray,
    view: np.ndarray,
    group_names: tuple[str, ...],
    key: tuple[int, int],
    divisor: float,
) -> PairSet:
    """The pair set of `protocol` over images [N,3,H,W] with their subject, group and view (see `views`), each [N].

    The identities of a group are dealt to the folds in turn, so no identity stands in two folds. `key` seeds the
    choice among the pairs that fit. Raises ValueError when a fold of a group holds fewer than two identities or no
    pair that fits.
    """
    rng = np.random.default_rng((*key, *protocol.name.encode()))
    fold_of = np.empty(len(subject), dtype=np.int64)
    for g in range(len(group_names)):
        people = np.unique(subject[group == g])
        if len(people) < 2 * FOLDS:
            raise ValueError(
                f"Group {group_names[g]} has {len(people)} test identities; "
                f"{FOLDS} identity-disjoint folds with impostor pairs need at least {2 * FOLDS}."
            )
        mine = group == g
        fold_of[mine] = np.searchsorted(people, subject[mine]) % FOLDS
    columns: list[tuple[np.ndarray, bool, int, int]] = []
    for fold in range(FOLDS):
        cells = [
            candidates(subject, view, np.flatnonzero((group == g) & (fold_of == fold)), protocol.fits)
            for g in range(len(group_names))
        ]
        count = min(protocol.pairs, *(len(part) for cell in cells for part in cell))
        if count == 0:
            raise ValueError(
                f"Fold {fold} of {protocol.name!r} has a group without a fitting pair; "
                "use more test identities or images."
            )
        for (g, cell), same in itertools.product(enumerate(cells), (True, False)):
            pool = cell[0] if same else cell[1]
            columns.append((pool[rng.permutation(len(pool))[:count]], same, fold, g))
    pairs = np.concatenate([part for part, _, _, _ in columns])
    lengths = [len(part) for part, _, _, _ in columns]
    return PairSet(
        name=protocol.name,
        images=images,
        first=pairs[:, 0],
        second=pairs[:, 1],
        same=np.repeat([same for _, same, _, _ in columns], lengths),
        fold=np.repeat([fold for _, _, fold, _ in columns], lengths),
        subject=subject,
        group=np.repeat([g for _, _, _, g in columns], lengths),
        group_names=group_names,
        divisor=divisor,
    )
