"""Many comparisons at once: p-values corrected so that what is announced holds together.

Twenty groups compared at 5 % give one finding on average where there is none. `holm` keeps the chance of *any* false
finding below the level, whatever the tests share; `benjamini_hochberg` keeps the expected *share* of false ones among the
findings below it, and finds more among hundreds of tests.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from common.fairness.groups import FloatArray


def _checked(p: npt.ArrayLike) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """p-values [M] and the places of the defined ones in rising order."""
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or (values < 0).any() or (values > 1).any():
        raise ValueError(f"p-values must be a list of numbers in [0, 1] (NaN: no test), but are {values}.")
    defined = np.flatnonzero(~np.isnan(values))
    return values, defined[np.argsort(values[defined], kind="stable")]


def holm(p: npt.ArrayLike) -> FloatArray:
    """Adjusted p-values [M] that control the family-wise error (Holm 1979): in rising order times M, M-1, ..., 1.

    NaN stands for a test that could not be made: it stays NaN and does not count in M.
    """
    values, order = _checked(p)
    adjusted = np.full(values.shape, np.nan)
    factor = np.arange(order.size, 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * factor))
    return adjusted


def benjamini_hochberg(p: npt.ArrayLike) -> FloatArray:
    """Adjusted p-values [M] that control the false discovery rate (Benjamini & Hochberg 1995): the k-th times M/k.

    Valid for independent tests and for tests that rise and fall together, as those on the same people do. NaN as in
    :func:`holm`.
    """
    values, order = _checked(p)
    adjusted = np.full(values.shape, np.nan)
    scaled = values[order] * order.size / np.arange(1, order.size + 1)
    adjusted[order] = np.minimum(1, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted
