"""Whether a table in `results/` is what the present code would make. Standard library only, so that listing is instant.

Two things can be out of date. *Stale*: a module that decided the numbers, or an arm of the table, is another one now; the runs
have to be computed again. *Outdated*: only the claims or the judge are; `make redraw` is enough.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.experiment.arm import Arm, TablePlan
from common.experiment.sources import HASH_LENGTH, UNRECORDED, changed_modules, sources_of
from common.experiment.spec import DataFile, Place, Spec, SpecError, WeightsOf, file_digest
from common.files import DamagedFileError, parse_json
from common.manifest import read_verified
from papers.registry import Paper

JUDGING = ("common.experiment.judge.judge", "common.experiment.table.build_table")
CONFLICT = "differs between runs"


@dataclass(frozen=True)
class TableState:
    """What a committed `<scale>.json` says of itself today.

    Attributes:
        verdicts: claim -> word.
        stale: modules that have changed since its runs were made; outdated: since it was judged.
    """

    verdicts: Mapping[str, str]
    stale: list[str]
    outdated: list[str]


def load_plan(key: str, scale: str) -> TablePlan:
    """What the `table.py` of a paper says for a scale."""
    plan: TablePlan = importlib.import_module(f"papers.{key}.table").plan(scale)
    return plan


def read_table(results: Path, key: str, scale: str) -> dict[str, Any]:
    """The committed `<scale>.json` of a paper, compared with the manifest of its runs' folder.

    Raises:
        DamagedFileError: it is missing, not as it was written, or no table.
    """
    folder = results / key / scale
    table = parse_json(read_verified(folder, f"../{scale}.json"), folder.with_suffix(".json"))
    if not _is_table(table):
        raise DamagedFileError(f"{folder}.json is no table: restore it or run the command that made it again")
    return table


def _is_table(table: Any) -> bool:
    if not isinstance(table, dict):
        return False
    dicts = (table.get("sources", {}), table.get("arms", {}), table.get("judged", {}), table.get("bytes", {}))
    entries = [(entry, ("digest", "status")) for entry in table.get("runs", ())]
    entries += [(entry, ("key", "verdict")) for entry in table.get("verdicts", ())]
    return all(isinstance(one, dict) for one in dicts) and all(
        isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in names) for entry, names in entries
    )


def inspect_table(paper: Paper, scale: str, results: Path) -> TableState:
    """Compare a committed table with the present code.

    Raises:
        DamagedFileError: it is not as it was written.
    """
    table, module = read_table(results, paper.key, scale), f"papers.{paper.key}.table"
    try:
        plan = load_plan(paper.key, scale)
        arms, judged = arm_hashes(plan), plan_hash(plan)
    except Exception:  # whatever a table that is being edited raises: it is not the one that made the results
        arms, judged = {}, ""
    recorded = table.get("judged", {})
    unchanged = table.get("bytes", {})
    stale = changed_modules(table.get("sources", {}), unchanged=unchanged)
    outdated = changed_modules(recorded.get("sources", {}), unchanged=unchanged)
    if table.get("arms") != arms and UNRECORDED not in stale:
        stale = sorted({*stale, module})
    if recorded.get("plan") != judged and UNRECORDED not in outdated:
        outdated = sorted({*outdated, module})
    verdicts = {one["key"]: one["verdict"] for one in table.get("verdicts", ())}
    return TableState(verdicts, stale, [] if UNRECORDED in outdated else outdated)


def judging() -> dict[str, str]:
    """Sources of what turns runs into verdicts."""
    return sources_of(JUDGING)


def arm_hashes(plan: TablePlan) -> dict[str, str]:
    """Arm -> hash of what its table says about it, parents included; titles and claims do not count."""
    return {arm.name: _hash(_decisive(arm)) for arm in plan.arms}


def plan_hash(plan: TablePlan) -> str:
    """Hash of a whole table, claims and words included."""
    return _hash(plan)


def request_hash(plan: TablePlan, seeds: Iterable[int], data: Path | None) -> str:
    """Hash of everything that is asked of a table here: equal hashes ask for the same runs.

    Data files that the arms name count with their content; a missing one counts as missing.
    """
    files = {}
    for name in sorted(set(_data_files(list(plan.arms)))):
        try:
            files[name] = file_digest(Place(data=data).below_data(name))
        except SpecError:
            files[name] = "missing"
    return _hash((arm_hashes(plan), tuple(seeds), str(data), files))


def merged(recorded: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The sources of several runs as one; where runs disagree no hash is right, so that the table is stale."""
    union: dict[str, str] = {}
    for sources in recorded:
        if not sources:
            return {}
        for module, found in sources.items():
            union[module] = found if union.get(module, found) == found else CONFLICT
    return dict(sorted(union.items()))


def _hash(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:HASH_LENGTH]


def _decisive(value: Any) -> Any:
    """What of an arm decides its outcome, as plain containers."""
    if isinstance(value, Arm):
        phases = [dataclasses.astuple(phase) for phase in value.phases]
        specs = [_decisive(one) for one in (value.method, value.data, value.benchmark)]
        return [*specs, phases, sorted(value.keep), value.precision]
    if isinstance(value, Spec):
        return [value.target, [[name, _decisive(option)] for name, option in value.options]]
    if isinstance(value, WeightsOf):
        return ["weights", _decisive(value.arm), value.kept]
    if isinstance(value, list | tuple):
        return [_decisive(item) for item in value]
    if isinstance(value, dict):
        return [[repr(key), _decisive(item)] for key, item in sorted(value.items(), key=lambda pair: repr(pair[0]))]
    return repr(value)


def _data_files(value: Any) -> Iterator[str]:
    if isinstance(value, DataFile):
        yield value.path
    elif isinstance(value, Arm):
        yield from _data_files([value.method, value.data, value.benchmark])
    elif isinstance(value, Spec):
        yield from _data_files([option for _, option in value.options])
    elif isinstance(value, WeightsOf):
        yield from _data_files(value.arm)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _data_files(item)
    elif isinstance(value, dict):
        yield from _data_files(list(value.values()))
