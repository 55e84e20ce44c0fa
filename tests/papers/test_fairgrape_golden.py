"""FairGRAPE against vectors made by the authors' code: importances, greedy selection, baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.pruning import connection_sensitivity, magnitude, prunable_weights, select_globally, select_per_layer
from papers.fairgrape.baselines import grasp_scores
from papers.fairgrape.greedy import RANKINGS, select_layer
from papers.fairgrape.importance import group_importance, official_importance

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "fairgrape"
LAYERS = ("c1", "c2", "fc")


class Net(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.c2 = nn.Conv2d(4, 6, 3, padding=1)
        self.fc = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(F.relu(self.c2(F.relu(self.c1(x)))).mean((2, 3)))
        return logits


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels[:, 0])


def read(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def network(golden: dict[str, np.ndarray]) -> Net:
    net = Net(len(golden["w_fc.bias"]))
    net.load_state_dict({key[2:]: torch.from_numpy(value) for key, value in golden.items() if key.startswith("w_")})
    return net


@pytest.fixture(scope="module")
def importance() -> dict[str, np.ndarray]:
    return read("importance")


@pytest.fixture(scope="module")
def baselines() -> dict[str, np.ndarray]:
    return read("baselines")


def batches(golden: dict[str, np.ndarray]) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [
        (torch.from_numpy(x), torch.from_numpy(y)[:, None], torch.from_numpy(s))
        for x, y, s in zip(golden["x"], golden["y"], golden["s"], strict=True)
    ]


@pytest.mark.parametrize(("score", "key"), [(group_importance, "clean_sum"), (official_importance, "official")])
@pytest.mark.parametrize("layer", LAYERS)
def test_importances_are_those_of_the_official_code(
    importance: dict[str, np.ndarray], score: Any, key: str, layer: str
) -> None:
    net = network(importance)
    found = score(net, prunable_weights(net), batches(importance), 2, loss)[f"{layer}.weight"]
    np.testing.assert_allclose(found.numpy(), importance[f"H_{key}_{layer}"], rtol=1e-4)


def test_the_official_importance_is_another_one(importance: dict[str, np.ndarray]) -> None:
    """Its shares of the groups even change places in the first layer, which is why it is not the default."""
    clean, official = (importance[f"H_{key}_c1"].reshape(2, -1).sum(1) for key in ("clean_sum", "official"))
    np.testing.assert_allclose(clean / clean.sum(), [0.29, 0.71], atol=0.005)
    np.testing.assert_allclose(official / official.sum(), [0.71, 0.29], atol=0.005)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rate", [50, 90])
@pytest.mark.parametrize("extra", [0, 1, 4])
@pytest.mark.parametrize("ranking", RANKINGS)
def test_selections_are_those_of_the_official_code(ranking: Any, extra: int, rate: int, layer: str) -> None:
    golden = read("greedy")
    alive = torch.from_numpy(golden[f"prevmask_{layer}"])
    found = select_layer(
        torch.from_numpy(golden[f"imp_{layer}"]),
        int(alive.numel() * (1 - rate / 100)),
        alive,
        ranking=ranking,
        extra_candidates=extra,
        literal=True,
    )
    expected = golden[f"mask_{layer}_rate{rate}_dp{RANKINGS.index(ranking)}_pb{extra}"]
    np.testing.assert_array_equal(found.mask.numpy(), expected.astype(bool))


@pytest.mark.parametrize("key", ["ws", "lottery"])
def test_magnitude_masks_are_those_of_the_official_code_and_one_weight_more(
    baselines: dict[str, np.ndarray], key: str
) -> None:
    scores = magnitude(prunable_weights(network(baselines)))
    theirs = select_per_layer(scores, 0.5, rounding="keep_fewer", extra=1)
    ours = select_per_layer(scores, 0.5, rounding="keep_fewer")
    for layer in LAYERS:
        expected = baselines[f"{key}_{layer}"].astype(bool)
        np.testing.assert_array_equal(theirs[f"{layer}.weight"].numpy(), expected)
        assert int(ours[f"{layer}.weight"].sum()) == expected.sum() + 1


def test_snip_is_that_of_the_official_code(baselines: dict[str, np.ndarray]) -> None:
    net = network(baselines)
    batch = torch.from_numpy(baselines["snip_x"]), torch.from_numpy(baselines["snip_y"])
    scores = magnitude(connection_sensitivity(net, prunable_weights(net), [batch]))
    kept = select_globally(scores, 0.5, rounding="keep_fewer", extra=1, minimum=0)
    for layer in LAYERS:
        np.testing.assert_allclose(
            scores[f"{layer}.weight"].numpy(), baselines[f"snip_absgrad_{layer}"], rtol=1e-4, atol=1e-8
        )
        np.testing.assert_array_equal(kept[f"{layer}.weight"].numpy(), baselines[f"snip_{layer}"].astype(bool))


def test_grasp_is_that_of_the_official_code(baselines: dict[str, np.ndarray]) -> None:
    net = network(baselines)
    batch = torch.from_numpy(baselines["grasp_x"]), torch.from_numpy(baselines["grasp_y"])[:, None]
    scores = grasp_scores(net, list(prunable_weights(net)), batch, loss)
    everything = torch.cat([score.flatten() for score in scores.values()])
    # int(N p) - 1 are pruned there: those strictly above the int(N p)-th largest score.
    limit = everything.topk(int(len(everything) * 0.5)).values[-1]
    for layer in LAYERS:
        kept = scores[f"{layer}.weight"] <= limit
        np.testing.assert_array_equal(kept.numpy(), baselines[f"grasp_{layer}"].astype(bool))


@pytest.mark.parametrize(("extra", "expected"), [(0, [1, 0, 0, 1]), (1, [1, 1, 0, 0])])
def test_the_hand_example_of_the_official_function(extra: int, expected: list[int]) -> None:
    found = select_layer(torch.tensor([[4, 3, 1, 0.5], [0.5, 1, 2, 3]]), 2, extra_candidates=extra)
    assert found.mask.int().tolist() == expected
    np.testing.assert_allclose(found.target, [8.5 / 15, 6.5 / 15])
    if not extra:
        np.testing.assert_allclose(found.share, [0.5625, 0.4375])
