"""The source fingerprint of a run: which modules decide its numbers, each with a hash of what it says.

Followed by name: from the classes that the run's specs name and from the engine, through every import, to the module that
defines what is imported. A package that only passes names on is not hashed as a whole, so a new head in a new file leaves
the runs that use ArcFace alone. A name looked up at run time (`getattr(heads, name)`) is every exported name that occurs as
a string in the run's specs or in a module that was reached; where none does, all of them.

A key is a module, or `package:name,name` for the names that were followed through a package; the hash of the latter says
where they come from. Code that runs at import beside what is followed is not seen, so modules have none, and data files
that decide numbers are not looked at: there are none (tests/common/test_sources.py watches both).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.experiment.source_hash import HASH_LENGTH, source_hash
from common.experiment.source_reach import NEUTRAL, Reached
from common.experiment.source_tree import PACKAGES, SourceTree

if TYPE_CHECKING:
    from common.experiment.arm import Run

__all__ = [
    "EDITED",
    "ENGINE",
    "HASH_LENGTH",
    "NEUTRAL",
    "UNRECORDED",
    "bytes_of",
    "changed_modules",
    "describe_changes",
    "sources_of",
    "sources_of_run",
    "with_parents",
]
ROOT = Path(__file__).resolve().parents[2]
ENGINE = ("common.experiment.run", "common.experiment.phases", "common.experiment.callbacks")
UNRECORDED = "sources were not recorded"
EDITED = "edited while it ran"  # stands for the hash of a module whose file is no longer what this process has loaded
_NAME = r"[^\W\d]\w{0,99}"
_KEY = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.{_NAME}){{0,9}}(?::(?:{_NAME}|\*)(?:,{_NAME}){{0,999}})?", re.ASCII)


def _read_all(root: Path) -> dict[Path, bytes]:
    found = {}
    for package in PACKAGES:
        for path in (root / package).rglob("*.py"):
            with contextlib.suppress(OSError):  # an editor is just replacing it: it is read when it is needed
                found[path] = path.read_bytes()
    return found


_AT_START = _read_all(ROOT)  # what this process has loaded or will load; a few milliseconds


def sources_of(targets: Iterable[str], strings: Iterable[str] = (), root: Path = ROOT) -> dict[str, str]:
    """Every module that what `targets` name is made of, with its hash.

    Args:
        targets: class paths (`"common.backbones.MobileFaceNet"`) or modules; what lies outside our packages is passed over.
        strings: words by which names may be chosen at run time (`"ArcFace"`).
        root: the checkout.

    Returns:
        key -> 16 hex digits, sorted by key; `EDITED` for a module whose file has changed since this process started.

    Raises:
        LookupError: a target in our packages does not exist.
        SyntaxError: a module is no Python.
    """
    reached = Reached(SourceTree(root), strings)
    for target in targets:
        if target.partition(".")[0] in PACKAGES:
            reached.add_path(target)
    reached.finish()
    return {key: _hash_as_loaded(reached.tree, key) for key in reached.recorded()}


def sources_of_run(run: Run, root: Path = ROOT) -> dict[str, str]:
    """`sources_of` the engine and everything that a run's specs name, its parents' specs included."""
    words = list(_words(run.arm)) + [word for parent in run.parents for word in _words(parent.arm)]
    targets = {word for is_target, word in words if is_target}
    return sources_of([*ENGINE, *sorted(targets)], {word for is_target, word in words if not is_target}, root)


def with_parents(sources: Mapping[str, str], parents: Iterable[Mapping[str, str] | None]) -> dict[str, str]:
    """The sources of a run that starts from results which may be kept although other code has made them.

    Args:
        sources: of the run, as `sources_of_run` gives them.
        parents: what the results of its parents recorded.

    Returns:
        `sources`, with a parent's hash wherever that is another one: the child of a stale result is stale from its birth.
    """
    together = dict(sources)
    for recorded in parents:
        together |= recorded or {UNRECORDED: ""}
    return together


def bytes_of(recorded: Mapping[str, str], root: Path = ROOT) -> dict[str, str]:
    """Hashes of the bytes of those recorded modules that say today what they said then: `changed_modules` is fast with them."""
    tree = SourceTree(root)
    return {key: tree.bytes_hash(key) for key, found in recorded.items() if _hash_now(tree, key) == found}


def changed_modules(
    recorded: Mapping[str, str], root: Path = ROOT, unchanged: Mapping[str, str] | None = None
) -> list[str]:
    """Which of the recorded modules are gone or say something else now; empty when none is.

    Args:
        recorded: what `sources_of` gave. Nothing in it is trusted: what is no module of ours counts as changed. Where
            nothing is recorded the answer is `[UNRECORDED]`.
        root: the checkout.
        unchanged: what `bytes_of` gave for the same record; a file of these bytes need not be parsed.
    """
    if not isinstance(recorded, Mapping) or not recorded:
        return [UNRECORDED]
    tree, known = SourceTree(root), unchanged or {}
    return sorted(
        {
            _shown(key)
            for key, found in recorded.items()
            if not _has_bytes(tree, key, known.get(key)) and (found is None or _hash_now(tree, key) != found)
        }
    )


def describe_changes(changed: Iterable[str]) -> str:
    """The answer of `changed_modules` in words: `common.cost and 2 more changed`; empty when nothing has."""
    names = list(changed)
    if UNRECORDED in names:
        return "made before sources were recorded"
    return f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} changed" if names else ""


def _shown(key: object) -> str:
    """A recorded key for a person: the module, printable and short also where it is a stranger's."""
    text = str(key).partition(":")[0]
    return text if text == UNRECORDED or _KEY.fullmatch(text) else ascii(text[:60])


def _has_bytes(tree: SourceTree, key: object, known: str | None) -> bool:
    if known is None or not isinstance(key, str) or not _KEY.fullmatch(key):
        return False
    try:
        return tree.bytes_hash(key) == known
    except (LookupError, OSError):
        return False


def _hash_now(tree: SourceTree, key: object) -> str | None:
    """Hash of a recorded key today; None when it names no module of ours, or one that is no Python."""
    if not isinstance(key, str) or len(key) > 10_000 or not _KEY.fullmatch(key):
        return None
    try:
        return tree.hash_of(key)
    except (SyntaxError, OSError):
        return None


def _hash_as_loaded(tree: SourceTree, key: str) -> str:
    """Hash of a key, or `EDITED` when the file says something else than when this process started."""
    found, path = tree.hash_of(key), tree.file(key.partition(":")[0])
    assert found is not None
    assert path is not None
    now = path.read_bytes()
    before = _AT_START.setdefault(path, now)
    return found if before == now or source_hash(before) == source_hash(now) else EDITED


def _words(value: Any) -> Iterator[tuple[bool, str]]:
    """Every class path (True, path) and every other string (False, word) of an arm: its specs and its parents' specs."""
    from common.experiment.arm import Arm
    from common.experiment.spec import Spec, WeightsOf

    if isinstance(value, Arm):
        yield from _words([value.method, value.data, value.benchmark])
    elif isinstance(value, Spec):
        yield True, value.target
        yield from _words(value.options)
    elif isinstance(value, WeightsOf):
        yield from _words(value.arm)
    elif isinstance(value, str):
        yield False, value
    elif isinstance(value, dict):
        yield from _words([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _words(item)
