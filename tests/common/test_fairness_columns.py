"""Group columns, crossed groups, labels that are none, and corrected p-values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from common.fairness import columns, multiplicity

RACE = columns.encode("race", ["Black", "White", "unsure", "White"], ["White", "Black", "Indian"], unknown=["unsure"])
GENDER = columns.encode("gender", ["Female", "Male", "Male", "Female"], ["Male", "Female"])


def test_words_become_indices_and_empty_groups_stay():
    assert RACE.index.tolist() == [1, 0, -1, 0]
    assert RACE.sizes == {"White": 2, "Black": 1, "Indian": 0}


@pytest.mark.parametrize("word", ["Blak", "black "])
def test_an_unknown_group_is_answered_with_its_place_the_known_ones_and_the_nearest(word):
    with pytest.raises(ValueError, match=rf"Sample 1 has the race '{word}'; known are 'White', 'Black'.*mean 'Black'"):
        columns.encode("race", ["White", word], ["White", "Black"])


def test_a_typo_in_a_column_lists_the_known_ones():
    known = {"race": RACE, "gender": GENDER}
    with pytest.raises(
        ValueError, match=r"no group column 'gendr'; known are 'race', 'gender' \(did you mean 'gender'"
    ):
        columns.pick(known, "gendr")
    with pytest.raises(ValueError, match="no group column 'rase'"):
        columns.pick(known, "rase x gender")
    assert columns.pick(known, "race") is RACE


def test_crossed_groups_hold_every_combination():
    both = columns.pick({"race": RACE, "gender": GENDER}, "race x gender")
    assert both.name == "race x gender"
    assert both.names == (
        "White x Male", "White x Female", "Black x Male", "Black x Female", "Indian x Male", "Indian x Female"
    )  # fmt: skip
    assert both.index.tolist() == [3, 0, -1, 1]
    assert both.sizes["Indian x Male"] == 0
    three = columns.cross(RACE, GENDER, columns.GroupColumn("age", np.array([1, 0, 1, 1]), ("young", "old")))
    assert [three.names[i] for i in three.index[[0, 1, 3]]] == [
        "Black x Female x old", "White x Male x young", "White x Female x old"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="two or more different"):
        columns.cross(RACE, RACE)
    with pytest.raises(ValueError, match="one entry a sample"):
        columns.cross(RACE, columns.GroupColumn("age", np.array([0]), ("young",)))


def test_a_group_missing_from_a_part_is_named():
    with pytest.raises(ValueError, match=r"validation part lacks groups of race: 'Indian' has 0, at least 1 needed"):
        columns.require_groups(RACE, "validation")
    positives = np.array([False, True, True, True])
    with pytest.raises(ValueError, match="'Black' has 0, 'Indian' has 0"):
        columns.require_groups(RACE, "validation", among=positives)
    columns.require_groups(GENDER, "validation", fewest=2)


def test_labels_out_of_range_are_named():
    with pytest.raises(ValueError, match=r"truth holds 7 at place 1, and 2 such labels in all.* 0..6"):
        columns.class_labels("truth", [0, 7, -1], 7)
    with pytest.raises(ValueError, match="whole numbers"):
        columns.class_labels("truth", [0.0, 1.0], 2)
    assert columns.class_labels("truth", [True, False], 2).tolist() == [1, 0]


def test_minus_one_is_not_a_yes():
    with pytest.raises(ValueError, match=r"holds -1 \(CelebA writes -1 for 0: give `labels > 0`\)"):
        columns.binary_labels("truth", [1, -1])
    with pytest.raises(ValueError, match=r"holds 2\."):
        columns.binary_labels("truth", [1, 2])
    assert columns.binary_labels("truth", [1.0, 0.0]).tolist() == [True, False]


def test_corrections_by_hand():
    p = [0.01, 0.04, 0.03, np.nan, 0.005]
    np.testing.assert_allclose(multiplicity.holm(p), [0.03, 0.06, 0.06, np.nan, 0.02])
    np.testing.assert_allclose(multiplicity.benjamini_hochberg(p), [0.02, 0.04, 0.04, np.nan, 0.02])
    assert multiplicity.holm([]).size == multiplicity.benjamini_hochberg([]).size == 0
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        multiplicity.holm([0.5, 1.2])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_corrections_agree_with_scipy_and_with_each_other(p):
    hochberg, strict = multiplicity.benjamini_hochberg(p), multiplicity.holm(p)
    np.testing.assert_allclose(hochberg, false_discovery_control(p), rtol=1e-12)
    assert (strict >= hochberg - 1e-12).all()
    assert (hochberg >= np.array(p) - 1e-12).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(strict[order]) >= 0).all()
    assert min(strict) == pytest.approx(min(1, len(p) * min(p)))
