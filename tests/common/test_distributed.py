"""Two processes give what one gives: heads, batch statistics, dropout, activation ranges, and whole trainings."""

from __future__ import annotations

import pytest
from distributed_cases import CASES, ROW_BY_ROW, both_ways, largest_difference, run_cases
from torch import Tensor
from two_processes import in_two_processes

Results = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Results]]:
    return in_two_processes(both_ways, tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def single() -> Results:
    return run_cases()


def of_heads_layers_and_ranges() -> list[str]:
    return [name for name in CASES if name.split()[0] in ("head", "batch", "dropout", "folded", "range,")]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_compute_what_one_computes(name: str, pair: list[dict[str, Results]], single: Results) -> None:
    """In float64 to the last digits; in float32 the order of the sums over the batch shows in the last digits of these."""
    tolerance = 1e-5 if "float32" in name else 1e-12
    for rank in (0, 1):
        assert largest_difference(pair[rank]["synchronized"][name], single[name]) < tolerance


@pytest.mark.parametrize("name", of_heads_layers_and_ranges())
def test_without_synchronization_they_do_not(name: str, pair: list[dict[str, Results]], single: Results) -> None:
    """So the test above can fail: every case has something that only all rows together decide."""
    difference = max(largest_difference(pair[rank]["alone"][name], single[name]) for rank in (0, 1))
    assert (difference > 1e-3) == (name not in ROW_BY_ROW)
