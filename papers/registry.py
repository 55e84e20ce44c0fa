"""Which papers there are: every folder here that holds a `paper.toml`. Imports nothing heavy, so listing is instant."""

from __future__ import annotations

import difflib
import math
import re
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
BASES = ("code", "text", "reconstruction")
FAMILIES = ("quantization", "distillation", "pruning", "bias study")
FIELDS = {"title": str, "family": str, "year": int, "basis": str, "scales": list}
ENTRY = {"row": (str,), "metric": (str,), "value": (int, float), "unit": (str,), "source": (str,), "verified": (bool,)}
DEEP_KEY = re.compile(r"(?:\.[ \t]*[\w\"'-]+[ \t]*){32}")
LONGEST_WORD, MOST_WORDS = 100, 50  # what is compared with each other, and shown, to answer a mistyped word
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
    words = [name for name in known if len(name) <= LONGEST_WORD][:MOST_WORDS]
    close = difflib.get_close_matches(word[:LONGEST_WORD], words, 1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(words)}"


def read_paper(path: Path) -> Paper:
    """Parse and check one `paper.toml`.

    Raises:
        PaperError: it is not TOML, or a field is missing or has a value that the suite does not know.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if DEEP_KEY.search(text):  # Python's parser takes quadratic time for such a key
            raise ValueError("a key has more than 32 parts")
        fields = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # Python's own limits on numbers and nesting are no TOMLDecodeError
        raise PaperError(f"{path} cannot be read: {error}") from error
    missing = [name for name in FIELDS if name not in fields]
    if missing:
        raise PaperError(f"{path} lacks {', '.join(missing)}")
    for name, kind in FIELDS.items():
        if type(fields[name]) is not kind:
            raise PaperError(f"{path}: {name} is {_shown(fields[name])}, expected {kind.__name__}")
    for name, known in (("family", FAMILIES), ("basis", BASES)):
        if fields[name] not in known:
            raise PaperError(f"{path}: {name} = {_shown(fields[name])}{nearest(fields[name], known)}")
    for scale in fields["scales"]:
        if scale not in SCALES:
            raise PaperError(f"{path}: scale {_shown(scale)}{nearest(str(scale), SCALES)}")
    reported = _entries(path, fields)
    return Paper(
        key=path.parent.name,
        title=fields["title"],
        family=fields["family"],
        year=fields["year"],
        basis=fields["basis"],
        scales=tuple(fields["scales"]),
        reported=reported,
        fields=fields,
    )


def _entries(path: Path, fields: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """The reported numbers, each with the text that its `source` names in `[sources]`."""
    sources, entries = fields.get("sources", {}), fields.get("reported", [])
    if not isinstance(sources, dict) or not isinstance(entries, list):
        raise PaperError(f"{path}: expected a table [sources] and a list of reported numbers")
    found = []
    for entry in entries:
        lacking = [name for name in ENTRY if not isinstance(entry, dict) or name not in entry]
        if lacking:
            raise PaperError(f"{path}: the reported number {_shown(entry)} lacks {', '.join(lacking)}")
        for name, kinds in ENTRY.items():
            if type(entry[name]) not in kinds or entry[name] != entry[name] or entry[name] in (math.inf, -math.inf):
                raise PaperError(f"{path}: the reported number {_shown(entry)} has the {name} {_shown(entry[name])}")
        if entry["source"] not in sources:
            raise PaperError(f"{path}: source {_shown(entry['source'])}{nearest(entry['source'], sources)}")
        found.append({**entry, "source": str(sources[entry["source"]])})
    return tuple(found)


def _shown(value: Any) -> str:
    """A value in a message, cut to a line."""
    return textwrap.shorten(repr(value), 100)
