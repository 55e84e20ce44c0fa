"""NISP's rules against the golden vectors and by hand: Inf-FS, and how scores pass each kind of layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.backbones.cifar_plain import CifarNet
from common.backbones.lenet import LeNet5Caffe
from papers.nisp.propagation import PropagationError, channel_scores, propagate
from papers.nisp.ranking import DAMPING, feature_graph, inf_fs, spectral_radius


@pytest.fixture(scope="module")
def rules(golden: Path) -> dict[str, Tensor]:
    with np.load(golden / "nisp" / "derived_propagation.npz", allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def ranking(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "nisp" / "derived_inffs_unsupervised.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight.clone())
    return layer


def before(*layers: nn.Module, importance: Tensor, size: tuple[int, ...], **options: Any) -> Tensor:
    """Scores of the input of a stack of layers, from those of its output."""
    width = importance.numel()
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, 2))
    last = str(len(network) - 1)
    return propagate(network, torch.zeros(1, *size), importance.flatten(), last, **options)[""]


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


# --- propagation --------------------------------------------------------------------------------------------------------


def test_linear(rules: dict[str, Tensor]) -> None:
    same(before(linear(rules["fc_W"]), importance=rules["fc_s_out"], size=(6,)), rules["fc_s_in"])


@pytest.mark.parametrize(("name", "stride", "size"), [("same", 1, 4), ("stride2", 2, 8)])
def test_convolution_is_the_transposed_one(rules: dict[str, Tensor], name: str, stride: int, size: int) -> None:
    conv = nn.Conv2d(2, 3, 3, stride, 1)
    conv.weight = nn.Parameter(rules["conv_W"].clone())
    scores = before(conv, nn.ReLU(), importance=rules["conv_s_out"], size=(2, size, size))
    same(scores, rules[f"conv_{name}_s_in"])
    same(channel_scores(scores), rules[f"conv_{name}_channel_scores"])


def test_positions_at_the_border_feed_fewer_outputs() -> None:
    conv = nn.Conv2d(1, 1, 3, padding=1)
    nn.init.ones_(conv.weight)
    expected = torch.tensor([[4.0, 6, 4], [6, 9, 6], [4, 6, 4]], dtype=torch.float64)
    same(before(conv, importance=torch.ones(9), size=(1, 3, 3))[0], expected)


@pytest.mark.parametrize(("pool", "name"), [(nn.AvgPool2d(2), "avgpool_s_in"), (nn.MaxPool2d(2), "maxpool_ones_s_in")])
def test_pooling(rules: dict[str, Tensor], pool: nn.Module, name: str) -> None:
    same(before(pool, importance=rules["pool_s_out"], size=(2, 6, 6)), rules[name])


def test_overlapping_maxima_add_up() -> None:
    scores = before(nn.MaxPool2d(3, 2, ceil_mode=True), importance=torch.tensor([1.0, 2, 3, 4]), size=(1, 4, 4))
    expected = torch.tensor([[1.0, 1, 3, 2], [1, 1, 3, 2], [4, 4, 10, 6], [3, 3, 7, 4]], dtype=torch.float64)
    same(scores[0], expected)


def test_global_average(rules: dict[str, Tensor]) -> None:
    scores = before(nn.AdaptiveAvgPool2d(1), importance=torch.tensor([8.0, 4.0]), size=(2, 2, 2))
    same(scores, torch.tensor([2.0, 1.0], dtype=torch.float64).reshape(2, 1, 1).expand(2, 2, 2))


def test_batch_normalisation(rules: dict[str, Tensor]) -> None:
    norm = nn.BatchNorm1d(3)
    norm.weight = nn.Parameter(rules["bn_gamma"].clone())
    norm.running_var = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)
    out = rules["bn_s_out"]
    same(before(norm, importance=out, size=(3,)), rules["bn_s_in_identity"])
    sigma = (norm.running_var + norm.eps).sqrt()
    same(before(norm, importance=out, size=(3,), norms="scale"), out * rules["bn_gamma"].abs() / sigma)
    assert bool(norm.training)


class Residual(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.main = linear(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.main(x))


def test_residual_addition(rules: dict[str, Tensor]) -> None:
    same(before(Residual(rules["res_W"]), importance=rules["res_s_out"], size=(6,)), rules["res_s_in"])


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.tanh(x)], dim=1)


def test_concatenation_is_split_and_added() -> None:
    scores = before(Branches(), importance=torch.tensor([1.0, 2, 10, 20]), size=(2,))
    same(scores, torch.tensor([11.0, 22.0], dtype=torch.float64))


def test_nothing_flows_from_pruned_neurons(rules: dict[str, Tensor]) -> None:
    """The multilayer perceptron of the golden file: select, zero, propagate, twice."""
    network = nn.Sequential(
        linear(torch.eye(10)), linear(rules["mlp_W1"]), nn.ReLU(), linear(rules["mlp_W2"]), nn.Linear(6, 2)
    )
    kept: dict[str, Tensor] = {}
    for layer, expected, keep in (
        ("3", "mlp_frl", "mlp_keep2"),
        ("1", "mlp_s1", "mlp_keep1"),
        ("0", "mlp_s0", "mlp_keep0"),
    ):
        scores = propagate(network, torch.zeros(1, 10), rules["mlp_frl"], "4", kept)[layer]
        same(scores, rules[expected])
        best = torch.zeros(len(scores), dtype=torch.bool)
        best[scores.argsort(descending=True)[: len(scores) // 2]] = True
        assert torch.equal(best, rules[keep].bool())
        kept[layer] = best


def test_hand_example() -> None:
    network = nn.Sequential(linear(torch.eye(2)), linear(torch.tensor([[1.0, -2.0], [3.0, 0.5]])), nn.Linear(2, 2))
    importance = torch.tensor([1.0, 2.0])
    assert propagate(network, torch.zeros(1, 2), importance, "2")["0"].tolist() == [7, 3]
    without_first = {"1": torch.tensor([False, True])}
    assert propagate(network, torch.zeros(1, 2), importance, "2", without_first)["0"].tolist() == [6, 1]


def test_two_layers_are_the_product_of_absolute_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(5, 5, generator=generator) for _ in range(2))
    out = torch.rand(5, generator=generator)
    through = before(linear(first), nn.Sigmoid(), linear(second), importance=out, size=(5,))
    same(through, (second.abs().double() @ first.abs().double()).T @ out.double())
    assert not torch.allclose(through, (second @ first).abs().T.double() @ out.double())


def test_lenet_by_hand() -> None:
    """A whole network, layer by layer, with transposed convolutions and repeated windows."""
    torch.manual_seed(0)
    network = LeNet5Caffe(widths=(3, 4, 7))
    importance = torch.rand(7, dtype=torch.float64)
    scores = propagate(network, torch.zeros(1, 1, 28, 28), importance, "fc2")
    w1, w2, w3 = (layer.weight.detach().abs().double() for layer in (network.conv1, network.conv2, network.fc1))

    def windows(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 1).repeat_interleave(2, 2)

    second = windows((w3.T @ importance).reshape(4, 4, 4))
    first = windows(F.conv_transpose2d(second[None], w2)[0])
    same(scores["fc1"], importance)
    same(scores["conv2"], second)
    same(scores["conv1"], first)
    same(scores[""], F.conv_transpose2d(first[None], w1)[0])
    assert "fc2" not in scores


def test_scores_are_linear_in_the_importance_and_follow_a_permutation() -> None:
    torch.manual_seed(1)
    network = CifarNet()
    importance, image = torch.rand(64), torch.zeros(1, 3, 32, 32)
    plain = propagate(network, image, importance, "fc2")
    scaled = propagate(network, image, 3 * importance, "fc2")
    order = torch.randperm(32)
    with torch.no_grad():
        network.conv2.weight.copy_(network.conv2.weight[order])
        network.conv3.weight.copy_(network.conv3.weight[:, order])
    permuted = propagate(network, image, importance, "fc2")
    for name, scores in plain.items():
        assert bool((scores >= 0).all())
        torch.testing.assert_close(scaled[name], 3 * scores)
        torch.testing.assert_close(permuted[name], scores[order] if name == "conv2" else scores)


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


def test_what_has_no_rule_is_refused() -> None:
    one = torch.ones(4)
    with pytest.raises(PropagationError, match=r"scores pass (__)?mul"):
        before(Gate(), importance=one, size=(4,))
    with pytest.raises(PropagationError, match="softmax"):
        before(nn.Softmax(1), importance=one, size=(4,))
    with pytest.raises(PropagationError, match="takes 4 numbers, but 3"):
        propagate(nn.Sequential(nn.Linear(4, 2)), torch.zeros(1, 4), torch.ones(3), "0")
    with pytest.raises(PropagationError, match="no layer 'head'"):
        propagate(nn.Sequential(nn.Linear(4, 2)), torch.zeros(1, 4), one, "head")
    with pytest.raises(PropagationError, match="negative"):
        before(nn.ReLU(), importance=-one, size=(4,))


# --- Inf-FS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 0.2])
def test_inf_fs(ranking: dict[str, np.ndarray], alpha: float) -> None:
    graph = feature_graph(ranking["X"], alpha)
    np.testing.assert_allclose(graph, ranking[f"A_{alpha}"], rtol=1e-10, atol=1e-12)
    assert pytest.approx(float(ranking[f"r_{alpha}"]), rel=1e-12) == DAMPING / spectral_radius(graph)
    scores = inf_fs(ranking["X"], alpha)
    np.testing.assert_allclose(scores, ranking[f"score_{alpha}"], rtol=1e-9)
    assert np.argsort(-scores).tolist() == ranking[f"rank_{alpha}"].tolist()


def test_raw_scale_takes_deviations_as_they_are(ranking: dict[str, np.ndarray]) -> None:
    x = ranking["X"] * np.arange(1, 8)
    spread = x.std(axis=0, ddof=1)
    expected = 0.5 * np.maximum(spread[:, None], spread) + 0.5 * (feature_graph(ranking["X"], 0.0))
    np.testing.assert_allclose(feature_graph(x, 0.5, "raw"), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(feature_graph(x, 0.5), ranking["A_0.5"], rtol=1e-10, atol=1e-12)


def test_dead_neurons_rank_last(ranking: dict[str, np.ndarray]) -> None:
    x = np.concatenate([ranking["X"], np.zeros((60, 1))], axis=1)
    scores = inf_fs(x)
    assert np.isfinite(scores).all()
    assert scores.argmin() == 7
    assert inf_fs(x, constant=1.0)[7] > scores[7]


def test_without_differences_all_features_count_the_same() -> None:
    assert inf_fs(np.ones((5, 3))).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="NaN or infinite"):
        inf_fs(np.full((5, 3), np.nan))
    with pytest.raises(ValueError, match="at least two images"):
        inf_fs(np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"alpha=1\.5"):
        inf_fs(np.ones((5, 3)), alpha=1.5)
