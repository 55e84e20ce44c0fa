"""EKD's loss: the official values, closed forms, and the batches that the official code does not survive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ekd_embeddings import faces
from torch import Tensor

from papers.ekd.method import EvaluationOrientedLoss, hard_rank, soft_rank

Arrays = dict[str, np.ndarray]


def load(golden: Path, name: str) -> Arrays:
    return dict(np.load(golden / "ekd" / f"{name}.npz"))


def tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x)


def official() -> EvaluationOrientedLoss:
    return EvaluationOrientedLoss().double()


def four_steps(golden: Path, loss: EvaluationOrientedLoss) -> float:
    """Largest difference to the official values over four calls: losses, gradients and thresholds."""
    data, worst = load(golden, "ekd_4steps"), 0.0
    for k in range(4):
        student = tensor(data[f"s{k}_student"]).requires_grad_()
        value = loss(student, tensor(data[f"s{k}_teacher"]), tensor(data[f"s{k}_labels"]))
        (gradient,) = torch.autograd.grad(value, student)
        found = (value.detach(), gradient, loss.student_thresholds, loss.teacher_thresholds)
        for ours, name in zip(found, ("loss", "grad_student", "s_anchor_after", "t_anchor_after"), strict=True):
            expected = tensor(np.asarray(data[f"s{k}_{name}"]))
            worst = max(worst, float((ours - expected).abs().max() / expected.abs().max()))
    return worst


def test_four_official_steps_are_reproduced(golden: Path) -> None:
    assert four_steps(golden, official()) < 1e-7  # the official temperature division is in another order


@pytest.mark.parametrize(
    "options",
    [
        {"divisors": (10, 1000, 100_000)},
        {"momentum": 0.1},
        {"temperature": 0.02},
        {"hardest": 5000},
        {"negatives": "random"},
        {"form": "similarity"},
        {"anchor_init": "first_batch"},
        {"positive_weight": 0.0},
        {"negative_weight": 0.0},
    ],
    ids=lambda o: "-".join(map(str, o)),
)
def test_with_another_option_they_are_not(golden: Path, options: dict[str, Any]) -> None:
    loss = EvaluationOrientedLoss(**options).double()
    if "divisors" in options:
        data = load(golden, "ekd_4steps")
        value = loss(tensor(data["s0_student"]), tensor(data["s0_teacher"]), tensor(data["s0_labels"]))
        assert abs(float(value) - float(data["s0_loss"])) > 1e-4
    else:
        assert four_steps(golden, loss) > 1e-3


def test_given_thresholds_are_continued(golden: Path) -> None:
    data, loss = load(golden, "ekd_warm_anchor"), official()
    loss.student_thresholds.copy_(tensor(data["s_anchor_before"]))
    loss.teacher_thresholds.copy_(tensor(data["t_anchor_before"]))
    student = tensor(data["student"]).requires_grad_()
    value = loss(student, tensor(data["teacher"]), tensor(data["labels"]))
    value.backward()
    assert student.grad is not None
    np.testing.assert_allclose(value.item(), data["loss"], rtol=1e-7)
    np.testing.assert_allclose(student.grad.numpy(), data["grad_student"], rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(loss.student_thresholds.numpy(), data["s_anchor_after"], rtol=1e-9)
    np.testing.assert_allclose(loss.teacher_thresholds.numpy(), data["t_anchor_after"], rtol=1e-9)


def test_the_rank_loss_alone(golden: Path) -> None:
    data = load(golden, "ekd_rank_loss")
    ours = tensor(data["s_similarity"]).requires_grad_()
    thresholds = (tensor(data["s_anchor"]), tensor(data["t_anchor"]))
    value = official().rank_loss(ours, tensor(data["t_similarity"]), *thresholds)
    value.backward()
    assert ours.grad is not None
    np.testing.assert_allclose(value.item(), data["loss"], rtol=1e-7)
    np.testing.assert_allclose(ours.grad.numpy(), data["grad_s"], rtol=1e-6, atol=1e-10)


# --- closed forms ----------------------------------------------------------------------------------------------------


def test_a_soft_rank_counts_the_thresholds_passed() -> None:
    tau = torch.tensor([0.1, 0.3, 0.5], dtype=torch.float64)
    c = torch.tensor([-1.0, 0.2, 0.3, 0.31, 1.0], dtype=torch.float64)
    expected = torch.tensor([0.0, 1.0, 1.5, 1 + 0.7310585786, 3.0], dtype=torch.float64)
    torch.testing.assert_close(soft_rank(c, tau, 0.01), expected, rtol=0, atol=1e-4)
    assert hard_rank(c, tau).tolist() == [0, 1, 1, 2, 3]
    far = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    soft_rank(far, torch.zeros(1, dtype=torch.float64), 0.01).sum().backward()
    assert far.grad is not None
    assert float(far.grad) == 0.0  # beyond the largest exponent there is no gradient


def test_a_student_like_its_teacher_has_no_loss() -> None:
    student, _, labels = faces()
    assert float(official()(student, 4 * student, labels)) == 0.0  # only directions count


def test_the_largest_loss_is_that_of_six_ranks() -> None:
    """Every positive pair below all thresholds of the one network and above all of the other, and every negative pair too."""
    loss = official()
    loss.student_thresholds.fill_(-2.0)
    loss.teacher_thresholds.fill_(2.0)
    student, teacher, labels = faces()
    assert float(loss(student, teacher, labels)) == pytest.approx(36 * 0.03, rel=1e-3)


def test_only_pairs_near_a_threshold_have_a_gradient() -> None:
    tau = torch.full((6,), 0.5, dtype=torch.float64)
    ours = torch.tensor([-0.5, 0.1, 0.49, 0.9], dtype=torch.float64, requires_grad=True)
    official().rank_loss(ours, torch.tensor([0.2, 0.3, 0.6, 0.7], dtype=torch.float64), tau, tau).backward()
    assert ours.grad is not None
    assert (ours.grad.abs() > 1e-6).tolist() == [False, False, True, False]


# --- batches that the official code does not survive ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "positive", "negative"),
    [([0, 1, 2, 3], False, True), ([5, 5, 5, 5], True, False), ([0, 0, 1, 2], True, True), ([3], False, False)],
    ids=["no positive pair", "one identity", "both", "one image"],
)
@pytest.mark.parametrize("form", ["rank", "similarity", "indicator"])
@pytest.mark.parametrize("anchor_init", ["zero", "first_batch"])
def test_a_batch_without_pairs_of_a_kind(
    labels: list[int], positive: bool, negative: bool, form: Any, anchor_init: Any
) -> None:
    loss = EvaluationOrientedLoss(form=form, anchor_init=anchor_init).double()
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(len(labels), 8, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(len(labels), 5, generator=generator, dtype=torch.float64)
    value = loss(student, teacher, torch.tensor(labels))
    value.backward()
    assert student.grad is not None
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()
    assert bool(loss.student_thresholds.any()) == negative
    if not positive and not negative:
        assert value.item() == 0.0


def test_thresholds_wait_for_negative_pairs() -> None:
    loss = EvaluationOrientedLoss(anchor_init="first_batch").double()
    student, teacher, labels = faces()
    loss(student, teacher, torch.zeros_like(labels))
    assert not loss.started
    loss(student, teacher, labels)
    assert loss.started


@pytest.mark.parametrize("case", ["labels", "teacher"])
def test_a_batch_of_unequal_lengths_is_refused(case: str) -> None:
    student, teacher, labels = faces()
    with pytest.raises(ValueError, match="expected equally many"):
        official()(student, *((teacher, labels[:-1]) if case == "labels" else (teacher[:-1], labels)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divisors": ()}, "1 / FPR"),
        ({"divisors": (100, 10)}, "rising"),
        ({"divisors": (0, 10)}, "at least 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"momentum": 0.0}, "momentum in"),
        ({"hardest": 0}, "hardest at least 1"),
        ({"negatives": "easy"}, "hardest, random"),
        ({"form": "soft"}, "rank, similarity, indicator"),
        ({"anchor_init": "one"}, "zero, first_batch"),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationOrientedLoss(**options)
