"""Whole trainings as runs do them (`Work`, Lightning's Trainer), which one device and two have to end alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from torch import Tensor

from common.distributed import processes
from common.experiment.arm import Arm, Phase, plan_runs
from common.experiment.phases import Machine, Work
from common.experiment.run import _build
from common.experiment.spec import Place, Spec, spec
from datasets.memory import MemoryLoader

BENCHMARK = spec("common.evaluation.benchmark.VerificationBenchmark")  # part of an arm; nothing is measured here


class RandomFaces(L.LightningDataModule):
    """Noise of six kinds: 50 images of 32 x 32 pixels, four steps of 12 images an epoch."""

    num_classes = 6

    def __init__(self, batch_size: int = 12, seed: int = 0) -> None:
        super().__init__()
        self.batch_size, self.seed = batch_size, seed

    def train_dataloader(self) -> MemoryLoader:
        generator = torch.Generator().manual_seed(7)
        labels = torch.arange(50) % self.num_classes
        images = torch.randint(0, 160, (50, 3, 32, 32), generator=generator, dtype=torch.uint8)
        images += (labels * 15).to(torch.uint8)[:, None, None, None]
        return MemoryLoader(images, labels, self.batch_size, self.seed)


def mobilefacenet() -> Spec:
    return spec("common.backbones.MobileFaceNet", width=0.125, input_size=32, blocks=(1, 1, 1), embedding_size=16)


def recognizer(backbone: Spec, lr: float, head: str, **options: Any) -> Spec:
    return spec(
        "common.recognition.FaceRecognizer", backbone=backbone, head=head, scale=16.0, embedding_size=16, lr=lr,
        reference_batch=512, **options,
    )  # fmt: skip


def student(tracked_steps: int = 3) -> Spec:
    return spec(
        "papers.quantface.method.QuantFace", backbone=mobilefacenet(), weight_bits=6, activation_bits=6, lr=2.0,
        tracked_steps=tracked_steps,
    )  # fmt: skip


def arms() -> dict[str, Arm]:
    iresnet = spec(
        "common.backbones.IResNet", embedding_size=16, dropout=0.4, input_size=32, width=0.125, blocks=(1,) * 4
    )
    train = (Phase("train", epochs=2),)
    stages = (Phase("finetune", steps=6), Phase("calibrate", compute="calibrate"), Phase("again", steps=2))
    elastic = recognizer(iresnet, 2.0, "ElasticArcFace", head_options={"plus": True}, margin_warm_up=0.5)
    curricular = recognizer(mobilefacenet(), 2.0, "CurricularFace", schedule="one_cycle")
    # At a rate ten times as large, float32 does not repeat itself in one process either: the last digit of the initial
    # weights decides on which side of a kink an activation lies.
    slowly = recognizer(mobilefacenet(), 0.2, "CurricularFace", schedule="one_cycle")
    methods: dict[str, tuple[Spec, tuple[Phase, ...], str]] = {
        "drawn margins, dropout": (elastic, train, "64-true"),
        "curriculum": (curricular, train, "64-true"),
        "quantized student, calibrated between two fits": (student(), stages, "64-true"),
        "curriculum, float32": (slowly, train, "32-true"),
    }
    return {
        name: Arm(name, name, method, spec("distributed_fits.RandomFaces"), BENCHMARK, phases, (), precision)
        for name, (method, phases, precision) in methods.items()
    }


def train(arm: Arm, folder: Path, devices: int) -> dict[str, Tensor]:
    """All phases of the arm; the final state and the last loss."""
    (run,) = plan_runs([arm], (0,))
    data, method = _build(run, Place())
    folder.mkdir(parents=True, exist_ok=True)
    work = Work(run, method, data, folder, Machine(devices=devices), lambda event: None)
    for index in range(len(arm.phases)):
        work.do(index)
        assert processes() == 1, "what follows a fit, here the calibration, is done by each process alone"
    kinds = {type(module).__name__ for module in method.modules()}
    assert not any(kind.startswith("Synchronized") for kind in kinds), "the layers are ordinary again"
    logged = {"loss": method.trainer.callback_metrics["train/loss"].detach()}
    return logged | {name: value.clone() for name, value in method.state_dict().items()}


def train_all(folder: Path, devices: int) -> dict[str, dict[str, Tensor]]:
    return {name: train(arm, folder / f"arm-{k}", devices) for k, (name, arm) in enumerate(arms().items())}
