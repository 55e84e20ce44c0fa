"""Places of many distances in a grid of thresholds: one pass of arithmetic in place of a sort.

The place of a distance is the number of thresholds t <= distance. A pair is accepted at the j-th threshold
(distance < t_j, strictly) iff its place is <= j, so the places decide every pair at every threshold, and counting them
gives the accepted pairs of all thresholds.
"""

import numpy as np
from numpy.typing import NDArray


def ascending_grid(thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """The thresholds in float64 [T]; ValueError unless they are one list in ascending order without repeats."""
    grid = np.asarray(thresholds, dtype=np.float64)
    if grid.ndim != 1 or not len(grid) or not (np.diff(grid) > 0).all():
        raise ValueError(
            f"The thresholds (shape {grid.shape}) must be one ascending list of distances without repeats."
        )
    return grid


def squared_distance(score: NDArray[np.floating]) -> NDArray[np.float64]:
    """2 - 2 cos [P] in float64, a fresh array; a cosine rounded to above 1 is at distance 0."""
    distance = np.multiply(score, -2.0, dtype=np.float64)
    distance += 2.0
    return np.maximum(distance, 0.0, out=distance)


def grid_places(value: NDArray[np.floating], is_score: bool, grid: NDArray[np.float64]) -> NDArray[np.integer]:
    """Number of thresholds <= each distance [P], 0..T; exactly ``np.searchsorted(grid, distance, side="right")``.

    Args:
        value: cosines (``is_score``) or squared distances >= 0 [P], finite. grid: ascending thresholds [T].

    On an even grid the place is a division by its step, and float32 is good enough for all pairs but those next to a
    threshold (one in a thousand for 400 thresholds), which are searched for in float64. Uneven grids: all are searched.
    """
    kind = np.min_scalar_type(2 * len(grid) + 1)  # room for the places of impostor and of genuine pairs
    steps, slack = _even_steps(grid, is_score)
    if not steps:
        return _searched(value, is_score, grid).astype(kind)
    slope, start = (-2 * steps, 2.0 - grid[0]) if is_score else (steps, -grid[0])
    with np.errstate(over="ignore", invalid="ignore"):  # distances beyond float32 lie above the grid
        place = value.astype(np.float32)
        place *= np.float32(slope)
        place += np.float32(start * steps + 1 + slack)
        below = np.floor(place)
        place -= below
    uncertain = np.flatnonzero(place < 2 * slack)
    lowest = int(np.searchsorted(grid, 0.0, side="right"))  # distances are not negative
    places = np.clip(below, lowest, len(grid), out=below).astype(kind)
    places[uncertain] = _searched(value[uncertain], is_score, grid)
    return places


def _searched(value: NDArray[np.floating], is_score: bool, grid: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.searchsorted(grid, squared_distance(value) if is_score else value.astype(np.float64), side="right")


def _even_steps(grid: NDArray[np.float64], is_score: bool) -> tuple[float, float]:
    """Thresholds in a unit of distance, 0 for an uneven grid, and a bound on the float32 error of a place."""
    if len(grid) < 2:
        return 0.0, 0.0
    steps = (len(grid) - 1) / (grid[-1] - grid[0])
    # Rounding of value, slope, product, start and sum: five times half an eps of at most this size. Three times that.
    size = 1 + (np.abs(grid[[0, -1]]).max() + 2 * is_score) * steps
    slack = 8 * float(np.finfo(np.float32).eps) * size
    unevenness = np.abs((grid - grid[0]) * steps - np.arange(len(grid))).max()
    return (steps, slack) if unevenness < slack / 8 else (0.0, 0.0)
