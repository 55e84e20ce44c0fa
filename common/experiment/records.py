"""Stored runs as the judge, the table and the plot read them: arrays and plain values, no network.

A results folder holds `<digest>.json` and `<digest>.npz` for every run, `pairs-<hash>.npz` once for every pair table, and
`SHA256SUMS`, the manifest of these files and of the table and the plot beside the folder. What is read is compared with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.experiment.arrays import decode_arrays
from common.files import DamagedFileError, parse_json, remove_temporary_files
from common.manifest import MANIFEST, read_manifest, read_verified, write_manifest

STATUSES = ("ok", "stale", "damaged", "failed", "interrupted", "not run")
DRAWN = (".json", ".md", ".csv", ".tex", ".svg")  # endings of what lies beside a results folder and bears its name
RUN_FILE = re.compile(r"[0-9a-f]{16}\.json")
KINDS = {
    "arm": str, "seed": int, "status": str, "pairs": dict, "metrics": dict, "cost": dict, "error": dict, "digest": str,
    "provenance": dict, "stale": list,
}  # fmt: skip
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
        status: one of `STATUSES`; only an ok run has numbers.
        metrics: pair set -> metric -> value (percentages 0..100; None = undefined; `group_accuracy` is a dict).
        cost: `parameters`, `stored_bytes`, `compression`, ... of the network.
        correct: pair set -> bool [P], the decision of the protocol on every pair.
        pairs: pair set -> its pair table.
        error: why it is not ok (`{"type": ..., "message": ...}`).
        digest: name of the stored run; provenance: commit, versions, hardware.
        stale: modules that had changed since an ok run was made, when it was published all the same.

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
    stale: tuple[str, ...] = ()

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


def seal_results(folder: Path | str) -> None:
    """Write the manifest of a results folder: every file in it, and the table and the plots of its name beside it.

    To be called after runs were published, since only what is listed is read, and again after the table was drawn. The caller
    holds the lock of the paper (`Store.exclusive`): what killed writers left in both folders is deleted.

    Raises:
        StorageError: the file system refused.
    """
    folder = Path(folder)
    remove_temporary_files(folder)
    remove_temporary_files(folder.parent)
    names = [path.name for path in folder.iterdir() if path.is_file() and path.name != MANIFEST]
    names += [f"../{folder.name}{ending}" for ending in DRAWN if folder.with_name(folder.name + ending).exists()]
    names += [f"../{path.name}" for path in sorted(folder.parent.glob(f"{folder.name}-*.svg"))]
    write_manifest(folder, names)


@dataclass(frozen=True)
class _Files:
    """The files of a results folder, each read once and compared with the manifest.

    Attributes:
        folder: where they are; manifest: what they should be; tables: pair tables that were read already.
    """

    folder: Path
    manifest: Mapping[str, str]
    tables: dict[tuple[str, str], PairTable] = field(default_factory=dict)

    def json(self, name: str) -> Any:
        return parse_json(read_verified(self.folder, name, self.manifest), self.folder / name)

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        return decode_arrays(read_verified(self.folder, name, self.manifest), self.folder / name)


def load_records(folder: Path | str, pools: Mapping[str, str] | None = None) -> list[RunRecord]:
    """Read every run of a results folder.

    Args:
        folder: holds `<digest>.json`, `<digest>.npz` (`<pair set>/correct`), `pairs-<hash>.npz` and the manifest of all.
        pools: pair set -> name of its people. Without it the pair table's own `pool` is used, and where that is absent
            too, the pair set's name: people of different sets are then taken for different people.

    Returns:
        Records sorted by arm and seed. A run that is not ok needs its json file only.

    Raises:
        FileNotFoundError: the folder is not there.
        DamagedFileError: a file is missing, not listed in the manifest or not what it should be; the message names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no results folder {folder}: run the paper's Make target first")
    if not (folder / MANIFEST).exists():
        raise DamagedFileError(
            f"{folder} has no {MANIFEST}, so that nothing says whether its files are whole: make it again with "
            f"`make {folder.parent.name} SCALE={folder.name}` (finished runs are not trained again)"
        )
    files = _Files(folder, read_manifest(folder))
    names = {path.name for path in folder.iterdir()} | set(files.manifest)
    records = [_load_record(name, files, pools or {}) for name in sorted(names) if RUN_FILE.fullmatch(name)]
    return sorted(records, key=lambda record: (record.arm, record.seed, record.digest))


def _load_record(name: str, files: _Files, pools: Mapping[str, str]) -> RunRecord:
    result, path = files.json(name), files.folder / name
    missing = [key for key in ("arm", "seed", "status") if not isinstance(result, dict) or key not in result]
    if missing:
        raise DamagedFileError(
            f"{path} names no {', '.join(missing)}: it is no result of a run; restore it or delete it"
        )
    wrong = [key for key, kind in KINDS.items() if result.get(key) is not None and type(result[key]) is not kind]
    if wrong or not all(isinstance(entry, dict) for entry in (result.get("metrics") or {}).values()):
        raise DamagedFileError(f"{path} holds no run's {', '.join(wrong) or 'metrics'}; restore it or delete it")
    correct: dict[str, np.ndarray] = {}
    pairs: dict[str, PairTable] = {}
    if result["status"] == "ok":
        scores = files.arrays(f"{path.stem}.npz")
        for pair_set, table_hash in (result.get("pairs") or {}).items():
            key = (pair_set, str(table_hash))
            if key not in files.tables:
                files.tables[key] = _load_table(f"pairs-{table_hash}.npz", files, pair_set, pools)
            if f"{pair_set}/correct" not in scores:
                raise DamagedFileError(f"{path.stem}.npz has no array '{pair_set}/correct', which {path} promises")
            pairs[pair_set], correct[pair_set] = files.tables[key], scores[f"{pair_set}/correct"]
            if correct[pair_set].dtype != bool:
                raise DamagedFileError(
                    f"{path.stem}.npz holds no decisions in '{pair_set}/correct', which {path} promises"
                )
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
            stale=tuple(map(str, result.get("stale") or ())),
        )
    except (ValueError, TypeError) as error:
        raise DamagedFileError(f"{path} and its arrays do not fit together: {error}") from error


def _load_table(name: str, files: _Files, pair_set: str, pools: Mapping[str, str]) -> PairTable:
    arrays, path = files.arrays(name), files.folder / name
    missing = [column for column in (*COLUMNS, "group_names") if column not in arrays]
    if missing:
        raise DamagedFileError(f"{path} lacks {', '.join(missing)}: it is no pair table; restore it or run again")
    wrong = [column for column in COLUMNS if arrays[column].ndim != 1 or arrays[column].dtype.kind not in "biu"]
    texts = [arrays["group_names"], arrays.get("pool", np.array(pair_set))]
    if wrong or [text.ndim for text in texts] != [1, 0] or any(text.dtype.kind != "U" for text in texts):
        raise DamagedFileError(
            f"{path} holds no numbers in {', '.join(wrong) or 'a column'}, or no names of its groups"
        )
    stored = str(arrays["pool"]) if "pool" in arrays else pair_set
    names = tuple(str(name) for name in arrays["group_names"])
    try:
        return PairTable(
            **{name: arrays[name] for name in COLUMNS}, group_names=names, pool=pools.get(pair_set, stored)
        )
    except ValueError as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from error
