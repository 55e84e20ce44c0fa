"""k-fold verification: equality with the official routine, the protocol's edge cases, and its speed."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from common.evaluation.scores import ScoreList
from common.evaluation.verification import (
    DISTANCE_GRID,
    contiguous_folds,
    folded_accuracy,
    pair_distances,
    val_at_far,
)

Loop = tuple[NDArray[np.float64], NDArray[np.int64]]


def loop_over_thresholds(distance: NDArray, same: NDArray, fold: NDArray) -> Loop:
    """The protocol word for word, one threshold after the other, as the official evaluation walks through it."""
    accuracy, best = np.zeros(10), np.zeros(10, dtype=int)
    for f in range(10):
        train, test = fold != f, fold == f
        on_train = np.zeros(len(DISTANCE_GRID))
        for j, threshold in enumerate(DISTANCE_GRID):
            accepted = distance[train] < threshold
            hits = np.sum(np.logical_and(accepted, same[train]))
            rejections = np.sum(np.logical_and(~accepted, ~same[train]))
            on_train[j] = (hits + rejections) / train.sum()
        best[f] = np.argmax(on_train)
        accuracy[f] = np.mean((distance[test] < DISTANCE_GRID[best[f]]) == same[test])
    return accuracy, best


def made_up(pairs: int, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Cosines [P] and labels [P]; every tenth of the list holds both kinds."""
    rng = np.random.default_rng(seed)
    same = rng.random(pairs) < 0.5
    return np.clip(rng.normal(0.1 + 0.3 * same, 0.15), -1, 1), same


@pytest.mark.parametrize("name", ["lfw10fold", "lfw10fold_odd"])
def test_official_ten_folds(golden: Path, name: str) -> None:
    want = np.load(golden / "_fr_evaluation" / f"{name}.npz")
    got = folded_accuracy(want["issame"], distance=pair_distances(want["embeddings"]))
    np.testing.assert_array_equal(got.fold_accuracy, want["accuracy_per_fold"])
    np.testing.assert_array_equal(got.threshold_index, want["best_threshold_index"])
    assert got.accuracy == want["acc_mean"]
    assert got.std == pytest.approx(want["acc_std"], abs=1e-12)
    np.testing.assert_allclose(got.tpr, want["tpr"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.fpr, want["fpr"], rtol=0, atol=1e-12)
    val = val_at_far(want["issame"], distance=pair_distances(want["embeddings"]))
    assert (val.val, val.std, val.far) == (want["val_at_far1e3"], want["val_std"], want["far_mean"])


def test_official_validation_rate(golden: Path) -> None:
    want = np.load(golden / "_fr_evaluation" / "val_far.npz")
    distance = pair_distances(want["embeddings_raw"])
    np.testing.assert_array_equal(
        folded_accuracy(want["issame"], distance=distance).fold_accuracy, want["accuracy_per_fold"]
    )
    got = val_at_far(want["issame"], distance=distance)
    assert got.val == pytest.approx(want["val_at_far1e3"], abs=1e-12)
    assert got.std == pytest.approx(want["val_std"], abs=1e-12)
    assert got.far == pytest.approx(want["far_mean"], abs=1e-12)


def test_scores_and_distances_agree(golden: Path) -> None:
    want = np.load(golden / "_fr_evaluation" / "lfw10fold.npz")
    cosine = (want["embeddings"][0::2] * want["embeddings"][1::2]).sum(axis=1)
    for score in (cosine, cosine.astype(np.float32)):
        got = folded_accuracy(want["issame"], score=score)
        np.testing.assert_array_equal(got.fold_accuracy, want["accuracy_per_fold"])


def test_threshold_is_strict() -> None:
    distance = np.array([1.0, 1.0, 3.0, 3.0])  # cosine 0.5 is distance 1.0 = the hundredth threshold exactly
    same = np.array([True, True, False, False])
    got = folded_accuracy(same, distance=distance, fold=[0, 1, 0, 1])
    assert got.threshold_index.tolist() == [101, 101]
    assert got.accuracy == 1.0
    assert folded_accuracy(same, score=1 - distance / 2, fold=[0, 1, 0, 1]).threshold_index.tolist() == [101, 101]
    identical = folded_accuracy(same, distance=distance - 1.0, fold=[0, 1, 0, 1])
    assert identical.threshold_index.tolist() == [1, 1]  # nothing lies below the threshold 0
    assert (identical.tpr[0], identical.tpr[1]) == (0.0, 1.0)


def test_identical_impostors_and_tied_zeros() -> None:
    distance, same = np.zeros(8), np.tile([True, False], 4)
    got = folded_accuracy(same, distance=distance, folds=4)
    np.testing.assert_array_equal(got.fold_accuracy, np.full(4, 0.5))
    assert (got.fpr[0], got.fpr[1], got.threshold_index.tolist()) == (0.0, 1.0, [0] * 4)


@pytest.mark.parametrize("kind", ["contiguous", "blocks out of order", "interleaved", "gaps"])
def test_fold_arrays_against_the_loop(kind: str) -> None:
    score, same = made_up(503, seed=5)
    fold = {
        "contiguous": contiguous_folds(503),
        "blocks out of order": 9 - contiguous_folds(503),
        "interleaved": np.arange(503) % 10,
        "gaps": contiguous_folds(503),
    }[kind]
    accuracy, best = loop_over_thresholds(2 - 2 * score, same, fold)
    got = folded_accuracy(same, score=score, fold=3 * fold + 1 if kind == "gaps" else fold)
    np.testing.assert_array_equal(got.fold_accuracy, accuracy)
    np.testing.assert_array_equal(got.threshold_index, best)
    threshold = DISTANCE_GRID[best][fold]
    np.testing.assert_array_equal(got.correct, ((2 - 2 * score) < threshold) == same)
    assert got.std == pytest.approx(np.std(accuracy), abs=1e-15)


@pytest.mark.parametrize("ties", ["first", "mean"])
def test_float32_cosines_are_decided_as_their_float64_distances(ties: Literal["first", "mean"]) -> None:
    score, same = made_up(20_000, seed=8)
    score[::3] = 1 - DISTANCE_GRID[np.arange(len(score[::3])) % 400] / 2  # at or one rounding off a threshold
    given = score.astype(np.float32)
    got = folded_accuracy(same, score=given, ties=ties)
    distance = np.maximum(2 - 2 * given.astype(np.float64), 0)
    accuracy, best = loop_over_thresholds(distance, same, contiguous_folds(20_000))
    np.testing.assert_array_equal(got.threshold_index, best)
    np.testing.assert_array_equal(got.correct, (distance < got.threshold[contiguous_folds(20_000)]) == same)
    if ties == "first":
        np.testing.assert_array_equal(got.fold_accuracy, accuracy)


def test_uneven_threshold_grid() -> None:
    score, same = made_up(400, seed=6)
    grid = np.sort(np.random.default_rng(1).uniform(-0.5, 4, 57))
    got = folded_accuracy(same, score=score, thresholds=grid)
    fold, distance = contiguous_folds(400), 2 - 2 * score
    for f in range(10):
        train = fold != f
        hits = [np.sum((distance[train] < t) == same[train]) for t in grid]
        assert got.threshold_index[f] == np.argmax(hits)


def test_mean_of_equally_good_thresholds() -> None:
    distance, same = np.tile([1.0, 3.0], 4), np.tile([True, False], 4)
    got = folded_accuracy(same, distance=distance, folds=4, thresholds=np.arange(0, 4.25, 0.5), ties="mean")
    assert got.threshold.tolist() == [(1.5 + 2.0 + 2.5 + 3.0) / 4] * 4
    assert got.threshold_index.tolist() == [3] * 4  # the first of them
    first = folded_accuracy(same, distance=distance, folds=4, thresholds=np.arange(0, 4.25, 0.5))
    assert first.threshold.tolist() == [1.5] * 4
    moved = np.append(distance[:-2], [2.0, 2.0])  # the held-out pairs fall on different sides of the two rules
    same[-1] = True
    assert folded_accuracy(same, distance=moved, folds=4, ties="mean").fold_accuracy[3] == 1.0
    assert folded_accuracy(same, distance=moved, folds=4).fold_accuracy[3] == 0.0


def test_scores_that_depend_on_the_fold() -> None:
    score, same = made_up(300, seed=7)
    fold = contiguous_folds(300)
    rows = np.stack([np.clip(score + 0.01 * f, -1, 1) for f in range(10)])
    got = folded_accuracy(same, score=rows)
    for f in range(10):
        alone = folded_accuracy(same, score=rows[f])
        assert got.fold_accuracy[f] == alone.fold_accuracy[f]
        assert got.threshold[f] == alone.threshold[f]
        np.testing.assert_array_equal(got.correct[fold == f], alone.correct[fold == f])
    repeated = folded_accuracy(same, score=np.tile(score, (10, 1)))
    np.testing.assert_array_equal(repeated.fold_accuracy, folded_accuracy(same, score=score).fold_accuracy)


def test_curves_count_zero_where_a_fold_lacks_a_kind() -> None:
    distance = np.array([0.5, 0.5, 1.5, 1.5, 0.5, 1.5])
    same = np.array([True, True, False, False, True, False])
    got = folded_accuracy(same, distance=distance, fold=[0, 0, 1, 1, 2, 2])
    assert got.tpr[100] == pytest.approx(2 / 3)  # folds: 1, no genuine pair, 1


def test_contiguous_folds_put_the_rest_first() -> None:
    assert np.bincount(contiguous_folds(237)).tolist() == [24] * 7 + [23] * 3
    with pytest.raises(ValueError, match="cannot be cut"):
        contiguous_folds(5, folds=10)


def test_zero_embeddings_stay_zero() -> None:
    rows = np.array([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(pair_distances(rows), [1.0, 2.0])
    with pytest.raises(ValueError, match="even number of rows"):
        pair_distances(rows[:3])


def test_refusals() -> None:
    score, same = made_up(100)
    with pytest.raises(ValueError, match="no impostor pair"):
        folded_accuracy([False] * 50 + [True] * 50, score=score, fold=[0] * 50 + [1] * 50)
    with pytest.raises(ValueError, match="no genuine pair"):
        folded_accuracy([True] * 50 + [False] * 50, score=score, fold=[0] * 50 + [1] * 50)
    with pytest.raises(ValueError, match="first at pair 3"):
        folded_accuracy(same, score=np.where(np.arange(100) == 3, np.nan, score))
    with pytest.raises(ValueError, match=r"expected \(100,\)"):
        folded_accuracy(same, score=score[:-1])
    with pytest.raises(ValueError, match="cosines lie in"):
        folded_accuracy(same, score=2 - 2 * score)
    with pytest.raises(ValueError, match="not negative"):
        folded_accuracy(same, distance=score - 2)
    with pytest.raises(ValueError, match="only one of them"):
        folded_accuracy(same, score=score, distance=score)
    with pytest.raises(ValueError, match="only one of them"):
        folded_accuracy(same)
    with pytest.raises(ValueError, match="at least two"):
        folded_accuracy(same, score=score, fold=np.zeros(100, dtype=int))
    with pytest.raises(ValueError, match="one integer"):
        folded_accuracy(same, score=score, fold=np.zeros(100))
    with pytest.raises(ValueError, match="numbered from 0"):
        folded_accuracy(same, score=score, fold=np.arange(100) % 10 - 1)
    with pytest.raises(ValueError, match="ascending"):
        folded_accuracy(same, score=score, thresholds=DISTANCE_GRID[::-1])
    with pytest.raises(ValueError, match="undefined"):
        val_at_far([True] * 6 + [False, True, False], distance=np.ones(9), fold=[0, 0, 0, 1, 1, 1, 1, 2, 2])


def fastest(*pieces: Callable[[], object], repetitions: int) -> list[float]:
    """Shortest processor time of each piece, measured in turns: other programs on the machine do not count."""
    times = np.full((repetitions, len(pieces)), np.inf)
    for repetition in range(repetitions):
        for index, piece in enumerate(pieces):
            start = time.process_time()
            piece()
            times[repetition, index] = time.process_time() - start
    return times.min(axis=0).tolist()


@pytest.mark.speed
def test_thirty_times_the_speed_of_the_loop() -> None:
    score, same = made_up(6000)
    distance, fold = 2 - 2 * score, contiguous_folds(6000)
    accuracy, _ = loop_over_thresholds(distance, same, fold)
    np.testing.assert_array_equal(folded_accuracy(same, distance=distance, fold=fold).fold_accuracy, accuracy)
    loop, ours = fastest(
        lambda: loop_over_thresholds(distance, same, fold),
        lambda: folded_accuracy(same, distance=distance, fold=fold),
        repetitions=5,
    )
    assert loop / ours >= 30


@pytest.mark.speed
@pytest.mark.parametrize(("dtype", "sorts"), [(np.float64, 3.0), (np.float32, 4.5)])
def test_all_rates_cost_a_few_sorts(dtype: type, sorts: float) -> None:
    """All metrics of a million scores against one ``np.sort`` of the same array, measured in turns.

    Included: the checks of scores, labels and folds, 10-fold accuracy with the decision on every pair, the EER, TAR at
    two FARs and a 512-point DET curve. Measured with AVX-512: 2.4 to 2.7 sorts for float64. NumPy sorts float32 nearly
    twice as fast; parting by label, counting and the folds gain little from the shorter numbers: 3.4 to 3.8 sorts
    (1.9 of the float64 list), hence the wider bound.
    """
    score, same = made_up(1_000_000)
    given, fold = score.astype(dtype), contiguous_folds(len(score))

    def everything() -> None:
        folded_accuracy(same, score=given, fold=fold)
        scores = ScoreList(given, same)
        assert 0 < scores.eer < scores.tar_at_far(1e-2).tar
        scores.tar_at_far(1e-3)
        scores.det()

    sort, ours = fastest(lambda: np.sort(given), everything, repetitions=40)
    assert ours / sort <= sorts
