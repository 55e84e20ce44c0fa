"""The figure holds what the table holds, and the same table gives the same bytes."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from common.experiment.plot import draw_plot
from common.experiment.records import RunRecord
from common.experiment.table import Table, build_table


def make_table(series: str = "ours", seeds: int = 3) -> Table:
    arms: list[dict[str, Any]] = [{"name": "fp32", "title": "FP32", "series": "full precision", "bits": 32}]
    arms += [{"name": f"w{bits}", "title": f"W{bits}", "series": series, "bits": bits} for bits in (8, 6, 4, 2)]
    runs = [
        RunRecord(
            arm["name"],
            seed,
            "ok",
            metrics={"easy": {"accuracy": level, "group_accuracy": {"A": level + 1, "B": level - 2}, "pairs": 10}},
            cost={"stored_bytes": 10_000 * arm["bits"], "compression": 32 / arm["bits"]},
        )
        for arm in arms[:-1]
        for seed in range(seeds)
        for level in [90.0 - 40 / arm["bits"] + seed]
    ]
    return build_table(runs, arms, key="paperkey", title="A Paper", scale="demo")


def drawn_ids(path: Path) -> set[str]:
    """Identifiers of the drawn elements; matplotlib names every artist after its kind."""
    return {element.get("id", "") for element in ElementTree.parse(path).iter()}


def comments(path: Path) -> str:
    """All text of the figure (with glyphs as paths, matplotlib leaves the text in comments)."""
    return " ".join(line.strip()[5:-4] for line in path.read_text().splitlines() if line.strip().startswith("<!-- "))


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    draw_plot(make_table(), tmp_path / "a.svg")
    draw_plot(make_table(), tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "<dc:date>" not in (tmp_path / "a.svg").read_text()


def test_the_figure_says_what_it_shows(tmp_path: Path) -> None:
    draw_plot(make_table(), tmp_path / "a.svg", tmp_path / "a.png")
    words = comments(tmp_path / "a.svg")
    for text in (
        *("paperkey, demo scale: mean and standard deviation over 3 seeds", "stored bytes", "accuracy on easy (%)"),
        *("full precision", "ours", "bits", "full precision and ours", "Not drawn: W2 (not run)"),
    ):
        assert text in words
    assert {"axes_1", "axes_2", "legend_1", "legend_2"} <= drawn_ids(tmp_path / "a.svg")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_one_seed_claims_no_spread(tmp_path: Path) -> None:
    draw_plot(make_table(seeds=1), tmp_path / "a.svg")
    assert "one seed, spread unknown" in comments(tmp_path / "a.svg")


def test_long_names_are_wrapped(tmp_path: Path) -> None:
    draw_plot(make_table("a name that says the method and the faces and the granularity"), tmp_path / "a.svg")
    assert "a name that says the method and the" in comments(tmp_path / "a.svg")


def test_other_numbers_give_another_figure(tmp_path: Path) -> None:
    draw_plot(make_table(seeds=2), tmp_path / "a.svg")
    draw_plot(make_table(seeds=3), tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() != (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("kept", ["nothing", "no groups"])
def test_what_was_not_measured_is_said(tmp_path: Path, kept: str) -> None:
    table = make_table()
    if kept == "nothing":
        table = replace(table, rows=tuple(replace(r, word="failed", cells={}, groups={}, seeds=()) for r in table.rows))
    else:
        table = replace(table, rows=tuple(replace(row, groups={}) for row in table.rows), fairness_set=None)
    draw_plot(table, tmp_path / "a.svg")
    assert "no groups were measured" in comments(tmp_path / "a.svg")
    assert ("no accuracy with a stored size was measured" in comments(tmp_path / "a.svg")) == (kept == "nothing")


def test_an_arm_that_failed_is_named(tmp_path: Path) -> None:
    table = make_table()
    rows = tuple(replace(r, word="failed", cells={}, groups={}, seeds=()) if r.name == "w6" else r for r in table.rows)
    draw_plot(replace(table, rows=rows), tmp_path / "a.svg")
    assert "Not drawn: W6 (failed); W2 (not run)" in comments(tmp_path / "a.svg")


def many_series(count: int, points: int) -> Table:
    """A table of pruned networks: a dense arm and `count` series that start from it."""
    arms = [{"name": "dense", "title": "Dense", "series": "dense"}]
    arms += [
        {"name": f"{at}-{left}", "title": "x", "series": f"series {at}", "baseline": "dense"}
        for at in range(count)
        for left in range(1, points + 1)
    ]
    runs = [
        RunRecord(
            arm["name"], 0, "ok",
            metrics={"test": {"task": "classification", "error": 5.0 + at, "pairs": 10, "group_accuracy": {"a": 90.0}}},
            cost={"remaining": 100.0 if arm["name"] == "dense" else float(arm["name"].split("-")[1])},
        )
        for at, arm in enumerate(arms)
    ]  # fmt: skip
    return build_table(runs, arms, key="k", title="t", scale="demo")


def test_no_two_curves_look_alike_and_all_start_at_the_dense_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from matplotlib.axes import Axes

    looks: list[tuple[object, ...]] = []
    starts: list[float] = []

    def remember(self: Any, x: Any, y: Any, **style: Any) -> None:
        if "series" in style["label"]:
            looks.append(tuple(style[key] for key in ("color", "marker", "linestyle", "markerfacecolor")))
            starts.append(max(x))

    monkeypatch.setattr(Axes, "errorbar", remember)
    draw_plot(many_series(14, points=2), tmp_path / "a.svg")
    assert len(set(looks)) == len(looks) == 14
    assert set(starts) == {100.0}


def test_of_many_series_the_single_arms_share_one_entry(tmp_path: Path) -> None:
    draw_plot(many_series(9, points=1), tmp_path / "a.svg")
    assert "single arms (see the table)" in comments(tmp_path / "a.svg")
    assert "series 3" not in comments(tmp_path / "a.svg").replace("series 0", "")
    draw_plot(many_series(3, points=1), tmp_path / "b.svg")
    assert "series 2" in comments(tmp_path / "b.svg")


def test_arms_that_learn_from_a_teacher_stand_below_each_other(tmp_path: Path) -> None:
    arms = [{"name": "teacher", "title": "Teacher"}, {"name": "kd", "title": "Distilled student", "teacher": "teacher"}]
    groups = {"a": 90.0, "b": 80.0}
    runs = [
        RunRecord(
            a["name"], seed, "ok", metrics={"mixed": {"accuracy": 85.0 + seed, "group_accuracy": groups}}, cost={}
        )
        for a in arms
        for seed in (0, 1)
    ]
    table = build_table(runs, arms, (), key="k", title="A Paper", scale="demo")
    draw_plot(table, tmp_path / "a.svg")
    words = comments(tmp_path / "a.svg")
    for text in ("accuracy on mixed (%)", "Teacher", "Distilled student", "accuracy of every group on mixed (%)"):
        assert text in words
    assert "stored bytes" not in words
    alone = build_table(runs, [{"name": "teacher", "title": "Teacher"}], (), key="k", title="A Paper", scale="demo")
    draw_plot(alone, tmp_path / "b.svg")
    assert "Teacher" not in comments(tmp_path / "b.svg").replace(
        "A Paper", ""
    )  # without a teacher the usual two panels
