"""From a paper and a scale to a judged table: plan, launch, publish, judge, draw, print."""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from common.experiment.arm import Run, TablePlan, plan_runs
from common.experiment.judge import Verdict, judge
from common.experiment.records import load_records, seal_results
from common.experiment.render import to_csv, to_latex, to_markdown
from common.experiment.store import Store
from common.experiment.table import Table, build_table
from common.experiment.terminal import print_table
from common.files import read_json, write_atomically, write_json_atomically
from papers.registry import Paper

ROOT = Path(__file__).resolve().parents[1]
RUN_FILE = re.compile(r"[0-9a-f]{16}\.(json|npz)|pairs-[0-9a-f]{12}\.npz")


def reproduce(paper: Paper, options: argparse.Namespace) -> int:
    """Run what is missing of a table and print it; returns the exit status (0 all runs ok, 1 some are not)."""
    first = int(os.environ.get("LOCAL_RANK", 0)) + int(os.environ.get("NODE_RANK", 0)) == 0  # of several devices
    console = Console(width=None if sys.stdout.isatty() else 120, quiet=not first)
    plan = load_plan(paper, options.scale)
    seeds = options.seeds or plan.seeds
    data = Path(options.data).resolve() if options.data else None
    key = plan_key(paper, plan, seeds, data, options.devices * options.nodes)
    console.print(f"[bold]{paper.title}[/bold] ({paper.key}, scale {options.scale}): {plan.data_note}", highlight=False)
    path = options.results / paper.key / f"{options.scale}.json"
    if path.exists() and _is_current(read_json(path), key, options.store):
        console.print("every run is in the store and nothing has changed since: nothing to train", highlight=False)
        print_table(console, *draw(paper, plan, options.scale, options.results))
        return 0
    runs, statuses = _launch(console, paper, plan, seeds, data, options)
    if not first:
        return 0
    _publish(paper, plan, runs, statuses, options, key)
    table, verdicts = draw(paper, plan, options.scale, options.results)
    _track(paper, options.scale, options.wandb, options.store, table, options.results)
    print_table(console, table, verdicts)
    console.print(f"written: {path.with_suffix('')}.{{json,md,csv,tex,svg}}", highlight=False)
    return _exit_status(console, runs, statuses, options.store)


def _exit_status(console: Console, runs: Sequence[Run], statuses: dict[str, str], store: Path) -> int:
    """0 when every run is ok; else say which are not and where they say why."""
    bad = [run for run in runs if statuses[run.digest] != "ok"]
    for run in bad:
        where = store / "runs" / run.digest
        console.print(f"{run.label}: {statuses[run.digest]} (see {where}/state.json and log.txt)", highlight=False)
    return 1 if bad else 0


def load_plan(paper: Paper, scale: str) -> TablePlan:
    """What the paper's `table.py` says for a scale."""
    plan: TablePlan = importlib.import_module(f"papers.{paper.key}.table").plan(scale)
    return plan


def plan_key(paper: Paper, plan: TablePlan, seeds: Sequence[int], data: Path | None, world: int) -> str:
    """Hash of the plan and of the source code behind it: equal keys mean that nothing would be computed differently."""
    digest = hashlib.sha256(repr((plan, tuple(seeds), str(data), world)).encode())
    for folder in (ROOT / "common", ROOT / "datasets", ROOT / "papers" / paper.key):
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _is_current(table: dict[str, Any], key: str, store_root: Path) -> bool:
    store = Store(store_root)
    same = table.get("plan") == key
    return same and all(store.status(run["digest"]) == "ok" for run in table["runs"])


def _launch(
    console: Console,
    paper: Paper,
    plan: TablePlan,
    seeds: Sequence[int],
    data: Path | None,
    options: argparse.Namespace,
) -> tuple[list[Run], dict[str, str]]:
    from common.experiment.launch import default_jobs, launch
    from common.experiment.phases import Machine
    from common.experiment.progress import TerminalWatcher

    machine = Machine(
        data=data,
        threads=options.threads,
        devices=options.devices,
        nodes=options.nodes,
        tracking=options.wandb,
        paper=paper.key,
        scale=options.scale,
    )
    runs = plan_runs(plan.arms, seeds, data, machine.world)
    watcher = TerminalWatcher(console)
    try:
        return runs, launch(runs, Store(options.store), machine, options.jobs or default_jobs(options.threads), watcher)
    finally:
        watcher.close()


def _publish(
    paper: Paper,
    plan: TablePlan,
    runs: Sequence[Run],
    statuses: dict[str, str],
    options: argparse.Namespace,
    key: str,
) -> None:
    """Copy the small files of the table's runs to the results folder and say in `<scale>.json` which they are."""
    folder = options.results / paper.key / options.scale
    rows = {arm.name for arm in plan.arms}
    listed = [run for run in runs if run.arm.name in rows]
    for run in listed:
        Store(options.store).publish(run.digest, folder, run.arm.name, run.arm.title, run.seed)
    used = {f"{run.digest}.{ending}" for run in listed for ending in ("json", "npz")}
    for run in listed:
        used |= {f"pairs-{name}.npz" for name in read_json(folder / f"{run.digest}.json").get("pairs", {}).values()}
    for path in folder.iterdir():
        if RUN_FILE.fullmatch(path.name) and path.name not in used:
            path.unlink()  # of an earlier version of this table
    write_json_atomically(
        options.results / paper.key / f"{options.scale}.json",
        {
            "paper": paper.key,
            "scale": options.scale,
            "plan": key,
            "data": plan.data_note,
            "runs": [
                {"arm": run.arm.name, "seed": run.seed, "digest": run.digest, "status": statuses[run.digest]}
                for run in listed
            ],
            "verdicts": [],
        },
    )
    seal_results(folder)


def draw(paper: Paper, plan: TablePlan, scale: str, results: Path) -> tuple[Table, list[Verdict]]:
    """Judge the claims and draw table and plot from the files in the results folder; nothing is trained.

    Writes `<scale>.json` (its rows and verdicts), `.md`, `.csv`, `.tex` and `.svg`.
    """
    from common.experiment.plot import draw_plot

    path = results / paper.key / f"{scale}.json"
    records = load_records(path.with_suffix(""))
    verdicts = judge(plan.claims, records)
    table = build_table(
        records,
        [
            {"name": a.name, "title": a.title, "series": a.series, "bits": a.bits, "reported_key": a.reported or ""}
            for a in plan.arms
        ],
        paper.reported,
        key=paper.key,
        title=paper.title,
        scale=scale,
        data_note=plan.data_note,
        command=command(paper, scale),
        pair_sets=plan.pair_sets,
        fairness_set=plan.fairness_set,
    )
    stored = {**read_json(path), "verdicts": [verdict.to_dict() for verdict in verdicts], "table": table.to_dict()}
    write_json_atomically(path, stored)
    header = f"Basis: {paper.basis}. What deviates from the paper and why: [{paper.key}](../../papers/{paper.key}/README.md)."
    for ending, text in (
        (".md", to_markdown(table, verdicts, header, figure=f"{scale}.svg")),
        (".csv", to_csv(table)),
        (".tex", to_latex(table)),
    ):
        write_atomically(path.with_suffix(ending), text.encode())
    draw_plot(table, path.with_suffix(".svg"))
    seal_results(path.with_suffix(""))
    return table, verdicts


def redraw(paper: Paper, results: Path) -> None:
    """Draw every committed table of a paper again."""
    for scale in paper.scales:
        if (results / paper.key / f"{scale}.json").exists():
            draw(paper, load_plan(paper, scale), scale, results)
            print(f"{paper.key} {scale}: table, plot and verdicts drawn from {results / paper.key / scale}")


def command(paper: Paper, scale: str) -> str:
    """The command that makes a table."""
    words = ["make", paper.key]
    words += [f"SCALE={scale}"] if scale != "demo" else []
    words += ["DATA=/path/to/data"] if scale in ("real", "paper") else []
    return " ".join(words)


def _track(paper: Paper, scale: str, mode: str, store: Path, table: Table, results: Path) -> None:
    """Log the finished table and its plot; the runs have logged their curves themselves."""
    from common.tracking import tracker

    rows = list(csv.reader(io.StringIO(to_csv(table))))
    with tracker(mode, paper.key, scale, store) as tracking:
        tracking.start_run("table", None, {"paper": paper.key, "scale": scale}, "")
        tracking.log_table(rows[0], rows[1:])
        tracking.log_plot(results / paper.key / f"{scale}.svg")
