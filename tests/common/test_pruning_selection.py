"""Selections: exactly k, ties by position, nested, at least one a layer; and what official codes select."""

import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.pruning import (
    EmptiedLayerWarning,
    histogram_threshold,
    keep_count,
    keep_largest,
    removed_indices,
    select_globally,
    select_per_layer,
    shuffle_within_layers,
)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.integers(-2, 45), st.data())
def test_exactly_k_are_kept_and_none_better_is_pruned(values: list[int], count: int, data: st.DataObject) -> None:
    scores = torch.tensor(values, dtype=torch.float32)
    among = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    mask = keep_largest(scores, count, among)
    assert int(mask.sum()) == min(max(count, 0), int(among.sum()))
    assert not bool((mask & ~among).any())
    # the same by sorting: ascending, stable, the first ones go
    order = sorted((float(scores[i]), i) for i in range(len(values)) if among[i])
    expected = [i for _, i in order[max(0, len(order) - max(count, 0)) :]]
    assert mask.nonzero().flatten().tolist() == sorted(expected)


def test_of_equal_scores_the_first_is_pruned_first() -> None:
    assert keep_largest(torch.tensor([1.0, 2.0, 1.0, 1.0]), 2).tolist() == [False, True, False, True]
    assert keep_largest(torch.zeros(2, 3), 2).tolist() == [[False] * 3, [False, True, True]]


def test_counts_are_exact_on_the_decimal() -> None:
    assert keep_count(1000, 0.9) == 100
    assert int(1000 * (1 - 0.9)) == 99, "which floating point would have given"
    assert keep_count(1000, 0.9, "keep_fewer") == keep_count(1000, 0.9, "keep_more") == 100
    assert [keep_count(10, 0.25, how) for how in ("nearest", "nearest_pruned", "keep_more", "keep_fewer")] == [
        8,
        8,
        8,
        7,
    ]
    assert [keep_count(14, 0.25, how) for how in ("nearest", "nearest_pruned")] == [10, 10]
    assert [keep_count(35, 0.1, how) for how in ("nearest", "nearest_pruned")] == [32, 31]
    assert keep_count(266_610, 0.95) == round(Fraction(266_610) / 20) == 13_330
    assert keep_count(7, 0.0) == 7
    # kept filters of Li et al.'s ResNets: int(c (1 - p))
    asked = [(16, 0.1), (32, 0.1), (64, 0.1), (16, 0.6), (32, 0.3), (32, 0.4), (64, 0.3)]
    assert [keep_count(c, p, "keep_fewer") for c, p in asked] == [14, 28, 57, 6, 22, 19, 44]
    with pytest.raises(ValueError, match="rounding is 'up'"):
        keep_count(7, 0.5, "up")  # type: ignore[arg-type]


@pytest.mark.parametrize("sparsity", [1.0, 1.5, -0.1, float("nan")])
def test_sparsity_lies_below_one(sparsity: float) -> None:
    scores = {"fc": torch.rand(4)}
    for select in (select_per_layer, select_globally):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
            select(scores, sparsity)


def test_refusals() -> None:
    for select in (select_per_layer, select_globally):
        with pytest.raises(ValueError, match="no layer to prune"):
            select({}, 0.5)
        with pytest.raises(ValueError, match="NaN or infinite"):
            select({"fc": torch.tensor([1.0, float("nan")])}, 0.5)
        with pytest.raises(ValueError, match=r"masks so far have none of shape \[4\] for fc"):
            select({"fc": torch.rand(4)}, 0.5, {"fc": torch.ones(5)})
    with pytest.raises(ValueError, match=r"scores of fc2: a score is NaN"):
        select_per_layer({"fc1": torch.rand(4), "fc2": torch.tensor([torch.inf])}, 0.5)
    with pytest.raises(ValueError, match="no sparsity is given for fc2"):
        select_per_layer({"fc1": torch.rand(4), "fc2": torch.rand(4)}, {"fc1": 0.5})


def test_globally_exactly_k_with_at_least_one_a_layer_and_one_warning() -> None:
    scores = {"a": torch.arange(100.0) + 1000, "b": torch.arange(50.0), "c": torch.arange(10.0) - 500}
    with pytest.warns(EmptiedLayerWarning, match="fewer than 1 in b, c; 1 each were kept") as caught:
        masks = select_globally(scores, 0.9)
    assert len(caught) == 1
    assert [int(mask.sum()) for mask in masks.values()] == [14, 1, 1]
    assert masks["b"].nonzero().flatten().tolist() == [49], "the best of the layer"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = select_globally(scores, 0.9, minimum=0)
        assert [int(mask.sum()) for mask in plain.values()] == [16, 0, 0]
        kept = select_globally({name: torch.rand(100) for name in "abc"}, 0.5)
        assert sum(int(mask.sum()) for mask in kept.values()) == 150
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for _ in range(3):
            select_globally(scores, 0.9)
    assert len(shown) == 1, "once for a loop over rounds"


def test_per_layer_at_least_one() -> None:
    with pytest.warns(EmptiedLayerWarning, match="fewer than 1 in tiny"):
        masks = select_per_layer({"big": torch.rand(100), "tiny": torch.tensor([3.0, 9.0, 1.0])}, 0.9)
    assert int(masks["big"].sum()) == 10
    assert masks["tiny"].tolist() == [False, True, False]


@pytest.mark.parametrize("select", [select_per_layer, select_globally])
def test_masks_are_nested_and_reach_their_sparsity(select) -> None:
    alive = {"a": torch.ones(20, 30), "b": torch.ones(300)}
    for round_, sparsity in enumerate((0.2, 0.5, 0.5, 0.9)):
        torch.manual_seed(round_)
        scores = {name: torch.randn(mask.shape) for name, mask in alive.items()}  # new scores every time
        masks = select(scores, sparsity, alive)
        assert all(bool((alive[name] != 0)[mask].all()) for name, mask in masks.items())
        assert sum(int(mask.sum()) for mask in masks.values()) == keep_count(900, sparsity)
        alive = masks
    share = select({name: torch.randn(mask.shape) for name, mask in alive.items()}, 0.5, alive, of="remaining")
    assert sum(int(mask.sum()) for mask in share.values()) == 45
    looser = select({name: torch.randn(mask.shape) for name, mask in alive.items()}, 0.2, alive)
    assert all(torch.equal(looser[name], alive[name]) for name in alive), "what is pruned stays pruned"


def test_scores_of_permuted_weights_give_permuted_masks() -> None:
    scores, order = torch.rand(40, 5), torch.randperm(40)
    mask = select_per_layer({"fc": scores}, 0.7)["fc"]
    assert torch.equal(select_per_layer({"fc": scores[order]}, 0.7)["fc"], mask[order])


# --- official codes ---


def test_lottery_ticket_code_of_google(golden: Path) -> None:
    vectors = np.load(golden / "lottery_ticket/google_prune_by_percent.npz")
    layers = ["layer0", "layer1", "layer2"]
    shares = dict(zip(layers, (0.2, 0.2, 0.1), strict=True))
    alive = {name: torch.ones(vectors[f"l1_w_{name}"].shape) for name in layers}
    for level in range(1, 5):
        scores = {name: tensor(vectors[f"l{level}_w_{name}"]).abs() for name in layers}
        official = {name: tensor(vectors[f"l{level}_mask_{name}"]).bool() for name in layers}
        got = select_per_layer(scores, shares, alive, of="remaining", rounding="nearest_pruned", extra=1)
        exact = select_per_layer(scores, shares, alive, of="remaining", rounding="nearest_pruned")
        for name in layers:
            assert torch.equal(got[name], official[name])
            assert int(exact[name].sum()) == int(official[name].sum()) + 1, "it prunes one too many"
        alive = official


@pytest.mark.parametrize("name", ["mlp", "mlp_ignorefc", "resnet"])
def test_open_lths_global_pruning(golden: Path, name: str) -> None:
    vectors = np.load(golden / f"lottery_ticket/open_lth_sparse_global_{name}.npz")
    layers = [key[len("l1_w_") :] for key in vectors.files if key.startswith("l1_w_")]
    scored = [layer for layer in layers if not (name == "mlp_ignorefc" and layer == "fc.weight")]
    alive = {layer: torch.ones(vectors[f"l1_w_{layer}"].shape) for layer in layers}
    for level in range(1, 4):
        counted = sum(int((mask != 0).sum()) for mask in alive.values())  # ignored layers are counted
        scores = {layer: tensor(vectors[f"l{level}_w_{layer}"]).abs() for layer in scored}
        living = {layer: alive[layer] for layer in scored}
        options = {"of": "remaining", "rounding": "keep_fewer", "counted": counted}
        got = select_globally(scores, 0.2, living, extra=1, **options)
        exact = select_globally(scores, 0.2, living, **options)
        official = {layer: tensor(vectors[f"l{level}_mask_{layer}"]).bool() for layer in layers}
        assert all(torch.equal(got[layer], official[layer]) for layer in scored)
        assert sum(int(m.sum()) for m in exact.values()) == sum(int(official[layer].sum()) for layer in scored) + 1
        alive = official


def test_open_lths_shuffled_masks(golden: Path) -> None:
    vectors = np.load(golden / "lottery_ticket/open_lth_seeded_utils.npz")
    masks = {name: tensor(vectors[f"mask_{name}"]) for name in ("b", "a")}
    got = shuffle_within_layers(masks, int(vectors["seed"]))
    assert list(got) == ["b", "a"]
    for name, mask in got.items():
        assert torch.equal(mask, tensor(vectors[f"mask_shuffled_{name}"]))
        assert int(mask.sum()) == int(masks[name].sum())


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.75, 0.9])
def test_gradual_prunings_thresholds(golden: Path, sparsity: float) -> None:
    vectors = np.load(golden / "to_prune_or_not/schedules_and_masks.npz")
    weights = tensor(vectors["w"])
    distiller = select_per_layer({"w": weights.abs()}, sparsity, rounding="keep_more")["w"]
    assert torch.equal(distiller, tensor(vectors[f"distiller_level_mask_{sparsity}"]).bool())
    threshold = histogram_threshold(weights, sparsity)
    assert threshold == pytest.approx(float(vectors[f"tf_hist_threshold_{sparsity}"]), rel=1e-12)
    assert torch.equal(weights.abs() > threshold, tensor(vectors[f"tf_hist_mask_{sparsity}"]).bool())
    assert histogram_threshold(torch.zeros(5), sparsity) == 0


def test_nisps_neurons(golden: Path) -> None:
    vectors = np.load(golden / "nisp/derived_propagation.npz")
    for scores, kept in (("mlp_frl", "mlp_keep2"), ("mlp_s1", "mlp_keep1"), ("mlp_s0", "mlp_keep0")):
        masks = select_per_layer({"fc": tensor(vectors[scores])}, 0.5)
        assert torch.equal(masks["fc"], tensor(vectors[kept]).bool())
        assert removed_indices(masks)["fc"] == np.flatnonzero(vectors[kept] == 0).tolist()
    assert removed_indices({"fc": torch.ones(3)}) == {}
