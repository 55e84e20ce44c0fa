"""Two models on the same people: drops, corrected excesses, and how often an interval holds the truth."""

import numpy as np
import pytest

from common.fairness import paired

NAMES = ("a", "b", "c")


def decide(accuracy: list[list[float]], people: int, seeds: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Right decisions bool [S, P] of models with the given group accuracies on the same people, and their groups.

    A person is as easy for one model as for the other (one uniform number each), training luck apart.
    """
    group = np.repeat(np.arange(len(accuracy[0])), people)
    easy = rng.random(group.size)
    models = []
    for rates in accuracy:
        luck = 0.02 * rng.normal(size=(seeds, len(rates)))
        models.append(easy < (np.array(rates) + luck)[:, group])
    return (*models, group)


def test_drops_by_hand():
    before = np.array([[1, 1, 1, 1, 1, 0]], dtype=bool)
    after = np.array([[1, 1, 1, 0, 0, 0]], dtype=bool)
    found = paired.compare_models(before, after, [0, 0, 0, 1, 1, 1], ("a", "b"), np.arange(6), draws=200)
    assert found.overall.value == pytest.approx(100 / 3)
    assert (found.drop["a"].value, found.drop["b"].value) == (0.0, pytest.approx(200 / 3))
    assert found.excess["b"].value == pytest.approx(100 / 3)
    assert found.gap_growth.value == pytest.approx(100 - 100 / 3)
    assert (found.drop["a"].p, found.drop["a"].low, found.drop["a"].high) == (1.0, 0.0, 0.0)  # nothing changed
    assert found.drop["b"].reason == paired.ONE_SEED
    assert "no error" in str(found.ser_ratio.reason)


def test_the_ratio_of_error_ratios_by_hand():
    before = np.repeat([True, False, True, False], [90, 10, 80, 20])
    after = np.repeat([True, False, True, False], [80, 20, 20, 80])
    found = paired.compare_models(before, after, np.repeat([0, 1], 100), ("a", "b"), np.arange(200), draws=200)
    assert found.ser_ratio.value == pytest.approx((80 / 20) / (20 / 10))
    assert found.ser_ratio.low < 2 < found.ser_ratio.high


def test_a_group_of_one_person_is_undefined_and_said_so():
    rng = np.random.default_rng(0)
    before, after, group = decide([[0.9, 0.9, 0.9], [0.8, 0.8, 0.8]], 40, 2, rng)
    person = np.where(group == 2, 1000, np.arange(group.size))
    found = paired.compare_models(before, after, group, (*NAMES, "d"), person, draws=100)
    assert set(found.undefined) == {"c", "d"}
    assert np.isnan(found.drop["c"].value)
    assert "fewer than 2 subjects" in str(found.excess["d"].reason)
    assert np.isfinite(found.excess["a"].p_adjusted)


def test_excesses_are_corrected_over_the_groups():
    rng = np.random.default_rng(1)
    found = paired.compare_models(*decide([[0.9] * 3, [0.8] * 3], 60, 3, rng), NAMES, np.arange(180), draws=300)
    p = {name: one.p for name, one in found.excess.items()}
    least = min(p, key=p.__getitem__)
    assert found.excess[least].p_adjusted == pytest.approx(min(1, 3 * p[least]))


def test_images_of_one_person_move_together():
    rng = np.random.default_rng(2)
    before, after, group = decide([[0.9, 0.9], [0.7, 0.7]], 50, 1, rng)
    once = paired.compare_models(before, after, group, ("a", "b"), np.arange(100), draws=400)
    copies = [np.repeat(model, 4, axis=1) for model in (before, after)]
    same = paired.compare_models(*copies, np.repeat(group, 4), ("a", "b"), np.repeat(np.arange(100), 4), draws=400)
    images = paired.compare_models(*copies, np.repeat(group, 4), ("a", "b"), np.arange(400), draws=400)
    width = [one.overall.high - one.overall.low for one in (once, same, images)]
    assert width[1] == pytest.approx(width[0], rel=1e-9)
    assert width[2] < 0.6 * width[0]  # what resampling images instead of people would claim


def test_seeds_have_to_be_paired():
    with pytest.raises(ValueError, match="pair them seed by seed"):
        paired.compare_models(np.ones((2, 4)), np.ones((3, 4)), [0] * 4, ("a",), np.arange(4))


@pytest.mark.parametrize("planted", [0.0, 0.25], ids=["none", "25 points"])
def test_excess_and_gap_growth_cover_what_was_planted(planted):
    rng = np.random.default_rng(3)
    rates = [[0.9, 0.8, 0.7], [0.8, 0.7, 0.6 - planted]]
    truth = {"excess": 100 * planted * 2 / 3, "drop": 10 + 100 * planted, "gap": 100 * planted}
    hits = dict.fromkeys(truth, 0)
    claimed = 0
    for at in range(200):
        *models, group = decide(rates, 60, 3, rng)
        found = paired.compare_models(*models, group, NAMES, np.arange(group.size), draws=150, seed=at)
        for name, one in (("excess", found.excess["c"]), ("drop", found.drop["c"]), ("gap", found.gap_growth)):
            hits[name] += one.low <= truth[name] <= one.high
        claimed += min(one.p_adjusted for one in found.excess.values()) <= 0.05
    assert min(hits.values()) >= 180, hits  # 190 expected of 200; below 180 has probability 0.001
    # no excess: 10 of 200 expected; an excess of 3.2 standard errors: 160 expected
    assert claimed <= 20 if not planted else claimed >= 100, claimed


def test_an_effect_with_too_few_defined_draws_is_none():
    draws = np.array([[np.nan], [np.nan], [1.0]])
    assert paired.effect([1.0], draws).reason == "2 of 3 draws have no value"
    assert paired.effect([np.nan], draws).reason == "undefined at a seed"


def test_three_seeds_have_two_degrees_of_freedom_when_only_they_vary():
    found = paired.effect([1.0, 2.0, 3.0], np.full((50, 3), [1.0, 2.0, 3.0]))
    assert found.high - found.value == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)
    assert found.p == pytest.approx(0.0741799, rel=1e-4)
    people = paired.effect([2.0], 2 + np.random.default_rng(0).normal(size=(4000, 1)))
    assert people.high - people.value == pytest.approx(1.96, abs=0.05)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 4.0], ids=["people only", "both", "mostly training"])
@pytest.mark.parametrize("seeds", [2, 3])
def test_errors_stay_below_their_level_far_into_the_tails(seeds, ratio):
    rng = np.random.default_rng(4)
    training = ratio * np.sqrt(seeds) * rng.normal(size=(20_000, seeds))
    distance = abs(training.mean(axis=1) + rng.normal(size=20_000))
    variance = training.var(axis=1, ddof=1) / seeds
    for level, most in ((0.05, 1100), (0.01, 245), (0.001, 35)):  # 1,000, 200 and 20 expected at the worst
        assert np.count_nonzero(distance > paired._margin(level / 2, 1.0, variance, seeds)) <= most, level


def test_the_p_value_is_where_the_interval_touches():
    for people, training, seeds in ((1.0, 0.0, 1), (1.0, 2.0, 3), (0.0, 1.0, 2)):
        p = paired._p_value(3.0, people, training, seeds)
        assert paired._margin(p / 2, people, training, seeds) == pytest.approx(3.0, rel=1e-6)
    assert paired._p_value(1e6, 1.0, 0.0, 1) == paired.SMALLEST_P
    assert paired._p_value(0.0, 1.0, 1.0, 3) == pytest.approx(1.0)
