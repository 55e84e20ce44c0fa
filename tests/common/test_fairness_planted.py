"""A bias planted with the embedded generator is found, with its sign and size; where none is planted, none is reported.

The experiment is described in `tests/support/planted_bias.py`; 200 experiments each. The bounds were set before it was run: of
200 intervals of exactly 95 %, fewer than 180 hold the truth with probability 0.001, and more than 20 miss it with the same one.
"""

import numpy as np
import planted_bias
import planted_faces
import pytest

from common.fairness.paired import compare_models


@pytest.fixture(scope="module")
def populations() -> planted_bias.Populations:
    return planted_bias.load()


@pytest.fixture(scope="module", params=["none", "all"])
def outcome(request, populations) -> tuple[str, dict]:
    found = planted_bias.experiment(populations, planted_bias.PLANTED[request.param], draws=100)
    return request.param, found


def test_every_interval_holds_the_truth_as_often_as_it_says(outcome):
    _, found = outcome
    assert min(found["coverage"].values()) >= 0.90, found["coverage"]


def test_plug_in_intervals_are_not_wide_without_need(outcome):
    _, found = outcome
    assert np.mean([found["coverage"][name] for name in planted_bias.PLUGGED]) <= 0.985, found["coverage"]


def test_a_gap_is_reported_where_it_was_planted_only(outcome):
    planted, found = outcome
    if planted == "none":
        assert found["truth"]["gap"] == 0
        assert found["gap_reported"] <= 0.10
        assert sum(found["excess_reported"].values()) <= 0.10
    else:
        assert found["truth"]["gap"] > 5
        assert found["gap_reported"] >= 0.5
        assert found["second_measured_worse"] >= 0.975  # the sign


def test_measured_gaps_are_as_large_as_the_planted_one(populations):
    true = planted_bias.truth(populations, 1.0)
    measured = []
    for at in range(100):
        pairs = planted_bias.draw(populations, 1.0, np.random.default_rng(at))
        right = (pairs["score"] > populations.threshold) == pairs["same"]
        measured.append([100 * right[pairs["group"] == g].mean() for g in (0, 1)])
    gaps = -np.diff(measured).ravel()
    error = gaps.std() / np.sqrt(gaps.size)
    assert abs(gaps.mean() - true["gap"]) < 3.3 * error
    assert error < 0.1 * true["gap"]


def test_harder_faces_are_the_ones_that_were_made_harder(populations):
    gaps = [planted_bias.truth(populations, share)["gap"] for share in planted_bias.PLANTED.values()]
    assert gaps[0] == 0 < gaps[1] < gaps[2]


def test_the_stored_embedding_is_that_of_the_generators_faces():
    with np.load(planted_bias.FILE) as data:
        stored = dict(data)
    for name in ("plain", "hard"):
        again = planted_faces.embed(planted_faces.features(name, 2, 0, 3, 4), stored["projection"], stored["mean"])
        np.testing.assert_allclose(again.astype(int), stored[name][:3].astype(int), atol=1)


def test_a_planted_loss_of_one_group_is_found_with_its_size(populations):
    """The compressed model answers at random for the second group in a quarter of its pairs."""
    found, truth = [], None
    for at in range(40):
        rng = np.random.default_rng(at)
        pairs = planted_bias.draw(populations, 0.0, rng)
        before = (pairs["score"] > populations.threshold) == pairs["same"]
        struck = (pairs["group"] == 1) & (rng.random(before.size) < 0.25)
        after = np.where(struck, rng.random(before.size) < 0.5, before)
        truth = 0.25 * (planted_bias.truth(populations, 0.0)["first accuracy"] - 50) if truth is None else truth
        report = compare_models(
            before, after, pairs["group"], planted_bias.NAMES, pairs["a"], pairs["b"], pairs["same"], draws=100
        )
        found.append(report.drop["second"])
        assert report.drop["first"].value == 0
    assert sum(one.low <= truth <= one.high for one in found) >= 33  # 38 expected; fewer have probability 0.001
    assert sum(one.low > 0 for one in found) >= 38
