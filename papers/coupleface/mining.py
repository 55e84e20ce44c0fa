"""Which other identities each identity is compared with, found from one teacher embedding an identity.

Memory is linear in the number of identities L: similarities exist for `block` x `block` pairs at a time, never for L x L.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 1024


class Prototypes:
    """p_l, the normalised mean of the normalised teacher embeddings of identity l, gathered batch by batch.

    Args:
        identities: L. size: d. device: where the sums are kept.
    """

    def __init__(self, identities: int, size: int, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros(identities, size, device=device)
        self.counts = torch.zeros(identities, dtype=torch.int64, device=device)

    def add(self, embedding: Tensor, labels: Tensor) -> None:
        """Count embeddings [B, d] of images with labels int64 [B].

        Raises:
            ValueError: the teacher's embeddings do not have d dimensions.
        """
        if embedding.shape[1] != self.sums.shape[1]:
            raise ValueError(
                f"the teacher embeds faces in {embedding.shape[1]} dimensions and the student in {self.sums.shape[1]}: "
                "relations between the two need the same number; give both networks one embedding_size"
            )
        self.sums.index_add_(0, labels, F.normalize(embedding).to(self.sums.dtype))
        self.counts.index_add_(0, labels, torch.ones_like(labels))

    @property
    def present(self) -> Tensor:
        """bool [L]: the identities that have at least one image."""
        return self.counts > 0

    def unit(self) -> Tensor:
        """p, float32 [L, d]; rows of length 1, of zeros for an identity without images."""
        return F.normalize(self.sums)


@torch.no_grad()
def nearest_identities(prototypes: Tensor, count: int, present: Tensor | None = None, block: int = BLOCK) -> Tensor:
    """H: for each identity l the `count` identities k != l of highest R(p_l, p_k), nearest first.

    Args:
        prototypes: unit rows, float [L, d]. count: K. present: bool [L], identities that may be chosen; None for all.
        block: rows and columns of the similarities that exist at a time.

    Returns:
        int32 [L, K].

    Raises:
        ValueError: there are not K other identities.
    """
    check_count(count, len(prototypes) if present is None else int(present.sum()))
    blocks = [prototypes[first : first + block] for first in range(0, len(prototypes), block)]
    return torch.cat([_nearest(rows, at * block, blocks, count, present, block) for at, rows in enumerate(blocks)])


def _nearest(
    rows: Tensor, first_row: int, blocks: list[Tensor], count: int, present: Tensor | None, block: int
) -> Tensor:
    """The nearest of some identities, block of others by block of others; those kept so far compete with the next block."""
    own = torch.arange(first_row, first_row + len(rows), device=rows.device)
    scores, found = rows.new_empty(len(rows), 0), own.new_empty(len(rows), 0)
    for at, others in enumerate(blocks):
        names = torch.arange(at * block, at * block + len(others), device=rows.device)
        cosine = rows @ others.T
        cosine.masked_fill_(own[:, None] == names, -torch.inf)
        if present is not None:
            cosine.masked_fill_(~present[names], -torch.inf)
        rivals = torch.cat([scores, cosine], 1)
        scores, place = rivals.topk(min(count, rivals.shape[1]))
        found = torch.cat([found, names.expand(len(rows), -1)], 1).gather(1, place)
    return found.to(torch.int32)


def random_identities(identities: int, count: int, seed: int) -> Tensor:
    """The control of H: for each identity `count` different others, each other one equally likely.

    The identities are laid out on a circle in random order, and everybody is given the neighbours at the same K random
    distances.

    Returns:
        int32 [L, K].

    Raises:
        ValueError: there are not K other identities.
    """
    check_count(count, identities)
    generator = torch.Generator().manual_seed(seed)
    circle = torch.randperm(identities, generator=generator)
    distances = 1 + torch.randperm(identities - 1, generator=generator)[:count]
    chosen = torch.empty(identities, count, dtype=torch.int32)
    chosen[circle] = circle[(torch.arange(identities)[:, None] + distances) % identities].to(torch.int32)
    return chosen


def last_of_each(labels: Tensor) -> Tensor:
    """For each row the last row with its label: int64 [N] -> int64 [N].

    Writing `values[last_of_each(labels)]` to rows `labels` gives the same result in whatever order duplicates are written.
    """
    order = labels.argsort(stable=True)
    known = labels[order]
    return order[torch.searchsorted(known, labels, right=True) - 1]


def check_count(count: int, identities: int) -> None:
    """Raises ValueError unless 1 <= count < identities."""
    if not 1 <= count < identities:
        raise ValueError(
            f"num_hard_ids is {count}, but the training data have {identities} identities: choose 1 to {identities - 1}; "
            "about 5 % of the identities is a good start"
        )
