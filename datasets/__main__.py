"""`python -m datasets [NAME ...] [--root DIR] [--json]`: the catalog of data sets and what of it is on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from datasets import catalog

MARKS = {"whole": "[whole]", "differs": "[differs]", "incomplete": "[incomplete]", "absent": "[absent]"}


def main(arguments: list[str] | None = None) -> int:
    """Print the catalog; 0, or 2 for an unknown name or a root that is not a folder."""
    parser = argparse.ArgumentParser(prog="python -m datasets", description="The data sets that the suite can read.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these sets, in full")
    parser.add_argument("--root", help="data root to look in, e.g. ~/data; without it nothing is looked for")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    try:
        chosen = [catalog.find(name) for name in options.names] or list(catalog.entries().values())
    except KeyError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    if options.root is not None and not Path(options.root).expanduser().is_dir():
        print(f"The data root {options.root} is not a folder.", file=sys.stderr)
        return 2
    statuses = {e.key: catalog.inspect(e, options.root) for e in chosen} if options.root else {}
    if options.json:
        found = {k: {"state": s.state, "notes": s.notes} for k, s in statuses.items()}
        print(json.dumps([asdict(e) | ({"found": found[e.key]} if e.key in found else {}) for e in chosen], indent=2))
        return 0
    for entry in chosen:
        print(text(entry, statuses.get(entry.key), full=bool(options.names)))
    return 0


def text(entry: catalog.Entry, status: catalog.Status | None, full: bool) -> str:
    """One set as text: two lines, or all that is known."""
    mark = f" {MARKS[status.state]}" if status else ""
    lines = [f"{entry.key:18} {entry.title}{mark}", f"{'':18} {entry.what}"]
    if full:
        reader = entry.reader or "none yet"
        withdrawn = " (no longer given out)" if entry.withdrawn else ""
        lines += [
            f"  from    {entry.institution}{withdrawn}",
            f"  terms   {entry.terms}",
            f"  how     {entry.obtain}",
            f"  reader  {reader}",
            "  tree    " + "\n          ".join(f"{entry.folder}/{line}" for line in entry.tree),
        ]
    if status:
        lines += [f"{'':18} ! {note}" for note in status.notes if full or status.state != "absent"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
