"""What the plugin changes for the time of a fit, and that nothing of it stays. Its numbers: test_distributed.py."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from common.backbones import IResNet
from common.synchronized_layers import SynchronizedLayers


def network() -> nn.Module:
    torch.manual_seed(0)
    return IResNet(8, dropout=0.4, input_size=32, width=0.125, blocks=(1, 1, 1, 1))


def types(net: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in net.named_modules()}


def test_afterwards_the_network_is_the_one_it_was() -> None:
    net, plugin = network(), SynchronizedLayers()
    modules, parameters, before = list(net.modules()), list(net.parameters()), types(net)
    names = list(net.state_dict())
    plugin.apply(net)
    changed = {name for name, kind in types(net).items() if kind is not before[name]}
    assert changed == {name for name, kind in before.items() if kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout)}
    assert len(changed) > 10
    assert list(net.state_dict()) == names
    assert all(isinstance(module, before[name]) for name, module in net.named_modules())
    plugin.revert(net)
    assert types(net) == before
    assert all(a is b for a, b in zip(modules, net.modules(), strict=True))
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    assert "process_group" not in vars(net.bn1)


def test_in_one_process_it_computes_the_same_bits() -> None:
    net, x = network().train(), torch.randn(4, 3, 32, 32)
    other = copy.deepcopy(net)
    SynchronizedLayers().apply(other)
    outputs = []
    for each in (net, other):
        torch.manual_seed(1)
        output = each(x)
        output.square().sum().backward()
        outputs.append(output)
    assert torch.equal(*outputs)
    for ours, theirs in zip(net.parameters(), other.parameters(), strict=True):
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), other.buffers(), strict=True))


def test_hooks_and_modes_stay() -> None:
    norm, seen = nn.BatchNorm1d(3).eval(), []
    norm.register_forward_hook(lambda *_: seen.append(1))
    SynchronizedLayers().apply(nn.Sequential(norm))
    norm(torch.zeros(2, 3))
    assert seen == [1]
    assert not norm.training


def test_accelerators_use_torch_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, seen = nn.BatchNorm2d(3, device="meta"), []
    SynchronizedLayers().apply(nn.Sequential(norm))
    monkeypatch.setattr("common.synchronized_layers.processes", lambda: 2)
    monkeypatch.setattr("torch.nn.modules.batchnorm.sync_batch_norm.apply", lambda *arguments: seen.append(arguments))
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda group: 2)
    x = torch.zeros(2, 3, 4, 4, device="meta")
    with pytest.raises(ValueError, match="SyncBatchNorm expected input tensor to be on GPU"):
        norm(x)  # torch's own has no more to say about a device that is no accelerator
    assert not seen
    ready = nn.SyncBatchNorm(3)
    SynchronizedLayers().apply(nn.Sequential(ready))
    assert type(ready) is nn.SyncBatchNorm


class CentredNorm(nn.BatchNorm1d):
    def forward(self, input: Tensor) -> Tensor:
        return input - input.mean(0)


def test_a_normalisation_of_one_s_own_is_refused_by_name() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), CentredNorm(3))
    plugin = SynchronizedLayers()
    with pytest.raises(TypeError, match="'1' is a CentredNorm"):
        plugin.apply(net)
    plugin.revert(net)
    assert type(net[0]) is nn.BatchNorm1d
