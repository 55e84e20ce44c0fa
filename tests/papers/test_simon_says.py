"""Simon Says: CEV, SDE and PIEs as published, the pruning schedule and losses of the official code, students that stay pruned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from torch import Tensor, nn

from common.distillation.response import kd_loss
from common.distillation.teacher import Teacher
from common.experiment.arm import Arm, plan_runs
from common.experiment.spec import Place, build
from common.fairness.compression import pie_all_runs
from common.fairness.confusion import ClassErrors, class_errors, confusion, error_shift
from common.weights import WeightsMismatchError, save_weights
from datasets.classification import Digits
from datasets.retraining import Retraining
from papers.registry import get_paper
from papers.simon_says.claims import ACROSS
from papers.simon_says.method import FEATURE_LOSSES, SimonSays, agp, keep_largest
from papers.simon_says.networks import ResNetX4
from papers.simon_says.population import BiasBenchmark, Gallery, Population, shift_metrics
from papers.simon_says.similarity import svcca_distance
from papers.simon_says.table import CIFAR_CUT, plan

# --- what is measured -------------------------------------------------------------------------------------------------


def test_cev_sde_and_pies_are_the_official_ones(golden: Path) -> None:
    v = np.load(golden / "simon_says" / "cev_sde.npz")
    truth, base, runs = v["y_true"], v["pred_base"], v["pred_pruned_runs"]
    before, after = (class_errors(confusion(truth, labels, 7)) for labels in (base, runs))
    assert np.array_equal(confusion(truth, runs, 7), v["conf_pruned_runs"])
    np.testing.assert_allclose(before.fpr, v["FPR_base"], rtol=1e-12)
    np.testing.assert_allclose(after.fnr, v["FNR_runs"], rtol=1e-12)
    found = shift_metrics(truth, base, runs, 7, smoothed=False)
    for key in ("cev", "sde", "cev_2110", "sde_2110"):
        name = key if "2110" in key else f"{key}_2106"
        assert found[key] == pytest.approx(float(v[name]), rel=1e-9), key
    assert found["cev"] == pytest.approx(5000 * found["cev_2110"])
    assert found["sde"] == pytest.approx(100 / 2**0.5 * found["sde_2110"])
    assert np.flatnonzero(pie_all_runs(base, runs)).tolist() == v["pie_indices_all_runs"].tolist()
    assert found["pies"] == len(v["pie_indices_all_runs"])
    assert found["cev_mean_of_runs"] > found["cev"]  # trap: rates are averaged first


@pytest.mark.parametrize(
    ("arm", "cev", "sde"),
    [("structpruning", 4237.391288, 51.146442), ("kd", 1536.565697, 30.788914), ("at_kd", 851.694399, 25.246116)],
)
def test_published_numbers_come_out_of_the_published_confusions(arm: str, cev: float, sde: float, golden: Path) -> None:
    v = np.load(golden / "simon_says" / "cifar100_bias45_confusions.npz")
    found = error_shift(class_errors(v["conf_base"]), class_errors(v[f"conf_runs_{arm}"]))
    assert (found.cev.value, found.sde.value) == (pytest.approx(cev, abs=1e-6), pytest.approx(sde, abs=1e-6))
    assert not found.left_out
    alone = [error_shift(class_errors(v["conf_base"]), class_errors(run)).cev.value for run in v[f"conf_runs_{arm}"]]
    if arm == "structpruning":
        assert np.mean(alone) == pytest.approx(4641.5, abs=0.1)
    entry = next(
        e
        for e in get_paper("simon_says").reported
        if e["row"] == f"c100_cut_{ {'structpruning': 'struct'}.get(arm, arm) }_45" and e["metric"] == "test:cev"
    )
    assert entry["value"] == pytest.approx(cev, abs=0.005)


def test_the_hand_example_and_even_damage() -> None:
    base = ClassErrors(np.array([0.1, 0.1, 0.1]), np.array([0.1, 0.1, 0.1]))
    worse = ClassErrors(np.array([0.11, 0.13, 0.12]), np.array([0.12, 0.10, 0.11]))
    found = error_shift(base, worse)  # x = (10, 30, 20), y = (20, 0, 10)
    assert found.cev.value == pytest.approx((100 + 100 + 100 + 100) / 6)
    assert found.sde.value == pytest.approx((10 + 30 + 10) / 3 / 2**0.5)
    even = ClassErrors(base.fpr * 1.5, base.fnr * 1.5)
    assert error_shift(base, even).cev.value == pytest.approx(0, abs=1e-12)  # all 50 % worse, and yet 0


def test_classes_without_an_error_of_the_base_are_counted_or_smoothed() -> None:
    truth = np.repeat(np.arange(4), 5)
    base, run = truth.copy(), np.roll(truth, 1)
    found = shift_metrics(truth, base, run[None], 4, smoothed=False)
    assert (found["cev"], found["left_out"]) == (None, 4)
    assert shift_metrics(truth, base, run[None], 4, smoothed=True)["left_out"] == 0


def test_svcca_ignores_rotation_scale_and_shift_and_sees_what_is_lost() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 5, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    assert svcca_distance(x, 3 * x @ rotation + 1) == pytest.approx(0, abs=1e-9)
    assert svcca_distance(x[:, :1], x[:, 1:2] - x[:, 1:2].mean()) > 0.9
    assert 0.2 < svcca_distance(x, torch.cat([x[:, :3], torch.randn(200, 2)], 1)) < 0.6
    assert svcca_distance(x, torch.ones(200, 5)) == 1
    with pytest.raises(ValueError, match="200 and 5 inputs"):
        svcca_distance(x, x[:5])


# --- pruning ----------------------------------------------------------------------------------------------------------


def test_the_schedule_is_the_official_one_before_its_end(golden: Path) -> None:
    table = np.load(golden / "simon_says" / "agp_schedule.npz")["table"]
    for s0, sf, end, every, epoch, rate in table:
        schedule = agp(s0, sf, 1, int(end), int(every))
        if epoch < end:
            assert schedule.formula(epoch) == pytest.approx(rate, abs=1e-12)
        else:
            assert rate == 0
            assert not schedule.prunes_at(int(epoch))


def test_pruning_falls_on_every_fifth_epoch_from_the_first_on_and_reaches_its_end() -> None:
    schedule = agp(0.05, 0.45, 1, 180, 5)
    at = [epoch for epoch in range(1, 241) if schedule.prunes_at(epoch)]
    assert (at[:3], at[-1], len(at)) == ([1, 6, 11], 176, 36)
    assert schedule.formula(176) == pytest.approx(0.45)
    every = agp(0.05, 0.45, 1, 180, 1)
    assert all(every.prunes_at(epoch) for epoch in range(1, 180))  # the official head never prunes with freq = 1


def test_the_rate_is_of_the_whole_layer_and_dead_filters_stay_dead() -> None:
    torch.manual_seed(0)
    weight = torch.randn(10, 3, 3, 3)
    first = keep_largest(weight, 0.24, structured=True)
    assert int((~first.flatten(1).any(1)).sum()) == 2
    weight[~first] = 0
    norms = weight.abs().flatten(1).sum(1)
    second = keep_largest(weight, 0.5, structured=True)
    assert int((~second.flatten(1).any(1)).sum()) == 5
    assert not bool((second & ~first).any())
    kept = second.flatten(1).all(1)
    assert norms[kept].min() >= norms[~kept].max()
    single = keep_largest(weight, 0.5, structured=False)
    assert int((~single).sum()) == 135
    assert not torch.equal(single, second)


def network(seed: int = 0) -> ResNetX4:
    torch.manual_seed(seed)
    return ResNetX4(depth=8, classes=10, in_channels=1, widths=(4, 4, 8, 8))


@pytest.fixture(scope="module")
def data() -> Digits:
    digits = Digits(size=8, batch_size=50, test=1300, validation=97)
    digits.setup()
    return digits


def fit(method: Any, data: Any, folder: Path, epochs: int) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, limit_val_batches=0,
    )  # fmt: skip
    method.prepare(data)
    trainer.fit(method, datamodule=data)
    return trainer


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_layer_but_the_classifier_loses_its_share_of_filters_for_good(data: Digits, tmp_path: Path) -> None:
    class Watched(SimonSays):
        rates: list[float]

        def prune(self, rate: float) -> None:
            self.rates.append(rate)
            super().prune(rate)

        def on_train_epoch_start(self) -> None:
            super().on_train_epoch_start()
            super().on_train_epoch_start()  # as where a killed run goes on in the middle of an epoch

    base = network()
    method = Watched(network(), Teacher(base), sparsity=0.5, every=1, gamma=0.1, alpha=0.9, lr=0.05)
    method.rates = []
    before, start = state(base), state(method.network)
    fit(method, data, tmp_path, epochs=4)
    schedule = agp(0.05, 0.5, 1, 3, 1)
    assert method.rates == [schedule.formula(1), schedule.formula(2)] == pytest.approx([0.05, 0.5])
    method.masks.check_zeros()
    for name, weight in method.masks.weights.items():
        dead = int((weight.detach().flatten(1).abs().sum(1) == 0).sum())
        assert dead == len(weight) // 2, name
    assert "fc.weight" not in method.masks.weights
    assert {"conv1.weight", "layer2.0.shortcut.0.weight"} <= method.masks.weights.keys()
    assert bool((method.network.fc.weight != 0).all())
    assert not same(state(method.network), start)
    assert same(state(base), before)  # the teacher, BatchNorm statistics included
    again = Watched(network(), Teacher(base), sparsity=0.5, every=1)
    again.load_state_dict(method.state_dict())
    assert int(again.pruned_epoch) == 2  # a killed run does not prune an epoch twice


def test_the_student_starts_as_the_network_that_it_was_pruned_from(tmp_path: Path) -> None:
    save_weights(network(seed=7), tmp_path / "base.safetensors")
    method = SimonSays(network(), weights=str(tmp_path / "base.safetensors"))
    assert same(state(method.network), state(network(seed=7)))
    with pytest.raises(WeightsMismatchError, match="does not fit ResNetX4"):
        SimonSays(ResNetX4(depth=8, classes=10), weights=str(tmp_path / "base.safetensors"))


# --- losses -----------------------------------------------------------------------------------------------------------


def test_the_kl_term_is_the_official_one(golden: Path) -> None:
    v = np.load(golden / "simon_says" / "kd_T4.npz")
    z_s = torch.from_numpy(v["logit_s"]).requires_grad_()
    loss = kd_loss(z_s, torch.from_numpy(v["logit_t"]), float(v["T"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(v["loss"]), rel=1e-5)
    torch.testing.assert_close(z_s.grad, torch.from_numpy(v["grad_s"]), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("name", "key"), [("at", "at"), ("hints", "allhint")])
def test_losses_over_stages_are_the_official_ones(name: str, key: str, golden: Path) -> None:
    v = np.load(golden / "simon_says" / "feature_kd.npz")
    student = [torch.from_numpy(v[f"fs{i}"]).requires_grad_() for i in range(3)]
    teacher = [torch.from_numpy(v[f"ft{i}"]) for i in range(3)]
    vector = torch.zeros(6, 8)
    loss = FEATURE_LOSSES[name]([*student, vector], [*teacher, vector])
    loss.backward()
    assert loss.item() == pytest.approx(float(v[f"{key}_sum"]), rel=1e-5)
    assert loss.item() == pytest.approx(float(v[f"{key}_parts"].sum()), rel=1e-5)
    for i in range(3):
        torch.testing.assert_close(student[i].grad, torch.from_numpy(v[f"{key}_grad{i}"]), rtol=1e-3, atol=1e-8)


def test_sp_looks_at_the_last_map_and_pkt_at_the_pooled_vector(golden: Path) -> None:
    maps = np.load(golden / "simon_says" / "feature_kd.npz")
    last = torch.from_numpy(maps["fs2"]).requires_grad_()
    other, vector = torch.randn(6, 4, 8, 8), torch.randn(6, 12)
    loss = FEATURE_LOSSES["sp"]([other, last, vector], [other + 1, torch.from_numpy(maps["ft2"]), vector + 1])
    loss.backward()
    assert loss.item() == pytest.approx(float(maps["sp_loss"][0]), rel=1e-5)
    torch.testing.assert_close(last.grad, torch.from_numpy(maps["sp_grad2"]), rtol=1e-3, atol=1e-8)
    pooled = np.load(golden / "simon_says" / "pkt.npz")
    s = torch.from_numpy(pooled["emb_s"]).requires_grad_()
    loss = FEATURE_LOSSES["pkt"]([other, s], [other + 1, torch.from_numpy(pooled["emb_t"])])
    loss.backward()
    assert loss.item() == pytest.approx(float(pooled["loss"]), rel=1e-4)
    torch.testing.assert_close(s.grad, torch.from_numpy(pooled["grad_s"]), rtol=1e-3, atol=1e-8)


def loss_of(data: Any, **options: Any) -> float:
    method = SimonSays(network(), Teacher(network(seed=1)), **options)
    x, y = next(iter(data.loader("test", 20)))
    method.network.eval()
    return float(method.training_step((x, y), 0).detach())


def test_gamma_alpha_and_beta_weigh_labels_teacher_and_features(data: Digits) -> None:
    labels, teacher = loss_of(data, gamma=1.0), loss_of(data, gamma=0.0, alpha=1.0)
    assert loss_of(data, gamma=0.1, alpha=0.9) == pytest.approx(0.1 * labels + 0.9 * teacher, rel=1e-4)
    for name in FEATURE_LOSSES:
        feature = loss_of(data, gamma=0.0, beta=1.0, feature=name)
        assert feature > 0
        every = loss_of(data, gamma=1.0, alpha=1.0, beta=3.0, feature=name)
        assert every == pytest.approx(labels + teacher + 3 * feature, rel=1e-4), name


def test_crd_asks_for_numbered_images_and_trains_its_embeddings(data: Digits, tmp_path: Path) -> None:
    options: dict[str, Any] = {"beta": 0.8, "feature": "crd", "every": 1, "negatives": 16}
    numbered = Retraining(Digits(size=8, batch_size=50, test=1300, validation=97), numbered=True)
    numbered.setup()
    method = SimonSays(network(), Teacher(network(seed=1)), **options)
    method.prepare(numbered)
    assert method.crd is not None
    before = state(method.crd)
    fit(method, numbered, tmp_path, epochs=4)
    assert len(method.crd.memory_student) == 400
    assert all(not torch.equal(before[name], value) for name, value in method.crd.state_dict().items())
    plain = SimonSays(network(), Teacher(network(seed=1)), **options)
    with pytest.raises(ValueError, match="numbered=True"):
        fit(plain, data, tmp_path, epochs=4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": 1.0}, "sparsity=1.0"),
        ({"alpha": 1.0}, "there is none"),
        ({"feature": "fsp"}, "feature='fsp'"),
        ({"feature": "at"}, "a feature loss needs a weight"),
        ({"classifier": "linear"}, "no such layer"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SimonSays(network(), **options)


# --- data, populations, tables ----------------------------------------------------------------------------------------


def cut(**options: Any) -> Retraining:
    made = Retraining(Digits(size=8, batch_size=50, test=1300, validation=97), **options)
    made.setup()
    return made


def test_classes_are_cut_in_the_training_part_only_and_always_alike(data: Digits) -> None:
    whole = np.bincount(data.labels("train").numpy(), minlength=10)
    one, again = cut(kept=((2, 0.1), (9, 0.5))), cut(kept=((2, 0.1), (9, 0.5)), repeat=1, seed=5)
    left = np.bincount(one.training_labels().numpy(), minlength=10)
    assert (left[2], left[9]) == (round(0.1 * whole[2]), round(0.5 * whole[9]))
    assert np.array_equal(np.delete(left, (2, 9)), np.delete(whole, (2, 9)))
    assert torch.equal(one.part("train").images, again.part("train").images)
    assert torch.equal(one.labels("test"), data.labels("test"))
    assert one.fingerprint()["sizes"]["train"] == left.sum()
    other = cut(kept=((2, 0.1), (9, 0.5)), cut_seed=1)
    assert not torch.equal(one.part("train").images, other.part("train").images)
    with pytest.raises(ValueError, match="class 10"):
        cut(kept=((10, 0.5),))
    with pytest.raises(ValueError, match=r"0\.001 of the"):
        cut(kept=((2, 0.001),))
    with pytest.raises(TypeError, match="not held in memory"):
        Retraining(object())


def test_every_repeat_of_every_seed_has_an_order_of_its_own_and_numbers_fit() -> None:
    orders = [
        tuple(next(iter(cut(repeat=repeat, seed=seed).train_dataloader()))[1].tolist())
        for repeat, seed in ((0, 0), (1, 0), (0, 1), (0, 0))
    ]
    assert len(set(orders)) == 3
    assert orders[0] == orders[3]
    numbered = cut(numbered=True, kept=((2, 0.1),))
    x, y, places = next(iter(numbered.train_dataloader()))
    assert torch.equal(numbered.training_labels()[places], y)
    assert torch.equal(numbered.inputs("train")[places], x)


def test_a_population_is_measured_against_the_network_it_was_pruned_from(data: Digits) -> None:
    base = network()
    runs = [Teacher(network(seed)) for seed in (1, 2)]
    found = BiasBenchmark(smoothed=True, similarity_images=50).measure(Population(Teacher(base), runs), data)
    values = found.metrics["test"]
    assert values["pairs"] == 2 * 1300
    assert values["subjects"] == 1300  # the bootstrap resamples images, not decisions
    with torch.no_grad():
        x, y = next(iter(data.loader("test", 1300)))
        said = [run(x).argmax(1).numpy() for run in runs]
        own = base.eval()(x).argmax(1).numpy()
    assert values["cev"] == shift_metrics(y.numpy(), own, np.stack(said), 10, smoothed=True)["cev"]
    assert values["pies"] == int(((said[0] != own) & (said[1] != own)).sum())
    assert 0 < values["svcca_layer1"] < 1
    nothing = BiasBenchmark(smoothed=True, similarity_images=50).measure(
        Population(Teacher(base), [Teacher(base)]), data
    )
    assert [nothing.metrics["test"][key] for key in ("cev", "sde", "pies")] == [0, 0, 0]
    assert nothing.metrics["test"]["svcca_fc"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="at least one student"):
        Population(Teacher(base), [])


def test_what_lies_across_arms_is_a_correlation_over_them(data: Digits) -> None:
    base = Teacher(network())
    members = [Population(base, [Teacher(network(seed))], tapped=("layer1",)) for seed in (1, 2, 3)]
    benchmark = BiasBenchmark(smoothed=True, similarity_images=50)
    found = benchmark.measure(Gallery(members), data).metrics[ACROSS]
    rows = [benchmark.measure(member, data).metrics["test"] for member in members]
    cev, distance = ([row[key] for row in rows] for key in ("cev", "svcca_layer1"))
    assert found["pearson"] == pytest.approx(np.corrcoef(cev, distance)[0, 1])
    assert -1 <= found["tau"] <= 1
    with pytest.raises(ValueError, match="at least three"):
        Gallery(members[:2])


def test_the_papers_network_has_its_size_and_its_cut_has_15_classes() -> None:
    assert sum(p.numel() for p in ResNetX4().parameters()) == 7_433_860
    assert len(dict(CIFAR_CUT)) == 15
    with pytest.raises(ValueError, match="depth=10"):
        ResNetX4(depth=10)


@pytest.mark.parametrize("scale", ["smoke", "demo", "real", "paper"])
def test_every_arm_of_every_scale_is_planned_and_judged(scale: str, tmp_path: Path) -> None:
    table, paper = plan(scale), get_paper("simon_says")
    names = {arm.name for arm in table.arms}
    for claim in table.claims:
        assert set(claim.arms) <= names, claim.key
    assert {arm.baseline for arm in table.arms} - {None} <= names
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "resnet20-12fca82f.th").write_bytes(b"for its digest")
    runs = plan_runs(table.arms, table.seeds[:1], tmp_path)
    assert {run.arm.name for run in runs} >= names
    assert ("teacher" in {run.arm.name for run in runs}) == (scale != "real")
    if scale == "paper":
        assert {entry["row"] for entry in paper.reported} == {a.reported for a in table.arms} & {
            entry["row"] for entry in paper.reported
        }
    if scale == "smoke":
        for run in runs:
            if run.arm.name.startswith("teacher"):
                build(run.arm.method, Place())


def test_all_rows_of_a_seed_are_of_one_unpruned_network() -> None:
    def bases(arm: Arm) -> set[str]:
        return {run.digest for run in plan_runs([arm], (0,)) if run.arm.name == "teacher"}

    rows = [arm for arm in plan("demo").arms if arm.name in ("dense", "struct_45", "cut_at_kd_45")]
    assert len(rows) == 3
    assert len(set().union(*map(bases, rows))) == 1
    students = [p for p in rows[2].parents if p.name != "teacher"]
    assert [p.name for p in students] == ["cut_at_kd_45_0", "cut_at_kd_45_1", "cut_at_kd_45_2"]
