"""Error rates of a score list: the official periocular and IJB numbers, scikit-learn's ROC, and cases worked out by
hand."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from common.evaluation.scores import ScoreList, accepted_allowance, threshold_at_rate

GENUINE, IMPOSTOR = [0.9, 0.8, 0.4], [0.5, 0.3, 0.1]


def hand() -> ScoreList:
    return ScoreList(GENUINE + IMPOSTOR, [True] * 3 + [False] * 3)


def test_official_periocular_metrics(golden: Path) -> None:
    want = np.load(golden / "periocular_quant" / "metrics.npz")
    scores = ScoreList(want["scores"], want["pair_label"])
    assert scores.eer_nearest.far == want["eer"]
    # The official threshold is the lowest accepted score, ours the highest rejected one.
    assert want["scores"][want["scores"] > scores.eer_nearest.threshold].min() == pytest.approx(
        want["eer_thr"], abs=1e-7
    )
    assert scores.auc == pytest.approx(want["auc"], abs=1e-12)
    for power in range(2, 7):
        point = scores.nearest_far(10.0**-power, tie="lowest_tar")
        assert point.fnmr == pytest.approx(want[f"fnmr_1e_{power}"], abs=1e-12)


def test_official_ijb_points(golden: Path) -> None:
    want = np.load(golden / "_fr_evaluation" / "ijb.npz")
    scores = ScoreList(want["score"], want["label"])
    got = [scores.nearest_far(far).tar for far in want["far_points"]]
    np.testing.assert_allclose(got, want["tar"], rtol=0, atol=1e-12)


def test_hand_computed_rates() -> None:
    scores = hand()
    assert scores.auc == pytest.approx(8 / 9)
    assert scores.eer_nearest.far == pytest.approx(1 / 3)
    assert scores.eer == pytest.approx(1 / 3)
    at_zero = scores.tar_at_far(0.0)
    assert (at_zero.threshold, at_zero.far, at_zero.tar) == (0.5, 0.0, pytest.approx(2 / 3))
    at_half = scores.tar_at_far(0.5)  # floor(1.5) = 1 impostor may be accepted
    assert (at_half.threshold, at_half.accepted_impostors, at_half.tar) == (0.3, 1, 1.0)
    assert scores.tar_at_far(1.0).far == 1.0
    assert scores.fnmr_at_fmr(0.0).fnmr == pytest.approx(1 / 3)


def test_tied_impostors_are_rejected_together() -> None:
    scores = ScoreList([0.9, 0.2, 0.5, 0.5, 0.5, 0.1], [1, 1, 0, 0, 0, 0])
    point = scores.tar_at_far(0.5)  # two of four allowed, but three share the score 0.5
    assert (point.threshold, point.far, point.tar) == (0.5, 0.0, 0.5)
    assert scores.tar_at_far(0.75).far == 0.75


def test_points_with_few_impostors_are_flagged() -> None:
    score = np.linspace(0, 1, 2000)
    scores = ScoreList(score, np.arange(2000) % 2)
    assert scores.tar_at_far(0.01).reliable  # 10 of 1,000
    assert not scores.tar_at_far(0.0099).reliable
    assert scores.point(0.5).reliable


def test_allowance_is_exact() -> None:
    assert math.floor(0.29 * 100) == 28  # what floating point makes of it
    assert accepted_allowance(0.29, 100) == 29
    assert accepted_allowance(1e-3, 6000) == 6
    assert threshold_at_rate(np.arange(100.0), 0.29) == 70.0
    with pytest.raises(ValueError, match="from 0 to 1"):
        accepted_allowance(1.2, 10)


def test_all_scores_equal_is_chance() -> None:
    scores = ScoreList([0.3] * 10, [0, 1] * 5)
    assert scores.eer == scores.auc == 0.5
    assert scores.tar_at_far(0.5).tar == 0.0


def test_perfect_and_inverted_lists() -> None:
    score, same = [0.1, 0.2, 0.8, 0.9], np.array([0, 0, 1, 1])
    assert (ScoreList(score, same).eer, ScoreList(score, same).auc) == (0.0, 1.0)
    assert (ScoreList(score, 1 - same).eer, ScoreList(score, 1 - same).auc) == (1.0, 0.0)


small_lists = st.lists(st.tuples(st.integers(-6, 6), st.booleans()), min_size=2, max_size=40).filter(
    lambda pairs: len({same for _, same in pairs}) == 2
)


@settings(max_examples=80, deadline=None)
@given(small_lists)
def test_against_scikit_learn_and_counting(pairs: list[tuple[int, bool]]) -> None:
    score = np.array([value for value, _ in pairs], dtype=np.float32) / 8
    same = np.array([label for _, label in pairs])
    scores = ScoreList(score, same)
    assert scores.auc == pytest.approx(roc_auc_score(same, score), abs=1e-12)
    for thinned in (False, True):
        curve = scores.roc(thinned)
        far, tar, _ = roc_curve(same, score, drop_intermediate=thinned)
        np.testing.assert_allclose(curve.far, far, atol=1e-12)
        np.testing.assert_allclose(curve.tar, tar, atol=1e-12)
    for threshold in (-1.0, -0.3, 0.0, 0.125, 0.1 + 1e-12):
        point = scores.point(threshold)
        assert point.far == np.mean(score[~same].astype(np.float64) > threshold)
        assert point.tar == np.mean(score[same].astype(np.float64) > threshold)
    for far in (0.0, 0.1, 0.25, 0.5, 1.0):
        point = scores.tar_at_far(far)
        assert point.far <= far
        lower = np.append(scores.impostor[scores.impostor < point.threshold], -np.inf).max()
        assert point.threshold == -np.inf or np.mean(score[~same] > lower) > far  # no lower threshold would do
    assert scores.eer == pytest.approx(1 - ScoreList(-score, same).eer, abs=1e-9)  # negation turns the ROC around
    assert scores.eer == pytest.approx(ScoreList(-score, ~same).eer, abs=1e-9)


def test_eer_lies_on_the_interpolated_roc() -> None:
    rng = np.random.default_rng(3)
    same = rng.random(999) < 0.3
    scores = ScoreList(np.round(rng.normal(size=999) + same, 1), same)
    curve = scores.roc()
    fine = np.linspace(0, 1, 200_001)
    fnmr = 1 - np.interp(fine, curve.far, curve.tar)
    assert scores.eer == pytest.approx(fine[np.argmin(np.abs(fnmr - fine))], abs=1e-5)


def test_det_points_are_points_of_the_list() -> None:
    rng = np.random.default_rng(4)
    same = rng.random(5000) < 0.5
    scores = ScoreList((rng.normal(size=5000) + same).astype(np.float32), same)
    curve = scores.det(points=100)
    assert curve.far[0] == 0.0
    assert curve.far[-1] == 1.0
    assert (np.diff(curve.far) > 0).all()
    assert len(curve.far) <= 101
    for index in (0, 30, 60):
        point = scores.point(float(curve.threshold[index]))
        assert (point.fmr, point.fnmr) == (curve.fmr[index], pytest.approx(curve.fnmr[index], abs=1e-12))


@pytest.mark.parametrize(
    ("score", "same", "message"),
    [
        ([0.1, 0.2], [1, 1], "is impostor"),
        ([0.1, 0.2], [0, 0], "is genuine"),
        ([0.1, math.nan, 0.3], [0, 1, 1], "first at position 1"),
        ([0.1, -math.inf, 0.3], [0, 1, 1], "first at position 1"),
        ([0.1, 0.2, 0.3], [0, 1], "do not fit"),
        ([0.1, 0.2], [0, 2], "other than 0 and 1"),
        ([[0.1], [0.2]], [[0], [1]], "shape"),
    ],
)
def test_refusals(score: list[float], same: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoreList(score, same)


def test_unknown_tie_rule() -> None:
    with pytest.raises(ValueError, match="highest_tar"):
        hand().nearest_far(0.1, tie="first")
