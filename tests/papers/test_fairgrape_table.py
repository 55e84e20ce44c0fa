"""FairGRAPE's networks and plans: logits, phases, claims about arms that exist, runs that keep their names, figures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common.experiment.arm import plan_runs
from common.experiment.records import RunRecord
from common.experiment.spec import Place, build
from papers.fairgrape.figures import draw
from papers.fairgrape.networks import SmallResNet, mobilenet_v2, resnet34
from papers.fairgrape.table import plan
from papers.registry import get_paper


def test_networks_have_one_logit_a_class() -> None:
    x = torch.zeros(2, 3, 32, 32)
    assert SmallResNet(5)(x).shape == (2, 5)
    assert resnet34(7).eval()(x).shape == (2, 7)
    network = mobilenet_v2(78)
    assert network.eval()(x).shape == (2, 78)
    assert sum(p.numel() for p in network.parameters()) == 2_223_872 + 1280 * 78 + 78


@pytest.mark.parametrize("scale", ["smoke", "demo", "real", "paper"])
def test_claims_speak_of_arms_that_there_are(scale: str) -> None:
    table = plan(scale)
    arms = {arm.name for arm in table.arms}
    assert all(set(claim.arms) <= arms for claim in table.claims)
    assert all(arm.baseline in arms for arm in table.arms if arm.baseline)
    assert scale in get_paper("fairgrape").scales


def test_phases_are_rounds_then_stages() -> None:
    arms = {arm.name: arm for arm in plan("demo").arms}
    names = [phase.name for phase in arms["fairgrape_90"].phases]
    assert names[:4] == ["prune 1", "retrain 1", "prune 2", "retrain 2"]
    assert names[8:] == ["stage 1", "stage 2", "stage 3", "best"]
    assert [phase.name for phase in arms["snip_90"].phases] == ["prune 1", *names[8:]]
    assert arms["lottery_99"].parents == (arms["full"],)


def test_runs_keep_their_names() -> None:
    """A changed digest orphans stored results: change it knowingly."""
    runs = {run.arm.name: run.digest for run in plan_runs(plan("demo").arms, [0])}
    assert len(set(runs.values())) == 21
    assert runs["fairgrape_99"] == PINNED


PINNED = "f4b86f1d2c62db39"


def test_the_smallest_arm_can_be_built() -> None:
    arm = next(arm for arm in plan("smoke").arms if arm.name == "full")
    method = build(arm.method, Place())
    assert method.criterion == "none"


def test_figures_show_every_column_and_need_the_full_network(tmp_path: Path) -> None:
    def record(arm: str, spread: float) -> RunRecord:
        groups = {"group_accuracy": {"a": 90.0, "b": None}, "group_interval": {"a": [85.0, 93.0], "b": None}}
        return RunRecord(arm, 0, "ok", {"test": {**groups, "std_of_change": spread, "by": {"gender": groups}}})

    assert draw([record("fairgrape_99", 1.0)], tmp_path / "demo") == {}
    found = draw([record("full", 0.0), record("fairgrape_99", 1.0), record("snip_90", 2.0)], tmp_path / "demo")
    assert sorted(found) == ["demo-groups.svg", "demo-losses.svg"]
    assert "FairGRAPE" in (tmp_path / "demo-losses.svg").read_text()
