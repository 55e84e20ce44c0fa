"""TAKD: the paper's networks and equations against its code, hops that leave their teacher alone, chains and their choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from torch import Tensor, nn

from common.distillation.teacher import Teacher
from common.experiment.arm import Arm, plan_runs
from common.experiment.spec import Place, build
from common.weights import WeightsMismatchError, save_weights
from datasets.classification import Digits
from papers.registry import get_paper
from papers.takd.benchmark import HopBenchmark, softened_entropy
from papers.takd.family import Chain, chains
from papers.takd.heuristic import Assistants, nearest_to_mean, validation_accuracy
from papers.takd.method import TAKD
from papers.takd.networks import Plane, ResNet
from papers.takd.schedule import epoch_rates
from papers.takd.table import _digits, plan

COUNTS = {
    ("plane", 2): (13_082, 215_172),
    ("plane", 4): (37_338, 475_652),
    ("plane", 6): (82_778, 1_107_204),
    ("plane", 8): (327_962, 1_246_276),
    ("plane", 10): (2_487_850, 2_931_460),
    ("resnet", 8): (78_042, 83_892),
    ("resnet", 14): (175_258, 181_108),
    ("resnet", 20): (272_474, 278_324),
    ("resnet", 26): (369_690, 375_540),
    ("resnet", 32): (466_906, 472_756),
    ("resnet", 44): (661_338, 667_188),
    ("resnet", 56): (855_770, 861_620),
    ("resnet", 110): (1_730_714, 1_736_564),
}


def make(kind: str, depth: int, classes: int) -> nn.Module:
    return Plane(depth, classes, f"cifar{classes}") if kind == "plane" else ResNet(depth, classes)


@pytest.mark.parametrize(("kind", "depth"), list(COUNTS), ids=[f"{kind}{depth}" for kind, depth in COUNTS])
def test_networks_have_exactly_the_papers_parameters(kind: str, depth: int) -> None:
    with torch.device("meta"):
        networks = [make(kind, depth, classes) for classes in (10, 100)]
    assert tuple(sum(p.numel() for p in network.parameters()) for network in networks) == COUNTS[kind, depth]


def filled(network: nn.Module) -> nn.Module:
    """The state of the golden vectors: sines, see their README."""
    for k, (name, tensor) in enumerate(network.state_dict().items()):
        sine = np.sin(0.7 * np.arange(tensor.numel()) + k)
        values = 1 + 0.5 * np.abs(sine) if name.endswith("running_var") else 0.05 * sine
        if not name.endswith("num_batches_tracked"):
            tensor.copy_(torch.from_numpy(values.astype(np.float32)).view(tensor.shape))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.add_(1)
    return network.eval()


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize(("kind", "depth"), [("plane", 2), ("plane", 4), ("plane", 10), ("resnet", 8), ("resnet", 20)])
def test_networks_answer_as_the_official_ones(kind: str, depth: int, classes: int, golden: Path) -> None:
    vectors = np.load(golden / "takd" / "forward.npz")
    expected = torch.from_numpy(vectors[f"{kind}{depth}_cifar{classes}"])
    with torch.no_grad():
        found = filled(make(kind, depth, classes))(torch.from_numpy(vectors["input"]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_plane6_pools_twice_for_cifar100_and_three_times_for_cifar10() -> None:
    assert Plane(6, 100, "cifar100").classifier[-1].in_features == 128 * 8 * 8
    assert Plane(6, 10, "cifar10").classifier[-1].in_features == 64 * 4 * 4
    with pytest.raises(ValueError, match="8 pixels are pooled away by 4"):
        Plane(10, input_size=8)


def test_plain_nets_are_drawn_anew_and_differ_by_depth_only_where_asked() -> None:
    torch.manual_seed(0)
    network = ResNet(8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert float(network.linear.bias.detach().abs().max()) > 0  # the official code leaves torch's default here
    network.initialize()
    assert not torch.equal(network.conv1.weight, before["conv1.weight"])
    deviation = float(network.layer3[0].conv1.weight.detach().std())
    assert deviation == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)  # He's rule over the fan out


# --- equations --------------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.layer = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            self.layer.weight.copy_(torch.from_numpy(weight))
            self.layer.bias.copy_(torch.from_numpy(bias))

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.layer(x)
        return answer


def test_a_step_is_the_official_one_and_the_equation_differs_by_the_number_of_classes(golden: Path) -> None:
    v = np.load(golden / "takd" / "train_step.npz")
    batch = (torch.from_numpy(v["x"]), torch.from_numpy(v["y"]))
    teacher = Teacher(Linear(v["teacher_weight"], v["teacher_bias"]))
    losses = {}
    for reduction in ("batchmean", "official_mean"):
        student = Linear(v["student_weight"], v["student_bias"])
        method = TAKD(
            student, teacher, lam=float(v["lam"]), temperature=float(v["temperature"]), kl_reduction=reduction
        )
        losses[reduction] = method.training_step(batch, 0)
    assert losses["official_mean"].item() == pytest.approx(float(v["loss_official"]), rel=1e-6)
    assert losses["batchmean"].item() == pytest.approx(float(v["loss_paper_batchmean"]), rel=1e-6)
    optimizer = torch.optim.SGD(student.parameters(), float(v["lr_used"]), momentum=0.9, weight_decay=1e-4)
    losses["official_mean"].backward()
    for name in ("weight", "bias"):
        gradient = getattr(student.layer, name).grad
        torch.testing.assert_close(gradient, torch.from_numpy(v[f"grad_{name}"]), rtol=1e-5, atol=1e-7)
    optimizer.step()
    for name in ("weight", "bias"):
        after = getattr(student.layer, name).detach()
        torch.testing.assert_close(after, torch.from_numpy(v[f"{name}_after"]), rtol=1e-6, atol=1e-7)


class Says(nn.Module):
    """Answers what it holds, whatever it is asked."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits


def loss_of(a_s: Tensor, a_t: Tensor, **options: Any) -> tuple[float, Tensor]:
    student = Says(a_s.clone())
    loss = TAKD(student, Teacher(Says(a_t.clone())), **options).training_step(
        (torch.zeros(1), torch.zeros(len(a_s), dtype=torch.long)), 0
    )
    loss.backward()
    assert student.logits.grad is not None
    return loss.item(), student.logits.grad


@pytest.mark.parametrize(("temperature", "value"), [(1.0, 1.685124), (2.0, 2.073816), (4.0, 2.154541)])
def test_the_distillation_term_has_its_closed_form(temperature: float, value: float) -> None:
    a_s, a_t = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[3.0, 1.0, 0.0]])
    options = {"lam": 1.0, "temperature": temperature}
    assert loss_of(a_s, a_t, **options)[0] == pytest.approx(value, abs=1e-5)
    official = loss_of(a_s, a_t, kl_reduction="official_mean", **options)[0]
    assert official == pytest.approx(value / 3, abs=1e-5)
    shifted = loss_of(a_s + 7, a_t - 2, **options)[0]  # a constant on all logits of a row changes nothing
    assert shifted == pytest.approx(value, abs=1e-5)


def test_a_student_that_says_what_its_teacher_says_is_left_alone() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 0.5]])
    loss, gradient = loss_of(logits, logits, lam=1.0, temperature=4.0)
    assert loss == pytest.approx(0.0, abs=1e-7)
    assert float(gradient.abs().max()) < 1e-7


def test_lam_weighs_labels_against_teacher() -> None:
    a_s, a_t = torch.randn(4, 5), torch.randn(4, 5)
    labels_only, teacher_only = loss_of(a_s, a_t, lam=0.0)[0], loss_of(a_s, a_t, lam=1.0)[0]
    assert loss_of(a_s, a_t, lam=0.3)[0] == pytest.approx(0.7 * labels_only + 0.3 * teacher_only, rel=1e-5)


@pytest.mark.parametrize(("kind", "drops"), [("resnet", (0.5, 0.8)), ("plane", ())])
@pytest.mark.parametrize("epochs", [160, 200])
def test_the_official_rates_are_reproduced_with_their_bug(kind: str, drops: Any, epochs: int, golden: Path) -> None:
    expected = np.load(golden / "takd" / "lr_schedule_official.npz")[f"lr_{kind}_E{epochs}"]
    assert epoch_rates("official_bug", epochs, 0.1, drops) == pytest.approx(expected.tolist(), rel=1e-12)


def test_the_papers_rates_fall_at_80_and_120_of_150_epochs() -> None:
    rates = epoch_rates("paper", 150, 0.1, (80 / 150, 120 / 150))
    assert [rates[epoch] for epoch in (0, 79, 80, 119, 120, 149)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert set(epoch_rates("paper", 150, 0.1, ())) == {0.1}
    cosine = epoch_rates("cosine", 10, 0.1, ())
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[0] == 0.1
    with pytest.raises(ValueError, match="schedule='step'"):
        epoch_rates("step", 10, 0.1, ())  # type: ignore[arg-type]


# --- hops -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> Digits:
    digits = Digits(size=28, batch_size=50, test=1400, validation=100, mean=(0.5,), std=(0.5,))
    digits.setup()
    return digits


def plane(depth: int = 2, seed: int = 0) -> Plane:
    torch.manual_seed(seed)
    return Plane(depth, in_channels=1, input_size=28, width=0.125)


def fit(method: Any, data: Any, folder: Path, epochs: int = 1) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    return trainer


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def hop(data: Any, folder: Path, epochs: int = 1, **options: Any) -> TAKD:
    method = TAKD(plane(), **{"lr": 0.01, "drops": (), **options})
    fit(method, data, folder, epochs)
    return method


def test_lam_0_is_nokd_bit_for_bit_and_the_teacher_matters_otherwise(data: Digits, tmp_path: Path) -> None:
    nokd = state(hop(data, tmp_path, lam=0.0).network)
    assert same(state(hop(data, tmp_path, teacher=Teacher(plane(4)), lam=0.0).network), nokd)
    assert not same(state(hop(data, tmp_path, teacher=Teacher(plane(4)), lam=0.5).network), nokd)


def test_a_teacher_is_unchanged_by_a_hop_and_shares_nothing_with_its_student(data: Digits, tmp_path: Path) -> None:
    network = plane(2, seed=1)
    before = state(network)
    method = hop(data, tmp_path, teacher=Teacher(network))
    assert same(state(network), before)  # BatchNorm statistics included
    assert not network.training
    assert all(p.grad is None for p in network.parameters())
    theirs = {tensor.data_ptr() for tensor in network.state_dict().values()}
    assert not theirs & {tensor.data_ptr() for tensor in method.network.state_dict().values()}
    assert not any("teacher" in name for name in method.state_dict())


def test_the_rate_of_every_epoch_reaches_the_optimiser(data: Digits, tmp_path: Path) -> None:
    seen: list[float] = []

    class Watched(TAKD):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            seen.append(self.trainer.optimizers[0].param_groups[0]["lr"])
            return super().training_step(batch, batch_idx)

    method = Watched(plane(), lam=0.0, lr=0.04, drops=(1 / 3, 2 / 3), weight_decay=1e-4)
    trainer = fit(method, data, tmp_path, epochs=3)
    an_epoch = len(seen) // 3
    assert seen == pytest.approx([0.04] * an_epoch + [0.004] * an_epoch + [0.0004] * an_epoch)
    group = trainer.optimizers[0].param_groups[0]
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 1e-4)


def test_the_best_epoch_on_validation_is_kept_and_the_test_part_decides_nothing(data: Digits, tmp_path: Path) -> None:
    last = hop(data, tmp_path, epochs=2, lam=0.0, select="last", lr=3.0)
    kept = hop(data, tmp_path, epochs=2, lam=0.0, lr=3.0)
    watched = hop(data, tmp_path, epochs=2, lam=0.0, lr=3.0, watch_test=True)
    kept.network.eval()
    with torch.no_grad():
        right = sum(int((kept.network(x).argmax(1) == y).sum()) for x, y in data.loader("validation"))
    assert right / 100 == pytest.approx(float(kept.best_accuracy))
    first = hop(data, tmp_path, epochs=1, lam=0.0, select="last", lr=3.0)
    better = [m for m in (first, last) if same(state(m.network), state(kept.network))]
    assert len(better) == 1
    assert same(state(watched.network), state(kept.network))
    assert 0 <= float(watched.best_on_test) <= 1
    assert float(kept.best_on_test) == -1
    with pytest.raises(ValueError, match="no validation part"):
        hop(Digits(size=28, batch_size=50, test=1400, validation=0), tmp_path, lam=0.0)


def test_a_later_epoch_that_is_worse_is_not_kept(data: Digits, tmp_path: Path) -> None:
    class Spoilt(TAKD):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            return 0 * super().training_step(batch, batch_idx)

        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                self.network.classifier[-1].weight.data.zero_()  # type: ignore[index, union-attr]

    trained = hop(data, tmp_path, epochs=2, lam=0.0, lr=0.02).network
    method = Spoilt(trained, lam=0.0, lr=0.01, weight_decay=0.0)
    fit(method, data, tmp_path, epochs=2)
    assert bool((method.network.classifier[-1].weight != 0).any())  # type: ignore[index, union-attr]
    method.network.eval()
    assert float(method.best_accuracy) == pytest.approx(validation_accuracy(method.network, data))


def test_a_teacher_of_other_classes_or_of_another_architecture_is_refused(data: Digits, tmp_path: Path) -> None:
    wide = Plane(2, classes=7, in_channels=1, input_size=28, width=0.125)
    with pytest.raises(ValueError, match="7 classes, the student with 10"):
        hop(data, tmp_path, teacher=Teacher(wide))
    save_weights(plane(4), tmp_path / "four.safetensors")
    with pytest.raises(WeightsMismatchError, match="does not fit Plane"):
        Teacher(plane(2), tmp_path / "four.safetensors")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lam": 1.5}, "lam is 1.5"),
        ({"lam": 0.5}, "there is no teacher"),
        ({"lam": 0.0, "temperature": 0.0}, "temperature is 0.0"),
        ({"lam": 0.0, "kl_reduction": "sum"}, "kl_reduction='sum'"),
        ({"lam": 0.0, "select": "test"}, "select='test'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TAKD(plane(), **options)


# --- chains -----------------------------------------------------------------------------------------------------------


def chain(**changes: Any) -> Chain:
    made = _digits(width=0.125, epochs=1, lr=0.01)
    return Chain(**{**{name: getattr(made, name) for name in made.__dataclass_fields__}, **changes})


def test_all_paths_are_there_and_share_their_hops() -> None:
    assert chains(10, 2, (4, 6, 8)) == [
        (10, 2), (10, 8, 2), (10, 6, 2), (10, 4, 2), (10, 8, 6, 2), (10, 8, 4, 2), (10, 6, 4, 2), (10, 8, 6, 4, 2)
    ]  # fmt: skip
    arms = chain().paths(10, 2, (8, 6, 4))
    assert len(arms) == 15
    runs = plan_runs(arms, (0,))
    assert len(runs) == 16  # and the teacher
    with pytest.raises(ValueError, match="expected falling ones"):
        chain().path(2, 10)


def test_a_chain_without_assistants_is_blkd_and_one_of_a_single_network_is_nokd() -> None:
    """Bit for bit: the same run, by its digest."""
    assert len(plan_runs([chain().path(10, *(), 2), chain().path(10, 2)], (0,))) == 2  # teacher and student
    assert chain().path(10) == chain().alone(10)


def test_an_assistant_teaches_as_its_own_teacher_taught_it_and_the_student_starts_from_scratch() -> None:
    """Trap: an assistant trained from labels alone, or a student that starts from its assistant's weights."""
    student = chain().path(10, 4, 2)
    (parent,) = student.parents
    assert parent == chain().path(10, 4)
    assert parent != chain().alone(4)
    assert student.method.options != chain().path(4, 2).method.options
    names = {name for name, _ in student.method.options}
    assert "weights" not in names
    assert dict(student.method.options)["network"] == chain().networks[2]


def test_every_hop_may_have_its_own_options() -> None:
    arm = chain(overrides={(4, 2): {"lam": 0.15, "temperature": 2.0}}).path(10, 4, 2)
    first, second = (dict(hop.method.options) for hop in (arm.parents[0], arm))
    assert (first["lam"], first["temperature"]) == (0.5, 5.0)
    assert (second["lam"], second["temperature"]) == (0.15, 2.0)


def test_the_heuristic_takes_the_accuracy_nearest_to_the_mean_not_the_middle_size() -> None:
    assert nearest_to_mean([0.90, 0.79, 0.72], teacher=0.92, student=0.70) == 1
    assert nearest_to_mean([0.90, 0.89, 0.80], teacher=0.92, student=0.70) == 2
    with pytest.raises(ValueError, match="no assistant"):
        nearest_to_mean([], 1.0, 0.0)


def test_the_chosen_assistant_teaches_exactly_like_the_given_one(data: Digits, tmp_path: Path) -> None:
    trained = [hop(data, tmp_path, epochs=epochs, lam=0.0, lr=lr).network for epochs, lr in ((2, 0.02), (1, 3.0))]
    good, bad = (Teacher(network) for network in trained)
    middle, other = Teacher(plane(2, seed=5)), Teacher(plane(2, seed=6))
    candidates = Assistants(good, bad, alone=[bad, good, good], distilled=[middle, other, other])
    method = TAKD(plane(), teaching_assistants=candidates, lr=0.01, drops=())
    with pytest.raises(RuntimeError, match="no assistant has been chosen"):
        method.training_step(next(iter(data.train_dataloader())), 0)
    method.choose(data)
    expected = nearest_to_mean([0.0, 1.0, 1.0], 1.0, 0.0)  # a tie of both ends: the first
    assert int(method.chosen) == expected
    assert method.teacher is middle
    fit(method, data, tmp_path)
    assert same(state(method.network), state(hop(data, tmp_path, teacher=middle).network))
    again = TAKD(plane(), teaching_assistants=candidates)
    again.load_state_dict(method.state_dict())  # a killed run remembers whom it chose
    assert again.teacher is middle


def first_weights(arm: Arm, folder: Path) -> dict[str, Tensor]:
    """Initial weights of an arm's network, built as a run builds it, whatever its teachers' weights are."""

    def weights(parent: Arm, kept: str) -> Path:
        path = folder / f"{parent.name}.safetensors"
        if not path.exists():
            save_weights(build(dict(parent.method.options)["network"], Place()), path)
        return path

    torch.manual_seed(3)
    method = build(arm.method, Place(weights=weights))
    return state(method.network)


def test_all_students_of_a_seed_start_alike(tmp_path: Path) -> None:
    made = chain()
    arms = [made.alone(2), made.path(10, 2), made.path(10, 4, 2), made.nearest(10, 2, (8, 4))]
    first = first_weights(arms[0], tmp_path)
    assert all(same(first_weights(arm, tmp_path), first) for arm in arms[1:])


def test_a_hop_is_measured_with_its_teacher_and_the_papers_protocol(data: Digits, tmp_path: Path) -> None:
    method = hop(data, tmp_path, teacher=Teacher(plane(4, seed=9)), watch_test=True)
    found = HopBenchmark().measure(method, data)
    assert found.metrics["best epoch"]["error"] <= found.metrics["test"]["error"] + 1e-9
    assert 50 < found.metrics["teacher"]["error"] <= 100  # untrained
    uniform = Says(torch.zeros(1400, 10))
    assert softened_entropy(uniform, data, 5.0, batch_size=1400) == pytest.approx(np.log2(10))
    assert "teacher" not in HopBenchmark().measure(TAKD(plane(), lam=0.0), data).metrics


@pytest.mark.parametrize("scale", ["smoke", "demo", "lab", "paper"])
def test_every_arm_of_every_scale_is_planned_and_judged(scale: str) -> None:
    table, paper = plan(scale), get_paper("takd")
    names = {arm.name for arm in table.arms}
    for claim in table.claims:
        assert set(claim.arms) <= names, claim.key
    assert {arm.baseline for arm in table.arms} - {None} <= names
    assert {arm.teacher for arm in table.arms} - {None} <= names
    assert len(plan_runs(table.arms, table.seeds[:1], Path("/data"))) == len(names)
    for arm in table.arms:
        if not arm.parents and "resnet" not in arm.name:
            build(arm.method, Place())
    if scale == "paper":
        others = ("imagenet", "issue10", *(f"short_c10_{m}" for m in ("fitnet", "at_", "fsp", "bss", "mutual")))
        assert {e["row"] for e in paper.reported if not e["row"].startswith(others)} <= names
