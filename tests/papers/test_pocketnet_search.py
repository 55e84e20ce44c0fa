"""PocketNet's search: mixture, discretisation, and the look-ahead gradient against exact differentiation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as L
import torch
import torch.nn.functional as F
from shape_weights import fill
from torch import Tensor

from common.backbones import PocketNet
from common.backbones.pocketnet_genotypes import GENOTYPES, PRIMITIVES
from common.weights import WeightsMismatchError, save_weights
from datasets.memory import EpochBatches, MemoryLoader
from papers.pocketnet.halves import SearchHalves
from papers.pocketnet.search import ArchitectureSearch, cosine_rate, enlarged_crop
from papers.pocketnet.supernet import Found, MixedOperation, Supernet, searched_network, strongest
from papers.pocketnet.unrolled import unrolled_gradient, virtual_step

TINY = {"channels": 2, "cells": 4, "embedding_size": 8, "input_size": 32, "tail_channels": 8}


# --- the mixture and its discretisation ------------------------------------------------------------------------------


def test_the_supernet_has_the_official_number_of_parameters() -> None:
    with torch.device("meta"):
        network = Supernet()
    alphas = sum(p.numel() for p in network.alphas.parameters())
    assert alphas == 224
    assert sum(p.numel() for p in network.parameters()) - alphas == 2_792_528


def test_a_mixture_of_stride_2_equals_the_official_one(golden: Path) -> None:
    expected = np.load(golden / "pocketnet" / "mixedop_stride2.npz")
    mixed = MixedOperation(8, 2).double().train()
    fill(mixed, float(expected["phase"]), float(expected["gain"]))
    weights = torch.from_numpy(expected["weights"]).requires_grad_()
    out = mixed(torch.from_numpy(expected["x"]), weights)
    out.pow(3).mean().backward()
    np.testing.assert_allclose(out.detach().numpy(), expected["out"], rtol=1e-9, atol=1e-12)
    assert weights.grad is not None
    np.testing.assert_allclose(weights.grad.numpy(), expected["grad_weights"], rtol=1e-9, atol=1e-12)


def test_the_strongest_edges_are_the_official_choice(golden: Path) -> None:
    expected = np.load(golden / "pocketnet" / "darts_parse.npz")
    assert tuple(expected["primitives"].tolist()) == PRIMITIVES
    chosen = strongest([torch.from_numpy(expected[f"alpha_node{i}"]) for i in range(4)])
    for node, operations, states in zip(chosen, expected["op_index"], expected["edge_index"], strict=True):
        assert [PRIMITIVES.index(name) for name, _ in node] == operations.tolist()
        assert [state for _, state in node] == states.tolist()


def test_none_is_never_chosen_and_edges_compete_by_what_is_left() -> None:
    """State 0's largest number is `none`'s; without it, it is the weakest edge of three."""
    alphas = torch.zeros(3, 8)
    alphas[0, 7], alphas[0, 3] = 9.0, 0.1
    alphas[1, 4], alphas[2, 2] = 0.5, 0.8
    assert strongest([alphas]) == ((("skip_connect", 2), ("dw_conv_5x5", 1)),)


def test_a_search_network_mixes_by_the_softmax_of_alpha() -> None:
    torch.manual_seed(0)
    network, x = Supernet(**TINY).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = network(x)
        for table in network.alphas.parameters():
            table += 3.0  # the same to all operations of an edge
        torch.testing.assert_close(network(x), before)
        network.alphas.reduction[0][0, 0] += 3.0
        assert not torch.allclose(network(x), before, rtol=1e-3)


def test_the_genotype_that_was_found_decides_the_network(tmp_path: Path) -> None:
    network = Supernet(**TINY)
    save_weights(network, tmp_path / "unfinished.safetensors")
    network.found.keep(GENOTYPES["cifar10"])
    save_weights(network, tmp_path / "finished.safetensors")
    built = searched_network(
        str(tmp_path / "finished.safetensors"), channels=4, cells=4, input_size=32, tail_channels=8
    )
    assert built.genotype == GENOTYPES["cifar10"] == network.found.genotype()
    twin = PocketNet(4, 4, genotype="cifar10", input_size=32, tail_channels=8)
    assert [(n, p.shape) for n, p in built.named_parameters()] == [(n, p.shape) for n, p in twin.named_parameters()]
    with pytest.raises(ValueError, match="has not chosen"):
        searched_network(str(tmp_path / "unfinished.safetensors"))
    save_weights(built, tmp_path / "other.safetensors")
    with pytest.raises(WeightsMismatchError, match=r"no name that starts with 'found\.'"):
        searched_network(str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match="has not chosen"):
        Found().genotype()


# --- the look-ahead gradient -----------------------------------------------------------------------------------------


class Tiny:
    """Two smooth losses of weights [3, 4], [3] and alphas [4], [2]; float64."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.weights, self.velocity = [draw(3, 4), draw(3)], [0.3 * draw(3, 4), 0.3 * draw(3)]
        self.alphas = [draw(4).requires_grad_(), draw(2).requires_grad_()]
        self.inputs, self.targets = (draw(6, 4), draw(6, 4)), (draw(6, 3), draw(6, 3))

    def loss(self, part: int) -> Any:
        def of(weights: Any, alphas: Any) -> Tensor:
            gate, scale = torch.softmax(alphas[0], 0), alphas[1]
            out = torch.tanh(self.inputs[part] * gate @ weights[0].T * scale[0] + weights[1] * scale[1])
            return (out - self.targets[part]).square().mean() + 0.1 * (weights[0] ** 2).sum() * scale[1] ** 2

        return of

    def exact(self, rate: float, momentum: float, decay: float) -> list[Tensor]:
        """d/d alpha of the held-out loss after one step, differentiated through the step."""
        weights = [w.clone().requires_grad_() for w in self.weights]
        gradient = torch.autograd.grad(self.loss(0)(weights, self.alphas), weights, create_graph=True)
        ahead = [
            w - rate * (momentum * v + g + decay * w) for w, v, g in zip(weights, self.velocity, gradient, strict=True)
        ]
        return list(torch.autograd.grad(self.loss(1)(ahead, self.alphas), self.alphas))

    def ours(self, rate: float, momentum: float, decay: float) -> list[Tensor]:
        weights = [w.clone().requires_grad_() for w in self.weights]
        gradient = torch.autograd.grad(self.loss(0)(weights, self.alphas), weights)
        return unrolled_gradient(
            self.loss(0), self.loss(1), self.weights, self.alphas, gradient, self.velocity, rate, momentum, decay
        )


def test_the_look_ahead_gradient_equals_differentiation_through_the_step() -> None:
    problem = Tiny()
    rate, momentum, decay = 0.5, 0.9, 0.01
    exact, ours = problem.exact(rate, momentum, decay), problem.ours(rate, momentum, decay)
    first_order = problem.exact(0.0, momentum, decay)
    for a, b, plain in zip(ours, exact, first_order, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-6)
        assert not torch.allclose(plain, b, rtol=0.05)  # the step matters here


def test_without_a_step_it_is_the_plain_gradient() -> None:
    problem = Tiny()
    for a, b in zip(problem.ours(0.0, 0.9, 0.01), problem.exact(0.0, 0.9, 0.01), strict=True):
        torch.testing.assert_close(a, b)


def test_the_virtual_step_is_that_of_sgd() -> None:
    torch.manual_seed(0)
    w = torch.nn.Parameter(torch.randn(5))
    optimizer = torch.optim.SGD([w], 0.3, 0.9, weight_decay=0.1)
    for _ in range(3):
        velocity = [optimizer.state[w]["momentum_buffer"].clone()] if optimizer.state else [torch.zeros(5)]
        w.grad = torch.randn(5)
        (ahead,) = virtual_step([w], [w.grad], velocity, 0.3, 0.9, 0.1)
        optimizer.step()
        torch.testing.assert_close(ahead, w.detach())


def test_a_loss_without_weights_is_differentiated_directly() -> None:
    alpha = torch.tensor([2.0], requires_grad=True)

    def loss(weights: Any, alphas: Any) -> Tensor:
        return (alphas[0] ** 2).sum() + 0 * weights[0].sum()

    (found,) = unrolled_gradient(
        loss, loss, [torch.ones(2)], [alpha], [torch.zeros(2)], [torch.zeros(2)], 0.1, 0.9, 0.0
    )
    assert found.tolist() == [4.0]


# --- the search as a training ----------------------------------------------------------------------------------------


class Faces(L.LightningDataModule):
    """Random images of eight persons, six pictures each."""

    num_classes, batch_size = 8, 8

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.train_images = torch.randint(0, 256, (48, 3, 32, 32), dtype=torch.uint8, generator=generator)
        self.train_labels = torch.arange(8).repeat(6)  # not sorted

    def train_dataloader(self) -> MemoryLoader:
        return MemoryLoader(self.train_images, self.train_labels, self.batch_size, 0)


def test_every_person_is_in_both_halves_and_no_picture() -> None:
    data = SearchHalves(Faces(), batch_size=6, seed=1)
    loader = data.train_dataloader()
    first, second = data.halves(loader.dataset.batches)  # type: ignore[attr-defined]
    assert len(set(first.tolist()) & set(second.tolist())) == 0
    labels = data.data.train_labels
    for half in (first, second):
        assert torch.bincount(labels[half]).tolist() == [3] * 8
    batches = list(loader)
    assert [len(train[1]) for train, _ in batches] == [6] * 4
    assert [len(held_out[1]) for _, held_out in batches] == [6] * 4
    images = data.data.train_images.float().sub(127.5).div(127.5)
    for _, (x, y) in batches:  # as they are, with their labels
        for picture, label in zip(x, y, strict=True):
            at = (images - picture).abs().flatten(1).sum(1).argmin()
            assert torch.allclose(images[at], picture)
            assert labels[at] == label
    assert isinstance(loader.sampler, EpochBatches)


def test_images_that_cannot_be_asked_for_by_number_are_refused() -> None:
    class Plain(Faces):
        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader([1, 2])

    with pytest.raises(TypeError, match="gives a DataLoader; a search needs"):
        SearchHalves(Plain()).train_dataloader()


def fit(method: ArchitectureSearch, folder: Path, epochs: int = 1) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(method, datamodule=SearchHalves(Faces()))
    return trainer


def test_a_search_trains_both_and_keeps_what_it_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    method = ArchitectureSearch(Supernet(**TINY, activation="relu"), num_classes=8)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    trainer = fit(method, tmp_path)
    w, alpha = trainer.optimizers
    assert type(alpha).__name__ == "Adam"
    assert w.param_groups[0]["lr"] == pytest.approx(0.004)  # after the last epoch
    for name, p in method.named_parameters():
        assert not torch.equal(p, before[name]), name
    moved = torch.cat([(p - before[n]).flatten() for n, p in method.alphas().items()])
    assert float(moved.detach().abs().max()) < 3 * 1.5e-3  # three steps of Adam at its rate of 1.2e-3
    assert not (method.network.found.choices >= 0).any()
    method.discretise(None)
    assert method.network.found.genotype() == method.network.alphas.genotype()
    assert {"network.found.choices", "network.alphas.normal.0"} <= set(method.state_dict())


def test_alpha_is_led_by_the_held_out_images_and_looks_ahead(tmp_path: Path) -> None:
    """The first step's gradient of alpha against the same computed from copies of the network."""
    torch.manual_seed(0)
    method = ArchitectureSearch(Supernet(**TINY).double(), num_classes=8, enlarge=1.0).double()
    train, held_out = next(iter(SearchHalves(Faces()).train_dataloader()))
    train, held_out = ((x.double(), y) for x, y in (train, held_out))
    weights, alphas = method.weights(), method.alphas()
    optimizer = torch.optim.SGD(weights.values(), 0.1, 0.9, weight_decay=3e-4)
    gradient = torch.autograd.grad(
        F.cross_entropy(method.classifier(method.network(train[0])), train[1]), list(weights.values())
    )
    statistics = {name: buffer.clone() for name, buffer in method.named_buffers()}
    ours = method._look_ahead(train, held_out, gradient, optimizer)
    for name, buffer in method.named_buffers():  # looking ahead leaves no trace in the network
        assert torch.equal(buffer, statistics[name]), name

    def held_out_loss() -> Tensor:
        return F.cross_entropy(method.classifier(method.network(held_out[0])), held_out[1])

    plain = torch.autograd.grad(held_out_loss(), list(alphas.values()))
    with torch.no_grad():
        for p, g in zip(weights.values(), gradient, strict=True):
            p -= 0.1 * (g + 3e-4 * p)
    ahead = torch.autograd.grad(held_out_loss(), list(alphas.values()))
    flat = [torch.cat([t.flatten() for t in tables]) for tables in (ours, ahead, plain)]
    likeness = [float(F.cosine_similarity(flat[0], other, dim=0)) for other in flat[1:]]
    assert likeness[0] > likeness[1]  # nearer to the gradient after the step than to the one before it


def test_the_rate_falls_along_a_cosine() -> None:
    assert cosine_rate(0.1, 0.004, 0.0) == pytest.approx(0.1)
    assert cosine_rate(0.1, 0.004, 0.5) == pytest.approx(0.052)
    assert cosine_rate(0.1, 0.004, 1.0) == pytest.approx(0.004)


def test_crops_are_parts_of_the_enlarged_image() -> None:
    torch.manual_seed(0)
    x = torch.arange(16.0).reshape(1, 1, 4, 4).expand(40, 3, 4, 4)
    crops = enlarged_crop(x, 1.5)
    big = F.interpolate(x[:1], (6, 6), mode="bilinear", align_corners=False)[0]
    parts = [big[:, t : t + 4, s : s + 4] for t in range(3) for s in range(3)]
    seen = {next(i for i, part in enumerate(parts) if torch.equal(part, crop)) for crop in crops}
    assert len(seen) == 9
    assert enlarged_crop(x, 1.0) is x
    with pytest.raises(ValueError, match=r"enlarge is 0\.5"):
        ArchitectureSearch(Supernet(**TINY), enlarge=0.5)
