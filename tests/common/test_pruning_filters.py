"""Scores of filters: norms and Taylor terms by hand, by the reference code, and by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.backbones.lenet import LeNet5Caffe
from common.pruning import Evidence, filter_norms, score_filters, taylor, taylor_form


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.fc(x.flatten(1))


def test_behind_a_batch_normalisation_the_square_of_the_sum_is_degenerate() -> None:
    torch.manual_seed(0)
    network = Cnn().double()
    network.bn1.eps = network.bn2.eps = 1e-14
    batches = [(torch.randn(16, 2, 8, 8, dtype=torch.float64), torch.randint(0, 5, (16,)))]
    evidence = Evidence(network, ("conv1", "conv2"), batches, training=True)
    squares, sums = score_filters("taylor", evidence), score_filters("taylor_square_of_sum", evidence)
    for name in evidence.layers:
        assert float(sums[name].max()) < 1e-15 * float(squares[name].min())


def test_both_forms_of_taylor_by_hand() -> None:
    products = torch.tensor([[[1.0, -2.0]], [[3.0, 0.0]]])
    assert taylor_form(products, "sum_of_squares").tolist() == [5, 9]
    assert taylor_form(products, "square_of_sum").tolist() == [1, 9]
    with pytest.raises(ValueError, match="form is 'mean'"):
        taylor_form(products, "mean")  # type: ignore[arg-type]


def test_filter_norms_by_hand_and_permuted(golden: Path) -> None:
    first = torch.tensor([[1.0, -2.0], [0.5, 0.5], [-2.0, 0.0]])
    assert filter_norms(first).tolist() == [3, 1, 2]
    assert filter_norms(first, 2).tolist() == pytest.approx([5**0.5, 0.5**0.5, 2])
    second = torch.tensor([[1.0, 9.0, 1.0], [3.0, -3.0, 3.0]])
    assert filter_norms(second).tolist() == [11, 9]
    assert filter_norms(second, inputs=torch.tensor([True, False, True])).tolist() == [2, 6]
    vectors = np.load(golden / "pruning_filters/derived_greedy_vs_independent.npz")
    one, two = torch.from_numpy(vectors["W1"]), torch.from_numpy(vectors["W2"])
    kept = torch.ones(6, dtype=torch.bool)
    kept[torch.from_numpy(vectors["drop_layer1"])] = False
    for weight, inputs, expected, drop in (
        (one, None, "s1", "drop_layer1"),
        (two, None, "s2_independent", "drop_layer2_independent"),
        (two, kept, "s2_greedy", "drop_layer2_greedy"),
    ):
        scores = filter_norms(weight, inputs=inputs)
        np.testing.assert_allclose(scores, vectors[expected], rtol=1e-5)
        assert sorted(scores.argsort()[:3].tolist()) == sorted(vectors[drop].tolist())
    order = torch.randperm(6)
    assert torch.equal(filter_norms(one[order], 2), filter_norms(one, 2)[order])
    with pytest.raises(ValueError, match="must be 1 or 2"):
        filter_norms(one, 3)
    with pytest.raises(ValueError, match="the weight has 6 inputs"):
        filter_norms(two, inputs=kept[:4])


def test_criteria_by_name_and_ones_own() -> None:
    network = LeNet5Caffe(widths=(4, 6, 10))
    batches = [(torch.randn(8, 1, 28, 28), torch.randint(0, 10, (8,)))]
    evidence = Evidence(network, ("conv1", "fc1"), batches, seed=3)
    for name in ("l1", "l2", "random", "taylor", "taylor_square_of_sum"):
        assert [len(score) for score in score_filters(name, evidence).values()] == [4, 10]
    assert torch.equal(score_filters("l1", evidence)["conv1"], filter_norms(network.conv1.weight))
    assert torch.equal(score_filters("random", evidence)["fc1"], score_filters("random", evidence)["fc1"])
    own = score_filters(lambda e: {n: w.flatten(1).std(1) for n, w in e.weights.items()}, evidence)
    assert torch.equal(own["fc1"], network.fc1.weight.std(1))
    by_weight = taylor(network, {"conv1.weight": network.conv1.weight}, batches)["conv1.weight"]
    torch.testing.assert_close(score_filters("taylor", evidence)["conv1"], by_weight.flatten(1).sum(1))
    twice = Evidence(network, ("conv1",), batches * 2)
    torch.testing.assert_close(
        score_filters("taylor", twice)["conv1"], by_weight.flatten(1).sum(1)
    )  # the mean over batches
    with pytest.raises(ValueError, match="no criterion 'l3'; there are l1, l2"):
        score_filters("l3", evidence)
    with pytest.raises(ValueError, match=r"gave \[4, 1, 5, 5\] for conv1, expected \[4\]"):
        score_filters(lambda e: dict(e.weights), evidence)
    with pytest.raises(ValueError, match="conv3 is no convolution"):
        score_filters("l1", Evidence(nn.Sequential(nn.ReLU()), ("conv3",)))
    with pytest.raises(ValueError, match="bn1 is no convolution or linear layer"):
        score_filters("l1", Evidence(Cnn(), ("bn1",)))
