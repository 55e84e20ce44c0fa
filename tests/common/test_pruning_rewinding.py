"""Rewinding: survivors return to what was kept, pruned weights stay zero, and new draws come from the network's distribution."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.backbones.cifar_resnet import CifarResNet
from common.backbones.lenet import LeNet300100
from common.backbones.mobilefacenet import MobileFaceNet
from common.pruning import KeptState, Masks, forget, magnitude, redraw, select_globally


class Method(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = CifarResNet(8, widths=(4, 6, 8))
        self.masks = Masks(self.network)
        self.start = KeptState(self.network)

    def steps(self, count: int) -> torch.optim.Optimizer:
        optimizer = self.masks.guard(torch.optim.SGD(self.network.parameters(), 0.1, momentum=0.9, weight_decay=1e-3))
        for step in range(count):
            generator = torch.Generator().manual_seed(step)
            x, y = torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8)
            optimizer.zero_grad()
            F.cross_entropy(self.network(x), y).backward()
            optimizer.step()
        return optimizer


def test_survivors_go_back_with_biases_and_running_statistics() -> None:
    method = Method()
    initial = copy.deepcopy(method.network.state_dict())
    method.steps(2)
    method.masks.set(select_globally(magnitude(method.masks.weights), 0.6))
    method.start.restore(method.network, method.masks)
    masks = method.masks.as_dict()
    moved = method.network.state_dict()
    for name, value in initial.items():
        expected = value * masks[name] if name in masks else value
        assert torch.equal(moved[name], expected), name
    assert 0.59 < method.masks.sparsity < 0.61
    method.masks.check_zeros()


def test_early_weights_and_resuming() -> None:
    method = Method()
    method.steps(2)
    method.start.keep(method.network)  # after k steps
    early = copy.deepcopy(method.network.state_dict())
    resumed = Method()
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))  # the kept state is part of the checkpoint
    for each in (method, resumed):
        each.steps(3)
        assert not torch.equal(each.network.linear.weight, early["linear.weight"])
        each.start.restore(each.network)
        assert all(torch.equal(value, early[name]) for name, value in each.network.state_dict().items())
    method.steps(1)
    assert torch.equal(method.start.as_dict()["conv1.weight"], early["conv1.weight"]), "a copy, not a view"


def test_a_kept_state_of_another_network_is_refused() -> None:
    kept = KeptState(LeNet300100(hidden=(20, 10)))
    network = LeNet300100(hidden=(20, 9))
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=r"of another network: hidden.1.weight, hidden.1.bias, output.weight differ"):
        kept.restore(network)
    with pytest.raises(ValueError, match=r"of another network: hidden.2.bias"):
        kept.keep(LeNet300100(hidden=(20, 10, 5)))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_new_draws_under_the_same_masks() -> None:
    method = Method()
    method.steps(2)
    initial = method.start.as_dict()
    method.masks.set(select_globally(magnitude(method.masks.weights), 0.5))
    torch.manual_seed(5)
    after = torch.rand(1)
    torch.manual_seed(5)
    redraw(method.network, 1, method.masks)
    assert torch.equal(torch.rand(1), after), "the global generator is left alone"
    method.masks.check_zeros()
    drawn = method.network.layer3[0].conv2.weight.detach()
    assert not torch.equal(drawn, initial["layer3.0.conv2.weight"])
    assert bool((method.network.bn1.running_mean == 0).all())
    assert bool((method.network.bn1.weight == 1).all())
    other = Method()
    redraw(other.network, 1)
    mask = method.masks.as_dict()["layer3.0.conv2.weight"]
    assert torch.equal(other.network.layer3[0].conv2.weight.detach() * mask, drawn), "the seed decides"
    redraw(other.network, 2)
    assert not torch.equal(other.network.conv1.weight, method.network.conv1.weight)


def test_the_distribution_is_the_networks_own() -> None:
    network = LeNet300100(initialization="glorot_normal")
    redraw(network, 0)
    assert float(network.hidden[0].weight.detach().std()) == pytest.approx((2 / 1084) ** 0.5, rel=0.01)
    assert bool((network.hidden[0].bias == 0).all())
    face = MobileFaceNet(16, 0.25, 32, (1, 1, 1))
    with pytest.raises(ValueError, match="MobileFaceNet has no method initialize"):
        redraw(face, 0)
    redraw(face, 0, initialize=lambda net: [nn.init.ones_(p) for p in net.parameters()])
    assert all(bool((p == 1).all()) for p in face.parameters())


def test_forgetting_an_optimisers_past() -> None:
    method = Method()
    optimizer = method.steps(2)
    assert optimizer.state
    forget(optimizer)
    assert not optimizer.state
