"""The benchmark: one call, accuracy and groups and cost, from pair sets of any data module."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.evaluation.benchmark import VerificationBenchmark, table_name
from common.quantization import RangesNotObservedError, quantize_network

PEOPLE, EACH, FOLDS = 40, 4, 10


class Colours(nn.Module):
    """Embeds an image by its first pixel of each channel: identity is written there."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3, bias=False)
        self.linear.weight.data = torch.eye(3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += len(x)
        return self.linear(x[:, :, 0, 0])


def pair_set(name: str, images: Tensor, confuse: int = 0) -> Any:
    """Ten folds with eight genuine and eight impostor pairs; images of the first `confuse` people show somebody else."""
    subject = np.repeat(np.arange(PEOPLE), EACH)
    rng = np.random.default_rng(0)
    first, second, same, fold = [], [], [], []
    for person in range(PEOPLE):
        for _ in range(2):
            a, b = rng.choice(EACH, 2, replace=False) + person * EACH
            other = (person + 2 * rng.integers(1, 19)) % PEOPLE  # of the same group
            first += [a, a]
            second += [b, other * EACH + int(rng.integers(EACH))]
            same += [True, False]
            fold += [person // (PEOPLE // FOLDS)] * 2
    return SimpleNamespace(
        name=name, images=images, first=np.array(first), second=np.array(second), same=np.array(same),
        fold=np.array(fold), subject=subject, group=np.array(first) // EACH % 2, group_names=("even", "odd"), divisor=127.5,
    )  # fmt: skip


@pytest.fixture
def data() -> Any:
    rng = np.random.default_rng(1)
    angles = np.linspace(0, 2 * np.pi, PEOPLE, endpoint=False)
    colour = 127 + 100 * np.stack([np.cos(angles), np.sin(angles), np.zeros(PEOPLE)], 1)
    pixels = np.repeat(colour, EACH, 0) + rng.normal(0, 1, (PEOPLE * EACH, 3))
    images = torch.from_numpy(pixels.round().astype(np.uint8))[:, :, None, None].expand(-1, -1, 6, 6).contiguous()
    sets = {name: pair_set(name, images) for name in ("a", "b")}
    return SimpleNamespace(pair_sets=lambda: sets, validation_pair_sets=lambda: {"v": sets["a"]})


def benchmark(**options: Any) -> VerificationBenchmark:
    return VerificationBenchmark(**{"latency_repeats": 0, **options})


def test_a_separable_set_is_solved_for_every_group(data: Any) -> None:
    found = benchmark().measure(SimpleNamespace(network=Colours()), data)
    metrics = found.metrics["a"]
    assert metrics["accuracy"] > 95
    assert set(metrics["group_accuracy"]) == {"even", "odd"}
    assert metrics["pairs"] == 160
    assert metrics["subjects"] == PEOPLE
    assert found.scores["a/score"].dtype == np.float32
    assert found.scores["a/correct"].mean() * 100 == pytest.approx(metrics["accuracy"])
    assert found.cost["parameters"] == 9
    assert found.cost["stored_bytes"] > 36


def test_images_that_two_sets_share_are_embedded_once_and_their_people_pooled(data: Any) -> None:
    network = Colours()
    found = benchmark(flip="none").measure(SimpleNamespace(network=network), data)
    assert network.calls == PEOPLE * EACH + 1  # and one image for the count of operations
    assert {str(table["pool"]) for table in found.tables.values()} == {"a"}
    assert found.pairs["a"] == found.pairs["b"]


def test_a_rate_that_few_impostors_cannot_show_is_undefined_with_a_reason(data: Any) -> None:
    metrics = benchmark().measure(SimpleNamespace(network=Colours()), data).metrics["a"]
    assert metrics["tar_at_far_1e-3"] is None
    assert "tar_at_far_1e-3" in metrics["undefined"]
    assert "impostors" in metrics["undefined_reasons"]["tar_at_far_1e-3"]


def test_the_validation_part_is_another_part(data: Any) -> None:
    found = benchmark(part="validation").measure(SimpleNamespace(network=Colours()), data)
    assert set(found.metrics) == {"v"}


def test_removing_the_mean_of_the_other_folds_changes_scores(data: Any) -> None:
    plain = benchmark().measure(SimpleNamespace(network=Colours()), data)
    centred = benchmark(centre="other_folds").measure(SimpleNamespace(network=Colours()), data)
    assert not np.allclose(plain.scores["a/score"], centred.scores["a/score"])
    assert np.isfinite(centred.scores["a/score"]).all()


def test_ranges_that_were_never_observed_are_refused(data: Any) -> None:
    network = quantize_network(nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU(4), nn.Flatten()), 8, 8)
    with pytest.raises(RangesNotObservedError):
        benchmark().measure(SimpleNamespace(network=network), data)


def test_an_embedding_that_is_not_finite_is_refused(data: Any) -> None:
    network = Colours()
    network.linear.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="image"):
        benchmark().measure(SimpleNamespace(network=network), data)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="part"):
        VerificationBenchmark(part="tests")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="centre"):
        VerificationBenchmark(centre="all")  # type: ignore[arg-type]


def test_table_names_follow_the_content() -> None:
    table = {"same": np.array([True, False]), "fold": np.array([0, 1])}
    assert table_name(table) == table_name(dict(reversed(table.items())))
    assert table_name(table) != table_name({**table, "fold": np.array([0, 2])})
