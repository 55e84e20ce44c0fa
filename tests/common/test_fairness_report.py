"""The fairness columns of a verification table: names, undefined values, invariance, and planted gaps."""

import json
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from common.fairness import groups
from common.fairness.report import verification_report

NAMES = ("A", "B", "C")
METRICS = {
    "group_accuracy", "worst_group", "group_gap", "group_std", "ser", "group_fnmr", "group_fmr", "fdr", "ir", "garbe"
}  # fmt: skip


def simulate(
    accuracy: list[float], seed: int = 0, subjects: int = 60, per_class: int = 240, bond: float = 0.5
) -> dict[str, Any]:
    """Scores whose decision at 0 is right with a given probability in each group; subjects differ (share ``bond``)."""
    rng = np.random.default_rng(seed)
    size = len(accuracy)
    a = np.tile(rng.integers(0, subjects * size, per_class * size), 2)
    group = a % size
    same = np.arange(a.size) < a.size // 2
    other = (a + size * rng.integers(1, subjects, a.size)) % (subjects * size)
    b = np.where(same, a, other)
    effect = rng.normal(size=(2, subjects * size))
    shared = np.where(same, effect[0, a], (effect[1, a] + effect[1, b]) / np.sqrt(2))
    noise = np.sqrt(bond) * shared + np.sqrt(1 - bond) * rng.normal(size=a.size)
    score = (norm.ppf(accuracy)[group] + noise) * np.where(same, 1, -1)
    return {
        "score": score, "correct": (score > 0) == same, "same": same, "fold": np.arange(a.size) % 10, "group": group,
        "group_names": tuple("ABCD"[:size]), "subject_a": a, "subject_b": b,
    }  # fmt: skip


def test_the_report_has_the_names_units_and_counts_of_a_result_file():
    pairs = simulate([0.95, 0.9, 0.85])
    report = verification_report(**pairs, fmr=0.05, draws=100)
    assert set(report) == METRICS | {
        "pairs", "subjects", "folds", "counts", "undefined", "undefined_reasons", "intervals", "operating_point",
        "bootstrap", "group_details",
    }  # fmt: skip
    assert set(report["intervals"]) == METRICS | {"accuracy"}
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    for i, name in enumerate(NAMES):
        inside = pairs["group"] == i
        assert report["group_accuracy"][name] == pytest.approx(100 * pairs["correct"][inside].mean())
        assert report["counts"][name]["mated"] == np.count_nonzero(inside & pairs["same"])
        assert report["counts"][name]["correct"] == np.count_nonzero(inside & pairs["correct"])
    values = list(report["group_accuracy"].values())
    assert report["worst_group"] == pytest.approx(min(values))
    assert report["group_gap"] == pytest.approx(max(values) - min(values))
    assert report["group_std"] == pytest.approx(np.std(values, ddof=1))
    assert report["ser"] == pytest.approx((100 - min(values)) / (100 - max(values)))
    assert report["group_details"]["worst_group_name"] == NAMES[int(np.argmin(values))]
    assert (report["pairs"], report["folds"], report["undefined"]) == (1440, 10, [])
    assert report["subjects"] == np.union1d(pairs["subject_a"], pairs["subject_b"]).size


def test_error_rates_are_those_of_the_global_threshold():
    pairs = simulate([0.95, 0.9, 0.85])
    report = verification_report(**pairs, fmr=0.05, draws=50)
    point = groups.operating_point(pairs["score"], ~pairs["same"], 0.05)
    assert report["operating_point"]["threshold"] == point.threshold
    for i, name in enumerate(NAMES):
        mated, other = ((pairs["group"] == i) & part for part in (pairs["same"], ~pairs["same"]))
        assert report["group_fnmr"][name] == pytest.approx(100 * np.mean(pairs["score"][mated] <= point.threshold))
        assert report["group_fmr"][name] == pytest.approx(100 * np.mean(pairs["score"][other] > point.threshold))
    fnmr, fmr = (np.array(list(report[name].values())) / 100 for name in ("group_fnmr", "group_fmr"))
    assert report["fdr"] == pytest.approx(1 - 0.5 * np.ptp(fmr) - 0.5 * np.ptp(fnmr))
    assert report["ir"] == pytest.approx(np.sqrt(fmr.max() / fmr.min() * fnmr.max() / fnmr.min()))


def test_pairs_of_no_group_neither_choose_the_threshold_nor_enter_a_group():
    pairs = simulate([0.95, 0.9, 0.85])
    mixed = {**pairs, "score": np.append(pairs["score"], 99.0), "correct": np.append(pairs["correct"], False)}
    mixed |= {"same": np.append(pairs["same"], False), "fold": np.append(pairs["fold"], 0)}
    mixed |= {"group": np.append(pairs["group"], -1)}
    mixed |= {"subject_a": np.append(pairs["subject_a"], 0), "subject_b": np.append(pairs["subject_b"], 1)}
    first, second = verification_report(**pairs, draws=50), verification_report(**mixed, draws=50)
    assert second["pairs"] == first["pairs"] + 1
    assert second["intervals"]["accuracy"] != first["intervals"]["accuracy"]
    for name in METRICS:
        assert second[name] == first[name], name


def test_undefined_values_are_none_with_a_reason():
    pairs = simulate([0.99, 0.9, 0.85])
    pairs["correct"] = pairs["correct"] | (pairs["group"] == 0)
    pairs["subject_a"] = np.where(pairs["group"] == 2, 2, pairs["subject_a"])
    pairs["subject_b"] = np.where(pairs["group"] == 2, 2, pairs["subject_b"])
    report = verification_report(**pairs, fmr=1e-4, draws=50)
    assert report["group_accuracy"]["C"] is None
    assert report["ser"] is None
    assert report["intervals"]["ser"] is None
    low, high = report["intervals"]["group_accuracy"]["A"]
    assert (low, high) == (pytest.approx(100 - 300 / np.count_nonzero(pairs["group"] == 0)), 100)  # rule of three
    assert report["group_fnmr"] == {"A": None, "B": None, "C": None}
    assert report["operating_point"] is None
    assert report["undefined"] == ["fdr", "garbe", "group_accuracy/C", "group_fmr", "group_fnmr", "ir", "ser"]
    reasons = report["undefined_reasons"]
    assert "one subject only" in reasons["group_accuracy/C"]
    assert "'A' made no error" in reasons["ser"]
    assert "too few to show an FMR of 0.0001" in reasons["group_fmr"]
    json.dumps(report, allow_nan=False)


def test_a_group_without_a_false_match_gets_the_rule_of_three_and_leaves_the_inequity_rate_undefined():
    pairs = simulate([0.95, 0.9, 0.85])
    pairs["score"] = np.where(pairs["same"] | (pairs["group"] != 1), pairs["score"], -5.0)
    report = verification_report(**pairs, fmr=0.05, draws=50)
    assert report["group_fmr"]["B"] == 0
    assert report["intervals"]["group_fmr"]["B"] == [0, pytest.approx(300 / report["counts"]["B"]["non_mated"])]
    assert report["undefined_reasons"] == {"ir": "the FMR of group 'B' is zero"}
    assert report["garbe"] > 0


def test_a_set_without_groups_has_no_summary_and_says_so():
    pairs = simulate([0.9, 0.9])
    pairs |= {"group": np.full(pairs["same"].size, -1), "group_names": ()}
    report = verification_report(**pairs, draws=50)
    assert report["group_accuracy"] == {}
    for name in ("worst_group", "group_gap", "group_std", "ser", "fdr", "ir", "garbe"):
        assert report[name] is None, name
        assert report["undefined_reasons"][name], name
    low, high = report["intervals"]["accuracy"]
    assert low < 100 * pairs["correct"].mean() < high


def test_renaming_groups_moves_values_only():
    pairs = simulate([0.95, 0.9, 0.85])
    order = np.array([2, 0, 1])
    other = {**pairs, "group": order[pairs["group"]], "group_names": tuple(np.array(NAMES)[np.argsort(order)].tolist())}
    first, second = (verification_report(**columns, fmr=0.05, draws=20) for columns in (pairs, other))
    for name in METRICS - {"group_accuracy", "group_fnmr", "group_fmr"}:
        assert second[name] == pytest.approx(first[name], rel=1e-12), name
    for name in ("group_accuracy", "group_fnmr", "group_fmr", "counts"):
        assert second[name] == first[name], name


def test_the_same_seed_gives_the_same_report_and_another_seed_the_same_values():
    pairs = simulate([0.95, 0.9, 0.85])
    first, again, other = (verification_report(**pairs, draws=50, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first["intervals"] != other["intervals"]
    assert all(first[name] == other[name] for name in METRICS)


def test_columns_of_different_lengths_are_refused():
    pairs = simulate([0.95, 0.9])
    with pytest.raises(ValueError, match="fold has shape"):
        verification_report(**{**pairs, "fold": pairs["fold"][:-1]})


@pytest.mark.parametrize("truth", [[0.9, 0.9, 0.9], [0.95, 0.9, 0.8]], ids=["equal", "planted"])
def test_intervals_cover_the_gap_that_was_planted(truth):
    names = ["A", "worst_group", "group_gap"]
    expected = dict(zip(names, [100 * truth[0], 100 * min(truth), 100 * np.ptp(truth)], strict=True))
    hits = dict.fromkeys(names, 0)
    for seed in range(60):
        found = verification_report(**simulate(truth, seed, per_class=150), draws=150)["intervals"]
        found["A"] = found["group_accuracy"]["A"]
        for name in names:
            hits[name] += found[name][0] <= expected[name] <= found[name][1]
    assert min(hits.values()) >= 51, hits  # 57 of 60 expected; fewer than 51 have probability 0.001 at 95 % coverage


def test_people_who_differ_widen_the_interval_and_a_large_gap_is_found():
    widths = []
    for bond in (0.0, 0.9):
        found = verification_report(**simulate([0.9, 0.9], bond=bond, per_class=900, subjects=40), draws=300)
        widths.append(np.ptp(found["intervals"]["accuracy"]))
    assert widths[1] > 1.5 * widths[0]
    assert verification_report(**simulate([0.97, 0.8]), draws=300)["intervals"]["group_gap"][0] > 0
