"""Subject bootstrap: weights, draws and speed."""

import time
from pathlib import Path

import numpy as np
import pytest

from common.fairness import bootstrap, groups
from common.fairness.intervals import percentile_interval

GOLDEN = Path(__file__).parents[1] / "golden" / "_fairness_metrics"


def pair_list(
    subjects: int, per_class: int, n_groups: int = 4, seed: int = 0, nobody: int = 0
) -> dict[str, np.ndarray]:
    """Mated and non-mated pairs within groups (subject s: group s mod n_groups), ``nobody`` of them of no group."""
    rng = np.random.default_rng(seed)
    a = np.tile(rng.integers(0, subjects, per_class), 2)
    other = (a + n_groups * rng.integers(1, subjects // n_groups, 2 * per_class)) % subjects
    same = np.arange(2 * per_class) < per_class
    group = a % n_groups
    group[rng.choice(group.size, nobody, replace=False)] = -1
    score = rng.normal(size=group.size) + 2.5 * same
    return {"subject_a": a, "subject_b": np.where(same, a, other), "same": same, "group": group, "score": score}


def who(pairs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return pairs["subject_a"], pairs["subject_b"], pairs["group"]


def test_stored_multiplicities_give_the_reference_rates_and_intervals():
    with np.load(GOLDEN / "subject_ci.npz") as data:
        ref = dict(data)
    a, b, score = ref["subject_a"], ref["subject_b"], ref["score"]
    group = np.zeros(a.size, dtype=np.int64)  # the stored draws are not stratified
    weights = bootstrap.pair_weights(ref["mult"].T, bootstrap.subject_table(a, b, group))
    fmr, fnmr = bootstrap.error_draws(score, weights, a == b, group, 1, threshold=float(ref["threshold"]))
    for name, draws in (("fmr", fmr), ("fnmr", fnmr)):
        for column in (0, 1):  # one group: its rate is the overall rate
            np.testing.assert_allclose(draws[:, column], ref[f"boot_{name}"], rtol=1e-9)
        found = percentile_interval(draws[:, 0])
        np.testing.assert_allclose([found.low, found.high], ref[f"boot_ci_{name}"], rtol=1e-9)
    wrong = ref["pair_boot_ci_fmr_WRONG"]
    found = percentile_interval(fmr[:, 0])
    assert found.high - found.low > 1.3 * (wrong[1] - wrong[0])


def test_every_stratum_keeps_its_size_in_every_draw():
    pairs = pair_list(40, 60, nobody=10)
    foreign = {"subject_a": 99, "subject_b": 98, "same": False, "group": -1, "score": 0.0}
    lonely = {name: np.append(column, foreign[name]) for name, column in pairs.items()}
    table = bootstrap.subject_table(*who(lonely))
    assert sorted(table.subject.tolist()) == sorted(set(lonely["subject_a"]) | set(lonely["subject_b"]))
    times = np.concatenate(list(bootstrap.multiplicities(table, 50, seed=1)), axis=1)
    assert times.shape == (table.subject.size, 50)
    assert set(np.unique(table.stratum)) == {-1, 0, 1, 2, 3}
    for stratum in np.unique(table.stratum):
        inside = table.stratum == stratum
        assert (times[inside].sum(axis=0) == inside.sum()).all()
    assert times[table.stratum == 0].std(axis=0).min() > 0


def test_multiplicities_are_those_of_drawing_with_replacement():
    table = bootstrap.subject_table([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0] * 5)
    times = np.concatenate(list(bootstrap.multiplicities(table, 20_000, seed=2)), axis=1)
    covariance = np.cov(times)  # multinomial: variance 1 - 1/n, covariance -1/n
    np.testing.assert_allclose(times.mean(axis=1), 1, atol=0.03)
    np.testing.assert_allclose(covariance, np.eye(5) - 0.2, atol=0.04)


def test_weights_are_products_of_multiplicities_and_independent_of_blocks(monkeypatch):
    pairs = pair_list(40, 30, nobody=5)
    table = bootstrap.subject_table(*who(pairs))
    times = np.concatenate(list(bootstrap.multiplicities(table, 70, seed=3)), axis=1)
    row = {int(s): i for i, s in enumerate(table.subject)}
    whole = bootstrap.subject_weights(*who(pairs), draws=70, seed=3)
    assert whole.shape == (70, 60)
    assert whole.dtype == np.float32
    for p, (a, b) in enumerate(zip(pairs["subject_a"], pairs["subject_b"], strict=True)):
        product = times[row[a]] if a == b else times[row[a]] * times[row[b]]
        np.testing.assert_array_equal(whole[:, p], product)
    monkeypatch.setattr(bootstrap, "BLOCK_BYTES", 4 * 60 * 16)
    blocks = list(bootstrap.weight_blocks(*who(pairs), draws=70, seed=3))
    assert [len(block) for block in blocks] == [16, 16, 16, 16, 6]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    np.testing.assert_array_equal(bootstrap.subject_weights(*who(pairs), draws=20, seed=3), whole[:20])
    assert (bootstrap.subject_weights(*who(pairs), draws=70, seed=4) != whole).any()


def test_a_subject_of_two_groups_is_refused():
    with pytest.raises(ValueError, match=r"Subject 7 appears in pairs of groups \[0 1\]"):
        bootstrap.subject_table([7, 7], [7, 8], [0, 1])


def test_accuracy_draws_equal_a_plain_loop():
    pairs = pair_list(24, 40, nobody=8)
    rng = np.random.default_rng(5)
    correct = rng.random((3, 80)) < 0.8
    weights = bootstrap.subject_weights(*who(pairs), draws=20, seed=0)
    found = bootstrap.accuracy_draws(correct, weights, pairs["same"], pairs["group"], 4)
    assert found.shape == (20, 3, 5)
    for g in range(5):
        inside = pairs["group"] == g if g < 4 else np.ones(80, dtype=bool)
        for d in range(20):
            for run in range(3):
                parts = []
                for part in (inside & pairs["same"], inside & ~pairs["same"]):
                    w = weights[d, part]
                    rate = np.average(correct[run, part], weights=w) if w.sum() else np.nan
                    parts.append(part.sum() / inside.sum() * rate)
                np.testing.assert_allclose(found[d, run, g], sum(parts), rtol=1e-12)


def test_unit_weights_give_the_accuracy_of_the_pair_list():
    pairs = pair_list(24, 40, nobody=8)
    correct = np.random.default_rng(5).random(80) < 0.8
    ones = np.ones((1, 80), dtype=np.float32)
    found = bootstrap.accuracy_draws(correct, ones, pairs["same"], pairs["group"], 6)[0, 0]
    for g in range(4):
        assert found[g] == pytest.approx(correct[pairs["group"] == g].mean(), rel=1e-12)
    assert np.isnan(found[4:6]).all()  # groups without a pair
    assert found[6] == pytest.approx(correct.mean(), rel=1e-12)


def test_all_right_and_all_wrong_are_exactly_one_and_zero_in_every_draw():
    group = np.zeros(10, dtype=int)
    weights = np.arange(1, 41, dtype=np.float32).reshape(4, 10)
    for mated in range(11):  # SER would turn a rounding error of a perfect group into a huge ratio
        same = np.arange(10) < mated
        found = bootstrap.accuracy_draws(np.array([[True] * 10, [False] * 10]), weights, same, group, 1)
        np.testing.assert_array_equal(found, np.tile([[1.0, 1.0], [0.0, 0.0]], (4, 1, 1)))


def test_a_part_without_weight_is_nan_and_not_zero():
    weights = np.array([[1, 1, 0, 0], [1, 1, 1, 0]], dtype=np.float32)
    found = bootstrap.accuracy_draws([True] * 4, weights, [True, False, True, True], [0, 0, 1, 1], 2)[:, 0]
    np.testing.assert_array_equal(found, [[1, np.nan, 1], [1, 1, 1]])


def test_thresholds_of_draws_equal_those_of_the_expanded_list():
    pairs = pair_list(60, 400)
    score = np.round(pairs["score"], 1)  # many ties
    weights = bootstrap.subject_weights(*who(pairs), draws=30, seed=0)
    for target in (0.02, 0.3):
        found = bootstrap.threshold_draws(score, ~pairs["same"], weights, target)
        for d in range(30):
            expanded = np.repeat(score[~pairs["same"]], weights[d, ~pairs["same"]].astype(int))
            point = groups.operating_point(expanded, np.ones(expanded.size, dtype=bool), target)
            assert found[d] == point.threshold
    lopsided = np.zeros((1, 800), dtype=np.float32)
    lopsided[0, 400 + np.argmin(pairs["score"][400:])] = 5  # all the weight on the lowest impostor
    assert bootstrap.threshold_draws(pairs["score"], ~pairs["same"], lopsided, 0.02) == pairs["score"][400:].min()
    assert np.isnan(bootstrap.threshold_draws(pairs["score"], ~pairs["same"], 0 * lopsided, 0.02)).all()


def test_error_draws_equal_a_plain_loop_with_a_threshold_per_draw():
    pairs = pair_list(24, 60, nobody=8)
    weights = bootstrap.subject_weights(*who(pairs), draws=10, seed=0)
    limit = np.linspace(0.5, 1.5, 10)
    fmr, fnmr = bootstrap.error_draws(pairs["score"], weights, pairs["same"], pairs["group"], 4, limit)
    for g in range(5):
        inside = pairs["group"] == g if g < 4 else np.ones(120, dtype=bool)
        for d in range(10):
            accepted = pairs["score"] > limit[d]
            for rates, part, wrong in ((fmr, ~pairs["same"], accepted), (fnmr, pairs["same"], ~accepted)):
                w = weights[d, inside & part]
                expected = np.average(wrong[inside & part], weights=w) if w.sum() else np.nan
                np.testing.assert_allclose(rates[d, g], expected, rtol=1e-12)


def test_copies_of_pairs_do_not_narrow_the_interval():
    pairs = pair_list(80, 200)
    correct = np.random.default_rng(1).random(400) < 0.9
    twice = {name: np.tile(column, 2) for name, column in pairs.items()}
    once = bootstrap.accuracy_draws(correct, bootstrap.subject_weights(*who(pairs), 200, 0), *_columns(pairs), 4)
    copied = bootstrap.subject_weights(*who(twice), 200, 0)
    np.testing.assert_allclose(
        bootstrap.accuracy_draws(np.tile(correct, 2), copied, *_columns(twice), 4), once, rtol=1e-12
    )


def _columns(pairs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return pairs["same"], pairs["group"]


def test_two_arms_on_the_same_draws_are_compared_without_the_noise_they_share():
    pairs = pair_list(200, 600)
    rng = np.random.default_rng(2)
    subject_is_hard = rng.random(200) < 0.3
    first = ~(subject_is_hard[pairs["subject_a"]] & (rng.random(1200) < 0.5))
    second = first & (rng.random(1200) > 0.02)
    weights = bootstrap.subject_weights(*who(pairs), 400, 0)
    other = bootstrap.subject_weights(*who(pairs), 400, 1)
    paired = bootstrap.accuracy_draws([first, second], weights, *_columns(pairs), 4)[..., -1]
    unpaired = bootstrap.accuracy_draws(second, other, *_columns(pairs), 4)[:, 0, -1]
    assert np.std(paired[:, 0] - paired[:, 1]) < 0.4 * np.std(paired[:, 0] - unpaired)


@pytest.mark.speed
def test_two_thousand_draws_of_six_thousand_pairs_cost_about_a_matrix_product():
    pairs = pair_list(600, 3000)
    correct = np.random.default_rng(0).random((10, 6000)) < 0.95
    taken = {"all": [], "sums": [], "product": []}
    dense = np.ascontiguousarray(correct.T, dtype=np.float32)
    for _ in range(6):
        start = time.perf_counter()
        weights = bootstrap.subject_weights(*who(pairs), draws=2000, seed=0)
        middle = time.perf_counter()
        bootstrap.accuracy_draws(correct, weights, *_columns(pairs), 4)
        end = time.perf_counter()
        np.ascontiguousarray(weights @ dense)
        taken["product"].append(time.perf_counter() - end)
        taken["sums"].append(end - middle)
        taken["all"].append(end - start)
    assert min(taken["all"]) < 1.0
    assert min(taken["sums"]) < 5 * min(taken["product"])  # measured: 1.3 to 2.5
