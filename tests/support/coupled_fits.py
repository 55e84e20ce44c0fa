"""CoupleFace on a few points and faces, as one process and as two that train together (which import this module by name)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from distributed_fits import BENCHMARK, mobilefacenet, recognizer, train
from torch import Tensor, nn

from common.distillation.teacher import Teacher
from common.distributed import own_rows, process_group_ends
from common.experiment.arm import Arm, Phase
from common.experiment.spec import Spec, spec
from papers.coupleface.method import CoupleFace

IDENTITIES, SIZE = 8, 4


class Net(nn.Module):
    def __init__(self, size: int = SIZE) -> None:
        super().__init__()
        self.linear = nn.Linear(12, size)
        self.norm = nn.BatchNorm1d(size)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x.flatten(1)))


def recipe(**options: Any) -> dict[str, Any]:
    return {"embedding_size": SIZE, "scale": 8.0, "reference_batch": 0, "lr": 0.05, "margin_warm_up": 0.5, **options}


def couple(seed: int = 1, teacher_size: int = SIZE, **options: Any) -> CoupleFace:
    torch.manual_seed(7)
    teacher = Teacher(Net(teacher_size))
    torch.manual_seed(seed)
    return CoupleFace(Net(), teacher, **{"num_hard_ids": 3, "records": 4, **recipe(), **options})


def remembered() -> dict[str, Tensor]:
    method = couple(bank="student", num_classes=IDENTITIES)
    generator = torch.Generator().manual_seed(5)
    for labels in (torch.tensor([3, 1, 3, 3]), torch.tensor([1, 1, 0, 7])):
        f_s, f_t = torch.randn(2, 4, SIZE, generator=generator)
        method.remember(own_rows(f_s), own_rows(f_t), own_rows(labels))
    return {"teacher": method.teacher_bank, "student": method.student_bank}


def arm() -> Arm:
    """Two epochs of four steps on six identities, class weights spread over the devices, a bank of either network."""
    network = spec("sharded_fits.InFloat64", network=mobilefacenet())
    teacher = spec("common.distillation.teacher.Teacher", network=network)
    method = recognizer(
        mobilefacenet(), 0.2, "ShardedPartialFC", head_options={"head": "ArcFace"}, teacher=teacher, num_hard_ids=3,
        bank="student", relation_weight=3.0, records=4,
    )  # fmt: skip
    method = Spec("papers.coupleface.method.CoupleFace", method.options)
    phases = (Phase("mine", compute="mine"), Phase("train", epochs=2))
    return Arm("both", "both", method, spec("distributed_fits.RandomFaces"), BENCHMARK, phases, (), "64-true")


def together(folder: Path) -> dict[str, dict[str, Tensor]]:
    with process_group_ends():
        torch.distributed.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]), world_size=2)
        found = remembered()
    return {"remembered": found, "run": train(arm(), folder, 2)}
