"""Distilled class probabilities: the loss as written, the teacher's recipe, missing classes, and the whole table."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.distillation.setting import face_setting
from common.distillation.teacher import Teacher, TeacherAnswers
from common.experiment.arm import plan_runs
from common.experiment.spec import Place, build
from common.weights import save_weights
from datasets.classification import Digits
from datasets.generated import GeneratedFaces
from datasets.indexed import Indexed
from datasets.transfer import TransferSet
from papers.hinton_kd.bias import BiasCorrection, best_offset
from papers.hinton_kd.faces import IdentityKD, class_means
from papers.hinton_kd.method import HintonKD, constrain
from papers.hinton_kd.networks import MLP, Ensemble
from papers.hinton_kd.table import face_arms, plan
from papers.registry import get_paper


def mlp(seed: int = 0, **options: Any) -> MLP:
    torch.manual_seed(seed)
    return MLP(**{"hidden": (12, 12), **options})


def batch(count: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 28, 28, generator=generator), torch.arange(count) % 10


def fit(method: L.LightningModule, data: Any, folder: Path, **options: Any) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, limit_val_batches=0, **{"max_steps": 3, **options},
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    return trainer


def test_the_papers_networks_have_their_sizes() -> None:
    assert sum(p.numel() for p in MLP((1200, 1200)).parameters()) == 2_395_210
    assert sum(p.numel() for p in MLP((800, 800)).parameters()) == 1_276_810


def test_the_loss_is_the_weighted_sum_with_t_squared_on_the_soft_term_alone() -> None:
    x, labels = batch()
    teacher = Teacher(mlp(1))
    method = HintonKD(mlp(), [teacher], hard_weight=0.3, soft_weight=0.6, temperature=5.0)
    z, v = method.network(x), teacher(x)
    hard = F.cross_entropy(z, labels)
    p, log_q = torch.softmax(v / 5, 1), torch.log_softmax(z / 5, 1)
    kl = (p * (p.log() - log_q)).sum(1).mean()
    torch.testing.assert_close(method.training_step((x, labels), 0), 0.3 * hard + 0.6 * 25 * kl)
    soft = HintonKD(mlp(), [teacher], 0.3, 0.6, 5.0, soft_loss="cross_entropy")
    torch.testing.assert_close(soft.training_step((x, labels), 0), 0.3 * hard - 0.6 * 25 * (p * log_q).sum(1).mean())


def test_both_soft_losses_have_the_same_gradient() -> None:
    x, labels = batch()
    gradients = []
    for loss in ("kl", "cross_entropy"):
        method = HintonKD(mlp(), [Teacher(mlp(1))], soft_loss=loss)  # type: ignore[arg-type]
        method.training_step((x, labels), 0).backward()
        gradients.append(method.network.output.weight.grad)
    torch.testing.assert_close(*gradients)


def test_several_teachers_are_asked_as_an_ensemble() -> None:
    x, _ = batch()
    teachers = [Teacher(mlp(seed)) for seed in (1, 2, 3)]
    method = HintonKD(mlp(), teachers, temperature=3.0)
    expected = torch.stack([torch.softmax(teacher(x) / 3, 1) for teacher in teachers]).mean(0)
    torch.testing.assert_close(method.soft_targets(x), expected)
    geometric = HintonKD(mlp(), teachers, temperature=3.0, ensemble_mean="geometric").soft_targets(x)
    assert not torch.allclose(geometric, expected, atol=1e-3)


def test_only_the_student_learns_and_only_the_student_is_stored(tmp_path: Path) -> None:
    teacher = Teacher(mlp(1, dropout=0.5))
    before = copy.deepcopy(teacher.network.state_dict())
    method = HintonKD(mlp(), [teacher], lr=0.05)
    start = method.network.output.weight.detach().clone()
    fit(method, Digits(size=28, batch_size=50), tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in teacher.network.state_dict().items())
    assert not torch.equal(method.network.output.weight, start)
    assert set(method.state_dict()) == {f"network.{name}" for name in method.network.state_dict()}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"soft_weight": 0.9}, "soft targets need a teacher"),
        ({"teachers": 1, "soft_weight": 0.0}, "a teacher is asked for nothing else"),
        ({"teachers": 1, "temperature": 0.0}, "temperature=0.0"),
        ({"teachers": 1, "hard_weight": -1.0}, "hard_weight=-1.0"),
        ({"hard_weight": 0.0, "soft_weight": 0.0}, "nor both 0"),
        ({"teachers": 1, "soft_loss": "l2"}, "soft_loss is 'l2'"),
    ],
    ids=["no teacher", "useless teacher", "temperature", "negative", "nothing", "loss"],
)
def test_bad_options_are_said(options: dict[str, Any], words: str) -> None:
    teachers = [Teacher(mlp(1))] * options.pop("teachers", 0)
    with pytest.raises(ValueError, match=words):
        HintonKD(mlp(), teachers, **options)


def test_a_transfer_set_without_labels_trains_on_soft_targets_and_refuses_a_hard_term(tmp_path: Path) -> None:
    data = TransferSet(Digits(size=28, batch_size=50), labelled=False)
    fit(HintonKD(mlp(), [Teacher(mlp(1))], hard_weight=0.0, soft_weight=1.0), data, tmp_path)
    with pytest.raises(ValueError, match="the transfer set has no labels: give hard_weight=0"):
        fit(HintonKD(mlp(), [Teacher(mlp(1))]), data, tmp_path)


def test_the_teachers_recipe_jitters_drops_and_constrains(tmp_path: Path) -> None:
    method = HintonKD(mlp(dropout=0.5), hard_weight=1.0, soft_weight=0.0, max_norm=0.5, lr=0.05)
    x, _ = batch()
    method.network.train()
    assert not torch.equal(method.network(x), method.network(x))
    method.network.eval()
    assert torch.equal(method.network(x), method.network(x))
    before = method.network.output.weight.norm(dim=1).max()
    fit(method, Digits(size=28, batch_size=50, crop=2), tmp_path)
    for layer in method.network.hidden:
        assert float(layer.weight.detach().norm(dim=1).max()) <= 0.5 + 1e-5
    assert float(method.network.output.weight.norm(dim=1).max()) > 0.5
    assert float(before) > 0.5


def test_the_constraint_leaves_short_weights_alone() -> None:
    network = mlp()
    before = [layer.weight.detach().clone() for layer in network.hidden]
    constrain(network, 1e3)
    assert all(torch.equal(layer.weight, old) for layer, old in zip(network.hidden, before, strict=True))


def test_members_of_an_ensemble_start_differently_at_one_seed_and_answer_with_the_mean(tmp_path: Path) -> None:
    members = [mlp(0, member=member) for member in range(3)]
    assert not torch.equal(members[0].output.weight, members[1].output.weight)
    assert torch.equal(mlp(0).output.weight, members[0].output.weight)
    paths = [tmp_path / f"{k}.safetensors" for k in range(3)]
    for member, path in zip(members, paths, strict=True):
        save_weights(member, path)
    x, _ = batch()
    ensemble = Ensemble([mlp(9) for _ in paths], [str(path) for path in paths]).eval()
    expected = torch.stack([torch.softmax(member.eval()(x), 1) for member in members]).mean(0)
    torch.testing.assert_close(torch.softmax(ensemble(x), 1), expected)


# --- classes that the transfer set lacks ---------------------------------------------------------------------------------


def test_the_offset_is_found_by_the_search() -> None:
    """Class 1 is right whenever its logit is raised by 1.3 to 2.6."""
    logits = torch.tensor([[0.0, -1.25], [0.0, -0.5], [0.0, -2.65], [3.0, 0.0]])
    labels = torch.tensor([1, 1, 0, 0])
    assert best_offset(logits, labels, (1,), 0.1, 20.0) == pytest.approx(1.9, abs=0.11)
    assert best_offset(logits, torch.zeros(4, dtype=torch.int64), (1,), 0.1, 20.0) == pytest.approx(0.2, abs=0.11)


def test_the_correction_is_chosen_on_validation_images_alone_and_changes_one_number() -> None:
    data = Digits(size=28, batch_size=50)
    data.setup()
    method = BiasCorrection(mlp(), classes=(3, 5))
    data.test = None  # type: ignore[assignment]
    before = method.network.output.bias.detach().clone()
    rest = method.network.output.weight.detach().clone()
    method.correct(data)
    change = method.network.output.bias.detach() - before
    assert torch.count_nonzero(change) == 2
    assert change[3] == change[5]
    assert float(change[3]) / 0.1 == pytest.approx(round(float(change[3]) / 0.1), abs=1e-4)
    assert torch.equal(method.network.output.weight, rest)


def test_a_class_that_was_never_shown_comes_back(tmp_path: Path) -> None:
    """C3 in small: distilled without threes, nearly all threes come back with one number, and without a teacher none do."""
    whole = Digits(size=8, batch_size=50)
    teacher = HintonKD(mlp(hidden=(60,), inputs=64), hard_weight=1.0, soft_weight=0.0, lr=0.03, schedule="one_cycle")
    fit(teacher, whole, tmp_path, max_steps=200)
    data = TransferSet(Digits(size=8, batch_size=50), without=(3,))
    recalls = {}
    for name, teachers, weights in (("soft", [Teacher(teacher.network)], (0.1, 0.9)), ("hard", [], (1.0, 0.0))):
        student = HintonKD(
            mlp(hidden=(40,), inputs=64), teachers, *weights, temperature=20.0, lr=0.03, schedule="one_cycle"
        )
        fit(student, data, tmp_path, max_steps=200)
        method = BiasCorrection(student.network, classes=(3,))
        method.correct(data)
        threes = data.inputs("test")[data.labels("test") == 3]
        recalls[name] = float((method(threes).argmax(1) == 3).double().mean())
    assert recalls["soft"] > 0.7
    assert recalls["soft"] > recalls["hard"] + 0.3


@pytest.mark.parametrize("classes", [(), (10,)], ids=["none", "unknown"])
def test_a_correction_of_no_class_is_refused(classes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="give at least one of the network's classes 0 to 9"):
        BiasCorrection(mlp(), classes=classes)


# --- identities of faces -------------------------------------------------------------------------------------------------


class TinyFaces(nn.Module):
    """[B, 3, 32, 32] -> [B, 6]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 16, 6)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(F.adaptive_avg_pool2d(x, 4).flatten(1))
        return found


@pytest.fixture(scope="module")
def faces() -> Indexed:
    data = Indexed(GeneratedFaces(size=32, identities=12, images_per_identity=3, batch_size=12, seed=3))
    data.prepare_data()
    data.setup("fit")
    return data


def identity_kd(data: Indexed, **options: Any) -> IdentityKD:
    torch.manual_seed(0)
    teacher = Teacher(TinyFaces())
    recognition = {"embedding_size": 6, "scale": 24.0, "margin": 0.3, "reference_batch": 0, "schedule": "one_cycle"}
    method = IdentityKD(teacher, backbone=TinyFaces(), **recognition, **options)
    method.prepare(data)
    method.centres = class_means(TeacherAnswers(teacher, data), data.train_labels, 12)
    return method


def test_identities_are_compared_by_cosines_without_margin(faces: Indexed) -> None:
    method = identity_kd(faces, distilled_scale=10.0)
    embedding, answer, labels = torch.randn(5, 6), torch.randn(5, 6), torch.arange(5)
    z, v = method.logits(embedding, answer, labels)
    torch.testing.assert_close(z, 10 * F.normalize(embedding) @ F.normalize(method.head.weight).T)
    torch.testing.assert_close(v, 10 * F.normalize(answer) @ method.centres.T)
    assert float(v.abs().max()) <= 10
    control = identity_kd(faces, margin_in_targets=True)
    z, v = control.logits(embedding, answer, labels)
    plain = 24 * F.normalize(answer) @ control.centres.T
    rows = torch.arange(5)
    assert bool((v[rows, labels] < plain[rows, labels] - 0.1).all())  # the margin lowers the true class
    v[rows, labels] = plain[rows, labels]
    torch.testing.assert_close(v, plain)


def test_centres_are_the_teachers_mean_embeddings(faces: Indexed) -> None:
    method = identity_kd(faces)
    images = [faces.images(torch.nonzero(faces.train_labels == 4).flatten(), flip) for flip in (False, True)]
    both = F.normalize(method.teacher(torch.cat(images))).mean(0)
    torch.testing.assert_close(method.centres[4], F.normalize(both, dim=0), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="identity 12 has no training image"):
        class_means(TeacherAnswers(method.teacher, faces), faces.train_labels, 13)


def test_faces_learn_from_identities_and_not_numbered_images_are_refused(faces: Indexed, tmp_path: Path) -> None:
    method = identity_kd(faces, hard_weight=0.0)
    before = method.network.linear.weight.detach().clone()
    fit(method, faces, tmp_path)
    assert not torch.equal(method.network.linear.weight, before)
    assert all(parameter.grad is None for parameter in method.teacher.network.parameters())
    with pytest.raises(ValueError, match=r"wrap the data module in datasets\.indexed\.Indexed"):
        fit(identity_kd(faces), faces.data, tmp_path)


def test_the_arms_of_faces_train_from_their_specs(tmp_path: Path) -> None:
    """What the table declares, at the shared setting's smallest scale: the teacher's file, the student, two steps."""
    setting = face_setting("smoke")
    teacher, _, plain, control = face_arms(setting)
    torch.manual_seed(0)
    save_weights(build(teacher.method, Place()).network, tmp_path / "network.safetensors")
    place = Place(weights=lambda arm, kept: tmp_path / f"{kept}.safetensors")
    for arm in (plain, control):
        assert arm.parents == (teacher,)
        data = build(arm.data, place)
        data.setup("fit")
        method = build(arm.method, place)
        method.prepare(data)
        before = method.head.weight.detach().clone()
        fit(method, data, tmp_path, max_steps=2)
        assert not torch.equal(method.head.weight, before)
    assert (method.margin_in_targets, method.head.scale) == (True, 24.0)


# --- the table -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["smoke", "demo", "lab", "paper"])
def test_claims_speak_of_arms_that_there_are(scale: str) -> None:
    table = plan(scale)
    names = {arm.name for arm in table.arms}
    assert {arm for claim in table.claims for arm in claim.arms} <= names
    assert {arm.baseline for arm in table.arms} - {None} <= names
    assert {arm.teacher for arm in table.arms} - {None} <= names
    assert scale in get_paper("hinton_kd").scales


def test_every_number_of_the_papers_mnist_table_has_its_arm() -> None:
    rows = {arm.reported for arm in plan("paper").arms}
    assert {"teacher", "hard", "distilled", "no_3", "no_3_corrected", "only_78", "only_78_corrected"} <= rows


def test_arms_differ_in_what_they_are_named_for() -> None:
    arms = {arm.name: arm for arm in plan("paper").arms}
    assert dict(arms["teacher"].data.options)["crop"] == 2
    assert "crop" not in dict(arms["distilled"].data.options)
    temperatures = [dict(arms[name].method.options)["temperature"] for name in ("t1", "t2.5", "t4", "t8", "distilled")]
    assert temperatures == [1, 2.5, 4, 8, 20]
    assert dict(dict(arms["small_t4"].method.options)["network"].options)["hidden"] == (30, 30)
    assert dict(arms["hard_few"].data.options)["fraction"] == 0.03
    assert len(dict(arms["of_ensemble"].method.options)["teachers"]) == 3


def test_every_arm_of_the_demo_can_be_built() -> None:
    runs = plan_runs(plan("demo").arms, [0])
    assert len({run.digest for run in runs}) == len(runs)
    for run in runs:
        if not run.parents:
            build(run.arm.method, Place())


def test_a_students_gradient_is_clipped_where_that_is_asked_for() -> None:
    network = torch.nn.Linear(3, 2)
    for limit, expected in ((0.0, 5.0), (1.0, 1.0)):
        network.weight.grad, network.bias.grad = torch.zeros(2, 3), torch.tensor([3.0, 4.0])
        method = HintonKD(network, hard_weight=1.0, soft_weight=0.0, max_gradient_norm=limit)
        method.configure_gradient_clipping(None)
        assert float(network.bias.grad.norm()) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="max_gradient_norm"):
        HintonKD(network, hard_weight=1.0, soft_weight=0.0, max_gradient_norm=-1.0)
