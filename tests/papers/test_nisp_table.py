"""NISP from pruning to the table: rounds, what is measured when, states that fit, and every arm of every scale."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as L
import torch
from torch import nn

from common.backbones.cifar_resnet import CifarResNet
from common.backbones.lenet import LeNet5
from common.cost import measure_cost
from common.experiment.arm import plan_runs
from common.experiment.spec import Place, Spec, WeightsOf, build, parents
from common.pruning import EmptiedLayerWarning
from common.weights import save_weights
from datasets.classification import Digits
from papers.nisp.benchmark import PruningBenchmark, epochs_to_recover
from papers.nisp.claims import AFTER_PRUNING, EPOCHS
from papers.nisp.method import NISP
from papers.nisp.table import RESNET_RATIO, plan
from papers.registry import get_paper


@pytest.fixture(scope="module")
def data() -> Digits:
    digits = Digits(size=28, batch_size=60)
    digits.setup()
    return digits


def nisp(seed: int = 0, **options: Any) -> NISP:
    torch.manual_seed(seed)
    return NISP(LeNet5(), **options)


def pruned(data: Any, seed: int = 0, **options: Any) -> NISP:
    method = nisp(seed, **options)
    torch.manual_seed(seed)
    method.prune(data)
    return method


def fit(method: NISP, data: Any, folder: Path, epochs: int = 1) -> None:
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)


def widths(network: nn.Module) -> dict[str, int]:
    return {name.removesuffix(".weight"): len(w) for name, w in network.named_parameters() if name.endswith("weight")}


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# --- rounds, and what is measured when ----------------------------------------------------------------------------------


def test_three_rounds_reach_the_ratio(data: Digits) -> None:
    method = nisp(ratio=0.9, rounds=3)
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", EmptiedLayerWarning)
        for _ in range(3):
            method.prune(data)
            seen.append(tuple(widths(method.network).values()))
    assert seen == [(4, 11, 84, 59, 10), (2, 6, 48, 34, 10), (1, 2, 12, 8, 10)]
    once = pruned(data, ratio=0.9)
    assert widths(once.network) == widths(method.network)


def test_rounds_share_the_epochs_of_one() -> None:
    for scale in ("demo", "paper"):
        arms = {arm.name: arm for arm in plan(scale).arms}
        for name, arm in arms.items():
            if "nisp_iterative" in name:
                once = arms[name.replace("nisp_iterative", "nisp")]
                assert sum(p.epochs or 0 for p in arm.phases) == sum(p.epochs or 0 for p in once.phases)
                assert [p.compute for p in arm.phases] == ["prune", None] * 3


def test_the_curve_is_the_test_accuracy_of_every_epoch(data: Digits, tmp_path: Path) -> None:
    method = nisp(tracked_epochs=3, lr=1e-3)
    dense = copy.deepcopy(method.network).eval()
    method.prune(data)
    before = copy.deepcopy(method.network).eval()
    fit(method, data, tmp_path, epochs=3)
    x, y = data.inputs("test"), data.labels("test")

    def accuracy(network: nn.Module) -> float:
        with torch.no_grad():
            return 100 * float((network(x).argmax(1) == y).double().mean())

    found = PruningBenchmark().measure(method, data)
    curve = found.cost["accuracy_by_epoch"]
    assert len(curve) == 4
    assert curve[0] == pytest.approx(accuracy(before))
    assert found.metrics[AFTER_PRUNING]["accuracy"] == pytest.approx(accuracy(before))
    assert found.metrics["test"]["accuracy"] == pytest.approx(curve[-1]) == pytest.approx(accuracy(method.network))
    assert curve[-1] > curve[0]
    assert found.cost["dense_accuracy"] == pytest.approx(accuracy(dense))
    assert found.metrics["test"][EPOCHS] == epochs_to_recover([v / 100 for v in curve], accuracy(dense) / 100)


def test_epochs_to_recover() -> None:
    assert epochs_to_recover([0.5, 0.9, 0.97, 0.99], 0.98) == 2
    assert epochs_to_recover([0.97, 0.9], 0.98) == 0
    assert epochs_to_recover([0.5, 0.9], 0.98) == 2  # one more than there are
    assert epochs_to_recover([0.5, 0.975, 0.9], 0.98) == 1


def test_a_state_of_any_moment_fits_a_new_method(data: Digits, tmp_path: Path) -> None:
    options: dict[str, Any] = {"ratio": 0.5, "rounds": 3, "tracked_epochs": 3}
    method = pruned(data, **options)
    fit(method, data, tmp_path)
    method.prune(data)
    again = nisp(seed=3, **options)
    again.load_state_dict(method.state_dict())
    x = data.inputs("test")[:5]
    torch.testing.assert_close(again.network.eval()(x), method.network.eval()(x))
    assert torch.equal(again.after_pruning, method.after_pruning)
    assert torch.equal(again.curve, method.curve)
    assert int(again.rounds_done) == 2
    again.prune(data)
    assert widths(again.network) == {"conv1": 3, "conv2": 8, "fc1": 60, "fc2": 42, "fc3": 10}


def test_a_fit_without_a_phase_of_its_own_prunes_first_and_trains_the_small_network(
    data: Digits, tmp_path: Path
) -> None:
    method = nisp(ratio=0.5, lr=1e-3)
    fit(method, data, tmp_path)
    assert widths(method.network)["fc1"] == 60
    trained = copy.deepcopy(method.network)
    fit(method, data, tmp_path)
    assert widths(method.network)["fc1"] == 60
    assert not same_weights(trained, method.network)


def test_weights_are_those_of_the_file_and_are_not_touched_before_pruning(data: Digits, tmp_path: Path) -> None:
    torch.manual_seed(7)
    start = LeNet5()
    save_weights(start, tmp_path / "dense.safetensors")
    assert same_weights(nisp(weights=str(tmp_path / "dense.safetensors")).network, start)


# --- the table ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["smoke", "demo", "real", "paper"])
def test_every_arm_of_every_scale_can_be_built_and_judged(scale: str) -> None:
    table, paper, distinct = plan(scale), get_paper("nisp"), dict[str, dict[str, Any]]()
    names = {arm.name for arm in table.arms}
    for claim in table.claims:
        assert set(claim.arms) <= names, claim.key
    assert len({claim.key for claim in table.claims}) == len(table.claims)
    assert {arm.baseline for arm in table.arms} - {None} <= names
    if scale != "real":
        assert len(plan_runs(table.arms, table.seeds, Path("/data"))) == len(names) * len(table.seeds)
    for arm in table.arms:
        for parent in parents(arm.method):
            assert parent in table.arms  # the dense network is trained once a seed and is a row
            assert WeightsOf(parent).kept == "network"
        options = {name: value for name, value in arm.method.options if name not in ("weights", "ratio")}
        if "resnet110" not in arm.name:
            distinct.setdefault(repr(options), options)
    for options in distinct.values():
        assert build(Spec("papers.nisp.method.NISP", tuple(options.items())), Place()).original_weights
    if scale == "paper":
        assert {entry["row"] for entry in paper.reported} >= {
            arm.reported for arm in table.arms if "nisp_43.75" in arm.name
        }


def test_dense_networks_are_trained_once() -> None:
    trained = {arm.name: arm.phases[0].epochs for arm in plan("demo").arms if arm.phases[0].name == "train"}
    assert trained == {"dense": 15, "resnet8_dense": 10}


@pytest.mark.parametrize(("depth", "macs", "parameters"), [(56, 43.61, 42.60), (110, 43.78, 43.25)])
def test_the_ratio_of_the_resnets_gives_the_reported_savings_within_a_point(
    depth: int, macs: float, parameters: float
) -> None:
    dense = CifarResNet(depth)
    inner = [
        round(len(block.conv1.weight) * (1 - RESNET_RATIO))
        for stage in (dense.layer1, dense.layer2, dense.layer3)
        for block in stage
    ]
    before, after = (measure_cost(network, (3, 32, 32)) for network in (dense, CifarResNet(depth, inner=inner)))
    assert 100 * (1 - after.macs / before.macs) == pytest.approx(macs, abs=1)
    assert 100 * (1 - after.parameters / before.parameters) == pytest.approx(parameters, abs=1)
