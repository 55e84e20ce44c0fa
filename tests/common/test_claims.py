"""Claims are data, and their verdicts are what planted effects say they should be."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from common.experiment.claims import (
    Claim,
    Contrast,
    Quantity,
    Trend,
    conjunction,
    larger_drop,
    monotone,
    superior,
    within,
)
from common.experiment.judge import Verdict, holm, judge
from common.experiment.records import PairTable, RunRecord
from common.experiment.resampling import draw_seeds, resampled_pool, stretch


def make_table(people: int = 48, each: int = 8, groups: int = 2, pool: str = "people", seed: int = 0) -> PairTable:
    """`each` mated and `each` non-mated pairs a person, the latter inside the group."""
    rng = np.random.default_rng(seed)
    first = np.repeat(np.arange(people), each)
    other = (first + groups * rng.integers(1, people // groups, len(first))) % people  # same group, another person
    return PairTable(
        same=np.arange(2 * len(first)) < len(first),
        fold=np.arange(2 * len(first)) % 10,
        group=np.tile(first % groups, 2),
        subject_a=np.tile(first, 2),
        subject_b=np.concatenate([first, other]),
        group_names=tuple("ABCD"[:groups]),
        pool=pool,
    )


TABLE = make_table()


def make_run(
    arm: str,
    seed: int,
    accuracy: float | dict[str, float],
    tables: dict[str, PairTable] | None = None,
    **changes: object,
) -> RunRecord:
    """A run whose decisions are right with the given probability in percent."""
    tables = tables or {"easy": TABLE}
    levels = accuracy if isinstance(accuracy, dict) else dict.fromkeys(tables, accuracy)
    rng = np.random.default_rng([seed, *map(ord, arm)])
    correct = {name: rng.random(len(table)) < levels[name] / 100 for name, table in tables.items()}
    return replace(RunRecord(arm, seed, "ok", correct=correct, pairs=tables), **changes)  # type: ignore[arg-type]


def make_runs(levels: dict[str, float], seeds: int = 3) -> list[RunRecord]:
    return [make_run(arm, seed, level) for arm, level in levels.items() for seed in range(seeds)]


def on(arm: str, pair_set: str = "easy", metric: str = "accuracy") -> Quantity:
    return Quantity(arm, pair_set, metric)


BEATS = superior("beats", "a beats b", on("a"), on("b"))


def only(claim: Claim, runs: list[RunRecord], **options: int) -> Verdict:
    (verdict,) = judge([claim], runs, **{"draws": 400, **options})
    return verdict


# Declaring


def test_claims_are_declared_without_importing_anything_heavy() -> None:
    code = "import sys, common.experiment.claims; print(sorted({'numpy', 'torch', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_judging_and_drawing_need_no_torch() -> None:
    code = "import sys, common.experiment.judge, common.experiment.records; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_claim_says_what_it_compares() -> None:
    assert BEATS.tests[0].label == "a/easy - b/easy"
    assert within("w", "", on("a"), on("b"), margin=1).tests[0].label == "b/easy - a/easy"
    drop = larger_drop("l", "", on("q", "hard"), on("f", "hard"), on("q"), on("f"))
    assert drop.tests[0].label == "(f/hard - q/hard) - (f/easy - q/easy)"
    assert drop.arms == ("f", "q")
    assert superior("s", "", on("a", metric="ser"), on("b", metric="ser")).unit == "ratio"
    assert Contrast(((0.5, on("a")), (-1.0, on("b", metric="group:A")))).label == "0.5 x a/easy - b/easy/group:A"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: on("a", metric="acuracy"), "acuracy"),
        (lambda: on("a", metric="group:"), "group:"),
        (lambda: superior("k", "", on("a"), on("b", metric="ser")), "like with like"),
        (lambda: within("k", "", on("a"), on("b"), margin=-1), "margin"),
        (lambda: monotone("k", "", [on("a")]), "at least two"),
        (lambda: monotone("k", "", [on("a"), on("a")]), "twice"),
        (lambda: conjunction("k", "", []), "no claims"),
        (lambda: conjunction("k", "", [BEATS, within("w", "", on("a"), on("b"), margin=1)]), "different kind"),
        (lambda: Claim("k", "", "better", BEATS.tests), "better"),
        (lambda: Claim("k", "", "superior", ()), "no test"),
        (lambda: Contrast(()), "at least one term"),
        (lambda: Contrast(((0.0, on("a")),)), "other than 0"),
        (lambda: Trend((on("a"), on("b")), margin=float("nan")), "margin"),
    ],
)
def test_a_claim_that_says_nothing_is_refused(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]


# Verdicts on planted effects


def test_a_planted_advantage_holds_and_its_opposite_fails() -> None:
    runs = make_runs({"a": 95, "b": 85})
    assert only(BEATS, runs).verdict == "holds"
    refuted = only(superior("k", "", on("b"), on("a")), runs)
    assert refuted.verdict == "fails"
    assert refuted.finding is not None
    assert refuted.finding.high is not None
    assert refuted.finding.high < 0


def test_no_difference_is_inconclusive() -> None:
    verdict = only(BEATS, make_runs({"a": 90, "b": 90}))
    assert verdict.verdict == "inconclusive"
    assert verdict.finding is not None
    assert verdict.finding.low < 0 < verdict.finding.high  # type: ignore[operator]


def test_the_same_decisions_have_effect_zero_and_stay_inconclusive() -> None:
    one = make_run("a", 0, 90)
    verdict = only(BEATS, [one, replace(one, arm="b")])
    assert (verdict.verdict, verdict.p, verdict.smallest_visible) == ("inconclusive", 1.0, 0.0)
    assert verdict.finding is not None
    assert (verdict.finding.effect, verdict.finding.low, verdict.finding.high) == (0, 0, 0)


@pytest.mark.parametrize(("margin", "expected"), [(15.0, "holds"), (10.0, "inconclusive"), (2.0, "fails")])
def test_within_compares_the_drop_with_its_margin(margin: float, expected: str) -> None:
    verdict = only(within("w", "", on("b"), on("a"), margin=margin), make_runs({"a": 95, "b": 85}))
    assert verdict.verdict == expected
    assert verdict.finding is not None
    assert verdict.finding.effect == pytest.approx(10, abs=2)
    assert verdict.finding.bound == margin


def test_a_margin_moves_the_bound_of_superior() -> None:
    runs = make_runs({"a": 95, "b": 85})
    assert only(superior("s", "", on("a"), on("b"), margin=5), runs).verdict == "holds"
    assert only(superior("s", "", on("a"), on("b"), margin=15), runs).verdict == "fails"


def test_the_larger_drop_is_found_across_pair_sets() -> None:
    tables = {"easy": TABLE, "hard": make_table(seed=1)}
    runs = [
        make_run(arm, seed, level, tables)
        for arm, level in {"f": {"easy": 98, "hard": 95}, "q": {"easy": 96, "hard": 80}}.items()
        for seed in range(3)
    ]
    assert only(larger_drop("l", "", on("q", "hard"), on("f", "hard"), on("q"), on("f")), runs).verdict == "holds"
    assert only(larger_drop("l", "", on("q"), on("f"), on("q", "hard"), on("f", "hard")), runs).verdict == "fails"


def test_monotone_follows_the_order() -> None:
    runs = make_runs({"a": 96, "b": 90, "c": 82})
    verdict = only(monotone("m", "", [on("a"), on("b"), on("c")]), runs)
    assert verdict.verdict == "holds"
    assert verdict.finding is not None
    assert verdict.finding.effect == 1
    assert [round(step.effect or 0, 9) for step in verdict.steps] == [
        round(100 * difference, 9) for difference in -np.diff([_mean(runs, arm) for arm in "abc"])
    ]
    assert verdict.smallest_visible == max(step.smallest_visible or 0 for step in verdict.steps)
    assert only(monotone("m", "", [on("c"), on("b"), on("a")]), runs).verdict == "fails"
    assert only(monotone("m", "", [on("a"), on("b")]), make_runs({"a": 90, "b": 90})).verdict == "inconclusive"


def test_a_trend_tolerates_its_margin() -> None:
    runs = make_runs({"a": 90, "b": 91})
    assert only(monotone("m", "", [on("a"), on("b")], margin=8), runs).verdict == "holds"


def _mean(runs: list[RunRecord], arm: str) -> float:
    return float(np.mean([run.correct["easy"].mean() for run in runs if run.arm == arm]))


def test_a_conjunction_is_as_strong_as_its_weakest_part() -> None:
    runs = make_runs({"a": 97, "b": 85, "c": 85, "d": 70})
    strong, strongest = superior("1", "", on("a"), on("b")), superior("2", "", on("a"), on("d"))
    unclear, wrong = superior("3", "", on("b"), on("c")), superior("4", "", on("d"), on("a"))
    cases = {
        "holds": ([strongest, strong], "a/easy - b/easy"),
        "inconclusive": ([strong, unclear], "b/easy - c/easy"),
        "fails": ([strong, unclear, wrong], "d/easy - a/easy"),
    }
    for expected, (parts, deciding) in cases.items():
        verdict = only(conjunction("k", "", parts), runs)
        assert verdict.verdict == expected
        assert verdict.finding is not None
        assert verdict.finding.label == deciding
        assert len(verdict.findings) == len(parts)


def test_a_group_can_be_hurt_while_the_average_is_not() -> None:
    base = [make_run("f", seed, 95) for seed in range(3)]
    rng = np.random.default_rng(5)
    hurt = [
        RunRecord(
            "q",
            run.seed,
            "ok",
            correct={"easy": np.where(TABLE.group == 1, rng.random(len(TABLE)) < 0.8, rng.random(len(TABLE)) < 0.999)},
            pairs=run.pairs,
        )
        for run in base
    ]
    runs = [*base, *hurt]
    assert only(superior("k", "", on("f", metric="group:B"), on("q", metric="group:B")), runs).verdict == "holds"
    assert only(superior("k", "", on("q", metric="group:A"), on("f", metric="group:A")), runs).verdict == "holds"
    assert only(superior("k", "", on("q", metric="group_gap"), on("f", metric="group_gap")), runs).verdict == "holds"
    worst = only(superior("k", "", on("f", metric="worst_group"), on("q", metric="worst_group")), runs)
    assert worst.verdict == "holds"
    assert any("bias" in note for note in worst.notes)


def test_noise_alone_does_not_widen_the_gap_between_groups() -> None:
    """A less accurate network has noisier groups; 20 experiments without a true gap must not show one."""
    claim = superior("k", "", on("b", metric="group_gap"), on("a", metric="group_gap"))
    table = {"easy": make_table(people=40, each=6, groups=4)}
    found = 0
    for experiment in range(20):
        runs = [
            make_run(arm, seed + 100 * experiment, level, table)
            for arm, level in {"a": 97, "b": 65}.items()
            for seed in range(2)
        ]
        found += only(claim, runs, draws=200).uncorrected == "holds"
    assert found <= 2  # without the correction of the bias: 7


# By hand


def test_accuracies_weigh_pairs_by_people() -> None:
    """Two people: one always right, one always wrong, and the non-mated pair between them right."""
    table = PairTable(
        same=np.array([True, True, False, False]),
        fold=np.zeros(4),
        group=np.zeros(4),
        subject_a=np.array([7, 9, 7, 9]),
        subject_b=np.array([7, 9, 9, 7]),
        group_names=("A",),
    )
    correct = np.array([[True, False, True, True]])
    accuracies = resampled_pool({"t": table}, {"t": correct}, draws=400, seed=0)["t"]
    assert accuracies.point.tolist() == [[75, 75]]
    seen = {tuple(row) for row in accuracies.draws[:, 0].tolist() if np.isfinite(row).all()}
    # Both drawn once: 75. One drawn twice: no non-mated pair has weight left, and the draw is undefined.
    assert seen == {(75.0, 75.0)}
    assert 0.4 < np.isnan(accuracies.draws[:, 0, -1]).mean() < 0.6


def test_pair_sets_of_one_pool_draw_the_same_people() -> None:
    table = make_table(people=20)
    correct = np.random.default_rng(0).random((1, len(table))) < 0.8
    shared = resampled_pool({"x": table, "y": table}, {"x": correct, "y": correct}, draws=50, seed=3)
    assert np.array_equal(shared["x"].draws, shared["y"].draws)
    other = make_table(people=20, pool="others")
    apart = resampled_pool({"z": other}, {"z": correct}, draws=50, seed=3)
    assert not np.array_equal(shared["x"].draws, apart["z"].draws)


def test_holm_by_hand() -> None:
    blank = Verdict("k", "", "superior", "pp", "paper", 0.0, "holds", "holds")
    given = [
        replace(blank, p=p, uncorrected=verdict) for p, verdict in [(0.01, "holds"), (0.004, "fails"), (0.02, "holds")]
    ]
    skipped = replace(blank, verdict="not judged", uncorrected="not judged")
    corrected = holm([*given, skipped])
    assert [v.p_corrected for v in corrected] == [pytest.approx(0.02), pytest.approx(0.012), pytest.approx(0.02), None]
    assert [v.verdict for v in corrected] == ["holds", "fails", "holds", "not judged"]
    weaker = holm([replace(v, p=2 * v.p) for v in given if v.p])
    assert [v.verdict for v in weaker] == ["inconclusive", "fails", "inconclusive"]
    assert [v.uncorrected for v in weaker] == ["holds", "fails", "holds"]


def test_few_seeds_widen_the_interval_as_students_t_does() -> None:
    assert stretch(1, 0.025, 1.0, 1.0) == 1
    assert stretch(3, 0.025, 0.0, 1.0) == 1
    seeds_only = stretch(3, 0.025, 1.0, 0.0)
    assert seeds_only == pytest.approx(np.sqrt(3 / 2) * 4.302653 / 1.959964, rel=1e-5)
    assert stretch(3, 0.025, 1.0, 1e6) == pytest.approx(np.sqrt(3 / 2), rel=1e-3)
    assert np.allclose(draw_seeds([0, 1, 2], 50, 0).sum(axis=1), 0)


def test_seeds_that_disagree_widen_the_interval() -> None:
    def width(levels: list[float]) -> float:
        runs = [make_run("a", seed, level) for seed, level in enumerate(levels)]
        runs += [make_run("b", seed, 80) for seed in range(3)]
        finding = only(BEATS, runs).finding
        assert finding is not None
        return finding.high - finding.low  # type: ignore[operator]

    assert width([86, 92, 98]) > 2 * width([92, 92, 92])


def test_the_interval_covers_the_truth() -> None:
    """60 experiments, 4 points apart, people and seeds that differ: at least 90 % of the intervals hold the 4."""
    covered = 0
    table = make_table(people=40, each=5)
    for experiment in range(60):
        rng = np.random.default_rng(experiment)
        runs = []
        for arm, level in {"a": 92.0, "b": 88.0}.items():
            person = rng.normal(0, 3, 40)
            hardness = (person[table.subject_a] + person[table.subject_b]) / 2
            for seed in range(3):
                right = rng.random(len(table)) < (level + rng.normal(0, 1) + hardness) / 100
                runs.append(RunRecord(arm, seed, "ok", correct={"easy": right}, pairs={"easy": table}))
        finding = only(BEATS, runs, draws=200, seed=experiment).finding
        assert finding is not None
        covered += finding.low <= 4 <= finding.high  # type: ignore[operator]
    assert covered >= 54


# What a verdict does not depend on, and what it says


def test_verdicts_do_not_depend_on_the_order_of_runs_or_pairs() -> None:
    runs = make_runs({"a": 92, "b": 90, "c": 88})
    claims = [BEATS, monotone("m", "", [on("a"), on("b"), on("c")])]
    order = np.random.default_rng(1).permutation(len(TABLE))
    columns = {name: getattr(TABLE, name)[order] for name in ("same", "fold", "group", "subject_a", "subject_b")}
    shuffled = replace(TABLE, **columns)
    others = [
        replace(run, correct={"easy": run.correct["easy"][order]}, pairs={"easy": shuffled}) for run in reversed(runs)
    ]
    assert judge(claims, runs, draws=200) == judge(claims, others, draws=200)


def test_verdicts_are_the_same_twice_and_json() -> None:
    runs = make_runs({"a": 92, "b": 90})
    first, again = (json.dumps([v.to_dict() for v in judge([BEATS], runs, draws=200)], allow_nan=False) for _ in "12")
    assert first == again
    assert json.loads(first)[0]["smallest_visible"] > 0


def test_the_smallest_visible_effect_shrinks_with_people() -> None:
    def visible(people: int) -> float:
        table = {"easy": make_table(people=people)}
        runs = [make_run(arm, seed, 90, table) for arm in "ab" for seed in range(1)]
        return only(BEATS, runs).smallest_visible or 0

    assert visible(200) < 0.7 * visible(30)


def test_one_seed_says_what_its_interval_covers() -> None:
    verdict = only(BEATS, make_runs({"a": 95, "b": 85}, seeds=1))
    assert verdict.verdict == "holds"
    assert verdict.seeds == (0,)
    assert any("one seed only" in note for note in verdict.notes)


def test_seeds_missing_for_one_arm_are_left_out_and_named() -> None:
    runs = [*make_runs({"a": 95, "b": 85}), make_run("a", 3, 95)]
    runs[4] = RunRecord("b", 1, "failed", error={"type": "OutOfMemoryError", "message": "no memory"})
    verdict = only(BEATS, runs)
    assert verdict.seeds == (0, 2)
    assert verdict.notes == ("seed 1 is left out: no finished run of b", "seed 3 is left out: no finished run of b")
    assert verdict.subjects == 48


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        (make_runs({"a": 90}), "'b' was not run"),
        ([make_run("a", 0, 90), RunRecord("b", 0, "failed", error={"message": "no memory"})], "no memory"),
        ([make_run("a", 0, 90), RunRecord("b", 0, "interrupted")], "seed 0 interrupted"),
        ([make_run("a", 0, 90), make_run("b", 1, 90)], "no finished seed in common"),
        ([make_run("a", 0, 90), make_run("b", 0, 90, {"other": TABLE})], "no decisions on pair set 'easy'"),
        ([make_run("a", 0, 90), make_run("b", 0, 90, {"easy": make_table(seed=4)})], "different pairs"),
    ],
)
def test_what_cannot_be_judged_says_why(runs: list[RunRecord], words: str) -> None:
    verdict = only(BEATS, runs)
    assert (verdict.verdict, verdict.finding, verdict.p) == ("not judged", None, None)
    assert words in (verdict.reason or "")


@pytest.mark.parametrize(
    ("metric", "words"),
    [("group:Z", "no group 'Z'"), ("ser", "without errors")],
)
def test_quantities_that_do_not_exist_are_not_judged(metric: str, words: str) -> None:
    perfect = RunRecord("a", 0, "ok", correct={"easy": np.ones(len(TABLE), bool)}, pairs={"easy": TABLE})
    verdict = only(superior("k", "", on("a", metric=metric), on("b", metric=metric)), [perfect, make_run("b", 0, 90)])
    assert verdict.verdict == "not judged"
    assert words in (verdict.reason or "")


def numbered(arm: str, values: list[float | None]) -> list[RunRecord]:
    return [make_run(arm, at, 90, metrics={"easy": {"steps": value}}) for at, value in enumerate(values)]


FEWER = superior("fewer", "a needs fewer steps", on("b", metric="number:steps"), on("a", metric="number:steps"))


def test_a_number_without_decisions_is_judged_by_its_seeds() -> None:
    clear = only(FEWER, [*numbered("a", [100, 110, 105, 95]), *numbered("b", [300, 310, 290, 305])])
    assert clear.verdict == "holds"
    assert clear.unit == "number"
    assert clear.subjects == 0
    assert clear.finding is not None
    assert clear.finding.effect == pytest.approx(301.25 - 102.5)
    opposite = only(FEWER, [*numbered("b", [100, 110, 105, 95]), *numbered("a", [300, 310, 290, 305])])
    assert opposite.verdict == "fails"
    noisy = only(FEWER, [*numbered("a", [100, 400, 250]), *numbered("b", [300, 200, 280])])
    assert noisy.verdict == "inconclusive"


@pytest.mark.parametrize(
    ("values", "words"),
    [([100.0], "one seed only"), ([100.0, None], "no number 'steps'"), ([100.0, float("nan")], "no number 'steps'")],
    ids=["one seed", "undefined", "not finite"],
)
def test_a_number_that_is_not_there_is_not_judged(values: list[float | None], words: str) -> None:
    verdict = only(FEWER, [*numbered("a", values), *numbered("b", [1.0, 2.0])])
    assert verdict.verdict == "not judged"
    assert words in str(verdict.reason)


def test_numbers_and_percent_points_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different units"):
        superior("x", "x", on("a"), on("b", metric="number:steps"))


def test_a_claim_that_cannot_be_judged_does_not_count_in_holm() -> None:
    runs = make_runs({"a": 95, "b": 85})
    alone, beside = (
        judge([BEATS], runs, draws=200),
        judge([BEATS, superior("x", "", on("a"), on("z"))], runs, draws=200),
    )
    assert alone[0] == beside[0]


def test_doubles_are_refused() -> None:
    with pytest.raises(ValueError, match="share the key beats"):
        judge([BEATS, BEATS], [])
    with pytest.raises(ValueError, match="there twice"):
        judge([BEATS], [make_run("a", 0, 90), make_run("a", 0, 90)])


@pytest.mark.speed
def test_eight_claims_on_twelve_thousand_pairs_take_seconds() -> None:
    import time

    tables = {"easy": make_table(300, 20, 4), "hard": make_table(300, 20, 4, seed=1)}
    runs = [make_run(arm, seed, 90 - 3 * i, tables) for i, arm in enumerate("abcd") for seed in range(3)]
    claims = [superior(str(i), "", on("a", name), on("b", name)) for i, name in enumerate(["easy", "hard"] * 2)]
    claims += [larger_drop("l", "", on("b", "hard"), on("a", "hard"), on("b"), on("a"))]
    claims += [monotone(f"m{name}", "", [on(arm, name) for arm in "abcd"]) for name in ("easy", "hard")]
    claims += [superior("gap", "", on("d", metric="group_gap"), on("a", metric="group_gap"))]
    start = time.process_time()
    assert len(judge(claims, runs)) == 8
    assert time.process_time() - start < 15  # 2.5 s on one idle core
