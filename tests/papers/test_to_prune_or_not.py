"""Gradual pruning's method: the cubic schedule in training, exact counts, who may come back, contrib's thresholds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from torch import nn

from common.experiment.callbacks import SeededEpochs
from common.experiment.checkpoint import Checkpoints, SealedCheckpoints
from common.pruning import EmptiedLayerWarning
from datasets.classification import Digits
from papers.to_prune_or_not.benchmark import FootprintBenchmark
from papers.to_prune_or_not.footprint import convnet
from papers.to_prune_or_not.method import GradualPruning
from papers.to_prune_or_not.networks import ConvNet

CHANNELS = (4, 8, 8)
LAYERS = {"convolutions.0.0.weight": 288, "convolutions.1.0.weight": 576, "linear.weight": 80}


@pytest.fixture(scope="module")
def data() -> Digits:
    digits = Digits(batch_size=50)
    digits.setup()
    return digits


@pytest.fixture
def vectors(golden: Path) -> Any:
    return np.load(golden / "to_prune_or_not/schedules_and_masks.npz")


def pruner(seed: int = 0, **options: Any) -> GradualPruning:
    torch.manual_seed(seed)
    defaults: dict[str, Any] = {"dense": ("stem",), "begin": 2, "end": 10, "every": 2, "lr": 0.05, "weight_decay": 5e-4}
    return GradualPruning(ConvNet(channels=CHANNELS), **{**defaults, **options})


class Watch(L.Callback):
    """Remembers how many weights were kept in each step, and kills on demand."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at
        self.kept: list[int] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.kept.append(pl_module.masks.kept)
        if trainer.global_step == self.kill_at:
            raise RuntimeError("killed")


def fit(
    method: GradualPruning,
    data: Any,
    folder: Path,
    steps: int = 14,
    watch: Watch | None = None,
    resume: str | None = None,
    every: float = 1e9,
) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=-1, max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, limit_val_batches=0,
        use_distributed_sampler=False, plugins=[SealedCheckpoints()],
        callbacks=[SeededEpochs(0, "prune"), Checkpoints(folder / "last.ckpt", every), *([watch] if watch else [])],
    )  # fmt: skip
    trainer.fit(method, datamodule=data, ckpt_path=resume, weights_only=True)
    return trainer


def test_the_masks_follow_the_cubic_schedule_step_by_step(data: Digits, tmp_path: Path) -> None:
    """s = .9 (1 - (1 - p)^3) at p = 0, .25, .5, .75, 1, floor(s N) masked in every layer, held in between and afterwards."""
    watch = Watch()
    fit(pruner(), data, tmp_path, watch=watch)
    shares = [0.0, 0.5203125, 0.7875, 0.8859375, 0.9]
    kept = [sum(n - int(s * n + 1e-9) for n in LAYERS.values()) for s in shares]
    assert watch.kept == [944, 944, *(each for each in kept for _ in range(2)), 95, 95]


def test_every_layer_has_exactly_its_share_and_the_named_one_stays_dense(data: Digits, tmp_path: Path) -> None:
    method = pruner()
    fit(method, data, tmp_path)
    assert {name: (count.total, count.kept) for name, count in method.masks.counts().items()} == {
        name: (n, n - int(0.9 * n)) for name, n in LAYERS.items()
    }
    assert torch.count_nonzero(method.network.stem[0].weight) == 36
    method.masks.check_zeros()
    assert int(method.updates) == 5


@pytest.mark.parametrize("exponent", [3.0, 1.0])
def test_half_way_of_linear_and_cubic_schedules(data: Digits, tmp_path: Path, exponent: float) -> None:
    fit(pruner(exponent=exponent), data, tmp_path, watch=(watch := Watch()))
    half = 0.7875 if exponent == 3 else 0.45
    assert watch.kept[6] == sum(n - int(half * n + 1e-9) for n in LAYERS.values())


def test_one_shot_prunes_everything_at_once(data: Digits, tmp_path: Path) -> None:
    watch = Watch()
    fit(pruner(end=2), data, tmp_path, watch=watch)
    assert watch.kept == [944, 944, *[95] * 12]


def test_the_smallest_weights_of_each_layer_go(data: Digits) -> None:
    method = pruner()
    before = {name: w.detach().abs().clone() for name, w in method.masks.weights.items()}
    method.update_masks(0.6)
    for name, mask in method.masks.as_dict().items():
        assert before[name][~mask].max() <= before[name][mask].min()
        assert int((~mask).sum()) == int(0.6 * mask.numel())


def test_masked_weights_get_no_gradient_through_the_product_and_a_full_one_straight_through(data: Digits) -> None:
    x, y = next(iter(data.loader("train", 50)))
    gradients = {}
    for regrow in (False, True):
        method = pruner(keep_masked=not regrow, regrow=regrow)
        method.update_masks(0.8)
        masked = copy.deepcopy(method.network)
        for name, mask in method.masks.as_dict().items():
            assert torch.count_nonzero(method.masks.weights[name][~mask]) > 0  # W lives on ...
            masked.get_parameter(name).data.mul_(mask)
        torch.testing.assert_close(method(x), masked(x), rtol=0, atol=0)  # ... and the network is that of W * M
        method.zero_grad()
        nn.functional.cross_entropy(method(x), y).backward()
        gradients[regrow] = {name: w.grad.clone() for name, w in method.masks.weights.items() if w.grad is not None}
    for name, mask in method.masks.as_dict().items():
        assert torch.count_nonzero(gradients[False][name][~mask]) == 0
        through = torch.count_nonzero(gradients[True][name][~mask])  # none passes a filter that is masked as a whole
        assert through > 0.5 * int((~mask).sum())
        torch.testing.assert_close(gradients[False][name][mask], gradients[True][name][mask])


def test_weights_come_back_only_where_they_are_let(data: Digits, tmp_path: Path) -> None:
    returned = {}
    for kind, options in (("zeroed", {}), ("kept", {"keep_masked": True}), ("regrow", {"regrow": True})):
        method = pruner(end=42, every=4, sparsity=0.7, **options)
        fit(method, data, tmp_path / kind, steps=48)
        returned[kind] = int(method.returned)
        assert method.masks.kept == sum(n - int(0.7 * n + 1e-9) for n in LAYERS.values())
        method.masks.check_zeros()  # whatever lived on during the fit, W * M is what is left of it
    assert returned["regrow"] > max(returned["zeroed"], returned["kept"]) >= returned["zeroed"] == 0


@pytest.mark.parametrize(
    "options",
    [{}, {"regrow": True, "initial_sparsity": 0.8, "lr": 0.5}, {"threshold": "histogram", "keep_masked": True}],
)
def test_a_run_that_is_killed_ends_as_one_that_was_not(data: Digits, tmp_path: Path, options: dict[str, Any]) -> None:
    whole = pruner(**options)
    fit(whole, data, tmp_path / "whole")
    killed = pruner(**options)
    with pytest.raises(RuntimeError, match="killed"):
        fit(killed, data, tmp_path / "killed", watch=Watch(kill_at=7), every=0)
    assert (int(killed.returned) > 0) == killed.regrow
    again = pruner(seed=1, **options)  # its own weights do not matter
    fit(again, data, tmp_path / "killed", resume=str(tmp_path / "killed/last.ckpt"))
    assert int(again.updates) == int(whole.updates) == 5
    assert int(again.returned) == int(whole.returned)
    for (name, tensor), (_, other) in zip(whole.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(tensor, other), name


def test_momenta_of_masked_weights_are_zeroed(data: Digits, tmp_path: Path) -> None:
    method = pruner()
    trainer = fit(method, data, tmp_path)
    for name, mask in method.masks.as_dict().items():
        momentum = trainer.optimizers[0].state[method.masks.weights[name]]["momentum_buffer"]
        assert torch.count_nonzero(momentum[~mask]) == 0
        assert torch.count_nonzero(momentum[mask]) > 0


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.75, 0.9])
def test_masks_of_distiller_and_contrib(vectors: Any, sparsity: float) -> None:
    """Golden: distiller's level masks are our exact ones, and contrib's histogram masks those without smoothing."""
    network = nn.Linear(30, 40, bias=False)
    for threshold, key in (("exact", "distiller_level_mask"), ("histogram", "tf_hist_mask")):
        network.weight.data = torch.from_numpy(vectors["w"])
        method = GradualPruning(nn.Sequential(network), threshold=threshold, threshold_decay=0.0)  # type: ignore[arg-type]
        method.update_masks(sparsity)
        expected = torch.from_numpy(vectors[f"{key}_{sparsity}"]).bool()
        assert torch.equal(method.masks.as_dict()["0.weight"], expected)
    assert float(method.thresholds[0]) == pytest.approx(float(vectors[f"tf_hist_threshold_{sparsity}"]), rel=1e-12)


def test_sparsities_of_distiller_and_contrib(vectors: Any) -> None:
    for case in range(3):
        initial, final, start, end, every = vectors[f"distiller{case}_args"].tolist()
        last = int(start + (end - start - 1) // every * every)  # distiller's span ends an update before its end
        method = pruner(sparsity=final, initial_sparsity=initial, begin=int(start), end=last, every=int(every))
        assert method.schedule is not None
        got = [method.schedule.sparsity(int(epoch)) for epoch in vectors[f"distiller{case}_epochs"]]
        np.testing.assert_allclose(got, vectors[f"distiller{case}_sparsity"], rtol=1e-12)
    initial, final, begin, end, exponent = vectors["tf_args"].tolist()
    method = pruner(
        sparsity=final, initial_sparsity=initial, begin=int(begin), end=int(end), every=1, exponent=exponent
    )
    assert method.schedule is not None
    got = [method.schedule.formula(step) for step in vectors["tf_steps"].tolist()]
    np.testing.assert_allclose(got, vectors["tf_sparsity"], rtol=1e-12)


def test_the_smoothed_threshold_lags_behind_the_sparsity_that_was_asked() -> None:
    """By hand: after k updates with one and the same new threshold h, it is h (1 - 0.9^k)."""
    method = pruner(threshold="histogram", keep_masked=True)
    method.update_masks(0.9)
    first = method.thresholds.clone()
    assert method.masks.sparsity < 0.5
    for _ in range(4):
        method.update_masks(0.9)
    torch.testing.assert_close(method.thresholds, first * (1 - 0.9**5) / 0.1)
    for _ in range(60):
        method.update_masks(0.9)
    assert method.masks.sparsity == pytest.approx(0.9, abs=0.02)


def test_updates_may_go_on_after_the_ramp_as_contribs_do(data: Digits, tmp_path: Path) -> None:
    method = pruner(threshold="histogram", keep_masked=True, last_update=12)
    fit(method, data, tmp_path)
    assert int(method.updates) == 6


def test_a_layer_that_would_lose_everything_keeps_one_weight() -> None:
    method = pruner(sparsity=0.999)
    method.update_masks(0.9999)  # floor(s N) is below N
    assert [count.kept for count in method.masks.counts().values()] == [1, 1, 1]
    method = pruner(threshold="histogram", threshold_decay=0.0)
    method.thresholds.fill_(1e9)
    method.threshold_decay = 0.99
    with pytest.warns(EmptiedLayerWarning, match="the largest one was kept"):
        method.update_masks(0.5)
    assert method.masks.kept == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": 1.0}, r"sparsity is 1\.0"),
        ({"sparsity": -0.1}, r"sparsity is -0\.1"),
        ({"end": 9}, "by a multiple of every"),
        ({"end": 1}, "end must lie behind begin"),
        ({"threshold": "sorted"}, "threshold='sorted'"),
        ({"lr_decay": "linear"}, "lr_decay='linear'"),
        ({"threshold_decay": 1.0}, r"threshold_decay=1\.0"),
        ({"last_update": 8}, "last_update is 8"),
        ({"dense": ("stern",)}, "did you mean 'stem'"),
        ({"dense": ("stem", "convolutions", "linear")}, "no prunable layer"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pruner(**options)


def test_a_ramp_that_does_not_end_before_the_fit_is_refused(data: Digits, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the last update of the masks is at step 10, but the fit has 10"):
        fit(pruner(), data, tmp_path, steps=10)


def test_rates(data: Digits, tmp_path: Path) -> None:
    trainer = fit(pruner(begin=1, end=3, every=1), data, tmp_path, steps=4)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    decayed = pruner(optimizer="rmsprop", lr_decay="exponential", lr_period=3, lr_factor=0.5, begin=1, end=3, every=1)
    trainer = fit(decayed, data, tmp_path, steps=7)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05 / 4)
    decayed.masks.check_zeros()


def test_nnz_counts_what_is_not_pruned(data: Digits, tmp_path: Path) -> None:
    method = pruner()
    fit(method, data, tmp_path)
    whole = convnet(1, CHANNELS)
    found = FootprintBenchmark(largest=2 * whole.parameters).measure(method, data)
    cost = found.cost
    assert cost["unpruned"] == whole.unpruned == 86
    assert cost["nnz"] == 86 + 95
    assert cost["nnz"] == sum(int(torch.count_nonzero(p)) for p in method.network.parameters())
    assert cost["remaining"] == pytest.approx(100 * 181 / (2 * 1030))
    assert (cost["asked"], cost["returned"], cost["updates"]) == (90, 0, 5)
    assert cost["sparsity"] == pytest.approx(100 * (1 - 95 / 944))
    assert cost["sparsity_of_all"] == pytest.approx(100 * (1 - 181 / 1030))
    assert found.metrics["test"]["pairs"] == 360
    with pytest.raises(ValueError, match="largest is 0"):
        FootprintBenchmark(largest=0)


def test_dense_arms_are_never_pruned(data: Digits, tmp_path: Path) -> None:
    method = pruner(sparsity=0.0)
    fit(method, data, tmp_path, steps=5)
    assert method.masks.kept == 944
    assert int(method.updates) == 0
