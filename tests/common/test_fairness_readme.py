"""The table of metrics names what there is, and leaves nothing out that computes one."""

import importlib
import re
from pathlib import Path

README = Path(__file__).parents[2] / "common" / "fairness" / "README.md"
PLUMBING = {  # checks, tables and resampling: no metrics
    "bootstrap", "columns", "groups", "intervals", "multiplicity", "report",
}  # fmt: skip


def rows() -> list[list[str]]:
    lines = README.read_text().splitlines()
    table = [line for line in lines if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]


def test_every_row_is_whole_and_names_functions_that_exist():
    head, *body = rows()
    assert head == ["metric", "equation", "good", "unit", "where", "source", "when to use it"]
    assert len(body) > 35
    for row in body:
        assert len(row) == 7, row
        assert row[0], row
        assert row[1], row
        assert row[6], row
        last = ""
        for name in re.findall(r"`(\w+(?:\.\w+)?)`", row[4]):
            module, _, function = name.partition(".") if "." in name else (name, "", "")
            if not function and not (README.parent / f"{module}.py").exists():
                module, function = last, name  # a second function of the module before it
            found = importlib.import_module(f"common.fairness.{module}")
            assert not function or hasattr(found, function), name
            last = module


def test_every_module_of_metrics_has_a_row():
    named = {name for row in rows()[1:] for name in re.findall(r"`(\w+)", row[4])}
    modules = {path.stem for path in README.parent.glob("*.py")} - PLUMBING - {"__init__"}
    assert modules <= named


def test_nothing_claims_to_conform_to_the_standard():
    assert "compliant" not in README.read_text()
