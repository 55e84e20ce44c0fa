"""MaskInv's arms, claims and measures at every scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from common.distillation.teacher import Teacher
from common.experiment.arm import plan_runs
from common.experiment.spec import Place, WeightsOf, build
from datasets.face_masks import FaceMasks, fixed_looks
from datasets.masked_pairs import PROTOCOLS, WithMasks, under_protocol
from datasets.pairs import PairSet
from papers.mask_invariant_kd.benchmark import MaskBenchmark, mated_measures, squared
from papers.mask_invariant_kd.table import plan
from papers.registry import get_paper

SIZE = 16


def test_measures_of_scores_counted_by_hand() -> None:
    """1,000 impostor scores 0, 0.001, ..., 0.999 and four genuine ones: FMR 1 % lies at 0.989."""
    score = np.concatenate([np.arange(1000) / 1000, [0.5, 0.9895, 0.995, 1.0]])
    same = np.arange(1004) >= 1000
    found = mated_measures(score, same)
    assert found["fmr100"] == pytest.approx(25)
    assert found["fmr1000"] is None  # one impostor of 1,000: less than ten
    assert found["impostor_mean"] == pytest.approx(0.4995)
    genuine = score[1000:]
    ratio = (genuine.mean() - 0.4995) ** 2 / (genuine.var() + score[:1000].var())
    assert found["fisher_ratio"] == pytest.approx(ratio)
    many = mated_measures(np.concatenate([np.arange(10_000) / 10_000, [0.9991]]), np.arange(10_001) >= 10_000)
    assert many["fmr1000"] == 0


def test_squared_distance_of_unit_templates() -> None:
    a, b = np.eye(4)[:2], np.eye(4)[[0, 2]]
    assert squared(a, b) == pytest.approx(1.0)  # 0 and 2


class Sets:
    """Forty faces of noise, twenty people and as many pairs, under every protocol."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        faces = torch.randint(0, 256, (40, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
        first, second = np.arange(0, 40, 2), np.arange(1, 41, 2)
        second = np.concatenate([second[:10], np.roll(second[10:], 1)])
        subject = np.arange(40) // 2
        same, fold = subject[first] == subject[second], np.tile(np.arange(10), 2)
        group = np.zeros(20, dtype=int)
        pairs = PairSet("set", faces, first, second, same, fold, subject, group, ("all",))
        images = WithMasks(faces, FaceMasks(SIZE, SIZE), fixed_looks(40, (1,)))
        self.sets = {}
        for protocol in PROTOCOLS:
            made = under_protocol(pairs, images, protocol, "second")
            self.sets[made.name] = made

    def pair_sets(self) -> dict[str, PairSet]:
        return self.sets


class Taught:
    """A network and its teacher."""

    def __init__(self, network: nn.Module, teacher: nn.Module | None = None) -> None:
        self.network = network
        if teacher is not None:
            self.teacher, self.lambda_per_dimension = Teacher(teacher), 0.25


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 6))


def test_every_set_has_its_measures_and_the_distance_is_to_the_teachers_clean_template() -> None:
    data, benchmark = Sets(), MaskBenchmark(latency_repeats=0)
    alone = benchmark.measure(Taught(linear(0)), data)
    assert list(alone.metrics) == ["set", "set_one_masked", "set_both_masked"]
    assert all({"fmr100", "fmr1000", "fisher_ratio", "genuine_mean"} <= set(found) for found in alone.metrics.values())
    assert "fmr100" in alone.metrics["set"]["undefined"]  # ten impostor pairs
    assert alone.metrics["set"]["template_distance"] == pytest.approx(0, abs=1e-10)
    assert alone.metrics["set_both_masked"]["template_distance"] > 0.01
    assert "template_distance" not in alone.metrics["set_one_masked"]
    assert alone.cost["lambda_per_dimension"] == 0
    pools = {str(table["pool"]) for table in alone.tables.values()}
    assert pools == {"set"}  # the same people: resampled together

    images = data.sets["set"].images
    teacher, student = linear(1), linear(0)

    def unit(network: nn.Module, pixels: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return nn.functional.normalize(network((pixels.float() - 127.5) / 127.5)).double().numpy()

    taught = benchmark.measure(Taught(student, teacher), data)
    goal = unit(teacher, images[0:40])
    assert taught.metrics["set_both_masked"]["template_distance"] == pytest.approx(
        squared(unit(student, images[40:80]), goal), rel=1e-5
    )
    assert taught.metrics["set"]["template_distance"] == pytest.approx(
        squared(unit(student, images[0:40]), goal), rel=1e-5
    )
    assert taught.cost["lambda_per_dimension"] == 0.25


@pytest.mark.parametrize("scale", ["smoke", "demo", "real", "lab", "paper"])
def test_every_arm_of_every_scale_is_complete_and_can_be_judged(scale: str, tmp_path: Path) -> None:
    table = plan(scale)
    names = {arm.name for arm in table.arms}
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mobilefacenet_xiaoccer_068.ckpt").write_bytes(b"")
    for claim in table.claims:
        assert set(claim.arms) <= names, claim.key
        assert {quantity.pair_set for quantity in claim.quantities} <= set(table.pair_sets), claim.key
    assert len({claim.key for claim in table.claims}) == len(table.claims)
    assert {arm.baseline for arm in table.arms} - {None} == {"teacher"}
    runs = plan_runs(table.arms, table.seeds, tmp_path)
    shared = 0 if scale == "real" else 1  # the recogniser that the teacher is
    assert len(runs) == (len(names) + shared) * len(table.seeds)
    digests = [run.digest for run in runs]
    assert len(set(digests)) == len(digests)


def test_arms_of_the_demo_are_built_as_they_are_named() -> None:
    def built(name: str) -> Any:
        arm = next(arm for arm in plan("smoke").arms if arm.name == name)
        options = dict(arm.method.options)
        teacher = options["teacher"]
        assert isinstance(dict(teacher.options)["weights"], WeightsOf)
        method = build(arm.method.replace(teacher=teacher.replace(weights=None)), Place())
        return method, build(arm.data, Place())

    low, faces = built("lg")
    assert (low.kd_weight, low.late_kd_weight, low.head_name, low.margin) == (100.0, None, "ElasticArcFace", 0.3)
    assert (faces.probability, faces.independent_flip, faces.teacher_sees) == (0.5, True, "clean")
    high, _ = built("hg")
    assert (high.kd_weight, high.late_kd_weight, high.late_from) == (100.0, 3000.0, 20 / 26)
    augmented, faces = built("augmentation")
    assert (augmented.kd_weight, augmented.response_weight, faces.probability) == (0.0, 0.0, 0.5)
    _, faces = built("lg_official_code")
    assert (faces.teacher_sees, faces.teacher_images) == ("official_code", True)
    assert built("unmasked")[1].probability == 0
    assert not built("lg_same_flip")[1].independent_flip


def test_nothing_is_reported_that_nobody_read() -> None:
    paper = get_paper("mask_invariant_kd")
    assert paper.reported == ()  # no table of the paper could be read
    assert paper.basis == "code"
