"""CoupleFace's tables: every arm can be built, every claim can be judged, and the curves of C4 reach table and figure."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from common.distillation.setting import FAIRNESS_SET, face_setting
from common.evaluation.benchmark import Measurement, VerificationBenchmark
from common.experiment.arm import plan_runs
from common.experiment.spec import Place, build
from common.recognition import FaceRecognizer
from papers.coupleface.benchmark import RelationBenchmark
from papers.coupleface.figures import curves_of, draw
from papers.coupleface.method import CoupleFace
from papers.coupleface.table import WEIGHT, plan
from papers.registry import get_paper


@pytest.mark.parametrize("scale", ["smoke", "demo", "lab", "paper"])
def test_every_claim_speaks_of_arms_that_are_there(scale: str) -> None:
    table, paper = plan(scale), get_paper("coupleface")
    names = {arm.name for arm in table.arms}
    for claim in table.claims:
        assert set(claim.arms) <= names, claim.key
    for arm in table.arms:
        assert {arm.baseline, arm.teacher} - {None} <= names
        assert arm.reported in {None, *(entry["row"] for entry in paper.reported)}
    # no further run is planned than the rows: the teachers are rows too
    assert len(plan_runs(table.arms, table.seeds, Path("/data"))) == len(names) * len(table.seeds)
    assert scale in paper.scales


def method_of(arm: Any, place: Place) -> Any:
    with mock.patch("common.distillation.teacher.load_weights") as load:
        method = build(arm.method, place)
    assert load.call_count == isinstance(method, CoupleFace)
    return method


@pytest.mark.parametrize("scale", ["smoke", "demo"])
def test_every_arm_can_be_built(scale: str) -> None:
    table = plan(scale)
    place = Place(weights=lambda arm, kept: Path(f"/{arm.name}/{kept}"))
    for arm in table.arms:
        method = method_of(arm, place)
        assert isinstance(method, FaceRecognizer)
        assert arm.phases[0].compute == ("mine" if isinstance(method, CoupleFace) else None)


def test_the_demo_shares_the_teacher_and_has_identities_enough_to_choose_from() -> None:
    arms = {arm.name: arm for arm in plan("demo").arms}
    setting = face_setting("demo")
    assert arms["teacher"] == setting.teacher()
    place = Place(weights=lambda arm, kept: Path("/"))
    for name in set(arms) - {"teacher"}:
        method = method_of(arms[name], place)
        data = build(arms[name].data, place)
        assert data.num_classes == 800
        assert len(data.train_labels) == 4800
        assert method.num_hard_ids / 800 == {"k10": 0.0125, "k160": 0.2}.get(name, 0.05)
        weights = {"student": (0, 0), "fcd": (WEIGHT, 0), "a1_b10": (WEIGHT, 10 * WEIGHT)}.get(name, (WEIGHT, WEIGHT))
        assert (method.feature_weight, method.relation_weight) == weights


def test_the_lab_shows_three_by_three_weights() -> None:
    place = Place(weights=lambda arm, kept: Path("/"))
    arms = [arm for arm in plan("lab").arms if arm.name == "coupleface" or arm.name.startswith("a")]
    methods = [build(arm.method.replace(backbone=torch.nn.Identity(), teacher=None), place) for arm in arms]
    weights = {(method.feature_weight / WEIGHT, method.relation_weight / WEIGHT) for method in methods}
    assert weights == {(a, b) for a in (0.25, 1, 4) for b in (0.25, 1, 4)}


def test_the_benchmark_adds_the_curves_of_the_training() -> None:
    method = CoupleFace(torch.nn.Identity(), None, num_hard_ids=2, records=3, embedding_size=4, num_classes=5)  # type: ignore[arg-type]
    method.record[0] = torch.tensor([10.0, 5.0, 8.0])
    method.record[2] = torch.tensor([20.0, 2.0, 4.0])
    measured = Measurement({FAIRNESS_SET: {"accuracy": 90.0}}, {}, {}, {}, {})
    with mock.patch.object(VerificationBenchmark, "measure", return_value=measured):
        found = RelationBenchmark().measure(method, None).metrics[FAIRNESS_SET]
        assert found["harder_curve"] == [50.0, 10.0]
        assert found["similarity_curve"] == pytest.approx([0.8, 0.2])
        assert (found["harder"], found["harder_end"], found["similarity_end"]) == pytest.approx((30.0, 10.0, 0.2))
        with pytest.raises(ValueError, match="no pair set 'easy'; there are mixed"):
            RelationBenchmark("easy").measure(method, None)


def test_the_figure_shows_the_curves(tmp_path: Path) -> None:
    records: Any = [
        SimpleNamespace(
            arm=arm, ok=True, metrics={"mixed": {"harder_curve": [9.0, end], "similarity_curve": [0.5, 0.4]}}
        )
        for arm, end in (("fcd", 5.0), ("fcd", 6.0), ("coupleface", 2.0))
    ]
    records.append(SimpleNamespace(arm="student", ok=True, metrics={"mixed": {}}))
    assert curves_of(records)[""]["harder_curve"] == {"fcd": [[9.0, 5.0], [9.0, 6.0]], "coupleface": [[9.0, 2.0]]}
    (name,) = draw(records, tmp_path / "demo")
    assert name == "demo-relations.svg"
    assert b"</svg>" in (tmp_path / name).read_bytes()
    assert draw(records[-1:], tmp_path / "other") == {}
