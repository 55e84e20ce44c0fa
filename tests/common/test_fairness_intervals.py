"""Intervals: reference vectors, edge cases, and coverage of gaps that were planted."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.fairness import intervals, summary

GOLDEN = Path(__file__).parents[1] / "golden" / "_fairness_metrics"


@pytest.fixture(scope="module")
def ref() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "subject_ci.npz") as data:
        return dict(data)


@pytest.mark.parametrize("rate", ["fnmr", "fmr"])
def test_plugin_variance_and_wilson_reference_vectors(ref, rate):
    mated = ref["subject_a"] == ref["subject_b"]
    chosen = mated if rate == "fnmr" else ~mated
    accepted = ref["score"][chosen] > ref["threshold"]
    wrong = ~accepted if rate == "fnmr" else accepted
    variance = intervals.plugin_variance(wrong, ref["subject_a"][chosen], ref["subject_b"][chosen])
    assert variance == pytest.approx(float(ref[f"var_{rate}_plugin"]), rel=1e-12)
    assert wrong.mean() == pytest.approx(float(ref[rate]), rel=1e-12)
    found = intervals.wilson_interval(float(wrong.mean()), variance, wrong.size)
    np.testing.assert_allclose([found.low, found.high], ref[f"wilson_{rate}"], rtol=1e-9)
    naive = intervals.wilson_interval(float(wrong.mean()), 0.0, wrong.size)
    np.testing.assert_allclose([naive.low, naive.high], ref[f"naive_wilson_{rate}"], rtol=1e-9)


def test_wilson_of_no_error_reaches_above_zero():
    found = intervals.wilson_interval(0.0, 0.0, 100)
    assert found.low == 0
    assert found.high == pytest.approx(3.8416 / 103.8416, rel=1e-4)
    assert intervals.wilson_interval(1.0, 0.0, 100).low == pytest.approx(1 - found.high)


def test_plugin_variance_of_independent_pairs_is_the_binomial_one():
    error = np.array([1, 0, 0, 0, 1, 0, 0, 0])
    subject = np.arange(8)
    assert intervals.plugin_variance(error, subject, subject) == pytest.approx(0.25 * 0.75 / 8)
    assert intervals.plugin_variance(error, subject, subject + 8) == pytest.approx(0.25 * 0.75 / 8)
    one_person = np.zeros(8, dtype=int)  # a person's mated errors pull together: all of them, none of them
    assert intervals.plugin_variance(error, one_person, one_person) == pytest.approx(0, abs=1e-12)


def test_plugin_variance_refuses_mixed_and_missing_pairs():
    with pytest.raises(ValueError, match="there are 1 mated of 2 pairs"):
        intervals.plugin_variance([1, 0], [1, 1], [1, 2])
    with pytest.raises(ValueError, match="pairs of one kind"):
        intervals.plugin_variance([], [], [])


def test_percentiles_are_numpys_and_survive_infinities_and_missing_draws():
    values = np.random.default_rng(0).normal(size=73)
    found = intervals.percentile_interval(values)
    np.testing.assert_allclose([found.low, found.high], np.percentile(values, [2.5, 97.5]), rtol=1e-12)
    found = intervals.percentile_interval([1.0, 2.0, np.nan, np.inf, np.inf])
    assert (found.low, found.high, found.undefined) == (pytest.approx(1.075), np.inf, 1)
    nothing = intervals.percentile_interval([np.nan])
    assert np.isnan([nothing.low, nothing.high]).all()
    assert nothing.undefined == 1


def noisy(truth: np.ndarray, spread: float, draws: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rates measured with normal noise, and the draws of a bootstrap that knows that noise."""
    estimate = truth + spread * rng.normal(size=truth.shape)
    return estimate, np.minimum(estimate + spread * rng.normal(size=(draws, truth.size)), 0.999)


@pytest.mark.parametrize("truth", [[0.9, 0.9, 0.9, 0.9], [0.94, 0.9, 0.9, 0.86]], ids=["equal", "planted"])
def test_accuracy_intervals_cover_the_truth(truth):
    rng = np.random.default_rng(0)
    true = np.array(truth)
    expected = {name: float(getattr(summary, name)(true)) for name in
                ("worst_group", "group_gap", "std_population", "std_sample", "ser")}  # fmt: skip
    hits = dict.fromkeys(expected, 0)
    for _ in range(200):
        found = intervals.accuracy_intervals(*noisy(true, 0.01, 300, rng))
        for name, value in expected.items():
            hits[name] += found[name].low - 1e-12 <= value <= found[name].high
    assert min(hits.values()) >= 180, hits  # 95 % of 200 is 190


@pytest.mark.parametrize("factor", [1.0, 3.0], ids=["equal", "planted"])
def test_error_intervals_cover_the_truth(factor):
    rng = np.random.default_rng(0)
    fmr, fnmr = np.array([0.02, 0.02, 0.02 * factor]), np.array([0.05, 0.05, 0.05 * factor])
    expected = {
        "fdr": summary.fdr(fmr, fnmr), "garbe": summary.garbe(fmr, fnmr), "ir": summary.inequity_rate(fmr, fnmr)
    }  # fmt: skip
    hits = dict.fromkeys(expected, 0)
    for _ in range(200):
        rates, draws = zip(noisy(fmr, 0.003, 300, rng), noisy(fnmr, 0.006, 300, rng), strict=True)
        found = intervals.error_intervals(*rates, *draws)
        for name, value in expected.items():
            hits[name] += found[name].low - 1e-9 <= value <= found[name].high + 1e-9
    assert min(hits.values()) >= 180, hits


def test_percentiles_of_the_gap_of_equal_groups_would_never_cover_zero():
    _, draws = noisy(np.full(4, 0.9), 0.01, 2000, np.random.default_rng(0))
    assert intervals.percentile_interval(summary.group_gap(draws)).low > 0


def test_intervals_of_a_perfect_group_are_unbounded_and_not_narrow():
    draws = np.array([[0.9, 1.0]] * 60 + [[0.9, 0.98]] * 40)
    assert intervals.accuracy_intervals([0.9, 0.99], draws)["ser"].high == np.inf
    found = intervals.accuracy_intervals([0.9, 1.0], draws)["ser"]
    assert np.isnan([found.low, found.high]).all()


rate_rows = st.integers(2, 5).flatmap(
    lambda size: st.lists(st.lists(st.floats(0.01, 0.99), min_size=size, max_size=size), min_size=3, max_size=6)
)


@settings(max_examples=40, deadline=None)
@given(rate_rows)
def test_intervals_hold_the_estimate_and_stay_in_range(rows):
    estimate, draws = np.array(rows[0]), np.array(rows)
    for name, found in intervals.accuracy_intervals(estimate, draws).items():
        assert found.low - 1e-9 <= float(getattr(summary, name)(estimate)) <= found.high + 1e-9, name
    for name, found in intervals.error_intervals(estimate, estimate, draws, draws).items():
        low, high = (1, np.inf) if name == "ir" else (0, 1)
        assert low <= found.low <= found.high <= high, name
