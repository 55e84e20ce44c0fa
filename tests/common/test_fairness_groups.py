"""Per-group tables and their summaries: counts, edge cases, hand computations, reference vectors."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.evaluation.scores import ScoreList
from common.fairness import groups, summary

GOLDEN = Path(__file__).parents[1] / "golden"
FMR, FNMR = np.array([0.001, 0.002, 0.004]), np.array([0.01, 0.02, 0.03])


@pytest.fixture(scope="module")
def pairs() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "_fairness_metrics" / "verification_groups.npz") as data:
        return dict(data)


def table(*rates: float, metric: str = "accuracy") -> groups.GroupRates:
    """A table of groups with 1,000 comparisons each."""
    numerator = np.round(np.array(rates) * 1000).astype(np.int64)
    names = tuple("ABCDEF"[: len(rates)])
    hundred = np.full(len(rates), 100)
    return groups.GroupRates(metric, names, numerator, hundred * 10, hundred, int(numerator.sum()), 1000 * len(rates))


def test_denominators_are_mated_and_non_mated_counts():
    # group A: 2 mated (1 rejected), 4 non-mated (1 accepted); dividing by all 6 pairs would give 1/6 for both
    score = np.array([0.9, 0.1, 0.8, 0.0, 0.1, 0.2, 0.9])
    same = np.array([1, 1, 0, 0, 0, 0, 1], dtype=bool)
    group = np.array([0, 0, 0, 0, 0, 0, -1])
    a, b = np.array([1, 2, 1, 1, 2, 2, 9]), np.array([1, 2, 2, 3, 3, 4, 9])
    rates = groups.verification_rates(score, same, group, ["A"], a, b, threshold=0.5)
    assert rates["fnmr"].rate.tolist() == [1 / 2]
    assert rates["fmr"].rate.tolist() == [1 / 4]
    assert rates["tar"].rate.tolist() == [1 / 2]
    assert (rates["fnmr"].overall_numerator, rates["fnmr"].overall_denominator) == (1, 3)  # the pair of no group counts
    assert rates["fmr"].rows()[0] == {
        "group": "A", "rate": 0.25, "numerator": 1, "denominator": 4, "subjects": 4, "reason": None,
    }  # fmt: skip


def test_scores_on_the_threshold_are_rejected():
    rates = groups.verification_rates([0.5, 0.5], [True, False], [0, 0], ["A"], [1, 1], [1, 2], threshold=0.5)
    assert rates["fnmr"].rate.tolist() == [1.0]
    assert rates["fmr"].rate.tolist() == [0.0]


def test_groups_too_small_are_undefined_with_a_reason():
    same = np.array([True, False, True, True])
    group = np.array([0, 0, 1, 3])
    a, b = np.array([1, 1, 5, 7]), np.array([1, 2, 5, 8])
    result = groups.group_rates("fmr", [True] * 4, group, ["A", "B", "C", "D"], a, b, counted=~same)
    assert result.rate[0] == 1.0
    assert np.isnan(result.rate[1:]).all()
    assert "one subject only" in result.skipped["B"]
    assert "no subject" in result.skipped["C"]
    assert "no pair that counts" in result.skipped["D"]
    assert [row["rate"] for row in result.rows()] == [1.0, None, None, None]


def test_one_measured_group_has_no_summary():
    result = groups.group_rates("accuracy", [True, False], [0, 0], ["A", "B"], [1, 1], [1, 2])
    found = summary.summarise_accuracy(result)
    assert all(np.isnan(entry.value) and entry.reason == summary.NOT_ENOUGH for entry in found.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": [0, 2]}, "must lie in -1..1"),
        ({"group": [0.0, 1.0]}, "one integer a pair"),
        ({"event": [True]}, "event has shape"),
        ({"group_names": ["A", "A"]}, "must differ"),
    ],
)
def test_bad_columns_are_refused(change, message):
    good = {
        "event": [True, False],
        "group": [0, 1],
        "group_names": ["A", "B"],
        "subject_a": [1, 2],
        "subject_b": [1, 3],
    }
    with pytest.raises(ValueError, match=message):
        groups.group_rates("accuracy", **{**good, **change})


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
        groups.verification_rates([0.5, np.nan], [True, False], [0, 0], ["A"], [1, 1], [1, 2], threshold=0.0)


def test_operating_point_counts_ties_and_warns_when_it_rests_on_few_pairs():
    score = np.array([0.9, 0.8, 0.8, 0.8] + [0.1] * 96)
    point = groups.operating_point(score, np.ones(100, dtype=bool), 0.02)
    assert point.threshold == 0.8  # two may be accepted, but three are tied
    assert point.realised_fmr == 0.01
    assert "rests on 2 of 100" in str(point.caution)
    assert groups.operating_point(score, np.ones(100, dtype=bool), 0.1).caution is None
    assert groups.operating_point(np.arange(100), np.ones(100, dtype=bool), 0.29).realised_fmr == 0.29  # 0.29*100 < 29
    with pytest.raises(ValueError, match="at least 1000 are needed"):
        groups.operating_point(score, np.ones(100, dtype=bool), 1e-3)


@pytest.mark.parametrize("target", ["0.1", "0.05"])
def test_verification_reference_vectors(pairs, target):
    mated = pairs["mated"].astype(bool)
    point = groups.operating_point(pairs["score"], ~mated, float(target))
    assert point.threshold == pairs[f"thr_fmr{target}"]
    columns = pairs["score"], mated, pairs["group"], "abc", pairs["subject_a"], pairs["subject_b"]
    rates = groups.verification_rates(*columns, threshold=point.threshold)
    np.testing.assert_allclose(rates["fmr"].rate, pairs[f"fmr_by_group_{target}"], rtol=1e-12)
    np.testing.assert_allclose(rates["fnmr"].rate, pairs[f"fnmr_by_group_{target}"], rtol=1e-12)
    np.testing.assert_allclose(rates["tar"].rate, 1 - pairs[f"fnmr_by_group_{target}"], rtol=1e-12)
    assert rates["fmr"].overall == point.realised_fmr == pairs[f"fmr_overall_{target}"]
    assert rates["fnmr"].overall == pytest.approx(float(pairs[f"fnmr_overall_{target}"]), rel=1e-12)
    found = summary.summarise_errors(rates["fmr"], rates["fnmr"])
    for ours, theirs in {
        "fdr": "fdr_a0.5", "garbe": "garbe_a0.5", "ir": "ir_a0.5",
        "fmr_max_over_geomean": "ir_geo_fmr", "fnmr_max_over_geomean": "ir_geo_fnmr",
    }.items():  # fmt: skip
        assert found[ours].value == pytest.approx(float(pairs[f"{theirs}_{target}"]), rel=1e-12), ours


def test_std_and_ser_reference_vectors():
    with np.load(GOLDEN / "_fr_evaluation" / "std_ser.npz") as data:
        accuracy = data["acc_percent"] / 100
        np.testing.assert_allclose(100 * summary.group_mean(accuracy), data["avg"], rtol=1e-9)
        np.testing.assert_allclose(100 * summary.std_population(accuracy), data["std_population"], rtol=1e-9)
        np.testing.assert_allclose(100 * summary.std_sample(accuracy), data["std_sample"], rtol=1e-9)
        np.testing.assert_allclose(summary.ser(accuracy), data["ser"], rtol=1e-9)


def test_accuracy_summaries_by_hand():
    found = summary.summarise_accuracy(table(0.96, 0.95, 0.94, 0.93))
    expected = {
        "mean": 0.945,
        "worst_group": 0.93,
        "group_gap": 0.03,
        "std_population": 0.0111803,
        "std_sample": 0.0129099,
    }
    expected |= {"ser": 1.75, "min_over_max": 0.93 / 0.96}
    assert {name: entry.value for name, entry in found.items()} == pytest.approx(expected, rel=1e-5)
    assert 100 * summary.std_sample([0.9618, 0.9467, 0.9372, 0.9398]) == pytest.approx(
        1.10, abs=0.01
    )  # RFW row, ddof 1


def test_a_perfect_group_makes_the_error_ratio_infinite_and_says_so():
    found = summary.summarise_accuracy(table(1.0, 0.9))["ser"]
    assert found.value == np.inf
    assert "'A' made no error" in str(found.reason)
    found = summary.summarise_accuracy(table(1.0, 1.0))["ser"]
    assert np.isnan(found.value)
    assert "no group made an error" in str(found.reason)


def test_error_summaries_by_hand():
    assert summary.fdr(FMR, FNMR) == pytest.approx(0.9885)
    assert summary.inequity_rate(FMR, FNMR) == pytest.approx(12**0.5)
    assert summary.garbe(FMR, FNMR) == pytest.approx(0.380952, abs=1e-6)
    assert summary.garbe(FMR, FNMR, alpha=0.25) == pytest.approx(0.25 * 0.428571 + 0.75 * 0.333333, abs=1e-6)
    assert summary.max_over_geomean(FMR) == pytest.approx(2.0)
    assert summary.max_over_geomean(FNMR) == pytest.approx(1.65096, abs=1e-5)
    assert summary.differential(FNMR) == pytest.approx(3.0)


def test_error_summaries_with_a_zero_rate():
    zero = np.array([0.0, 0.002, 0.004])
    assert summary.fdr(zero, FNMR) == pytest.approx(0.988)
    assert summary.garbe(zero, FNMR) == pytest.approx(0.5)
    found = summary.summarise_errors(table(*zero, metric="fmr"), table(*FNMR, metric="fnmr"))
    for name in ("ir", "fmr_differential", "fmr_max_over_geomean"):
        assert found[name].value == np.inf, name
        assert found[name].reason == "the FMR of group 'A' is zero", name
    assert found["fnmr_differential"].reason is None
    assert np.isnan(summary.differential([0.0, 0.0]))


def test_gini_from_parity_to_one_group_with_all_errors():
    assert summary.gini([0.2, 0.2, 0.2]) == pytest.approx(0)
    assert summary.gini([0.0, 0.0, 0.0, 0.3]) == pytest.approx(1)
    assert summary.gini([0.0, 0.0]) == 0


def test_rule_of_three():
    assert summary.rule_of_three(300) == 0.01
    assert summary.rule_of_three(2) == 1.0
    with pytest.raises(ValueError, match="at least one"):
        summary.rule_of_three(0)


ONE_RATE = {
    summary.group_mean, summary.worst_group, summary.group_gap, summary.std_population, summary.std_sample, summary.ser,
    summary.differential, summary.max_over_geomean, summary.gini, summary.min_over_max,
}  # fmt: skip
TWO_RATES = {summary.fdr, summary.inequity_rate, summary.garbe}


def test_every_summary_of_missing_or_single_groups_is_nan_and_runs_over_draws():
    draws = np.array([[0.1, 0.2, 0.3], [0.1, np.nan, 0.3]])
    for call in ONE_RATE:
        assert np.isnan(call([0.3])), call.__name__
        assert np.isnan(call(draws)).tolist() == [False, True], call.__name__
    for both in TWO_RATES:
        assert np.isnan(both([0.3], [0.2])), both.__name__
        assert np.isnan(both(draws, draws)).tolist() == [False, True], both.__name__


def test_equal_groups_are_at_parity():
    same = np.full(4, 0.07)
    parity = {
        summary.group_gap: 0, summary.std_population: 0, summary.std_sample: 0, summary.gini: 0, summary.ser: 1,
        summary.differential: 1, summary.max_over_geomean: 1, summary.min_over_max: 1,
    }  # fmt: skip
    for call, value in parity.items():
        assert call(same) == pytest.approx(value, abs=1e-12), call.__name__
    for both, value in {summary.fdr: 1, summary.inequity_rate: 1, summary.garbe: 0}.items():
        assert both(same, same) == pytest.approx(value), both.__name__


rates = st.lists(st.floats(1e-4, 0.999), min_size=2, max_size=6)


@settings(max_examples=50, deadline=None)
@given(rates, st.randoms(use_true_random=False), st.floats(0.05, 1))
def test_summaries_ignore_the_order_of_groups_and_ratios_the_scale(values, random, factor):
    rate = np.array(values)
    other = rate[::-1] / 2
    order = np.array(random.sample(range(len(rate)), len(rate)))
    for call in ONE_RATE:
        assert call(rate[order]) == pytest.approx(float(call(rate)), rel=1e-9, abs=1e-12), call.__name__
    for both in TWO_RATES:
        assert both(rate[order], other[order]) == pytest.approx(float(both(rate, other)), rel=1e-9), both.__name__
    assert summary.garbe(rate * factor, other) == pytest.approx(float(summary.garbe(rate, other)), rel=1e-9, abs=1e-12)
    assert summary.inequity_rate(rate * factor, other) == pytest.approx(float(summary.inequity_rate(rate, other)))
    shrunk = 0.5 * (1 - factor) * summary.group_gap(rate)
    assert summary.fdr(rate * factor, other) - summary.fdr(rate, other) == pytest.approx(float(shrunk), abs=1e-12)


def test_copies_of_every_pair_change_counts_only(pairs):
    columns = [pairs["score"], pairs["mated"] == 1, pairs["group"], pairs["subject_a"], pairs["subject_b"]]
    once, twice = (
        groups.verification_rates(c[0], c[1], c[2], "abc", c[3], c[4], threshold=0.8)
        for c in (columns, [np.tile(column, 2) for column in columns])
    )
    for name in ("fmr", "fnmr", "tar"):
        np.testing.assert_array_equal(once[name].rate, twice[name].rate)
        np.testing.assert_array_equal(once[name].subjects, twice[name].subjects)
        np.testing.assert_array_equal(2 * once[name].denominator, twice[name].denominator)


def test_the_operating_point_is_that_of_the_overall_score_list(pairs):
    mated = pairs["mated"] == 1
    for target in (0.013, 0.05, 0.29):
        ours = groups.operating_point(pairs["score"], ~mated, target)
        theirs = ScoreList(pairs["score"], mated).tar_at_far(target)
        assert (ours.threshold, ours.realised_fmr) == (theirs.threshold, theirs.far)
