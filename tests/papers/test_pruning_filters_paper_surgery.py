"""What is left after filters were removed: the network, its cost, its retraining, and tasks of fewer classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as L
import torch
from torch import nn

from common.backbones.cifar_plain import VGG
from common.cost import count_macs
from common.evaluation.classification import ClassificationBenchmark
from common.pruning import EmptiedLayerWarning, mask_channels, prunable_weights
from common.weights import save_weights
from datasets.classification import Digits
from papers.pruning_filters.class_subset import ClassSubset
from papers.pruning_filters.configurations import convolutions, uniform
from papers.pruning_filters.method import FilterPruning
from papers.pruning_filters.networks import for_grey_images

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
    with pytest.raises(ValueError, match="no prunable layer"):
        FilterPruning(nn.Sequential(nn.BatchNorm2d(3)))
