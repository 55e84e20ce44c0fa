"""Which data sets the suite knows: what they are, under which terms, how to get them, and whether they are there.

    python -m datasets --root ~/data          # what is there, what is missing
    python -m datasets rfw --root ~/data      # one set: who gives it out, the expected tree
    python -m datasets --json

Nothing here downloads, and nothing here imports torch.
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from datasets.errors import DatasetNotFound


@dataclass(frozen=True)
class Count:
    """Expectation on the number of files that match a pattern, or of lines or bytes of one file."""

    pattern: str
    expected: int
    unit: str = "files"  # "files", or "lines" or "bytes" of the one file that `pattern` names


@dataclass(frozen=True)
class Entry:
    """One data set.

    Attributes:
        key: name on the command line.
        title: full name.
        what: one sentence: content, size, identities, groups.
        institution: who gives it out.
        terms: under which conditions, as far as they are known.
        obtain: how to get it.
        folder: where it lies under the data root.
        tree: the files the reader expects, relative to `folder`.
        required: paths relative to `folder` without which it is not there (globs are allowed).
        counts: expectations; another number is reported, never an error (releases differ).
        checksums: md5 by path, of files that exist in one form only.
        reader: import path of the reader, "" where there is none yet.
        withdrawn: True where the maker no longer gives it out.
        other_forms: paths under the data root, each of which holds the set as well (an archive, another version), and
            their md5, "" where none was published.
        bundled: the Python package that brings the set along; nothing has to be under the data root then.
    """

    key: str
    title: str
    what: str
    institution: str
    terms: str
    obtain: str
    folder: str
    tree: tuple[str, ...]
    required: tuple[str, ...]
    counts: tuple[Count, ...] = ()
    checksums: dict[str, str] = field(default_factory=dict)
    reader: str = ""
    withdrawn: bool = False
    other_forms: dict[str, str] = field(default_factory=dict)
    bundled: str = ""


@dataclass(frozen=True)
class Status:
    """What was found of one data set: state is "absent", "incomplete", "differs" or "whole"; notes say why."""

    key: str
    state: str
    notes: tuple[str, ...]


def entries() -> dict[str, Entry]:
    """All data sets by key, in the order in which they are listed."""
    from datasets.catalog_entries import ENTRIES

    return {entry.key: entry for entry in ENTRIES}


def find(key: str) -> Entry:
    """The data set of that name.

    Raises:
        KeyError: no such data set; the message suggests the nearest names.
    """
    known = entries()
    if key in known:
        return known[key]
    near = difflib.get_close_matches(key.lower(), known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`python -m datasets` lists all of them."
    raise KeyError(f"There is no data set {key!r} in the catalog. {hint}")


def not_found(key: str, missing: str | Path) -> DatasetNotFound:
    """The error for a file of data set `key` that is not where it should be."""
    entry = find(key)
    tree = "\n".join(f"    {entry.folder}/{line}" for line in entry.tree)
    withdrawn = " It is no longer given out by its makers." if entry.withdrawn else ""
    return DatasetNotFound(
        f"{entry.title} is not there: {missing} does not exist. It comes from {entry.institution} ({entry.terms}); "
        f"{entry.obtain}{withdrawn} Expected under the data root:\n{tree}\nNothing is downloaded by itself."
    )


def require(key: str, path: str | Path) -> Path:
    """`path`, made absolute (~ expanded).

    Raises:
        DatasetNotFound: it does not exist.
    """
    full = Path(path).expanduser()
    if not full.exists():
        raise not_found(key, full)
    return full


def inspect(entry: Entry, root: str | Path) -> Status:
    """Look for a data set under the data root (or in a package): required files, counts, checksums."""
    if entry.bundled:
        there = find_spec(entry.bundled) is not None
        return Status(entry.key, *(("whole", ()) if there else ("absent", (f"{entry.bundled} is not installed",))))
    base = Path(root).expanduser() / entry.folder
    if not base.is_dir():
        return _other_form(entry, Path(root).expanduser()) or Status(entry.key, "absent", (f"no folder {base}",))
    missing = [pattern for pattern in entry.required if next(base.glob(pattern), None) is None]
    if missing:
        return Status(entry.key, "incomplete", tuple(f"missing: {base / pattern}" for pattern in missing))
    notes = []
    for count in entry.counts:
        found = _count(base, count)
        if found is not None and found != count.expected:
            notes.append(f"{count.pattern}: {found} {count.unit}, published are {count.expected}")
    for name, expected in entry.checksums.items():
        if (base / name).is_file() and md5(base / name) != expected:
            notes.append(f"{name}: md5 differs from the published {expected}")
    return Status(entry.key, "differs" if notes else "whole", tuple(notes))


def _other_form(entry: Entry, root: Path) -> Status | None:
    for name, expected in entry.other_forms.items():
        path = root / name
        if path.is_dir():
            return Status(entry.key, "whole", (f"in {path}",))
        if path.is_file():
            if expected and md5(path) != expected:
                return Status(entry.key, "differs", (f"{path}: md5 differs from the published {expected}",))
            return Status(entry.key, "whole", (f"in {path}",))
    return None


def _count(base: Path, count: Count) -> int | None:
    if count.unit == "files":
        return sum(1 for _ in base.glob(count.pattern))
    path = base / count.pattern
    if not path.is_file():
        return None
    if count.unit == "bytes":
        return path.stat().st_size
    data = path.read_bytes()
    return data.count(b"\n") + (1 if data and not data.endswith(b"\n") else 0)


def md5(path: Path) -> str:
    """Checksum in the form in which the data sets' makers publish it (identification, not security)."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
