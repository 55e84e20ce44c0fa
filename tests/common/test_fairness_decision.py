"""Decision fairness, bias amplification and the measures of compression: reference vectors and hand examples."""

from pathlib import Path

import numpy as np
import pytest

from common.fairness import amplification, compression, decision, groups
from common.fairness.summary import Summary

GOLDEN = Path(__file__).parents[1] / "golden"
ABC = ("a", "b", "c")


def reference(key: str, name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / key / f"{name}.npz") as data:
        return dict(data)


@pytest.fixture(scope="module")
def binary() -> dict[str, np.ndarray]:
    return reference("_fairness_metrics", "fairlearn_binary")


def test_rates_equal_fairlearns_metric_frame(binary):
    tables = decision.decision_rates(binary["y_true"], binary["y_pred"], binary["group"], ABC)
    for name, table in tables.items():
        np.testing.assert_allclose(table.rate, binary[f"by_group_{name}"], rtol=1e-12)
        assert table.overall == pytest.approx(float(binary[f"overall_{name}"]), rel=1e-12)
    for name in ("accuracy", "fpr", "fnr"):
        for kind, call in (("difference", decision.rate_difference), ("ratio", decision.rate_ratio)):
            assert call(tables[name]).value == pytest.approx(float(binary[f"{name}_{kind}_between"]), rel=1e-12)
            overall = call(tables[name], to_overall=True).value
            assert overall == pytest.approx(float(binary[f"{name}_{kind}_to_overall"]), rel=1e-12)
    selection = decision.rate_difference(tables["selection_rate"], to_overall=True).value
    assert selection == pytest.approx(float(binary["demographic_parity_difference_to_overall"]), rel=1e-12)


def test_parities_equal_fairlearn_and_torchmetrics(binary):
    found = decision.decision_fairness(binary["y_true"], binary["y_pred"], binary["group"], ABC)
    assert len(found) == 8
    for name, entry in found.items():
        assert entry.value == pytest.approx(float(binary[name]), rel=1e-12), name
    other = reference("_fairness_metrics", "torchmetrics_fairness")
    assert found["demographic_parity_ratio"].value == pytest.approx(float(other["tm_DP_1_2"]), rel=1e-6)
    assert found["equal_opportunity_ratio"].value == pytest.approx(float(other["tm_EO_2_1"]), rel=1e-6)
    tables = decision.decision_rates(other["y_true"], other["scores"] > other["threshold"], other["group"], ABC)
    cells = [tables["tpr"], tables["fpr"], tables["tnr"], tables["fnr"]]
    for i in range(3):  # torchmetrics divides all four by the size of the group
        shares = [table.numerator[i] / tables["accuracy"].denominator[i] for table in cells]
        np.testing.assert_allclose(shares, other[f"tm_group_{i}_tp_fp_tn_fn_rates"], rtol=1e-6)


def test_a_group_without_positives_does_not_count_as_one_without_hits():
    from fairlearn import metrics

    truth, chosen, group = [1, 0, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]
    assert metrics.equal_opportunity_difference(truth, chosen, sensitive_features=group) == 1.0  # the trap
    found = decision.decision_fairness(truth, chosen, group, ("x", "y"))
    assert np.isnan(found["equal_opportunity_difference"].value)
    assert found["equal_opportunity_difference"].reason == "fewer than two groups have a measured rate"
    assert np.isnan(found["equalized_odds_ratio"].value)
    assert found["demographic_parity_difference"].value == 0
    three = decision.decision_fairness([*truth, 1, 1, 0], [*chosen, 1, 0, 0], [*group, 2, 2, 2], ABC)
    assert three["equal_opportunity_difference"].value == 0.5
    nothing = decision.decision_fairness([1, 0, 1, 0], [0] * 4, [0, 0, 1, 1], ("x", "y"))["demographic_parity_ratio"]
    assert np.isnan(nothing.value)
    assert nothing.reason == "the rate of every group is zero"


def test_equalized_odds_by_hand():
    # TPR (.9, .6), FPR (.1, .2)
    truth = np.tile([1] * 10 + [0] * 10, 2)
    chosen = np.array([1] * 9 + [0] + [1] + [0] * 9 + [1] * 6 + [0] * 4 + [1] * 2 + [0] * 8)
    found = decision.decision_fairness(truth, chosen, np.repeat([0, 1], 20), ("x", "y"))
    assert found["equalized_odds_difference"].value == pytest.approx(0.3)
    assert found["equalized_odds_ratio"].value == pytest.approx(0.5)
    assert found["equalized_odds_difference_mean"].value == pytest.approx(0.2)


def test_directional_amplification_reference_vectors_and_parity():
    ref = reference("_fairness_metrics", "directional_biasamp")
    labels = ref["attribute_labels"], ref["task_labels"]
    found = amplification.directional_amplification(*labels, ref["attribute_preds"], ref["task_preds"])
    assert found["attribute_to_task"].value == pytest.approx(float(ref["a_to_t"]), rel=1e-12)
    assert found["task_to_attribute"].value == pytest.approx(float(ref["t_to_a"]), rel=1e-12)
    perfect = amplification.directional_amplification(*labels, *labels)
    assert [entry.value for entry in perfect.values()] == [0, 0]
    with pytest.raises(ValueError, match="task has 399 samples"):
        amplification.directional_amplification(labels[0], labels[1][:-1], *labels)


def test_identity_amplification_reference_vectors_and_exclusions():
    ref = reference("_fairness_metrics", "iofinova_ba")
    target, predicted = ref["targets"], ref["predictions"]
    for i in (1, 2):
        shares = float(ref["train_pos_frac"][i - 1]), float(ref["train_neg_frac"][i - 1])
        found = amplification.identity_amplification(target[:, i], predicted[:, i], target[:, 0], *shares)
        assert found.value == pytest.approx(float(ref[f"ba_attr{i}"]), rel=1e-12)
    columns = target[:, 1], predicted[:, 1], target[:, 0]
    even = amplification.identity_amplification(*columns, 0.30, 0.32)
    assert "equally frequent" in str(even.reason)
    rare = amplification.identity_amplification(target[:9, 1], *(column[:9] for column in columns[1:]), 0.3, 0.6)
    assert "10 are needed" in str(rare.reason)
    silent = amplification.identity_amplification(columns[0], 0 * columns[1], columns[2], 0.3, 0.6)
    assert silent.reason == "the attribute is never predicted"
    assert np.isnan([even.value, rare.value, silent.value]).all()


def test_identity_amplification_by_hand():
    identity = np.repeat([1, 0], 50)
    target = np.array([1] * 40 + [0] * 10 + [1] * 20 + [0] * 30)  # 60 positives, 40 of them in s
    predicted = np.array([1] * 38 + [0] * 12 + [1] * 12 + [0] * 38)  # 50 positives, 38 of them in s
    found = amplification.identity_amplification(target, predicted, identity, 0.8, 0.4)
    assert found.value == pytest.approx(0.76 - 2 / 3)
    assert amplification.identity_amplification(target, predicted, 1 - identity, 0.4, 0.8).value == found.value


def test_cooccurrence_amplification_by_hand():
    train_object = np.ones((10, 1))
    two = np.eye(2)
    train = two[[0] * 7 + [1] * 3]  # b = (.7, .3): only the first attribute counts
    predicted = two[[0] * 9 + [1]]
    assert amplification.cooccurrence_amplification(
        train_object, train, train_object, predicted
    ).value == pytest.approx(0.2)
    both = np.hstack([train_object, train_object])
    missing = np.hstack([train_object, 0 * train_object])
    found = amplification.cooccurrence_amplification(both, train, missing, predicted)
    assert found.value == pytest.approx(0.2)
    assert found.reason == "1 of 2 objects are never predicted"
    nothing = amplification.cooccurrence_amplification(train_object, train, 0 * train_object, predicted)
    assert np.isnan(nothing.value)


def test_exemplars_and_welch_reference_vectors():
    ref = reference("hooker_cie", "derived_pie_and_welch")
    found = compression.identified_exemplars(ref["pred_dense"], ref["pred_pruned"], 6)
    np.testing.assert_array_equal(found.dense_mode, ref["mode_dense"])
    np.testing.assert_array_equal(found.compressed_mode, ref["mode_pruned"])
    np.testing.assert_array_equal(found.identified, ref["is_pie"].astype(bool))
    shift = compression.impacted_groups(
        ref["recall_dense"], ref["recall_pruned"], ref["mean_acc_dense"], ref["mean_acc_pruned"]
    )
    np.testing.assert_allclose(shift.shift, ref["relative_class_shift"], atol=1e-12)
    np.testing.assert_allclose(shift.t, ref["t_stat"], rtol=1e-9)
    np.testing.assert_allclose(shift.p, ref["p_value"], rtol=1e-9)
    with pytest.raises(ValueError, match="there are 1 and 10"):
        compression.impacted_groups(ref["recall_dense"][:1], ref["recall_pruned"], 0.9, 0.8)


def test_exemplars_by_hand_with_ties():
    dense = [[1, 0, 2], [1, 0, 1], [2, 0, 0]]
    compressed = [[2, 0, 0], [2, 0, 0], [1, 1, 0]]
    found = compression.identified_exemplars(dense, compressed, 3)
    assert found.identified.tolist() == [True, False, False]  # the tie of the last goes to the smallest label, 0
    assert (found.dense_ties, found.compressed_ties) == (1, 0)
    assert compression.pie_all_runs([0, 0, 1], compressed).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="do not fit 2 classes"):
        compression.modal_label(dense, 2)


def test_over_representation_by_hand():
    group = np.array([0] * 8 + [1] * 2 + [-1])
    hit = np.array([1] + [0] * 7 + [1, 0] + [1], dtype=bool)  # one each; the sample of no group is left out
    found = compression.over_representation(hit, group, ABC)
    assert found["a"].value == pytest.approx(0.5 / 0.8)
    assert found["b"].value == pytest.approx(0.5 / 0.2)
    assert "no sample" in str(found["c"].reason)


def test_norm_difference_by_hand_and_weighted_sum():
    found = compression.norm_difference([0.85, 0.91], [0.77, 0.8825], 0.90, 0.86)
    assert found[0] == pytest.approx(-0.04)
    sizes, dense, compressed = np.array([10, 30, 60]), np.array([0.9, 0.8, 0.7]), np.array([0.6, 0.75, 0.65])
    overall = [float(np.average(accuracy, weights=sizes)) for accuracy in (dense, compressed)]
    assert np.dot(sizes, compression.norm_difference(dense, compressed, *overall)) == pytest.approx(0)


def test_rate_change_by_hand_and_group_rates_reference_vectors():
    ref = reference("hooker_cie", "derived_group_rates")
    tables = decision.decision_rates(ref["y"], ref["pred"], ref["group"], ABC)
    np.testing.assert_allclose(tables["fpr"].rate, ref["fpr"], rtol=1e-12)
    np.testing.assert_allclose(tables["fnr"].rate, ref["fnr"], rtol=1e-12)
    np.testing.assert_allclose(1 - tables["accuracy"].rate, ref["err"], rtol=1e-12)

    def table(*wrong: int) -> groups.GroupRates:
        hundred = np.full(len(wrong), 100)
        return groups.GroupRates("fpr", ("a", "b"), np.array(wrong), hundred, hundred, sum(wrong), 200)

    found = compression.rate_change(table(2, 6), table(3, 6))  # FPR .02 -> .03; overall .04 -> .045
    assert found["a"]["change"].value == pytest.approx(0.5)
    assert found["a"]["excess"].value == pytest.approx(0.5 - 0.125)
    assert found["b"]["change"].value == 0
    zero = compression.rate_change(table(0, 6), table(3, 6))["a"]
    assert np.isnan([zero["change"].value, zero["excess"].value]).all()
    assert zero["change"].reason == "the dense fpr of 'a' is zero"


def test_celebas_minus_one_is_refused_where_a_truth_value_is_expected():
    with pytest.raises(ValueError, match="truth must hold zeros and ones, but holds -1"):
        decision.decision_rates([1, -1], [1, 0], [0, 1], ("x", "y"))
    with pytest.raises(ValueError, match="identity must hold zeros and ones"):
        amplification.identity_amplification([1, 0], [1, 0], [1, -1], 0.3, 0.6)


def test_amplification_over_attributes_counts_what_was_left_out():
    some = [Summary(0.1), Summary(float("nan"), "never predicted"), Summary(0.3)]
    found = amplification.mean_amplification(some)
    assert (found.value, found.reason) == (pytest.approx(0.2), "1 of 3 attributes left out")
    assert amplification.mean_amplification(some[:1]).reason is None
    assert "none of 1" in str(amplification.mean_amplification(some[1:2]).reason)


def test_uncertain_share_by_hand():
    logit = np.array([[0.0, 5.0], [2.1, -5.0], [2.3, 0.0], [-9.0, 9.0]])  # sigmoid(2.197) = 0.9
    np.testing.assert_allclose(amplification.uncertain_share(logit), [0.5, 0.25])
    with pytest.raises(ValueError, match="1 of 2 logits"):
        amplification.uncertain_share([0.0, np.inf])
