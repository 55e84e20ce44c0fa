"""SNIP's method: scores that depend on the data, masks that keep exactly kappa, zeros that stay, and its controls."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as L
import torch

from common.backbones.cifar_plain import VGG, VGGC, AlexNet
from common.backbones.lenet import LeNet5Caffe, LeNet300100
from common.experiment.arm import plan_runs
from common.experiment.spec import Place, build
from common.pruning import EmptiedLayerWarning, prunable_weights
from datasets.classification import Digits
from papers.registry import get_paper
from papers.snip.class_masks import SET, ClassMasks, correlations
from papers.snip.method import SNIP
from papers.snip.networks import RowRecurrent, for_64_pixels
from papers.snip.table import plan

TOTAL = 266_610


@pytest.fixture(scope="module")
def data() -> Digits:
    digits = Digits(size=28, batch_size=50)
    digits.setup()
    return digits


def snip(seed: int = 0, **options: Any) -> SNIP:
    torch.manual_seed(seed)
    return SNIP(LeNet300100(initialization="variance_scaling"), **{"lr": 0.01, **options})


def pruned(data: Digits, seed: int = 0, **options: Any) -> SNIP:
    method = snip(seed, **options)
    torch.manual_seed(seed)
    method.prune(data)
    return method


def flat(masks: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([mask.flatten() for mask in masks.values()])


def fit(method: SNIP, data: Any, folder: Path, steps: int = 6) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    return trainer


@pytest.mark.parametrize("criterion", ["snip", "snip_signed", "magnitude", "random"])
@pytest.mark.parametrize("sparsity", [0.1, 0.9, 0.99])
def test_exactly_kappa_of_all_weights_and_biases_are_kept(data: Digits, criterion: Any, sparsity: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptiedLayerWarning)  # magnitudes empty a layer at 0.99
        method = pruned(data, criterion=criterion, sparsity=sparsity)
    assert method.masks.total == TOTAL
    assert method.masks.kept == round(TOTAL * (1 - sparsity))
    method.masks.check_zeros()


@pytest.mark.parametrize(("criterion", "depends"), [("snip", True), ("snip_signed", True), ("magnitude", False)])
def test_masks_depend_on_the_data(data: Digits, criterion: Any, depends: bool) -> None:
    one, again = (pruned(data, criterion=criterion).masks.as_dict() for _ in range(2))
    other = pruned(data, criterion=criterion, scoring_class=3).masks.as_dict()
    assert torch.equal(flat(one), flat(again))
    assert torch.equal(flat(one), flat(other)) == (not depends)


def test_scores_are_those_of_true_labels_even_where_training_labels_are_shuffled(data: Digits) -> None:
    shuffled = Digits(size=28, batch_size=50, shuffled_labels=True)
    assert not torch.equal(shuffled.training_labels(), data.training_labels())
    assert torch.equal(flat(pruned(data).masks.as_dict()), flat(pruned(shuffled).masks.as_dict()))


def test_the_scores_are_w_times_the_gradient_of_one_batch(data: Digits) -> None:
    """By hand: the mask of the largest |w dL/dw| over all layers, on the batch and the weights that were scored."""
    method = snip(redraw=False, sparsity=0.9)
    torch.manual_seed(0)
    method._draw("scoring weights", None)
    ((x, y),) = method._scoring_batches(data)
    assert x.shape == (100, 1, 28, 28)
    assert len(set(y.tolist())) == 10
    torch.nn.functional.cross_entropy(method.network(x), y).backward()
    weights = method.masks.weights
    scores = torch.cat([(w * w.grad).abs().flatten() for w in weights.values() if w.grad is not None])
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    method.prune(data)
    kept = flat(method.masks.as_dict())
    assert scores[kept].min() >= scores[~kept].max()
    for name, mask in method.masks.as_dict().items():  # Algorithm 1: the survivors are the weights that were scored
        assert torch.equal(weights[name].detach(), torch.where(mask, before[name], 0.0))


def test_the_official_code_trains_other_weights_than_it_scored(data: Digits) -> None:
    kept, redrawn = pruned(data, redraw=False), pruned(data)
    assert torch.equal(flat(kept.masks.as_dict()), flat(redrawn.masks.as_dict()))
    both = redrawn.network.output.weight != 0
    assert not torch.equal(kept.network.output.weight[both], redrawn.network.output.weight[both])  # type: ignore[index]


def test_arms_of_one_seed_train_from_the_same_weights(data: Digits) -> None:
    dense, sparse = pruned(data, sparsity=0.0), pruned(data, sparsity=0.95)
    for name, mask in sparse.masks.as_dict().items():
        assert torch.equal(sparse.masks.weights[name][mask], dense.masks.weights[name][mask])
    assert dense.masks.kept == TOTAL


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_pruned_weights_stay_exactly_zero_through_training(data: Digits, optimizer: Any, tmp_path: Path) -> None:
    method = pruned(data, optimizer=optimizer, lr=0.01 if optimizer == "sgd" else 1e-3)
    before = {name: weight.detach().clone() for name, weight in method.masks.weights.items()}
    fit(method, data, tmp_path)
    for name, mask in method.masks.as_dict().items():
        weight = method.masks.weights[name].detach()
        assert torch.count_nonzero(weight[~mask]) == 0, name
    name = "hidden.1.weight"
    assert not torch.equal(method.masks.weights[name], before[name])


def test_a_fit_without_a_phase_of_its_own_prunes_first_and_only_once(data: Digits, tmp_path: Path) -> None:
    method = snip(sparsity=0.9)
    fit(method, data, tmp_path, steps=2)
    kept = flat(method.masks.as_dict())
    assert int(kept.sum()) == round(TOTAL * 0.1)
    fit(method, data, tmp_path, steps=2)
    assert torch.equal(flat(method.masks.as_dict()), kept)


def test_the_rate_falls_as_the_paper_says(data: Digits, tmp_path: Path) -> None:
    method = snip(sparsity=0.9, lr=0.01, lr_period=2)
    trainer = fit(method, data, tmp_path, steps=5)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.1**2)
    assert trainer.optimizers[0].param_groups[0]["momentum"] == 0.9


def test_weight_decay_is_of_what_is_scored_and_not_of_normalisations() -> None:
    method = SNIP(VGG(plan=(4, "pool"), hidden=(6,), input_size=8), lr_period=0)
    scored, norms = method.configure_optimizers().param_groups
    assert (scored["weight_decay"], norms["weight_decay"]) == (5e-4, 0.0)
    assert sum(weight.numel() for weight in scored["params"]) == method.masks.total
    assert [tuple(weight.shape) for weight in norms["params"]] == [(4,), (4,), (6,), (6,)]


def test_biases_are_pruned_because_they_start_at_zero(data: Digits) -> None:
    with_biases, without = pruned(data).masks.counts(), pruned(data, biases=False).masks
    assert all(with_biases[f"{layer}.bias"].kept == 0 for layer in ("hidden.0", "hidden.1", "output"))
    assert without.total == 266_200
    assert not any(name.endswith("bias") for name in without.counts())


def test_shuffling_keeps_the_number_of_every_layer(data: Digits) -> None:
    plain, shuffled = pruned(data).masks, pruned(data, shuffle_layers=True).masks
    assert plain.counts() == shuffled.counts()
    assert not torch.equal(flat(plain.as_dict()), flat(shuffled.as_dict()))


def test_a_layer_that_keeps_nothing_is_said_and_not_repaired(data: Digits) -> None:
    with pytest.warns(EmptiedLayerWarning, match="kept nothing"):
        method = pruned(data, criterion="magnitude", sparsity=0.99999)
    assert method.masks.kept == 3
    assert method.masks.counts()["hidden.0.weight"].kept == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruned(data, sparsity=0.9)  # biases that keep nothing are no dead layer


def test_initial_distributions_of_scored_and_trained_weights_are_separate(data: Digits) -> None:
    plain = pruned(data)
    scored = pruned(data, scoring_initialization="normal")
    trained = pruned(data, training_initialization="normal")
    assert not torch.equal(flat(plain.masks.as_dict()), flat(scored.masks.as_dict()))
    assert torch.equal(flat(plain.masks.as_dict()), flat(trained.masks.as_dict()))
    weight = trained.masks.weights["output.weight"].detach()
    assert float(weight[weight != 0].std()) == pytest.approx(0.1, rel=0.3)


def test_large_scoring_batches_go_in_pieces_and_too_large_ones_are_refused(data: Digits) -> None:
    method = snip(scoring_batch=1100)
    torch.manual_seed(0)
    assert [len(y) for _, y in method._scoring_batches(data)] == [1000, 100]
    with pytest.raises(ValueError, match=r"1238 images is asked for, but only 1237"):
        pruned(data, scoring_batch=1238)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": 1.0}, "sparsity is 1.0"),
        ({"sparsity": -0.1}, "sparsity is -0.1"),
        ({"criterion": "fisher"}, "criterion='fisher'"),
        ({"scoring_batch": 0}, "scoring_batch=0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        snip(**options)


def test_the_best_weights_on_validation_are_kept_beside_the_last(data: Digits, tmp_path: Path) -> None:
    method = snip(sparsity=0.9, validate_every=2)
    fit(method, data, tmp_path, steps=5)
    best = method.best_network()
    assert best is not None
    method.masks.check_zeros()
    with torch.no_grad():
        right = [(best(x).argmax(1) == y).sum() for x, y in data.loader("validation")]
    assert float(method.best_accuracy) == pytest.approx(int(sum(right)) / 200)  # type: ignore[arg-type]
    assert snip().best_network() is None


def test_class_masks_follow_their_class(data: Digits) -> None:
    torch.manual_seed(0)
    found = ClassMasks().measure(snip(sparsity=0.9), data)
    assert found.metrics[SET]["pairs"] == 10
    assert found.metrics[SET]["accuracy"] >= 70  # by chance 10
    assert found.cost["remaining"] == pytest.approx(10, abs=0.01)
    like = correlations(np.array([0.0, 1.0, 2.0]), np.array([[0.0, 2.0, 4.0], [2.0, 1.0, 0.0], [5.0, 5.0, 5.0]]))
    assert like.tolist() == pytest.approx([1, -1, 0])


@pytest.mark.parametrize(
    ("cell", "units", "size"), [("lstm", 128, 136_586), ("lstm", 256, 535_306), ("gru", 128, 103_690), ("gru", 256, 403_978)]
)  # fmt: skip
def test_recurrent_networks_have_the_papers_sizes(cell: Any, units: int, size: int) -> None:
    network = RowRecurrent(cell, units)
    assert sum(p.numel() for p in network.parameters()) == size
    assert sum(p.numel() for p in prunable_weights(network, biases=True).values()) == size


def test_a_recurrent_cell_is_torchs_own_with_shifted_gates() -> None:
    """The LSTM against torch's, whose gates are ordered input, forget, new, output and whose forget bias is raised by 1."""
    ours = RowRecurrent("lstm", 5, classes=3, row=4)
    theirs = torch.nn.LSTM(5, 5, batch_first=True)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(ours.gates.weight[:, :5])
        theirs.weight_hh_l0.copy_(ours.gates.weight[:, 5:])
        theirs.bias_ih_l0.copy_(ours.gates.bias)
        theirs.bias_hh_l0.zero_()
        theirs.bias_hh_l0[5:10] = 1
        x = torch.rand(2, 1, 6, 4)
        expected = ours.output(theirs(ours.rows(x.squeeze(1)))[0][:, -1])
        torch.testing.assert_close(ours(x), expected)


@pytest.mark.parametrize("network", [AlexNet, VGGC])
def test_networks_of_tiny_imagenet_see_64_pixels_as_32(network: Any) -> None:
    with torch.no_grad():
        assert for_64_pixels(network(classes=20)).eval()(torch.rand(2, 3, 64, 64)).shape == (2, 20)


@pytest.mark.parametrize("scale", ["smoke", "demo", "paper"])
def test_every_arm_of_every_scale_can_be_built_and_judged(scale: str) -> None:
    table, paper = plan(scale), get_paper("snip")
    names = {arm.name for arm in table.arms}
    for claim in table.claims:
        assert set(claim.arms) <= names, claim.key
    assert {arm.baseline for arm in table.arms} - {None} <= names
    assert len(plan_runs(table.arms, table.seeds, Path("/data"))) == len(names) * len(table.seeds)
    rows = {entry["row"] for entry in paper.reported}
    theirs = {
        row for row in rows if any(row.endswith(f"_{m}") for m in ("LWC", "DNS", "LC", "SWS", "SVD", "OBD", "L-OBS"))
    }
    if scale == "paper":
        assert rows - theirs == {arm.reported for arm in table.arms} & rows
    for arm in table.arms:
        if "lenet" in arm.name or scale != "paper":
            method = build(arm.method, Place())
            assert isinstance(method, SNIP)
            build(arm.benchmark, Place())


def test_lenet5_counts() -> None:
    assert SNIP(LeNet5Caffe(), sparsity=0.99).masks.total == 431_080
