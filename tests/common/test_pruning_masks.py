"""Masks: pruned weights are exactly zero through any optimiser, live in the checkpoint, and cost nothing in the network."""

import copy
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from common.backbones.lenet import LeNet300100
from common.pruning import Masks, magnitude, prunable_weights, select_globally, select_per_layer
from common.weights import load_weights, save_weights


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


class Restless(torch.optim.Optimizer):
    """Moves every weight at every step, whatever its gradient."""

    def __init__(self, parameters) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                weight.sub_(0.01 * torch.ones_like(weight))


def batch(seed: int = 0, count: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 8, 8, generator=generator), torch.randint(0, 5, (count,), generator=generator)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        x, y = batch(step)

        def closure(x=x, y=y) -> torch.Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)  # as Lightning does: the backward pass happens inside the step


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "sgd, momentum and decay": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-2),
    "sgd, nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=1e-2),
    "adam, fused": lambda p: torch.optim.Adam(p, 0.01, fused=True),
    "adamw, amsgrad": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1, amsgrad=True),
    "nadam": lambda p: torch.optim.NAdam(p, 0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.01, initial_accumulator_value=0.1),
    "restless": lambda p: Restless(p),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_stay_exactly_zero_through_the_optimiser(name: str) -> None:
    torch.manual_seed(0)
    network = Small()
    masks = Masks(network)
    optimizer = masks.guard(OPTIMIZERS[name](network.parameters()))
    train(network, optimizer, 3)  # momenta of all weights
    for sparsity in (0.5, 0.8):  # masks that change while the optimiser runs
        masks.set(select_globally(magnitude(masks.weights), sparsity, alive=masks.as_dict()))
        train(network, optimizer, 3)
        assert masks.sparsity == pytest.approx(sparsity, abs=1e-3)
        for weight, mask in zip(masks.weights.values(), masks.as_dict().values(), strict=True):
            pruned = weight.detach()[~mask]
            assert len(pruned) > 0
            assert torch.equal(pruned, torch.zeros_like(pruned))
            assert int(torch.count_nonzero(weight.detach()[mask])) == int(mask.sum()), "the others live"
    masks.check_zeros()


@pytest.mark.parametrize("name", ["sgd, momentum and decay", "adam"])
def test_without_a_guard_they_would_not(name: str) -> None:
    network = Small()
    masks = Masks(network)
    optimizer = OPTIMIZERS[name](network.parameters())
    train(network, optimizer, 2)
    masks.set(select_globally(magnitude(masks.weights), 0.5))
    train(network, optimizer, 1)
    with pytest.raises(RuntimeError, match=r"pruned weights are not zero: \d+ of conv.weight"):
        masks.check_zeros()
    masks.apply_to_weights()
    masks.check_zeros()


def test_a_guard_that_comes_late_forgets_old_momenta() -> None:
    network = Small()
    masks = Masks(network)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    train(network, optimizer, 2)
    masks.set(select_globally(magnitude(masks.weights), 0.5))
    masks.guard(optimizer)
    train(network, optimizer, 2)
    masks.check_zeros()


def test_gradients_and_momenta_of_pruned_weights_are_zero_and_do_not_count_when_clipping() -> None:
    network = Small()
    masks = Masks(network)
    optimizer = masks.guard(torch.optim.SGD(network.parameters(), 0.1, momentum=0.9))
    masks.set(select_per_layer(magnitude(masks.weights), 0.7))
    x, y = batch()
    F.cross_entropy(network(x), y).backward()
    kept = 0.0
    for name, weight in network.named_parameters():
        mask = masks.as_dict().get(name, torch.ones_like(weight, dtype=torch.bool))
        assert weight.grad is not None
        assert int(torch.count_nonzero(weight.grad[~mask])) == 0
        kept += float(weight.grad[mask].square().sum())
    assert float(nn.utils.clip_grad_norm_(network.parameters(), 1e9)) == pytest.approx(kept**0.5, rel=1e-5)
    optimizer.step()
    for weight, mask in zip(masks.weights.values(), masks.as_dict().values(), strict=True):
        assert int(torch.count_nonzero(optimizer.state[weight]["momentum_buffer"][~mask])) == 0


def test_zeros_are_positive_zeros() -> None:
    network = Small()
    masks = Masks(network)
    masks.set(select_globally(magnitude(masks.weights), 0.6))
    for weight, mask in zip(masks.weights.values(), masks.as_dict().values(), strict=True):
        assert not bool(torch.signbit(weight.detach()[~mask]).any())


def test_steps_of_open_lth(golden: Path) -> None:
    vectors = np.load(golden / "lottery_ticket/open_lth_pruned_model_steps.npz")
    names = ["fc_layers.0", "fc_layers.1", "fc"]
    network = LeNet300100(hidden=(6, 5))
    layers = dict(zip(names, [*network.hidden, network.output], strict=True))
    own = dict(zip(names, ["hidden.0", "hidden.1", "output"], strict=True))
    with torch.no_grad():
        for name, layer in layers.items():
            layer.weight.copy_(torch.from_numpy(vectors[f"w0_{name}.weight"]))
            layer.bias.copy_(torch.from_numpy(vectors[f"w0_{name}.bias"]))
    masks = Masks(network)
    masks.set({f"{own[name]}.weight": torch.from_numpy(vectors[f"mask_{name}.weight"]) for name in names})
    optimizer = masks.guard(torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-2))
    for step in range(4):
        loss = F.cross_entropy(network(torch.from_numpy(vectors["x"][step])), torch.from_numpy(vectors["y"][step]))
        assert loss.item() == pytest.approx(float(vectors[f"loss{step}"]), abs=1e-6)
        optimizer.zero_grad()
        loss.backward()
        for name, layer in layers.items():  # open_lth's gradients are not masked; the kept ones are ours
            kept = torch.from_numpy(vectors[f"mask_{name}.weight"]) * torch.from_numpy(
                vectors[f"g{step}_{name}.weight"]
            )
            torch.testing.assert_close(layer.weight.grad, kept, rtol=1e-5, atol=1e-7)
        optimizer.step()
    for name, layer in layers.items():
        for kind, got in (("weight", layer.weight), ("bias", layer.bias)):
            expected = torch.from_numpy(vectors[f"wfinal_{name}.{kind}"])
            torch.testing.assert_close(got.detach(), expected, rtol=1e-5, atol=1e-7)


def test_the_networks_file_is_that_of_an_unmasked_network(tmp_path: Path) -> None:
    network = Small()
    names = list(network.state_dict())
    masks = Masks(network)
    masks.set(select_globally(magnitude(masks.weights), 0.9))
    assert list(network.state_dict()) == names
    save_weights(network, tmp_path / "network.safetensors")
    other = Small()
    load_weights(other, tmp_path / "network.safetensors")
    zeros = sum(int((weight == 0).sum()) for weight in prunable_weights(other).values())
    assert zeros == masks.total - masks.kept
    x, _ = batch()
    torch.testing.assert_close(other.eval()(x), network.eval()(x), rtol=0, atol=0)


class Pruned(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = Small()
        self.masks = Masks(self.network, dense=("fc2",))

    def prune(self, sparsity: float) -> None:
        self.masks.set(select_globally(magnitude(self.masks.weights), sparsity))

    def training_step(self, batch, batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.masks.guard(torch.optim.SGD(self.network.parameters(), 0.1, momentum=0.9, weight_decay=1e-2))


def fit(method: Pruned, folder: Path, epochs: int, resume: Path | None = None) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, enable_checkpointing=False, gradient_clip_val=1.0,
    )  # fmt: skip
    x, y = batch(5, 64)
    trainer.fit(method, DataLoader(TensorDataset(x, y), batch_size=16), ckpt_path=resume, weights_only=True)
    return trainer


def test_masks_are_in_lightnings_checkpoint_and_a_resumed_fit_ends_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    straight = Pruned()
    straight.prune(0.8)
    interrupted = copy.deepcopy(straight)
    fit(straight, tmp_path, 4)
    straight.masks.check_zeros()

    trainer = fit(interrupted, tmp_path, 2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    fresh = Pruned()  # other weights, no masks
    fit(fresh, tmp_path, 4, resume=tmp_path / "half.ckpt")
    assert fresh.masks.sparsity == straight.masks.sparsity == pytest.approx(0.8, abs=1e-3)
    for name, value in straight.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
    assert int((fresh.network.fc2.weight == 0).sum()) == 0, "dense layers are left alone"
    again = fit(fresh, tmp_path, 6)  # a second fit, a new optimiser
    assert again.current_epoch == 6
    fresh.masks.check_zeros()


def test_a_copy_has_masks_of_its_own() -> None:
    method = Pruned()
    method.prune(0.5)
    method.masks.guard(torch.optim.SGD(method.network.parameters(), 0.1))
    twin = copy.deepcopy(method)
    twin.masks.set(select_globally(magnitude(twin.masks.weights), 0.9))
    assert method.masks.sparsity == pytest.approx(0.5, abs=1e-3)
    assert next(iter(twin.masks.weights.values())) is twin.network.conv.weight
    optimizer = twin.configure_optimizers()
    train(twin.network, optimizer, 2)
    twin.masks.check_zeros()
    method.masks.check_zeros()


def test_nothing_pruned_is_the_identity() -> None:
    torch.manual_seed(0)
    network = Small()
    twin = copy.deepcopy(network)
    masks = Masks(network)
    masks.set(select_globally(magnitude(masks.weights), 0.0))
    train(network, masks.guard(torch.optim.Adam(network.parameters(), 0.01)), 3)
    train(twin, torch.optim.Adam(twin.parameters(), 0.01), 3)
    for name, value in twin.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
