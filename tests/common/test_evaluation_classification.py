"""Classification measured: errors and classes by hand, the form that claims judge, and the weights that are left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.evaluation.classification import ClassificationBenchmark, margin, pruning_cost
from common.experiment.claims import Quantity, superior, within
from common.experiment.judge import judge
from common.experiment.records import PairTable, RunRecord
from common.experiment.render import grid, group_grid, to_markdown
from common.experiment.render_export import to_csv
from common.experiment.table import build_table
from common.pruning import Masks

TRUE = torch.arange(40) % 4


class Answers(nn.Module):
    """Answers with class x for an image whose only pixel is x."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4, bias=False)
        nn.init.eye_(self.fc.weight)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.fc(nn.functional.one_hot(images[:, 0, 0, 0].long(), 4).float())
        return out


class Stored:
    """Forty images of four classes; `answers` are their pixels."""

    class_names = ("a", "b", "c", "d")
    in_channels, image_size = 1, (1, 1)

    def __init__(self, answers: Tensor, trained_on: Tensor | None = None) -> None:
        self.answers, self.trained_on = answers, TRUE if trained_on is None else trained_on

    def labels(self, name: str) -> Tensor:
        return TRUE

    def training_labels(self) -> Tensor:
        return self.trained_on

    def loader(self, name: str, batch_size: int) -> Any:
        return zip(self.answers.view(-1, 1, 1, 1).split(batch_size), TRUE.split(batch_size), strict=True)


class Method:
    def __init__(self, sparsity: bool = False) -> None:
        self.network = Answers()
        if sparsity:
            self.masks = Masks(self.network)


def mistaken(*images: int) -> Tensor:
    """Answers that are wrong on the given images."""
    answers = TRUE.clone()
    for image in images:
        answers[image] = (answers[image] + 1) % 4
    return answers


def measure(answers: Tensor, **options: Any) -> Any:
    return ClassificationBenchmark(batch_size=7, **options).measure(Method(), Stored(answers))


def test_errors_and_classes_by_hand() -> None:
    found = measure(mistaken(0, 4, 1)).metrics["test"]  # two of class a, one of class b
    assert (found["accuracy"], found["error"]) == (92.5, 7.5)
    assert found["group_accuracy"] == {"a": 80, "b": 90, "c": 100, "d": 100}
    assert (found["worst_group"], found["group_gap"]) == (80, pytest.approx(20))
    assert found["group_std"] == pytest.approx(np.std([80, 90, 100, 100], ddof=1))
    assert found["ser"] is None
    assert "no bound" in found["undefined_reasons"]["ser"]


def test_the_training_part_is_judged_by_the_labels_that_were_trained_on() -> None:
    other = TRUE.roll(1)
    data = Stored(TRUE, trained_on=other)
    found = ClassificationBenchmark(parts=("test", "train"), train_images=12).measure(Method(), data).metrics
    assert found["test"]["error"] == 0
    assert found["train"]["error"] == 100
    assert found["train"]["pairs"] == 12
    assert found["train"]["loss"] == pytest.approx(float(np.log(np.e + 3)))


def test_a_margin_is_positive_where_the_decision_is_right() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    assert margin(logits, torch.tensor([0, 1])).tolist() == [1.0, -2.0]


def test_a_network_that_has_diverged_is_no_result() -> None:
    method = Method()
    with torch.no_grad():
        method.network.fc.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="test part are not finite"):
        ClassificationBenchmark().measure(method, Stored(TRUE))


@pytest.mark.parametrize("parts", [(), ("dev",)])
def test_unknown_parts_are_refused(parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="expected some of test, validation, train"):
        ClassificationBenchmark(parts=parts)


def test_remaining_weights_are_those_of_the_masks_or_the_nonzero_ones() -> None:
    method = Method(sparsity=True)
    kept = torch.zeros(4, 4, dtype=torch.bool)
    kept[0] = True  # three of these are zero, and kept all the same
    method.masks.set({"fc.weight": kept})
    assert {k: pruning_cost(method.network, method.masks)[k] for k in ("kept", "prunable", "remaining")} == {
        "kept": 4, "prunable": 16, "remaining": 25.0,
    }  # fmt: skip
    assert pruning_cost(method.network, None)["kept"] == 1
    method.masks.set({"fc.weight": torch.zeros(4, 4)})
    assert pruning_cost(method.network, method.masks)["emptied_layers"] == ["fc.weight"]


def test_a_network_that_lost_channels_is_counted_against_what_it_was() -> None:
    method = Method()
    method.original_weights = 64  # type: ignore[attr-defined]
    with torch.no_grad():
        method.network.fc.weight.fill_(0.5)
    cost = ClassificationBenchmark().measure(method, Stored(TRUE)).cost
    assert {k: cost[k] for k in ("kept", "prunable", "remaining", "sparsity")} == {
        "kept": 16, "prunable": 64, "remaining": 25.0, "sparsity": 75.0,
    }  # fmt: skip
    assert cost["layers"] == {"fc.weight": [16, 16]}
    del method.original_weights  # type: ignore[attr-defined]
    cost = ClassificationBenchmark().measure(method, Stored(TRUE)).cost
    assert (cost["prunable"], cost["remaining"]) == (16, 100.0)


def test_more_weights_than_the_unpruned_network_had_are_refused() -> None:
    with pytest.raises(ValueError, match="original_weights is 15, but the network has 16"):
        pruning_cost(Method().network, None, original=15)


def record(arm: str, seed: int, answers: Tensor, remaining: float) -> RunRecord:
    found = measure(answers)
    tables = {name: dict(found.tables[key]) for name, key in found.pairs.items()}
    return RunRecord(
        arm,
        seed,
        "ok",
        metrics=found.metrics,
        cost={"remaining": remaining, "kept": 10, "macs": 16, "stored_bytes": 80},
        correct={name: found.scores[f"{name}/correct"] for name in found.pairs},
        pairs={
            name: PairTable(
                **{k: t[k] for k in ("same", "fold", "group", "subject_a", "subject_b")},
                group_names=tuple(t["group_names"].tolist()),
                pool=str(t["pool"]),
            )
            for name, t in tables.items()
        },
    )


ARMS = [{"name": "dense", "title": "Dense"}, {"name": "half", "title": "Half", "baseline": "dense"}]


def records() -> list[RunRecord]:
    """Dense is always right; the other is wrong on seven of ten images of class a, and on one or two of b."""
    wrong = (0, 4, 8, 12, 16, 20, 24)
    return [
        *(record("dense", seed, TRUE, 100.0) for seed in (0, 1)),
        record("half", 0, mistaken(*wrong, 1), 50.0),
        record("half", 1, mistaken(*wrong, 1, 5), 50.0),
    ]


def test_a_table_of_errors_and_what_the_hardest_hit_class_lost() -> None:
    reported = [
        {
            "row": "half",
            "metric": "test:error",
            "value": 21.0,
            "unit": "%",
            "source": "T",
            "verified": True,
            "tolerance": 1.0,
        },
        {
            "row": "dense",
            "metric": "test:error",
            "value": 5.0,
            "unit": "%",
            "source": "T",
            "verified": True,
            "tolerance": 1.0,
        },
    ]
    table = build_table(records(), ARMS, reported, key="k", title="t", scale="paper")
    head, body = grid(table)
    assert head[:4] == ["arm", "test error", "worst class", "worst drop"]
    assert head[-6:] == ["left", "weights", "MACs", "bytes", "paper: test error", "seeds"]
    assert body[0][1:4] == ["0.00 ± 0.00", "100.00 ± 0.00", "–"]
    assert body[1][1:4] == ["21.25 ± 1.77", "30.00 ± 0.00", "70.00 ± 0.00"]
    assert (body[0][-2], body[1][-2]) == ("5.00 (-5.00)", "21.00 *reproduced*")
    assert body[1][6] == "50.00"  # a share that the arm fixes has no spread
    assert group_grid(table)[1][1] == ["Half", "30.00 ± 0.00", "85.00 ± 7.07", "100.00 ± 0.00", "100.00 ± 0.00"]
    text = to_markdown(table)
    assert "test: 40 images." in text
    assert "Accuracy of every class on test" in text
    assert "verification" not in text
    assert "half,Half,,,1,ok,22.5,30.0,70.0" in to_csv(table)


def test_claims_judge_classification_by_resampled_images() -> None:
    claims = [
        superior("s", "dense is better", Quantity("dense", "test"), Quantity("half", "test")),
        within("w", "the same", Quantity("half", "test"), Quantity("dense", "test"), margin=0.3),
        superior("g", "gap", Quantity("half", "test", "group_gap"), Quantity("dense", "test", "group_gap")),
    ]
    verdicts = {v.key: v for v in judge(claims, records())}
    assert {key: v.uncorrected for key, v in verdicts.items()} == {"s": "holds", "w": "fails", "g": "holds"}
    found = verdicts["s"].finding
    assert found is not None
    assert found.effect == pytest.approx(21.25)
    assert verdicts["s"].subjects == 40


def test_runs_of_two_tasks_make_no_table() -> None:
    verification = RunRecord("half", 3, "ok", metrics={"easy": {"accuracy": 90.0}})
    with pytest.raises(ValueError, match="its runs measured classification, verification"):
        build_table([*records(), verification], ARMS, key="k", title="t", scale="demo")


def test_an_arm_that_was_not_measured_on_a_set_shows_a_dash_there() -> None:
    runs = records()
    runs.append(RunRecord("other", 0, "ok", metrics={"masks": {"task": "classification", "error": 10.0, "pairs": 10}}))
    table = build_table(runs, [*ARMS, {"name": "other", "title": "Other"}], key="k", title="t", scale="demo")
    assert grid(table)[1][2][1:5] == ["–", "10.00", "–", "–"]
    assert to_csv(table).splitlines()[-1].startswith("other,Other,,,0,ok,,10.0,,")
    assert [line[0] for line in group_grid(table)[1]] == ["Dense", "Half"]
    assert "masks: 10 images" not in to_markdown(table)  # what has no classes is no image
    own = ("masks:error", "wrong masks", "%", "follow another class")
    named = build_table(
        runs, [*ARMS, {"name": "other", "title": "Other"}], key="k", title="t", scale="demo", further=[own]
    )
    assert grid(named)[0][1:3] == ["test error", "wrong masks"]
    assert "wrong masks: follow another class." in to_markdown(named)


def test_emptied_layers_have_a_column_where_there_are_any() -> None:
    runs = records()
    assert "empty layers" not in grid(build_table(runs, ARMS, key="k", title="t", scale="demo"))[0]
    emptied: list[list[str]] = [[], [], ["fc.weight"], []]
    runs = [replace(run, cost={**run.cost, "emptied_layers": e}) for run, e in zip(runs, emptied, strict=True)]
    head, body = grid(build_table(runs, ARMS, key="k", title="t", scale="demo"))
    assert [line[head.index("empty layers")] for line in body] == ["0", "0.5"]
