"""A bias that is known: does the evaluation find it, and nothing where there is none?

Faces of the embedded generator stand for two populations of the same appearance: *plain*, and *hard* (persons who differ half
as much, darker and flatter pictures). 600 persons of each, 4 pictures a person, went through a fixed linear embedding that was
fitted to other persons (`planted_faces.py`); `tests/golden/generated_faces/embedding.npz` holds the outcome. A population's
error rates are then exact numbers: over all pairs of its pictures. An experiment draws 50 persons a group, compares every two
of them and the pictures of each, and asks the evaluators, who see the drawn pairs alone, for intervals. 200 experiments say how
often these hold the truth. What is planted is the share of hard persons in the second group: none, half, all. A second
embedding keeps a quarter of the dimensions and plays the compressed model.

    PYTHONPATH=. python tests/support/planted_bias.py     # 200 experiments; results/fairness/coverage.svg and .json
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.fairness import summary
from common.fairness.intervals import plugin_variance, wilson_interval
from common.fairness.paired import compare_models
from common.fairness.report import verification_report

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "tests/golden/generated_faces/embedding.npz"
FIGURE = ROOT / "results/fairness/coverage.svg"
NAMES = ("first", "second")
PLANTED = {"none": 0.0, "half": 0.5, "all": 1.0}
PEOPLE, PICTURES, KEPT = 600, 4, 4  # persons of a population, pictures of each, dimensions of the compressed embedding
DRAWN, PARTNERS, FMR, EXPERIMENTS = 50, 6, 0.05, 200  # partners: on either side of a person, in a sparse list
#: what is asked, and whether its interval is conservative by construction (a bound on a seminorm) where groups differ
RATES = ("first accuracy", "second accuracy", "first FNMR", "second FNMR", "first FMR", "second FMR")
SUMMARIES = ("worst group", "gap", "STD", "SER", "FDR", "GARBE")
CHANGES = ("drop, first", "drop, second", "drop, all", "excess, second", "gap growth")
#: error rates at the fixed threshold with the plug-in variance and Wilson's interval instead of the bootstrap
PLUGGED = ("first FNMR, plug-in", "second FNMR, plug-in", "first FMR, plug-in", "second FMR, plug-in")
NAMED = (*RATES, *PLUGGED, *SUMMARIES, *CHANGES)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Populations:
    """Unit embeddings [people, pictures, dimensions] of both populations, and the thresholds fitted to other persons."""

    plain: Floats
    hard: Floats
    threshold: float
    compressed_threshold: float

    def group(self, share: float) -> Floats:
        """A population of which this share is hard."""
        count = round(share * PEOPLE)
        return np.concatenate([self.plain[: PEOPLE - count], self.hard[:count]])


def load(path: Path = FILE) -> Populations:
    """The stored populations."""
    with np.load(path) as data:
        plain, hard = (unit(data[name].astype(np.float64)) for name in ("plain", "hard"))
        return Populations(plain, hard, float(data["threshold"]), float(data["compressed_threshold"]))


def unit(vectors: Floats) -> Floats:
    """Vectors of length 1 along the last axis."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def pair_scores(people: Floats) -> tuple[Floats, Floats]:
    """Cosines of all mated pairs, and of all non-mated ones, of a population."""
    first, second = np.triu_indices(PICTURES, 1)
    mated = (people[:, first] * people[:, second]).sum(axis=-1)
    flat = people.reshape(-1, people.shape[-1])
    person = np.repeat(np.arange(len(people)), people.shape[1])
    above = np.triu(person[:, None] != person[None, :])
    return mated.ravel(), (flat @ flat.T)[above]


def truth(populations: Populations, share: float, sparse: bool = False) -> dict[str, float]:
    """The true value of everything that is asked: percent, but SER, FDR and GARBE as they are."""
    groups = [populations.group(part) for part in (0.0, share)]
    scores = [pair_scores(group) for group in groups]
    rates = _rates(scores, populations.threshold, sparse)
    pooled = np.sort(np.concatenate([other for _, other in scores]))[::-1]
    fmr, fnmr = _error(scores, pooled[int(FMR * pooled.size)])
    shorter = [pair_scores(unit(group[..., :KEPT])) for group in groups]
    after = _rates(shorter, populations.compressed_threshold, sparse)
    drop = rates - after
    fixed_fmr, fixed_fnmr = _error(scores, populations.threshold)
    values = [*(100 * rates), *(100 * fnmr), *(100 * fmr), *(100 * fixed_fnmr), *(100 * fixed_fmr)]
    values += [100 * rates.min(), 100 * np.ptp(rates), 100 * np.std(rates, ddof=1), summary.ser(rates)]
    values += [summary.fdr(fmr, fnmr), summary.garbe(fmr, fnmr)]
    values += [*(100 * drop), 100 * drop.mean(), 100 * (drop[1] - drop.mean()), 100 * (np.ptp(after) - np.ptp(rates))]
    return dict(zip(NAMED, map(float, values), strict=True))


def _error(scores: list[tuple[Floats, Floats]], limit: float) -> tuple[Floats, Floats]:
    fmr, fnmr = np.array([[(other > limit).mean(), (mated <= limit).mean()] for mated, other in scores]).T
    return fmr, fnmr


def _rates(scores: list[tuple[Floats, Floats]], limit: float, sparse: bool) -> Floats:
    """Accuracy of both groups over as many mated and non-mated pairs as an experiment has."""
    fmr, fnmr = _error(scores, limit)
    mated, other = DRAWN * PICTURES * (PICTURES - 1) / 2, DRAWN * (PARTNERS if sparse else (DRAWN - 1) / 2)
    return np.asarray(1 - (other * fmr + mated * fnmr) / (other + mated))


def draw(populations: Populations, share: float, rng: np.random.Generator, sparse: bool = False) -> dict[str, Any]:
    """The pairs of one experiment: 50 persons a group, all pairs of pictures of each, and every two persons compared once.

    ``sparse``: every person is compared with 12 others only.
    """
    first, second = np.triu_indices(PICTURES, 1)
    one, two = np.triu_indices(DRAWN, 1)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("a", "b", "same", "group", "score", "short")}
    for g, part in enumerate((0.0, share)):
        people = populations.group(part)[rng.permutation(PEOPLE)[:DRAWN]]
        me = np.repeat(np.arange(DRAWN), first.size)
        near = (two - one) % DRAWN <= PARTNERS if sparse else np.ones(one.size, dtype=bool)
        near |= (one - two) % DRAWN <= PARTNERS if sparse else False
        a, b = one[near], two[near]
        ways = [(me, me, np.tile(first, DRAWN), np.tile(second, DRAWN))]
        ways += [(a, b, rng.integers(0, PICTURES, a.size), rng.integers(0, PICTURES, a.size))]
        for a, b, i, j in ways:
            left, right = people[a, i], people[b, j]
            columns["score"].append((left * right).sum(axis=-1))
            columns["short"].append((unit(left[:, :KEPT]) * unit(right[:, :KEPT])).sum(axis=-1))
            columns["same"].append(a == b)
            columns["group"].append(np.full(a.size, g))
            columns["a"].append(a + g * DRAWN)
            columns["b"].append(b + g * DRAWN)
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def ask(pairs: dict[str, Any], populations: Populations, seed: int, draws: int) -> dict[str, tuple[float, float]]:
    """The intervals that the evaluators give for one experiment."""
    correct = (pairs["score"] > populations.threshold) == pairs["same"]
    shorter = (pairs["short"] > populations.compressed_threshold) == pairs["same"]
    who = {"group": pairs["group"], "group_names": NAMES, "subject_a": pairs["a"], "subject_b": pairs["b"]}
    fold = np.arange(correct.size) % 10
    found = verification_report(pairs["score"], correct, pairs["same"], fold, **who, fmr=FMR, draws=draws, seed=seed)
    ends = found["intervals"]
    both = [ends[f"group_{rate}"][name] for rate in ("accuracy", "fnmr", "fmr") for name in NAMES]
    both += [ends[name] for name in ("worst_group", "group_gap", "group_std", "ser", "fdr", "garbe")]
    change = compare_models(correct, shorter, **who, same=pairs["same"], draws=draws, seed=seed)
    effects = [*change.drop.values(), change.overall, change.excess["second"], change.gap_growth]
    both += [(one.low, one.high) for one in effects]
    ranges = [(-np.inf, np.inf) if two is None else (_end(two[0], -np.inf), _end(two[1], np.inf)) for two in both]
    return dict(zip((*RATES, *SUMMARIES, *CHANGES), ranges, strict=True)) | plugged(pairs, populations)


def plugged(pairs: dict[str, Any], populations: Populations) -> dict[str, tuple[float, float]]:
    """Intervals of FNMR and FMR at the fixed threshold, percent, from the plug-in variance."""
    wrong = (pairs["score"] > populations.threshold) != pairs["same"]
    found = []
    for part in (pairs["same"], ~pairs["same"]):
        for g in range(len(NAMES)):
            rows = part & (pairs["group"] == g)
            variance = plugin_variance(wrong[rows], pairs["a"][rows], pairs["b"][rows])
            one = wilson_interval(float(wrong[rows].mean()), variance, int(rows.sum()))
            found.append((100 * one.low, 100 * one.high))
    return dict(zip(PLUGGED, found, strict=True))


def _end(value: float | None, unbounded: float) -> float:
    return unbounded if value is None else value


def experiment(
    populations: Populations, share: float, count: int = EXPERIMENTS, draws: int = 200, sparse: bool = False
) -> dict[str, Any]:
    """Repeat it: coverage of every interval, how often a gap is reported, and with which sign."""
    true = truth(populations, share, sparse)
    hits, reported, signed = dict.fromkeys(true, 0), 0, 0
    excess = {"more": 0, "less": 0}
    for at in range(count):
        rng = np.random.default_rng([at, round(100 * share)])
        found = ask(draw(populations, share, rng, sparse), populations, at, draws)
        for name, (low, high) in found.items():
            hits[name] += low - 1e-9 <= true[name] <= high + 1e-9
        reported += found["gap"][0] > 0
        signed += found["first accuracy"][0] + found["first accuracy"][1] > sum(found["second accuracy"])
        excess["more"] += found["excess, second"][0] > 0
        excess["less"] += found["excess, second"][1] < 0
    return {
        "experiments": count, "truth": true, "coverage": {name: hit / count for name, hit in hits.items()},
        "gap_reported": reported / count, "second_measured_worse": signed / count,
        "excess_reported": {name: number / count for name, number in excess.items()},
    }  # fmt: skip


def plot(found: dict[str, Any], path: Path) -> None:
    """Left: coverage of every interval with the range that 200 experiments of a 95 % interval give. Right: gaps."""
    from scipy.stats import binom

    from common.experiment.figure import svg_figure
    from common.experiment.plot import COLOURS, MARKERS

    names = list(NAMED)
    with svg_figure(path, 1, 2, (9.5, 5.2), width_ratios=(3, 2)) as panels:
        left, right = panels[0]
        low, high = (100 * binom.ppf(q, EXPERIMENTS, 0.95) / EXPERIMENTS for q in (0.005, 0.995))
        left.axvspan(low, high, color="#dddddd", label="99 % range of a 95 % interval")
        left.axvline(95, color="#777777", linewidth=0.8)
        for at, (planted, one) in enumerate(found.items()):
            cover = [100 * one["coverage"][name] for name in names]
            places = np.arange(len(names)) + 0.22 * (at - 1)
            left.plot(cover, places, MARKERS[at], color=COLOURS[at], markersize=4.5, label=f"planted: {planted}")
            gap, reported = one["truth"]["gap"], 100 * one["gap_reported"]
            right.plot(gap, reported, MARKERS[at], color=COLOURS[at], markersize=7)
            right.annotate(
                f"{planted}: gap {gap:.1f}, reported in {reported:.0f} %", (gap, reported), fontsize=8,
                xytext=((4, 16), (10, 2), (-10, -3))[at], textcoords="offset points", ha="right" if at == 2 else "left",
            )  # fmt: skip
        left.set_yticks(range(len(names)), names)
        left.invert_yaxis()
        left.set_xlim(85, 100.5)
        left.set_xlabel(f"intervals that hold the truth, % of {EXPERIMENTS} experiments")
        left.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)
        right.axhline(5, color="#777777", linewidth=0.8, linestyle=":")
        right.set_xlabel("true gap between the groups (percent points)")
        right.set_ylabel("experiments that report a gap (%)")
        right.set_ylim(-3, 106)
        for axes in (left, right):
            axes.grid(True, linewidth=0.3, alpha=0.5)


def main() -> None:
    """Run the experiments."""
    from common.files import write_json_atomically

    populations = load()
    found = {name: experiment(populations, share) for name, share in PLANTED.items()}
    plot(found, FIGURE)
    found["none, 12 comparisons a person"] = experiment(populations, 0.0, sparse=True)
    write_json_atomically(FIGURE.with_suffix(".json"), found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
