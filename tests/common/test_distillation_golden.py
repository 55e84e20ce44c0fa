"""Distillation losses against values and gradients made with official implementations (mdistiller and TFace)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.distillation import feature, relation, response
from common.distillation.contrastive import CRD

Loss = Callable[[Tensor, Tensor], Tensor]


def load(path: Path) -> dict[str, Tensor]:
    with np.load(path) as file:
        return {name: torch.from_numpy(file[name]) for name in file}


@pytest.fixture
def vectors(golden: Path) -> Callable[[str], dict[str, Tensor]]:
    return lambda name: load(golden / f"{name}.npz")


def check(loss: Loss, student: Tensor, teacher: Tensor, value: Tensor, gradient: Tensor, close: float = 1e-5) -> None:
    """Value and gradient agree, and the teacher takes no gradient."""
    student, teacher = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    found = loss(student, teacher)
    assert found.shape == ()
    found.backward()
    torch.testing.assert_close(found.detach(), value.reshape(()), rtol=close, atol=close * 1e-2)
    torch.testing.assert_close(student.grad, gradient, rtol=10 * close, atol=close * float(gradient.abs().max()))
    assert teacher.grad is None


def test_kd_at_four_temperatures(vectors: Callable[[str], dict[str, Tensor]]) -> None:
    found = vectors("hinton_kd/kd")
    z, v = found["logits_student"], found["logits_teacher"]
    for at, t in enumerate(found["temperatures"].tolist()):
        check(lambda s, c, t=t: response.kd_loss(s, c, t), z, v, found["kd_loss"][at], found["kd_grad_student"][at])

    def total(s: Tensor, c: Tensor) -> Tensor:
        return 0.1 * F.cross_entropy(s, found["target"]) + 0.9 * response.kd_loss(s, c, 4.0)

    check(total, z, v, found["total_ce0p1_kd0p9_T4"], found["total_grad_student"])


def test_kd_of_extreme_logits(vectors: Callable[[str], dict[str, Tensor]]) -> None:
    found = vectors("hinton_kd/kd_extreme")
    t = float(found["temperature"])
    z, v = found["logits_student"], found["logits_teacher"]
    check(lambda s, c: response.kd_loss(s, c, t), z, v, found["kd_loss"], found["kd_grad_student"])
    assert response.kd_loss(z, z, t) == found["kd_loss_student_equals_teacher"]


def test_decoupled_kd(vectors: Callable[[str], dict[str, Tensor]]) -> None:
    found = vectors("_kd_primer/dkd")
    z, v, y, t = found["logits_student"], found["logits_teacher"], found["target"], float(found["temperature"])

    def loss(alpha: float, beta: float) -> Loss:
        return lambda s, c: response.decoupled_kd_loss(s, c, y, t, alpha, beta)

    check(loss(float(found["alpha"]), float(found["beta"])), z, v, found["dkd_loss"], found["grad_student"])
    torch.testing.assert_close(loss(1.0, 0.0)(z, v), found["tckd"])
    torch.testing.assert_close(loss(0.0, 1.0)(z, v), found["nckd"])
    factors = [response.warm_up(epoch, int(found["warmup_epochs"])) for epoch in (1, 10, 20, 40)]
    torch.testing.assert_close(torch.tensor(factors), found["warmup_factor_epoch_1_10_20_40"])


@pytest.mark.parametrize("size", ["same", "down2", "up2"])
def test_fitnet(size: str, vectors: Callable[[str], dict[str, Tensor]]) -> None:
    found = vectors(f"_kd_primer/fitnet_{size}")
    student, teacher = found["feat_student"], found["feat_teacher"]
    regressor = feature.ConvRegressor(tuple(student.shape[1:]), tuple(teacher.shape[1:]))
    parameters = {
        "conv_weight": regressor.conv.weight,
        "conv_bias": regressor.conv.bias,
        "bn_weight": regressor.norm.weight,
        "bn_bias": regressor.norm.bias,
    }
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(found[f"param_{name}"])
    torch.testing.assert_close(regressor.train()(student).detach(), found["mapped"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(regressor.norm.running_mean, found["running_mean_after"])
    torch.testing.assert_close(regressor.norm.running_var, found["running_var_after"])
    check(
        lambda s, t: feature.hint_loss(regressor(s), t),
        student,
        teacher,
        found["mse"],
        found["grad_feat_student"],
        2e-5,
    )
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, found[f"grad_{name}"], rtol=1e-4, atol=1e-6)


def test_rkd(vectors: Callable[[str], dict[str, Tensor]]) -> None:
    found = vectors("_kd_primer/rkd")
    student, teacher = found["emb_student"], found["emb_teacher"]
    check(relation.rkd_loss, student, teacher, found["rkd"], found["grad_student"])
    torch.testing.assert_close(relation.rkd_distance(student, teacher), found["rkd_distance"])
    torch.testing.assert_close(relation.rkd_angle(student, teacher), found["rkd_angle"])
    torch.testing.assert_close(relation.rkd_distance(student, teacher, squared=True), found["rkd_distance_squared"])
    torch.testing.assert_close(relation.pairwise_distances(student), found["pdist_student"])
    torch.testing.assert_close(relation.pairwise_distances(teacher), found["pdist_teacher"])


def test_rkd_of_two_equal_samples_is_finite(vectors: Callable[[str], dict[str, Tensor]]) -> None:
    found = vectors("_kd_primer/rkd_duplicate_rows")
    check(relation.rkd_loss, found["emb_student"], found["emb_teacher"], found["rkd"], found["grad_student"])


def test_similarity_preserving(vectors: Callable[[str], dict[str, Tensor]]) -> None:
    found = vectors("_kd_primer/sp")
    check(
        relation.similarity_preserving, found["feat_student"], found["feat_teacher"], found["sp"], found["grad_student"]
    )


def test_attention_transfer(vectors: Callable[[str], dict[str, Tensor]]) -> None:
    found = vectors("_kd_primer/at")
    power = float(found["p"])
    check(
        lambda s, t: feature.attention_transfer(s, t, power),
        found["feat_student"],
        found["feat_teacher"],
        found["at"],
        found["grad_student"],
    )


def test_probabilistic_knowledge_transfer(vectors: Callable[[str], dict[str, Tensor]]) -> None:
    found = vectors("_kd_primer/pkt")
    check(
        lambda s, t: relation.probabilistic_knowledge_transfer(s, t, eps=float(found["eps"])),
        found["emb_student"],
        found["emb_teacher"],
        found["pkt"],
        found["grad_student"],
    )


def test_crd(vectors: Callable[[str], dict[str, Tensor]]) -> None:
    found = vectors("_kd_primer/crd")
    images, size = found["memory_v1_before"].shape
    crd = CRD(5, 5, images, size, int(found["K"]), float(found["temperature"]), float(found["momentum"]))
    with torch.no_grad():
        crd.embed_student.weight.copy_(found["embed_weight"])
        crd.embed_student.bias.copy_(found["embed_bias"])
    embedded = F.normalize(crd.embed_student(found["embed_in"]), dim=1)
    torch.testing.assert_close(embedded.detach(), found["embed_out"])

    def fresh() -> None:
        crd.memory_student.copy_(found["memory_v1_before"])
        crd.memory_teacher.copy_(found["memory_v2_before"])
        crd.z_student.zero_()
        crd.z_teacher.zero_()

    fresh()
    a, b = found["v_student"].clone().requires_grad_(), found["v_teacher"]
    ours, theirs = crd.scores(a, b, found["index"], found["contrast_index"])
    torch.testing.assert_close(ours.detach(), found["out_student"].squeeze(2), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(theirs, found["out_teacher"].squeeze(2), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(crd.z_student, found["Z_v1"])
    torch.testing.assert_close(crd.z_teacher, found["Z_v2"])
    torch.testing.assert_close(crd.memory_student, found["memory_v1_after"])
    torch.testing.assert_close(crd.memory_teacher, found["memory_v2_after"])
    losses = crd.nce(ours), crd.nce(theirs)
    torch.testing.assert_close(losses[0].detach(), found["loss_student"].squeeze())
    torch.testing.assert_close(losses[1], found["loss_teacher"].squeeze())
    sum(losses).backward()
    torch.testing.assert_close(a.grad, found["grad_v_student"], rtol=1e-4, atol=1e-6)


def test_vid(vectors: Callable[[str], dict[str, Tensor]]) -> None:
    found = vectors("_kd_primer/vid")
    vid = feature.VID(4, 3, float(found["init_pred_var"]), float(found["eps"]))
    torch.testing.assert_close(vid.log_scale.detach(), found["log_scale"])
    with torch.no_grad():
        for conv, name in zip(vid.convs, ("w0", "w2", "w4"), strict=True):
            conv.weight.copy_(found[name])
    check(vid, found["feat_student"], found["feat_teacher"], found["vid"], found["grad_student"])


@pytest.mark.parametrize(
    ("key", "loss"),
    [
        ("cc", relation.correlation_congruence),
        ("cosine_distance", feature.cosine_distance),
        ("darkrank", relation.hard_dark_rank),
        ("fitnet", lambda s, t: feature.squared_distance(s, t, normalise=False, reduction="mean")),
        ("rkd", relation.rkd_loss),
        ("sp", lambda s, t: relation.similarity_preserving(s, t, normalise="features")),
    ],
    ids=["cc", "cosine_distance", "darkrank", "fitnet", "rkd", "sp"],
)
def test_the_losses_that_ekd_compares_with(key: str, loss: Loss, vectors: Callable[[str], dict[str, Tensor]]) -> None:
    found = vectors("ekd/baseline_losses")
    check(loss, found["student"], found["teacher"], found[f"{key}_loss"], found[f"{key}_grad"], 1e-9)
