"""Command line of the suite.

python -m papers <paper> [--scale demo] [--seeds 0,1,2] [--data /path] ...    reproduce a table
python -m papers list [--json]                                                what there is
python -m papers redraw [<paper> ...]                                         tables and plots from results/, nothing is trained
python -m papers fairness [<paper> ...]                                       does compression hurt the already disadvantaged?
python -m papers doctor                                                       what is wrong here, and what to do about it
python -m papers.<paper> fit --help                                           train the method on your own data
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from common.experiment.cluster_options import SlurmError, SlurmOptions, require_slurm, slurm_options
from common.experiment.sources import describe_changes
from common.experiment.spec import SpecError
from common.files import DamagedFileError, StorageError
from papers.registry import SCALES, Paper, PaperError, find_papers, get_paper, nearest
from papers.staleness import TableState, inspect_table

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("list", "redraw", "fairness", "doctor")
STALE = ("renew", "keep")
LAUNCHERS = ("local", "slurm")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 all done, 1 a run failed, 2 bad usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["list"]:
            return _list(arguments[1:])
        if arguments[:1] == ["redraw"]:
            return _redraw(arguments[1:])
        if arguments[:1] == ["fairness"]:
            from papers.fairness import main as fairness

            return fairness(arguments[1:])
        if arguments[:1] == ["doctor"]:
            from papers.doctor import main as doctor

            return doctor(arguments[1:])
        return _reproduce(arguments)
    except (PaperError, SpecError, StorageError, DamagedFileError, SlurmError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever was reading has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as stop:
        then = str(stop) or "finished runs are kept, the same command goes on from here"
        print(f"\ninterrupted: {then}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m papers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paper", help="key of a paper (python -m papers list)")
    parser.add_argument("--scale", default="demo", help="smoke, demo (default), real, lab or paper")
    parser.add_argument("--seeds", type=_seeds, help="comma-separated seeds; default: the table's own")
    parser.add_argument(
        "--arms",
        type=str.split,
        help="names or patterns (lenet_*) of the rows to run now; of the others, the table shows what is finished",
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("DATA"), help="root of real data sets")
    parser.add_argument("--jobs", type=_positive, help="runs at a time; default: one a core, one on an accelerator")
    parser.add_argument(
        "--threads",
        type=_threads,
        default=1,
        help="CPU threads of a run, or auto: the cores shared out among the runs (default 1; the last bits of a number "
        "depend on it, so that results are compared at the same one)",
    )
    parser.add_argument("--devices", type=_positive, default=1, help="accelerators (or CPU processes) of a run")
    parser.add_argument("--nodes", type=_positive, default=1, help="machines of a run")
    parser.add_argument("--launch", default="local", help=f"where runs are computed: {', '.join(LAUNCHERS)}")
    slurm = parser.add_argument_group("with --launch slurm")
    slurm.add_argument("--partition", help="partition of the jobs; default: the cluster's")
    slurm.add_argument("--account", help="account that is charged")
    slurm.add_argument(
        "--time", help="limit of one job in minutes or [days-]hours:minutes:seconds; longer runs are requeued"
    )
    slurm.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="qos, mem, gpus (a node), parallel (jobs of an array at a time), requeues (at most), warning (seconds before the "
        "limit), or any option of sbatch; may be repeated",
    )
    parser.add_argument(
        "--stale",
        default="renew",
        help="results of code that has changed since: renew (default) computes them again, keep shows them, marked",
    )
    parser.add_argument(
        "--checkpoint-every",
        type=_seconds,
        default=30.0,
        help="seconds between checkpoints, the most that a kill costs",
    )
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
    for name, value, known in (("STALE", options.stale, STALE), ("LAUNCH", options.launch, LAUNCHERS)):
        if value not in known:
            raise PaperError(f"{name} cannot be '{value}'{nearest(value, known)}")
    if options.data is not None and not Path(options.data).is_dir():
        raise PaperError(
            f"the data root {options.data} does not exist: give DATA= the folder that holds your data sets"
        )
    slurm = _slurm(options)
    from papers.reproduce import reproduce  # imports torch: only now

    return reproduce(paper, options, slurm)


def _slurm(options: argparse.Namespace) -> SlurmOptions | None:
    """How to submit jobs; None where the runs are computed here."""
    if options.launch != "slurm":
        if options.partition or options.account or options.time or options.slurm:
            raise PaperError("PARTITION, ACCOUNT, TIME and SLURM say how jobs are submitted: give LAUNCH=slurm too")
        return None
    if options.threads == "auto":
        raise PaperError("THREADS=auto shares out the cores of this machine: with LAUNCH=slurm give a number")
    require_slurm()
    settings = [f"parallel={options.jobs}"] * bool(options.jobs) + options.slurm
    return slurm_options(options.partition, options.account, options.time, settings)


def _redraw(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m papers redraw")
    parser.add_argument("papers", nargs="*", help="keys; default: all")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--store", type=Path, default=ROOT / ".store")
    options = parser.parse_args(arguments)
    from common.experiment.store import Store
    from papers.drawing import redraw

    store = Store(options.store)
    for key in options.papers or find_papers():
        redraw(get_paper(key), options.results, store)
    return 0


def _list(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m papers list")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    options = parser.parse_args(arguments)
    rows = [_row(paper, options.results) for paper in find_papers().values()]
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        _print_list(rows)
    return 0


def _row(paper: Paper, results: Path) -> dict[str, Any]:
    """One paper of the list: what it is, which scales have a table, and whether these are what the code would make now."""
    tables: dict[str, TableState] = {}
    damaged: dict[str, str] = {}
    for scale in paper.scales:
        if (results / paper.key / f"{scale}.json").exists():
            try:
                tables[scale] = inspect_table(paper, scale, results)
            except DamagedFileError as error:
                damaged[scale] = str(error)
    return {
        "paper": paper.key,
        "title": paper.title,
        "year": paper.year,
        "family": paper.family,
        "basis": paper.basis,
        "scales": list(paper.scales),
        "run": [scale for scale in paper.scales if scale in tables or scale in damaged],
        "verdicts": {scale: dict(table.verdicts) for scale, table in tables.items()},
        "stale": {scale: table.stale for scale, table in tables.items() if table.stale},
        "outdated": {scale: table.outdated for scale, table in tables.items() if table.outdated},
        "damaged": damaged,
    }


def _print_list(rows: list[dict[str, Any]]) -> None:
    head = ("paper", "family", "basis", "scales run", "verdicts")
    lines = [head]
    for row in rows:
        run = ", ".join(scale if scale in row["run"] else f"({scale})" for scale in row["scales"])
        said = "; ".join(_say_scale(row, scale) for scale in row["run"])
        lines.append((row["paper"], row["family"], row["basis"], run, said or "-"))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print("\nscales in brackets have no committed result")


def _say_scale(row: dict[str, Any], scale: str) -> str:
    """`demo: 2 hold, 6 inconclusive, stale: common.cost changed`."""
    if scale in row["damaged"]:
        return f"{scale}: damaged ({row['damaged'][scale]})"
    words = list(row["verdicts"][scale].values())
    said = [f"{words.count(word)} {word}" for word in sorted(set(words))]
    if scale in row["stale"]:
        said.append(f"stale: {describe_changes(row['stale'][scale])}")
    elif scale in row["outdated"]:
        said.append(f"outdated: {describe_changes(row['outdated'][scale])}, make redraw judges again")
    return f"{scale}: {', '.join(said) or 'no claims'}"


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


def _threads(text: str) -> int | str:
    return text if text == "auto" else _positive(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds from 0 on")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
