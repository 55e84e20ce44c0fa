"""MaskInv's method: the official loss and gradients, who learns from whom, and what would break without the paper's ideas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.distillation.teacher import Teacher
from common.weights import WeightsMismatchError, save_weights
from papers.mask_invariant_kd.method import MaskInv

FOLDER = "mask_invariant_kd"
SIZE, D, C = 8, 6, 5


class Net(nn.Module):
    """A convolution with BatchNorm and a projection: what students and teachers are made of."""

    def __init__(self, embedding_size: int = D) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.project = nn.Linear(4 * SIZE * SIZE, embedding_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.norm(self.conv(x)).flatten(1))


class Views(L.LightningDataModule):
    """Batches (student's images, labels, index, flip, teacher's images): masked ones lose their lower half."""

    def __init__(self, count: int = 4, batch: int = 6, labels: Tensor | None = None, clean: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.clean = torch.randn(count, batch, 3, SIZE, SIZE, generator=generator)
        self.labels = torch.arange(batch) % C if labels is None else labels
        self.num_classes = C
        self.masked = self.clean.clone()
        if not clean:
            self.masked[:, ::2, :, SIZE // 2 :] = 0

    def batch(self, k: int) -> tuple[Tensor, ...]:
        nothing = torch.zeros(len(self.labels), dtype=torch.bool)
        return self.masked[k], self.labels, torch.arange(len(self.labels)), nothing, self.clean[k]

    def train_dataloader(self) -> DataLoader:
        return DataLoader([self.batch(k) for k in range(len(self.clean))], batch_size=None)  # type: ignore[arg-type]


def maskinv(
    network: nn.Module | None = None, teacher: nn.Module | None = None, seed: int = 0, **options: Any
) -> MaskInv:
    torch.manual_seed(seed)
    teacher, network = teacher or Net(), network or Net()
    settings: dict[str, Any] = {"embedding_size": D, "lr": 0.05, "reference_batch": 0, "scale": 16.0, "margin": 0.2}
    return MaskInv(network, Teacher(teacher), **{**settings, **options})


def ready(method: MaskInv, data: Any = None) -> MaskInv:
    """Prepared, without a trainer: nothing is logged."""
    method.prepare(data or Views())
    method.log = lambda *_, **__: None  # type: ignore[method-assign]
    return method


def fit(method: MaskInv, data: Views, folder: Path, *callbacks: L.Callback, epochs: int = 1) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    return trainer


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("weight", [100, 3000])
def test_total_loss_and_gradients_are_the_official_ones(golden: Path, weight: int) -> None:
    """The official code's lambda belongs to the d = 16 of its vectors; ours to 512, with the same lambda/d."""
    with np.load(golden / FOLDER / f"total_loss_lambda{weight}.npz") as file:
        official = {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}
    raw = official["student_raw"].requires_grad_()
    size = raw.shape[1]
    method = MaskInv(
        nn.Identity(), Teacher(nn.Identity()), kd_weight=weight * 512 / size, embedding_size=size, num_classes=20
    ).double()
    with torch.no_grad():
        method.head.weight.copy_(official["kernel_DxC"].T)
    method.head.draw = lambda count: official["margins"].flatten()
    ready(method)
    logits = method.head(raw, official["labels"])
    torch.testing.assert_close(logits, official["logits"], rtol=1e-7, atol=1e-7)
    nothing = torch.zeros(8, dtype=torch.bool)
    batch = (raw, official["labels"], torch.arange(8), nothing, official["teacher_raw"])
    loss = method.training_step(batch, 0)
    loss.backward()
    assert raw.grad is not None
    torch.testing.assert_close(loss.detach(), official["total"], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(raw.grad, official["grad_student_raw"], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(method.head.weight.grad.T, official["grad_kernel"], rtol=1e-6, atol=1e-7)
    ce = nn.functional.cross_entropy(logits, official["labels"]).detach()
    torch.testing.assert_close(ce, official["ce"], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(loss.detach() - ce, official["weighted_mse"], rtol=1e-6, atol=1e-7)


def test_template_loss_in_closed_form() -> None:
    """0 for a student that is its teacher and sees no mask; 2 lambda/d on average for random unit templates: 0.39 at d = 512."""
    same = ready(maskinv(student_init="teacher", classify=False), Views(clean=True)).eval()
    assert same.training_step(Views(clean=True).batch(0), 0).item() == pytest.approx(0, abs=1e-10)
    random = MaskInv(nn.Identity(), Teacher(nn.Identity()), student_init="scratch", classify=False)
    f, g = torch.randn(2, 4000, 512, generator=torch.Generator().manual_seed(0))
    none = torch.zeros(4000, dtype=torch.bool)
    loss = ready(random).training_step((f, none.long(), none.long(), none, g), 0)
    assert float(loss) == pytest.approx(100 * 2 / 512, rel=0.01)


def test_the_weight_of_the_distance_does_not_depend_on_the_size_of_the_template() -> None:
    values = []
    for size in (16, 512):
        method = MaskInv(nn.Identity(), Teacher(nn.Identity()), student_init="scratch", classify=False)
        f, g = torch.eye(size)[:2]
        batch = (f[None], torch.zeros(1).long(), torch.zeros(1).long(), torch.zeros(1).bool(), g[None])
        values.append(float(ready(method).training_step(batch, 0)))
        assert method.lambda_per_dimension == 100 / 512
    assert values == pytest.approx([2 * 100 / 512] * 2)  # orthogonal: squared distance 2


def test_the_teacher_is_asked_about_the_clean_image(tmp_path: Path) -> None:
    asked: list[Tensor] = []

    class Listening(Net):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(x.clone())
            return super().forward(x)

    data = Views(count=1)
    fit(maskinv(teacher=Listening(), student_init="scratch"), data, tmp_path)
    assert len(asked) == 1
    assert torch.equal(asked[0], data.clean[0])
    assert not torch.equal(data.clean[0], data.masked[0])


def test_the_teacher_learns_nothing_and_the_student_does(tmp_path: Path) -> None:
    method = maskinv()
    teacher, student = state(method.teacher.network), state(method.network)
    fit(method, Views(), tmp_path)
    assert all(torch.equal(value, teacher[name]) for name, value in method.teacher.network.state_dict().items())
    assert not method.teacher.network.training
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.network.parameters())
    assert not any(name.startswith("teacher") for name in method.state_dict())
    for name in ("conv.weight", "project.weight", "norm.running_mean"):
        assert not torch.equal(student[name], method.network.state_dict()[name]), name


def test_masked_and_unmasked_samples_both_go_through_both_terms() -> None:
    """Each sample of a batch moves the loss: the gradient at every student's image is not zero, with either term alone."""
    for options in ({"kd_weight": 0.0}, {"classify": False}):
        method = ready(maskinv(student_init="scratch", **options))
        method.network.eval()  # samples do not meet in BatchNorm
        x, *rest = Views().batch(0)
        x = x.clone().requires_grad_()
        method.training_step((x, *rest), 0).backward()
        assert x.grad is not None
        assert bool((x.grad.flatten(1).abs().amax(1) > 0).all())


def test_without_a_weight_the_teacher_is_not_asked() -> None:
    class Silent(Net):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("the teacher was asked")

    method = ready(maskinv(teacher=Silent(), kd_weight=0.0, student_init="scratch"))
    assert torch.isfinite(method.training_step(Views().batch(0), 0))
    with pytest.raises(AssertionError, match="was asked"):
        ready(maskinv(teacher=Silent(), student_init="scratch")).training_step(Views().batch(0), 0)


def test_guidance_is_raised_after_its_share_of_the_training(tmp_path: Path) -> None:
    seen: list[tuple[float, float]] = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            seen.append((pl_module.weight_at(pl_module.global_step), rate))

    high = maskinv(late_kd_weight=3000.0, late_from=0.5, late_lr_factor=10.0, lr_drops=())
    fit(high, Views(), tmp_path, Watch(), epochs=2)
    assert [weight for weight, _ in seen] == [100.0] * 4 + [3000.0] * 4
    np.testing.assert_allclose([rate for _, rate in seen], [0.05] * 4 + [0.5] * 4)
    assert high.lambda_per_dimension == 3000 / 512
    seen.clear()
    fit(maskinv(lr_drops=()), Views(), tmp_path, Watch())
    assert seen == [(100.0, 0.05)] * 4


def test_the_switch_reaches_the_loss() -> None:
    losses = []
    for weight in (100.0, 3000.0):
        method = ready(maskinv(kd_weight=weight, student_init="scratch", classify=False))
        losses.append(method.training_step(Views().batch(0), 0).item())
    assert losses[1] == pytest.approx(30 * losses[0], rel=1e-5)


def test_guidance_pulls_masked_templates_to_the_teachers(tmp_path: Path) -> None:
    """The paper's idea in small: the higher lambda, the nearer S(mask(x)) comes to T(x)."""
    distances = []
    for weight in (0.0, 100.0, 3000.0):
        data = Views(count=6, batch=10)
        method = maskinv(kd_weight=weight, lr=0.02, lr_drops=())
        fit(method, data, tmp_path, epochs=4)
        method.eval()
        with torch.no_grad():
            f, g = method(data.masked.flatten(0, 1)), method.teacher(data.clean.flatten(0, 1))
        distances.append(float((nn.functional.normalize(f) - nn.functional.normalize(g)).square().sum(1).mean()))
    assert distances[0] > distances[1] > distances[2]


def test_the_student_starts_from_the_teacher_or_from_scratch() -> None:
    teacher = Net()
    taught, scratch = (maskinv(teacher=teacher, student_init=init) for init in ("teacher", "scratch"))
    assert torch.equal(taught.network.conv.weight, teacher.conv.weight)
    assert not torch.equal(scratch.network.conv.weight, teacher.conv.weight)
    assert taught.network.conv.weight.requires_grad


def test_another_architecture_or_a_damaged_teacher_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="same architecture"):
        maskinv(network=Net(4), teacher=Net(6))
    save_weights(Net(4), tmp_path / "other.safetensors")
    with pytest.raises(WeightsMismatchError, match=r"project\.weight"):
        Teacher(Net(6), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="size"):
        ready(maskinv(network=Net(4), student_init="scratch", classify=False)).training_step(Views().batch(0), 0)


def test_batches_that_do_not_tell_the_views_apart_are_refused() -> None:
    x, labels, *_ = Views().batch(0)
    with pytest.raises(ValueError, match=r"datasets\.masked_faces\.MaskedFaces"):
        ready(maskinv()).training_step((x, labels), 0)


def test_a_batch_with_one_identity_is_no_problem() -> None:
    data = Views(labels=torch.full((6,), 2))
    loss = ready(maskinv(student_init="scratch"), data).training_step(data.batch(0), 0)
    assert torch.isfinite(loss)
    loss.backward()


def test_faces_without_identities_need_no_head(tmp_path: Path) -> None:
    method = maskinv(classify=False)
    fit(method, Views(labels=torch.full((6,), -1)), tmp_path)
    assert method.head is None


def test_margins_are_drawn_in_training_alone() -> None:
    method = ready(maskinv())
    embedding, labels = torch.randn(6, D), torch.arange(6) % C
    first, second = (method.head(embedding, labels) for _ in range(2))
    assert not torch.equal(first, second)
    method.eval()
    first, second = (method.head(embedding, labels) for _ in range(2))
    assert torch.equal(first, second)


def test_statistics_can_be_kept(tmp_path: Path) -> None:
    kept = maskinv(batch_statistics=False)
    before = state(kept.network)
    fit(kept, Views(), tmp_path)
    assert torch.equal(kept.network.norm.running_mean, before["norm.running_mean"])
    assert not torch.equal(kept.network.norm.weight, before["norm.weight"])
    assert kept.network.training


def test_the_response_term_is_a_divergence_through_the_students_class_weights() -> None:
    method = ready(maskinv(response_weight=1.0, temperature=2.0))
    f, g = torch.randn(6, D, requires_grad=True), torch.randn(6, D)
    assert float(method._response_loss(g, g)) == pytest.approx(0, abs=1e-6)
    loss = method._response_loss(f, g)
    loss.backward()
    assert method.head.weight.grad is None
    assert f.grad is not None
    classes = nn.functional.normalize(method.head.weight.detach())
    z, v = (16 * nn.functional.normalize(e.detach()) @ classes.T / 2 for e in (f, g))
    expected = 4 * (v.softmax(1) * (v.log_softmax(1) - z.log_softmax(1))).sum(1).mean()
    assert loss.item() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kd_weight": -1.0}, "kd_weight=-1.0"),
        ({"late_from": 1.2}, "late_from=1.2"),
        ({"student_init": "other"}, "student_init is 'other'"),
        ({"classify": False, "kd_weight": 0.0}, "nothing to learn from"),
        ({"classify": False, "response_weight": 1.0}, "no class weights"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        maskinv(**options)
