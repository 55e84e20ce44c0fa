"""PocketNet's method: the loss, the teacher of every epoch, what is recorded, and what is refused before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from torch import Tensor, nn

from common.distillation.teacher import Teacher
from common.experiment.arm import plan_runs
from common.experiment.checkpoint import Checkpoints, SealedCheckpoints
from common.experiment.records import RunRecord
from common.experiment.spec import Place, build
from common.files import DamagedFileError
from common.heads import ArcFace
from common.weights import WeightsMismatchError, save_weights
from datasets.combined import TrainTest
from datasets.indexed import Indexed
from datasets.memory import MemoryLoader
from papers.pocketnet.benchmark import record_of
from papers.pocketnet.family import School
from papers.pocketnet.figures import curves_of, draw
from papers.pocketnet.method import MultiStepKD
from papers.pocketnet.scale_paper import DROPS
from papers.pocketnet.table import plan
from papers.registry import get_paper

RECIPE: dict[str, Any] = {"embedding_size": 4, "num_classes": 6, "lr": 0.05, "reference_batch": 0, "scale": 8.0}


class Net(nn.Module):
    """Linear on 3 x 8 x 8 pixels; it remembers what it was shown."""

    def __init__(self, embedding_size: int = 4) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.linear = nn.Linear(192, embedding_size, bias=False)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return self.linear(x.flatten(1))


class Faces(L.LightningDataModule):
    """Twenty-four random images of six persons, in three batches."""

    num_classes, batch_size = 6, 8

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.train_images = torch.randint(0, 256, (24, 3, 8, 8), dtype=torch.uint8, generator=generator)
        self.train_labels = torch.arange(6).repeat_interleave(4)

    def train_dataloader(self) -> MemoryLoader:
        return MemoryLoader(self.train_images, self.train_labels, self.batch_size, 0)


def quiet(folder: Path, epochs: int, **options: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, **options,
    )  # fmt: skip


def fit(method: MultiStepKD, folder: Path, epochs: int = 3, data: Any = None, **options: Any) -> None:
    quiet(folder, epochs, **options).fit(method, datamodule=data or Faces())


def teachers(folder: Path, count: int = 3) -> tuple[Teacher, list[str]]:
    """A finished teacher, and the files of its epochs; the last epoch's network is the finished one."""
    torch.manual_seed(7)
    paths = []
    for epoch in range(1, count + 1):
        network = Net()
        paths.append(str(folder / f"epoch{epoch}.safetensors"))
        save_weights(network, paths[-1])
    return Teacher(network), paths


def student(**options: Any) -> MultiStepKD:
    torch.manual_seed(1)
    return MultiStepKD(Net(), **{**RECIPE, **options})


# --- the loss --------------------------------------------------------------------------------------------------------


def test_the_loss_and_its_gradients_equal_the_official_ones(golden: Path) -> None:
    data = np.load(golden / "pocketnet" / "kd_loss_w100.npz")
    f = torch.from_numpy(data["student_raw"]).requires_grad_()
    g, labels = torch.from_numpy(data["teacher_raw"]), torch.from_numpy(data["labels"])
    method = MultiStepKD(nn.Identity(), Teacher(Net()), embedding_size=16, num_classes=20).double()
    assert isinstance(method.head, ArcFace)
    with torch.no_grad():
        method.head.weight.copy_(torch.from_numpy(data["kernel_DxC"]).T)
    np.testing.assert_allclose(method.head(f, labels).detach().numpy(), data["logits"], rtol=1e-9, atol=1e-9)
    arcface = method.classification_loss(f, labels)
    distance = method.kd_weight * method.distillation_loss(f, g)
    loss = method.classification_weight * arcface + distance
    loss.backward()
    np.testing.assert_allclose(arcface.item(), data["ce"], rtol=1e-9)
    np.testing.assert_allclose(distance.item(), data["weighted_mse"], rtol=1e-9)
    np.testing.assert_allclose(loss.item(), data["total"], rtol=1e-9)
    assert f.grad is not None
    np.testing.assert_allclose(f.grad.numpy(), data["grad_student_raw"], rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(method.head.weight.grad.numpy().T, data["grad_kernel"], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(("cosine", "expected"), [(0.0, 1.5625), (1.0, 0.0), (-1.0, 3.125)])
def test_known_angles_give_known_losses(cosine: float, expected: float) -> None:
    """Unrelated unit vectors give 2 w / d, equal ones 0, opposite ones 4 w / d; lengths do not count."""
    f, g = torch.zeros(5, 128), torch.zeros(5, 128)
    f[:, 0], g[:, 0], g[:, 1] = 3.0, 7.0 * cosine, 7.0 * (1 - abs(cosine))
    method = student(teacher=Teacher(Net()))
    assert float(method.kd_weight * method.distillation_loss(f, g)) == pytest.approx(expected)


def test_cosine_distance_is_the_squared_one_times_half_of_d() -> None:
    f, g = torch.randn(5, 4), torch.randn(5, 4)
    mse, cosine = (student(teacher=Teacher(Net()), distance=distance) for distance in ("mse", "cosine"))
    torch.testing.assert_close(cosine.distillation_loss(f, g), mse.distillation_loss(f, g) * 4 / 2)


# --- the schedule and the step ---------------------------------------------------------------------------------------


def test_the_rate_falls_before_the_official_epochs(golden: Path) -> None:
    expected = np.load(golden / "pocketnet" / "lr_schedule.npz")
    steps = 11_372

    class Trainer:
        estimated_stepping_batches = 26 * steps

    method = student(lr_drops=DROPS)
    method._trainer = Trainer()  # type: ignore[assignment]
    factor = method._multiplier()
    for epoch, wanted in zip(expected["epoch"], expected["factor"], strict=True):
        assert factor(int(epoch) * steps) == pytest.approx(wanted), epoch
        assert factor((int(epoch) + 1) * steps - 1) == pytest.approx(wanted), epoch


def test_only_the_backbone_is_clipped(tmp_path: Path) -> None:
    norms: list[tuple[float, float]] = []

    class Look(L.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            norms.append(tuple(float(p.grad.norm()) for p in (pl_module.network.linear.weight, pl_module.head.weight)))

    method = student(teacher=Teacher(Net()), kd_weight=1e4, max_gradient_norm=0.01, scale=64.0)
    fit(method, tmp_path, 1, callbacks=[Look()])  # Lightning clips after this hook
    backbone, head = norms[0]
    assert backbone > 1
    method.configure_gradient_clipping(None)
    assert method.network.linear.weight.grad.norm() == pytest.approx(0.01, rel=1e-3)
    assert method.head.weight.grad.norm() > 0.05
    assert head > 0.05


# --- which teacher, and what it sees ---------------------------------------------------------------------------------


def test_every_epoch_has_the_teacher_of_its_age(tmp_path: Path) -> None:
    final, paths = teachers(tmp_path)
    method = student(teacher=final, successive=paths)
    weights = [build_net(path).linear.weight for path in paths]
    met: list[int] = []

    class Look(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            assert method.present is not None
            met.append(next(i for i, w in enumerate(weights) if torch.equal(w, method.present.network.linear.weight)))

    fit(method, tmp_path, callbacks=[Look()])
    assert met == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert torch.equal(final.network.linear.weight, weights[-1])  # the finished one stays as it was


def build_net(path: str) -> Net:
    network = Net()
    Teacher(network, path)
    return network


def test_a_run_that_goes_on_in_the_middle_of_an_epoch_asks_the_right_teacher(tmp_path: Path) -> None:
    final, paths = teachers(tmp_path)
    method = student(teacher=final, successive=paths)
    method._trainer = type("T", (), {"current_epoch": 1})()  # type: ignore[assignment]
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(method.present_answer((x, x)), build_net(paths[1])(x))


@pytest.mark.parametrize("multi", [True, False], ids=["multi", "final"])
def test_the_student_learns_from_the_teacher_and_sees_what_it_sees(tmp_path: Path, multi: bool) -> None:
    final, paths = teachers(tmp_path)
    method = student(teacher=final, successive=paths if multi else ())
    assert method.present is not None
    asked = method.present.network
    fit(method, tmp_path)
    assert len(method.network.seen) == len(asked.seen) == 9
    for ours, theirs in zip(method.network.seen, asked.seen, strict=True):
        assert torch.equal(ours, theirs)
    plain = student()
    fit(plain, tmp_path)
    assert not torch.allclose(plain.network.linear.weight, method.network.linear.weight, atol=1e-3)


def test_looked_up_answers_are_those_of_a_teacher_that_looks(tmp_path: Path) -> None:
    final, _ = teachers(tmp_path)
    looking, knowing = student(teacher=final), student(teacher=final)
    fit(looking, tmp_path)
    fit(knowing, tmp_path, data=Indexed(Faces()))
    torch.testing.assert_close(knowing.network.linear.weight, looking.network.linear.weight)
    torch.testing.assert_close(knowing.history, looking.history, equal_nan=True)


def test_a_teacher_is_neither_trained_nor_stored(tmp_path: Path) -> None:
    final, paths = teachers(tmp_path)
    method = student(teacher=final, successive=paths)
    before = final.network.linear.weight.clone()
    fit(method, tmp_path)
    assert torch.equal(final.network.linear.weight, before)
    assert set(method.state_dict()) == {"history", "sums", "network.linear.weight", "head.weight"}
    assert {p.shape for p in method.parameters()} == {(4, 192), (6, 4)}


def test_watching_changes_nothing(tmp_path: Path) -> None:
    final, _ = teachers(tmp_path)
    alone, watched = student(), student(teacher=final, kd_weight=0.0)
    fit(alone, tmp_path)
    fit(watched, tmp_path)
    assert torch.equal(alone.network.linear.weight, watched.network.linear.weight)
    assert torch.isnan(alone.history[1:]).all()
    assert not torch.isnan(watched.history[:, :3]).any()


def test_without_labels_there_is_no_head_and_labels_do_not_matter(tmp_path: Path) -> None:
    final, _ = teachers(tmp_path)
    options = {"teacher": final, "classification_weight": 0.0, "num_classes": None}
    first, second = student(**options), student(**options)
    other = Faces()
    other.train_labels = other.train_labels.flip(0)
    fit(first, tmp_path)
    fit(second, tmp_path, data=other)
    assert first.head is None
    assert torch.equal(first.network.linear.weight, second.network.linear.weight)
    assert torch.isnan(first.history[0]).all()


# --- the record ------------------------------------------------------------------------------------------------------


def test_the_record_holds_the_mean_of_every_epoch(tmp_path: Path) -> None:
    final, paths = teachers(tmp_path)
    method = student(teacher=final, successive=paths, epochs=4, lr=1e-12)
    fit(method, tmp_path)
    assert torch.isnan(method.history[:, 3]).all()
    assert not method.sums.any()
    batches = torch.stack(method.network.seen).reshape(3, 24, 3, 8, 8)
    unit = nn.functional.normalize
    with torch.no_grad():
        for epoch, x in enumerate(batches):
            for row, at in ((1, epoch), (2, 2)):
                expected = (unit(method.network(x)) - unit(build_net(paths[at])(x))).square().mean()
                assert float(method.history[row, epoch]) == pytest.approx(float(expected), rel=1e-4)
    record = record_of(method)
    assert record["final_last"] == record["present_last"] == pytest.approx(100 * float(method.history[2, 2]))
    assert record["weight_per_dimension"] == 25.0
    present = [record[f"present_epoch{epoch}"] for epoch in (1, 2, 3)]
    assert record["present_rise"] == pytest.approx(present[-1] / min(present) - 1)
    assert "arcface_epoch4" not in record
    assert "weight_per_dimension" not in record_of(student())


class Killed(RuntimeError):
    """The end of a process in the middle of an epoch."""


def test_record_and_teacher_survive_a_kill(tmp_path: Path) -> None:
    """Killed in the second epoch and continued from the checkpoint before that step: the same weights and the same record."""
    final, paths = teachers(tmp_path)
    whole, first, second = (student(teacher=final, successive=paths) for _ in range(3))
    fit(whole, tmp_path)

    class Kill(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == 5:
                raise Killed

    path = tmp_path / "last.ckpt"
    with pytest.raises(Killed):
        fit(first, tmp_path, callbacks=[Checkpoints(path, 0), Kill()], plugins=[SealedCheckpoints()])
    trainer = quiet(tmp_path, 3, callbacks=[Checkpoints(path, 1e9)], plugins=[SealedCheckpoints()])
    trainer.fit(second, datamodule=Faces(), ckpt_path=path, weights_only=True)
    assert torch.equal(second.network.linear.weight, whole.network.linear.weight)
    assert torch.equal(second.history[:, :3], whole.history[:, :3])


def test_losses_may_be_watched_now_and_then(tmp_path: Path) -> None:
    final, _ = teachers(tmp_path)
    method = student(teacher=final, kd_weight=0.0, watch_every=3)
    fit(method, tmp_path, 2)
    assert len(final.network.seen) == 2


# --- what is refused, before any training ----------------------------------------------------------------------------


def test_a_missing_epoch_of_the_teacher_is_refused_when_the_method_is_made(tmp_path: Path) -> None:
    final, paths = teachers(tmp_path)
    (tmp_path / "epoch2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="epoch2"):
        student(teacher=final, successive=paths)


def test_a_damaged_epoch_or_one_of_another_network_is_refused(tmp_path: Path) -> None:
    final, paths = teachers(tmp_path)
    content = bytearray(Path(paths[0]).read_bytes())
    content[-5] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"damaged\.safetensors"):
        student(teacher=final, successive=[str(tmp_path / "damaged.safetensors")])
    save_weights(Net(5), tmp_path / "other.safetensors")
    with pytest.raises(WeightsMismatchError, match="of another shape"):
        student(teacher=final, successive=[str(tmp_path / "other.safetensors")])


def test_fewer_teachers_than_epochs_are_refused_before_the_first_step(tmp_path: Path) -> None:
    final, paths = teachers(tmp_path)
    method = student(teacher=final, successive=paths)
    before = method.network.linear.weight.detach().clone()
    with pytest.raises(ValueError, match="for 4 epochs, but the teacher was kept after 3 epochs"):
        fit(method, tmp_path, 4)
    assert torch.equal(method.network.linear.weight, before)
    with pytest.raises(ValueError, match="losses of 3 epochs are to be recorded, there is room for 2"):
        fit(student(epochs=2), tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"distance": "l1"}, "distance is 'l1'"),
        ({"kd_weight": 0.0, "classification_weight": 0.0}, "nothing is learnt"),
        ({"kd_weight": -1.0}, "both must be 0 or more"),
        ({"epochs": 0}, "epochs=0"),
        ({"classification_weight": 0.0}, "give `teacher`"),
        ({"successive": ["file"]}, "give `teacher`"),
        ({"teacher": Teacher(Net(5))}, "the student embeds in 4 dimensions and the teacher in 5"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        student(**options)


# --- data without labels ---------------------------------------------------------------------------------------------


def test_faces_without_labels_show_every_image_to_the_teacher_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRPRESS_CACHE", str(tmp_path / "cache"))  # nobody has asked before
    final, _ = teachers(tmp_path)
    method = student(teacher=final, classification_weight=0.0, num_classes=None)
    fit(method, tmp_path, data=Indexed(TrainTest(Faces(), Faces())))
    assert len(final.network.seen) == 3  # the first as they are, all as they are, all mirrored; nine steps look up


# --- the tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["smoke", "demo", "lab", "paper"])
def test_every_arm_of_every_scale_is_planned_and_judged(scale: str) -> None:
    table, paper = plan(scale), get_paper("pocketnet")
    names = {arm.name for arm in table.arms}
    for claim in table.claims:
        assert set(claim.arms) <= names, claim.key
    assert {arm.baseline for arm in table.arms} | {arm.teacher for arm in table.arms} <= names | {None}
    runs = plan_runs(table.arms, table.seeds, Path("/data"))
    assert len(runs) == (len(names) + 1) * len(table.seeds)  # the search is a run, and no row
    if scale == "paper":
        assert {arm.reported for arm in table.arms} - {None} <= {entry["row"] for entry in paper.reported}
    with torch.device("meta"):
        for arm in table.arms:
            if "found" not in arm.name:
                build(dict(arm.method.options)["backbone"], Place())


def test_multi_step_students_wait_for_every_epoch_of_their_teacher() -> None:
    table = plan("paper")
    arms = {arm.name: arm for arm in table.arms}
    successive = dict(arms["s128_multi"].method.options)["successive"]
    assert [weights.kept for weights in successive] == [f"epoch{epoch}" for epoch in range(1, 27)]
    assert {weights.arm.name for weights in successive} == {"teacher_128"}
    assert set(arms["teacher_128"].keep) == {weights.kept for weights in successive}
    assert dict(arms["s256_multi"].method.options)["embedding_size"] == 256


def test_the_demo_networks_relate_as_the_papers_do() -> None:
    sizes = {}
    for arm in plan("demo").arms:
        if arm.name in ("s_none", "m_none", "mobile_multi"):
            network = build(dict(arm.method.options)["backbone"], Place())
            sizes[arm.name] = sum(p.numel() for p in network.parameters())
    assert sizes["s_none"] < sizes["m_none"] < 2 * sizes["s_none"]
    assert sizes["s_none"] == pytest.approx(sizes["mobile_multi"], rel=0.15)


def test_curves_are_drawn_from_the_record(tmp_path: Path) -> None:
    def run(kind: str, seed: int, offset: float) -> RunRecord:
        metrics = {f"{name}_epoch{e}": offset + e for name in ("arcface", "present", "final") for e in (1, 2, 3)}
        return RunRecord(
            arm=f"s_{kind}", seed=seed, status="ok", digest="", metrics={"mixed": {**metrics, "accuracy": 90.0}}
        )

    records = [run("multi", 0, 0.0), run("multi", 1, 2.0), run("final", 0, 5.0)]
    curves = curves_of(records)
    assert curves["multi"]["present"].tolist() == [2.0, 3.0, 4.0]
    assert curves["final"]["arcface"].tolist() == [6.0, 7.0, 8.0]
    assert list(draw(records, tmp_path / "demo")) == ["demo-epochs.svg"]
    assert "multi-step KD" in (tmp_path / "demo-epochs.svg").read_text()
    assert draw([], tmp_path / "none") == {}


def test_students_meet_the_teacher_of_the_same_share_of_its_training() -> None:
    arms = {arm.name: arm for arm in plan("demo").arms}
    student, one = arms["s_multi"], arms["teacher"]
    successive = dict(student.method.options)["successive"]
    assert [weights.kept for weights in successive] == ["epoch2", "epoch4", "epoch6", "epoch8"]
    assert {weights.kept for weights in successive} <= set(one.keep)
    assert student.phases[0].epochs == 4

    def school(epochs: int) -> School:
        return School(one, one.method, 4, one.data, one.data, one.benchmark, {}, epochs, 12)

    alike = school(12).multi("alike", "alike", one.method)
    kept = [weights.kept for weights in dict(alike.method.options)["successive"]]
    assert kept == [f"epoch{epoch}" for epoch in range(1, 13)]
    assert alike.phases[0].epochs == 12
    with pytest.raises(ValueError, match="12 epochs of the teacher cannot be shared out to 5"):
        school(5)
