"""`make fairness` on tables made up here: the answer, the marks, the words, and no training."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.experiment import compare, compared_render
from common.experiment.arm import Arm
from common.experiment.compare import Asked, compare_table
from common.experiment.compared import CLASSES, DEMOGRAPHIC, GENERATED, LESS, MORE, ONE, OPEN, Compared, corrected
from common.experiment.compared_plot import draw_comparisons
from common.experiment.records import PairTable, RunRecord
from common.experiment.spec import WeightsOf, spec
from common.fairness.disadvantaged import disadvantaged_drops
from papers import fairness

PEOPLE, GROUPS = 60, ("hard", "middle", "easy")
ACCURACY = np.array([0.5, 0.85, 0.95])


def decisions(rates: np.ndarray, easy: np.ndarray, rng: np.random.Generator, seeds: int = 3) -> np.ndarray:
    """Bool [S, P]: a person is easy for every model alike; training adds 1 point of luck a group."""
    group = np.repeat(np.arange(len(rates)), easy.size // len(rates))
    return easy < (rates + 0.01 * rng.normal(size=(seeds, len(rates))))[:, group]


def records(
    drops: dict[str, np.ndarray], seed: int = 0, seeds: int = 3, base: np.ndarray = ACCURACY
) -> list[RunRecord]:
    """Runs of a dense arm and of arms that lose the given accuracy in every group."""
    rng = np.random.default_rng(seed)
    size = PEOPLE * len(base)
    easy = rng.random(size)
    people = np.arange(size)
    names = GROUPS if len(base) == 3 else tuple(f"c{i}" for i in range(len(base)))
    table = PairTable(people >= 0, 0 * people, people // PEOPLE, people, people, names)
    found = []
    for arm, lost in {"dense": 0 * base, **drops}.items():
        for at, correct in enumerate(decisions(base - lost, easy, rng, seeds)):
            kept = 100 if arm == "dense" else 10
            found.append(
                RunRecord(
                    arm=arm, seed=at, status="ok", metrics={"test": {"task": "classification"}}, cost={"kept": kept},
                    correct={"test": correct}, pairs={"test": table}, digest=f"{arm}{at}",
                )
            )  # fmt: skip
    return found


def asked(*names: str, reference: str = "dense") -> list[Asked]:
    return [Asked(name, f"{name} arm", "pruned", reference) for name in names]


def compared(drops: dict[str, np.ndarray], **options: object) -> Compared:
    runs = records(drops)
    return corrected([compare_table(runs, asked(*drops), "test", key="toy", scale="demo", kind=CLASSES, **options)])


def test_a_planted_excess_is_found_and_an_even_loss_is_not_called_one():
    found = compared(
        {"uneven": np.array([0.4, 0.1, 0.1]), "even": np.full(3, 0.2), "spared": np.array([0.0, 0.4, 0.4])}
    )
    uneven, even, spared = found.comparisons
    assert (uneven.verdict, even.verdict, spared.verdict) == (MORE, OPEN, LESS)
    assert uneven.worst_group == "hard"
    assert uneven.chosen > 0.9
    assert uneven.overall.low < 20 < uneven.overall.high
    assert uneven.worst.low < 40 < uneven.worst.high
    assert uneven.excess.low < 20 < uneven.excess.high
    assert uneven.excess.value == pytest.approx(uneven.worst.value - uneven.overall.value)
    assert (uneven.left, uneven.counted, uneven.people) == (10, "weights", 180)
    assert uneven.excess.p < uneven.excess.p_adjusted <= 0.05


def test_the_group_that_is_worst_by_luck_is_not_chosen_with_the_answers_that_judge_it():
    """Ten equal groups, equal losses: what is chosen and judged by the same answers seems to be spared."""
    naive, fair, wrong = [], [], 0
    for at in range(40):
        runs = records({"pruned": np.full(10, 0.1)}, seed=at, base=np.full(10, 0.85))
        pick = {arm: np.stack([run.correct["test"] for run in runs if run.arm == arm]) for arm in ("dense", "pruned")}
        table = runs[0].pairs["test"]
        columns = table.same, table.group, table.group_names, table.subject_a, table.subject_b
        found = disadvantaged_drops(pick["dense"], pick["pruned"][None], *columns, draws=60, seed=at, divisions=4)
        effect = found.effects(0)["excess"]
        fair.append(effect.value)
        wrong += effect.p <= 0.05
        rates = [[100 * pick[arm][:, table.group == g].mean() for g in range(10)] for arm in ("dense", "pruned")]
        worst = int(np.argmin(rates[0]))
        naive.append(rates[0][worst] - rates[1][worst] - (np.mean(rates[0]) - np.mean(rates[1])))
    spread = np.std(fair) / np.sqrt(len(fair))
    assert abs(np.mean(fair)) < 3 * spread
    assert wrong <= 7  # 2 expected; more than 7 has probability 0.001
    assert np.mean(naive) < -0.5


def test_what_cannot_be_compared_has_a_reason():
    runs = records({"pruned": np.full(3, 0.1), "large": np.full(3, 0.1)})
    runs = [run if run.arm != "large" else RunRecord(**{**vars(run), "cost": {"kept": 100}}) for run in runs]
    runs += [RunRecord(arm="broken", seed=0, status="failed")]
    arms = [*asked("pruned", "large", "broken"), Asked("alone", "alone", "", "")]
    found = compare_table(runs, arms, "test", key="toy", scale="demo", kind=CLASSES)
    assert [one.arm for one in found.comparisons] == ["pruned"]
    assert found.omitted == (
        ("toy demo", "large", "not smaller than dense"),
        ("toy demo", "broken", "broken has no finished run on 'test'"),
        ("toy demo", "alone", "the table names no uncompressed model for it"),
    )
    none = compare_table(runs, arms, None, key="toy", scale="demo", kind=CLASSES)
    assert none.omitted == (("toy demo", "", "no groups were measured"),)


def test_small_groups_are_left_out_and_two_are_needed():
    people = np.arange(30)
    same, correct = people >= 0, np.random.default_rng(0).random((2, 30)) < 0.8
    group = np.repeat([0, 1, 2], [12, 12, 6])
    found = disadvantaged_drops(correct, correct[None], same, group, "abc", people, people, draws=20)
    assert set(found.chosen) == {"a", "b"}
    assert "6 people; 10 are needed" in found.left_out["c"]
    with pytest.raises(ValueError, match="1 of 2 groups have 10 people or more; two are needed"):
        disadvantaged_drops(correct[:, :18], correct[None, :, :18], same[:18], group[:18] * 0 + (people[:18] > 11), "ab",
                            people[:18], people[:18], draws=20)  # fmt: skip


def test_one_seed_is_shown_but_not_judged():
    runs = records({"uneven": np.array([0.6, 0.1, 0.1])}, seeds=1)
    found = corrected([compare_table(runs, asked("uneven"), "test", key="toy", scale="paper", kind=CLASSES)])
    assert found.comparisons[0].verdict == ONE
    assert np.isnan(found.comparisons[0].excess.p_adjusted)
    assert "1 more rest on one seed" in compared_render.answer(found, CLASSES)


def test_kinds_of_groups_are_corrected_and_counted_apart():
    runs = records({"uneven": np.array([0.4, 0.1, 0.1]), "even": np.full(3, 0.2)})
    tables = [
        compare_table(runs, asked("uneven", "even"), "test", key=kind[:4], scale="demo", kind=kind)
        for kind in (CLASSES, DEMOGRAPHIC)
    ]
    apart, alone = corrected(tables), corrected(tables[:1])
    assert apart.comparisons[0].excess.p_adjusted == alone.comparisons[0].excess.p_adjusted
    number = compared_render.counts(apart, DEMOGRAPHIC)
    assert number["comparisons"] == {MORE: 1, LESS: 0, OPEN: 1, ONE: 0}
    assert compared_render.answer(apart, GENERATED) == ""
    assert "it holds in 1, fails in 0 and is inconclusive in 1" in compared_render.answer(apart, CLASSES)


def test_page_spreadsheet_and_figure_say_what_the_groups_are(tmp_path):
    found = compared({"uneven": np.array([0.4, 0.1, 0.1])}, stale={"uneven1": ["common.cost"]})
    page = compared_render.to_markdown(found, "all.svg", "make fairness")
    assert "no demographic groups" in page
    assert "No table has such groups yet" in page
    assert "**Stale** (*): made by other code than the present one: toy demo" in page
    assert "| toy demo* | uneven arm | 10 % of weights | 3 |" in page
    assert "compliant" not in page
    line = compared_render.to_csv(found).splitlines()
    assert len(line) == 2
    assert len(line[0].split(",")) == len(line[1].split(","))
    assert line[1].endswith("more,stale")
    values = json.loads(json.dumps(compared_render.to_dict(found), allow_nan=False))
    assert values["comparisons"][0]["verdict"] == MORE
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    draw_comparisons(found, first)
    draw_comparisons(found, second)
    assert first.read_bytes() == second.read_bytes()
    draw_comparisons(Compared(), first)


def arm(name: str, **options: object) -> Arm:
    return Arm(name, name, spec("a.Method"), spec("datasets.x.Data"), spec("a.Benchmark"), **options)


def test_the_uncompressed_model_is_the_teacher_or_where_the_baselines_begin():
    dense = arm("dense")
    arms = {
        one.name: one
        for one in (
            dense, arm("half", baseline="dense"), arm("pruned_half", baseline="half"), arm("teacher"),
            arm("student", baseline="teacher", teacher="teacher"), arm("kd", baseline="student", teacher="teacher"),
            Arm("quantized", "", spec("a.Method", weights=WeightsOf(dense)), spec("a.Data"), spec("a.B")), arm("alone"),
        )
    }  # fmt: skip
    expected = {"half": "dense", "pruned_half": "dense", "student": "teacher", "kd": "teacher", "quantized": "dense"}
    expected |= dict.fromkeys(("dense", "teacher", "alone"), "")
    assert {name: fairness.uncompressed(one, arms) for name, one in arms.items()} == expected
    assert [name for name, one in arms.items() if fairness.is_reference(one, arms)] == ["dense", "teacher"]
    bits = {one.name: one for one in (arm("fp32", bits=32), arm("w8", bits=8))}
    assert fairness.uncompressed(bits["w8"], bits) == "fp32"


def test_groups_are_what_the_metrics_say_or_else_what_the_data_are():
    def kind(data: object, **metrics: str) -> str:
        plan = SimpleNamespace(arms=(SimpleNamespace(data=data),))
        run = RunRecord("a", 0, "ok", metrics={"test": metrics})
        return fairness.kind_of([run], plan, "test")

    generated, lfw = spec("datasets.generated.GeneratedFaces"), spec("datasets.lfw.LFW")
    assert kind(generated) == kind(generated, task="classification") == GENERATED
    apart = spec("datasets.combined.TrainTest", train=generated, test=lfw)
    assert kind(apart) == kind(spec("datasets.masked_faces.MaskedFaces", data=apart)) == DEMOGRAPHIC
    assert kind(spec("datasets.classification.Digits", test=1100), task="classification") == CLASSES
    assert kind(spec("datasets.idx.MNIST"), task="classification") == CLASSES
    assert kind(spec("datasets.fairface.FairFace"), task="classification") == DEMOGRAPHIC
    assert kind(spec("datasets.idx.MNIST"), task="classification", group_kind=DEMOGRAPHIC) == DEMOGRAPHIC


def test_a_damaged_table_is_left_out_with_a_word(monkeypatch, tmp_path, capsys):
    (tmp_path / "snip").mkdir()
    (tmp_path / "snip" / "demo.json").write_text("{}")
    assert fairness.main(["snip", "--results", str(tmp_path)]) == 1
    assert "left out:" in capsys.readouterr().err
    assert "its results are damaged" in (tmp_path / "fairness/all.md").read_text()


def test_the_command_draws_a_committed_table_without_torch(tmp_path):
    root = Path(__file__).parents[2]
    shutil.copytree(root / "results/snip/paper", tmp_path / "snip/paper")
    for path in (root / "results/snip").glob("paper.*"):
        shutil.copy(path, tmp_path / "snip")
    code = (
        "import sys; from papers.__main__ import main; "
        f"status = main(['fairness', 'snip', '--results', {str(tmp_path)!r}, '--draws', '20']); "
        "sys.exit(status + 10 * ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "classes:" in done.stdout
    assert {path.name for path in (tmp_path / "fairness").iterdir()} == {"all.json", "all.md", "all.svg", "all.csv"}
    assert compare.SMALLER > 1
