"""Mining: the identities the teacher finds hardest to tell apart, in memory that grows with their number and no faster."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from papers.coupleface.mining import Prototypes, last_of_each, nearest_identities, random_identities


def unit(rows: int, size: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)))


def test_the_nearest_of_three_prototypes() -> None:
    half = 1 / math.sqrt(2)
    prototypes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [half, half]])
    assert nearest_identities(prototypes, 1)[:2].tolist() == [[2], [2]]
    assert nearest_identities(prototypes, 2)[0].tolist() == [2, 1]


@pytest.mark.parametrize("block", [3, 7, 50, 64])
def test_blocks_give_what_the_whole_matrix_gives(block: int) -> None:
    prototypes = unit(50, 6)
    similar = prototypes @ prototypes.T
    similar.fill_diagonal_(-2.0)
    assert torch.equal(nearest_identities(prototypes, 9, block=block).long(), similar.topk(9).indices)


def test_an_identity_without_images_is_never_chosen() -> None:
    prototypes = unit(12, 4)
    prototypes[5] = 0
    present = torch.arange(12) != 5
    assert 5 in nearest_identities(prototypes, 10)
    assert 5 not in nearest_identities(prototypes, 10, present)
    with pytest.raises(ValueError, match="11 identities"):
        nearest_identities(prototypes, 11, present)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_memory_is_linear_in_the_number_of_identities() -> None:
    """L = 8,000 with K = 20: a matrix of all pairs would have 64 million elements."""
    identities, count, block = 8_000, 20, 500
    with Largest() as largest:
        chosen = nearest_identities(unit(identities, 8), count, block=block)
    assert chosen.shape == (identities, count)
    assert largest.elements <= max(block * (block + count), identities * max(count, 8))
    with Largest() as largest:
        random_identities(identities, count, 0)
    assert largest.elements <= identities * count


def test_random_identities_are_different_others_and_all_alike_likely() -> None:
    chosen = random_identities(30, 12, seed=4)
    assert chosen.dtype == torch.int32
    for identity, others in enumerate(chosen.tolist()):
        assert len(set(others)) == 12
        assert identity not in others
        assert min(others) >= 0
        assert max(others) < 30
    assert torch.equal(chosen, random_identities(30, 12, seed=4))
    assert not torch.equal(chosen, random_identities(30, 12, seed=5))
    how_often = torch.bincount(torch.cat([random_identities(8, 2, seed=s)[0] for s in range(700)]).long(), minlength=8)
    assert how_often[0] == 0
    assert how_often[1:].min() > 150  # 200 expected, standard deviation 12
    assert how_often[1:].max() < 250


@pytest.mark.parametrize("count", [0, 12])
def test_more_hard_identities_than_there_are_others_is_refused(count: int) -> None:
    for choose in (lambda: nearest_identities(unit(12, 3), count), lambda: random_identities(12, count, 0)):
        with pytest.raises(ValueError, match=f"num_hard_ids is {count}, but the training data have 12 identities"):
            choose()


def test_prototypes_are_normalised_means_of_normalised_embeddings() -> None:
    prototypes = Prototypes(3, 2)
    prototypes.add(torch.tensor([[5.0, 0.0], [0.0, 0.1]]), torch.tensor([0, 0]))
    prototypes.add(torch.tensor([[0.0, 7.0], [-3.0, 0.0]]), torch.tensor([0, 2]))
    length = math.sqrt(5)  # of (1, 0) + (0, 1) + (0, 1)
    assert torch.allclose(prototypes.unit(), torch.tensor([[1 / length, 2 / length], [0.0, 0.0], [-1.0, 0.0]]))
    assert prototypes.present.tolist() == [True, False, True]
    with pytest.raises(ValueError, match="embeds faces in 3 dimensions and the student in 2"):
        prototypes.add(torch.zeros(1, 3), torch.tensor([0]))


def test_of_equal_labels_the_last_one_wins() -> None:
    labels = torch.tensor([4, 1, 4, 9, 1, 4, 0])
    assert last_of_each(labels).tolist() == [5, 4, 5, 3, 4, 5, 6]
