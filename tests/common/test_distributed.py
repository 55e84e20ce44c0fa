"""Two processes give what one gives: heads, batch statistics, dropout, activation ranges, and whole trainings."""

from __future__ import annotations

import pytest
from distributed_cases import CASES, ROW_BY_ROW, both_ways, largest_difference, run_cases
from distributed_fits import arms, train_all
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, list[Results]]:
    """Final states of whole runs on one device and, of either process, on two."""
    folder = tmp_path_factory.mktemp("fits")
    return train_all(folder / "one", 1), in_two_processes(train_all, folder, folder / "two", 2)


@pytest.mark.parametrize("name", arms())
def test_a_run_on_two_devices_ends_like_a_run_on_one(name: str, trained: tuple[Results, list[Results]]) -> None:
    """Weights, running statistics, ranges, optimised through Lightning, and the last loss that is logged.

    float32: eight steps, in each of which the sums of a batch are added in another order. A single process whose initial
    weights are changed by 1e-7 ends as far away.
    """
    one, two = trained
    tolerance = 2e-5 if "float32" in name else 1e-9
    for rank in (0, 1):
        assert largest_difference(two[rank][name], one[name]) < tolerance
