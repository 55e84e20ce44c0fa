"""Filter pruning's method: which filters go, what goes with them, and that nothing else of the network changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from torch import Tensor, nn

from common.backbones.cifar_plain import VGG, VGG16
from common.backbones.cifar_resnet import CifarResNet
from common.cost import count_macs
from common.evaluation.classification import ClassificationBenchmark
from common.pruning import ChannelGraph, EmptiedLayerWarning, mask_channels, prunable_weights
from common.weights import save_weights
from datasets.classification import Digits
from papers.pruning_filters import configurations
from papers.pruning_filters.class_subset import ClassSubset
from papers.pruning_filters.configurations import convolutions, first_convolutions, of_depth, uniform
from papers.pruning_filters.criteria import ACTIVATIONS, activation_statistics, filter_scores, select_filters
from papers.pruning_filters.method import FilterPruning
from papers.pruning_filters.networks import ResNet34, for_grey_images

PLAN: tuple[int | str, ...] = (8, 8, "pool", 12, 12)
LAYERS = convolutions(PLAN)


@pytest.fixture(scope="module")
def data() -> Digits:
    digits = Digits(size=8, batch_size=50)
    digits.setup()
    return digits


def network(seed: int = 0) -> nn.Module:
    """A small VGG whose normalisations have seen something, so that every one of their entries matters."""
    torch.manual_seed(seed)
    made = for_grey_images(VGG(plan=PLAN, hidden=(9,), bias=False, last_pool="average", input_size=8))
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return made.eval()


def pruned(data: Any, **options: Any) -> FilterPruning:
    method = FilterPruning(network(), **options)
    torch.manual_seed(0)
    method.prune(data)
    method.eval()
    return method


def fit(method: FilterPruning, data: Any, folder: Path, steps: int = 4) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    return trainer


# -- which filters ------------------------------------------------------------------------------------------------------


def two_layers() -> tuple[nn.Sequential, ChannelGraph]:
    """The card's hand check: l1 sums 3, 1, 2 in the first layer; kernels 1, 9, 1 and 3, 3, 3 in the second."""
    net = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([3.0, -1.0, 2.0]).view(3, 1, 1, 1))  # type: ignore[operator]
        net[1].weight.copy_(torch.tensor([[1.0, 9.0, -1.0], [3.0, -3.0, 3.0]]).view(2, 3, 1, 1))  # type: ignore[operator]
    return net, ChannelGraph(net, torch.rand(1, 1, 2, 2))


def test_greedy_counts_only_kernels_of_maps_that_are_left() -> None:
    net, graph = two_layers()
    ratios = {"0": 0.3, "1": 0.5}
    assert select_filters(net, graph, ratios) == {"0": [1], "1": [1]}
    assert select_filters(net, graph, ratios, greedy=True) == {"0": [1], "1": [0]}
    assert select_filters(net, graph, {"1": 0.5, "0": 0.3}, greedy=True) == {"0": [1], "1": [0]}  # front to back anyway
    assert select_filters(net, graph, ratios, "l1_largest") == {"0": [0], "1": [0]}
    assert select_filters(net, graph, {"1": 0.5}, greedy=True) == {"1": [1]}


def test_greedy_and_independent_of_the_golden_vectors(golden: Path) -> None:
    vectors = np.load(golden / "pruning_filters/derived_greedy_vs_independent.npz")
    net = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 7, 3, bias=False), nn.Conv2d(7, 1, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.from_numpy(vectors["W1"]))  # type: ignore[operator]
        net[1].weight.copy_(torch.from_numpy(vectors["W2"]))  # type: ignore[operator]
    graph = ChannelGraph(net, torch.rand(1, 3, 8, 8))
    ratios = {"0": 0.5, "1": 0.42}
    for greedy, key in ((False, "drop_layer2_independent"), (True, "drop_layer2_greedy")):
        found = select_filters(net, graph, ratios, greedy=greedy)
        assert found["0"] == sorted(vectors["drop_layer1"].tolist())
        assert found["1"] == sorted(vectors[key].tolist())


def golden_state(vectors: Any, prefix: str, rename: tuple[str, str] = ("", "")) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix).replace(*rename): torch.from_numpy(vectors[key])
        for key in vectors.files
        if key.startswith(prefix)
    }


class Shape:
    """As much of a data module as the surgery looks at."""

    in_channels, image_size = 3, (32, 32)


def test_the_method_makes_liu_et_als_pruned_vgg(golden: Path) -> None:
    vectors = np.load(golden / "pruning_filters/rethinking_vgg_l1.npz")
    plan = ["pool" if width < 0 else int(width) for width in vectors["cfg_before"]]
    after = [int(width) for width in vectors["cfg_after"] if width > 0]
    net = VGG(plan=plan, hidden=(9,), bias=False, last_pool="average")
    net.load_state_dict(golden_state(vectors, "before_"))
    before = [int(width) for width in vectors["cfg_before"] if width > 0]
    ratios = {name: 1 - (b + 0.5) / a for name, a, b in zip(convolutions(plan), before, after, strict=True) if a != b}
    method = FilterPruning(net, ratios=ratios)
    method.prune(Shape())
    for name, value in golden_state(vectors, "after_").items():
        torch.testing.assert_close(method.network.state_dict()[name], value, rtol=0, atol=0, msg=name)
    logits = method.network.eval()(torch.from_numpy(vectors["x"])).detach()
    torch.testing.assert_close(logits, torch.from_numpy(vectors["logits_after"]), rtol=1e-5, atol=1e-5)


def test_the_method_makes_liu_et_als_pruned_resnet(golden: Path) -> None:
    vectors = np.load(golden / "pruning_filters/rethinking_resnet8_l1.npz")
    net = CifarResNet(8, shortcut="pool_pad")
    net.load_state_dict(golden_state(vectors, "before_", ("fc.", "linear.")))
    method = FilterPruning(net, ratios=of_depth(8, (0.6, 0.3, 0.1), (4,)))
    method.prune(Shape())
    logits = method.network.eval()(torch.from_numpy(vectors["x"])).detach()
    torch.testing.assert_close(logits, torch.from_numpy(vectors["logits_after"]), rtol=1e-5, atol=1e-5)
    inner = [method.network.get_submodule(f"layer{i}.0.conv1").out_channels for i in (1, 2, 3)]
    assert inner == vectors["cfg_after"].tolist()


def test_statistics_of_feature_maps_by_hand() -> None:
    """Before normalisation and ReLU, in eval mode, over several batches."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, -2.0]).view(2, 1, 1, 1))  # type: ignore[operator]
    images = torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, -8.0]]).view(3, 1, 1, 2)
    found = activation_statistics(net, ["0"], [(images[:2],), (images[2:],)])
    expected = {
        "mean_mean": (3.5 + 0 - 1) / 3,
        "mean_std": (0.5 + 0 + 7) / 3,
        "mean_l1": (7 + 0 + 14) / 3,
        "mean_l2": (5 + 0 + 10) / 3,
        "var_l2": (25 + 0 + 100) / 3 - 25,
    }
    assert set(expected) == set(ACTIVATIONS)
    factors = {"mean_mean": -2, "mean_std": 2, "mean_l1": 2, "mean_l2": 2, "var_l2": 4}
    for key, value in expected.items():
        assert found[key]["0"].tolist() == pytest.approx([value, factors[key] * value]), key
    assert int(net[1].num_batches_tracked) == 0  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there was no batch"):
        filter_scores("mean_std", net, ["0"])


def test_criteria_and_ties() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, (1, 2), bias=False), nn.Conv2d(3, 1, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0, 4.0], [0.0, -6.0], [6.0, 0.0]]).view(3, 1, 1, 2))  # type: ignore[operator]
    assert filter_scores("l1_smallest", net, ["0"])["0"].tolist() == [7, 6, 6]
    assert filter_scores("l1_largest", net, ["0"])["0"].tolist() == [-7, -6, -6]
    assert filter_scores("l2", net, ["0"])["0"].tolist() == pytest.approx([5, 6, 6])
    graph = ChannelGraph(net, torch.rand(1, 1, 3, 3))
    assert select_filters(net, graph, {"0": 0.3}) == {"0": [1]}
    random = [filter_scores("random", net, ["0"], seed=seed)["0"].tolist() for seed in (0, 0, 1)]
    assert random[0] == random[1] != random[2]


def test_a_projection_decides_for_the_second_convolutions() -> None:
    """(4): the indices of the shortcut's smallest filters, whatever the second convolutions' own are."""
    torch.manual_seed(0)
    net = CifarResNet(14, shortcut="projection")
    graph = ChannelGraph(net, torch.rand(2, 3, 8, 8))
    found = select_filters(net, graph, {"layer2.0.shortcut.0": 0.5})
    shortcut = net.get_submodule("layer2.0.shortcut.0").weight.detach().abs().flatten(1).sum(1)  # type: ignore[operator]
    assert found == {"layer2.0.shortcut.0": sorted(shortcut.argsort(stable=True)[:16].tolist())}
    method = FilterPruning(net, ratios={"layer2.0.shortcut.0": 0.5})
    method.prune(Shape())
    kept = sorted(set(range(32)) - set(found["layer2.0.shortcut.0"]))
    for name in ("layer2.0.conv2", "layer2.1.conv2"):
        weight = method.network.get_submodule(name).weight
        assert torch.equal(weight, net.get_submodule(name).weight[kept])  # type: ignore[index, arg-type]
    assert method.network.get_submodule("layer3.0.conv1").in_channels == 16
    with pytest.raises(ValueError, match="share their channels"):
        select_filters(net, graph, {"layer2.0.shortcut.0": 0.5, "layer2.1.conv2": 0.5})


# -- the smaller network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"greedy": True}, {"criterion": "random"}, {"criterion": "var_l2", "statistics_images": 60}]
)
def test_the_network_is_smaller_and_computes_what_the_masked_one_computes(
    data: Digits, options: dict[str, Any]
) -> None:
    ratios = uniform(LAYERS, 50)
    method, whole = pruned(data, ratios=ratios, **options), FilterPruning(network(), ratios=ratios, **options)
    torch.manual_seed(0)
    graph = whole.graph(data)
    masked = mask_channels(whole.network, whole.select(data, graph), graph=graph)
    x = data.inputs("test")[:20]
    torch.testing.assert_close(method.network(x), masked.eval()(x), rtol=1e-4, atol=1e-5)
    widths = [method.network.get_submodule(name).out_channels for name in LAYERS]
    assert widths == [4, 4, 6, 6]
    assert not torch.allclose(method.network(x), whole.network(x), atol=1e-3)
    assert int(method.pruned) == 1


def test_only_named_layers_lose_filters_and_dense_loses_none(data: Digits) -> None:
    method = pruned(data, ratios={LAYERS[1]: 0.3, LAYERS[2]: 0.0})
    assert [method.network.get_submodule(name).out_channels for name in LAYERS] == [8, 5, 12, 12]
    x = data.inputs("test")[:5]
    assert torch.equal(pruned(data).network(x), network()(x))


def test_a_layer_keeps_at_least_one_filter(data: Digits) -> None:
    with pytest.warns(EmptiedLayerWarning, match=LAYERS[0]):
        method = pruned(data, ratios={LAYERS[0]: 0.99})
    assert method.network.get_submodule(LAYERS[0]).out_channels == 1


def test_costs_are_counted_against_the_unpruned_network(data: Digits) -> None:
    method = pruned(data, ratios=uniform(LAYERS, 50))
    cost = ClassificationBenchmark().measure(method, data).cost
    before = sum(w.numel() for w in prunable_weights(network()).values())
    after = sum(w.numel() for w in prunable_weights(method.network).values())
    assert (cost["prunable"], cost["kept"]) == (before, after)
    assert cost["macs"] == count_macs(method.network, (1, 8, 8)) < 0.4 * count_macs(network(), (1, 8, 8))


def test_scratch_keeps_the_architecture_and_draws_the_rest(data: Digits) -> None:
    kept, scratch = (pruned(data, ratios=uniform(LAYERS, 50), scratch=value) for value in (False, True))
    for name, value in kept.network.state_dict().items():
        assert scratch.network.state_dict()[name].shape == value.shape
    assert not torch.equal(
        scratch.network.get_submodule(LAYERS[2]).weight, kept.network.get_submodule(LAYERS[2]).weight
    )  # type: ignore[arg-type]
    assert int(scratch.network.get_submodule("feature.1").running_mean.count_nonzero()) == 0  # type: ignore[operator, union-attr]


def test_the_retraining_is_constant_and_trains_everything(data: Digits, tmp_path: Path) -> None:
    method = pruned(data, ratios=uniform(LAYERS, 50), lr=0.01, validate_every=2)
    before = {name: value.clone() for name, value in method.network.named_parameters()}
    trainer = fit(method, data, tmp_path, steps=5)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.01
    assert all(not torch.equal(value, before[name]) for name, value in method.network.named_parameters())
    assert len(trainer.optimizers[0].param_groups[0]["params"]) == len(before)
    best = method.best_network()
    assert best is not None
    with torch.no_grad():
        right = [(best(x).argmax(1) == y).sum() for x, y in data.loader("validation")]
    assert float(method.best_accuracy) == pytest.approx(int(sum(right)) / 200)  # type: ignore[arg-type]
    dropping = FilterPruning(network(), lr=0.01, lr_drops=(0.5, 0.75))
    trainer = fit(dropping, data, tmp_path, steps=8)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0001)
    assert dropping.best_network() is None


def test_a_fit_without_a_phase_of_its_own_prunes_first_and_only_once(data: Digits, tmp_path: Path) -> None:
    method = FilterPruning(network(), ratios=uniform(LAYERS, 50))
    fit(method, data, tmp_path, steps=1)
    fit(method, data, tmp_path, steps=1)
    assert [method.network.get_submodule(name).out_channels for name in LAYERS] == [4, 4, 6, 6]


def test_a_run_that_was_killed_after_the_surgery_goes_on_with_the_small_network(data: Digits, tmp_path: Path) -> None:
    method = pruned(data, ratios=uniform(LAYERS, 50), lr=0.01, validate_every=1)
    fit(method, data, tmp_path, steps=2)
    resumed = FilterPruning(network(1), ratios=uniform(LAYERS, 50), lr=0.01, validate_every=1)
    resumed.load_state_dict(method.state_dict())
    resumed.eval()
    x = data.inputs("test")[:10]
    assert torch.equal(resumed.network(x), method.network.eval()(x))
    best, kept = resumed.best_network(), method.best_network()
    assert best is not None
    assert kept is not None
    assert torch.equal(best(x), kept(x))
    fit(resumed, data, tmp_path, steps=1)
    assert [resumed.network.get_submodule(name).out_channels for name in LAYERS] == [4, 4, 6, 6]


def test_trained_weights_come_from_a_file(data: Digits, tmp_path: Path) -> None:
    save_weights(network(3), tmp_path / "trained.safetensors")
    method = FilterPruning(network(), weights=str(tmp_path / "trained.safetensors"))
    x = data.inputs("test")[:5]
    assert torch.equal(method.network(x), network(3)(x))


# -- fewer classes ------------------------------------------------------------------------------------------------------


def test_a_subset_of_the_classes(data: Digits) -> None:
    few = ClassSubset(Digits(size=8, batch_size=20, seed=4), classes=(2, 5, 7))
    few.setup()
    assert few.class_names == ("2", "5", "7")
    assert (few.batch_size, few.seed, few.num_classes, few.in_channels, few.image_size) == (20, 4, 3, 1, (8, 8))
    for name in ("train", "validation", "test"):
        chosen = sum((data.labels(name) == label) for label in (2, 5, 7)).bool()  # type: ignore[union-attr]
        assert torch.equal(few.part(name).images, data.part(name).images[chosen])
        assert torch.equal(torch.tensor([2, 5, 7])[few.labels(name)], data.labels(name)[chosen])
    images, labels = next(iter(few.train_dataloader()))
    assert images.shape == (20, 1, 8, 8)
    assert set(labels.tolist()) <= {0, 1, 2}
    other = ClassSubset(Digits(size=8), classes=(2, 5, 8))
    assert other.fingerprint() != few.fingerprint()
    for classes, words in (((1,), "at least two"), ((1, 1), "at least two"), ((1, 10), "0 to 9")):
        with pytest.raises(ValueError, match=words):
            ClassSubset(Digits(size=8), classes=classes).setup()


def test_fewer_classes_keep_their_own_outputs(data: Digits) -> None:
    few = ClassSubset(Digits(size=8), classes=(2, 5, 7))
    few.setup()
    method = pruned(few, classes=(2, 5, 7))
    x = data.inputs("test")[:10]
    torch.testing.assert_close(method.network(x), network()(x)[:, [2, 5, 7]])
    assert method.original_weights == sum(w.numel() for w in prunable_weights(network()).values())
    smaller = pruned(few, classes=(2, 5, 7), ratios=uniform(LAYERS, 50), criterion="mean_std", statistics_images=0)
    assert smaller.network(x).shape == (10, 3)
    with pytest.raises(ValueError, match="rising order"):
        pruned(few, classes=(5, 2))


# -- the paper's networks -----------------------------------------------------------------------------------------------


def small(net: nn.Module, ratios: dict[str, float], side: int = 32) -> nn.Module:
    method = FilterPruning(net, ratios=ratios)
    shape = Shape()
    shape.image_size = (side, side)
    method.prune(shape)
    return method.network


@pytest.mark.parametrize(
    ("made", "ratios", "macs", "parameters"),
    [
        (VGG16, configurations.VGG16_A, 206_279_680, 5_397_034),
        (lambda: CifarResNet(56), configurations.RESNET56_A, 112_000_000, 773_336),
        (lambda: CifarResNet(56), configurations.RESNET56_B, 90_900_000, 735_712),
        (lambda: CifarResNet(110), configurations.RESNET110_A, 213_000_000, 1_688_522),
        (lambda: CifarResNet(110), configurations.RESNET110_B, 155_000_000, 1_168_424),
    ],
)
def test_the_papers_configurations_have_its_sizes(made: Any, ratios: Any, macs: int, parameters: int) -> None:
    net = small(made(), ratios)
    assert sum(p.numel() for p in net.parameters()) == parameters
    exact = macs % 1_000 != 0
    assert count_macs(net, 32) == (macs if exact else pytest.approx(macs, rel=5e-3))


@pytest.mark.parametrize(
    ("ratios", "fewer_macs", "fewer_parameters"),
    [
        (configurations.RESNET34_A, 15.5, 7.6),
        (configurations.RESNET34_B, 24.2, 10.8),
        (configurations.RESNET34_C, 7.5, 7.2),
    ],
)
def test_resnet34_for_imagenet(ratios: Any, fewer_macs: float, fewer_parameters: float) -> None:
    """The paper's 3.64e9 and 21.6 M, and its percents, leave the projections out; to one unit of its last digit."""

    def counted(net: nn.Module) -> tuple[int, int]:
        macs, parameters = count_macs(net, 224), sum(p.numel() for p in net.parameters())
        for stage, side in ((2, 28), (3, 14), (4, 7)):
            shortcut = net.get_submodule(f"layer{stage}.0.downsample")
            parameters -= sum(p.numel() for p in shortcut.parameters())
            macs -= shortcut.get_submodule("0").weight.numel() * side * side  # type: ignore[operator, union-attr]
        return macs, parameters

    whole = ResNet34()
    before = counted(whole)
    assert before == pytest.approx((3.64e9, 21.6e6), rel=2e-3)
    after = counted(small(whole, ratios, 64))
    lost = [100 * (1 - a / b) for a, b in zip(after, before, strict=True)]
    assert lost == pytest.approx([fewer_macs, fewer_parameters], abs=0.1)


def test_numbers_of_first_convolutions() -> None:
    assert list(first_convolutions((2, 1), (0.5, 0.25))) == ["layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1"]
    assert first_convolutions((2, 1), (0.5, 0.25), (4,)) == {"layer1.0.conv1": 0.5, "layer2.0.conv1": 0.25}
    assert len(configurations.RESNET56_B) == 27 - 6
    assert convolutions((8, "pool", 9, 9)) == ["feature.0", "feature.4", "feature.7"]
    with pytest.raises(ValueError, match="not numbers of first convolutions"):
        of_depth(56, (0.1, 0.1, 0.1), (3,))
    with pytest.raises(ValueError, match="3 stages and 2 ratios"):
        of_depth(56, (0.1, 0.1))


# -- bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratios": {"feature.0": 1.0}}, "ratio of feature.0 is 1.0"),
        ({"ratios": {"feature.0": -0.1}}, "ratio of feature.0 is -0.1"),
        ({"criterion": "taylor"}, "criterion is 'taylor'"),
        ({"criterion": "mean_std", "greedy": True}, "greedy counts kernels"),
        ({"lr_drops": (1.5,)}, "lr_drops"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        FilterPruning(network(), **options)


def test_layers_that_cannot_be_pruned_are_named(data: Digits) -> None:
    with pytest.raises(ValueError, match=r"'feature\.99' is no convolution"):
        pruned(data, ratios={"feature.99": 0.5})
    with pytest.raises(ValueError, match="a shortcut without parameters"):
        small(CifarResNet(8), {"layer1.0.conv2": 0.5}, 8)
    with pytest.raises(ValueError, match="no prunable layer"):
        FilterPruning(nn.Sequential(nn.BatchNorm2d(3)))
