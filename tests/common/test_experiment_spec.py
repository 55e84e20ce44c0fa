"""Specs, arms and digests: what a run is before anything is computed."""

from __future__ import annotations

import pytest

from common.experiment.arm import Arm, Phase, TablePlan, plan_runs, run_digest
from common.experiment.spec import (
    DataFile,
    DataRoot,
    Place,
    Spec,
    SpecError,
    WeightsOf,
    build,
    canonical,
    parents,
    spec,
)


def arm(name: str = "a", **changes: object) -> Arm:
    fields: dict[str, object] = {
        "name": name,
        "title": name,
        "method": spec("common.schedules.one_cycle", total=10),
        "data": spec("common.schedules.polynomial", total=5),
        "benchmark": spec("common.schedules.polynomial", total=7),
        "phases": (Phase("train", epochs=1),),
    }
    return Arm(**{**fields, **changes})  # type: ignore[arg-type]


def test_build_calls_the_target_with_its_options() -> None:
    multiplier = build(spec("common.schedules.polynomial", total=4, power=2.0), Place())
    assert multiplier(2) == pytest.approx(0.25)


def test_nested_specs_and_placeholders_are_resolved(tmp_path) -> None:
    value = {"a": [spec("common.schedules.polynomial", total=4)], "root": DataRoot("lfw"), "file": DataFile("w.ckpt")}
    built = build(value, Place(data=tmp_path))
    assert built["a"][0](0) == 1.0
    assert built["root"] == str(tmp_path / "lfw")
    assert built["file"] == str(tmp_path / "w.ckpt")


def test_a_typo_in_an_option_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'total'"):
        canonical(spec("common.schedules.polynomial", totl=4), Place())


def test_a_typo_in_a_target_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'polynomial'"):
        build(Spec("common.schedules.polynomal"), Place())


def test_missing_arguments_are_named() -> None:
    with pytest.raises(SpecError, match="needs total"):
        canonical(spec("common.schedules.polynomial"), Place())


def test_without_a_data_root_the_message_says_what_to_do() -> None:
    with pytest.raises(SpecError, match="DATA="):
        build(DataRoot("lfw_112"), Place())


def test_defaults_are_part_of_the_canonical_form() -> None:
    form = canonical(spec("common.schedules.polynomial", total=4), Place())
    assert form == {"class_path": "common.schedules.polynomial", "init_args": {"power": 1.0, "total": 4}}


def test_digest_ignores_names_and_follows_everything_else(tmp_path) -> None:
    base = run_digest(arm(), 0, Place())
    assert run_digest(arm("other", title="another title", series="s", bits=8), 0, Place()) == base
    different = [
        run_digest(arm(), 1, Place()),
        run_digest(arm(method=spec("common.schedules.one_cycle", total=11)), 0, Place()),
        run_digest(arm(phases=(Phase("train", epochs=2),)), 0, Place()),
        run_digest(arm(keep=("epoch1",)), 0, Place()),
        run_digest(arm(precision="bf16-mixed"), 0, Place()),
    ]
    assert len({base, *different}) == 1 + len(different)


def test_digest_of_a_child_follows_its_parent() -> None:
    def child(parent: Arm) -> Arm:
        return arm("child", method=spec("common.schedules.one_cycle", total=3, warm_up=WeightsOf(parent)))

    first, second = child(arm()), child(arm(phases=(Phase("train", epochs=9),)))
    assert run_digest(first, 0, Place()) != run_digest(second, 0, Place())


def test_digest_follows_the_content_of_a_data_file(tmp_path) -> None:
    digests = []
    for folder, content in (("a", b"1"), ("b", b"2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "w").write_bytes(content)
        one = arm(method=spec("common.schedules.one_cycle", total=DataFile("w")))
        digests.append(run_digest(one, 0, Place(data=tmp_path / folder)))
    assert digests[0] != digests[1]


def test_a_known_digest_is_frozen() -> None:
    """Stored runs are found by it: a change here orphans every result, so it has to be meant."""
    assert run_digest(arm(), 0, Place()) == "3567b07ff0394cd8"


def test_runs_come_parents_first_and_once() -> None:
    teacher = arm("teacher")
    students = [
        arm(name, method=spec("common.schedules.one_cycle", total=total, warm_up=WeightsOf(teacher)))
        for name, total in (("s1", 3), ("s2", 4))
    ]
    runs = plan_runs(students, (0, 1))
    assert [run.label for run in runs] == [
        "teacher seed 0", "s1 seed 0", "s2 seed 0", "teacher seed 1", "s1 seed 1", "s2 seed 1",
    ]  # fmt: skip
    assert runs[1].parents == (runs[0],)
    assert list(parents(students[0].method)) == [teacher]


def test_arms_of_a_table_have_different_names() -> None:
    with pytest.raises(ValueError, match="share the name a"):
        TablePlan((arm(), arm()), (), (0,), "")


def test_a_phase_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="no length"):
        Phase("train")
