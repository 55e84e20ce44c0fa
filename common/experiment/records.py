"""Stored runs as the judge, the table and the plot read them: arrays and plain values, no network.

A results folder holds `<digest>.json` and `<digest>.npz` for every run and `pairs-<hash>.npz` once for every pair
table.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.files import DamagedFileError, read_json

STATUSES = ("ok", "failed", "interrupted", "not run")
RUN_FILE = re.compile(r"[0-9a-f]{16}\.json")
COLUMNS = ("same", "fold", "group", "subject_a", "subject_b")


@dataclass(frozen=True, eq=False)
class PairTable:
    """Who was compared with whom in one pair set: what does not depend on the network.

    Attributes:
        same: bool [P], True for a mated pair.
        fold: int64 [P].
        group: int64 [P], index into `group_names`; -1 = none or mixed.
        subject_a: int64 [P]; subject_b: int64 [P], identities; they mean the same person in every table of the same
            pool.
        group_names: names of the groups.
        pool: name of the set of people; pair sets of one data module share it, and are then resampled together.

    Raises:
        ValueError: columns of different lengths, or a group without a name.
    """

    same: np.ndarray
    fold: np.ndarray
    group: np.ndarray
    subject_a: np.ndarray
    subject_b: np.ndarray
    group_names: tuple[str, ...]
    pool: str = "people"

    def __post_init__(self) -> None:
        pairs = len(self.same)
        if pairs == 0:
            raise ValueError("a pair table without pairs cannot be judged: expected at least one")
        for name in COLUMNS:
            column = np.asarray(getattr(self, name))
            if column.shape != (pairs,):
                raise ValueError(f"column '{name}' of a pair table has shape {list(column.shape)}: expected [{pairs}]")
            object.__setattr__(self, name, column.astype(bool if name == "same" else np.int64))
        low, high = int(self.group.min()), int(self.group.max())
        if low < -1 or high >= len(self.group_names):
            raise ValueError(f"groups {low}..{high} of a pair table do not fit its {len(self.group_names)} group names")

    def __len__(self) -> int:
        return len(self.same)

    @property
    def subjects(self) -> int:
        """Number of different people."""
        return len(np.union1d(self.subject_a, self.subject_b))

    def agrees_with(self, other: PairTable) -> bool:
        """Whether both say the same of every pair, in the same order."""
        if self is other:
            return True
        names = (self.group_names, self.pool) == (other.group_names, other.pool)
        return names and all(np.array_equal(getattr(self, name), getattr(other, name)) for name in COLUMNS)


@dataclass(frozen=True, eq=False)
class RunRecord:
    """An arm at one seed, as it was stored.

    Attributes:
        arm: name of the arm; seed: its seed.
        status: `"ok"`, `"failed"`, `"interrupted"` or `"not run"`; only an ok run has numbers.
        metrics: pair set -> metric -> value (percentages 0..100; None = undefined; `group_accuracy` is a dict).
        cost: `parameters`, `stored_bytes`, `compression`, ... of the network.
        correct: pair set -> bool [P], the decision of the protocol on every pair.
        pairs: pair set -> its pair table.
        error: why it is not ok (`{"type": ..., "message": ...}`).
        digest: name of the stored run; provenance: commit, versions, hardware.

    Raises:
        ValueError: an unknown status, or `correct` without a pair table of the same length.
    """

    arm: str
    seed: int
    status: str
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    correct: Mapping[str, np.ndarray] = field(default_factory=dict)
    pairs: Mapping[str, PairTable] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    digest: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"{self} has status '{self.status}': expected one of {', '.join(STATUSES)}")
        for name, correct in self.correct.items():
            if name not in self.pairs:
                raise ValueError(f"{self} has decisions on pair set '{name}' but no pair table for it")
            if np.shape(correct) != (len(self.pairs[name]),):
                raise ValueError(
                    f"{self} has decisions of shape {list(np.shape(correct))} on pair set '{name}': "
                    f"expected [{len(self.pairs[name])}], one a pair of its table"
                )

    def __str__(self) -> str:
        return f"run {self.arm} seed {self.seed}" + (f" ({self.digest})" if self.digest else "")

    @property
    def ok(self) -> bool:
        """Whether it has numbers."""
        return self.status == "ok"


def load_records(folder: Path | str, pools: Mapping[str, str] | None = None) -> list[RunRecord]:
    """Read every run of a results folder.

    Args:
        folder: holds `<digest>.json`, `<digest>.npz` (`<pair set>/correct`) and `pairs-<hash>.npz`.
        pools: pair set -> name of its people. Without it the pair table's own `pool` is used, and where that is absent
            too, the pair set's name: people of different sets are then taken for different people.

    Returns:
        Records sorted by arm and seed. A run that is not ok needs its json file only.

    Raises:
        FileNotFoundError: the folder, or a file that a result names, is not there.
        DamagedFileError: a file is not what it should be; the message names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no results folder {folder}: run the paper's Make target first")
    tables: dict[tuple[str, str], PairTable] = {}
    records = [
        _load_record(path, tables, pools or {}) for path in sorted(folder.iterdir()) if RUN_FILE.fullmatch(path.name)
    ]
    return sorted(records, key=lambda record: (record.arm, record.seed, record.digest))


def _load_record(path: Path, tables: dict[tuple[str, str], PairTable], pools: Mapping[str, str]) -> RunRecord:
    result = read_json(path)
    missing = [key for key in ("arm", "seed", "status") if not isinstance(result, dict) or key not in result]
    if missing:
        raise DamagedFileError(
            f"{path} names no {', '.join(missing)}: it is no result of a run; restore it or delete it"
        )
    correct: dict[str, np.ndarray] = {}
    pairs: dict[str, PairTable] = {}
    if result["status"] == "ok":
        scores_path = path.with_suffix(".npz")
        scores = _arrays(scores_path)
        for name, table_hash in result.get("pairs", {}).items():
            key = (name, table_hash)
            if key not in tables:
                tables[key] = _load_table(path.parent / f"pairs-{table_hash}.npz", name, pools)
            if f"{name}/correct" not in scores:
                raise DamagedFileError(f"{scores_path} has no array '{name}/correct', which {path.name} promises")
            pairs[name], correct[name] = tables[key], scores[f"{name}/correct"].astype(bool)
    try:
        return RunRecord(
            arm=str(result["arm"]),
            seed=int(result["seed"]),
            status=result["status"],
            metrics=result.get("metrics") or {},
            cost=result.get("cost") or {},
            correct=correct,
            pairs=pairs,
            error=result.get("error"),
            digest=str(result.get("digest", path.stem)),
            provenance=result.get("provenance") or {},
        )
    except (ValueError, TypeError) as error:
        raise DamagedFileError(f"{path} and its arrays do not fit together: {error}") from error


def _load_table(path: Path, pair_set: str, pools: Mapping[str, str]) -> PairTable:
    arrays = _arrays(path)
    missing = [name for name in (*COLUMNS, "group_names") if name not in arrays]
    if missing:
        raise DamagedFileError(f"{path} lacks {', '.join(missing)}: it is no pair table; restore it or run again")
    stored = str(arrays["pool"]) if "pool" in arrays else pair_set
    names = tuple(str(name) for name in arrays["group_names"])
    try:
        return PairTable(
            **{name: arrays[name] for name in COLUMNS}, group_names=names, pool=pools.get(pair_set, stored)
        )
    except ValueError as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from error


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing, and a result beside it names it: restore it or run the arm again")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError) as error:
        raise DamagedFileError(f"{path} is damaged ({error}): restore it or run the arm again") from error
