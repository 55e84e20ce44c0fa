"""Command line of the suite.

python -m papers <paper> [--scale demo] [--seeds 0,1,2] [--data /path] ...    reproduce a table
python -m papers list [--json]                                                what there is
python -m papers redraw [<paper> ...]                                         tables and plots from results/, nothing is trained
python -m papers.<paper> fit --help                                           train the method on your own data
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from common.experiment.spec import SpecError
from common.files import DamagedFileError, StorageError
from papers.registry import SCALES, PaperError, find_papers, get_paper, nearest

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("list", "redraw")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 all done, 1 a run failed, 2 bad usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["list"]:
            return _list(arguments[1:])
        if arguments[:1] == ["redraw"]:
            return _redraw(arguments[1:])
        return _reproduce(arguments)
    except (PaperError, SpecError, StorageError, DamagedFileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: finished runs are kept, the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m papers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paper", help="key of a paper (python -m papers list)")
    parser.add_argument("--scale", default="demo", help="smoke, demo (default), real, lab or paper")
    parser.add_argument("--seeds", type=_seeds, help="comma-separated seeds; default: the table's own")
    parser.add_argument("--data", type=Path, default=os.environ.get("DATA"), help="root of real data sets")
    parser.add_argument("--jobs", type=_positive, help="runs at a time; default: one a core, one on an accelerator")
    parser.add_argument("--threads", type=_positive, default=1, help="CPU threads of a run (default 1)")
    parser.add_argument("--devices", type=_positive, default=1, help="accelerators (or CPU processes) of a run")
    parser.add_argument("--nodes", type=_positive, default=1, help="machines of a run")
    parser.add_argument("--wandb", default="offline", choices=("offline", "online", "disabled"))
    parser.add_argument("--store", type=Path, default=ROOT / ".store", help="where runs are kept (default .store)")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="where tables go (default results)")
    return parser


def _reproduce(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.paper not in find_papers():
        raise PaperError(f"there is no paper '{options.paper}'{nearest(options.paper, [*find_papers(), *COMMANDS])}")
    paper = get_paper(options.paper)
    if options.scale not in SCALES:
        raise PaperError(f"there is no scale '{options.scale}'{nearest(options.scale, SCALES)}")
    if options.scale not in paper.scales:
        raise PaperError(f"{paper.key} has no scale '{options.scale}'; it has {', '.join(paper.scales)}")
    if options.data is not None and not Path(options.data).is_dir():
        raise PaperError(
            f"the data root {options.data} does not exist: give DATA= the folder that holds your data sets"
        )
    from papers.reproduce import reproduce  # imports torch: only now

    return reproduce(paper, options)


def _redraw(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m papers redraw")
    parser.add_argument("papers", nargs="*", help="keys; default: all")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    options = parser.parse_args(arguments)
    from papers.reproduce import redraw

    for key in options.papers or find_papers():
        redraw(get_paper(key), options.results)
    return 0


def _list(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m papers list")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    options = parser.parse_args(arguments)
    rows = []
    for paper in find_papers().values():
        tables = {scale: options.results / paper.key / f"{scale}.json" for scale in paper.scales}
        stored = {scale: json.loads(path.read_text()) for scale, path in tables.items() if path.exists()}
        rows.append(
            {
                "paper": paper.key,
                "title": paper.title,
                "year": paper.year,
                "family": paper.family,
                "basis": paper.basis,
                "scales": list(paper.scales),
                "run": list(stored),
                "verdicts": {
                    scale: {verdict["key"]: verdict["verdict"] for verdict in table["verdicts"]}
                    for scale, table in stored.items()
                },
            }
        )
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        _print_list(rows)
    return 0


def _print_list(rows: list[dict]) -> None:
    head = ("paper", "family", "basis", "scales run", "verdicts")
    lines = [head]
    for row in rows:
        run = ", ".join(scale if scale in row["run"] else f"({scale})" for scale in row["scales"])
        counted = []
        for scale, verdicts in row["verdicts"].items():
            words = list(verdicts.values())
            counted.append(f"{scale}: " + ", ".join(f"{words.count(word)} {word}" for word in sorted(set(words))))
        lines.append((row["paper"], row["family"], row["basis"], run, "; ".join(counted) or "-"))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print("\nscales in brackets have no committed result")


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of seeds such as 0,1,2") from None
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"'{text}': seeds are different whole numbers from 0 on")
    return seeds


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
