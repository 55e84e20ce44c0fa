"""Metrics over thresholds, thresholds of a group's own, and smoothed rates."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.evaluation.scores import ScoreList
from common.fairness import curves, groups, summary

GOLDEN = Path(__file__).parents[1] / "golden" / "_fairness_metrics"


@pytest.fixture(scope="module")
def pairs() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "verification_groups.npz") as data:
        return dict(data)


def test_a_curve_goes_through_the_reference_points(pairs):
    mated = pairs["mated"] == 1
    who = pairs["subject_a"], pairs["subject_b"]
    curve = curves.fdr_curve(pairs["score"], mated, pairs["group"], "abc", *who, fmr=[0.05, 0.1])
    for i, target in enumerate(("0.05", "0.1")):
        for name in ("fdr", "ir", "garbe"):
            assert getattr(curve, name)[i] == pytest.approx(float(pairs[f"{name}_a0.5_{target}"]), rel=1e-12)
        assert curve.realised[i] == pytest.approx(float(pairs[f"fmr_overall_{target}"]))
    assert curve.area.value == pytest.approx(curve.fdr.mean())  # the trapezium of two points
    with pytest.raises(ValueError, match="must rise"):
        curves.fdr_curve(pairs["score"], mated, pairs["group"], "abc", *who, fmr=[0.1, 0.05])


def test_overall_curve_and_equal_error_rate_are_torchmetrics(pairs):
    mated = pairs["mated"] == 1
    squashed = torch.sigmoid(torch.tensor(pairs["score"], dtype=torch.float32)).numpy()  # merges some scores
    curve = ScoreList(squashed, mated).roc()
    np.testing.assert_allclose(curve.far, pairs["tm_roc_fpr"], atol=1e-7)
    np.testing.assert_allclose(curve.tar, pairs["tm_roc_tpr"], atol=1e-7)
    assert ScoreList(pairs["score"], mated).eer == pytest.approx(float(pairs["tm_eer"]), abs=1 / (~mated).sum())


def test_accuracy_less_std_by_hand():
    score = np.array([0.9, 0.2, 0.6, 0.4])
    found = curves.accuracy_less_std(score, [1, 0, 1, 0], [0, 0, 1, 1], ("a", "b"), [0.5, 0.7])
    np.testing.assert_allclose(found, [1.0, 0.75 - 0.25])  # at 0.7 group b gets half of its pairs right
    assert np.isnan(curves.accuracy_less_std(score, [1, 0, 1, 0], [0] * 4, ("a", "b"), 0.5)).all()


def test_thresholds_of_their_own_hide_what_a_common_one_costs():
    rng = np.random.default_rng(0)
    group, same = np.repeat([0, 1], 400), np.tile([True, False], 400)
    fold = np.tile(np.repeat(np.arange(10), 2), 40)
    score = np.where(same, 0.4, -0.4) + 0.2 * rng.normal(size=800) + np.where(group == 1, 0.5, 0.0)
    a, b = np.arange(800), np.where(same, np.arange(800), np.arange(800) + 1000)
    own = curves.accuracy_at_group_threshold(score, same, fold, group, ("a", "b"), a, b)
    common = groups.group_rates("accuracy", (score > 0) == same, group, ("a", "b"), a, b)
    assert own.metric == "acc_at_group_threshold"
    assert own.rate.min() > 0.95
    assert common.rate[1] < 0.8
    assert own.rate[0] == pytest.approx(common.rate[0], abs=0.03)
    one_fold = np.where(group == 1, 3, fold)
    with pytest.raises(ValueError, match="'b' has pairs in fold 3 only"):
        curves.accuracy_at_group_threshold(score, same, one_fold, group, ("a", "b"), a, b)


def test_the_fitted_threshold_is_the_best_there_is():
    rng = np.random.default_rng(1)
    for _ in range(20):
        score, mated = np.round(rng.normal(size=15), 1), rng.random(15) < 0.5
        limit = curves._best_threshold(score, mated)
        right = [int(((score > t) == mated).sum()) for t in np.concatenate([score - 0.05, score + 0.05])]
        assert int(((score > limit) == mated).sum()) == max(right)


def test_smoothed_rates_and_the_ratio_to_the_mean_exist_with_zero_errors():
    table = groups.group_rates("fmr", [0, 0, 1, 0], [0, 0, 1, 1], "abc", [1, 2, 3, 4], [5, 6, 7, 8])
    np.testing.assert_allclose(curves.smoothed_rate(table), [1 / 4, 2 / 4, np.nan])
    assert curves.max_over_mean([0.0, 0.002, 0.004]) == pytest.approx(2)
    assert curves.max_over_mean([0.1, 0.1]) == pytest.approx(1)
    assert np.isnan(curves.max_over_mean([0.1]))
    assert np.isinf(summary.max_over_geomean([0.0, 0.002, 0.004]))
