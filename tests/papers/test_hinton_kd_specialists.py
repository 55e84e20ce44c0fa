"""Generalist and specialists: k-means, the dustbin class, half of the examples, and q by gradient descent."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as L
import torch
from torch import Tensor

from datasets.classification import Digits
from papers.hinton_kd.networks import MLP
from papers.hinton_kd.specialists import Specialists, WithSpecialists, combine, confusable_classes, k_means


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def probabilities(*shape: int, seed: int = 0) -> Tensor:
    return torch.softmax(torch.randn(*shape, generator=seeded(seed), dtype=torch.float64), -1)


def test_k_means_finds_clusters_that_are_far_apart() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    owner = torch.arange(30) % 3
    found = k_means(centres[owner] + torch.randn(30, 2, generator=seeded()), 3, seeded(1))
    groups = {tuple(torch.nonzero(found == k).flatten().tolist()) for k in range(3)}
    assert groups == {tuple(range(k, 30, 3)) for k in range(3)}


def test_k_means_leaves_no_cluster_empty() -> None:
    found = k_means(torch.zeros(6, 2), 4, seeded())
    assert set(found.tolist()) == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="6 points cannot make 7 clusters"):
        k_means(torch.zeros(6, 2), 7, seeded())


def test_classes_that_are_confused_share_a_specialist() -> None:
    """Six classes; 0-1, 2-3 and 4-5 are taken for each other."""
    labels = torch.arange(600) % 6
    p = torch.full((600, 6), 0.01)
    share = torch.rand(600, generator=seeded()) * 0.9
    p[torch.arange(600), labels] += 0.94 - share
    p[torch.arange(600), labels ^ 1] += share
    members = confusable_classes(p, 3, seeded(1))
    assert members.sum(0).tolist() == [1] * 6
    assert {tuple(torch.nonzero(own).flatten().tolist()) for own in members} == {(0, 1), (2, 3), (4, 5)}


def test_without_active_specialists_the_generalist_answers() -> None:
    g, s = probabilities(5, 4), probabilities(5, 2, 5, seed=1)
    members = torch.tensor([[True, True, False, False], [False, False, True, True]])
    q, _ = combine(g, s, members, torch.zeros(5, 2, dtype=torch.bool))
    torch.testing.assert_close(q, g)


def test_a_specialist_of_all_classes_is_averaged_with_the_generalist() -> None:
    """KL(a, q) + KL(b, q) is least at the mean of a and b."""
    g, p = probabilities(5, 4), probabilities(5, 4, seed=1)
    s = torch.cat([p, torch.zeros(5, 1)], 1)[:, None]
    q, value = combine(g, s, torch.ones(1, 4, dtype=torch.bool), torch.ones(5, 1, dtype=torch.bool), steps=400)
    torch.testing.assert_close(q, (g + p) / 2, atol=1e-6, rtol=0)
    torch.testing.assert_close(value, -((g + p) * ((g + p) / 2).log()).sum(1), atol=1e-6, rtol=0)


def test_a_specialist_that_agrees_changes_nothing() -> None:
    g = probabilities(5, 4)
    s = torch.cat([g[:, :2], torch.zeros(5, 2), g[:, 2:].sum(1, keepdim=True)], 1)[:, None]
    members = torch.tensor([[True, True, False, False]])
    q, _ = combine(g, s, members, torch.ones(5, 1, dtype=torch.bool))
    torch.testing.assert_close(q, g, atol=1e-9, rtol=0)


def test_the_descent_ends_where_autograd_says_that_the_objective_is_least() -> None:
    g, raw = probabilities(6, 5), probabilities(6, 2, 6, seed=1)
    members = torch.tensor([[True, True, False, False, False], [False, False, True, True, False]])
    inside = torch.cat([members, torch.ones(2, 1, dtype=torch.bool)], 1)
    s = raw * inside
    s = s / s.sum(2, keepdim=True)
    active = torch.tensor([[True, True]] * 3 + [[True, False]] * 3)

    def objective(z: Tensor) -> Tensor:
        q = torch.softmax(z, 1)
        total = (g * (g / q).log()).sum(1)
        for m in range(2):
            own = members[m]
            term = (s[:, m, :-1][:, own] * (s[:, m, :-1][:, own] / q[:, own]).log()).sum(1)
            term = term + s[:, m, -1] * (s[:, m, -1] / q[:, ~own].sum(1)).log()
            total = total + torch.where(active[:, m], term, 0.0)
        return total

    q, value = combine(g, s, members, active, steps=2000)
    z = q.log().requires_grad_()
    (slope,) = torch.autograd.grad(objective(z).sum(), z)
    assert float(slope.abs().max()) < 1e-8
    earlier = [combine(g, s, members, active, steps=k)[1] for k in (0, 1, 5, 50)]
    for before, after in zip(earlier, [*earlier[1:], value], strict=True):
        assert bool((after <= before + 1e-12).all())
    constant = objective(q.log()) - value
    torch.testing.assert_close(objective(g.log()) - earlier[0], constant)


def with_specialists(top: int = 1) -> WithSpecialists:
    torch.manual_seed(0)
    network = WithSpecialists(MLP((12,), classes=4, inputs=9), 2, top=top).eval()
    members = torch.tensor([[True, True, False, False], [False, False, True, True]])
    network.assign(members, torch.tensor([0.5, 0.5]))
    return network


def test_specialists_start_from_the_generalist_and_their_dustbin_from_the_other_classes() -> None:
    network, x = with_specialists(), torch.randn(5, 1, 3, 3)
    logits, general = network.specialist_logits(x, 0), network.generalist(x)
    torch.testing.assert_close(logits[:, :2], general[:, :2])
    assert bool(torch.isinf(logits[:, 2:4]).all())
    torch.testing.assert_close(logits[:, 4], general[:, 2:].mean(1))


def test_the_dustbin_is_raised_by_how_much_too_often_its_specialist_saw_its_classes() -> None:
    network = with_specialists()
    members = network.members.clone()
    network.assign(members, torch.tensor([0.1, 0.5]))
    torch.testing.assert_close(network.dustbin, torch.tensor([math.log(9.0), 0.0]))


@pytest.mark.parametrize("top", [1, 3])
def test_specialists_of_the_generalists_first_classes_are_asked(top: int) -> None:
    network, x = with_specialists(top), torch.randn(20, 1, 3, 3)
    with torch.no_grad():
        network.specialists[1].output.bias[2] += 5.0  # type: ignore[union-attr, operator, index]
        p, q = torch.softmax(network.generalist(x), 1), torch.softmax(network(x), 1)
    torch.testing.assert_close(q.sum(1), torch.ones(20))
    first = p.argmax(1)
    asked = (first >= 2) if top == 1 else (p.topk(3, 1).indices >= 2).any(1)
    assert bool((q[asked, 2] > p[asked, 2] + 0.01).all())
    if top == 1:
        assert bool((q[~asked, 2] < p[~asked, 2] + 0.3).all())
        assert bool(asked.any())
        assert bool((~asked).any())


def test_clusters_and_training_on_digits(tmp_path: Path) -> None:
    data = Digits(size=8, batch_size=50)
    data.setup()
    torch.manual_seed(0)
    method = Specialists(MLP((20,), inputs=64), count=3, batch_size=20, lr=0.01)
    method.cluster(data)
    members = method.network.members
    assert members.sum(0).tolist() == [1] * 10
    assert bool(members.any(1).all())
    frozen = {name: value.clone() for name, value in method.network.generalist.state_dict().items()}
    trainer = L.Trainer(
        accelerator="cpu", max_steps=5, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    assert all(torch.equal(value, frozen[name]) for name, value in method.network.generalist.state_dict().items())
    again = Specialists(MLP((20,), inputs=64), count=3)
    again.load_state_dict(method.state_dict())
    x = data.inputs("test")[:20]
    assert torch.equal(again.network.eval()(x), method.network.eval()(x))


def test_half_of_the_examples_are_of_the_specialists_classes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = Digits(size=8, batch_size=50)
    data.setup()
    torch.manual_seed(0)
    method = Specialists(MLP((20,), inputs=64), count=4, batch_size=20)
    method.cluster(data)
    seen: list[tuple[Tensor, Tensor]] = []
    loss = torch.nn.functional.cross_entropy

    def watched(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append((logits, labels))
        return loss(logits, labels)

    monkeypatch.setattr("papers.hinton_kd.specialists.F.cross_entropy", watched)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    assert len(seen) == 4
    for own, (logits, labels) in zip(method.network.members, seen, strict=True):
        assert int((labels == 10).sum()) == 10
        assert bool(own[labels[labels < 10]].all())
        assert bool(torch.isfinite(logits.gather(1, labels[:, None])).all())


def test_a_fit_before_the_clusters_are_known_is_refused(tmp_path: Path) -> None:
    method = Specialists(MLP((20,), inputs=64), count=3)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, limit_val_batches=0,
    )  # fmt: skip
    with pytest.raises(ValueError, match="computes 'cluster' first"):
        trainer.fit(method, datamodule=Digits(size=8, batch_size=50))
