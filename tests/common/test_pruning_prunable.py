"""What may be pruned, what masks refuse, and how they count."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.pruning import Masks, prunable_weights


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.fc1 = nn.Linear(6 * 16, 20)
        self.fc2 = nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def test_what_is_prunable() -> None:
    network = Small()
    assert list(prunable_weights(network)) == ["conv.weight", "fc1.weight", "fc2.weight"]
    assert list(prunable_weights(network, dense=("conv", "fc2"))) == ["fc1.weight"]
    assert list(prunable_weights(network, dense=("fc1", "fc2"), biases=True)) == ["conv.weight", "conv.bias"]
    assert list(prunable_weights(network, dense=("fc1.weight", "fc2"), biases=True))[-1] == "fc1.bias"
    network.fc1.weight = nn.Parameter(torch.zeros(20, 96))
    tied = nn.Sequential(network.fc2, network.fc2)
    assert list(prunable_weights(tied)) == ["0.weight"], "a shared weight once"
    assert list(prunable_weights(nn.Linear(2, 2))) == ["weight"]
    assert list(Masks(nn.Linear(2, 2)).as_dict()) == ["weight"]


def test_refusals() -> None:
    network = Small()
    with pytest.raises(ValueError, match="no prunable layer"):
        Masks(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()))
    with pytest.raises(ValueError, match=r"no prunable layer.*outside of conv, fc1, fc2"):
        Masks(network, dense=("conv", "fc1", "fc2"))
    with pytest.raises(ValueError, match="'fc3' is to stay dense, but Small has no such layer; did you mean 'fc"):
        Masks(network, dense=("fc3",))
    masks = Masks(network)
    masks.set({"fc2.weight": torch.zeros(5, 20)})
    assert masks.counts()["fc2.weight"].sparsity == 1
    before = masks.as_dict()
    with pytest.raises(ValueError, match=r"100 pruned weights of fc2.weight would come back"):
        masks.set({"fc1.weight": torch.zeros(20, 96), "fc2.weight": torch.ones(5, 20)})
    assert all(torch.equal(before[name], mask) for name, mask in masks.as_dict().items()), "nothing was changed"
    masks.set({"fc2.weight": torch.ones(5, 20)}, revive=True)
    assert masks.sparsity == 0
    assert int(torch.count_nonzero(network.fc2.weight)) == 0
    with pytest.raises(ValueError, match="there is no mask 'fc2'"):
        masks.set({"fc2": torch.ones(5, 20)})
    with pytest.raises(ValueError, match=r"the mask of fc2.weight is \[20\], the weight \[5, 20\]"):
        masks.set({"fc2.weight": torch.ones(20)})


def test_counts() -> None:
    network = Small()
    masks = Masks(network)
    masks.set({"fc2.weight": torch.arange(100).reshape(5, 20) < 25})
    counts = masks.counts()
    assert (counts["fc2.weight"].total, counts["fc2.weight"].kept) == (100, 25)
    assert counts["fc2.weight"].sparsity == 0.75
    assert masks.total == 54 + 1920 + 100
    assert masks.kept == masks.total - 75
    assert masks.sparsity == pytest.approx(75 / 2074)
