"""NISP's learning curves are those of the arms that lost half of every layer."""

from __future__ import annotations

from pathlib import Path

from common.experiment.records import RunRecord
from papers.nisp.figures import curves_of, draw


def record(arm: str, curve: list[float] | None, status: str = "ok") -> RunRecord:
    return RunRecord(arm, 0, status, cost={} if curve is None else {"accuracy_by_epoch": curve})


def test_curves_by_network_and_kind(tmp_path: Path) -> None:
    records = [
        record("nisp_50", [60.0, 90.0]),
        record("magnitude_50", [50.0, 91.0]),
        record("nisp_no_frl_50", [55.0, 89.0]),
        record("resnet8_nisp_50", [40.0, 80.0]),
        record("nisp_90", [10.0, 20.0]),
        record("random_50", None),
        record("scratch_50", [1.0, 2.0], "failed"),
    ]
    found = curves_of(records)
    assert found == {
        "": {"nisp": [[60.0, 90.0]], "nisp_no_frl": [[55.0, 89.0]], "magnitude": [[50.0, 91.0]]},
        "resnet8_": {"nisp": [[40.0, 80.0]]},
    }
    assert list(draw(records, tmp_path / "demo")) == ["demo-curves.svg"]
    assert draw(records[4:], tmp_path / "none") == {}
