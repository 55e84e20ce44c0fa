"""The fairness columns of a classification table, and any metric in every group."""

import json

import numpy as np
import pytest

from common.fairness.classes import classification_report, metric_by_group
from common.fairness.columns import GroupColumn


def sample(seed: int = 0, people: int = 40, images: int = 3) -> dict[str, np.ndarray | int | GroupColumn]:
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(3 * people), images)
    group = subject // people
    truth = rng.integers(0, 4, subject.size)
    right = rng.random(subject.size) < np.array([0.95, 0.85, 0.6])[group]
    prediction = np.where(right, truth, (truth + 1) % 4)
    column = GroupColumn("race", group, ("a", "b", "c"))
    return {"truth": truth, "prediction": prediction, "column": column, "n_classes": 4, "subject": subject}


def test_values_units_and_counts():
    given = sample()
    found = classification_report(**given, draws=200)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    right = given["truth"] == given["prediction"]
    rates = [100 * right[given["column"].index == g].mean() for g in range(3)]
    assert list(found["group_accuracy"].values()) == pytest.approx(rates)
    assert found["group_gap"] == pytest.approx(max(rates) - min(rates))
    assert found["group_std"] == pytest.approx(np.std(rates, ddof=1))
    assert found["ser"] == pytest.approx((100 - min(rates)) / (100 - max(rates)))
    assert found["counts"]["a"] == {"subjects": 40, "samples": 120, "correct": round(rates[0] * 1.2)}
    assert (found["subjects"], found["samples"], found["group_column"]) == (120, 360, "race")
    low, high = found["intervals"]["group_gap"]
    assert 0 < low < found["group_gap"] < high
    assert 0 < found["disparity"] < 1
    assert found["undefined"] == []


def test_people_not_images_are_resampled():
    given = sample()
    truth = np.repeat(given["truth"][::3], 3)  # all images of a person alike: as much evidence as one of them
    prediction = np.repeat(given["prediction"][::3], 3)
    widths = []
    for subject in (given["subject"], None):
        found = classification_report(truth, prediction, given["column"], 4, subject, draws=400)
        widths.append(np.ptp(found["intervals"]["accuracy"]))
    assert widths[1] < 0.7 * widths[0]
    assert "one by one" in found["bootstrap"]["note"]


def test_small_empty_and_perfect_groups_are_said_so():
    index = np.array([0, 0, 1, 2, 2, -1])
    truth, chosen = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 1, 2, 0, 2, 0])
    column = GroupColumn("race", index, ("perfect", "alone", "mixed", "empty"))
    found = classification_report(truth, chosen, column, 3, draws=50)
    assert found["group_accuracy"] == {"perfect": 100.0, "alone": None, "mixed": 50.0, "empty": None}
    assert found["intervals"]["group_accuracy"]["perfect"] == [0.0, 100.0]  # rule of three: two samples say nothing
    assert found["ser"] is None
    assert found["undefined"] == ["group_accuracy/alone", "group_accuracy/empty", "ser"]
    reasons = found["undefined_reasons"]
    assert "one subject only" in reasons["group_accuracy/alone"]
    assert "no subject" in reasons["group_accuracy/empty"]
    assert "'perfect' made no error" in reasons["ser"]
    assert found["accuracy"] == pytest.approx(100 * 4 / 6)


def test_two_classes_have_parities():
    rng = np.random.default_rng(0)
    truth, group = rng.integers(0, 2, 200), np.repeat([0, 1], 100)
    chosen = np.where(rng.random(200) < 0.8, truth, 1 - truth)
    found = classification_report(truth, chosen, GroupColumn("gender", group, ("m", "f")), 2, draws=50)
    selected = [chosen[group == g].mean() for g in (0, 1)]
    assert found["demographic_parity_difference"] == pytest.approx(abs(selected[0] - selected[1]))
    none = GroupColumn("gender", np.where((group == 1) & (truth == 1), -1, group), ("m", "f"))
    found = classification_report(truth, chosen, none, 2, draws=50)
    assert found["equal_opportunity_difference"] is None
    assert "equal_opportunity_difference" in found["undefined"]


def test_labels_out_of_range_and_short_columns_are_refused():
    given = sample()
    with pytest.raises(ValueError, match="prediction holds 9 at place"):
        classification_report(**{**given, "prediction": np.where(given["truth"] == 1, 9, 0)})
    with pytest.raises(ValueError, match="subject has shape"):
        classification_report(**{**given, "subject": np.arange(3)})


@pytest.mark.filterwarnings("ignore:Only one class is present")
def test_any_metric_in_every_group_with_a_word_for_the_undefined():
    from sklearn.metrics import f1_score, roc_auc_score

    truth = np.array([0, 1, 0, 1, 1, 1, 0])
    score = np.array([0.1, 0.9, 0.6, 0.4, 0.7, 0.2, 0.5])
    column = GroupColumn("race", np.array([0, 0, 0, 0, 1, 1, -1]), ("a", "b", "c"))
    found = metric_by_group(roc_auc_score, truth, score, column)
    assert found["a"].value == pytest.approx(roc_auc_score(truth[:4], score[:4]))
    assert np.isnan(found["b"].value)
    assert found["b"].reason
    assert found["c"].reason == "group 'c' has no sample"
    found = metric_by_group(f1_score, truth, score > 0.5, column)
    assert found["b"].value == pytest.approx(2 / 3)
