"""EKD's loss: the official values reproduced, and what would break if its ideas were left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from papers.ekd.method import EvaluationOrientedLoss

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
