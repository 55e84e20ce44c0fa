"""From a paper and a scale to a judged table: plan, launch, publish, judge, draw, print."""

from __future__ import annotations

import argparse
import contextlib
import csv
import fnmatch
import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from common.experiment.arm import Arm, Run, TablePlan, plan_runs
from common.experiment.cluster_options import SlurmOptions
from common.experiment.records import seal_results
from common.experiment.render_export import to_csv
from common.experiment.run_folder import RunFolder
from common.experiment.sources import describe_changes
from common.experiment.store import Store
from common.experiment.table import Table
from common.experiment.terminal import print_table
from common.files import DamagedFileError, read_json, write_json_atomically
from common.manifest import damaged_files
from common.provenance import usable_cores
from papers.drawing import draw
from papers.registry import Paper, PaperError, nearest
from papers.staleness import arm_hashes, load_plan, merged, read_table, request_hash

RUN_FILE = re.compile(r"[0-9a-f]{16}\.(json|npz)|pairs-[0-9a-f]{12}\.npz")


def reproduce(paper: Paper, options: argparse.Namespace, slurm: SlurmOptions | None = None) -> int:
    """Run what is missing of a table and print it; returns the exit status (0 all runs ok, 1 some are not).

    Args:
        slurm: how to submit the runs as jobs; None to compute them here.
    """
    first = int(os.environ.get("LOCAL_RANK", 0)) + int(os.environ.get("NODE_RANK", 0)) == 0  # of several devices
    console = Console(width=None if sys.stdout.isatty() else 120, quiet=not first)
    plan = load_plan(paper.key, options.scale)
    seeds = options.seeds or plan.seeds
    data = Path(options.data).resolve() if options.data else None
    store = Store(options.store, accept_stale=options.stale == "keep")
    chosen = chosen_arms(plan, options.arms)
    request = request_hash(replace(plan, arms=chosen), seeds, data)
    console.print(f"[bold]{paper.title}[/bold] ({paper.key}, scale {options.scale}): {plan.data_note}", highlight=False)
    if first and _is_current(paper, options, request, store):
        console.print("every run is in the store and nothing has changed since: nothing to train", highlight=False)
        with _writing(console, store, paper, options.scale):
            print_table(console, *draw(paper, plan, options.scale, options.results))
        return 0
    runs = plan_runs(chosen, seeds, data)
    _say_what_is_stale(console, runs, options)
    statuses = _launch(console, paper, runs, store, data, options, slurm)
    if not first:
        return 0
    with _writing(console, store, paper, options.scale):
        every = runs if chosen is plan.arms else plan_runs(plan.arms, seeds, data)
        listed = _listed(plan, chosen, every, store)
        statuses |= _publish(paper, plan, listed, store, options, request)
        table, verdicts = draw(paper, plan, options.scale, options.results)
    _track(paper, options.scale, options.wandb, options.store, table, options.results)
    print_table(console, table, verdicts)
    console.print(f"written: {options.results / paper.key / options.scale}.{{json,md,csv,tex,svg}}", highlight=False)
    return _exit_status(console, runs, statuses, options.store)


def chosen_arms(plan: TablePlan, patterns: Sequence[str] | None) -> tuple[Arm, ...]:
    """The arms of a table that match one of the patterns (`*` stands for anything); all without patterns.

    Raises:
        PaperError: a pattern matches none.
    """
    if not patterns:
        return plan.arms
    names = [arm.name for arm in plan.arms]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise PaperError(f"no arm is called '{pattern}'{nearest(pattern, names)}")
    return tuple(arm for arm in plan.arms if any(fnmatch.fnmatchcase(arm.name, pattern) for pattern in patterns))


def _listed(plan: TablePlan, chosen: Sequence[Arm], runs: Sequence[Run], store: Store) -> list[Run]:
    """Runs that the table shows: those of the chosen arms, and of the others those that are finished."""
    rows, asked = {arm.name for arm in plan.arms}, {arm.name for arm in chosen}
    return [run for run in runs if run.arm.name in asked or (run.arm.name in rows and store.status(run.digest) == "ok")]


def _exit_status(console: Console, runs: Sequence[Run], statuses: dict[str, str], store: Path) -> int:
    """0 when every run is ok; else say which are not and where they say why."""
    bad = [run for run in runs if statuses[run.digest] != "ok"]
    for run in bad:
        why = Store(store).reason(run.digest) or f"see {store / 'runs' / run.digest}/state.json and log.txt"
        console.print(f"{run.label}: {statuses[run.digest]} ({why})", highlight=False, soft_wrap=True)
    if bad:
        console.print("the same command tries these again and keeps the others", highlight=False)
    return 1 if bad else 0


def _is_current(paper: Paper, options: argparse.Namespace, request: str, store: Store) -> bool:
    """Whether the results folder is whole and answers this very request with runs that the store still holds."""
    folder = options.results / paper.key / options.scale
    if not folder.is_dir() or damaged_files(folder):
        return False
    try:
        table = read_table(options.results, paper.key, options.scale)
    except DamagedFileError:
        return False
    runs = table.get("runs", ())
    return table.get("request") == request and all(store.status(run["digest"]) == "ok" for run in runs)


def _writing(console: Console, store: Store, paper: Paper, scale: str) -> contextlib.AbstractContextManager[None]:
    """Keep other commands from writing the same table meanwhile."""
    return store.exclusive(
        f"{paper.key}-{scale}",
        on_wait=lambda: console.print("waiting for another command that writes this table", highlight=False),
    )


def _say_what_is_stale(console: Console, runs: Sequence[Run], options: argparse.Namespace) -> None:
    """One line for runs that other code has made, one for damaged ones; and what happens to them."""
    strict = Store(options.store)
    by_status: dict[str, list[Run]] = {"stale": [], "damaged": []}
    for run in runs:
        by_status.get(strict.status(run.digest), []).append(run)
    stale, damaged = by_status["stale"], by_status["damaged"]
    if stale:
        results = [RunFolder(strict.folder(run.digest)).result() for run in stale]
        why = describe_changes(sorted({module for result in results for module in RunFolder.changed(result)}))
        what = f"{len(stale)} runs are stale" if len(stale) > 1 else f"{stale[0].label} is stale"
        then = "KEPT as STALE=keep says, and marked" if options.stale == "keep" else "computed again"
        console.print(f"{what} ({why}): {then}", style="bold yellow" * (options.stale == "keep"), highlight=False)
    for run in damaged:
        console.print(f"{run.label} is damaged ({strict.reason(run.digest)}): computed again", highlight=False)


def _launch(
    console: Console,
    paper: Paper,
    runs: Sequence[Run],
    store: Store,
    data: Path | None,
    options: argparse.Namespace,
    slurm: SlurmOptions | None,
) -> dict[str, str]:
    from common.experiment.launch import launch
    from common.experiment.phases import Machine
    from common.experiment.progress import TerminalWatcher

    jobs, threads = (0, int(options.threads)) if slurm else _share_cores(console, options)
    machine = Machine(
        data=data,
        threads=threads,
        devices=options.devices,
        nodes=options.nodes,
        tracking=options.wandb,
        paper=paper.key,
        scale=options.scale,
        checkpoint_every=options.checkpoint_every,
    )
    watcher = TerminalWatcher(console)
    try:
        if slurm:
            from common.experiment.cluster import launch_on_slurm

            return launch_on_slurm(runs, store, machine, slurm, watcher)
        return launch(runs, store, machine, jobs, watcher)
    finally:
        watcher.close()


def _share_cores(console: Console, options: argparse.Namespace) -> tuple[int, int]:
    """How many runs at a time, and how many threads each; says so when that is more than there are cores."""
    from common.experiment.launch import default_jobs

    cores = usable_cores()
    fixed = None if options.threads == "auto" else int(options.threads)
    jobs = options.jobs or default_jobs(fixed or 1)
    threads = fixed or max(1, cores // jobs)
    processes = options.devices if options.devices * options.nodes > 1 else jobs
    if processes * threads > cores:
        console.print(
            f"{processes} processes with {threads} threads each are more than the {cores} cores that may be used here: "
            f"they will slow each other down; JOBS={max(1, cores // threads)} would not",
            highlight=False,
        )
    return jobs, threads


def _publish(
    paper: Paper,
    plan: TablePlan,
    listed: Sequence[Run],
    store: Store,
    options: argparse.Namespace,
    request: str,
) -> dict[str, str]:
    """Copy the small files of the listed runs to the results folder and say in `<scale>.json` which they are.

    Returns:
        digest -> status of every run that was published: a file may have turned out to be damaged.
    """
    folder = options.results / paper.key / options.scale
    published = {run.digest: store.publish(run.digest, folder, run.arm.name, run.arm.title, run.seed) for run in listed}
    results = [read_json(folder / f"{run.digest}.json") for run in listed]
    used = {f"{run.digest}.{ending}" for run in listed for ending in ("json", "npz")}
    used |= {f"pairs-{name}.npz" for result in results for name in result.get("pairs", {}).values()}
    for path in folder.iterdir():
        if RUN_FILE.fullmatch(path.name) and path.name not in used:
            path.unlink()  # of an earlier version of this table
    write_json_atomically(
        options.results / paper.key / f"{options.scale}.json",
        {
            "paper": paper.key,
            "scale": options.scale,
            "request": request,
            "arms": arm_hashes(plan),
            "sources": merged(result.get("sources") or {} for result in results if result["status"] == "ok"),
            "data": plan.data_note,
            "runs": [
                {"arm": run.arm.name, "seed": run.seed, "digest": run.digest, "status": published[run.digest]}
                for run in listed
            ],
            "verdicts": [],
        },
    )
    seal_results(folder)
    return {digest: status for digest, status in published.items() if status == "damaged"}


def _track(paper: Paper, scale: str, mode: str, store: Path, table: Table, results: Path) -> None:
    """Log the finished table and its plot; the runs have logged their curves themselves."""
    from common.tracking import tracker

    rows = list(csv.reader(io.StringIO(to_csv(table))))
    with tracker(mode, paper.key, scale, store) as tracking:
        tracking.start_run("table", None, {"paper": paper.key, "scale": scale}, "")
        tracking.log_table(rows[0], rows[1:])
        tracking.log_plot(results / paper.key / f"{scale}.svg")
