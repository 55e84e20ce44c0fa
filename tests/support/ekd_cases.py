"""EKD on random faces: its training step by hand, in one process or in two, and a run that is stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from distributed_cases import step
from torch import Tensor, nn

from common import distributed
from common.distillation.teacher import Teacher
from common.experiment.arm import Arm, Phase, plan_runs
from common.experiment.phases import Machine, Work
from common.experiment.run import _build
from common.experiment.spec import Place, spec
from datasets.balanced_batches import BalancedBatches
from datasets.memory import MemoryLoader
from papers.ekd.baselines import EmbeddingLoss, LogitKD
from papers.ekd.method import EKD, EvaluationOrientedLoss

IDENTITIES, EACH, GENERAL = 12, 6, 16


class RandomFaces(pl.LightningDataModule):
    """72 images of 4 x 4 pixels of 12 identities; batches of 16."""

    num_classes = IDENTITIES

    def __init__(self, batch_size: int = GENERAL, seed: int = 3) -> None:
        super().__init__()
        self.batch_size, self.seed = batch_size, seed
        generator = torch.Generator().manual_seed(7)
        self.pixels = torch.randint(0, 255, (IDENTITIES * EACH, 3, 4, 4), generator=generator, dtype=torch.uint8)
        self.labels = torch.arange(IDENTITIES).repeat(EACH)

    def train_dataloader(self) -> MemoryLoader:
        return MemoryLoader(self.pixels, self.labels, self.batch_size, self.seed)


class Flat(nn.Module):
    """A linear network; counts how many images it has seen."""

    def __init__(self, dimensions: int, seed: int) -> None:
        super().__init__()
        self.linear = nn.Linear(48, dimensions)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return self.linear(x.flatten(1).to(self.linear.weight.dtype))


def distillation(name: str) -> nn.Module:
    if name == "ekd":
        return EvaluationOrientedLoss(anchor_init="first_batch", hardest=60)
    return LogitKD() if name == "kd" else EmbeddingLoss(name)


def method_and_data(
    name: str = "ekd", student: int = 8, teacher: int = 8, **options: Any
) -> tuple[EKD, BalancedBatches]:
    torch.manual_seed(0)
    data = BalancedBatches(RandomFaces(), identities=4, images=4)
    method = EKD(
        Flat(student, 1), Teacher(Flat(teacher, 2)), distillation(name), embedding_size=student, scale=8.0, **options
    )
    method.prepare(data)
    method.log = lambda *a, **k: None  # type: ignore[method-assign, assignment]
    return method, data


def train(name: str) -> dict[str, Tensor]:
    """Three steps of SGD in float64: mean loss, weights and thresholds after each."""
    method, data = method_and_data(name)
    method.double()
    method.teacher.network.double()
    found: dict[str, Tensor] = {}
    for k, batch in enumerate(data.train_dataloader()):
        loss = method.training_step(batch, k)
        step(method, loss, lr=0.02)
        found[f"loss {k}"] = distributed.average(loss.detach())
        found |= {f"{key} {k}": value.clone().double() for key, value in method.state_dict().items()}
        if k == 2:
            break
    return found


def train_in_group(names: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    torch.distributed.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]), world_size=2)
    found = {name: train(name) for name in names}
    torch.distributed.destroy_process_group()
    return found


class Stopped(Exception):
    """The run was stopped on purpose."""


def arm() -> Arm:
    """A run as `make` would do it: random negatives, three epochs of four steps."""
    return Arm(
        name="ekd",
        title="EKD",
        method=spec(
            "papers.ekd.method.EKD",
            backbone=spec("ekd_cases.Flat", dimensions=8, seed=1),
            teacher=spec("common.distillation.teacher.Teacher", network=spec("ekd_cases.Flat", dimensions=8, seed=2)),
            distillation=spec(
                "papers.ekd.method.EvaluationOrientedLoss", negatives="random", hardest=60, anchor_init="first_batch"
            ),
            embedding_size=8,
            scale=8.0,
        ),
        data=spec(
            "datasets.balanced_batches.BalancedBatches", data=spec("ekd_cases.RandomFaces"), identities=4, images=4
        ),
        benchmark=spec("common.evaluation.benchmark.VerificationBenchmark"),
        phases=(Phase("train", epochs=3),),
    )


def run(folder: Path, stop_at: int | None = None) -> dict[str, Tensor] | None:
    """Train `arm()` from what is in the folder; None when stopped before step `stop_at`."""
    (planned,) = plan_runs([arm()], (0,))
    data, method = _build(planned, Place())
    folder.mkdir(parents=True, exist_ok=True)
    ordinary = method.training_step

    def stopping(batch: Any, batch_idx: int) -> Tensor:
        if method.global_step == stop_at:
            raise Stopped
        return ordinary(batch, batch_idx)

    method.training_step = stopping
    work = Work(planned, method, data, folder, Machine(checkpoint_every=0), lambda event: None)
    try:
        work.do(0)
    except Stopped:
        return None
    return {name: value.clone() for name, value in method.state_dict().items()}
