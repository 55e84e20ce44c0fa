"""QuantFace's method: the official trace reproduced through Lightning, and what would break if its ideas were left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.heads import ArcFace
from common.quantization import RangesNotObservedError, require_observed_ranges, unfreeze_ranges
from common.weights import save_weights
from papers.quantface.method import QuantFace, distillation_loss
from papers.quantface.table import ARCFACE


class TinyNet(nn.Module):
    """The network of the official trace: conv - BN - PReLU - linear - BN, 16 x 16 pixels, 6 dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.prelu = nn.PReLU(4)
        self.fc = nn.Linear(256, 6, bias=False)
        self.bn2 = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.fc(self.prelu(self.bn1(self.conv1(x))).flatten(1)))


class Batches(L.LightningDataModule):
    """Given batches, in order, without labels worth the name."""

    def __init__(self, batches: Tensor) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader:
        return DataLoader([(x, torch.full((len(x),), -1)) for x in self.batches], batch_size=None)  # type: ignore[arg-type]


class Recorder(L.Callback):
    """Losses and the student's gradient norms before clipping."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))

    def on_after_backward(self, trainer: Any, pl_module: QuantFace) -> None:
        squares = [p.grad.square().sum() for p in pl_module.student.parameters() if p.grad is not None]
        self.norms.append(float(torch.stack(squares).sum().sqrt()))


def fit(method: QuantFace, batches: Tensor, *callbacks: L.Callback, folder: Path) -> None:
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(method, datamodule=Batches(batches))


def trace_method(golden: Path, **options: Any) -> tuple[QuantFace, dict[str, np.ndarray]]:
    trace = dict(np.load(golden / "quantface" / "qat_trace.npz"))
    network = TinyNet()
    state = {name: torch.from_numpy(trace[f"init_{name.replace('.', '_')}"]) for name in network.state_dict()}
    network.load_state_dict(state)
    settings: dict[str, Any] = {
        "weight_bits": 6,
        "activation_bits": 6,
        "tracked_steps": 3,
        "lr": 0.05,
        "reference_batch": 0,
    }
    return QuantFace(network, **{**settings, **options}), trace


def test_six_official_steps_are_reproduced(golden: Path, tmp_path: Path) -> None:
    method, trace = trace_method(golden)
    recorder = Recorder()
    fit(method, torch.from_numpy(trace["x"]), recorder, folder=tmp_path)
    np.testing.assert_allclose(recorder.losses, trace["loss"], rtol=1e-4)
    np.testing.assert_allclose(recorder.norms, trace["gradnorm"], rtol=1e-4)
    student = method.student.state_dict()
    for name in TinyNet().state_dict():
        expected = trace[f"final_{name.replace('.', '_')}"]
        np.testing.assert_allclose(student[name].numpy(), expected, rtol=1e-4, atol=1e-6, err_msg=name)
    ranges = sorted(float(v) for k, v in student.items() if "observer" in k and v.ndim == 0 and v.is_floating_point())
    expected_ranges = sorted(float(trace[f"final_prelu_quantAct_x_{end}"].item()) for end in ("min", "max"))
    np.testing.assert_allclose([ranges[0], ranges[-1]], expected_ranges, rtol=1e-4)


def test_loss_and_gradient_equal_the_official_ones(golden: Path) -> None:
    data = np.load(golden / "quantface" / "kd_loss.npz")
    student = torch.from_numpy(data["student"]).requires_grad_()
    teacher = torch.from_numpy(data["teacher"])
    loss = distillation_loss(nn.functional.normalize(student), nn.functional.normalize(teacher))
    loss.backward()
    np.testing.assert_allclose(loss.item(), data["loss"], rtol=1e-6)
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), data["grad_student"], rtol=1e-5, atol=1e-8)


def test_the_loss_is_a_mean_over_dimensions() -> None:
    f = nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)))
    g = nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(1)))
    cosine = (f * g).sum(1).mean()
    assert distillation_loss(f, g).item() == pytest.approx((2 / 8 * (1 - cosine)).item(), rel=1e-5)


def test_the_teacher_gets_no_gradient_and_the_student_gets_it(golden: Path, tmp_path: Path) -> None:
    method, trace = trace_method(golden)
    teacher = {name: value.clone() for name, value in method.teacher.state_dict().items()}
    student = {name: value.clone() for name, value in method.student.state_dict().items()}
    fit(method, torch.from_numpy(trace["x"]), folder=tmp_path)
    assert all(torch.equal(teacher[name], value) for name, value in method.teacher.state_dict().items())
    assert all(p.grad is None for p in method.teacher.parameters())
    for name in ("conv1.weight", "fc.weight", "prelu.weight", "bn1.weight", "bn1.running_mean"):
        assert not torch.equal(student[name], method.student.state_dict()[name]), name


def test_labels_do_not_matter(golden: Path) -> None:
    method, trace = trace_method(golden)
    x = torch.from_numpy(trace["x"][0])
    unfreeze_ranges(method.student)
    losses = []
    for labels in (torch.zeros(5, dtype=torch.long), torch.arange(5)):
        method.log = lambda *a, **k: None  # type: ignore[method-assign]
        losses.append(method.training_step((x, labels), 0).item())
    assert losses[0] == losses[1]


def test_ranges_are_fixed_after_the_tracked_steps(golden: Path, tmp_path: Path) -> None:
    """Batches after the window are ten times as large: ranges must not follow them."""
    ends = []
    for factor in (1.0, 10.0):
        method, trace = trace_method(golden, tracked_steps=2, lr=0.0, weight_decay=0.0)
        x = torch.from_numpy(trace["x"]).clone()
        x[2:] *= factor
        fit(method, x, folder=tmp_path)
        ends.append([v.clone() for k, v in method.student.state_dict().items() if "observer" in k])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_calibration_trains_nothing_but_observes_the_ranges(golden: Path) -> None:
    method, trace = trace_method(golden, tracked_steps=8)
    before = {name: p.clone() for name, p in method.student.named_parameters()}
    with pytest.raises(RangesNotObservedError):
        require_observed_ranges(method.network)
    method.calibrate(Batches(torch.from_numpy(trace["x"])))
    require_observed_ranges(method.network)
    assert all(torch.equal(before[name], p) for name, p in method.student.named_parameters())
    assert torch.equal(method.student.bn1.running_mean, method.teacher.bn1.running_mean)


def test_bits_matter(golden: Path) -> None:
    """Without quantisation the student would equal its teacher whatever the bits."""
    distances = []
    for bits in (8, 6, 4, 2):
        method, trace = trace_method(golden, weight_bits=bits, activation_bits=bits)
        method.calibrate(Batches(torch.from_numpy(trace["x"])))
        x = torch.from_numpy(trace["x"][0])
        method.eval()
        with torch.no_grad():
            distances.append(float((method(x) - method.teacher(x)).norm()))
    assert distances == sorted(distances)
    assert distances[0] > 0


def test_teacher_statistics_can_be_kept(golden: Path, tmp_path: Path) -> None:
    method, trace = trace_method(golden, batch_statistics=False)
    fit(method, torch.from_numpy(trace["x"]), folder=tmp_path)
    assert torch.equal(method.student.bn1.running_mean, method.teacher.bn1.running_mean)


def test_the_rate_scales_with_the_batch(golden: Path, tmp_path: Path) -> None:
    method, trace = trace_method(golden, lr=0.1, reference_batch=512, lr_drops=(0.5,))
    rates: list[float] = []

    class Rates(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    data = Batches(torch.from_numpy(trace["x"]))
    data.batch_size = 64  # type: ignore[attr-defined]
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, callbacks=[Rates()], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    np.testing.assert_allclose(rates, [0.0125] * 3 + [0.00125] * 3)


def test_weights_are_loaded_or_refused_by_name(tmp_path: Path) -> None:
    network = TinyNet()
    save_weights(network, tmp_path / "w.safetensors")
    method = QuantFace(TinyNet(), weights=str(tmp_path / "w.safetensors"))
    assert torch.equal(method.teacher.conv1.weight, network.conv1.weight)
    with pytest.raises(Exception, match="no weights file"):
        QuantFace(TinyNet(), weights=str(tmp_path / "nothing.safetensors"))
    other = nn.Sequential(nn.Linear(3, 3))
    save_weights(other, tmp_path / "other.safetensors")
    with pytest.raises(Exception, match=r"conv1\.weight"):
        QuantFace(TinyNet(), weights=str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_the_full_precision_head_equals_the_official_one(golden: Path, margin: float) -> None:
    """Also in row 0, where theta + m > pi and the official head just goes on along the cosine."""
    data = np.load(golden / "quantface" / "arcface_head.npz")
    head = ArcFace(12, 20, scale=64.0, margin=margin, **ARCFACE)  # type: ignore[arg-type]
    head.weight.data = torch.from_numpy(data["kernel"]).T.contiguous()
    embedding = torch.from_numpy(data["emb"]).requires_grad_()
    labels = torch.from_numpy(data["label"])
    logits = head(embedding, labels)
    loss = nn.functional.cross_entropy(logits, labels)
    loss.backward()
    assert embedding.grad is not None
    assert head.weight.grad is not None
    np.testing.assert_allclose(logits.detach().numpy(), data[f"logits_m{margin}"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(loss.item(), data[f"ce_m{margin}"], rtol=1e-5)
    np.testing.assert_allclose(embedding.grad.numpy(), data[f"gemb_m{margin}"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(head.weight.grad.T.numpy(), data[f"gkernel_m{margin}"], rtol=1e-3, atol=1e-5)
