"""NISP's method: the sweep, its controls, real removal, and bad input."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.backbones.cifar_resnet import CifarResNet
from common.backbones.lenet import LeNet5
from common.cost import measure_cost
from common.pruning import ChannelGraph, EmptiedLayerWarning, mask_channels, redraw
from datasets.classification import Digits
from papers.nisp import criteria
from papers.nisp.benchmark import PruningBenchmark
from papers.nisp.method import NISP
from papers.nisp.networks import OnGreyImages
from papers.nisp.propagation import channel_scores, propagate


@pytest.fixture(scope="module")
def data() -> Digits:
    digits = Digits(size=28, batch_size=60)
    digits.setup()
    return digits


@pytest.fixture(scope="module")
def small() -> Digits:
    digits = Digits(size=8, batch_size=60)
    digits.setup()
    return digits


def nisp(seed: int = 0, network: nn.Module | None = None, **options: Any) -> NISP:
    torch.manual_seed(seed)
    return NISP(LeNet5() if network is None else network, **options)


def pruned(data: Any, seed: int = 0, network: nn.Module | None = None, **options: Any) -> NISP:
    method = nisp(seed, network, **options)
    torch.manual_seed(seed)
    method.prune(data)
    return method


def resnet8() -> nn.Module:
    return OnGreyImages(CifarResNet(8, shortcut="projection", width=0.5))


def widths(network: nn.Module) -> dict[str, int]:
    return {
        name: len(module.weight)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d)
    }


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# --- the sweep ----------------------------------------------------------------------------------------------------------


def mlp(second: list[list[float]]) -> nn.Sequential:
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3))
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor(second))
    return network


def test_importance_does_not_flow_from_pruned_neurons() -> None:
    """s_1 = [10 + 2, 1 + 4] keeps the first neuron; without the pruned first response s_1 = [2, 4] keeps the second."""
    network, image = mlp([[10.0, -1.0], [1.0, 2.0]]), torch.zeros(1, 2)
    graph, importance = ChannelGraph(network, image), torch.tensor([1.0, 2.0])
    half = {"0": 0.5, "2": 0.5}
    swept = criteria.choose_by_importance(network, graph, image, importance, "4", half)
    free = criteria.choose_by_importance(network, graph, image, importance, "4", half, zero_pruned=False)
    assert swept == {"2": [0], "0": [0]}
    assert free == {"2": [0], "0": [1]}


def test_magnitude_looks_at_incoming_weights_and_nisp_at_outgoing_ones() -> None:
    network, image = mlp([[0.1, 3.0], [0.1, 3.0]]), torch.zeros(1, 2)
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[5.0, -5.0], [1.0, 1.0]]))
    graph = ChannelGraph(network, image)
    assert criteria.choose_by_magnitude(network, graph, {"0": 0.5}) == {"0": [1]}
    assert criteria.choose_by_importance(network, graph, image, torch.ones(2), "4", {"0": 0.5}) == {"0": [0]}


def test_the_sweep_removes_the_channels_of_least_score(data: Digits) -> None:
    """By hand for the last two layers of LeNet-5, with the ranking of the method's own images."""
    method = nisp(ratio=0.5)
    torch.manual_seed(0)
    dense = copy.deepcopy(method.network)
    importance = method._importance("fc3", data)
    method.prune(data)
    fc2 = importance.argsort()[42:].sort().values
    fc1 = (dense.fc2.weight.detach().abs().double()[fc2].T @ importance[fc2]).argsort()[60:].sort().values
    assert torch.equal(method.network.fc2.weight, dense.fc2.weight[fc2][:, fc1])
    assert torch.equal(method.network.fc3.weight, dense.fc3.weight[:, fc2])


def test_responses_rank_the_final_layer_and_uniform_ones_do_not(data: Digits, small: Digits) -> None:
    def last(**options: Any) -> Tensor:
        return pruned(data, **options).network.fc3.weight

    assert not torch.equal(last(), last(ranking="uniform"))
    assert not torch.equal(last(), last(response_images=50))
    assert torch.equal(last(ranking="uniform"), last(ranking="uniform", response_images=50))


def test_final_responses_are_the_inputs_of_the_output_layer(data: Digits) -> None:
    method = nisp()
    graph = ChannelGraph(method.network, torch.zeros(1, 1, 28, 28))
    assert criteria.output_layer(graph) == "fc3"
    images = data.inputs("train")[:7]
    found = criteria.final_responses(method.network, "fc3", [images[:4], images[4:]])
    torch.testing.assert_close(found.float(), method.network.features(images).detach())
    assert len(torch.cat(method._response_batches(data))) == 1237  # fewer than are asked for


# --- removal ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["nisp", "magnitude", "random"])
def test_every_hidden_layer_loses_its_share_and_the_rest_computes_the_same(data: Digits, criterion: Any) -> None:
    method = nisp(criterion=criterion, ratio=0.5)
    dense, seen = copy.deepcopy(method.network), []
    choose = method._choose
    method._choose = lambda *a: seen.append(choose(*a)) or seen[0]
    torch.manual_seed(0)
    method.prune(data)
    assert widths(method.network) == {"conv1": 3, "conv2": 8, "fc1": 60, "fc2": 42, "fc3": 10}
    x = data.inputs("test")[:20]
    masked = mask_channels(dense, seen[0], x[:1])
    torch.testing.assert_close(method.network(x), masked(x), rtol=1e-5, atol=1e-5)
    cost = PruningBenchmark().measure(method, data).cost
    assert cost["macs"] < measure_cost(dense, (1, 28, 28)).macs / 3
    assert cost["prunable"] == method.original_weights == 61_470
    assert cost["remaining"] == pytest.approx(100 * cost["kept"] / 61_470)


def test_criteria_depend_on_what_they_should(data: Digits) -> None:
    def network(**options: Any) -> nn.Module:
        torch.manual_seed(5)
        start = LeNet5()
        return pruned(data, network=start, **options).network

    assert not same_weights(network(criterion="random", seed=0), network(criterion="random", seed=1))
    assert same_weights(network(criterion="random", seed=0), network(criterion="random", seed=0))
    assert same_weights(network(criterion="magnitude", seed=0), network(criterion="magnitude", seed=1))
    assert not same_weights(network(), network(criterion="magnitude"))


def test_the_channels_of_a_stage_go_together(small: Digits) -> None:
    method = pruned(small, network=resnet8(), ratio=0.5, response_images=100)
    found = {name.removeprefix("network."): count for name, count in widths(method.network).items()}
    for stage, width in (("layer1", 4), ("layer2", 8), ("layer3", 16)):
        assert {count for name, count in found.items() if name.startswith(stage)} == {width}
    assert found["conv1"] == 4
    assert found["linear"] == 10


def test_a_stage_is_scored_at_all_its_points() -> None:
    torch.manual_seed(1)
    network, image = CifarResNet(14, shortcut="projection"), torch.zeros(1, 3, 8, 8)
    with torch.no_grad():  # blocks that add little, so that no point outweighs the others
        for block in network.layer1:
            block.conv1.weight.mul_(0.02)
    graph, importance = ChannelGraph(network, image), torch.rand(64)
    layers = graph.group_of("conv1").layers
    assert layers == ("conv1", "layer1.0.conv2", "layer1.1.conv2")
    removed = criteria.choose_by_importance(network, graph, image, importance, "linear", {"conv1": 0.5})
    maps = propagate(network, image, importance, "linear")
    points = [channel_scores(maps[name]) for name in layers]

    def lowest(scores: Tensor) -> list[int]:
        return sorted(scores.argsort()[:8].tolist())

    assert removed == {"conv1": lowest(torch.stack(points).sum(0))}
    assert all(removed != {"conv1": lowest(scores)} for scores in points)


def test_normalisations_can_scale_scores(small: Digits) -> None:
    """A channel with gamma 0 is dead: it goes first where normalisations scale, whatever its filter."""
    torch.manual_seed(0)
    start = resnet8()
    norm = start.network.layer3[0].bn1
    with torch.no_grad():
        norm.weight.fill_(1.0)
        norm.bias.copy_(torch.arange(32.0))
        norm.weight[:16] = 0.0
    scaled = pruned(small, network=copy.deepcopy(start), norms="scale", response_images=100)
    plain = pruned(small, network=copy.deepcopy(start), response_images=100)
    assert scaled.network.network.layer3[0].bn1.bias.tolist() == list(range(16, 32))
    assert plain.network.network.layer3[0].bn1.bias.tolist() != list(range(16, 32))


def test_shortcuts_without_parameters_leave_the_first_convolutions(small: Digits) -> None:
    method = pruned(small, network=OnGreyImages(CifarResNet(8, width=0.5)), ratio=0.5, response_images=100)
    found = widths(method.network)
    for stage, width in (("layer1", 8), ("layer2", 16), ("layer3", 32)):
        assert found[f"network.{stage}.0.conv1"] == width // 2
        assert found[f"network.{stage}.0.conv2"] == width


def test_layers_have_ratios_of_their_own(data: Digits) -> None:
    method = pruned(data, ratio=0.5, layer_ratios={"fc1": 0.0, "conv2": 0.75})
    assert widths(method.network) == {"conv1": 3, "conv2": 4, "fc1": 120, "fc2": 42, "fc3": 10}


def test_a_layer_that_would_lose_everything_keeps_one_channel(data: Digits) -> None:
    with pytest.warns(EmptiedLayerWarning, match="conv1, conv2; one channel each") as caught:
        method = pruned(data, ratio=0.98)
    assert len([w for w in caught if issubclass(w.category, EmptiedLayerWarning)]) == 1
    assert widths(method.network) == {"conv1": 1, "conv2": 1, "fc1": 2, "fc2": 2, "fc3": 10}


def test_from_scratch_is_the_same_network_with_other_weights(data: Digits) -> None:
    kept, scratch = pruned(data), pruned(data, redraw=True)
    assert widths(kept.network) == widths(scratch.network)
    assert not same_weights(kept.network, scratch.network)
    redraw(kept.network, scratch._seed("scratch"))
    assert same_weights(kept.network, scratch.network)


# --- bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": 1.0}, r"sparsity is 1\.0"),
        ({"ratio": -0.1}, r"sparsity is -0\.1"),
        ({"layer_ratios": {"fc1": 1.0}}, r"sparsity is 1\.0"),
        ({"layer_ratios": {"fc9": 0.5}}, "layer_ratios names fc9; there are conv1"),
        ({"criterion": "taylor"}, "criterion is 'taylor'; expected one of .*magnitude"),
        ({"norms": "fold"}, "norms is 'fold'"),
        ({"response_images": 1}, "response_images=1"),
        ({"rounds": 0}, "rounds=0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        nisp(**options)


def test_networks_that_cannot_be_pruned_are_refused(data: Digits, small: Digits) -> None:
    with pytest.raises(ValueError, match="no hidden layer"):
        pruned(data, network=nn.Sequential(nn.Flatten(), nn.Linear(784, 10)))
    with pytest.raises(ValueError, match="give them the same ratio"):
        pruned(small, network=resnet8(), layer_ratios={"network.layer1.0.conv2": 0.2})
