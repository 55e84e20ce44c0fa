"""CoupleFace's method: closed forms of its losses, what the bank remembers, and what would break without its ideas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as L
import torch
from coupled_fits import IDENTITIES, SIZE, Net, arm, couple, recipe, remembered, together
from distributed_cases import largest_difference
from distributed_fits import train
from torch import Tensor, nn
from torch.utils.data import DataLoader
from two_processes import in_two_processes

from common.distillation.teacher import Teacher
from common.recognition import FaceRecognizer
from papers.coupleface.method import CoupleFace, cosines, relation_loss


class Data(L.LightningDataModule):
    """Eight noisy points, in four batches of six that hold every identity thrice."""

    num_classes, batch_size = IDENTITIES, 6

    def train_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(0)
        centres = torch.randn(IDENTITIES, 3, 2, 2, generator=generator)
        labels = (torch.arange(24) * 5 % IDENTITIES).split(6)
        noise = torch.randn(4, 6, 3, 2, 2, generator=generator)
        batches = [(centres[y] + 0.3 * noise[at], y) for at, y in enumerate(labels)]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def fit(method: FaceRecognizer, folder: Path, epochs: int = 2) -> list[float]:
    losses: list[float] = []

    class Losses(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            losses.append(float(outputs["loss"]))

    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, callbacks=[Losses()], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(method, datamodule=Data())
    return losses


# --- closed forms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "slack", "one_sided", "loss", "gradient"),
    [
        (0.5, 0.3, 0.0, True, 0.2, 1.0),
        (0.2, 0.3, 0.0, True, 0.0, 0.0),
        (0.5, 0.3, 0.05, True, 0.15, 1.0),
        (0.2, 0.3, 0.0, False, 0.1, -1.0),
    ],
)
def test_one_pair(student: float, teacher: float, slack: float, one_sided: bool, loss: float, gradient: float) -> None:
    r_s = torch.tensor([[student]], dtype=torch.float64, requires_grad=True)
    found = relation_loss(r_s, torch.tensor([[teacher]], dtype=torch.float64), slack, one_sided)
    found.backward()
    assert found.item() == pytest.approx(loss)
    assert r_s.grad is not None
    assert r_s.grad.item() == pytest.approx(gradient)


def test_the_relation_loss_is_a_mean_over_pairs() -> None:
    assert float(relation_loss(torch.tensor([[0.5, 0.2]]), torch.tensor([[0.3, 0.3]]))) == pytest.approx(0.1)


def test_cosines_are_those_of_torch_and_zero_for_a_row_that_holds_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    rows, f = torch.randn(5, 3, SIZE, generator=generator), torch.randn(5, SIZE, 2, generator=generator)
    rows[2, 1] = 0
    expected = torch.cosine_similarity(rows[:, :, None], f.transpose(1, 2)[:, None], dim=-1)
    torch.testing.assert_close(cosines(rows, f), expected)
    assert cosines(rows, f)[2, 1].tolist() == [0.0, 0.0]


class Given(nn.Module):
    """A network that answers with its parameter."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.rows * 1.0


def one_step(
    f_s: Tensor, f_t: Tensor, labels: Tensor, rows: Tensor, hard: Tensor, **options: Any
) -> tuple[Any, Tensor]:
    """Loss of one training step on given embeddings, bank and H; the margin loss of the head is taken off."""
    method = CoupleFace(
        Given(f_s), Teacher(Given(f_t)), num_hard_ids=hard.shape[1], num_classes=len(rows),
        **recipe(embedding_size=f_s.shape[1], margin_warm_up=0.0, **options),
    )  # fmt: skip
    method.teacher_bank.copy_(rows)
    if method.bank == "student":
        method.student_bank.copy_(rows)
    method.hard.copy_(hard)
    method.prepare(Data())
    method._count = lambda *_: None  # type: ignore[method-assign]
    method.log = lambda *_, **__: None  # type: ignore[method-assign]
    method.classification_loss = lambda embedding, labels: embedding.sum() * 0  # type: ignore[method-assign]
    return method, method.training_step((torch.zeros(len(labels), 1), labels), 0)


E1, E2 = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
BANK, HARD = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1], [0]])


@pytest.mark.parametrize(("f_t", "distance"), [(E1, 0.0), (E2, 2.0), (-3 * E1, 4.0)])
def test_feature_consistency_of_identical_orthogonal_and_opposite_embeddings(f_t: Tensor, distance: float) -> None:
    for reduction, expected in (("sum", distance), ("mean", distance / 2)):
        _, loss = one_step(
            2 * E1,
            f_t,
            torch.tensor([0]),
            BANK,
            HARD,
            feature_weight=3.0,
            relation_weight=0.0,
            feature_reduction=reduction,
        )
        assert loss.item() == pytest.approx(3 * expected, abs=1e-6)


def test_a_step_pulls_the_student_from_a_hard_identity_and_touches_nothing_else() -> None:
    """The student has cosine .8 to identity 1, the teacher 0: the loss is beta * .8 and its gradient reaches f^s alone."""
    f_s = torch.tensor([[0.6, 0.8]])
    method, loss = one_step(f_s, E1, torch.tensor([0]), BANK, HARD, feature_weight=0.0, relation_weight=2.0)
    assert loss.item() == pytest.approx(1.6)
    loss.backward()
    gradient = method.network.rows.grad
    assert (gradient * torch.tensor([0.0, 1.0])).sum() > 0  # down the gradient is away from identity 1
    assert method.teacher.network.rows.grad is None
    assert not any(bank.requires_grad for bank in (method.teacher_bank, method.student_bank))


def test_what_the_student_separates_better_is_left_alone() -> None:
    """The teacher has cosine .8 to identity 1, the student 0: no loss and no gradient, but with two sides both."""
    f_t = torch.tensor([[0.6, 0.8]])
    for one_sided, expected in ((True, 0.0), (False, 0.8)):
        method, loss = one_step(
            E1, f_t, torch.tensor([0]), BANK, HARD, feature_weight=0.0, relation_weight=1.0, one_sided=one_sided
        )
        loss.backward()
        assert loss.item() == pytest.approx(expected)
        assert (float(method.network.rows.grad.abs().sum()) == 0) == one_sided


def test_a_student_equal_to_its_teacher_has_no_relation_loss_unless_its_own_bank_is_old() -> None:
    old = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    _, loss = one_step(E1, E1, torch.tensor([0]), BANK, HARD)
    assert loss.item() == 0
    method, loss = one_step(E1, E1, torch.tensor([0]), BANK, HARD, bank="student")
    assert loss.item() == 0
    method.student_bank.copy_(old)
    r_s, r_t = method.relations(E1, E1, torch.tensor([0]))
    assert float(relation_loss(r_s, r_t)) == pytest.approx(0.6)


def test_the_bank_holds_the_last_image_of_an_identity() -> None:
    f_s, f_t = torch.randn(3, SIZE), torch.randn(3, SIZE)
    empty = torch.zeros(IDENTITIES, SIZE)
    labels = torch.tensor([3, 5, 3])
    method, _ = one_step(f_s, f_t, labels, empty, torch.ones(IDENTITIES, 1), bank="student")
    for bank, embedding in ((method.teacher_bank, f_t), (method.student_bank, f_s)):
        assert torch.equal(bank[3], embedding[2])
        assert torch.equal(bank[5], embedding[1])
        assert float(bank[[0, 1, 2, 4, 6, 7]].abs().sum()) == 0


def test_a_batch_of_one_identity_learns_its_relations() -> None:
    """Unlike relations inside a batch, those to the bank need no other identity beside."""
    f_s = torch.tensor([[0.6, 0.8], [0.8, 0.6]])
    _, loss = one_step(f_s, E1.repeat(2, 1), torch.tensor([0, 0]), BANK, HARD, feature_weight=0.0)
    assert loss.item() == pytest.approx(0.7)


# --- a training ----------------------------------------------------------------------------------------------------


def test_without_its_terms_it_is_the_arcface_student_bit_for_bit(tmp_path: Path) -> None:
    method = couple(feature_weight=0.0, relation_weight=0.0)
    torch.manual_seed(1)
    plain = FaceRecognizer(Net(), **recipe())
    states = []
    for one in (plain, method):
        torch.manual_seed(3)
        losses = fit(one, tmp_path)
        states.append({"losses": torch.tensor(losses), **one.network.state_dict(), "head": one.head.weight.detach()})
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize(
    "options",
    [
        {"relation_weight": 0.0},
        {"feature_weight": 0.0, "relation_weight": 20.0},
        {"relation_weight": 20.0, "negatives": "random"},
        {"relation_weight": 20.0, "one_sided": False},
        {"relation_weight": 20.0, "bank": "student"},
        {"relation_weight": 20.0, "slack": 0.2},
        {"relation_weight": 20.0, "num_hard_ids": 6},
    ],
    ids=lambda options: "-".join(options),
)
def test_every_option_changes_the_training(options: dict[str, Any], tmp_path: Path) -> None:
    base = {"relation_weight": 20.0} if options.get("relation_weight") else {}
    ends = []
    for chosen in (base, options):
        method = couple(**chosen)
        torch.manual_seed(3)
        fit(method, tmp_path)
        ends.append(method.network.linear.weight.detach())  # type: ignore[union-attr, operator]
    assert not torch.equal(*ends)


def test_the_teacher_stays_as_it_was_and_out_of_the_checkpoint(tmp_path: Path) -> None:
    method = couple()
    before = {name: value.clone() for name, value in method.teacher.network.state_dict().items()}
    fit(method, tmp_path)
    assert all(torch.equal(before[name], value) for name, value in method.teacher.network.state_dict().items())
    assert all(p.grad is None for p in method.teacher.network.parameters())
    state = method.state_dict()
    assert not any(name.startswith("teacher.") for name in state)
    assert {"teacher_bank", "hard", "record", "mined"} <= state.keys()  # what a killed run needs to go on
    assert len(list(method.parameters())) == len(list(Net().parameters())) + 1  # and the head: nothing else is trained


def test_the_relation_loss_separates_hard_identities(tmp_path: Path) -> None:
    """With the relation loss the share of pairs that are more alike to the student falls lower than without (C4)."""
    ends = {}
    for weight in (0.0, 50.0):
        method = couple(relation_weight=weight, feature_weight=0.1, one_sided=True)
        fit(method, tmp_path, epochs=15)
        curves = method.curves()
        assert len(curves["harder"]) == len(curves["similarity"]) == 4
        ends[weight] = (curves["harder"][-1], curves["similarity"][-1])
    assert ends[50.0][0] < ends[0.0][0]
    assert ends[50.0][1] < ends[0.0][1]


def test_the_record_counts_every_pair_of_the_training(tmp_path: Path) -> None:
    method = couple()
    fit(method, tmp_path)
    assert method.record[:, 0].tolist() == [2 * 6 * 3] * 4  # two steps of six samples with three hard identities a part
    assert bool((method.record[:, 1] <= method.record[:, 0]).all())
    assert couple().curves() == {"harder": [], "similarity": []}


def test_mining_sees_every_image_and_draws_nothing(tmp_path: Path) -> None:
    method = couple()
    method.prepare(Data())
    state = torch.get_rng_state()
    method.mine(Data())
    assert torch.equal(torch.get_rng_state(), state)
    sums = torch.zeros(IDENTITIES, SIZE)
    for x, y in Data().train_dataloader():
        sums.index_add_(0, y, nn.functional.normalize(method.teacher(x)))
    prototypes = nn.functional.normalize(sums)
    torch.testing.assert_close(method.teacher_bank, prototypes)
    similar = (prototypes @ prototypes.T).fill_diagonal_(-2)
    assert torch.equal(method.hard.long(), similar.topk(3).indices)
    empty = couple(initial_bank="zeros")
    empty.mine(Data())
    assert torch.equal(empty.hard, method.hard)
    assert float(empty.teacher_bank.abs().sum()) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"feature_weight": -1.0}, "feature_weight is -1.0"),
        ({"relation_weight": float("nan")}, "relation_weight is nan"),
        ({"slack": -0.1}, "slack is -0.1"),
        ({"negatives": "easy"}, "negatives is 'easy': choose hard or random"),
        ({"bank": "both"}, "bank is 'both': choose teacher or student"),
        ({"records": 0}, "records is 0"),
        ({"num_classes": 3}, "num_hard_ids is 3, but the training data have 3 identities"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        couple(**options)


def test_a_teacher_of_another_embedding_size_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="embeds faces in 6 dimensions and the student in 4"):
        fit(couple(teacher_size=6), tmp_path)


# --- two processes -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("pair")
    return in_two_processes(together, folder, folder / "run")


def test_two_processes_remember_what_one_remembers(pair: list[dict[str, dict[str, Tensor]]]) -> None:
    one = remembered()
    for other in pair:
        assert all(torch.equal(one[name], bank) for name, bank in other["remembered"].items())


def test_a_run_on_two_devices_ends_like_a_run_on_one(pair: list[dict[str, dict[str, Tensor]]], tmp_path: Path) -> None:
    """Student, class weights, mined identities, both banks and the record of the relations."""
    one = train(arm(), tmp_path, 1)
    assert {"hard", "teacher_bank", "student_bank", "record", "head.local.weight"} <= one.keys()
    assert float(one["record"][:, 1].sum()) > 0
    for other in pair:
        assert largest_difference(other["run"], one) < 1e-9
