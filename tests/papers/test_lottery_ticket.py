"""The lottery ticket: what is pruned, what is put back, what the controls change, and when training could have stopped."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as L
import torch
import torch.nn.functional as F

from common.backbones.cifar_plain import VGG19, Conv
from common.backbones.cifar_resnet import CifarResNet
from common.backbones.lenet import LeNet5, LeNet300100
from common.experiment.arm import plan_runs
from common.experiment.records import RunRecord
from common.experiment.spec import Place, build
from common.pruning import Masks, prunable_weights, select_per_layer
from common.weights import save_weights
from datasets.classification import Digits
from papers.lottery_ticket import benchmark
from papers.lottery_ticket.benchmark import TicketBenchmark
from papers.lottery_ticket.claims import EARLY
from papers.lottery_ticket.family import Family
from papers.lottery_ticket.figures import curves_of, draw
from papers.lottery_ticket.method import LotteryTicket, with_warmup
from papers.lottery_ticket.table import CONVS, LENET, LENET_SIZES, _convolution_places, plan
from papers.registry import get_paper

GRID = (
    100,
    80.0,
    64.1,
    51.3,
    41.1,
    32.9,
    26.3,
    21.1,
    16.9,
    13.5,
    10.8,
    8.7,
    7.0,
    5.6,
    4.5,
    3.6,
    2.9,
    2.3,
    1.9,
    1.5,
    1.2,
)


@pytest.fixture(scope="module")
def data() -> Digits:
    digits = Digits(size=28, batch_size=50)
    digits.setup()
    return digits


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights that are theta_j of a level: other values than theta_0, a fifth of them pruned."""
    torch.manual_seed(7)
    network = LeNet300100()
    masks = Masks(network)
    masks.set(select_per_layer({name: w.abs() for name, w in masks.weights.items()}, 0.2))
    path = tmp_path_factory.mktemp("level") / "network.safetensors"
    save_weights(network, path)
    return str(path)


def ticket(**options: Any) -> LotteryTicket:
    return LotteryTicket(LeNet300100(), **{"steps": 20, "validate_every": 5, **options})


def begun(seed: int = 0, **options: Any) -> LotteryTicket:
    torch.manual_seed(seed + 100)  # what the network is built from does not matter
    method = ticket(**options)
    torch.manual_seed(seed)
    method.begin()
    return method


def fit(method: LotteryTicket, data: Any, folder: Path, steps: int = 20) -> None:
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)


def load(path: str) -> LeNet300100:
    network = LeNet300100()
    from common.weights import load_weights

    load_weights(network, path)
    return network


def test_survivors_go_back_to_theta_0_and_the_rest_is_zero(trained: str) -> None:
    dense, reset = begun(), begun(trained=trained)
    kept = reset.masks.as_dict()
    for name, weight in reset.masks.weights.items():
        assert torch.equal(weight.detach(), torch.where(kept[name], dense.masks.weights[name].detach(), 0.0))
    assert torch.equal(reset.network.output.bias, dense.network.output.bias)


def test_theta_0_is_of_the_trial_and_not_of_the_level(trained: str) -> None:
    first, other = begun(0, trained=trained), begun(1, trained=trained)
    assert not torch.equal(first.network.output.weight, other.network.output.weight)
    assert torch.equal(begun(0).network.hidden[0].bias, first.network.hidden[0].bias)


def test_the_smallest_trained_weights_of_every_layer_go(trained: str) -> None:
    """(2): the mask follows theta_j, not theta_0, and what was pruned before does not count."""
    method, theta_j = begun(trained=trained, rates={"output": 0.1}), load(trained)
    for name, mask in method.masks.as_dict().items():
        magnitude = theta_j.get_parameter(name).detach().abs()
        alive = magnitude > 0
        rate = 0.1 if name == "output.weight" else 0.2
        assert int(mask.sum()) == int(alive.sum()) - round(rate * int(alive.sum()))
        assert magnitude[mask].min() >= magnitude[alive & ~mask].max()
        assert not bool(mask[~alive].any())
        smallest_first = begun().masks.weights[name].detach().abs()  # of theta_0: another ranking
        assert smallest_first[mask].min() < smallest_first[alive & ~mask].max()


def test_reinitialisation_changes_the_weights_and_not_the_mask(trained: str) -> None:
    reset, one, two = (
        begun(trained=trained, **o) for o in ({}, {"start": "reinit", "draw": 1}, {"start": "reinit", "draw": 2})
    )
    for name, mask in reset.masks.as_dict().items():
        assert torch.equal(mask, one.masks.as_dict()[name])
        assert torch.equal(mask, two.masks.as_dict()[name])
    a, b, c = (
        method.network.hidden[0].weight[method.masks.as_dict()["hidden.0.weight"]] for method in (reset, one, two)
    )
    assert not torch.equal(a, b)
    assert not torch.equal(b, c)


def test_a_random_mask_has_as_many_weights_in_every_layer_elsewhere(trained: str) -> None:
    reset, random = begun(trained=trained), begun(trained=trained, start="random_mask")
    assert {n: c.kept for n, c in reset.masks.counts().items()} == {n: c.kept for n, c in random.masks.counts().items()}
    assert not torch.equal(reset.masks.as_dict()["hidden.0.weight"], random.masks.as_dict()["hidden.0.weight"])


def test_fine_tuning_keeps_what_was_trained(trained: str) -> None:
    method, theta_j = begun(trained=trained, start="finetune"), load(trained)
    for name, mask in method.masks.as_dict().items():
        assert torch.equal(
            method.masks.weights[name].detach(), torch.where(mask, theta_j.get_parameter(name), 0.0).detach()
        )


def test_one_shot_prunes_to_what_that_many_levels_leave(trained: str) -> None:
    dense = begun()
    family = Family("", "", LENET, LENET, LENET, 1, LENET_SIZES)
    path = Path(trained).with_name("dense.safetensors")
    save_weights(dense.network, path)
    method = begun(trained=str(path), rates={"output": 0.1}, rounds=7)
    assert 100 * method.masks.kept / method.masks.total == pytest.approx(family.remaining(7), abs=0.01)


def test_global_ranking_compares_layers(trained: str) -> None:
    each, together = begun(trained=trained), begun(trained=trained, scope="global")
    shares = [[count.kept / count.total for count in m.masks.counts().values()] for m in (each, together)]
    assert max(shares[0]) - min(shares[0]) < 0.01
    assert max(shares[1]) - min(shares[1]) > 0.05
    assert together.masks.kept == each.masks.kept


def test_the_grid_of_the_paper() -> None:
    """Every P_m that the paper's text quotes for LeNet-300-100, and the first ones of Conv-2 and Conv-4."""
    lenet = Family("", "", LENET, LENET, LENET, 1, LENET_SIZES)
    assert [round(lenet.remaining(level), 1) for level in range(len(GRID))] == pytest.approx(GRID, abs=0.051)
    for (_, _, (weights, rate), linear, *_), expected in zip(
        CONVS[:2], ((80.1, 64.2, 51.4), (81.1, 65.8, 53.5)), strict=True
    ):
        family = Family("", "", LENET, LENET, LENET, 1, ((weights, rate), (linear, 0.2), (2_560, 0.1)))
        assert [family.remaining(level) for level in (1, 2, 3)] == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("layers", [2, 4, 6])
def test_rates_name_the_layers_of_the_convolutional_networks(layers: int) -> None:
    network = Conv(layers=layers)
    weights = prunable_weights(network)
    convolutions = [f"feature.{at}.weight" for at in _convolution_places(layers)]
    assert [name for name in weights if name.startswith("feature")] == convolutions
    _, _, (count, _), linear, *_ = next(entry for entry in CONVS if entry[0] == layers)
    assert sum(weights[name].numel() for name in convolutions) == count
    assert weights["fc1.weight"].numel() + weights["fc2.weight"].numel() == linear
    assert weights["fc3.weight"].numel() == 2_560


def test_deep_networks_prune_their_convolutions_and_neither_classifier_nor_shortcuts() -> None:
    for arm in plan("paper").arms:
        if arm.name in ("resnet18_high_dense", "vgg19_high_dense"):
            options = dict(arm.method.options)
            network = CifarResNet(20, shortcut="projection") if arm.name.startswith("resnet") else VGG19()
            total = sum(weight.numel() for weight in prunable_weights(network, options["dense"]).values())
            assert total == (267_696 if arm.name.startswith("resnet") else 20_018_880)


def test_pruned_weights_stay_zero_through_training_and_the_others_move(
    trained: str, data: Digits, tmp_path: Path
) -> None:
    method = begun(trained=trained)
    before = copy.deepcopy(method.network.state_dict())
    fit(method, data, tmp_path)
    method.masks.check_zeros()
    mask = method.masks.as_dict()["hidden.0.weight"]
    assert int((method.network.state_dict()["hidden.0.weight"] != before["hidden.0.weight"]).sum()) > 0.9 * int(
        mask.sum()
    )


def test_the_early_stop_is_the_step_of_the_smallest_validation_loss(data: Digits, tmp_path: Path) -> None:
    method = begun(lr=0.02)  # so high that the loss rises again
    fit(method, data, tmp_path)
    losses = method.losses.tolist()
    assert len(losses) == 4
    at = int(np.argmin(losses))
    assert int(method.best_step) == 5 * (at + 1)
    early = method.early_network()
    assert early is not None
    early.eval()
    loss = F.cross_entropy(early(data.inputs("validation")), data.labels("validation"))
    assert float(loss) == pytest.approx(float(method.best_loss), rel=1e-5)
    found = TicketBenchmark().measure(method, data)
    assert found.metrics[EARLY]["step"] == int(method.best_step)
    assert found.metrics[EARLY]["validation_losses"] == pytest.approx(losses, abs=1e-5)
    assert set(found.metrics) == {"test", EARLY}
    if at < 3:
        assert found.metrics[EARLY]["loss"] != found.metrics["test"]["loss"]


def test_what_a_killed_run_needs_is_in_its_state(trained: str, data: Digits, tmp_path: Path) -> None:
    method = begun(trained=trained)
    fit(method, data, tmp_path)
    again = ticket(trained=trained)
    again.load_state_dict(method.state_dict())
    assert int(again.best_step) == int(method.best_step)
    assert torch.equal(again.losses, method.losses)
    assert again.masks.kept == method.masks.kept
    fit(again, data, tmp_path, steps=1)  # has begun already: does not prune and reset again
    assert again.masks.kept == method.masks.kept


def test_schedule_of_open_lth(golden: Path) -> None:
    vectors = np.load(golden / "lottery_ticket/open_lth_lr_schedule.npz")
    base, per_epoch = float(vectors["base_lr"]), int(vectors["iterations_per_epoch"])
    for name, warmup in (("lr_milestones", 0), ("lr_warmup", 10)):
        rate = with_warmup((2 * per_epoch, 4 * per_epoch), warmup)
        assert [base * rate(step) for step in range(len(vectors[name]))] == pytest.approx(
            vectors[name].tolist(), rel=1e-6
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate": 1.0}, r"lie in \[0, 1\)"),
        ({"rates": {"outptu": 0.1}}, "layers that are pruned are hidden.0"),
        ({"rounds": 0}, "at least 1"),
        ({"start": "finetune"}, "give them in `trained`"),
        ({"scope": "global", "rates": {"output": 0.1}}, "one rate"),
        ({"scope": "globally"}, "layer or global"),
    ],
    ids=["rate", "layer", "rounds", "nothing trained", "rates of one ranking", "scope"],
)
def test_bad_arguments_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ticket(**options)


@pytest.mark.parametrize("scale", ["smoke", "demo", "paper"])
def test_tables_speak_of_their_own_arms(scale: str, tmp_path: Path) -> None:
    table = plan(scale)
    names = {arm.name for arm in table.arms}
    assert {arm for claim in table.claims for arm in claim.arms} <= names
    assert {arm.baseline for arm in table.arms if arm.baseline} <= names
    assert len({run.digest for run in plan_runs(table.arms, (0,), tmp_path)}) >= len(names)
    reported = {entry["row"] for entry in get_paper("lottery_ticket").reported}
    assert scale != "paper" or reported <= names


def test_every_arm_of_the_demo_can_be_built() -> None:
    for arm in plan("demo").arms:
        if not arm.parents:
            assert isinstance(build(arm.method, Place()), LotteryTicket)
    assert sum(w.numel() for w in prunable_weights(LeNet5()).values()) == 61_470


def test_claims_and_benchmark_mean_the_same_set() -> None:
    assert benchmark.EARLY == EARLY


def record(arm: str, seed: int, left: float, step: int) -> RunRecord:
    return RunRecord(arm, seed, "ok", metrics={EARLY: {"accuracy": 98.0, "step": step}}, cost={"remaining": left})


def test_the_figure_shows_every_kind_of_arm_from_the_dense_network_on(tmp_path: Path) -> None:
    records = [record("lenet_dense", seed, 100, 5000) for seed in (0, 1)]
    records += [record(f"lenet_ticket_{level:02d}", 0, 100 * 0.8**level, 4000) for level in (1, 2, 3)]
    records += [record(f"lenet_reinit{draw}_02", 0, 64.0, 6000 + draw) for draw in (1, 2)]
    records += [record("conv2_dense", 0, 100, 1), record("conv2_ticket_04", 0, 66, 1)]
    curves = curves_of(records)
    assert set(curves) == {"lenet_", "conv2_"}
    assert list(curves["lenet_"]["ticket"]) == [80.0, 64.0, 51.2, 100.0]
    assert [run.metrics[EARLY]["step"] for run in curves["lenet_"]["reinit"][64.0]] == [6001, 6002]
    assert list(draw(records, tmp_path / "demo")) == ["demo-tickets.svg"]  # of LeNet alone: Conv-2 has one level
    assert (tmp_path / "demo-tickets.svg").stat().st_size > 1000
    assert draw(records[:2], tmp_path / "none") == {}
