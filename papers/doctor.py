"""`make doctor`: what is wrong on this machine, and what to do about it.

python -m papers doctor [--data /path] [--store /path] [--results /path] [--json]

Works with nothing but Python: without the environment it says that this is what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEVELS = ("ok", "warn", "bad")
STYLES = {"ok": "green", "warn": "yellow", "bad": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        area: what it is part of. level: one of `LEVELS`.
        what: what was found. advice: what to do about it; empty when there is nothing to do.
    """

    area: str
    level: str
    what: str
    advice: str = ""


@dataclass(frozen=True)
class Places:
    """Folders that are looked at; `data` is None when nobody said where data lie."""

    store: Path
    results: Path
    data: Path | None = None


Check = Callable[[Places], Iterator[Finding]]


def main(arguments: list[str] | None = None) -> int:
    """Look at everything and print it; 0 when nothing is bad, else 1."""
    parser = argparse.ArgumentParser(prog="python -m papers doctor", description="What is wrong here and what to do.")
    parser.add_argument("--data", type=Path, default=os.environ.get("DATA"), help="root of real data sets")
    parser.add_argument("--store", type=Path, default=ROOT / ".store", help="where runs are kept (default .store)")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="where tables go (default results)")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    data = Path(options.data).expanduser() if options.data else None
    findings = examine(Places(options.store, options.results, data))
    if options.json:
        print(json.dumps({"worst": worst(findings), "findings": [asdict(one) for one in findings]}, indent=1))
    elif sys.stdout.isatty() and importlib.util.find_spec("rich"):
        _print_rich(findings)
    else:
        _print_plain(findings)
    return 1 if worst(findings) == "bad" else 0


def examine(places: Places, checks: tuple[Check, ...] | None = None) -> list[Finding]:
    """Run every check; one that breaks is itself a finding, and the others go on."""
    from papers import doctor_environment, doctor_machine, doctor_results

    chosen = checks or (*doctor_environment.CHECKS, *doctor_machine.CHECKS, *doctor_results.CHECKS)
    findings: list[Finding] = []
    for check in chosen:
        try:
            findings += check(places)
        except Exception as error:  # the machine may be in any state: this is where one learns in which
            area = check.__name__.replace("_", " ")
            why = f"could not be looked at: {type(error).__name__}: {error}"
            findings.append(Finding(area, "bad", why, "repair what the message names, then call the doctor again"))
    return findings


def worst(findings: list[Finding]) -> str:
    """The worst level of all."""
    return max((one.level for one in findings), key=LEVELS.index, default="ok")


def gigabytes(size: float) -> str:
    """`12.3 GB`."""
    return f"{size / 1e9:.1f} GB"


def files_below(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file below a folder that is still there when it is looked at; links are not followed."""
    for folder, _, names in os.walk(root):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a command that is at work has just replaced it
                yield Path(folder, name), os.lstat(os.path.join(folder, name))


def listed(names: list[str], shown: int = 3) -> str:
    """The first names and how many more there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _summary(findings: list[Finding]) -> str:
    counts = {level: sum(one.level == level for one in findings) for level in LEVELS}
    if counts["bad"]:
        return f"{counts['bad']} bad, {counts['warn']} to look at, {counts['ok']} fine"
    return f"nothing is bad: {counts['warn']} to look at, {counts['ok']} fine"


def _print_plain(findings: list[Finding]) -> None:
    width = max(len(one.area) for one in findings)
    for one in findings:
        print(f"{one.level:4}  {one.area:{width}}  {one.what}")
        if one.advice:
            print(f"{'':4}  {'':{width}}  -> {one.advice}")
    print(f"\n{_summary(findings)}")


def _print_rich(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for one in findings:
        text = Text(one.what)
        if one.advice:
            text.append(f"\n-> {one.advice}", style=STYLES[one.level])
        table.add_row(Text(one.level, style=STYLES[one.level]), one.area, text)
    console = Console()
    console.print(table)
    console.print(f"\n{_summary(findings)}", style=STYLES[worst(findings)], highlight=False)
