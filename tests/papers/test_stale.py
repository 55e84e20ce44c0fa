"""Changing a paper's code marks its results, and never silently reuses them: a throwaway paper in a copy of the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.experiment.arm import Arm, TablePlan
from common.experiment.sources import UNRECORDED
from common.experiment.spec import DataFile, WeightsOf, spec
from papers.quantface.table import plan
from papers.staleness import CONFLICT, arm_hashes, merged, plan_hash, request_hash

ROOT = Path(__file__).resolve().parents[2]

TINY = {
    "__init__.py": "",
    "paper.toml": """
title = "Tiny"
family = "quantization"
year = 2026
basis = "text"
scales = ["smoke"]
""",
    "method.py": '''
import numpy as np
import pytorch_lightning as L
from torch import nn

from common.evaluation.benchmark import Measurement
from papers.tiny.rule import correct


class Tiny(L.LightningModule):
    """A network that is never asked."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.network = nn.Linear(1, 1, bias=False)
        self.level = level


class Data(L.LightningDataModule):
    """Nothing to train on."""

    def fingerprint(self) -> str:
        return "nothing"


class Benchmark:
    """100 pairs, of which a rule decides how many are right."""

    def measure(self, method: Tiny, data: Data) -> Measurement:
        right = correct(method.level)
        table = {name: np.arange(100) // 10 for name in ("fold", "subject_a", "subject_b")}
        table |= {"same": np.arange(100) % 2 == 0, "group": np.zeros(100, int), "group_names": np.array(["A"])}
        scores = {"easy/score": right.astype(np.float32), "easy/correct": right}
        metrics = {"easy": {"accuracy": float(100 * right.mean()), "pairs": 100, "subjects": 10}}
        cost = {"stored_bytes": 4, "compression": 1.0}
        return Measurement(metrics, cost, scores, {"0123456789ab": table}, {"easy": "0123456789ab"})
''',
    "rule.py": '''
import numpy as np


def correct(level: int) -> np.ndarray:
    """Which pairs are right."""
    return np.arange(100) < level
''',
    "table.py": """
from common.experiment.arm import Arm, TablePlan
from common.experiment.claims import Quantity, superior
from common.experiment.spec import WeightsOf, spec


def plan(scale: str) -> TablePlan:
    def arm(name: str, level: int) -> Arm:
        method = spec("papers.tiny.method.Tiny", level=level)
        return Arm(name, name, method, spec("papers.tiny.method.Data"), spec("papers.tiny.method.Benchmark"))

    claim = superior("C1", "more is more", Quantity("high", "easy"), Quantity("low", "easy"))
    return TablePlan((arm("low", 61), arm("high", 90)), (claim,), (0,), "nothing at all", ("easy",))
""",
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    papers = [path.parent.name for path in (ROOT / "papers").glob("*/paper.toml")]
    for package in ("common", "datasets", "papers"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__", *papers))
    (root / "papers" / "tiny").mkdir()
    for name, text in TINY.items():
        (root / "papers" / "tiny" / name).write_text(text)
    return root


def call(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, "-m", "papers", *arguments],
        cwd=root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def make(root: Path, *arguments: str) -> str:
    return " ".join(call(root, "tiny", "--scale", "smoke", "--wandb", "disabled", *arguments).split())


def edit(root: Path, name: str, old: str, new: str) -> None:
    path = root / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def listed(root: Path) -> dict[str, Any]:
    (row,) = json.loads(call(root, "list", "--json"))
    return {name: row[name].get("smoke") for name in ("stale", "outdated", "damaged")}


FRESH = {"stale": None, "outdated": None, "damaged": None}


@pytest.mark.slow
def test_a_second_make_never_reuses_what_other_code_has_made(copy: Path) -> None:
    page = copy / "results" / "tiny" / "smoke.md"
    assert "2 runs, 0 finished before" in make(copy)
    assert "| low | 61.00 |" in page.read_text()
    assert listed(copy) == FRESH

    edit(copy, "papers/tiny/rule.py", "Which pairs are right.", "Other words.")
    edit(copy, "common/heads/sphereface.py", "import math", "import math\nOTHER = 1")
    again = make(copy)
    assert "nothing to train" in again
    assert "stale" not in again.lower()
    assert listed(copy) == FRESH

    edit(copy, "papers/tiny/rule.py", "< level", "< level - 1")
    assert listed(copy) == {**FRESH, "stale": ["papers.tiny.rule"]}
    assert "smoke: 1 inconclusive, stale: papers.tiny.rule changed" in call(copy, "list")
    kept = make(copy, "--stale", "keep", "--seeds", "0,1")
    assert "2 runs are stale (papers.tiny.rule changed): KEPT as STALE=keep says, and marked" in kept
    assert "STALE: every row was made before papers.tiny.rule changed. make tiny SCALE=smoke computes it again." in kept
    assert "STALE: these verdicts rest on" in kept
    assert "| low *stale* | 60.50 ± 0.71 |" in page.read_text(), "the mean of a kept 61 and a new 60"
    assert listed(copy)["stale"] == ["papers.tiny.rule"]

    renewed = make(copy)
    assert "2 runs are stale (papers.tiny.rule changed): computed again" in renewed
    assert "[2/2]" in renewed
    assert "| low | 60.00 |" in page.read_text()
    assert "tale" not in page.read_text()
    assert listed(copy) == FRESH


@pytest.mark.slow
def test_what_is_done_about_a_table_that_says_something_else_now(copy: Path) -> None:
    """A claim is judged again by redrawing; an arm of another make is stale, whatever its name; damage is repaired."""
    if not (copy / "results").exists():
        make(copy)  # the test above was not chosen
    edit(copy, "papers/tiny/table.py", "more is more", "more is much more")
    assert listed(copy) == {**FRESH, "outdated": ["papers.tiny.table"]}
    assert "outdated: papers.tiny.table changed, make redraw judges again" in call(copy, "list")
    call(copy, "redraw")
    assert listed(copy) == FRESH
    assert "more is much more" in (copy / "results" / "tiny" / "smoke.md").read_text()

    edit(copy, "papers/tiny/table.py", '"low", 61', '"low", 71')
    assert listed(copy)["stale"] == ["papers.tiny.table"]
    call(copy, "redraw")
    page = (copy / "results" / "tiny" / "smoke.md").read_text()
    assert "| low *stale* | 60.00 |" in page
    assert "| high | 89.00 |" in page
    assert "the row marked so was made before `papers.tiny.table` changed" in page

    edit(copy, "papers/tiny/table.py", '"low", 71', '"low", 61 +')  # a syntax error
    assert listed(copy)["stale"] == ["papers.tiny.table"]
    edit(copy, "papers/tiny/table.py", '"low", 61 +', '"low", 61')
    table = copy / "results" / "tiny" / "smoke.json"
    table.write_text(table.read_text().replace('"inconclusive"', '"holds"'))
    assert "smoke.json" in listed(copy)["damaged"]
    assert "all 2 runs are in the store" in make(copy), "what is damaged in results/ is published again"
    assert listed(copy) == FRESH


# --- hashes of tables ----------------------------------------------------------------------------------------------


def test_what_decides_an_arm_and_what_does_not() -> None:
    smoke = plan("smoke")
    first = smoke.arms[0]

    def with_first(arm: Arm) -> TablePlan:
        return replace(smoke, arms=(arm, *smoke.arms[1:]))

    base = arm_hashes(smoke)
    assert base == arm_hashes(plan("smoke"))
    titled = with_first(replace(first, title="x", series="y", bits=7.0, reported="z"))
    assert arm_hashes(titled) == base
    assert plan_hash(titled) != plan_hash(smoke)
    for other in (
        replace(first, method=first.method.replace(lr=0.3)),
        replace(first, data=first.data.replace(size=33)),
        replace(first, benchmark=first.benchmark.replace(flip="none")),
        replace(first, phases=(*first.phases, *first.phases)),
        replace(first, keep=("epoch1",)),
        replace(first, precision="16-mixed"),
    ):
        assert arm_hashes(with_first(other))[first.name] != base[first.name]


def test_a_parents_options_decide_its_children() -> None:
    def child(lr: float, title: str = "t") -> Arm:
        parent = Arm("p", title, spec("a.B", lr=lr), spec("a.D"), spec("a.E"))
        return Arm("c", "c", spec("a.C", networks=[{"one": WeightsOf(parent)}]), spec("a.D"), spec("a.E"))

    def hashed(arm: Arm) -> dict[str, str]:
        return arm_hashes(TablePlan((arm,), (), (0,), ""))

    assert hashed(child(0.1)) == hashed(child(0.1, "another title"))
    assert hashed(child(0.1)) != hashed(child(0.2))


def test_a_request_counts_seeds_and_data_files(tmp_path: Path) -> None:
    arm = Arm("a", "a", spec("a.B", weights=(DataFile("w.ckpt"),)), spec("a.D"), spec("a.E"))
    table = TablePlan((arm,), (), (0,), "")
    (tmp_path / "w.ckpt").write_bytes(b"one")
    hashes = [
        request_hash(table, (0,), tmp_path),
        request_hash(table, (0, 1), tmp_path),
        request_hash(table, (0,), None),
    ]
    assert len(set(hashes)) == len(hashes)
    (tmp_path / "w2.ckpt").write_bytes(b"two")
    os.replace(tmp_path / "w2.ckpt", tmp_path / "w.ckpt")
    answer = subprocess.run(
        [sys.executable, "-c", f"""
from pathlib import Path
from common.experiment.arm import Arm, TablePlan
from common.experiment.spec import DataFile, spec
from papers.staleness import request_hash
arm = Arm("a", "a", spec("a.B", weights=(DataFile("w.ckpt"),)), spec("a.D"), spec("a.E"))
print(request_hash(TablePlan((arm,), (), (0,), ""), (0,), Path({str(tmp_path)!r})))"""],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert answer.stdout.strip() not in hashes, "another file of the same name is another request"


def test_runs_that_disagree_make_a_table_stale() -> None:
    assert merged([{"a": "1", "b": "2"}, {"a": "1", "c": "3"}]) == {"a": "1", "b": "2", "c": "3"}
    assert merged([{"a": "1"}, {"a": "2"}]) == {"a": CONFLICT}
    assert merged([{"a": "1"}, {}]) == {}, f"one run without sources makes the table {UNRECORDED}"
