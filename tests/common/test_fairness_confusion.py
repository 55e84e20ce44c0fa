"""Errors class by class: reference vectors of the official code for CEV and SDE, hand examples, and what is undefined."""

from pathlib import Path

import numpy as np
import pytest

from common.fairness import compression, confusion

GOLDEN = Path(__file__).parents[1] / "golden" / "simon_says"


def reference(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as data:
        return dict(data)


def errors(fpr: list[float], fnr: list[float]) -> confusion.ClassErrors:
    return confusion.ClassErrors(np.array(fpr), np.array(fnr))


def test_counts_and_rates_are_the_references():
    ref = reference("cev_sde")
    base = confusion.confusion(ref["y_true"], ref["pred_base"], 7)
    runs = confusion.confusion(ref["y_true"], ref["pred_pruned_runs"], 7)
    np.testing.assert_array_equal(base, ref["conf_base"])
    np.testing.assert_array_equal(runs, ref["conf_pruned_runs"])
    for found, name in ((confusion.class_errors(base), "base"), (confusion.class_errors(runs), "runs")):
        np.testing.assert_allclose(found.fpr, ref[f"FPR_{name}"], rtol=1e-12)
        np.testing.assert_allclose(found.fnr, ref[f"FNR_{name}"], rtol=1e-12)


@pytest.mark.parametrize("variant", ["2106", "2110"])
def test_shift_of_the_references(variant):
    ref = reference("cev_sde")
    base, runs = (confusion.class_errors(ref[name]) for name in ("conf_base", "conf_pruned_runs"))
    found = confusion.error_shift(base, runs, variant)
    assert found.cev.value == pytest.approx(float(ref[f"cev_{variant}"]), rel=1e-9)
    assert found.sde.value == pytest.approx(float(ref[f"sde_{variant}"]), rel=1e-9)
    assert found.cev.reason is None
    np.testing.assert_array_equal(
        np.flatnonzero(compression.pie_all_runs(ref["pred_base"], ref["pred_pruned_runs"])), ref["pie_indices_all_runs"]
    )


@pytest.mark.parametrize("arm", ["structpruning", "kd", "at_kd"])
def test_published_numbers_follow_from_the_published_confusions(arm):
    ref = reference("cifar100_bias45_confusions")
    base, runs = (confusion.class_errors(ref[name]) for name in ("conf_base", f"conf_runs_{arm}"))
    found = confusion.error_shift(base, runs, "2106")
    assert found.cev.value == pytest.approx(float(ref[f"cev_{arm}"]), abs=1e-6)
    assert found.sde.value == pytest.approx(float(ref[f"sde_{arm}"]), abs=1e-6)


def test_rates_are_averaged_over_runs_before_the_change_is_taken():
    ref = reference("cifar100_bias45_confusions")
    base, runs = (confusion.class_errors(ref[name]) for name in ("conf_base", "conf_runs_structpruning"))
    each = [
        confusion.error_shift(base, errors(f, n), "2106").cev.value for f, n in zip(runs.fpr, runs.fnr, strict=True)
    ]
    assert np.mean(each) == pytest.approx(4641.5, abs=0.1)  # what a mean over runs would say instead of 4237.4


def test_shift_by_hand_and_in_both_scales():
    base, after = errors([0.1] * 4, [0.2] * 4), errors([0.11, 0.13, 0.11, 0.13], [0.24, 0.2, 0.24, 0.2])
    found = confusion.error_shift(base, after, "2106")  # changes of FPR 10, 30 and of FNR 20, 0 percent
    np.testing.assert_allclose(found.fpr_change, [10, 30, 10, 30])
    np.testing.assert_allclose(found.fnr_change, [20, 0, 20, 0], atol=1e-9)
    assert found.cev.value == pytest.approx(100)
    assert found.sde.value == pytest.approx(14.1421, abs=1e-4)
    other = confusion.error_shift(base, after, "2110")
    assert (other.cev.value, other.sde.value) == (pytest.approx(0.02), pytest.approx(0.2))


def test_equal_damage_to_all_is_not_uneven():
    base = errors([0.1, 0.2, 0.3], [0.2, 0.1, 0.05])
    worse = errors([0.15, 0.3, 0.45], [0.3, 0.15, 0.075])
    found = confusion.error_shift(base, worse)
    assert found.cev.value == pytest.approx(0, abs=1e-9)
    assert found.sde.value == pytest.approx(0, abs=1e-9)


def test_a_class_without_base_errors_is_left_out_and_counted():
    base = errors([0.0, 0.1, 0.1, 0.1], [0.2, 0.2, 0.2, np.nan])
    after = errors([0.1, 0.11, 0.13, 0.1], [0.2, 0.24, 0.2, 0.3])
    found = confusion.error_shift(base, after)
    assert found.left_out == {0: "the FPR of the base model is zero", 3: "its FNR has no sample"}
    assert found.cev.value == pytest.approx(100)
    assert found.cev.reason == "2 of 4 classes left out"
    assert np.isnan(found.fpr_change[[0, 3]]).all()
    with pytest.raises(ValueError, match="class 0: the FPR of the base model is zero"):
        confusion.error_shift(base, after, zero="raise")
    nothing = confusion.error_shift(errors([0.0] * 3, [0.0] * 3), errors([0.1] * 3, [0.1] * 3))
    assert np.isnan(nothing.cev.value)
    assert nothing.sde.reason == "3 of 3 classes have no relative change"


def test_smoothed_rates_are_another_quantity():
    counts = np.array([[5, 0, 0], [0, 5, 0], [1, 0, 4]])
    np.testing.assert_allclose(confusion.class_errors(counts).fnr, [0, 0, 0.2])
    np.testing.assert_allclose(confusion.class_errors(counts, smoothed=True).fnr, [1 / 7, 1 / 7, 2 / 7])


def test_two_classes_and_wrong_labels_are_refused():
    two = errors([0.1, 0.2], [0.2, 0.1])
    with pytest.raises(ValueError, match="need 3 classes or groups, but there are 2"):
        confusion.error_shift(two, two)
    with pytest.raises(ValueError, match="the paper whose scale is meant"):
        confusion.error_shift(two, two, variant="2021")
    with pytest.raises(ValueError, match="prediction holds 3 at place 0"):
        confusion.confusion([0, 1], [3, 1], 3)
    with pytest.raises(ValueError, match="one entry a sample"):
        confusion.confusion([0, 1, 2], [0, 1], 3)


def test_disparity_of_recalls_by_hand():
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])
    group = np.array([0, 0, 1, 1, 0, 0, 1, -1, 0])
    chosen = np.array([0, 0, 0, 1, 0, 0, 0, 1, 2])  # class 0: recalls 1, 1/2; class 1: never; class 2: in one group
    found, mean = confusion.intraclass_disparity(truth, chosen, group, ("a", "b"), 3)
    assert [found[k].value for k in (0, 1)] == [pytest.approx(0.5), 0.0]
    assert np.isnan(found[2].value)
    assert mean.value == pytest.approx(0.25)
    assert mean.reason == "1 of 3 classes are not there in two groups"
    three, _ = confusion.intraclass_disparity([0] * 3, [0, 1, 1], [0, 1, 2], ("a", "b", "c"), 2)
    assert three[0].value == 1.0  # recognised in one group only
