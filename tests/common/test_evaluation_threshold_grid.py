"""Places in a grid of thresholds: equal to a binary search for every value, next to the thresholds above all."""

import numpy as np
import pytest
from numpy.typing import NDArray

from common.evaluation.threshold_grid import grid_places, squared_distance
from common.evaluation.verification import DISTANCE_GRID, FINE_DISTANCE_GRID

GRIDS = {
    "400 thresholds": DISTANCE_GRID,
    "4,000 thresholds": FINE_DISTANCE_GRID,
    "steps too fine for float32": np.linspace(0, 4, 3_000_001),
    "below zero": np.arange(-1, 1, 0.25),
    "within the distances": np.linspace(0.7, 1.3, 31),
    "large": np.arange(0, 4000, 10.0),
    "uneven": np.sort(np.random.default_rng(0).uniform(0, 4, 57)),
    "one threshold moved": np.where(np.arange(400) == 150, DISTANCE_GRID + 0.003, DISTANCE_GRID),
    "one threshold": np.array([1.0]),
}


def neighbours(values: NDArray) -> NDArray:
    """The values and the two floats on either side of each."""
    up, down = np.nextafter(values, np.inf), np.nextafter(values, -np.inf)
    return np.concatenate((values, up, down, np.nextafter(up, np.inf), np.nextafter(down, -np.inf)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", GRIDS)
def test_places_equal_a_binary_search(name: str, dtype: type) -> None:
    grid, rng = GRIDS[name], np.random.default_rng(1)
    some = rng.choice(grid, min(len(grid), 4000), replace=False)
    distance = np.abs(neighbours(np.concatenate((some, rng.uniform(0, 4, 50_000), [0.0, 1e6])).astype(dtype)))
    want = np.searchsorted(grid, distance.astype(np.float64), side="right")
    np.testing.assert_array_equal(grid_places(distance, False, grid), want)
    cosine = np.concatenate((1 - some / 2, rng.uniform(-1, 1, 50_000), [0.0, 1e-20, -1e-20, 1.0, 1.001, -1.001]))
    score = np.clip(neighbours(cosine.astype(dtype)), -1.001, 1.001)
    want = np.searchsorted(grid, squared_distance(score), side="right")
    np.testing.assert_array_equal(grid_places(score, True, grid), want)


def test_few_values_are_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    search = np.searchsorted

    def recorded(grid: NDArray, values: NDArray, side: str) -> NDArray:
        searched.append(np.size(values))
        return search(grid, values, side=side)

    monkeypatch.setattr(np, "searchsorted", recorded)
    grid_places(np.random.default_rng(2).uniform(-1, 1, 100_000), True, DISTANCE_GRID)
    assert sum(searched) < 300


def test_distances_beyond_float32() -> None:
    far = np.array([1e300, 3e38, 1e39, 0.0])
    with np.errstate(all="raise"):
        assert grid_places(far, False, DISTANCE_GRID).tolist() == [400, 400, 400, 1]


def test_places_need_two_bytes_a_pair() -> None:
    assert grid_places(np.zeros(3), True, DISTANCE_GRID).dtype == np.uint16
    assert grid_places(np.zeros(3), True, FINE_DISTANCE_GRID).dtype == np.uint16
    assert grid_places(np.zeros(3), True, np.linspace(0, 4, 40_000)).dtype == np.uint32
