"""A table as data: one row an arm, numbers computed from stored runs, the paper's own numbers beside them.

Nothing here is typed in by hand and nothing is compared that cannot be: the paper's numbers keep their own column and
scale, and only a row of scale `paper` can be marked *reproduced*. How a table looks is in `common.experiment.render`,
its figure in `common.experiment.plot`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from common.experiment.records import RunRecord
from common.experiment.rows import Column, Reported, Row, group_accuracy, make_reported, make_row, with_drop, with_gaps
from common.experiment.words import WORDS, Words, task_of


@dataclass(frozen=True)
class Table:
    """A table of a paper at one scale.

    Attributes:
        key, title: of the paper; scale: of this reproduction; data_note: what data it used.
        columns: ours; reported_columns: metrics of the paper that stand beside them; rows: the arms, in printing order.
        reported: all of the paper's numbers.
        fairness_set: pair set of the group columns (None without groups); sizes: pair set -> (pairs, people).
        provenance: lines that say what made the numbers.
        command: what makes, and renews, the table.
        task: `"verification"` or `"classification"`.
        omitted: names of the arms of this scale that were not asked for yet; they have no row.
    """

    key: str
    title: str
    scale: str
    data_note: str
    columns: tuple[Column, ...]
    reported_columns: tuple[str, ...]
    rows: tuple[Row, ...]
    reported: tuple[Reported, ...]
    fairness_set: str | None
    sizes: Mapping[str, tuple[int, int]]
    provenance: tuple[str, ...]
    command: str = ""
    task: str = "verification"
    omitted: tuple[str, ...] = ()

    @property
    def words(self) -> Words:
        """How it speaks of what it measured."""
        return WORDS[self.task]

    def column(self, key: str) -> Column:
        """A column by its key."""
        return next(column for column in self.columns if column.key == key)

    @property
    def omission(self) -> str:
        """One sentence on the arms that were not asked for; empty without any."""
        if not self.omitted:
            return ""
        count = f"{len(self.omitted)} of {len(self.omitted) + len(self.rows)} arms of this scale have"
        return f"{count} not been run and have no row: {', '.join(self.omitted)}."

    @property
    def stale(self) -> tuple[str, ...]:
        """Modules that have changed since some of the runs were made."""
        return tuple(sorted({module for row in self.rows for module in row.stale}))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def build_table(
    runs: Sequence[RunRecord],
    arms: Sequence[Mapping[str, Any]],
    reported: Sequence[Mapping[str, Any]] = (),
    *,
    key: str,
    title: str,
    scale: str,
    data_note: str = "",
    command: str = "",
    pair_sets: Sequence[str] = (),
    fairness_set: str | None = None,
    further: Sequence[tuple[str, str, str, str]] = (),
    omitted: Sequence[str] = (),
    reported_columns: Sequence[str] | None = None,
    tolerance: float | None = None,
    stale: Mapping[str, Sequence[str]] | None = None,
) -> Table:
    """Make the table of a paper from its stored runs.

    Args:
        runs: every arm at every seed, in any order; what is not ok gives no number.
        arms: rows in printing order: `name`, `title`, and optionally `series`, `bits`, `baseline`, `teacher` and
            `reported_key` (row of the paper's numbers; its own name without it).
        reported: entries of `paper.toml`: `row`, `metric` (a pair set's name for accuracies, or a column's key), `value`, `unit`,
            `source`, `verified`, optionally `scale` (`paper`), `spread`, `tolerance`.
        key, title, scale, data_note, command: see `Table`.
        pair_sets: order of the accuracy columns; sets that are not named follow.
        fairness_set: pair set of the group columns; the first one with groups when None.
        omitted: see `Table`.
        further: columns of the paper's own, as in `TablePlan.columns`; they follow the accuracies.
        reported_columns: metrics of the paper to print beside ours; when None those that are pair sets of this table,
            or else the first two that its arms have.
        tolerance: percent points within which a row of scale `paper` counts as reproduced where an entry states none.
        stale: digest -> modules that have changed since that run was made.

    Raises:
        ValueError: two arms share a name, or the fairness set was not measured.
    """
    names = [str(arm["name"]) for arm in arms]
    if len(set(names)) < len(names):
        raise ValueError(f"two arms of table '{key}' share a name: {', '.join(sorted(names))}")
    ok = [run for run in runs if run.ok and run.arm in names]
    measured = list(dict.fromkeys(name for run in sorted(ok, key=_by_arm(names)) for name in run.metrics))
    sets = sorted(measured, key=lambda name: list(pair_sets).index(name) if name in pair_sets else len(pair_sets))
    with_groups = [name for name in sets if any(group_accuracy(run, name) for run in ok)]
    if fairness_set is not None and ok and fairness_set not in sets:
        raise ValueError(f"pair set '{fairness_set}' of the group columns was not measured: {', '.join(sets)} were")
    chosen = fairness_set if fairness_set in with_groups else next(iter(with_groups), None)
    task = task_of(ok)
    taught = any(arm.get("teacher") for arm in arms)
    columns = _columns(sets, chosen, ok, WORDS[task], further, taught)
    numbers = tuple(make_reported(entry) for entry in reported)
    rows = tuple(make_row(arm, runs, columns, sets, numbers, scale, tolerance, stale or {}) for arm in arms)
    drop = f"{chosen}:worst_drop"
    if any(column.key == drop for column in columns):
        by_name = {row.name: row for row in rows}
        rows = tuple(with_drop(row, by_name.get(row.baseline), str(chosen), drop) for row in rows)
    if taught and chosen is not None:
        by_name = {row.name: row for row in rows}
        gap, transfer = (f"{chosen}:{name}" for name in ("gap", "transfer"))
        rows = tuple(with_gaps(row, by_name.get(row.teacher), chosen, gap, transfer) for row in rows)
    beside = [metric for row in rows for metric in row.reported]
    if reported_columns is None:
        known = [*sets, *(column.key for column in columns)]
        reported_columns = [name for name in known if name in beside] or list(dict.fromkeys(beside))[:2]
    return Table(
        key=key,
        title=title,
        scale=scale,
        data_note=data_note,
        columns=columns,
        reported_columns=tuple(name for name in reported_columns if name in beside),
        rows=rows,
        reported=numbers,
        fairness_set=chosen,
        sizes={name: _size(ok, name) for name in sets},
        provenance=_provenance(ok),
        command=command,
        task=task,
        omitted=tuple(omitted),
    )


def _columns(
    sets: Sequence[str],
    fairness_set: str | None,
    ok: Sequence[RunRecord],
    words: Words,
    further: Sequence[tuple[str, str, str, str]],
    taught: bool,
) -> tuple[Column, ...]:
    named = [(name, words.title.format(name)) for name in sets]
    if words.metric == "error":
        columns = [Column(f"{name}:error", title, "%", f"top-1 error on {name}") for name, title in named]
        trained = [name for name in sets if name == "train"]
        columns += [Column(f"{name}:loss", f"{name} loss", "loss", "mean cross-entropy") for name in trained]
        if any("best_error" in values for run in ok for values in run.metrics.values()):
            first, title = named[0]
            best = "of the weights with the best validation accuracy"
            columns.append(Column(f"{first}:best_error", f"best {title}", "%", f"top-1 error on {first} {best}"))
    else:
        columns = [
            Column(f"{name}:accuracy", title, "%", f"10-fold verification accuracy on {name}") for name, title in named
        ]
    own = {key for key, *_ in further}  # what a paper says of a column itself replaces what is said here
    columns = [column for column in columns if column.key not in own] + [Column(*entry) for entry in further]
    if fairness_set is not None:
        on, group = f"on {fairness_set}", words.group
        columns += [
            Column(f"{fairness_set}:worst_group", f"worst {group}", "%", f"lowest accuracy of a {group} {on}"),
            *_drop(fairness_set, group) * (words.metric == "error"),
            *_transfer(fairness_set, group) * taught,
            Column(f"{fairness_set}:group_std", "STD", "pp", f"standard deviation of {group} accuracies {on} (ddof 1)"),
            Column(f"{fairness_set}:ser", "SER", "ratio", f"highest {group} error / lowest {on}; 1 = equal"),
        ]
    if any("remaining" in run.cost for run in ok):
        rest = _pruning_columns(ok)
    else:
        rest = _network_columns() if taught else _bit_columns()
    return (*columns, *(column for column in rest if column.key not in own))


def _drop(fairness_set: str, group: str) -> list[Column]:
    about = f"largest loss of accuracy of a {group} against the dense network on {fairness_set}, at the same seeds"
    return [Column(f"{fairness_set}:worst_drop", "worst drop", "pp", about)]


def _transfer(fairness_set: str, group: str) -> list[Column]:
    gap = f"highest minus lowest accuracy of a {group} on {fairness_set}"
    return [
        Column(f"{fairness_set}:gap", "gap", "pp", gap),
        Column(
            f"{fairness_set}:transfer",
            "gap - teacher's",
            "pp",
            "transfer of bias: that gap minus the teacher's at the same seeds; above 0 the student is less even than its teacher",
        ),
    ]


def _network_columns() -> list[Column]:
    return [
        Column("parameters", "parameters", "count", "of the network that is deployed"),
        Column("macs", "MACs", "count", "multiply-accumulates of one image"),
        Column("stored_bytes", "bytes", "bytes", "size of the stored file"),
    ]


def _bit_columns() -> list[Column]:
    return [
        Column("nominal", "nominal", "x", "32 / bits"),
        Column("compression", "true", "x", "bytes of the same network in FP32 / bytes stored"),
        Column("stored_bytes", "bytes", "bytes", "size of the stored file"),
    ]


def _pruning_columns(ok: Sequence[RunRecord]) -> list[Column]:
    empty = Column("emptied_layers", "empty layers", "layers", "layers that keep no weight: what is trained is dead")
    return [
        *([empty] if any(run.cost.get(empty.key) for run in ok) else []),
        Column("remaining", "left", "%", "share of the prunable weights that is kept"),
        Column("kept", "weights", "count", "prunable weights that are kept"),
        Column("macs", "MACs", "count", "multiply-accumulates of one image in dense kernels"),
        Column("stored_bytes", "bytes", "bytes", "size of the stored file, zeros included"),
    ]


def _size(ok: Sequence[RunRecord], name: str) -> tuple[int, int]:
    """Pairs and people of a pair set."""
    metrics = next(run.metrics[name] for run in ok if name in run.metrics)
    return int(metrics.get("pairs") or 0), int(metrics.get("subjects") or 0)


def _by_arm(names: Sequence[str]) -> Any:
    return lambda run: (names.index(run.arm), run.seed)


def _provenance(ok: Sequence[RunRecord]) -> tuple[str, ...]:
    """Commits, versions and machines behind the finished runs, each once."""
    lines: dict[str, None] = {}
    for run in sorted(ok, key=lambda run: (run.arm, run.seed)):
        made = run.provenance
        git, versions, cpu = (made.get(name) or {} for name in ("git", "versions", "cpu"))
        parts = [
            f"commit {str(git['commit'])[:12]}" + " with local changes" * bool(git.get("dirty"))
            if git.get("commit")
            else "",
            ", ".join(f"{name} {version}" for name, version in versions.items()),
            str(cpu.get("model") or ""),
            ", ".join(made.get("gpus") or []),
            f"threads a run: {made['threads']}" if made.get("threads") else "",
        ]
        line = "; ".join(part for part in parts if part)
        if line:
            lines.setdefault(line)
    return tuple(lines)
