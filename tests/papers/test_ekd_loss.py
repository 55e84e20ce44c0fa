"""What EKD's loss is made of: each idea, and a test that fails without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ekd_embeddings import faces
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from papers.ekd.method import EvaluationOrientedLoss, cosines


def official() -> EvaluationOrientedLoss:
    return EvaluationOrientedLoss().double()


# --- what it is made of ------------------------------------------------------------------------------------------------


def test_teacher_and_student_have_thresholds_of_their_own() -> None:
    """Those of a network are order statistics of its own negative cosines, whatever the other says."""
    student, teacher, labels = faces(other=7)
    loss = EvaluationOrientedLoss(anchor_init="first_batch").double()
    loss(student, teacher, labels)
    first, second = torch.triu_indices(len(labels), len(labels), 1)
    different = labels[first] != labels[second]
    for x, found in ((student, loss.student_thresholds), (teacher, loss.teacher_thresholds)):
        negatives = cosines(x)[first, second][different].sort(descending=True).values
        torch.testing.assert_close(found, torch.stack([negatives[len(negatives) // a] for a in loss.divisors]))


def test_thresholds_of_the_step_count_in_its_loss() -> None:
    student, teacher, labels = faces()
    once, twice = EvaluationOrientedLoss(momentum=1.0).double(), EvaluationOrientedLoss(momentum=1.0).double()
    expected = once(student, teacher, labels)
    twice(student, teacher, labels)  # the same thresholds again
    assert float(twice(student, teacher, labels)) == float(expected)


def test_the_first_batch_starts_the_thresholds_once() -> None:
    zero, first = official(), EvaluationOrientedLoss(anchor_init="first_batch").double()
    student, teacher, labels = faces()
    zero(student, teacher, labels)
    first(student, teacher, labels)
    torch.testing.assert_close(zero.student_thresholds, 0.01 * first.student_thresholds)
    before = first.student_thresholds.clone()
    other = faces(seed=1)
    first(*other)
    fresh = EvaluationOrientedLoss(anchor_init="first_batch").double()
    fresh(*other)
    torch.testing.assert_close(first.student_thresholds, 0.99 * before + 0.01 * fresh.student_thresholds)


def test_thresholds_survive_a_kill() -> None:
    student, teacher, labels = faces()
    for anchor_init in ("zero", "first_batch"):
        loss = EvaluationOrientedLoss(anchor_init=anchor_init).double()  # type: ignore[arg-type]
        loss(student, teacher, labels)
        resumed = EvaluationOrientedLoss(anchor_init=anchor_init).double()  # type: ignore[arg-type]
        resumed.load_state_dict(loss.state_dict())
        assert float(resumed(*faces(seed=1))) == float(loss(*faces(seed=1)))


def test_the_teacher_is_a_constant() -> None:
    student, teacher, labels = faces()
    teacher.requires_grad_()
    loss = EvaluationOrientedLoss(anchor_init="first_batch").double()
    loss(student.requires_grad_(), teacher, labels).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_the_hardest_negatives_are_the_students() -> None:
    """Negatives that only the teacher finds hard have no part in the loss."""
    student, teacher, labels = faces()
    loss = EvaluationOrientedLoss(hardest=5, positive_weight=0.0, anchor_init="first_batch").double()
    student.requires_grad_()
    loss(student, teacher, labels).backward()
    first, second = torch.triu_indices(len(labels), len(labels), 1)
    cosine = cosines(student.detach())[first, second].masked_fill(labels[first] == labels[second], -2.0)
    hardest = cosine.argsort(descending=True)[:5]
    concerned = set(first[hardest].tolist()) | set(second[hardest].tolist())
    assert student.grad is not None
    assert set(student.grad.abs().sum(1).nonzero().flatten().tolist()) <= concerned


def test_random_negatives_are_drawn_from_all() -> None:
    student, teacher, labels = faces(identities=30)
    values = []
    for negatives, seed in (("hardest", 0), ("random", 0), ("random", 0), ("random", 1)):
        torch.manual_seed(seed)
        loss = EvaluationOrientedLoss(negatives=negatives, hardest=500, anchor_init="first_batch").double()  # type: ignore[arg-type]
        values.append(float(loss(student, teacher, labels)))
    assert len(set(values)) == 3
    assert values[1] == values[2]


def test_hard_ranks_have_no_gradient() -> None:
    student, teacher, labels = faces()
    loss = EvaluationOrientedLoss(form="indicator", anchor_init="first_batch").double()
    value = loss(student.requires_grad_(), teacher, labels)
    value.backward()
    assert student.grad is not None
    assert value.item() > 0
    assert not student.grad.any()


def test_similarities_of_critical_pairs_are_as_steep_as_ranks_at_a_threshold() -> None:
    """Near a threshold that both networks share, one pair on either side of it: both forms have the same value there."""
    tau = torch.tensor([0.5], dtype=torch.float64)
    ours, theirs = tau + 1e-5, tau - 1e-5
    values = []
    for form in ("rank", "similarity"):
        loss = EvaluationOrientedLoss(divisors=(10,), form=form).double()  # type: ignore[arg-type]
        loss.student_thresholds.copy_(tau)
        loss.teacher_thresholds.copy_(tau)
        values.append(float(loss._distance(ours, theirs)))
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    assert values[0] > 0
    assert float(loss._distance(ours, ours + 0.1)) == 0.0  # the same side: not critical, however far apart


def test_no_projector_is_needed() -> None:
    """C6: embeddings of 32 and of 7 dimensions; no parameter stands between them, and the gradient reaches the student."""
    student, teacher, labels = faces(other=7)
    loss = EvaluationOrientedLoss(anchor_init="first_batch").double()
    loss(student.requires_grad_(), teacher, labels).backward()
    assert list(loss.parameters()) == []
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


def test_autocast_leaves_the_cosines_in_32_bits() -> None:
    student, teacher, labels = (x.float() if x.is_floating_point() else x for x in faces())
    values = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            values.append(float(EvaluationOrientedLoss(anchor_init="first_batch")(student, teacher, labels)))
    assert values[0] == values[1]


class Sizes(TorchDispatchMode):
    """Elements of the tensors that are made: of the largest one and of all."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.all = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, Tensor):
                self.largest, self.all = max(self.largest, x.numel()), self.all + x.numel()
        return out


def test_ten_thousand_identities_cost_what_a_hundred_do() -> None:
    """Forward and backward, for the same pattern of equal labels."""
    found = []
    for identities in (100, 10_000):
        student, teacher, labels = faces(identities=24)
        names = torch.randperm(identities, generator=torch.Generator().manual_seed(0))[:24]
        names[0] = identities - 1 if identities - 1 not in names else names[0]
        with Sizes() as sizes:
            EvaluationOrientedLoss(anchor_init="first_batch").double()(
                student.requires_grad_(), teacher, names[labels]
            ).backward()
        found.append((sizes.largest, sizes.all))
    assert found[0] == found[1]
    pairs = 96 * 95 // 2
    assert found[0][0] <= max(2 * pairs, 6 * 2000, 96 * 96)
