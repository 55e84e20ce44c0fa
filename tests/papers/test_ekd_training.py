"""EKD's training: who is classified, who is distilled, what the teacher is asked, and that two processes are as one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from distributed_cases import largest_difference
from ekd_cases import EACH, GENERAL, IDENTITIES, RandomFaces, method_and_data, run, train, train_in_group
from torch import Tensor
from two_processes import in_two_processes

from datasets.indexed import Indexed
from papers.ekd.baselines import TERMS, EmbeddingLoss, LogitKD, class_means
from papers.ekd.label_free import LabelFree

NAMES = ("ekd", "kd", "rkd", "feature_l2")


def first_batch(data: object) -> list[Tensor]:
    return list(next(iter(data.train_dataloader())))  # type: ignore[attr-defined]


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Losses, weights and thresholds after each of three steps: the pairs are those of both processes."""
    two = in_two_processes(train_in_group, tmp_path, NAMES)
    for name in NAMES:
        one = train(name)
        for rank in (0, 1):
            assert largest_difference(two[rank][name], one) < 1e-10, (name, rank)


def test_a_stopped_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    """Stopped in the middle of the second epoch: weights, thresholds, draws of identities and of negatives."""
    undisturbed = run(tmp_path / "a")
    assert run(tmp_path / "b", stop_at=6) is None
    resumed = run(tmp_path / "b")
    assert undisturbed is not None
    assert resumed is not None
    assert undisturbed.keys() == resumed.keys()
    for name, value in undisturbed.items():
        assert torch.equal(value, resumed[name]), name


def test_only_the_general_half_is_classified() -> None:
    """Other labels in the balanced half move EKD's pairs, but no gradient of the head."""
    method, data = method_and_data()
    batch = first_batch(data)
    general = batch[4]
    assert general.tolist() == [True] * GENERAL + [False] * 16
    gradients = []
    for change in (False, True):
        labels = batch[1].clone()
        if change:
            labels[~general] = (labels[~general] + 1) % IDENTITIES
        method.zero_grad()
        method.training_step((batch[0], labels, *batch[2:]), 0).backward()
        gradients.append(method.head.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_both_halves_are_distilled() -> None:
    method, data = method_and_data()
    images, *rest = first_batch(data)
    images.requires_grad_()
    method.training_step((images, *rest), 0).backward()
    assert images.grad is not None
    assert images.grad[~rest[3]].abs().sum() > 0


def test_loss_is_the_sum_of_both() -> None:
    method, data = method_and_data()
    images, labels, index, flip, general = first_batch(data)
    s, t = method.network(images), method.teacher(images)
    expected = method.classification_loss(s[general], labels[general])
    fresh, _ = method_and_data()
    expected = expected + fresh.distillation(s, t, labels)
    torch.testing.assert_close(method.training_step((images, labels, index, flip, general), 0), expected)


def test_the_teacher_is_asked_once_an_image_and_its_answers_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRPRESS_CACHE", str(tmp_path))  # nobody has asked before
    kept, data = method_and_data()
    asked, _ = method_and_data(kept_answers=False)
    for k, batch in enumerate(data.train_dataloader()):
        torch.testing.assert_close(kept.training_step(batch, k), asked.training_step(batch, k))
    first = min(128, IDENTITIES * EACH)  # asked beforehand, to look for stored answers
    assert kept.teacher.network.seen == first + 2 * IDENTITIES * EACH  # as it is and mirrored
    assert asked.teacher.network.seen == len(data.train_dataloader()) * (GENERAL + 16)


def test_the_teacher_has_no_place_in_the_students_state() -> None:
    method, _ = method_and_data()
    assert {key.split(".")[0] for key in method.state_dict()} == {"network", "head", "distillation"}
    assert {key for key in method.state_dict() if key.startswith("distillation")} == {
        f"distillation.{name}" for name in ("student_thresholds", "teacher_thresholds", "started")
    }
    assert not any(p.requires_grad for p in method.teacher.network.parameters())


@pytest.mark.parametrize("name", ["ekd", "kd", *TERMS])
def test_embeddings_of_another_size_need_no_projector_or_are_refused(name: str) -> None:
    """C6, and what losses on single embeddings say in its place."""
    method, data = method_and_data(name, student=8, teacher=5)
    batch = tuple(first_batch(data))
    if name in TERMS and not TERMS[name].free:
        with pytest.raises(ValueError, match=r"\[32, 8\].*\[32, 5\]"):
            method.training_step(batch, 0)
        return
    method.training_step(batch, 0).backward()
    assert method.network.linear.weight.grad.abs().sum() > 0
    named = {key.split(".")[0] for key, _ in method.named_parameters()}
    assert named == {"network", "head"}


@pytest.mark.parametrize("name", TERMS)
def test_every_compared_loss_is_zero_or_least_at_the_teacher(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(12, 6, generator=generator, dtype=torch.float64)
    loss = EmbeddingLoss(name)
    at_teacher = float(loss(teacher, teacher))
    elsewhere = float(loss(torch.randn(12, 6, generator=generator, dtype=torch.float64), teacher))
    assert at_teacher < elsewhere
    if name != "darkrank":  # a likelihood of an order: least, not zero
        assert at_teacher == pytest.approx(0.0, abs=1e-8)


def test_a_loss_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="feature_l2, cosine"):
        EmbeddingLoss("l2")
    with pytest.raises(RuntimeError, match="needs the student's head"):
        LogitKD()(torch.zeros(2, 3), torch.zeros(2, 3))


def test_the_teachers_class_centres_are_means_of_unit_answers() -> None:
    answers = torch.tensor([[[3.0, 0.0], [0.0, 2.0], [5.0, 0.0]], [[1.0, 0.0], [0.0, 1.0], [0.0, 7.0]]])
    centres = class_means(answers, torch.tensor([1, 0, 1]))
    expected = torch.tensor([[0.0, 1.0], [3 / 10**0.5, 1 / 10**0.5]])
    torch.testing.assert_close(centres, expected)


def test_label_free_learns_from_answers_alone() -> None:
    """Wrong labels change nothing, and there is no head."""
    full, _ = method_and_data("cosine")
    method = LabelFree(full.network, full.teacher, EmbeddingLoss("cosine"), embedding_size=8)
    data = Indexed(RandomFaces())
    method.prepare(data)
    method.log = lambda *a, **k: None  # type: ignore[method-assign, assignment]
    batch = first_batch(data)
    losses = [
        float(method.training_step((batch[0], labels, *batch[2:]), 0).detach()) for labels in (batch[1], -batch[1])
    ]
    assert losses[0] == losses[1]
    assert method.head is None
    direct = EmbeddingLoss("cosine")(full.network(batch[0]), full.teacher(batch[0]))
    assert losses[0] == pytest.approx(float(direct.detach()), rel=1e-5)
