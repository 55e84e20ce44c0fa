"""Training a recogniser from labels: what the head, the schedule and the exemptions do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.recognition import FaceRecognizer, Pretrained
from common.weights import save_weights


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 8)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x.flatten(1)))


class Data(L.LightningDataModule):
    """Three separable classes."""

    num_classes, batch_size = 3, 6

    def train_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(6) % 3
        x = torch.randn(3, 3, 2, 2, generator=generator)[labels] + 0.1 * torch.randn(6, 3, 2, 2, generator=generator)
        return DataLoader([(x, labels)] * 10, batch_size=None)  # type: ignore[arg-type]


class Watch(L.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.margins: list[float] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))
        self.margins.append(float(pl_module.head.margin))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def fit(method: FaceRecognizer, folder: Path, epochs: int = 2) -> Watch:
    watch = Watch()
    torch.manual_seed(0)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, callbacks=[watch], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(method, datamodule=Data())
    return watch


def recognizer(**options: Any) -> FaceRecognizer:
    torch.manual_seed(1)
    return FaceRecognizer(Net(), **{"embedding_size": 8, "scale": 8.0, "reference_batch": 0, "lr": 0.05, **options})


def test_it_learns_and_the_head_has_the_data_s_classes(tmp_path: Path) -> None:
    method = recognizer(schedule="polynomial")
    watch = fit(method, tmp_path)
    assert method.head.weight.shape == (3, 8)
    assert watch.losses[-1] < 0.5 * watch.losses[0]


def test_the_margin_grows_to_its_value_over_the_warm_up(tmp_path: Path) -> None:
    watch = fit(recognizer(margin=0.4, margin_warm_up=0.5), tmp_path)
    assert watch.margins[0] == 0
    assert watch.margins[5] == pytest.approx(0.2)
    assert watch.margins[10:] == pytest.approx([0.4] * 10)


def test_the_rate_drops_at_the_paper_s_epochs_and_scales_with_the_batch(tmp_path: Path) -> None:
    """7/16 and 13/16 of the training are the starts of epochs 8 and 14 of 16."""
    watch = fit(recognizer(lr=0.1, reference_batch=512), tmp_path, epochs=16)
    base = 0.1 * 6 / 512
    expected = [base] * 70 + [base / 10] * 60 + [base / 100] * 30
    assert watch.rates == pytest.approx(expected)


def test_norms_and_biases_are_exempt_from_decay_on_request(tmp_path: Path) -> None:
    method = recognizer(decay_norms=False, weight_decay=0.1)
    fit(method, tmp_path, epochs=1)
    decayed, exempt = method.optimizers().param_groups  # type: ignore[union-attr]
    assert decayed["weight_decay"] == 0.1
    assert exempt["weight_decay"] == 0
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim <= 1 for p in exempt["params"])


def test_an_unknown_head_is_named() -> None:
    with pytest.raises(ValueError, match="has no head 'ArcFaces'"):
        FaceRecognizer(Net(), head="ArcFaces", num_classes=3)


def test_a_pretrained_network_is_what_its_file_says(tmp_path: Path) -> None:
    network = Net()
    save_weights(network, tmp_path / "w.safetensors")
    method = Pretrained(Net(), str(tmp_path / "w.safetensors"))
    assert torch.equal(method.network.linear.weight, network.linear.weight)
