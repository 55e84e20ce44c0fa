"""Chains of face networks: one hop with embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as L
import torch
import torch.nn.functional as F

from common.backbones import MobileFaceNet
from common.distillation.setting import face_setting
from common.distillation.teacher import Teacher
from common.experiment.arm import plan_runs
from datasets.generated import GeneratedFaces
from datasets.indexed import Indexed
from papers.takd.faces import FaceHop
from papers.takd.table import face_arms


@pytest.fixture(scope="module")
def data() -> Any:
    faces = GeneratedFaces(
        size=32, identities=20, images_per_identity=4, batch_size=16, test_identities_per_group=20,
        validation_identities_per_group=20,
    )  # fmt: skip
    made = Indexed(faces)
    made.prepare_data()
    made.setup("fit")
    return made


def network(width: float, seed: int = 0, size: int = 16) -> MobileFaceNet:
    torch.manual_seed(seed)
    return MobileFaceNet(width=width, input_size=32, blocks=(1, 1, 1), embedding_size=size, activation="relu")


def face_hop(**options: Any) -> FaceHop:
    defaults: dict[str, Any] = {"embedding_size": 16, "lr": 0.1, "reference_batch": 0}
    return FaceHop(network(0.125), Teacher(network(0.25, seed=1)), **{**defaults, **options})


def loss_of(method: FaceHop, data: Any, batch: Any) -> float:
    method.prepare(data)
    torch.manual_seed(2)
    torch.nn.init.normal_(method.head.weight)
    method.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    return float(method.training_step(batch, 0).detach())


def test_a_hop_adds_the_cosine_distance_to_the_margin_loss(data: Any) -> None:
    batch = next(iter(data.train_dataloader()))
    labels_only, teacher_only = (loss_of(face_hop(lam=lam), data, batch) for lam in (0.0, 1.0))
    both = loss_of(face_hop(lam=0.3), data, batch)
    assert both == pytest.approx(0.7 * labels_only + 0.3 * teacher_only, rel=1e-4)
    f_s, f_t = network(0.125)(batch[0]), Teacher(network(0.25, seed=1))(batch[0])
    distance = float((1 - F.cosine_similarity(f_s, f_t)).mean().detach())
    assert teacher_only == pytest.approx(20 * distance, rel=1e-4)


def test_the_teacher_stays_as_it_is_and_one_identity_is_enough(data: Any, tmp_path: Path) -> None:
    method = face_hop()
    before = {name: value.clone() for name, value in method.teacher.network.state_dict().items()}
    start = {name: value.clone() for name, value in method.network.state_dict().items()}
    trainer = L.Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    after = method.teacher.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any(not torch.equal(method.network.state_dict()[name], value) for name, value in start.items())
    x, y, index, flip = next(iter(data.train_dataloader()))
    same = (x, torch.full_like(y, int(y[0])), index, flip)
    assert torch.isfinite(torch.tensor(loss_of(face_hop(), data, same)))


def test_embeddings_of_another_size_are_refused(data: Any) -> None:
    method = FaceHop(network(0.125), Teacher(network(0.25, size=8)), embedding_size=16)
    with pytest.raises(ValueError, match="8 dimensions, the student's 16"):
        loss_of(method, data, next(iter(data.train_dataloader())))
    with pytest.raises(ValueError, match="lam is 2"):
        face_hop(lam=2.0)


def test_the_chain_goes_over_the_assistant_and_shares_teacher_and_student_with_other_papers() -> None:
    setting = face_setting("smoke")
    arms = {arm.name: arm for arm in face_arms(setting)}
    assert [parent.name for parent in arms["takd"].parents] == ["assistant"]
    assert [parent.name for parent in arms["assistant"].parents] == ["teacher"]
    assert [parent.name for parent in arms["direct"].parents] == ["teacher"]
    width = dict(dict(arms["assistant"].method.options)["backbone"].options)["width"]
    assert width == pytest.approx((0.25 * 0.125) ** 0.5)
    shared = plan_runs([setting.teacher(), setting.student()], (0,))
    assert {run.digest for run in shared} <= {run.digest for run in plan_runs(arms.values(), (0,))}
