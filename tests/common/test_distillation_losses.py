"""Closed forms, invariants and bad input of the distillation losses; modules keep their state and train their parameters."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.distillation import feature, relation, response
from common.distillation.contrastive import CRD

Z, V = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[3.0, 1.0, 0.0]])
RELATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rkd_distance": relation.rkd_distance,
    "rkd_angle": relation.rkd_angle,
    "similarity_preserving": relation.similarity_preserving,
    "probabilistic_knowledge_transfer": relation.probabilistic_knowledge_transfer,
    "correlation_congruence": relation.correlation_congruence,
    "hard_dark_rank": relation.hard_dark_rank,
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    at = at.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(at), at)
    return found


@pytest.mark.parametrize(("t", "value"), [(1, 1.685124), (2, 2.073816), (4, 2.154541), (100, 2.115159)])
def test_kd_of_three_classes(t: float, value: float) -> None:
    assert float(response.kd_loss(Z.double(), V.double(), t)) == pytest.approx(value, abs=1e-6)


def test_kd_tends_to_matching_centred_logits() -> None:
    z, v = Z.double(), V.double()
    limit = ((z - z.mean()) - (v - v.mean())).square().sum() / 6
    assert float(limit) == pytest.approx(2.111111, abs=1e-6)
    assert float(response.kd_loss(z, v, 1e4)) == pytest.approx(float(limit), rel=1e-3)


def test_the_gradient_is_t_times_q_minus_p() -> None:
    found = gradient(lambda z: response.kd_loss(z, V, 4.0), Z)
    torch.testing.assert_close(found, torch.tensor([[-0.9070, 0.1390, 0.7680]]), atol=1e-4, rtol=0)
    torch.testing.assert_close(found, 4 * (torch.softmax(Z / 4, 1) - torch.softmax(V / 4, 1)))


def test_t_squared_keeps_the_gradient_when_the_temperature_rises() -> None:
    z, v = draw(5, 7), draw(5, 7, seed=1)
    size = [float(gradient(lambda s, t=t: response.kd_loss(s, v, t), z).norm()) for t in (20.0, 200.0)]
    assert size[1] == pytest.approx(size[0], rel=0.1)


def test_kd_is_invariant_as_a_divergence_is() -> None:
    z, v = draw(6, 5), draw(6, 5, seed=1)
    value = response.kd_loss(z, v, 3.0)
    assert float(value) > 0
    shift, order = draw(6, 1, seed=2), torch.tensor([3, 0, 4, 1, 2])
    for again in (
        response.kd_loss(z + shift, v - 2 * shift, 3.0),
        response.kd_loss(z[:, order], v[:, order], 3.0),
        response.kd_loss(z.repeat(2, 1), v.repeat(2, 1), 3.0),
    ):
        torch.testing.assert_close(again, value)
    assert float(response.kd_loss(z, z, 3.0)) == 0
    assert float(gradient(lambda s: response.kd_loss(s, z, 3.0), z).abs().max()) < 1e-15
    assert float(gradient(lambda s: response.kd_loss(s, v, 3.0), z).sum(1).abs().max()) < 1e-12


def test_soft_cross_entropy_differs_by_the_teachers_entropy_alone() -> None:
    z, v, t = draw(6, 5), draw(6, 5, seed=1), 3.0
    p = torch.softmax(v / t, 1)
    entropy = -(p * p.log()).sum(1).mean()
    value = response.soft_cross_entropy(z, v, t)
    torch.testing.assert_close(value, response.kd_loss(z, v, t) + t**2 * entropy)
    torch.testing.assert_close(
        gradient(lambda s: response.soft_cross_entropy(s, v, t), z), gradient(lambda s: response.kd_loss(s, v, t), z)
    )


def test_the_element_mean_is_smaller_by_the_number_of_classes() -> None:
    z, v = draw(6, 5), draw(6, 5, seed=1)
    torch.testing.assert_close(response.kd_loss(z, v, 2.0, "mean") * 5, response.kd_loss(z, v, 2.0))
    torch.testing.assert_close(
        response.soft_cross_entropy(z, v, 2.0, "mean") * 5, response.soft_cross_entropy(z, v, 2.0)
    )


def test_ensembles_average_probabilities_and_not_logits() -> None:
    a, b = draw(4, 5), draw(4, 5, seed=1)
    found = response.ensemble_probabilities([a, b], 2.0)
    torch.testing.assert_close(found, (torch.softmax(a / 2, 1) + torch.softmax(b / 2, 1)) / 2)
    of_logits = torch.softmax((a + b) / 4, 1)
    assert not torch.allclose(found, of_logits, atol=1e-3)
    torch.testing.assert_close(response.ensemble_probabilities([a, b], 2.0, "geometric"), of_logits)
    torch.testing.assert_close(
        response.kd_loss_to(a, response.ensemble_probabilities([b], 2.0), 2.0), response.kd_loss(a, b, 2.0)
    )


def test_decoupled_kd_is_kd_where_its_weights_are_those_of_the_teacher() -> None:
    """KL = TCKD + (1 - p_true) NCKD (B. Zhao et al., equation 7)."""
    z, v = draw(1, 6), draw(1, 6, seed=1)
    label = torch.tensor([2])
    rest = 1 - float(torch.softmax(v / 2, 1)[0, 2])
    found = response.decoupled_kd_loss(z, v, label, temperature=2.0, alpha=1.0, beta=rest)
    torch.testing.assert_close(found, response.kd_loss(z, v, 2.0))


def test_squared_distance_of_unit_vectors_is_twice_the_cosine_distance() -> None:
    s, t = draw(6, 8), draw(6, 8, seed=1)
    torch.testing.assert_close(feature.squared_distance(s, t), 2 * feature.cosine_distance(s, t))
    torch.testing.assert_close(8 * feature.squared_distance(s, t, reduction="mean"), feature.squared_distance(s, t))
    torch.testing.assert_close(feature.squared_distance(s, t, normalise=False, reduction="mean"), F.mse_loss(s, t))


def test_attention_does_not_depend_on_channels_nor_on_scale() -> None:
    maps = draw(3, 4, 5, 5)
    assert float(feature.attention_transfer(3 * maps, maps.repeat(1, 2, 1, 1))) < 1e-30
    assert float(feature.attention_transfer(maps, maps.flip(3))) > 1e-4


@pytest.mark.parametrize("name", sorted(RELATIONS))
def test_relations_are_of_the_batch_and_not_of_the_space(name: str) -> None:
    """Sizes may differ; rotating either space changes nothing; the student that equals its teacher is at a minimum."""
    loss, s, t = RELATIONS[name], draw(7, 6), draw(7, 9, seed=1)
    rotation = torch.linalg.qr(draw(9, 9, seed=2))[0]
    value = loss(s, t)
    assert torch.isfinite(value)
    torch.testing.assert_close(loss(s, t @ rotation), value)
    same = loss(t @ rotation, t)
    assert float(value) > float(same)
    if name != "hard_dark_rank":  # a likelihood of a ranking is not 0 at the teacher
        assert float(same.abs()) < 1e-12
        assert float(gradient(lambda x: loss(x, t), t).abs().max()) < 1e-8


@pytest.mark.parametrize("name", sorted(RELATIONS))
def test_a_batch_without_relations_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="one sample has no relations"):
        RELATIONS[name](draw(1, 6), draw(1, 6))
    with pytest.raises(ValueError, match="batch has 3 samples"):
        RELATIONS[name](draw(3, 6), draw(4, 6))


def test_dark_rank_follows_the_teachers_order() -> None:
    """One dimension of angles: by hand, -log of the likelihood of the order 1, 2 seen from 0, and so on."""
    angles = torch.tensor([0.0, 0.5, 1.2], dtype=torch.float64)
    points = torch.stack([angles.cos(), angles.sin()], 1)
    score = -3 * (points[:, None] - points[None]).norm(dim=2).pow(3)
    pairs = ((0, 1, 2), (1, 0, 2), (2, 1, 0))
    by_hand = [-(score[a, b] - torch.logaddexp(score[a, b], score[a, c])) for a, b, c in pairs]
    torch.testing.assert_close(relation.hard_dark_rank(points, points, length=2), torch.stack(by_hand).mean())
    reverse = points[[2, 1, 0]]
    assert float(relation.hard_dark_rank(reverse * torch.tensor([1.0, -1.0]), points)) > 0


def test_correlations_with_more_terms_tend_to_the_gaussian_kernel() -> None:
    s, t = F.normalize(draw(5, 4)), F.normalize(draw(5, 4, seed=1))
    kernel = [torch.exp(-0.4 * torch.cdist(x, x).square()) for x in (s, t)]
    exact = (kernel[0] - kernel[1]).square().mean()
    torch.testing.assert_close(relation.correlation_congruence(s, t, gamma=0.4, terms=12), exact)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: response.kd_loss(Z, V[:, :2], 4.0), "must have the same classes"),
        (lambda: response.kd_loss(Z, V, 0.0), "temperature is 0"),
        (lambda: response.kd_loss(Z, V, 1.0, "sum"), "reduction is 'sum'"),  # type: ignore[arg-type]
        (lambda: response.ensemble_probabilities([], 1.0), "at least one member"),
        (lambda: response.decoupled_kd_loss(Z[:, :1], V[:, :1], torch.tensor([0])), "at least two classes"),
        (lambda: feature.cosine_distance(Z, V[:, :2]), "same embedding size"),
        (lambda: feature.squared_distance(Z, V[:, :2]), "same embedding size"),
        (lambda: feature.hint_loss(draw(2, 3, 4, 4), draw(2, 3, 2, 2)), "ConvRegressor"),
        (lambda: feature.ConvRegressor((3, 4, 4), (3, 7, 7)), "4x4 cannot be brought to the teacher's 7x7"),
        (lambda: relation.correlation_congruence(Z, V, terms=1), "at least 2"),
        (lambda: CRD(4, 4, images=0), "images is 0"),
    ],
    ids=[
        "classes",
        "temperature",
        "reduction",
        "ensemble",
        "dkd",
        "cosine",
        "squared",
        "hint",
        "regressor",
        "cckd",
        "crd",
    ],
)
def test_bad_input_is_said(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_the_variance_of_vid_is_trained_and_stored() -> None:
    vid = feature.VID(4, 3)
    assert "log_scale" in vid.state_dict()
    vid(torch.randn(2, 4, 6, 6), torch.randn(2, 3, 6, 6)).backward()
    missing = [name for name, parameter in vid.named_parameters() if parameter.grad is None]
    assert not missing
    assert float(vid.log_scale.grad.abs().min()) > 0  # type: ignore[union-attr]
    assert float(F.softplus(vid.log_scale[0].detach()) + vid.eps) == pytest.approx(5.0)


def test_vid_at_its_mean_is_half_the_logarithm_of_the_variance() -> None:
    vid = feature.VID(4, 3)
    student = torch.randn(2, 4, 6, 6)
    mean = student
    for index, conv in enumerate(vid.convs):
        mean = conv(mean if index == 0 else F.relu(mean))
    assert float(vid(student, mean).detach()) == pytest.approx(0.5 * math.log(5.0), abs=1e-5)


def test_crd_resumes_with_its_memories_and_its_constants() -> None:
    torch.manual_seed(0)
    crd, again = (CRD(4, 6, images=20, size=8, negatives=5) for _ in range(2))
    s, t, index = torch.randn(3, 4), torch.randn(3, 6), torch.tensor([1, 7, 11])
    crd(s, t, index)
    again.load_state_dict(crd.state_dict())
    contrast = crd.draw(index)
    assert torch.equal(contrast[:, 0], index)
    assert contrast.shape == (3, 6)
    assert torch.equal(crd(s, t, index, contrast), again(s, t, index, contrast))
    assert torch.equal(crd.z_student, again.z_student)
    assert float(crd.z_student) > 0


def test_crd_fixes_its_constants_at_the_first_batch_and_moves_the_rows_of_the_batch_alone() -> None:
    torch.manual_seed(0)
    crd = CRD(4, 6, images=20, size=8, negatives=5)
    crd(torch.randn(3, 4), torch.randn(3, 6), torch.tensor([1, 7, 11]))
    z, memory = crd.z_student.clone(), crd.memory_student.clone()
    crd(torch.randn(2, 4), torch.randn(2, 6), torch.tensor([0, 19]))
    assert torch.equal(crd.z_student, z)
    changed = torch.nonzero((crd.memory_student != memory).any(dim=1)).flatten()
    assert changed.tolist() == [0, 19]
    torch.testing.assert_close(crd.memory_student[changed].norm(dim=1), torch.ones(2))


def test_crd_trains_both_embeddings() -> None:
    crd = CRD(4, 6, images=20, size=8, negatives=5)
    crd(torch.randn(3, 4), torch.randn(3, 6), torch.tensor([1, 7, 11])).backward()
    assert all(parameter.grad is not None for parameter in crd.parameters())
