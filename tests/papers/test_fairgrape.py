"""FairGRAPE's method: shares that are kept, masks that are nested, rounds that look again, baselines, and what is measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pytorch_lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.files import DamagedFileError
from common.weights import WeightsMismatchError, save_weights
from datasets.attribute_batches import AttributePart
from datasets.attributes import PARTS, AttributeImages, Task
from papers.fairgrape.baselines import class_balanced
from papers.fairgrape.benchmark import AttributeBenchmark, interval
from papers.fairgrape.family import VARIANTS
from papers.fairgrape.greedy import layer_counts
from papers.fairgrape.method import CRITERIA, FairGRAPE

# -- the method -------------------------------------------------------------------------------------------------------


class Faces(AttributeImages):
    """Noise in which the first group's class shows on the left and the second's on the right, at half the strength."""

    KEY, image_size = "faces", (8, 8)

    def __init__(self, tasks: int = 1, only: int | None = None, **options: Any) -> None:
        named = [Task(f"t{t}", ("no", "yes")) for t in range(tasks)]
        columns = {"race": ("a", "b"), "gender": ("m", "f")}
        super().__init__(
            named, columns, **{"group": "race", "batch_size": 16, "mean": (0.5,), "std": (0.25,), **options}
        )
        self.only = only

    def read(self) -> dict[str, AttributePart]:
        parts = {}
        for k, name in enumerate(PARTS):
            generator = torch.Generator().manual_seed(k)
            label = torch.randint(0, 2, (96, len(self.tasks)), generator=generator)
            race, gender = torch.arange(96) % 3 // 2, torch.arange(96) // 3 % 2
            if self.only is not None and name == "test":
                race = torch.arange(96).eq(self.only).long()
            images = 100 + 40 * torch.randn(96, 3, 8, 8, generator=generator)
            shift = (label[:, 0].float() * 2 - 1)[:, None, None, None]
            images[race == 0, :, :, :4] += 60 * shift[race == 0]
            images[race == 1, :, :, 4:] += 30 * shift[race == 1]
            pixels = images.clamp(0, 255).to(torch.uint8)
            parts[name] = AttributePart(pixels, label, {"race": race, "gender": gender}, torch.arange(96))
        return parts


class Tiny(nn.Module):
    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(3, 6, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.c2 = nn.Conv2d(6, 8, 3, 2, 1)
        self.fc = nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(F.relu(self.c2(F.relu(self.bn(self.c1(x))))).flatten(1))
        return logits


@pytest.fixture(scope="module")
def data() -> Faces:
    faces = Faces()
    faces.setup()
    return faces


def fit(method: FairGRAPE, data: Any, folder: Path, phase: str = "stage 1", epochs: int = 2) -> None:
    method.start_phase(phase)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)


@pytest.fixture(scope="module")
def dense(data: Faces, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("dense")
    torch.manual_seed(0)
    method = FairGRAPE(Tiny(), criterion="none", rates=(1e-2,))
    method.prepare(data)
    fit(method, data, folder, epochs=6)
    method.take_best()
    save_weights(method.network, folder / "dense.safetensors")
    return str(folder / "dense.safetensors")


def make(dense: str | None, seed: int = 0, **options: Any) -> FairGRAPE:
    torch.manual_seed(seed)
    defaults: dict[str, Any] = {
        "sparsity": 0.8,
        "keep": 0.5,
        "scoring_batch": 32,
        "samples_per_class": 4,
        "rates": (1e-2,),
    }
    return FairGRAPE(Tiny(), dense, **{**defaults, **options})


def pruned(data: Any, dense: str, rounds: int | None = None, **options: Any) -> FairGRAPE:
    method = make(dense, **options)
    torch.manual_seed(5)
    for _ in range(method.rounds if rounds is None else rounds):
        method.prune_round(data)
    return method


@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name != "none"])
def test_every_criterion_reaches_its_sparsity_and_keeps_pruned_weights_at_zero(
    data: Faces, dense: str, criterion: Any, tmp_path: Path
) -> None:
    method = pruned(data, dense, criterion=criterion)
    counts = method.masks.counts()
    if criterion in ("snip", "grasp"):  # ranked over all layers together
        assert abs(method.masks.kept - 0.2 * method.masks.total) <= 1
    else:
        assert {n: c.kept for n, c in counts.items()} == layer_counts(method.masks.weights, 0.8)
    before = method.network.fc.bias.detach().clone()  # type: ignore[union-attr]
    fit(method, data, tmp_path, epochs=1)
    method.masks.check_zeros()
    assert not torch.equal(before, method.network.fc.bias)  # type: ignore[union-attr, arg-type]


def test_masks_are_nested_over_rounds_and_rounds_are_those_of_the_paper(data: Faces, dense: str) -> None:
    method = make(dense, keep=0.7)
    assert method.rounds == math.ceil(math.log(0.2) / math.log(0.7)) == 5
    before = method.masks.as_dict()
    for i in range(5):
        torch.manual_seed(5)
        method.prune_round(data)
        now = method.masks.as_dict()
        assert all(not bool((now[name] & ~before[name]).any()) for name in now)
        expected = layer_counts(method.masks.weights, min(1 - 0.7 ** (i + 1), 0.8))
        assert {name: int(mask.sum()) for name, mask in now.items()} == expected
        before = now


@pytest.mark.parametrize(("percent", "keep", "rounds"), [(50, 0.9, 7), (90, 0.9, 22), (99, 0.9, 44), (90, 0.975, 91)])
def test_numbers_of_rounds(percent: int, keep: float, rounds: int) -> None:
    assert FairGRAPE(Tiny(), sparsity=percent / 100, keep=keep).rounds == rounds


def test_importances_are_taken_anew_in_every_round(data: Faces, dense: str) -> None:
    """After retraining, another selection follows than from the importances of the dense network."""
    one = pruned(data, dense, rounds=1)
    again = pruned(data, dense, rounds=1)
    with torch.no_grad():
        for weight in again.network.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
    again.masks.apply_to_weights()
    for method in (one, again):
        torch.manual_seed(6)
        method.prune_round(data)
    first, second = one.masks.as_dict(), again.masks.as_dict()
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_balancing_keeps_shares_that_importance_loses(data: Faces, dense: str) -> None:
    method = pruned(data, dense, rounds=1, keep=0.3)
    ours, plain, _ = method.deviations[0].tolist()
    assert ours < plain
    other = pruned(data, dense, rounds=1, keep=0.3, criterion="importance")
    masks = other.masks.as_dict()
    assert any(not torch.equal(mask, masks[name]) for name, mask in method.masks.as_dict().items())


def test_equal_targets_share_what_is_kept_more_equally(data: Faces, dense: str) -> None:
    kept, uniform = (
        pruned(data, dense, rounds=1, target_shares=target).deviations[0, 2] for target in ("dense", "uniform")
    )
    assert uniform < kept


@pytest.mark.parametrize("kind", sorted(VARIANTS))
def test_variants_select_otherwise_than_the_default(data: Faces, dense: str, kind: str) -> None:
    """`uniform`, `complexity`, the official importance and rankings each change the masks; all are exact in size."""
    default, other = pruned(data, dense), pruned(data, dense, **VARIANTS[kind][1])
    assert default.masks.kept == other.masks.kept
    ours, theirs = default.masks.as_dict(), other.masks.as_dict()
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_scoring_leaves_the_network_as_it_was(data: Faces, dense: str) -> None:
    for importance in ("clean", "official"):
        for norms in ("running", "batch"):
            method = make(dense, importance=importance, norms=norms)
            before = {name: value.clone() for name, value in method.network.state_dict().items()}
            method.prepare(data)
            scores = method._importance(data)
            assert all(torch.equal(value, before[name]) for name, value in method.network.state_dict().items())
            assert all(bool((score >= 0).all()) for score in scores.values())


def test_lottery_goes_back_to_the_dense_weights_and_weight_selection_keeps_the_largest(data: Faces, dense: str) -> None:
    reference = make(None, criterion="none")
    build_from(reference, dense)
    trained = {name: weight.detach().clone() for name, weight in reference.masks.weights.items()}
    ticket = pruned(data, dense, rounds=1, criterion="lottery")
    with torch.no_grad():
        ticket.network.c1.weight.add_(1)  # type: ignore[union-attr, operator]
    ticket.masks.apply_to_weights()
    ticket.prune_round(data)
    for name, mask in ticket.masks.as_dict().items():
        assert torch.equal(ticket.masks.weights[name].detach(), torch.where(mask, trained[name], 0.0))
    largest = pruned(data, dense, criterion="weight_selection")
    for name, mask in largest.masks.as_dict().items():
        assert trained[name].abs()[mask].min() >= trained[name].abs()[~mask].max()


def build_from(method: FairGRAPE, path: str) -> None:
    from common.weights import load_weights

    load_weights(method.network, path)


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
def test_masks_before_training_leave_the_initial_weights_in_place(data: Faces, dense: str, criterion: Any) -> None:
    method = make(dense, criterion=criterion)
    initial = {name: weight.detach().clone() for name, weight in method.masks.weights.items()}
    torch.manual_seed(5)
    method.prune_round(data)
    for name, mask in method.masks.as_dict().items():
        assert torch.equal(method.masks.weights[name].detach(), torch.where(mask, initial[name], 0.0))


def test_the_same_seed_prunes_the_same(data: Faces, dense: str) -> None:
    for criterion in ("fairgrape", "random", "snip", "grasp"):
        one, two = (pruned(data, dense, criterion=criterion).masks.as_dict() for _ in range(2))
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_stage_ends_with_the_weights_of_its_best_epoch(data: Faces, tmp_path: Path) -> None:
    method = make(None, criterion="none", rates=(1e-2, 50.0))
    method.prepare(data)
    fit(method, data, tmp_path, epochs=4)
    best = float(method.best_loss)
    fit(method, data, tmp_path, "stage 2", epochs=2)  # at a rate that ruins the network
    assert float(method.stage_loss) > best == float(method.best_loss)
    method.take_best()
    total, seen = 0.0, 0
    method.network.eval()
    with torch.no_grad():
        for images, labels, _ in data.batches("validation"):
            total += float(F.cross_entropy(method.network(images), labels[:, 0])) * len(labels)
            seen += len(labels)
    assert total / seen == pytest.approx(best, rel=1e-5)


def test_what_a_killed_run_needs_is_in_its_state(data: Faces, dense: str) -> None:
    """Rounds, masks, best weights and noted deviations come back with the state dict."""
    method = pruned(data, dense, rounds=2)
    other = make(dense, seed=9)
    other.load_state_dict(method.state_dict())
    for each in (method, other):
        torch.manual_seed(7)
        each.prune_round(data)
    assert int(other.rounds_done) == 3
    assert torch.equal(method.deviations, other.deviations)
    assert all(torch.equal(a, b) for a, b in zip(method.network.parameters(), other.network.parameters(), strict=True))


def test_tasks_count_alike() -> None:
    two = Faces(tasks=2)
    method = FairGRAPE(Tiny(4), criterion="none")
    method.prepare(two)
    outputs, labels = torch.randn(5, 4), torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0], [0, 1]])
    expected = [F.cross_entropy(outputs[:, :2], labels[:, 0]), F.cross_entropy(outputs[:, 2:], labels[:, 1])]
    assert torch.allclose(method.task_loss(outputs, labels), torch.stack(expected).mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "fairgrap"}, "criterion is 'fairgrap'; expected one of none, fairgrape"),
        ({"target_shares": "equal"}, "target_shares is 'equal'; expected one of dense, uniform, complexity"),
        ({"sparsity": 1.0}, "sparsity is 1.0"),
        ({"keep": 1.0}, "it must be below 1"),
        ({"rates": ()}, "at least one"),
        ({"criterion": "none"}, "leave dense out"),
    ],
    ids=["criterion", "target", "sparsity", "keep", "rates", "dense"],
)
def test_arguments_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FairGRAPE(Tiny(), **{"dense": "dense.safetensors", **options})


def test_dense_weights_that_do_not_fit_or_are_damaged(data: Faces, dense: str, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_weights(Tiny(5), other)
    with pytest.raises(WeightsMismatchError, match=r"fc.weight \[5, 32\] instead of \[2, 32\]"):
        pruned(data, str(other))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(Path(dense).read_bytes()[:-7])
    with pytest.raises(DamagedFileError):
        pruned(data, str(damaged))


def test_grasp_needs_every_class() -> None:
    labels = torch.tensor([[0], [0], [0], [1]])
    assert class_balanced(labels, (2,), 1, 0).tolist()[1] == 3
    with pytest.raises(ValueError, match="needs 2 training images of class 1 of task 0, and there are 1"):
        class_balanced(labels, (2,), 2, 0)
    several = class_balanced(torch.tensor([[0, 1], [1, 0]]), (2, 2), 10, 0)
    assert several.tolist() == [1, 0]


# -- what is measured ---------------------------------------------------------------------------------------------------


def test_losses_of_groups_are_counted_from_the_dense_network(data: Faces, dense: str) -> None:
    method = pruned(data, dense, criterion="random")
    found = AttributeBenchmark(dense, columns=("gender", "race x gender")).measure(method, data)
    test, groups = found.metrics["test"], data.groups("test")
    right: list[npt.NDArray[np.bool_]] = []
    for weights in (None, dense):
        if weights:
            build_from(method, weights)
        method.network.eval()
        with torch.no_grad():
            outputs = torch.cat([method.network(images) for images, _, _ in data.batches("test")])
        right.append((outputs.argmax(1) == data.part("test").labels[:, 0]).numpy())
    change = [100 * (right[0][groups == g].mean() - right[1][groups == g].mean()) for g in range(2)]
    assert list(test["change"].values()) == pytest.approx(change)
    assert test["std_of_change"] == pytest.approx(np.std(change, ddof=1))
    assert test["overall_change"] == pytest.approx(100 * (right[0].mean() - right[1].mean()))
    # The hidden set of pairs says the same, so that a bootstrap of it is one of the losses.
    halves = found.scores["change/correct"].reshape(-1, 2)[groups == 0].mean()
    assert 200 * halves - 100 == pytest.approx(change[0])
    assert set(found.metrics) == {"test"}
    assert list(test["by"]["race x gender"]["group_accuracy"]) == ["a, m", "a, f", "b, m", "b, f"]
    low, high = test["group_interval"]["a"]
    assert low < test["group_accuracy"]["a"] < high


def test_the_full_network_loses_nothing(data: Faces) -> None:
    method = make(None, criterion="none")
    method.prepare(data)
    found = AttributeBenchmark().measure(method, data).metrics["test"]
    assert found["std_of_change"] == 0
    assert "change" not in found


def test_a_group_of_one_person_is_undefined_and_says_so(dense: str) -> None:
    data = Faces(only=4)
    method = pruned(data, dense, criterion="random")
    found = AttributeBenchmark(dense).measure(method, data).metrics["test"]
    assert found["group_accuracy"]["b"] is None
    assert found["change"]["b"] is None
    assert found["std_of_change"] is None
    assert found["group_interval"]["b"] is None
    assert "one subject only" in found["undefined_reasons"]["group_accuracy/b"]


def test_equal_opportunity_sees_what_accuracy_hides(data: Faces) -> None:
    """A network that never says yes for one group: equal accuracy is possible, equal opportunity is not."""

    class Never(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            left, right = x[:, :, :, :4].mean((1, 2, 3)), x[:, :, :, 4:].mean((1, 2, 3))
            return torch.stack([right.abs() * 0, left], dim=1)

    method = FairGRAPE(Never(), criterion="none")
    method.prepare(data)
    found = AttributeBenchmark().measure(method, data)
    labels, groups = data.part("test").labels[:, 0], data.groups("test")
    said = torch.cat([method.network(images) for images, _, _ in data.batches("test")]).argmax(1)
    tpr = [float((said[(labels == 1) & (groups == g)] == 1).double().mean()) for g in range(2)]
    assert found.metrics["test"]["equal_opportunity_gap"] == pytest.approx(100 * abs(tpr[0] - tpr[1]))
    assert found.metrics["test"]["equal_opportunity_gap"] > 20


def test_intervals_count_people_not_decisions() -> None:
    right, subject = np.tile(np.arange(40) % 4 > 0, 10), np.tile(np.arange(40), 10)
    narrow, wide = interval(right, np.arange(400)), interval(right, subject)
    assert narrow is not None
    assert wide is not None
    assert wide[1] - wide[0] > 2.5 * (narrow[1] - narrow[0])
