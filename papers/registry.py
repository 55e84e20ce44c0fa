"""Which papers there are: every folder here that holds a `paper.toml`. Imports nothing heavy, so listing is instant."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
BASES = ("code", "text", "reconstruction")
FAMILIES = ("quantization", "distillation", "pruning", "bias study")
SCALES = ("smoke", "demo", "real", "lab", "paper")


class PaperError(ValueError):
    """A paper is unknown, or its `paper.toml` is not what it should be."""


@dataclass(frozen=True)
class Paper:
    """What `paper.toml` says.

    Attributes:
        key: name of the folder, the import package and the Make target.
        title, family, year: as published; family is one of `FAMILIES`.
        basis: what our specification rests on: `code`, `text` or `reconstruction`.
        scales: the scales that `table.py` offers, smallest first.
        reported: the paper's own numbers: `row`, `metric`, `value`, `unit`, `source` (where it was read), `verified` each.
        fields: the whole file.
    """

    key: str
    title: str
    family: str
    year: int
    basis: str
    scales: tuple[str, ...]
    reported: tuple[dict[str, Any], ...]
    fields: dict[str, Any]


def find_papers(root: Path = ROOT) -> dict[str, Paper]:
    """All papers by key, in alphabetical order.

    Raises:
        PaperError: a `paper.toml` is damaged or lacks a field.
    """
    return {path.parent.name: read_paper(path) for path in sorted(root.glob("*/paper.toml"))}


def get_paper(key: str, root: Path = ROOT) -> Paper:
    """One paper.

    Raises:
        PaperError: there is no such paper (the message names the nearest).
    """
    papers = find_papers(root)
    if key not in papers:
        raise PaperError(f"there is no paper '{key}'{nearest(key, papers)}")
    return papers[key]


def nearest(word: str, known: Any) -> str:
    """`; did you mean 'x'?` for a mistyped word, or the list of known ones."""
    close = difflib.get_close_matches(word, known, 1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(known)}"


def read_paper(path: Path) -> Paper:
    """Parse and check one `paper.toml`.

    Raises:
        PaperError: it is not TOML, or a field is missing or has a value that the suite does not know.
    """
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PaperError(f"{path} cannot be read: {error}") from error
    missing = [name for name in ("title", "family", "year", "basis", "scales") if name not in fields]
    if missing:
        raise PaperError(f"{path} lacks {', '.join(missing)}")
    for name, known in (("family", FAMILIES), ("basis", BASES)):
        if fields[name] not in known:
            raise PaperError(f"{path}: {name} = '{fields[name]}'{nearest(str(fields[name]), known)}")
    for scale in fields["scales"]:
        if scale not in SCALES:
            raise PaperError(f"{path}: scale '{scale}'{nearest(str(scale), SCALES)}")
    for entry in fields.get("reported", []):
        lacking = [name for name in ("row", "metric", "value", "unit", "source", "verified") if name not in entry]
        if lacking:
            raise PaperError(f"{path}: the reported number {entry} lacks {', '.join(lacking)}")
    return Paper(
        key=path.parent.name,
        title=str(fields["title"]),
        family=str(fields["family"]),
        year=int(fields["year"]),
        basis=str(fields["basis"]),
        scales=tuple(fields["scales"]),
        reported=tuple({**entry, "source": _source(path, fields, entry)} for entry in fields.get("reported", [])),
        fields=fields,
    )


def _source(path: Path, fields: dict[str, Any], entry: dict[str, Any]) -> str:
    """Where a number was read: the text that its `source` names in `[sources]`."""
    sources = fields.get("sources", {})
    if entry["source"] not in sources:
        raise PaperError(f"{path}: source '{entry['source']}'{nearest(str(entry['source']), sources)}")
    return str(sources[entry["source"]])
