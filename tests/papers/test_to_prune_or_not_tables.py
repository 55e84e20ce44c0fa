"""Gradual pruning's tables: networks of a width, their footprints, matched sparsities, and arms that can be built and judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from common.backbones.cifar_resnet import CifarResNet
from common.backbones.lenet import LeNet300100
from common.experiment.arm import plan_runs
from common.experiment.records import RunRecord
from common.experiment.spec import Place, WeightsOf, build
from common.experiment.table import build_table
from common.pruning import prunable_weights
from papers.registry import get_paper
from papers.to_prune_or_not.crossing import crossings, curves, report
from papers.to_prune_or_not.footprint import MOBILENET_CIFAR_STRIDES, Footprint, convnet, lenet, mobilenet, resnet
from papers.to_prune_or_not.method import GradualPruning
from papers.to_prune_or_not.networks import ConvNet, MobileNet
from papers.to_prune_or_not.table import plan

NETWORKS: list[tuple[Any, Footprint, tuple[str, ...]]] = [
    *((lambda w=w: ConvNet(w), convnet(w, (16, 32, 64)), ("stem",)) for w in (1.0, 0.25)),
    *((lambda w=w: CifarResNet(20, width=w), resnet(20, w), ("conv1",)) for w in (1.0, 0.75, 0.25)),
    *((lambda h=h: LeNet300100(hidden=h), lenet(h), ()) for h in ((300, 100), (30, 10))),
]


@pytest.mark.parametrize(("make", "expected", "dense"), NETWORKS)
def test_footprints_are_those_of_the_networks(make: Any, expected: Footprint, dense: tuple[str, ...]) -> None:
    network = make()
    assert expected.parameters == sum(p.numel() for p in network.parameters())
    assert expected.prunable == sum(w.numel() for w in prunable_weights(network, dense).values())


@pytest.mark.parametrize(("width", "published"), [(1, 4_231_976), (0.75, 2_585_560), (0.5, 1_331_592), (0.25, 470_072)])
def test_mobilenets_have_their_published_sizes(width: float, published: int) -> None:
    with torch.device("meta"):
        network = MobileNet(width)
    assert sum(p.numel() for p in network.parameters()) == published
    dense = sum(w.numel() for w in prunable_weights(network, ("stem", "depthwise")).values())
    expected = mobilenet(width, tuple(32 * 2**k for k in (0, 1, 2, 2, 3, 3, 4, 4, 4, 4, 4, 4, 5, 5)))
    assert (expected.parameters, expected.prunable) == (published, dense)


def test_mobilenet_on_small_images() -> None:
    network = MobileNet(0.25, classes=10, strides=MOBILENET_CIFAR_STRIDES).eval()
    with torch.no_grad():
        assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
        features = network.stem(torch.rand(1, 3, 32, 32))
        for depthwise, pointwise in zip(network.depthwise, network.pointwise, strict=True):
            features = pointwise(depthwise(features))
    assert features.shape == (1, 256, 2, 2)


def test_matched_sparsity_gives_the_footprint_of_the_narrow_network() -> None:
    large, small = convnet(1, (16, 32, 64)), convnet(0.5, (16, 32, 64))
    sparsity = large.sparsity_for(small.parameters)
    assert sparsity == pytest.approx(1 - (6274 - 378) / 23680, abs=1e-6)
    assert large.nnz(sparsity) == pytest.approx(small.parameters, abs=0.05)
    with pytest.raises(ValueError, match="never fewer than the 378"):
        large.sparsity_for(300)
    with pytest.raises(ValueError, match="cannot be matched"):
        small.sparsity_for(large.parameters)


@pytest.mark.parametrize("scale", ["smoke", "demo", "paper"])
def test_every_arm_of_every_scale_can_be_built_and_judged(scale: str) -> None:
    table, paper = plan(scale), get_paper("to_prune_or_not")
    names = {arm.name for arm in table.arms}
    for claim in table.claims:
        assert set(claim.arms) <= names, claim.key
    assert len({claim.key for claim in table.claims}) == len(table.claims)
    assert {arm.baseline for arm in table.arms} - {None} <= names
    starts = {arm.parents[0].name for arm in table.arms}
    assert len(plan_runs(table.arms, table.seeds, Path("/data"))) == (len(names) + len(starts)) * len(table.seeds)
    theirs = {entry["row"] for entry in paper.reported if entry["row"].startswith("mobilenet")}
    if scale == "paper":
        assert theirs <= {arm.reported for arm in table.arms}
    for arm in table.arms:
        if "mobilenet" in arm.name:
            continue
        method = build(arm.method.replace(weights=None), Place())
        last = method.last_update if method.schedule else 0
        assert last < (arm.phases[0].steps or 0)
        assert isinstance(dict(arm.method.options)["weights"], WeightsOf)
        build(arm.benchmark, Place())


def test_networks_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="width is 0"):
        ConvNet(0)
    with pytest.raises(ValueError, match="as many strides as channels"):
        MobileNet(channels=(8, 16))


def test_arms_share_their_start_and_have_equal_lengths() -> None:
    """One dense start a width, and the same number of steps behind it for dense and pruned arms."""
    arms = {arm.name: arm for arm in plan("demo").arms}
    assert arms["dense_w1"].parents == arms["sparse_97.5"].parents == arms["one_shot_90"].parents
    assert arms["dense_w0.5"].parents == arms["w0.5_sparse_90"].parents != arms["dense_w1"].parents
    assert {arm.phases[0].steps for arm in arms.values()} == {400}


@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_matched_arms_have_the_footprint_of_what_they_are_compared_with(scale: str) -> None:
    """Claims C1 and C6 compare at equal NNZ: within half a percent, of the networks that are built."""
    arms = {arm.name: arm for arm in plan(scale).arms}

    def nnz(name: str) -> float:
        with torch.device("meta"):
            method = build(arms[name].method.replace(weights=None), Place())
        total = sum(p.numel() for p in method.network.parameters())
        return float(total - method.sparsity * method.masks.total)

    pairs = [claim for claim in plan(scale).claims if claim.key.startswith(("C1", "C6", "F2"))]
    assert len(pairs) > 5
    for claim in pairs:
        for test in claim.tests:
            one, other = (quantity.arm for quantity in test.quantities)
            assert nnz(one) == pytest.approx(nnz(other), rel=0.005), claim.key


def run(arm: str, seed: int, nnz: int, accuracy: float) -> RunRecord:
    cost = {"nnz": nnz, "remaining": nnz / 10, "kept": nnz, "macs": 1, "asked": 50, "sparsity": 49.9, "returned": 3}
    metrics = {"test": {"task": "classification", "accuracy": accuracy, "error": 100 - accuracy}}
    return RunRecord(arm, seed, "ok", metrics=metrics, cost=cost, correct={}, pairs={})


RUNS = [
    *(run("net_dense_w1", seed, 1000, 98) for seed in (0, 1)),
    *(run("net_sparse_90", seed, 100, accuracy) for seed, accuracy in ((0, 90), (1, 94))),
    run("net_sparse_99", 0, 10, 50),
    run("net_one_shot_90", 0, 100, 10),
    run("net_dense_w0.5", 0, 100, 90),
    run("net_w0.5_sparse_90", 0, 10, 60),
]


def test_curves_cross_where_they_do_by_hand() -> None:
    """2 points behind at 100, 10 ahead at 10: they meet at a sixth of the way down, 100 / 10^(1/6)."""
    found = curves(RUNS)
    assert found["net_"][1.0] == [(10, 50), (100, 92), (1000, 98)]
    assert found["net_"][0.5] == [(10, 60), (100, 90)]
    assert crossings(found["net_"][1.0], found["net_"][0.5]) == pytest.approx([100 / 10 ** (1 / 6)])
    assert report(found) == [
        "net_width 0.5 meets the curve of width 1 at 68 non-zero parameters; at 10 it lies above it"
    ]
    assert crossings([(10, 50), (100, 92)], [(10, 40), (100, 90)]) == []


def test_tables_show_nnz_and_what_came_back() -> None:
    plan_columns = plan("demo").columns
    table = build_table([RUNS[4]], [{"name": "net_sparse_99"}], key="k", title="t", scale="demo", further=plan_columns)
    row = table.rows[0].cells
    shown = {name: row[name].mean for name in ("asked", "sparsity", "returned", "nnz", "remaining")}
    assert shown == {"asked": 50, "sparsity": 49.9, "returned": 3, "nnz": 10, "remaining": 1}
    assert [column.help for column in table.columns if column.key == "remaining"] == [plan_columns[1][3]]


def test_the_schedule_has_the_papers_values_by_hand() -> None:
    """s_i = 0, s_f = .9, t_0 = 0, n dt = 100."""
    method = GradualPruning(ConvNet(0.25), sparsity=0.9, begin=0, end=100, every=1)
    assert method.schedule is not None
    values = {step: method.schedule.sparsity(step) for step in (0, 10, 25, 50, 75, 100, 101)}
    expected = {0: 0, 10: 0.2439, 25: 0.5203125, 50: 0.7875, 75: 0.8859375, 100: 0.9, 101: 0.9}
    assert values == pytest.approx(expected, abs=1e-12)
