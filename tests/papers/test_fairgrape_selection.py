"""FairGRAPE's selection: the literal greedy rule, shares that are kept, invariances, and what cannot be selected."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from papers.fairgrape.baselines import keep_per_layer
from papers.fairgrape.greedy import layer_counts, select_layer, shares

RNG = np.random.default_rng(0)


def literal(importance: npt.NDArray[np.float64], count: int, target: npt.NDArray[np.float64]) -> list[int]:
    """(3) word for word: the shares themselves, one weight after the other."""
    groups = len(importance)
    share, mass = np.full(groups, 1 / groups), np.zeros(groups)
    queues = [list(np.argsort(-importance[g], kind="stable")) for g in range(groups)]
    chosen: list[int] = []
    while len(chosen) < count:
        weight = int(queues[int((share - target).argmin())].pop(0))
        if weight not in chosen:
            chosen.append(weight)
            mass += importance[:, weight]
            share = mass / mass.sum()
    return sorted(chosen)


@pytest.mark.parametrize("groups", [1, 2, 5])
@pytest.mark.parametrize("keep", [0.05, 0.5, 0.95])
def test_the_selection_is_the_literal_one(groups: int, keep: float) -> None:
    importance = RNG.random((groups, 400)) ** 6
    count = int(400 * keep)
    found = select_layer(torch.from_numpy(importance), count)
    assert found.mask.nonzero().flatten().tolist() == literal(importance, count, shares(importance))
    assert int(found.mask.sum()) == count


def test_the_selection_keeps_the_shares_that_importance_alone_loses() -> None:
    """Two groups that need different weights, the second with a tenth of the importance."""
    importance = torch.from_numpy(np.stack([RNG.random(1000) ** 3, 0.1 * RNG.random(1000) ** 3]))
    found = select_layer(importance, 100)
    plain = keep_per_layer({"": importance.sum(0)}, {"": 100})[""]
    lost = float(abs(shares(importance[:, plain].numpy()) - found.target).max())
    assert found.deviation < 0.01 < 0.02 < lost


def test_with_one_group_or_equal_groups_the_most_important_weights_stay() -> None:
    importance = torch.from_numpy(RNG.random(200))
    best = keep_per_layer({"": importance}, {"": 50})[""]
    for groups in (1, 3):
        assert torch.equal(select_layer(importance.expand(groups, 200), 50).mask, best)


@pytest.mark.parametrize(("ranking", "fixed"), [("importance", True), ("relative", False), ("squared", False)])
def test_scaling_all_importances_changes_nothing_and_scaling_one_group_does(ranking: Any, fixed: bool) -> None:
    """By the paper's ranking a group's scale matters through targets that do not follow it, by the others through the ranking."""
    importance = torch.from_numpy(RNG.random((3, 300)) ** 3)
    target = np.full(3, 1 / 3) if fixed else None
    mask = select_layer(importance, 60, target=target, ranking=ranking).mask
    assert torch.equal(select_layer(importance * 37.5, 60, target=target, ranking=ranking).mask, mask)
    scaled = importance * torch.tensor([[1.0], [20.0], [1.0]])
    assert not torch.equal(select_layer(scaled, 60, target=target, ranking=ranking).mask, mask)


def test_a_target_from_outside_is_followed() -> None:
    importance = torch.from_numpy(RNG.random((2, 500)) ** 3)
    for first in (0.4, 0.6):
        found = select_layer(importance, 150, target=np.array([first, 1 - first]))
        assert abs(found.share[0] - first) < 0.01


def test_layers_without_importance_keep_their_largest_weights() -> None:
    found = select_layer(torch.zeros(2, 2, 3), 2, magnitude=torch.tensor([[0.1, 0.5, 0.2], [0.4, 0.3, 0.0]]))
    assert found.mask.tolist() == [[False, True, False], [True, False, False]]
    assert found.target.tolist() == [0.5, 0.5]


def test_what_is_pruned_cannot_be_selected_and_survivors_are_all_there_is() -> None:
    importance = torch.from_numpy(RNG.random((2, 20)))
    alive = torch.arange(20) % 2 == 0
    assert not bool((select_layer(importance, 5, alive).mask & ~alive).any())
    assert torch.equal(select_layer(importance, 15, alive).mask, alive)


def test_layer_counts_are_exact_on_the_decimal_and_never_empty() -> None:
    counts = layer_counts({"a": torch.zeros(1000), "b": torch.zeros(10), "c": torch.zeros(18)}, 0.9)
    assert counts == {"a": 100, "b": 1, "c": 1}
    assert layer_counts({"b": torch.zeros(10)}, 0.99) == {"b": 1}


@pytest.mark.parametrize(
    ("importance", "target", "message"),
    [
        (torch.full((2, 3), -1.0), None, "negative, NaN or infinite"),
        (torch.full((2, 3), torch.nan), None, "negative, NaN or infinite"),
        (torch.ones(2, 3), np.array([0.5, 0.6]), "is no share of 2 groups"),
        (torch.ones(0, 3), None, "there is no group"),
    ],
    ids=["negative", "nan", "target", "no group"],
)
def test_selections_that_cannot_be_made(importance: Tensor, target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_layer(importance, 2, target=target)
