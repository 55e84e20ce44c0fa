"""1:N identification: the official periocular ranks, a gallery worked out by hand, and block-wise search against plain
loops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from common.evaluation.identification import Search, search


def at_angles(*degrees: float) -> NDArray[np.float64]:
    """Points on a circle of radius 2 (embeddings need not be normalised); nearer angles score higher."""
    radians = np.deg2rad(degrees)
    return 2.0 * np.stack((np.cos(radians), np.sin(radians)), axis=1)


# Subject 1 has two entries, at 0 and 80 degrees; 2 and 3 have one each; subject 4 has two.
GALLERY, OWNER = at_angles(0, 80, 20, 40, 120, 125), [1, 1, 2, 3, 4, 4]
PROBE, SUBJECT = at_angles(5, 26, 39, 118, 90, 21, 121), [1, 3, 1, 4, 2, 9, 9]
# Best mate, and the entries of others nearer than it:   5 deg, subject 1: mate at 5 deg                              ->
# rank 1  26 deg, subject 3: mate at 14 deg; entry 20 at 6 deg          -> rank 2  39 deg, subject 1: mate at 39 (0); 40
# at 1 deg, 20 at 19 deg  -> rank 3 118 deg, subject 4: mate at 2 deg                              -> rank 1  90 deg,
# subject 2: mate at 70; 80, 120, 125, 40               -> rank 5 by entry; subjects 1, 4, 3 -> rank 4 by subject
RANK_BY_ENTRY, RANK_BY_SUBJECT = [1, 2, 3, 1, 5, 0, 0], [1, 2, 3, 1, 4, 0, 0]


def by_hand(rank_by: str = "entry") -> Search:
    return search(GALLERY, OWNER, PROBE, SUBJECT, rank_by=rank_by)


def test_official_periocular_ranks(golden: Path) -> None:
    want = np.load(golden / "periocular_quant" / "metrics.npz")
    rows, labels = want["embeddings"], want["labels"]
    cmc = search(rows, labels, rows, labels, exclude=np.arange(len(rows))).cmc()
    assert cmc[0] == pytest.approx(want["rank1"], abs=1e-12)
    assert cmc[4] == pytest.approx(want["rank5"], abs=1e-12)


def test_ranks_by_hand() -> None:
    result = by_hand()
    assert result.mate_rank.tolist() == RANK_BY_ENTRY
    assert result.mated.tolist() == [True] * 5 + [False] * 2
    angles = [5, 14, 39, 2, 70]
    np.testing.assert_allclose(result.mate_score[:5], np.cos(np.deg2rad(angles)), atol=1e-6)
    np.testing.assert_allclose(result.top_score, np.cos(np.deg2rad([15, 6, 1, 38, 10, 1, 1])), atol=1e-6)
    by_subject = by_hand("subject")
    assert by_subject.mate_rank.tolist() == RANK_BY_SUBJECT
    assert (result.candidates, by_subject.candidates) == (6, 4)
    np.testing.assert_array_equal(by_subject.top_score, result.top_score)


def test_cmc_by_hand() -> None:
    closed = search(GALLERY, OWNER, PROBE[:5], SUBJECT[:5])
    np.testing.assert_allclose(closed.cmc(), [0.4, 0.6, 0.8, 0.8, 1.0, 1.0])
    np.testing.assert_allclose(closed.cmc(ranks=2), [0.4, 0.6])
    with pytest.raises(ValueError, match="first probe 5"):
        by_hand().cmc()


def test_open_set_by_hand() -> None:
    result = by_hand()
    # The strangers (probes 5 and 6) reach cos 1 deg both. Rank-1 mates: 5 and 2 degrees away.
    strict = result.at_fpir(0.0)
    assert strict.threshold == pytest.approx(np.cos(np.deg2rad(1)), abs=1e-6)
    assert (strict.fpir, strict.fnir, strict.mated, strict.nonmated) == (0.0, 1.0, 5, 2)
    loose = result.at_threshold(float(np.cos(np.deg2rad(4))))
    assert (loose.fpir, loose.dir) == (1.0, pytest.approx(1 / 5))
    assert result.at_threshold(float(np.cos(np.deg2rad(45))), rank=3).fnir == pytest.approx(1 / 5)
    assert result.at_fpir(1.0).dir == pytest.approx(2 / 5)
    assert result.at_fpir(1.0, rank=5).dir == 1.0
    assert not result.at_fpir(0.5).reliable


def test_fpir_keeps_its_promise() -> None:
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(40, 8))
    mated = gallery + rng.normal(size=(40, 8))
    result = search(gallery, np.arange(40), np.concatenate((mated, rng.normal(size=(500, 8)))), np.arange(540))
    for fpir in (0.01, 0.05, 0.3):
        point = result.at_fpir(fpir)
        top = result.top_score[40:]
        assert point.fpir == np.mean(top > point.threshold) == pytest.approx(fpir)
        hits = (result.mate_score[:40] > point.threshold) & (result.mate_rank[:40] == 1)
        assert point.dir == pytest.approx(hits.mean())
        assert point.reliable == (fpir >= 0.02)


@pytest.mark.parametrize("rank_by", ["entry", "subject"])
@pytest.mark.parametrize("block_bytes", [1, 4 * 60 * 7, 1 << 26])
def test_blocks_against_loops(rank_by: str, block_bytes: int) -> None:
    rng = np.random.default_rng(1)
    gallery, owner = rng.normal(size=(60, 5)), rng.integers(0, 25, 60)
    probe, subject = rng.normal(size=(33, 5)), rng.integers(0, 30, 33)
    exclude = rng.integers(-1, 60, 33)
    result = search(gallery, owner, probe, subject, exclude=exclude, rank_by=rank_by, block_bytes=block_bytes)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (probe, gallery)]
    scores = unit[0] @ unit[1].T
    for q in range(33):
        allowed = np.arange(60) != exclude[q]
        mates, others = (owner == subject[q]) & allowed, (owner != subject[q]) & allowed
        assert result.mated[q] == mates.any()
        assert result.top_score[q] == pytest.approx(scores[q, others].max(), abs=1e-6)
        if mates.any():
            better = others & (scores[q] > scores[q, mates].max())
            assert result.mate_rank[q] == 1 + (len(set(owner[better])) if rank_by == "subject" else better.sum())
            assert result.mate_score[q] == pytest.approx(scores[q, mates].max(), abs=1e-6)
        else:
            assert result.mate_rank[q] == 0


def test_collapsed_network_gets_the_worst_rank() -> None:
    gallery, probe = np.tile([1.0, 0.0], (6, 1)), np.tile([1.0, 0.0], (3, 1))
    result = search(gallery, np.arange(6), probe, [0, 3, 5])
    assert result.mate_rank.tolist() == [6, 6, 6]
    assert result.cmc()[4] == 0.0


def test_score_matrix_is_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    multiply = torch.Tensor.__matmul__

    def recorded(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        product = multiply(left, right)
        shapes.append(tuple(product.shape))
        return product

    monkeypatch.setattr(torch.Tensor, "__matmul__", recorded)
    rng = np.random.default_rng(2)
    search(rng.normal(size=(1000, 4)), np.arange(1000), rng.normal(size=(500, 4)), np.arange(500), block_bytes=80_000)
    assert shapes == [(20, 1000)] * 25


def test_refusals() -> None:
    with pytest.raises(ValueError, match="need both kinds"):
        search(GALLERY, OWNER, PROBE[:5], SUBJECT[:5]).at_threshold(0.5)
    with pytest.raises(ValueError, match="unknown subjects"):
        search(GALLERY, OWNER, PROBE[:5], SUBJECT[:5]).at_fpir(0.1)
    with pytest.raises(ValueError, match="dimensions"):
        search(GALLERY, OWNER, np.ones((2, 3)), [1, 2])
    with pytest.raises(ValueError, match="gallery embeddings"):
        search(GALLERY, OWNER[:-1], PROBE, SUBJECT)
    with pytest.raises(ValueError, match=r"probe embeddings .* do not fit"):
        search(GALLERY, OWNER, PROBE[:0], [])
    with pytest.raises(ValueError, match="first in row 1"):
        search(GALLERY, OWNER, np.array([[1.0, 0.0], [np.nan, 0.0]]), [1, 2])
    with pytest.raises(ValueError, match="'subject'"):
        search(GALLERY, OWNER, PROBE, SUBJECT, rank_by="image")
    with pytest.raises(ValueError, match="for each of 7 probes"):
        search(GALLERY, OWNER, PROBE, SUBJECT, exclude=[0])
    with pytest.raises(IndexError, match="0 to 5"):
        search(GALLERY, OWNER, PROBE, SUBJECT, exclude=[6] * 7)
