"""EKD's tables, claims, benchmark and figure, without training anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.distillation.setting import face_setting
from common.experiment.arm import plan_runs
from common.experiment.claims import Claim
from common.experiment.judge import judge
from common.experiment.records import RunRecord
from papers.ekd import claims, figures
from papers.ekd.benchmark import TARGETS, all_pairs_tar, metric
from papers.ekd.family import VARIANTS
from papers.ekd.table import FAR_METRICS, plan
from papers.registry import get_paper

SCALES = ("smoke", "demo", "real", "lab", "paper")


@pytest.mark.parametrize("scale", SCALES)
def test_claims_speak_of_arms_that_there_are(scale: str) -> None:
    table = plan(scale)
    names = {arm.name for arm in table.arms}
    for claim in table.claims:
        assert set(claim.arms) <= names, claim.key
    for arm in table.arms:
        assert {arm.baseline, arm.teacher} - {None} <= names, arm.name


@pytest.mark.parametrize("scale", ["smoke", "demo", "lab"])
def test_teacher_and_student_are_those_of_every_distillation_paper(scale: str) -> None:
    setting = face_setting(scale)
    shared = {run.digest for run in plan_runs((setting.teacher(), setting.student()), (0,))}
    runs = plan_runs(plan(scale).arms, (0,))
    assert shared <= {run.digest for run in runs}
    rows = {arm.name for arm in plan(scale).arms}
    assert len([run for run in runs if run.arm.name in rows]) == len(rows)  # a parent takes no row's name


def test_no_two_arms_are_the_same_run() -> None:
    for scale in ("smoke", "demo", "lab"):
        arms = plan(scale).arms
        digests = {run.digest for run in plan_runs(arms, (0,)) if run.arm.name in {arm.name for arm in arms}}
        assert len(digests) == len(arms), scale


def test_every_ablation_and_every_loss_of_the_card_has_an_arm() -> None:
    names = {arm.name for arm in plan("lab").arms}
    losses = {"feature_l2", "cosine", "fitnet", "kd", "sp", "rkd", "cckd", "pkt", "darkrank"}
    assert names >= {"teacher", "student", "ekd"} | losses | {f"ekd_{kind}" for kind in VARIANTS}
    assert {arm.name for arm in plan("real").arms} == {"teacher"} | losses - {"kd"}  # only KD of logits needs labels


def test_the_papers_numbers_are_there_and_verified() -> None:
    reported = get_paper("ekd").reported
    assert len(reported) == 12 * 13
    assert all(entry["verified"] for entry in reported)
    value = {(entry["row"], entry["metric"]): entry["value"] for entry in reported}
    assert value["mobilefacenet_ekd", "ijb_c_1e-5"] == 84.00
    assert value["teacher", "megaface_ver"] == 96.83
    assert value["mobilefacenet_margin_distillation", "ijb_b_1e-5"] == 66.25
    rows = {arm.reported for arm in plan("paper").arms}
    assert {"teacher", "mobilefacenet_student", "mobilefacenet_ekd", "mobilefacenet_rkd"} <= rows & {
        r for r, _ in value
    }


# --- claims ------------------------------------------------------------------------------------------------------------


def runs(values: dict[str, dict[str, float]]) -> list[RunRecord]:
    """Arms with TAR at three FARs, three seeds that hardly differ."""
    return [
        RunRecord(arm, seed, "ok", metrics={"mixed": {name: value + 0.01 * seed for name, value in tar.items()}})
        for arm, tar in values.items()
        for seed in range(3)
    ]


def tars(*values: float) -> dict[str, float]:
    return dict(zip(FAR_METRICS, values, strict=True))


def verdict(claim: Claim, values: dict[str, dict[str, float]]) -> str:
    (judged,) = judge([claim], runs(values))
    assert judged.verdict is not None
    return str(judged.verdict)


LOW = FAR_METRICS[-1]
NONE = tars(60.0, 40.0, 20.0)


@pytest.mark.parametrize(
    ("ekd", "expected"),
    [(tars(61.0, 42.0, 23.0), "holds"), (tars(61.0, 42.0, 21.5), "fails"), (tars(63.0, 42.0, 21.0), "fails")],
    ids=["grows", "grows, then falls", "falls"],
)
def test_c2_speaks_of_gains_at_falling_fpr(ekd: dict[str, float], expected: str) -> None:
    claim = claims.gain_grows_as_fpr_falls("ekd", "student", "mixed", FAR_METRICS)
    assert verdict(claim, {"ekd": ekd, "student": NONE}) == expected


@pytest.mark.parametrize(
    ("fitnet", "ekd", "expected"),
    [(18.0, 22.0, "holds"), (21.0, 22.0, "fails"), (18.0, 19.0, "fails")],
    ids=["as the paper", "FitNet helps", "EKD hurts"],
)
def test_c3_puts_no_distillation_between(fitnet: float, ekd: float, expected: str) -> None:
    claim = claims.matching_instances_hurts("ekd", "fitnet", "student", "mixed", LOW)
    values = {"fitnet": tars(0, 0, fitnet), "ekd": tars(0, 0, ekd), "student": NONE}
    assert verdict(claim, values) == expected


@pytest.mark.parametrize(("small", "expected"), [(24.0, "holds"), (21.0, "fails")], ids=["more", "less"])
def test_c5_compares_gains_of_two_students(small: float, expected: str) -> None:
    claim = claims.small_students_gain_more(("ekd", "student"), ("larger_ekd", "larger_student"), "mixed", LOW)
    values = {"ekd": tars(0, 0, small), "student": NONE, "larger_ekd": tars(0, 0, 32), "larger_student": tars(0, 0, 30)}
    assert verdict(claim, values) == expected


@pytest.mark.parametrize(("rkd", "expected"), [(21.0, "holds"), (23.0, "fails")], ids=["below", "above"])
def test_c1_and_c4_ask_for_all_their_parts(rkd: float, expected: str) -> None:
    values = {"ekd": tars(0, 0, 22.0), "rkd": tars(0, 0, rkd), "student": NONE, "easy": tars(0, 0, 10.0)}
    assert verdict(claims.beats_relations_and_labels("ekd", "rkd", "student", "mixed", LOW), values) == expected
    assert verdict(claims.thresholds_and_hard_pairs_matter("ekd", "easy", "rkd", "mixed", LOW), values) == expected
    assert verdict(claims.rkd_leads_the_others("ekd", ("easy", "rkd"), "mixed", LOW), values) == expected
    assert verdict(claims.ranks_beat_similarities("ekd", "rkd", "mixed", LOW), values) == expected


# --- benchmark and figure ------------------------------------------------------------------------------------------------


def test_all_pairs_are_compared() -> None:
    """Against counting by hand: 300 images of 30 persons, 43,500 impostor pairs."""
    generator = np.random.default_rng(0)
    subject = np.repeat(np.arange(30), 10)
    embeddings = (generator.normal(size=(30, 4))[subject] + generator.normal(size=(300, 4))).astype(np.float32)
    found = all_pairs_tar(embeddings, subject)
    assert (found["all_pairs"], found["all_genuine_pairs"]) == (44_850, 1_350)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    genuine, impostor = [], []
    for i in range(300):
        for j in range(i):
            (genuine if subject[i] == subject[j] else impostor).append(float(unit[i] @ unit[j]))
    for target in TARGETS[:2]:
        threshold = sorted(impostor, reverse=True)[int(target * len(impostor))]
        expected = 100 * np.mean([score > threshold for score in genuine])
        assert found[metric(target)] == pytest.approx(expected, abs=0.1)
    assert found[metric(1e-4)] is None  # four impostors are too few
    assert metric(1e-4) in FAR_METRICS


def test_the_figure_shows_gains_at_falling_far(tmp_path: Path) -> None:
    def records(arms: tuple[str, ...], last: float | None) -> list[RunRecord]:
        tar = {metric(far): 50.0 for far in TARGETS[:-1]} | {metric(TARGETS[-1]): last}
        return [RunRecord(arm, seed, "ok", metrics={"mixed": tar}) for arm in arms for seed in (0, 1)]

    captions = figures.draw(records(("student", "ekd", "teacher"), 20.0), tmp_path / "demo")
    assert list(captions) == ["demo-tar.svg"]
    assert (tmp_path / "demo-tar.svg").stat().st_size > 1000
    assert figures.draw(records(("student", "ekd"), None), tmp_path / "other") == {}
    assert figures.draw(records(("ekd",), 20.0), tmp_path / "other") == {}
