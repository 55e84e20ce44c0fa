"""Learning-rate schedules against hand-computed values."""

import pytest

from common.schedules import one_cycle, polynomial, step_decay


def test_step_decay_drops_at_each_milestone() -> None:
    rate = step_decay([10, 20], 0.1)
    assert [rate(k) for k in (0, 9, 10, 19, 20)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_polynomial_falls_linearly_to_zero() -> None:
    rate = polynomial(10)
    assert [rate(k) for k in (0, 5, 10, 11)] == pytest.approx([1, 0.5, 0, 0])


def test_one_cycle_warms_up_and_anneals() -> None:
    rate = one_cycle(100, warm_up=0.3, start=0.1)
    assert rate(0) == pytest.approx(0.1)
    assert rate(15) == pytest.approx(0.55)
    assert rate(30) == pytest.approx(1.0)
    assert rate(65) == pytest.approx(0.5)
    assert rate(100) == pytest.approx(0.0)


def test_impossible_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        polynomial(0)
    with pytest.raises(ValueError, match="warm_up"):
        one_cycle(10, warm_up=1.0)
