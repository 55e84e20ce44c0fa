"""`make fairness`: does compression hurt the already disadvantaged? One answer from every committed table.

Nothing is trained: decisions, costs and group columns are read from `results/<paper>/<scale>` and its folder. The
uncompressed model of an arm is its teacher, or else where the line of its baselines (or of the arms it starts from) begins,
or else the only arm of 32 bits beside arms of fewer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from common.experiment.arm import Arm, TablePlan
from common.experiment.compare import Asked, compare_table
from common.experiment.compared import CLASSES, DEMOGRAPHIC, GENERATED, KINDS, Compared, corrected
from common.experiment.compared_plot import draw_comparisons
from common.experiment.compared_render import answer, to_csv, to_dict, to_markdown
from common.experiment.records import RunRecord, load_records
from common.experiment.spec import Spec
from common.files import DamagedFileError, write_atomically, write_json_atomically
from papers.drawing import stale_runs
from papers.registry import Paper, find_papers, get_paper
from papers.staleness import load_plan, read_table

ROOT = Path(__file__).resolve().parents[1]
SCALES = ("demo", "real", "lab", "paper")  # smoke tables show that things run, not what they do
STEM = "fairness/all"
FULL_PRECISION = 32
LABELLED_FACES = ("datasets.fairface",)  # classifiers of these are judged by the groups of the people shown


def main(arguments: list[str] | None = None) -> int:
    """Draw `results/fairness/all.*`; returns 0, or 1 if a table is damaged and was left out."""
    parser = argparse.ArgumentParser(prog="python -m papers fairness", description=__doc__)
    parser.add_argument("papers", nargs="*", help="keys; default: all")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap over people (default 1000)")
    options = parser.parse_args(arguments)
    papers = [get_paper(key) for key in options.papers] or list(find_papers().values())
    found, damaged = collect(papers, options.results, options.draws)
    write(found, options.results)
    for kind in KINDS:
        print(f"{kind}: {answer(found, kind) or 'no table has such groups yet'}")
    print(f"table and figure: {options.results / STEM}.md, .svg, .csv, .json")
    for message in damaged:
        print(f"left out: {message}", file=sys.stderr)
    return 1 if damaged else 0


def collect(papers: list[Paper], results: Path, draws: int = 1000) -> tuple[Compared, list[str]]:
    """Compare every committed table; also what is damaged, in words."""
    tables: list[Compared] = []
    damaged: list[str] = []
    for paper in papers:
        for scale in paper.scales:
            if scale in SCALES and (results / paper.key / f"{scale}.json").exists():
                try:
                    tables.append(compare(paper, scale, results, draws))
                except DamagedFileError as error:
                    damaged.append(str(error))
                    tables.append(Compared(omitted=((f"{paper.key} {scale}", "", "its results are damaged"),)))
    return corrected(tables), damaged


def compare(paper: Paper, scale: str, results: Path, draws: int = 1000) -> Compared:
    """The comparisons of one committed table, uncorrected.

    Raises:
        DamagedFileError: it is not as it was written.
    """
    folder = results / paper.key / scale
    stored, plan = read_table(results, paper.key, scale), load_plan(paper.key, scale)
    records = load_records(folder)
    fairness_set = (stored.get("table") or {}).get("fairness_set")
    listed = {run["arm"] for run in stored["runs"]}
    arms = {arm.name: arm for arm in plan.arms}
    gone = sorted(listed - arms.keys())
    asked = [
        Asked(arm.name, arm.title, arm.series, uncompressed(arm, arms))
        for arm in plan.arms
        if arm.name in listed and not is_reference(arm, arms)
    ]
    found = compare_table(
        records,
        asked,
        fairness_set,
        key=paper.key,
        scale=scale,
        kind=kind_of(records, plan, fairness_set),
        stale=stale_runs(paper, plan, stored, folder),
        draws=draws,
    )
    lost = tuple((f"{paper.key} {scale}", name, "the table lists it no longer") for name in gone)
    return Compared(found.comparisons, found.means, found.omitted + lost)


def uncompressed(arm: Arm, arms: Mapping[str, Arm]) -> str:
    """Name of the model whose groups an arm's groups are compared with; empty if the table names none."""
    if arm.teacher in arms and arm.teacher != arm.name:
        return str(arm.teacher)
    at, seen = arm, {arm.name}
    while (before := _before(at, arms, declared=bool(arm.baseline))) and before not in seen:
        seen.add(before)
        at = arms[before]
    if at is not arm:
        return at.name
    full = [other.name for other in arms.values() if other.bits == FULL_PRECISION]
    return full[0] if len(full) == 1 and arm.bits is not None and arm.bits < FULL_PRECISION else ""


def _before(arm: Arm, arms: Mapping[str, Arm], declared: bool) -> str:
    """The arm that this one is measured against or, where baselines are not declared, the first one it starts from."""
    if declared or arm.baseline:
        return arm.baseline if arm.baseline and arm.baseline in arms else ""
    return next((parent.name for parent in arm.parents if parent.name in arms), "")


def is_reference(arm: Arm, arms: Mapping[str, Arm]) -> bool:
    """Whether an arm is what others are compared with, and has nothing to be compared with itself."""
    return not uncompressed(arm, arms) and any(uncompressed(other, arms) == arm.name for other in arms.values())


def kind_of(records: list[RunRecord], plan: TablePlan, fairness_set: str | None) -> str:
    """What the groups of a table are: what its metrics say of themselves (`group_kind`), or else what its data are."""
    chosen = fairness_set or ""
    metrics = next((run.metrics[chosen] for run in records if run.ok and chosen in run.metrics), {})
    named = str(metrics.get("group_kind", ""))
    if named in KINDS:
        return named
    tested = repr(_tested(plan.arms[0].data))
    if "datasets.generated" in tested:
        return GENERATED
    people = metrics.get("task") != "classification" or any(name in tested for name in LABELLED_FACES)
    return DEMOGRAPHIC if people else CLASSES


def _tested(data: Spec) -> Spec:
    """What the models are measured on, of a set to train on and another to test on, or of one that alters another."""
    options = dict(data.options)
    inner = next((options[name] for name in ("test", "data") if isinstance(options.get(name), Spec)), None)
    return data if inner is None else _tested(inner)


def write(found: Compared, results: Path) -> None:
    """`all.json`, `.csv`, `.svg` and `.md` in `results/fairness`."""
    stem = results / STEM
    write_json_atomically(stem.with_suffix(".json"), to_dict(found))
    write_atomically(stem.with_suffix(".csv"), to_csv(found).encode())
    draw_comparisons(found, stem.with_suffix(".svg"))
    write_atomically(stem.with_suffix(".md"), to_markdown(found, f"{stem.name}.svg", "make fairness").encode())
