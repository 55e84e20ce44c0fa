"""Columns of tables in which networks learn from a teacher: group gaps, and how they differ from the teacher's."""

from typing import Any

import pytest

from common.experiment.records import RunRecord
from common.experiment.table import Table, build_table

ARMS = [
    {"name": "teacher", "title": "Teacher"},
    {"name": "student", "title": "Student", "teacher": "teacher"},
]


def run(arm: str, seed: int, groups: dict[str, float | None]) -> RunRecord:
    metrics: dict[str, Any] = {"mixed": {"accuracy": 90.0, "group_accuracy": groups, "pairs": 10, "subjects": 5}}
    return RunRecord(arm, seed, "ok", metrics=metrics, cost={"parameters": 7, "macs": 9, "stored_bytes": 28})


def table(*runs: RunRecord) -> Table:
    return build_table(runs, ARMS, (), key="k", title="A Paper", scale="demo")


def test_the_transfer_of_bias_is_the_students_gap_minus_its_teachers_at_the_same_seeds() -> None:
    found = table(
        run("teacher", 0, {"a": 98.0, "b": 96.0, "c": 97.0}),
        run("teacher", 1, {"a": 98.0, "b": 92.0, "c": 97.0}),
        run("student", 0, {"a": 95.0, "b": 90.0, "c": 91.0}),
        run("student", 2, {"a": 95.0, "b": 10.0, "c": 91.0}),
    )
    teacher, student = found.rows
    assert teacher.cells["mixed:gap"].values == ((0, 2.0), (1, 6.0))
    assert teacher.cells["mixed:transfer"].values == ()
    assert student.cells["mixed:gap"].mean == pytest.approx((5 + 85) / 2)
    assert student.cells["mixed:transfer"].values == ((0, 3.0),)  # seed 2 has no teacher
    assert [c.title for c in found.columns][-4:] == ["SER", "parameters", "MACs", "bytes"]


def test_a_gap_with_an_undefined_group_is_undefined() -> None:
    found = table(run("teacher", 0, {"a": 98.0, "b": 96.0}), run("student", 0, {"a": 95.0, "b": None}))
    assert found.rows[1].cells["mixed:gap"].values == ((0, None),)
    assert found.rows[1].cells["mixed:transfer"].values == ((0, None),)


def test_a_table_without_teachers_has_neither_column() -> None:
    alone = [{key: value for key, value in arm.items() if key != "teacher"} for arm in ARMS]
    found = build_table([run("teacher", 0, {"a": 98.0, "b": 96.0})], alone, (), key="k", title="A Paper", scale="demo")
    assert not {"mixed:gap", "mixed:transfer"} & {column.key for column in found.columns}
