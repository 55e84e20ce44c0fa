"""Schedules of sparsity: the primer's values, official implementations, and that sparsity never falls."""

from pathlib import Path

import numpy as np
import pytest

from common.pruning import GradualSchedule, geometric_rounds, linear_rounds, rounds_to_reach


def test_rounds() -> None:
    assert linear_rounds(0.9, 1) == (0.9,), "one shot"
    assert linear_rounds(0.9, 3) == pytest.approx((0.3, 0.6, 0.9))
    assert geometric_rounds(0.8, 5) == pytest.approx((0.2, 0.36, 0.488, 0.5904, 0.67232))
    assert geometric_rounds(1.0, 2) == (0, 0)
    # FairGRAPE's rounds: 7 (50 %), 22 (90 %) and 44 (99 %) at 0.9, 91 (90 %) at 0.975
    assert [rounds_to_reach(s, 0.9) for s in (0.5, 0.9, 0.99)] == [7, 22, 44]
    assert rounds_to_reach(0.9, 0.975) == 91
    assert rounds_to_reach(0.0, 0.8) == 0
    for rounds in range(1, 30):
        assert rounds_to_reach(1 - 0.8**rounds, 0.8) == rounds, "exact powers need no round more"


def test_lottery_tickets_grid() -> None:
    kept = [1000 * (266_200 - 265_200 * s - 1_000 * t) / 266_200 for s, t in zip(
        geometric_rounds(0.8, 15), geometric_rounds(0.9, 15), strict=True)]  # fmt: skip
    assert [round(k) / 10 for k in kept[:8]] == [80.0, 64.1, 51.3, 41.1, 32.9, 26.3, 21.1, 16.9]
    assert round(kept[14]) / 10 == 3.6


def test_cubic_by_hand() -> None:
    schedule = GradualSchedule(0.9, 0, 100, 1)
    steps = (0, 10, 25, 50, 75, 100, 5000)
    assert [schedule.sparsity(step) for step in steps] == pytest.approx(
        [0, 0.2439, 0.5203125, 0.7875, 0.8859375, 0.9, 0.9]
    )
    held = GradualSchedule(0.9, 100, 500, 100, initial=0.2)
    assert [held.sparsity(step) for step in (0, 99, 100, 199)] == [pytest.approx(0.2)] * 4
    assert (
        held.sparsity(299) == held.sparsity(200) < held.sparsity(300) < held.sparsity(500) == held.sparsity(501) == 0.9
    )
    assert [step for step in range(700) if held.prunes_at(step)] == [100, 200, 300, 400, 500]
    assert GradualSchedule(0.9, 0, 100, exponent=1).sparsity(50) == pytest.approx(0.45)
    values = [held.sparsity(step) for step in range(700)]
    assert values == sorted(values)


def test_distillers_pruner(golden: Path) -> None:
    vectors = np.load(golden / "to_prune_or_not/schedules_and_masks.npz")
    for case in range(3):
        initial, final, start, end, every = vectors[f"distiller{case}_args"].tolist()
        # it reaches the final sparsity one step before its end
        last = int(start + (end - start - 1) // every * every)
        schedule = GradualSchedule(final, int(start), last, int(every), initial)
        got = [schedule.sparsity(int(epoch)) for epoch in vectors[f"distiller{case}_epochs"]]
        np.testing.assert_allclose(got, vectors[f"distiller{case}_sparsity"], rtol=1e-12)


def test_tensorflows_formula(golden: Path) -> None:
    vectors = np.load(golden / "to_prune_or_not/schedules_and_masks.npz")
    initial, final, begin, end, exponent = vectors["tf_args"].tolist()
    schedule = GradualSchedule(final, int(begin), int(end), 100, initial, exponent)
    got = [schedule.formula(step) for step in vectors["tf_steps"].tolist()]
    np.testing.assert_allclose(got, vectors["tf_sparsity"], rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"final": 1.0}, r"must lie in \[0, 1\)"),
        ({"initial": -0.1}, r"must lie in \[0, 1\)"),
        ({"initial": 0.95}, "would fall from 0.95 to 0.9"),
        ({"end": 0}, "end must lie behind begin"),
        ({"every": 30}, "by a multiple of every"),
        ({"every": 0}, "updates every 0 steps"),
        ({"exponent": 0.0}, "exponent is 0.0"),
    ],
)
def test_refusals(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradualSchedule(**{"final": 0.9, "begin": 0, "end": 100, **arguments})  # type: ignore[arg-type]


def test_refusals_of_rounds() -> None:
    for call in (lambda: linear_rounds(1.0, 3), lambda: rounds_to_reach(1.0, 0.9)):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
            call()
    for call in (lambda: linear_rounds(0.9, 0), lambda: geometric_rounds(0.8, 0)):
        with pytest.raises(ValueError, match="at least one round, not 0"):
            call()
    for call in (lambda: geometric_rounds(0.0, 3), lambda: geometric_rounds(1.1, 3)):
        with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
            call()
    with pytest.raises(ValueError, match="keep is 1"):
        rounds_to_reach(0.5, 1.0)
