"""The doctor's look at the store of runs, the committed tables and the data sets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from common.experiment.run_folder import LOCK, RunFolder
from common.experiment.sources import describe_changes
from common.files import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, DamagedFileError
from common.locks import is_locked
from common.manifest import damaged_files
from papers.doctor import Finding, Places, files_below, gigabytes, listed
from papers.registry import Paper, PaperError, find_papers
from papers.staleness import inspect_table

DIGEST = re.compile(r"[0-9a-f]{16}")


def store(places: Places) -> Iterator[Finding]:
    """Every run of the store, every byte of the finished ones."""
    folder = places.store / "runs"
    if not folder.is_dir():
        yield Finding("runs", "ok", f"{places.store} holds no runs yet")
        return
    found: dict[str, dict[str, str]] = {}
    for path in sorted(folder.iterdir()):
        status, why = RunFolder(path).judge(accept_stale=False) if DIGEST.fullmatch(path.name) else ("stray", "")
        if status in ("ok", "stale") and (wrong := damaged_files(path)):
            status, why = "damaged", "; ".join(f"{name} {reason}" for name, reason in wrong.items())
        found.setdefault(status, {})[path.name] = why
    size = sum(status.st_size for _, status in files_below(places.store))
    counted = ", ".join(f"{len(runs)} {status}" for status, runs in sorted(found.items()))
    yield Finding("runs", "ok", f"{counted or 'none'}; {gigabytes(size)} in {places.store}")
    for status, level, advice in (
        (
            "damaged",
            "bad",
            "the next make computes them again; unless an older version of the suite wrote them, look after the disk "
            "(smartctl, dmesg)",
        ),
        ("stale", "warn", "the next make computes them again; STALE=keep shows them, marked"),
        ("failed", "warn", f"state.json and log.txt in {folder}/<run> say why; the next make tries again"),
        ("interrupted", "warn", "no process holds them; the next make goes on where they stopped"),
        ("stray", "warn", f"not made by this suite: look at them in {folder}"),
    ):
        if runs := found.get(status):
            why = next((text for text in runs.values() if text), "")
            yield Finding("runs", level, f"{status}: {listed(list(runs))}" + (f" ({why})" if why else ""), advice)
    yield from _locks(places)


def _locks(places: Places) -> Iterator[Finding]:
    held = [path for path in places.store.glob(f"runs/*/{LOCK}") if is_locked(path)]
    held += [path for path in places.store.glob("locks/*") if is_locked(path)]
    if held:
        names = [path.parent.name if path.name == LOCK else path.name for path in held]
        yield Finding("locks", "ok", f"held by another command that is at work: {listed(names)}")


def temporary_files(places: Places) -> Iterator[Finding]:
    """What killed writers have left."""
    left = {
        str(path): status.st_size
        for root in (places.store, places.results)
        for path, status in files_below(root)
        if path.name.endswith(".part")
        or (path.name.startswith(TEMPORARY_PREFIX) and path.name.endswith(TEMPORARY_SUFFIX))
    }
    if left:
        what = f"{len(left)} unfinished files ({gigabytes(sum(left.values()))}): {listed(list(left))}"
        yield Finding("temporary files", "warn", what, "delete them when no command is running; nothing reads them")
    else:
        yield Finding("temporary files", "ok", "none are left over")


def tables(places: Places) -> Iterator[Finding]:
    """Committed tables: whole, and what the present code would make."""
    papers = find_papers()
    fine = there = 0
    for folder in sorted(path for path in places.results.glob("*") if path.is_dir()):
        if folder.name not in papers:
            yield Finding("results", "warn", f"{folder} belongs to no paper", "delete it if its paper is gone for good")
            continue
        for scale in papers[folder.name].scales:
            if (folder / scale).is_dir() or (folder / f"{scale}.json").exists():
                found = list(_table(papers[folder.name], scale, places.results))
                there, fine = there + 1, fine + (not found)
                yield from found
    yield Finding("results", "ok", f"{fine} of {there} tables are whole and what the present code would make")


def _table(paper: Paper, scale: str, results: Path) -> Iterator[Finding]:
    name, again = f"{paper.key} {scale}", f"make {paper.key} SCALE={scale}"
    if wrong := damaged_files(results / paper.key / scale):
        why = "; ".join(f"{file} {reason}" for file, reason in list(wrong.items())[:3])
        what = f"{name} is damaged: {why}" + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        yield Finding("results", "bad", what, f"git checkout -- {results / paper.key}, or {again}")
        return
    try:
        table = inspect_table(paper, scale, results)
    except DamagedFileError as error:
        yield Finding("results", "bad", f"{name} is damaged: {error}", again)
        return
    if table.stale:
        yield Finding("results", "warn", f"{name} is stale: {describe_changes(table.stale)}", again)
    elif table.outdated:
        yield Finding("results", "warn", f"{name} was judged before {describe_changes(table.outdated)}", "make redraw")


def registry(places: Places) -> Iterator[Finding]:
    """Every `paper.toml`."""
    try:
        yield Finding("papers", "ok", f"{len(find_papers())} found: {', '.join(find_papers())}")
    except PaperError as error:
        yield Finding("papers", "bad", str(error), "correct the file; no command works before")


def data(places: Places) -> Iterator[Finding]:
    """Data sets below the user's root, by the catalogue's own check."""
    from datasets import catalog

    if places.data is None:
        yield Finding("data", "ok", "no data root was given (DATA=/path); smoke, demo and lab need none")
        return
    if not places.data.is_dir():
        yield Finding(
            "data", "bad", f"the data root {places.data} is not there", "mount it, or give another: DATA=/path"
        )
        return
    states: dict[str, list[str]] = {}
    for entry in catalog.entries().values():
        try:
            status = catalog.inspect(entry, places.data)
        except OSError as error:
            yield Finding("data", "bad", f"{entry.key} cannot be read: {error}", "look after the disk or the mount")
            continue
        states.setdefault(status.state, []).append(entry.key)
        if status.state not in ("whole", "absent"):
            level = "warn" if status.state == "differs" else "bad"
            yield Finding(
                "data",
                level,
                f"{entry.key} {status.state}: {listed(list(status.notes))}",
                f"python -m datasets {entry.key}",
            )
    whole, absent = states.get("whole", []), states.get("absent", [])
    what = f"{places.data}: whole: {', '.join(whole) or 'none'}; absent: {len(absent)} of {len(catalog.entries())}"
    yield Finding("data", "ok", what)


CHECKS = (registry, store, temporary_files, tables, data)
