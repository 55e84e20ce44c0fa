"""`ARMS=`: some rows of a table now, others later; what was not asked for is named and has no row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from papers.registry import PaperError, get_paper
from papers.reproduce import chosen_arms
from papers.snip.table import plan

ROOT = Path(__file__).resolve().parents[2]


def call(folder: Path, arms: str | None) -> subprocess.CompletedProcess[str]:
    here = ["--store", str(folder / "store"), "--results", str(folder / "results"), "--wandb", "disabled"]
    command = [sys.executable, "-m", "papers", "snip", "--scale", "smoke", *here, *(["--arms", arms] if arms else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_patterns_choose_rows_in_the_order_of_the_table() -> None:
    table = plan("smoke")
    assert chosen_arms(table, None) == table.arms
    assert chosen_arms(table, []) == table.arms
    assert [arm.name for arm in chosen_arms(table, ["snip_9*", "dense"])] == ["dense", "snip_90"]
    assert next(arm.name for arm in chosen_arms(table, ["*_95"])) == "random_95"


def test_a_pattern_without_an_arm_is_a_mistake() -> None:
    with pytest.raises(PaperError, match="no arm is called 'snpi_90'; did you mean 'snip_90'"):
        chosen_arms(plan("smoke"), ["snpi_90"])


@pytest.mark.slow
def test_some_rows_now_and_others_later(tmp_path: Path) -> None:
    first = call(tmp_path, "dense snip_90")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "2 runs, 0 finished before" in first.stdout
    count = len(plan("smoke").arms)
    page, stored = tmp_path / "results/snip/smoke.md", tmp_path / "results/snip/smoke.json"
    assert f"{count - 2} of {count} arms of this scale have not been run and have no row: random_95" in page.read_text()
    assert [run["arm"] for run in json.loads(stored.read_text())["runs"]] == ["dense", "snip_90"]

    assert "nothing to train" in call(tmp_path, "dense snip_90").stdout

    later = call(tmp_path, "random_95")
    assert later.returncode == 0, later.stdout + later.stderr
    assert "1 runs, 0 finished before" in later.stdout
    assert [run["arm"] for run in json.loads(stored.read_text())["runs"]] == ["dense", "snip_90", "random_95"]
    rows = json.loads(stored.read_text())["table"]["rows"]
    assert [row["name"] for row in rows] == ["dense", "snip_90", "random_95"]
    assert all(row["seeds"] for row in rows)
    assert get_paper("snip").key == "snip"
