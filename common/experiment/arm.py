"""Arms and runs: what is computed, as plain data.

An arm is one row of a table: a method with its options, its data and its schedule. An arm at one seed is a run. A run's
digest is a hash of everything that decides its outcome, its parents included, and of nothing else: the arm's name and title
are not in it, so two papers that need the same teacher share one run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.experiment.claims import Claim
from common.experiment.spec import Place, Spec, canonical, parents

DIGEST_LENGTH = 16
FORMAT = 1  # raise it when the meaning of a stored run changes; every digest changes with it


@dataclass(frozen=True)
class Phase:
    """One stage of a run: a `Trainer.fit`, or one computation of the method.

    Attributes:
        name: what the method is told is being run (`LightningModule.start_phase`), and what progress shows.
        epochs: length of the fit in epochs; steps: in optimiser steps (whichever comes first when both are given).
        compute: name of a method of the LightningModule to call with the data module instead of fitting.
    """

    name: str
    epochs: int | None = None
    steps: int | None = None
    compute: str | None = None

    def __post_init__(self) -> None:
        if self.compute is None and self.epochs is None and self.steps is None:
            raise ValueError(f"phase '{self.name}' has no length: give epochs, steps or a computation")


@dataclass(frozen=True)
class Arm:
    """One row of a table.

    Attributes:
        name: identifier, unique in its table; title: what the table prints.
        method: spec of a LightningModule whose `network` is what is measured and kept.
        data: spec of a LightningDataModule with `pair_sets()`.
        benchmark: spec of what the trained network is measured on.
        phases: stages, in order; none for a network that is only measured.
        keep: names of further states to store beside the final network: `"epoch<k>"` is the network after epoch k (1-based).
        precision: Lightning's `Trainer(precision=...)`.
        series: the curve of the plot that this arm lies on; bits: its position there (a pruned network's is what is left of it).
        reported: key of the paper's own numbers; baseline: name of the arm that its groups' losses are counted from;
            teacher: name of the arm that it learned from, whose group gaps its own are compared with.
    """

    name: str
    title: str
    method: Spec
    data: Spec
    benchmark: Spec
    phases: tuple[Phase, ...] = ()
    keep: tuple[str, ...] = ()
    precision: str = "32-true"
    series: str = ""
    bits: float | None = None
    reported: str | None = None
    baseline: str | None = None
    teacher: str | None = None

    @property
    def parents(self) -> tuple[Arm, ...]:
        """Arms that have to be finished first."""
        found: dict[int, Arm] = {}
        for arm in parents([self.method, self.data]):
            found.setdefault(id(arm), arm)
        return tuple(found.values())


@dataclass(frozen=True)
class TablePlan:
    """What a paper's `table.py` returns for one scale: the arms, the claims about them and the seeds.

    Attributes:
        arms: rows, in printing order; parents that are no rows themselves need not be listed.
        claims: statements, declared before any result exists.
        seeds: default seeds of every arm.
        data_note: one sentence on what data this scale uses.
        pair_sets: order of the accuracy columns; fairness_set: the pair set of the group columns.
        columns: further columns: key (`"<pair set>:<metric>"`), title, unit and one line of help (see `rows.Column`).
    """

    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]
    seeds: tuple[int, ...]
    data_note: str
    pair_sets: tuple[str, ...] = ()
    fairness_set: str | None = None
    columns: tuple[tuple[str, str, str, str], ...] = ()

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two arms share the name {', '.join(twice)}")


@dataclass(frozen=True)
class Run:
    """An arm at one seed."""

    arm: Arm
    seed: int
    digest: str
    parents: tuple[Run, ...]

    @property
    def label(self) -> str:
        """Short name for progress and logs."""
        return f"{self.arm.name} seed {self.seed}"


def canonical_run(arm: Arm, seed: int, place: Place, known: dict[int, str] | None = None) -> dict[str, Any]:
    """Everything that decides the outcome of a run, as JSON values (the form that the digest hashes and the result stores).

    Not how many processes train it together: they share the batch of every step and end where one process ends but for
    rounding, like another number of threads. The result's provenance records both.

    Args:
        known: digests of parents at this seed, by `id` of the arm; see `run_digest`.
    """
    known = {} if known is None else known
    place = replace(place, digest=lambda parent: run_digest(parent, seed, place, known))
    return {
        "format": FORMAT,
        "method": canonical(arm.method, place),
        "data": canonical(arm.data, place),
        "benchmark": canonical(arm.benchmark, place),
        "phases": [{"name": p.name, "epochs": p.epochs, "steps": p.steps, "compute": p.compute} for p in arm.phases],
        "keep": sorted(arm.keep),
        "precision": arm.precision,
        "seed": seed,
    }


def run_digest(arm: Arm, seed: int, place: Place, known: dict[int, str] | None = None) -> str:
    """The name of a run: the first 16 hex digits of the SHA-256 of its canonical form.

    Args:
        known: digests at this seed and place, by `id` of an arm that is alive; extended, so that a long line of parents is
            hashed once.
    """
    known = {} if known is None else known
    if id(arm) not in known:
        text = json.dumps(canonical_run(arm, seed, place, known), sort_keys=True, separators=(",", ":"))
        known[id(arm)] = hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
    return known[id(arm)]


def plan_runs(arms: Iterable[Arm], seeds: Iterable[int], data: Path | None = None) -> list[Run]:
    """All runs of a table, parents before children, each once.

    Args:
        arms: rows of the table.
        seeds: every arm is run at every one of them.
        data: the user's data root, where data files are part of an arm.
    """
    place = Place(data=data)
    ordered: dict[str, Run] = {}

    def add(arm: Arm, seed: int, known: dict[int, str]) -> Run:
        needed = tuple(add(parent, seed, known) for parent in arm.parents)
        digest = run_digest(arm, seed, place, known)
        return ordered.setdefault(digest, Run(arm, seed, digest, needed))

    arms = tuple(arms)
    for seed in seeds:
        known: dict[int, str] = {}
        for arm in arms:
            add(arm, seed, known)
    return list(ordered.values())
