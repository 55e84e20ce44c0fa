"""From the files of a results folder to a judged and drawn table; nothing is trained."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.experiment.arm import TablePlan
from common.experiment.judge import Verdict, judge
from common.experiment.records import RunRecord, load_records, seal_results
from common.experiment.render import to_markdown
from common.experiment.render_export import to_csv, to_latex
from common.experiment.sources import bytes_of, changed_modules
from common.experiment.store import Store
from common.experiment.table import Table, build_table
from common.files import parse_json, write_atomically, write_json_atomically
from common.manifest import read_manifest, read_verified
from papers.registry import Paper
from papers.staleness import arm_hashes, judging, load_plan, plan_hash, read_table

RUN_FILE = re.compile(r"([0-9a-f]{16})\.json")


def draw(paper: Paper, plan: TablePlan, scale: str, results: Path) -> tuple[Table, list[Verdict]]:
    """Judge the claims and draw table and plot from the files in the results folder.

    Writes `<scale>.json` (its rows and verdicts), `.md`, `.csv`, `.tex` and `.svg`, the paper's own figures, and the manifest of
    all.
    """
    from common.experiment.plot import draw_plot

    path = results / paper.key / f"{scale}.json"
    folder = path.with_suffix("")
    stored = read_table(results, paper.key, scale)
    records = load_records(folder)
    verdicts = judge(plan.claims, records)
    listed = {run["arm"] for run in stored["runs"]}
    table = build_table(
        records,
        [
            {
                "name": a.name,
                "title": a.title,
                "series": a.series,
                "bits": a.bits,
                "reported_key": a.reported or "",
                "baseline": a.baseline or "",
                "teacher": a.teacher or "",
            }
            for a in plan.arms
            if a.name in listed
        ],
        paper.reported,
        key=paper.key,
        title=paper.title,
        scale=scale,
        data_note=plan.data_note,
        command=command(paper, scale),
        pair_sets=plan.pair_sets,
        fairness_set=plan.fairness_set,
        further=plan.columns,
        omitted=[a.name for a in plan.arms if a.name not in listed],
        stale=stale_runs(paper, plan, stored, folder),
    )
    sources = judging()
    drawn: dict[str, Any] = {
        "verdicts": [verdict.to_dict() for verdict in verdicts],
        "table": table.to_dict(),
        "judged": {"plan": plan_hash(plan), "sources": sources},
        "bytes": bytes_of({**stored.get("sources", {}), **sources}),
    }
    header = f"Basis: {paper.basis}. What deviates from the paper and why: [{paper.key}](../../papers/{paper.key}/README.md)."
    texts = {
        ".md": to_markdown(table, verdicts, header, figure=f"{scale}.svg"),
        ".csv": to_csv(table),
        ".tex": to_latex(table),
    }
    draw_plot(table, path.with_suffix(".svg"))
    for name, caption in own_figures(paper, records, path.with_suffix("")).items():
        texts[".md"] += f"\n![{caption}]({name})\n"
    for ending, text in texts.items():
        write_atomically(path.with_suffix(ending), text.encode())
    write_json_atomically(path, {**stored, **drawn})
    seal_results(folder)
    return table, verdicts


def own_figures(paper: Paper, records: Sequence[RunRecord], stem: Path) -> dict[str, str]:
    """Further figures of a paper: what its module `figures`, if it has one, draws as `<scale>-<name>.svg` beside the table.

    Returns:
        Captions by file name.
    """
    module = f"papers.{paper.key}.figures"
    if importlib.util.find_spec(f"papers.{paper.key}") is None or importlib.util.find_spec(module) is None:
        return {}
    drawn: dict[str, str] = importlib.import_module(module).draw(records, stem)
    return drawn


def stale_runs(paper: Paper, plan: TablePlan, stored: dict[str, Any], folder: Path) -> dict[str, list[str]]:
    """Digest -> modules that have changed since a run was made, the table's own where it describes the arm differently now."""
    manifest, recorded, now = read_manifest(folder), stored.get("arms", {}), arm_hashes(plan)
    found = {}
    for name in manifest:
        if match := RUN_FILE.fullmatch(name):
            result = parse_json(read_verified(folder, name, manifest), folder / name)
            other = [f"papers.{paper.key}.table"] if recorded.get(result["arm"]) != now.get(result["arm"]) else []
            found[match[1]] = [*changed_modules(result.get("sources") or {}), *other]
    return found


def redraw(paper: Paper, results: Path, store: Store) -> None:
    """Draw every committed table of a paper again; `store` is the one whose locks other commands hold."""
    for scale in paper.scales:
        if (results / paper.key / f"{scale}.json").exists():
            with store.exclusive(f"{paper.key}-{scale}"):
                table, _ = draw(paper, load_plan(paper.key, scale), scale, results)
            stale = " (stale)" if table.stale else ""
            print(f"{paper.key} {scale}: table, plot and verdicts drawn from {results / paper.key / scale}{stale}")


def command(paper: Paper, scale: str) -> str:
    """The command that makes a table."""
    words = ["make", paper.key]
    words += [f"SCALE={scale}"] if scale != "demo" else []
    words += ["DATA=/path/to/data"] if scale in ("real", "paper") else []
    return " ".join(words)
