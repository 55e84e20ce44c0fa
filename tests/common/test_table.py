"""A table shows what was stored, no more: hand-made runs in, numbers and words out."""

import csv
import io
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.experiment.claims import Quantity, superior
from common.experiment.judge import judge
from common.experiment.records import STATUSES, PairTable, RunRecord, load_records, seal_results
from common.experiment.render import grid, group_grid, summary_line, to_markdown
from common.experiment.render_export import to_csv, to_latex
from common.experiment.render_verdicts import verdict_grid
from common.experiment.rows import cell
from common.experiment.sources import UNRECORDED
from common.experiment.table import Table, build_table
from common.experiment.terminal import to_text
from common.files import DamagedFileError, write_json_atomically

ARMS = [
    {"name": "fp32", "title": "FP32", "series": "full precision", "bits": 32, "reported_key": "big_fp32"},
    {"name": "w8", "title": "W8A8, a title that is rather long, as titles are", "series": "ours", "bits": 8},
    {"name": "w2", "title": "W2A2", "series": "ours", "bits": 2},
]
REPORTED = [
    {"row": "big_fp32", "metric": "easy", "value": 99.5, "unit": "%", "source": "Table 2", "verified": True},
    {"row": "w8", "metric": "easy", "value": 98.2, "unit": "%", "source": "a later paper", "verified": False},
    {"row": "w8", "metric": "mb", "value": 1.1, "unit": "MB", "source": "Table 2", "verified": True},
]


def make_run(arm: str, seed: int, accuracy: float, hard: float = 80.0, **changes: Any) -> RunRecord:
    def metrics(level: float) -> dict[str, Any]:
        groups = {"A": level + 1, "B": level - 1}
        return {
            "accuracy": level,
            "group_accuracy": groups,
            "worst_group": level - 1,
            "group_std": 2**0.5,
            "ser": (101 - level) / (99 - level) if level < 99 else None,
            "pairs": 6000,
            "subjects": 300,
        }

    bits = {"fp32": 32, "w8": 8}.get(arm, 2)
    return RunRecord(
        arm,
        seed,
        "ok",
        metrics={"easy": metrics(accuracy), "hard": metrics(hard)},
        cost={"stored_bytes": 125_000 * bits, "compression": 4_000_000 / (125_000 * bits)},
        provenance={"git": {"commit": "f" * 40, "dirty": True}, "cpu": {"model": "a CPU"}, "threads": 2},
        **changes,
    )


def make_runs() -> list[RunRecord]:
    """FP32 at three seeds, W8 at two of three, W2 at none."""
    return [
        *(make_run("fp32", seed, level) for seed, level in enumerate([97.0, 98.0, 96.0])),
        make_run("w8", 0, 95.0),
        RunRecord("w8", 1, "failed", error={"type": "MemoryError", "message": "no room"}),
        make_run("w8", 2, 96.0),
        *(RunRecord("w2", seed, "interrupted") for seed in range(3)),
    ]


def make_table(runs: list[RunRecord] | None = None, **changes: Any) -> Table:
    options: dict[str, Any] = {"key": "paperkey", "title": "A Paper", "scale": "demo", "data_note": "Generated faces."}
    return build_table(make_runs() if runs is None else runs, ARMS, REPORTED, **{**options, **changes})


def test_a_cell_is_mean_and_sample_deviation() -> None:
    assert cell([(0, 97.0), (1, 98.0), (2, 96.0)]).mean == 97
    assert cell([(0, 97.0), (1, 98.0), (2, 96.0)]).std == pytest.approx(1.0)
    assert cell([(0, 97.0)]).std is None
    assert cell([(0, 97.0), (1, None)]).mean is None
    assert cell([(0, 97.0), (1, float("inf"))]).values == ((0, 97.0), (1, None))
    assert cell([]).mean is None


def test_the_grid_by_hand() -> None:
    head, body = grid(make_table())
    assert head == [
        *("arm", "easy", "hard", "worst group", "STD", "SER"),
        *("nominal", "true", "bytes", "paper: easy", "seeds"),
    ]
    assert body[0] == [
        *("FP32", "97.00 ± 1.00", "80.00 ± 0.00", "96.00 ± 1.00", "1.41 ± 0.00", "2.22 ± 0.69"),
        *("1x", "1x", "4,000,000", "99.50", "3"),
    ]
    assert body[1][1:] == [
        *("95.50 ± 0.71", "80.00 ± 0.00", "94.50 ± 0.71", "1.41 ± 0.00", "1.58 ± 0.12"),
        *("4x", "4x", "1,000,000", "[98.20]", "2 of 3"),
    ]
    assert body[2] == ["W2A2", "interrupted", *["–"] * 7, "", "0 of 3"]


def test_a_run_that_is_not_ok_never_shows_a_number() -> None:
    runs = [replace(make_run("w2", seed, 12.34), status="failed") for seed in range(3)]
    text = to_markdown(make_table(runs))
    assert "12.34" not in text
    assert "failed" in text
    assert "w2 failed at seeds 0, 1, 2" in text


def test_undefined_numbers_say_so() -> None:
    perfect = [make_run("fp32", seed, 99.5) for seed in range(2)]
    assert perfect[0].metrics["easy"]["ser"] is None
    _, body = grid(make_table(perfect))
    assert body[0][5] == "undefined"


def test_the_papers_numbers_stay_apart_from_a_demo() -> None:
    """No mark and no difference, even where our number happens to be the paper's."""
    text = to_markdown(make_table([make_run("fp32", seed, 99.5) for seed in range(3)], tolerance=5.0))
    assert "*reproduced*" not in text
    assert "Not comparable with a row of another scale" in text
    assert "no number of a demo table can be set against them" in text


@pytest.mark.parametrize(("ours", "marked"), [(99.4, True), (99.1, False)])
def test_only_a_row_of_paper_scale_can_be_reproduced(ours: float, marked: bool) -> None:
    runs = [make_run("fp32", seed, ours) for seed in range(3)]
    table = make_table(runs, scale="paper", tolerance=0.2)
    assert table.rows[0].reproduced == {"easy": marked}
    assert ("99.50 *reproduced*" in to_markdown(table)) == marked
    assert make_table(runs, scale="paper").rows[0].reproduced == {}  # no tolerance stated, no mark
    assert make_table(runs, scale="lab", tolerance=0.2).rows[0].reproduced == {}


def test_an_unverified_number_cannot_be_reproduced() -> None:
    table = make_table([make_run("w8", seed, 98.2) for seed in range(3)], scale="paper", tolerance=0.2)
    assert table.rows[1].reproduced == {}
    assert "| [98.20] |" in to_markdown(table)


def test_the_papers_spread_decides_before_the_tables_tolerance() -> None:
    entry = {**REPORTED[0], "spread": 0.05}
    runs = [make_run("fp32", seed, 99.4) for seed in range(3)]
    options: dict[str, Any] = {"key": "k", "title": "t", "scale": "paper", "tolerance": 1.0}
    assert build_table(runs, ARMS, [entry], **options).rows[0].reproduced == {"easy": False}


def test_order_of_runs_does_not_matter_and_order_of_arms_does() -> None:
    assert make_table(list(reversed(make_runs()))) == make_table()
    assert [row.name for row in make_table().rows] == ["fp32", "w8", "w2"]


def test_pair_sets_and_fairness_set_can_be_chosen() -> None:
    table = make_table(pair_sets=("hard", "easy"), fairness_set="hard")
    assert [column.key for column in table.columns[:3]] == ["hard:accuracy", "easy:accuracy", "hard:worst_group"]
    with pytest.raises(ValueError, match="'sideways' of the group columns was not measured: easy, hard"):
        make_table(fairness_set="sideways")


def test_two_arms_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="share a name"):
        build_table([], [ARMS[0], ARMS[0]], key="k", title="t", scale="demo")


def test_every_group_has_a_column() -> None:
    head, body = group_grid(make_table())
    assert head == ["arm", "A", "B"]
    assert body[0] == ["FP32", "98.00 ± 1.00", "96.00 ± 1.00"]
    assert body[2] == ["W2A2", "interrupted", "–"]


def test_a_table_is_json() -> None:
    stored = json.loads(json.dumps(make_table().to_dict(), allow_nan=False))
    assert stored["rows"][0]["cells"]["easy:accuracy"]["values"] == [[0, 97.0], [1, 98.0], [2, 96.0]]


def test_an_empty_table_still_renders() -> None:
    table = make_table([])
    assert "0 of 3 arms" in to_markdown(table)
    assert "not run" in to_text(table)


# Renderings


def make_verdicts() -> list[Any]:
    pairs = PairTable(
        same=np.tile([True, False], 200),
        fold=np.zeros(400),
        group=np.zeros(400),
        subject_a=np.repeat(np.arange(40), 10),
        subject_b=np.where(np.tile([True, False], 200), np.repeat(np.arange(40), 10), (np.arange(400) * 7 + 1) % 40),
        group_names=("A",),
    )
    rng = np.random.default_rng(0)
    runs = [
        RunRecord(arm, seed, "ok", correct={"easy": rng.random(400) < level}, pairs={"easy": pairs})
        for arm, level in {"fp32": 0.98, "w8": 0.6}.items()
        for seed in range(3)
    ]
    better = superior("C1", "FP32 beats W8A8 | by far", Quantity("fp32", "easy"), Quantity("w8", "easy"))
    missing = superior("C2", "W8A8 beats W2A2", Quantity("w8", "easy"), Quantity("w2", "easy"), source="suite")
    return judge([better, missing], runs, draws=200)


def test_markdown_has_every_part() -> None:
    text = to_markdown(make_table(command="make paperkey"), make_verdicts(), "[README](x)", "demo.svg")
    assert text.startswith("# A Paper: `paperkey`, demo scale\n\n**2 of 3 arms, 3 seeds, demo scale.")
    assert "Of 2 claims: 1 holds, 1 not judged.**" in text
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        *("## Table", "## Whom does compression hurt?", "## Claims", "## Reported by the paper", "## Provenance"),
    ]
    assert "![Accuracy against stored size, and the groups](demo.svg)" in text
    assert "| `C1` | FP32 beats W8A8 \\| by far | **holds** | +3" in text
    assert "C2: not judged, because arm 'w2' was not run." in text
    assert "w8 failed at seed 1 (MemoryError: no room)" in text
    assert "1. Table 2\n2. a later paper" in text
    assert "commit ffffffffffff with local changes; a CPU; threads a run: 2" in text
    assert "easy: 6,000 pairs of 300 people" in text


def test_markdown_tables_are_rectangular() -> None:
    for block in to_markdown(make_table(), make_verdicts()).split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_the_summary_counts() -> None:
    assert summary_line(make_table(), []) == "2 of 3 arms, 3 seeds, demo scale. No claims are judged."


def test_a_corrected_verdict_shows_what_it_was() -> None:
    verdict = replace(make_verdicts()[0], verdict="inconclusive")
    _, body = verdict_grid([verdict])
    assert body[0][2] == "inconclusive (holds before correction)"


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_never_cuts_a_number(width: int) -> None:
    table, verdicts = make_table(pair_sets=("easy", "hard")), make_verdicts()
    text = to_text(table, verdicts, width)
    assert max(map(len, text.splitlines())) <= width
    for line in grid(table)[1]:
        for number in line[1:]:
            assert number in text
    effect = verdict_grid(verdicts)[1][0][3]
    assert effect in text
    assert "…" not in text


def test_latex_escapes_and_is_rectangular() -> None:
    arms = [{"name": "a", "title": "50 % of W_8 & more"}]
    text = to_latex(build_table([make_run("a", 0, 90.0)], arms, key="k", title="t", scale="demo"))
    assert "50 \\% of W\\_8 \\& more" in text
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert len({line.replace("\\&", "").count("&") for line in rows}) == 1
    assert text.count("\\toprule") == text.count("\\bottomrule") == 1


def test_csv_has_one_line_a_run() -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(make_table()))))
    assert [(line["arm"], line["seed"], line["status"]) for line in lines] == [
        *(("fp32", "0", "ok"), ("fp32", "1", "ok"), ("fp32", "2", "ok")),
        *(("w8", "0", "ok"), ("w8", "2", "ok"), ("w2", "", "interrupted")),
    ]
    assert float(lines[1]["easy:accuracy"]) == 98.0
    assert lines[-1]["easy:accuracy"] == ""


# Stale rows


def stale_table(*digests: str, modules: tuple[str, ...] = ("common.cost", "common.weights")) -> Table:
    runs = [replace(run, digest=f"{run.arm}-{run.seed}") for run in make_runs()]
    return make_table(runs, command="make paperkey", stale={digest: modules for digest in digests})


def test_a_fresh_table_says_nothing_of_staleness() -> None:
    table = stale_table()
    assert table.stale == ()
    assert (
        "stale" not in (to_markdown(table, make_verdicts()) + to_text(table, make_verdicts()) + to_csv(table)).lower()
    )


def test_one_stale_run_marks_its_row_the_table_and_the_verdicts() -> None:
    table, verdicts = stale_table("w8-2"), make_verdicts()
    assert [row.stale for row in table.rows] == [(), ("common.cost", "common.weights"), ()]
    page = to_markdown(table, verdicts)
    assert "| W8A8, a title that is rather long, as titles are *stale* |" in page
    assert "| FP32 |" in page
    assert (
        "**Stale**: the row marked so was made before `common.cost`, `common.weights` changed. `make paperkey` computes it again."
        in page
    )
    assert "demo scale, stale. Of 2 claims" in page
    claims = page[page.index("## Claims") :]
    assert claims.startswith("## Claims\n\n**Stale**: these verdicts rest on numbers that other code has made")
    shown = " ".join(to_text(table, verdicts).split())
    assert "STALE: the row marked so was made before common.cost, common.weights changed." in shown
    assert "STALE: these verdicts rest on" in shown
    assert [line["status"] for line in csv.DictReader(io.StringIO(to_csv(table)))][3:] == [
        "stale",
        "stale",
        "interrupted",
    ]


def test_a_table_made_before_sources_were_recorded_says_so() -> None:
    table = stale_table("fp32-0", "w8-0", modules=(UNRECORDED,))
    assert "**Stale**: every row was made before sources were recorded." in to_markdown(table)


def test_many_changes_are_counted() -> None:
    table = stale_table("fp32-0", modules=tuple(f"common.m{at:02}" for at in range(20)))
    assert "`common.m07` and 12 more changed" in to_markdown(table)


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "ok"])
def test_an_arm_without_a_usable_run_says_what_happened(status: str) -> None:
    assert grid(make_table([RunRecord("w2", 9, status)]))[1][2][1] == status


# Reading stored runs


def write_results(folder: Path) -> None:
    table = {name: np.zeros(4, dtype=np.int16) for name in ("fold", "group", "subject_b")}
    table |= {"same": np.array([True, False] * 2), "subject_a": np.arange(4), "group_names": np.array(["A"])}
    np.savez_compressed(folder / "pairs-0123456789ab.npz", **table)
    for digit, arm in (("a", "w8"), ("b", "fp32")):
        digest = digit * 16
        result = {"schema": 1, "digest": digest, "arm": arm, "seed": 0, "status": "ok"}
        result |= {"metrics": {"easy": {"accuracy": 50.0}}, "pairs": {"easy": "0123456789ab"}, "cost": {}}
        write_json_atomically(folder / f"{digest}.json", result)
        np.savez_compressed(folder / f"{digest}.npz", **{"easy/correct": np.array([True, True, False, False])})
    write_json_atomically(
        folder / f"{'c' * 16}.json", {"arm": "w2", "seed": 0, "status": "failed", "error": {"message": "no room"}}
    )
    seal_results(folder)


def test_records_are_read_back(tmp_path: Path) -> None:
    write_results(tmp_path)
    records = load_records(tmp_path)
    assert [(record.arm, record.status) for record in records] == [("fp32", "ok"), ("w2", "failed"), ("w8", "ok")]
    assert records[0].correct["easy"].tolist() == [True, True, False, False]
    assert records[0].pairs["easy"] is records[2].pairs["easy"]
    assert records[0].pairs["easy"].pool == "easy"
    assert load_records(tmp_path, {"easy": "lfw people"})[0].pairs["easy"].pool == "lfw people"
    assert records[1].error == {"message": "no room"}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "pairs-0123456789ab.npz").unlink(), "does not list 'pairs-0123456789ab.npz'"),
        (lambda f: (f / f"{'a' * 16}.npz").write_bytes(b"PK\x03\x04 cut"), "aaaa.npz is damaged"),
        (lambda f: (f / f"{'a' * 16}.npz").write_bytes(b""), "aaaa.npz is damaged"),
        (lambda f: (f / f"{'a' * 16}.json").write_text('{"arm": "w8"'), "damaged at line 1"),
        (lambda f: (f / f"{'a' * 16}.json").write_text("{}"), "names no arm, seed, status"),
        (lambda f: (f / f"{'a' * 16}.json").write_text("[1]"), "names no arm"),
        (
            lambda f: np.savez(f / f"{'a' * 16}.npz", **{"easy/correct": np.ones(3, bool)}),
            r"decisions of shape \[3\] on pair set 'easy': expected \[4\]",
        ),
        (lambda f: np.savez(f / f"{'a' * 16}.npz", other=np.ones(4)), "no array 'easy/correct'"),
        (lambda f: np.savez(f / "pairs-0123456789ab.npz", same=np.ones(4)), "lacks fold"),
        (
            lambda f: np.savez(f / f"{'a' * 16}.npz", **{"easy/correct": np.array([{}] * 4, dtype=object)}),
            "damaged",
        ),
    ],
)
def test_wrong_results_are_named(tmp_path: Path, damage: Any, words: str) -> None:
    """Files that are as they were written, and say what makes no sense."""
    write_results(tmp_path)
    damage(tmp_path)
    seal_results(tmp_path)
    with pytest.raises(DamagedFileError, match=words):
        load_records(tmp_path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "pairs-0123456789ab.npz").unlink(), "pairs-0123456789ab.npz is missing"),
        (lambda f: (f / f"{'a' * 16}.json").unlink(), "aaaa.json is missing"),
        (lambda f: np.savez(f / f"{'a' * 16}.npz", **{"easy/correct": np.ones(4, bool)}), "aaaa.npz .*not as it was"),
        (lambda f: (f / f"{'a' * 16}.json").rename(f / f"{'d' * 16}.json"), "aaaa.json is missing"),
        (lambda f: (f / f"{'d' * 16}.json").write_text("{}"), "does not list 'dddddddddddddddd.json'"),
        (lambda f: (f / "SHA256SUMS").unlink(), "no SHA256SUMS.*`make quantface SCALE=demo`"),
        (lambda f: (f / "SHA256SUMS").write_text(""), "SHA256SUMS is not as it was written"),
    ],
)
def test_changed_results_are_named(tmp_path: Path, damage: Any, words: str) -> None:
    """Files that are not as they were written, whatever they say."""
    folder = tmp_path / "quantface" / "demo"
    folder.mkdir(parents=True)
    write_results(folder)
    damage(folder)
    with pytest.raises(DamagedFileError, match=words):
        load_records(folder)


def test_a_pair_table_is_not_fetched_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    write_results(tmp_path / "results")
    np.savez(tmp_path / "secret.npz", same=np.ones(4))
    path = tmp_path / "results" / f"{'a' * 16}.json"
    path.write_text(path.read_text().replace("0123456789ab", "x/../../secret"))
    seal_results(tmp_path / "results")
    with pytest.raises(DamagedFileError, match=r"does not list 'pairs-x/../../secret.npz'"):
        load_records(tmp_path / "results")


def test_results_can_be_checked_without_this_suite_and_lose_what_killed_writers_left(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    for path in (folder / ".writing-0123.tmp", tmp_path / ".writing-4567.tmp", tmp_path / "demo.svg"):
        path.write_text("x")
    write_results(folder)
    assert not list(tmp_path.rglob(".writing-*"))
    done = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0
    assert sorted(line for line in done.stdout.split("\n") if "demo.svg" in line or "pairs" in line) == [
        "../demo.svg: OK",
        "pairs-0123456789ab.npz: OK",
    ]


def test_a_folder_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the paper's Make target first"):
        load_records(tmp_path / "none")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"same": np.ones(0, bool)}, "without pairs"),
        ({"fold": np.zeros(3)}, r"column 'fold' of a pair table has shape \[3\]"),
        ({"group": np.array([0, 1, 0, 0])}, "do not fit its 1 group names"),
    ],
)
def test_a_pair_table_checks_itself(changes: dict[str, Any], words: str) -> None:
    columns: dict[str, Any] = {name: np.zeros(4) for name in ("same", "fold", "group", "subject_a", "subject_b")}
    with pytest.raises(ValueError, match=words):
        PairTable(**{**columns, **changes}, group_names=("A",))
