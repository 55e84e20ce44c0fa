"""Feature taps: any layer of any network by its path, also of a frozen teacher."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common.backbones.cifar_resnet import CifarResNet
from common.distillation.feature import attention_transfer
from common.distillation.taps import FeatureTaps
from common.distillation.teacher import Teacher


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1))


def test_features_are_the_modules_outputs_in_the_order_asked_for() -> None:
    network, x = two_layers(), torch.randn(2, 3, 6, 6)
    taps = FeatureTaps(network, ("2", "1"))
    out = network(x)
    found = taps.take()
    assert list(found) == ["2", "1"]
    assert found["2"] is out
    torch.testing.assert_close(found["1"], torch.relu(network[0](x)))
    assert found["1"].requires_grad


def test_taps_leave_network_and_checkpoint_as_they_are() -> None:
    network, x = two_layers(), torch.randn(2, 3, 6, 6)
    before, names = network(x), list(network.state_dict())
    with FeatureTaps(network, ("0",)):
        assert torch.equal(network(x), before)
        assert list(network.state_dict()) == names
    assert not any(module._forward_hooks for module in network.modules())


def test_a_teachers_features_can_be_used_in_a_loss_that_saves_them() -> None:
    student, teacher = CifarResNet(8), Teacher(CifarResNet(8, width=2.0))
    x = torch.randn(2, 3, 32, 32)
    path = next(name for name, module in student.named_modules() if name and isinstance(module, nn.Sequential))
    ours, theirs = FeatureTaps(student, (path,)), FeatureTaps(teacher.network, (path,))
    student(x)
    teacher(x)
    target = theirs.take()[path]
    assert not target.is_inference()
    assert not target.requires_grad
    attention_transfer(ours.take()[path], target).backward()
    assert any(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teacher.network.parameters())


def test_features_are_taken_once() -> None:
    network = two_layers()
    taps = FeatureTaps(network, ("0",))
    with pytest.raises(RuntimeError, match="'0' has not run"):
        taps.take()
    network(torch.randn(1, 3, 4, 4))
    taps.take()
    with pytest.raises(RuntimeError, match="'0' has not run"):
        taps.take()


def test_bad_paths_are_said() -> None:
    with pytest.raises(ValueError, match="no module 'stages'; it has, for example"):
        FeatureTaps(two_layers(), ("stages",))
    with pytest.raises(ValueError, match="no module was named"):
        FeatureTaps(two_layers(), ())


def test_a_module_that_gives_no_tensor_is_refused() -> None:
    network = nn.Sequential(nn.LSTM(3, 4))
    taps = FeatureTaps(network, ("0",))
    with pytest.raises(TypeError, match="gives a tuple"):
        network(torch.randn(2, 1, 3))
    taps.close()
