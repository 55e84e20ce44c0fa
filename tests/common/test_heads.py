"""The heads against the official implementations (float64), and what must hold of any head."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.heads import (
    AdaCos,
    ArcFace,
    CosFace,
    CosineHead,
    CurricularFace,
    ElasticArcFace,
    ElasticCosFace,
    NormalizedSoftmax,
    PartialFC,
    Softmax,
    SphereFace,
)
from common.heads.margins import cosine_of_angle_plus, sine_of
from common.heads.partial_fc import sample_classes

D, C = 16, 12
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
FOLDER = "_fr_backbones_heads"


def with_weight(head: CosineHead, weight: np.ndarray) -> CosineHead:
    """`head` in float64 with this class weight, [C, D] or the official kernels' [D, C]."""
    head = head.double().train()
    rows = weight if weight.shape == tuple(head.weight.shape) else weight.T
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(rows))
    return head


def step(head: torch.nn.Module, emb: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    head.zero_grad()
    embedding = torch.from_numpy(emb).requires_grad_()
    logits = head(embedding, torch.from_numpy(labels))
    loss = F.cross_entropy(logits, torch.from_numpy(labels).flatten(), ignore_index=-1)
    loss.backward()
    return {
        "logits": logits.detach().numpy(),
        "loss": loss.detach().numpy(),
        "grad_emb": embedding.grad.numpy(),
        "grad_weight": head.weight.grad.numpy(),
    }


def official(golden: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(golden / FOLDER / f"{name}.npz") as file:
        return dict(file)


SINGLE_STEP = [
    ("head_softmax_norm_s64", lambda: NormalizedSoftmax(D, C)),
    ("head_insight_cosface_s64_m0.4", lambda: CosFace(D, C)),
    ("head_insight_combined_1_0_0.4_filter0.3", lambda: CosFace(D, C, interclass_filtering_threshold=0.3)),
    ("head_insight_arcface_s64_m0.5", lambda: ArcFace(D, C, gradient="straight_through")),
    ("head_insight_combined_1_0.5_0", lambda: ArcFace(D, C, gradient="straight_through")),
    ("head_arcface_exact_pocketnet", lambda: ArcFace(D, C)),
    ("head_arcface_exact_curricularrepo", lambda: ArcFace(D, C, gradient="exact")),
    ("head_sphereface_m1.7_s30", lambda: SphereFace(D, C)),
    ("head_sphereface_m4.0_s30", lambda: SphereFace(D, C, margin=4.0)),
]


@pytest.mark.parametrize(("name", "build"), SINGLE_STEP)
def test_values_and_gradients_equal_the_official_heads(golden, name, build):
    expected = official(golden, name)
    weight = next(expected[key] for key in ("weight", "kernel_DxC", "weight_raw") if key in expected)
    head = with_weight(build(), weight)
    got = step(head, expected["emb"], expected["labels"])
    compare(got, expected)
    if "weight_after" in expected:
        np.testing.assert_allclose(head.weight.detach().numpy(), expected["weight_after"], **TIGHT)


def compare(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], prefix: str = "") -> None:
    checked = 0
    for key, value in got.items():
        for name in (key, key.replace("weight", "kernel"), key.replace("weight", "W")):
            if prefix + name in expected:
                reference = expected[prefix + name]
                reference = reference if reference.shape == value.shape else reference.T
                np.testing.assert_allclose(value, reference, **TIGHT, err_msg=name)
                checked += 1
    assert checked >= 3


@pytest.mark.parametrize("arc", [True, False])
@pytest.mark.parametrize("plus", [False, True])
def test_elastic_heads_equal_the_official_ones(golden, monkeypatch, arc, plus):
    expected = official(golden, f"head_Elastic{'Arc' if arc else 'Cos'}Face{'_plus' if plus else ''}")
    build = ElasticArcFace if arc else ElasticCosFace
    head = with_weight(build(D, C, plus=plus, plus_mode="code"), expected["kernel_DxC"])
    monkeypatch.setattr(head, "draw", lambda count: torch.from_numpy(expected["margins_drawn"])[:count, 0])
    compare(step(head, expected["emb"], expected["labels"]), expected)


def test_elastic_without_spread_is_arcface_by_autograd(golden):
    expected = official(golden, "head_insight_arcface_s64_m0.5")
    fixed = with_weight(ElasticArcFace(D, C, sigma=0.0), expected["weight"])
    arc = with_weight(ArcFace(D, C, gradient="autograd"), expected["weight"])
    mine, theirs = (step(head, expected["emb"], expected["labels"]) for head in (fixed, arc))
    compare(mine, theirs)
    np.testing.assert_allclose(theirs["logits"], expected["logits"], **TIGHT)
    assert np.abs(theirs["grad_emb"] - expected["grad_emb"]).max() > 1e-3, (
        "its gradient is not the straight-through one"
    )


def test_elastic_plus_by_rank_gives_the_smallest_margin_to_the_largest_cosine(monkeypatch):
    head = ElasticCosFace(D, C, plus=True)
    monkeypatch.setattr(head, "draw", lambda count: torch.tensor([0.3, 0.1, 0.4, 0.2]))
    target = torch.tensor([0.5, -0.2, 0.9, 0.1])
    torch.testing.assert_close(head.margins_of(target), torch.tensor([0.2, 0.4, 0.1, 0.3]))
    head.plus_mode = "code"  # descending order is samples 2, 0, 3, 1
    torch.testing.assert_close(head.margins_of(target), torch.tensor([0.3, 0.1, 0.4, 0.2]))


def test_elastic_margins_are_drawn_anew_and_only_in_training():
    torch.manual_seed(0)
    head = ElasticArcFace(D, C)
    draws = head.draw(20_000)
    assert float(draws.mean()) == pytest.approx(0.5, abs=2e-3)
    assert float(draws.std()) == pytest.approx(0.05, abs=1e-3)
    embedding, labels = torch.randn(4, D), torch.arange(4)
    assert not torch.equal(head(embedding, labels), head(embedding, labels))
    head.eval()
    torch.testing.assert_close(head(embedding, labels), head(embedding))


def test_curricularface_three_steps(golden):
    expected = official(golden, "head_curricularface_3steps")
    head = with_weight(CurricularFace(D, C), expected["kernel_DxC"])
    for k in range(3):
        prefix = f"s{k}_"
        assert float(head.t) == pytest.approx(expected[prefix + "t_before"].item(), rel=1e-10, abs=1e-12)
        compare(step(head, expected[prefix + "emb"], expected[prefix + "labels"]), expected, prefix)
        assert float(head.t) == pytest.approx(expected[prefix + "t_after"].item(), rel=1e-10)
        with torch.no_grad():
            plain = head(torch.from_numpy(expected[prefix + "emb"])).numpy()
        np.testing.assert_allclose(plain, expected[prefix + "orig"], **TIGHT)


def test_curricularface_t_after_one_step_and_in_eval_mode():
    head = CurricularFace(D, C)
    embedding, labels = torch.randn(8, D), torch.arange(8)
    targets = F.cosine_similarity(embedding, head.weight[labels])
    head(embedding, labels)
    torch.testing.assert_close(head.t, 0.01 * targets.mean().detach())
    kept = head.t.clone()
    head(embedding, torch.full((8,), -1))
    head.eval()(embedding, labels)
    assert torch.equal(head.t, kept)
    assert "t" in head.state_dict()


def test_adacos_three_steps(golden):
    expected = official(golden, "head_adacos_3steps")
    head = with_weight(AdaCos(D, C), expected["W"])
    assert float(head.scale) == pytest.approx(float(expected["s_init"]), rel=1e-12)
    assert float(head.scale) == pytest.approx(math.sqrt(2) * math.log(11), rel=1e-12)
    for k in range(3):
        prefix = f"s{k}_"
        compare(step(head, expected[prefix + "emb"], expected[prefix + "labels"]), expected, prefix)
        assert float(head.scale) == pytest.approx(float(expected[prefix + "s"]), rel=1e-10)


def test_adacos_scale_is_state():
    head = AdaCos(D, C)
    first = float(head.scale)
    head(torch.randn(8, D), torch.full((8,), -1))
    assert float(head.scale) == first
    head(torch.randn(8, D), torch.arange(8))
    assert float(head.scale) != first
    other = AdaCos(D, C)
    other.load_state_dict(head.state_dict())
    assert float(other.scale) == float(head.scale)
    other.eval()(torch.randn(8, D), torch.arange(8))
    assert float(other.scale) == float(head.scale)
    fixed = AdaCos(D, C, dynamic=False)
    fixed(torch.randn(8, D), torch.arange(8))
    assert float(fixed.scale) == first


def test_rows_without_a_target_are_only_scaled(golden):
    expected = official(golden, "head_insight_arcface_ignore")
    cosine, labels = torch.from_numpy(expected["cos"]), torch.from_numpy(expected["labels"])
    assert bool((labels == -1).any())
    head = ArcFace(D, C, gradient="straight_through")
    got = 64.0 * head.apply_margin(cosine, labels)
    np.testing.assert_allclose(got.numpy(), expected["logits"], **TIGHT)


ALL = [
    lambda: NormalizedSoftmax(D, C),
    lambda: CosFace(D, C),
    lambda: ArcFace(D, C, gradient="exact"),
    lambda: ArcFace(D, C, gradient="autograd"),
    lambda: ArcFace(D, C, gradient="straight_through"),
    lambda: ElasticArcFace(D, C, plus=True),
    lambda: ElasticCosFace(D, C),
    lambda: SphereFace(D, C),
    lambda: SphereFace(D, C, margin=4.0),
    lambda: AdaCos(D, C),
    lambda: CurricularFace(D, C),
]


@pytest.mark.parametrize("build", ALL)
def test_rows_without_a_target_have_no_margin_in_any_head(build):
    torch.manual_seed(1)
    head = build()
    embedding, labels = torch.randn(6, D), torch.tensor([0, -1, 3, -1, 5, 11])
    logits = head(embedding, labels)
    torch.testing.assert_close(logits[[1, 3]], head(embedding)[[1, 3]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("build", ALL)
def test_aligned_embeddings_have_finite_loss_and_gradients(build, dtype):
    torch.manual_seed(2)
    head = build()
    with torch.no_grad():
        head.weight.copy_(torch.eye(C, D))
    signs = torch.where(torch.arange(C) % 2 == 0, 1.0, -1.0)
    embedding = (7 * signs[:, None] * torch.eye(C, D)).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
        logits = head(embedding, torch.arange(C))
    loss = F.cross_entropy(logits, torch.arange(C))
    loss.backward()
    assert logits.dtype == torch.float32
    assert embedding.grad.dtype == dtype
    assert bool(loss.isfinite())
    assert bool(embedding.grad.isfinite().all())
    assert bool(head.weight.grad.isfinite().all())


def test_autocast_changes_nothing():
    torch.manual_seed(3)
    head, embedding, labels = ArcFace(D, C), torch.randn(8, D), torch.arange(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = head(embedding, labels)
    assert torch.equal(under, head(embedding, labels))


def test_closed_forms():
    head = ArcFace(D, C)
    with torch.no_grad():
        head.weight.copy_(torch.eye(C, D))
    logits = head(3 * torch.eye(C, D)[:1], torch.tensor([0]))
    assert logits[0, 0].item() == pytest.approx(64 * math.cos(0.5), abs=1e-4)
    assert logits[0, 1:].abs().max().item() == 0.0
    orthogonal = torch.eye(D)[C : C + 1]
    softmax = NormalizedSoftmax(D, C)
    softmax.load_state_dict(head.state_dict())
    assert F.cross_entropy(softmax(orthogonal), torch.tensor([0])).item() == pytest.approx(math.log(C), rel=1e-6)


def test_straight_through_gradient_is_the_softmax_error_times_the_scale(golden):
    expected = official(golden, "head_insight_arcface_s64_m0.5")
    cosine = torch.from_numpy(expected["cos"]).requires_grad_()
    labels = torch.from_numpy(expected["labels"])
    logits = 64.0 * ArcFace(D, C, gradient="straight_through").apply_margin(cosine, labels)
    F.cross_entropy(logits, labels).backward()
    error = (logits.softmax(1) - F.one_hot(labels, C)).detach()
    torch.testing.assert_close(cosine.grad, 64.0 * error / len(labels), rtol=1e-12, atol=1e-12)


def test_the_exact_margin_is_monotone_beyond_pi_and_has_the_true_slope():
    angle = torch.linspace(0.01, math.pi - 0.01, 200, dtype=torch.float64)
    cosine = angle.cos().requires_grad_()
    moved = ArcFace(D, 200).apply_margin(torch.diag(cosine), torch.arange(200)).diagonal()
    assert bool((moved.diff() < 0).all())
    moved.sum().backward()
    inside = angle + 0.5 < math.pi
    torch.testing.assert_close(cosine.grad[inside], ((angle + 0.5).sin() / angle.sin())[inside])
    assert bool((cosine.grad[~inside] == 1).all())
    again = cosine_of_angle_plus(cosine.detach(), 0.5)
    assert float(again.diff()[-1]) > 0, "without the continuation the logit rises again"


def test_sine_is_exact_in_value_and_finite_in_gradient():
    cosine = torch.tensor([-1.0, -0.5, 0.0, 1.0, 1.0 - 1e-9], dtype=torch.float64, requires_grad=True)
    sine = sine_of(cosine)
    expected = [0.0, math.sqrt(0.75), 1.0, 0.0, math.sqrt(2e-9)]
    np.testing.assert_allclose(sine.detach().numpy(), expected, rtol=1e-6, atol=1e-12)
    sine.sum().backward()
    assert cosine.grad.tolist() == pytest.approx([0.0, 0.5 / math.sqrt(0.75), 0.0, 0.0, 0.0])


# --- Partial FC ---


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_partial_fc_equals_the_official_one(golden, monkeypatch, rate):
    expected = official(golden, f"partialfc_sr{rate}")
    head = PartialFC(ArcFace(16, 40, gradient="straight_through"), rate)
    with torch.no_grad():
        head.head.weight.copy_(torch.from_numpy(expected["weight"]))
    sampled = torch.from_numpy(expected["sampled_index"])
    monkeypatch.setattr("common.heads.partial_fc.sample_classes", lambda *_: sampled)
    embedding = torch.from_numpy(expected["emb"]).requires_grad_()
    loss = head(embedding, torch.from_numpy(expected["labels"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(expected["loss"]), rel=1e-5)
    np.testing.assert_allclose(embedding.grad.numpy(), expected["grad_emb"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(head.head.weight.grad.numpy(), expected["grad_weight"], rtol=1e-4, atol=1e-5)


def test_sampled_classes_keep_the_batch_and_fill_up_at_random():
    torch.manual_seed(4)
    labels = torch.tensor([5, 38, -1, 5, 0])
    draws = [sample_classes(labels, 40, 0.3) for _ in range(200)]
    for classes in draws:
        assert len(classes) == 12
        assert {0, 5, 38} <= set(classes.tolist())
        assert torch.equal(classes, classes.unique())
    assert len(set(torch.cat(draws).tolist())) == 40
    assert sample_classes(torch.arange(20), 40, 0.3).tolist() == list(range(20))


def test_partial_fc_counts_rows_without_target_for_nothing_and_caps_the_loss():
    torch.manual_seed(5)
    head = PartialFC(CosFace(D, 40), 0.5)
    embedding = torch.randn(4, D, requires_grad=True)
    head(embedding, torch.tensor([1, -1, 2, -1])).backward()
    assert embedding.grad[[1, 3]].abs().max() == 0
    assert embedding.grad[[0, 2]].abs().min() > 0
    extreme = PartialFC(CosFace(D, 40, scale=1000.0), 1.0)
    opposite = -extreme.head.weight[:1].detach()
    assert extreme(opposite, torch.tensor([0])).item() == pytest.approx(-math.log(1e-30), rel=1e-6)


# --- refusals and the plain softmax ---


def test_plain_softmax_is_linear():
    head = Softmax(D, C)
    embedding = torch.randn(3, D)
    torch.testing.assert_close(head(embedding, torch.arange(3)), head.linear(embedding))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: CosFace(0, 5), "at least 1 dimension"),
        (lambda: CosFace(5, 1), "2 classes"),
        (lambda: CosFace(5, 5, scale=0), "scale is 0"),
        (lambda: CosFace(5, 5, margin=-0.1), "margin is -0.1"),
        (lambda: ArcFace(5, 5, gradient="official"), "exact, autograd, straight_through"),
        (lambda: ArcFace(5, 5, interclass_filtering_threshold=2), "must be a cosine"),
        (lambda: ElasticArcFace(5, 5, sigma=-1), "sigma is -1"),
        (lambda: ElasticArcFace(5, 5, plus_mode="paper"), "code, rank"),
        (lambda: SphereFace(5, 5, margin=0.5), "at least 1"),
        (lambda: AdaCos(5, 2), "at least 3 classes"),
        (lambda: CurricularFace(5, 5, momentum=2), "momentum is 2"),
        (lambda: PartialFC(CosFace(5, 5), 0.0), "sample_rate is 0"),
        (lambda: CosFace(5, 5)(torch.zeros(2, 4)), r"embeddings \[B, 5\]"),
        (lambda: CosFace(5, 5)(torch.zeros(2, 5), torch.zeros(3, dtype=torch.long)), "one integer label a row, 2"),
        (lambda: CosFace(5, 5)(torch.zeros(2, 5), torch.zeros(2)), "one integer label"),
    ],
)
def test_refusals(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()
