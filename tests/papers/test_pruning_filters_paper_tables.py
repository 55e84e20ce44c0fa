"""Filter pruning's sensitivity sweep, its figure, and that every arm of every scale can be built and judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.backbones.cifar_plain import VGG
from common.backbones.cifar_resnet import CifarResNet
from common.cost import count_macs
from common.experiment.arm import plan_runs
from common.experiment.records import RunRecord, seal_results
from common.experiment.spec import DataFile, DataRoot, Place, Spec, WeightsOf, build
from common.manifest import read_manifest
from common.pruning import choose_channels, remove_channels
from datasets.classification import Digits
from papers.drawing import own_figures
from papers.pruning_filters import scale_demo
from papers.pruning_filters.configurations import ORDER, convolutions
from papers.pruning_filters.criteria import filter_scores
from papers.pruning_filters.figures import draw, mean_curves
from papers.pruning_filters.method import FilterPruning
from papers.pruning_filters.networks import for_grey_images
from papers.pruning_filters.sensitivity import Sensitivity, order_of_criteria
from papers.pruning_filters.suffix import Operations
from papers.pruning_filters.table import plan
from papers.registry import get_paper

PLAN: tuple[int | str, ...] = (4, 6, "pool", 8)


@pytest.fixture(scope="module")
def data() -> Digits:
    digits = Digits(size=8, batch_size=50)
    digits.setup()
    return digits


def plain() -> nn.Module:
    torch.manual_seed(0)
    return for_grey_images(VGG(plan=PLAN, hidden=(9,), bias=False, last_pool="average", input_size=8)).eval()


def residual() -> nn.Module:
    torch.manual_seed(0)
    return for_grey_images(CifarResNet(14, width=0.25)).eval()


@pytest.mark.parametrize("made", [plain, residual])
def test_a_sweep_gives_what_every_pruned_network_gives_alone(data: Digits, made: Any) -> None:
    method = FilterPruning(made())
    graph, x = method.graph(data), data.inputs("test")[:30]
    names = Sensitivity({"l1_smallest": (50,)})._swept(method.network, graph)
    scores = filter_scores("l1_smallest", method.network, names)
    variants = {}
    for name in names:
        gone = [choose_channels(graph, {name: scores[name]}, share) for share in (0.3, 0.7)]
        variants[name] = [remove_channels(method.network, removed, graph=graph) for removed in gone]
    with torch.inference_mode():
        whole, found = Operations(method.network).sweep(method.network, variants, x)
        assert torch.equal(whole, method.network(x))
        for name, networks in variants.items():
            for small, logits in zip(networks, found[name], strict=True):
                assert torch.equal(logits, small(x)), name
                assert not torch.equal(logits, whole)
    expected = [f"layer{s}.{b}.conv1" for s in (1, 2, 3) for b in (0, 1)] if made is residual else convolutions(PLAN)
    assert names == expected


def test_what_comes_before_a_layer_is_computed_once_for_all_variants(data: Digits) -> None:
    """The stem runs once a batch, whatever the number of variants; the last layer once more for each."""
    net = residual()
    calls = {"conv1": 0, "linear": 0}
    for name in calls:
        net.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    Operations(net).sweep(net, {"layer3.1.conv1": [net, net, net]}, data.inputs("test")[:4])
    assert calls == {"conv1": 1, "linear": 4}
    with pytest.raises(ValueError, match="uses no layer9"):
        Operations(net).sweep(net, {"layer9": [net]}, data.inputs("test")[:4])


def test_the_benchmark_measures_every_layer_and_share(data: Digits) -> None:
    layers = convolutions(PLAN)
    shares = {"l1_smallest": (50, 90), "random": (50,), "l1_largest": (50,)}
    benchmark = Sensitivity(
        shares, retrained=(50,), retrain_steps=2, parts_of_network={"early": layers[:2], "late": layers[2:]}
    )
    method = FilterPruning(plain(), lr=0.01)
    found = benchmark.measure(method, data)
    points = found.metrics["test"]["sensitivity"]
    assert len(points) == 3 * 5
    graph, labels = method.graph(data), data.labels("test")
    single = next(p for p in points if (p["layer"], p["percent"], p["criterion"]) == (layers[1], 90, "l1_smallest"))
    assert (single["place"], single["kept"], single["filters"], single["retrained"]) == (2, 1, 6, False)
    scores = filter_scores("l1_smallest", method.network, [layers[1]])
    small = remove_channels(method.network, choose_channels(graph, scores, 0.9), graph=graph).eval()
    right = (small(data.inputs("test")).argmax(1) == labels).numpy()
    assert single["accuracy"] == pytest.approx(100 * right.mean())
    assert single["worst_class"] == pytest.approx(100 * min(right[labels == label].mean() for label in range(10)))
    raw = [p for p in points if (p["percent"], p["criterion"], p["retrained"]) == (50, "l1_smallest", False)]
    half = {p["layer"]: p["accuracy"] for p in raw}
    assert found.metrics["early"]["accuracy"] == pytest.approx((half[layers[0]] + half[layers[1]]) / 2)
    assert found.metrics["late"]["accuracy"] == pytest.approx(half[layers[2]])
    assert (found.metrics["early"]["pairs"], found.metrics["early"]["subjects"]) == (720, 360)
    assert found.metrics[ORDER]["pairs"] == 3
    assert sum(p["retrained"] for p in points) == 3
    assert found.cost["remaining"] == 100
    again = benchmark.measure(FilterPruning(plain(), lr=0.01), data).metrics["test"]["sensitivity"]
    assert again == points


def test_a_sweep_by_feature_maps_chooses_what_the_method_chooses(data: Digits) -> None:
    benchmark = Sensitivity({"mean_std": (50,), "var_l2": (50,)}, layers=["feature.3"])
    found = benchmark.measure(FilterPruning(plain(), statistics_images=70), data).metrics["test"]["sensitivity"]
    for point in found:
        method = FilterPruning(plain(), ratios={"feature.3": 0.5}, criterion=point["criterion"], statistics_images=70)
        method.prune(data)
        right = (method.network.eval()(data.inputs("test")).argmax(1) == data.labels("test")).float().mean()
        assert point["accuracy"] == pytest.approx(100 * float(right))
    assert len(found) == 2


def test_retraining_a_point_changes_it_and_nothing_else(data: Digits) -> None:
    method = FilterPruning(plain(), lr=0.05)
    before = {name: value.clone() for name, value in method.network.state_dict().items()}
    benchmark = Sensitivity({"l1_smallest": (50,)}, layers=["feature.0"], retrained=(50,), retrain_steps=60)
    raw, tuned = benchmark.measure(method, data).metrics["test"]["sensitivity"]
    assert tuned["accuracy"] > raw["accuracy"] + 10
    assert all(torch.equal(value, before[name]) for name, value in method.network.state_dict().items())
    with pytest.raises(ValueError, match=r"expected shares in \[0, 100\)"):
        Sensitivity({"l1_smallest": (100,)})


def test_the_order_of_the_criteria() -> None:
    def row(criterion: str, accuracy: float, percent: float = 50, retrained: bool = False) -> dict[str, Any]:
        return {
            "layer": "a", "percent": percent, "criterion": criterion, "accuracy": accuracy, "retrained": retrained,
        }  # fmt: skip

    def order(smallest: float, random: float, largest: float, percent: float = 50) -> list[float]:
        triple = zip(("l1_smallest", "random", "l1_largest"), (smallest, random, largest), strict=True)
        return [float(value) for value in order_of_criteria([row(name, value, percent) for name, value in triple])]

    assert order(80, 80, 60) == [0]  # smallest may equal random
    assert order(90, 80, 60) == [10]
    assert order(90, 80, 80)[0] < 0  # random has to beat largest
    assert order(70, 80, 60) == [-10]
    assert order(90, 80, 60, percent=30) == []
    assert len(order_of_criteria([row("l1_smallest", 90), row("random", 80)])) == 0


def sweep_record(arm: str, shares: tuple[float, ...], accuracy: float, retrained: bool = False) -> RunRecord:
    points = [
        {"layer": f"c{place}", "place": place, "criterion": criterion, "percent": share, "accuracy": accuracy - place,
         "worst_class": 0.0, "kept": 1, "filters": 2, "retrained": again}
        for place in (1, 2) for share in shares for criterion in ("l1_smallest", "random")
        for again in (False, True)[: 1 + retrained]
    ]  # fmt: skip
    return RunRecord(arm, int(accuracy), "ok", metrics={"test": {"accuracy": 95.0, "sensitivity": points}})


def test_the_figure_is_drawn_from_stored_runs_and_is_always_the_same(tmp_path: Path) -> None:
    records = [sweep_record("few", (50, 90), 80)]
    captions = draw(records, tmp_path / "demo")
    assert list(captions) == ["demo-sensitivity.svg"]
    first = (tmp_path / "demo-sensitivity.svg").read_bytes()
    assert b"<svg" in first
    draw(records, tmp_path / "demo")
    assert (tmp_path / "demo-sensitivity.svg").read_bytes() == first
    draw([sweep_record("many", (10, 30, 50, 70), 70, retrained=True)], tmp_path / "demo")
    assert (tmp_path / "demo-sensitivity.svg").read_bytes() != first
    assert draw([RunRecord("dense", 0, "ok", metrics={"test": {"accuracy": 95.0}})], tmp_path / "none") == {}
    assert not (tmp_path / "none-sensitivity.svg").exists()


def test_the_table_takes_up_figures_of_a_paper_that_draws_some(tmp_path: Path) -> None:
    record = sweep_record("few", (50, 90), 80)
    assert list(own_figures(get_paper("pruning_filters"), [record], tmp_path / "demo")) == ["demo-sensitivity.svg"]
    (tmp_path / "demo").mkdir()
    seal_results(tmp_path / "demo")
    assert "../demo-sensitivity.svg" in read_manifest(tmp_path / "demo")
    assert own_figures(get_paper("snip"), [record], tmp_path / "snip") == {}


def test_curves_are_means_over_seeds() -> None:
    curves = mean_curves([sweep_record("a", (10, 50), 90), sweep_record("a", (10, 50), 80)])
    assert curves["c1", 1, "l1_smallest", False] == {10: 84, 50: 84}


@pytest.mark.parametrize("scale", ["smoke", "demo", "real", "paper"])
def test_every_arm_of_every_scale_can_be_built_and_judged(scale: str, tmp_path: Path) -> None:
    table, paper = plan(scale), get_paper("pruning_filters")
    names = {arm.name for arm in table.arms}
    for claim in table.claims:
        assert set(claim.arms) <= names, claim.key
    judged = {name for claim in table.claims for name in claim.arms}
    assert len({repr(arm.data) for arm in table.arms if arm.name in judged}) <= 1, "one set of images a table"
    assert {arm.baseline for arm in table.arms} - {None} <= names
    rows = {entry["row"] for entry in paper.reported}
    assert not (
        {arm.reported for arm in table.arms} & rows if scale != "paper" else rows - {arm.reported for arm in table.arms}
    )
    if scale == "real":
        return  # names files of the data root
    assert len(plan_runs(table.arms, table.seeds, tmp_path)) == len(names) * len(table.seeds)
    for arm in table.arms if scale != "paper" else ():
        options = {k: v for k, v in arm.method.options if not isinstance(v, WeightsOf | DataFile)}
        assert isinstance(build(Spec(arm.method.target, tuple(options.items())), Place()), FilterPruning)
        build(arm.benchmark, Place())


def test_the_real_scale_trains_nothing() -> None:
    arms = plan("real").arms
    assert all(phase.compute == "prune" for arm in arms for phase in arm.phases)
    assert all(dict(arm.data.options)["root"] == DataRoot() for arm in arms)
    assert {arm.name for arm in arms} >= {f"resnet{depth}_sensitivity" for depth in (20, 32, 56)}


def test_greedy_is_independent_where_only_first_convolutions_are_pruned(data: Digits) -> None:
    """Their inputs are streams that lose nothing, which is why the real scale has no greedy arm."""
    ratios = {f"layer{s}.{b}.conv1": 0.5 for s in (1, 2, 3) for b in (0, 1)}
    found = []
    for greedy in (False, True):
        method = FilterPruning(residual(), ratios=ratios, greedy=greedy)
        found.append(method.select(data, method.graph(data)))
    assert found[0] == found[1]
    assert len(found[0]) == 6


def test_the_two_ways_through_residual_blocks_cost_the_same(data: Digits) -> None:
    """C6 compares them at equal multiply-accumulates."""
    network = next(arm for arm in plan("demo").arms if arm.name == "resnet_dense").method
    sizes = []
    for ratios in (scale_demo.RESIDUAL_FIRST, scale_demo.RESIDUAL_SECOND):
        method = FilterPruning(build(dict(network.options)["network"], Place()), ratios=ratios)
        method.prune(data)
        sizes.append(count_macs(method.network, (1, 8, 8)))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_demo_a_is_the_papers_a_in_small() -> None:
    assert list(scale_demo.DEMO_A) == [convolutions(scale_demo.DEMO_PLAN)[i] for i in (0, 4, 5, 6)]
    assert set(scale_demo.DEMO_A.values()) == {0.5}
