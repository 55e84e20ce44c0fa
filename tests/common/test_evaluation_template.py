"""Templates of IJB: equality with the official routines, and scoring of millions of pairs in little memory."""

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from common.evaluation.scores import ScoreList
from common.evaluation.template import quality_weighted, template_features, template_rows, template_scores


def unit_rows(count: int, dimensions: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_official_templates_and_scores(golden: Path) -> None:
    want = np.load(golden / "_fr_evaluation" / "ijb.npz")
    features = quality_weighted(want["feats"], want["feats_flip"], want["det_score"])
    templates, labels = template_features(features, want["template_id"], want["media_id"])
    np.testing.assert_array_equal(labels, want["unique_templates"])
    # The official code averages in float32, ours in float64: one unit in the last place of float32.
    np.testing.assert_allclose(templates, want["template_feats"], rtol=0, atol=2e-7)
    first, second = (template_rows(labels, ends) for ends in want["pairs"].T)
    score = template_scores(templates, first, second)
    np.testing.assert_allclose(score, want["score"], rtol=0, atol=3e-7)
    tar = [ScoreList(score, want["label"]).nearest_far(far).tar for far in want["far_points"]]
    np.testing.assert_allclose(tar, want["tar"], rtol=0, atol=1e-12)


def test_media_are_averaged_then_added() -> None:
    features = np.array([[2.0, 0.0], [4.0, 0.0], [0.0, 3.0], [0.0, 4.0]])
    templates, labels = template_features(
        features, [7, 7, 7, 3], [1, 1, 2, 1]
    )  # label 1 is another medium in template 3
    assert labels.tolist() == [3, 7]
    np.testing.assert_allclose(templates, [[0.0, 1.0], np.array([3.0, 3.0]) / np.sqrt(18)], atol=1e-7)


def test_features_that_cancel_stay_zero() -> None:
    templates, _ = template_features(np.array([[1.0, 0.0], [-1.0, 0.0]]), [0, 0], [0, 0])
    np.testing.assert_array_equal(templates, [[0.0, 0.0]])


@pytest.mark.parametrize("block_bytes", [1, 4 * 97 * 10, 1 << 26])
@pytest.mark.parametrize("pairs", [20, 5000])  # gathered rows, matrix product
def test_blocks_do_not_change_scores(block_bytes: int, pairs: int) -> None:
    templates = unit_rows(97, 8)
    first, second = np.random.default_rng(1).integers(0, 97, (2, pairs))
    want = (templates.astype(np.float64) @ templates.T.astype(np.float64))[first, second]
    got = template_scores(templates, first, second, block_bytes=block_bytes, pairs_at_once=700)
    np.testing.assert_allclose(got, want, atol=1e-6)
    small = template_scores(templates, first.astype(np.int32), second.astype(np.int32), block_bytes=block_bytes)
    np.testing.assert_allclose(small, want, atol=1e-6)


def test_scores_can_be_written_to_a_file(tmp_path: Path) -> None:
    templates = unit_rows(10, 4)
    first, second = np.random.default_rng(2).integers(0, 10, (2, 300))
    out = np.memmap(tmp_path / "scores", dtype=np.float32, mode="w+", shape=(300,))
    assert template_scores(templates, first, second, out=out) is out
    np.testing.assert_array_equal(out, template_scores(templates, first, second))


def test_two_million_pairs_in_bounded_memory() -> None:
    templates = unit_rows(3000, 64)
    first, second = np.random.default_rng(3).integers(0, 3000, (2, 2_000_000), dtype=np.int32)
    out = np.empty(len(first), dtype=np.float32)
    block_bytes, pairs_at_once = 1 << 22, 1 << 17
    template_scores(templates, first[:500_000], second[:500_000], block_bytes, pairs_at_once, out[:500_000])
    peaks = []
    for part in (slice(0, 500_000), slice(None)):
        tracemalloc.start()
        template_scores(templates, first[part], second[part], block_bytes, pairs_at_once, out[part])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # NumPy's part; the block of the score matrix (torch's) has its fixed size on top. A score matrix would take 36 MB,
    # gathered rows 1 GB.
    assert peaks[1] < 48 * pairs_at_once
    assert peaks[1] < 1.1 * peaks[0]  # four times the pairs, the same memory
    sample = slice(0, 2_000_000, 9973)
    want = np.einsum("pd,pd->p", templates[first[sample]], templates[second[sample]])
    np.testing.assert_allclose(out[sample], want, atol=1e-6)


def test_block_of_the_score_matrix_keeps_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    multiply = torch.mm

    def recorded(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        sizes.append(4 * out.numel())
        return multiply(left, right, out=out)

    monkeypatch.setattr(torch, "mm", recorded)
    first, second = np.random.default_rng(4).integers(0, 500, (2, 10_000))
    template_scores(unit_rows(500, 8), first, second, block_bytes=100_000)
    assert len(sizes) == 10
    assert max(sizes) <= 100_000


def test_refusals() -> None:
    templates, index = unit_rows(5, 3), np.array([0, 1])
    with pytest.raises(IndexError, match="5 templates"):
        template_scores(templates, index, np.array([0, 5]))
    with pytest.raises(IndexError, match="first"):
        template_scores(templates, np.array([-1, 0]), index)
    with pytest.raises(ValueError, match=r"\[T, D\]"):
        template_scores(templates, index, np.array([0]))
    with pytest.raises(ValueError, match="float32"):
        template_scores(templates, index, index, out=np.empty(2))
    with pytest.raises(KeyError, match="Template 9"):
        template_rows([1, 4], [4, 9])
    with pytest.raises(KeyError, match="Template 2"):
        template_rows([1, 4], [2])
    with pytest.raises(ValueError, match="do not fit"):
        quality_weighted(np.ones((2, 3)), np.ones((2, 3)), np.ones(3))
    with pytest.raises(ValueError, match="do not fit"):
        template_features(np.ones((2, 3)), [0, 0], [0])
    with pytest.raises(ValueError, match="first one template 4"):
        template_features(np.array([[1.0], [np.nan]]), [1, 4], [0, 0])


@pytest.mark.speed
def test_scoring_costs_little_more_than_the_matrix_product() -> None:
    """IJB-C has 34 times fewer pairs than the matrix of all templates has entries; here it is 18 times fewer."""
    templates = unit_rows(3000, 512)
    rows = torch.from_numpy(templates)
    first, second = np.random.default_rng(5).integers(0, 3000, (2, 500_000))
    first.sort()  # pair lists come template by template
    product = np.empty(3)
    ours = np.empty(3)
    for turn in range(3):
        start = time.perf_counter()
        torch.mm(rows, rows.T)
        middle = time.perf_counter()
        template_scores(templates, first, second)
        product[turn], ours[turn] = middle - start, time.perf_counter() - middle
    assert ours.min() / product.min() <= 2.0
