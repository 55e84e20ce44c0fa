"""The catalog: what it says without torch, what it finds, and how it helps with a wrong name."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from datasets import catalog
from datasets.__main__ import main
from datasets.catalog import Count, Entry
from datasets.errors import DatasetNotFound


def test_no_torch_is_imported() -> None:
    code = "import sys, datasets, datasets.__main__ as m; m.main([]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "lfw" in done.stdout


def test_every_reader_that_is_named_exists() -> None:
    import importlib

    for entry in catalog.entries().values():
        if entry.reader:
            module, name = entry.reader.rsplit(".", 1)
            assert callable(getattr(importlib.import_module(module), name)), entry.key
        assert entry.terms
        assert entry.institution
        assert entry.tree


def test_unknown_name_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fairfase"]) == 2
    assert "Did you mean fairface?" in capsys.readouterr().err
    assert main(["lfw", "--root", "/nowhere/at/all"]) == 2
    assert "not a folder" in capsys.readouterr().err
    with pytest.raises(KeyError, match="python -m datasets"):
        catalog.find("zzzzzz")


def test_full_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rfw", "--root", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for part in ("Racial Faces in the Wild [absent]", "Beijing", "research only", "RFW/test/data"):
        assert part in text
    assert main(["--json", "--root", str(tmp_path)]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert len(listed) == len(catalog.entries())
    there = {entry["key"]: entry["found"]["state"] for entry in listed if entry["found"]["state"] != "absent"}
    assert there == {"digits": "whole"}  # scikit-learn brings it along
    assert main([]) == 0
    assert "[absent]" not in capsys.readouterr().out


def test_states(tmp_path: Path) -> None:
    entry = Entry(
        "toy", "Toy", "what", "who", "terms", "how", "toy", ("list.txt", "*.jpg"), ("list.txt", "*.jpg"),
        (Count("*.jpg", 2), Count("list.txt", 3, "lines")), {"list.txt": "d41d8cd98f00b204e9800998ecf8427e"},
    )  # fmt: skip
    assert catalog.inspect(entry, tmp_path).state == "absent"
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "list.txt").write_bytes(b"")
    status = catalog.inspect(entry, tmp_path)
    assert status.state == "incomplete"
    assert "*.jpg" in status.notes[0]
    (folder / "a.jpg").touch()
    status = catalog.inspect(entry, tmp_path)
    assert status.state == "differs"
    assert status.notes == ("*.jpg: 1 files, published are 2", "list.txt: 0 lines, published are 3")
    (folder / "b.jpg").touch()
    (folder / "list.txt").write_text("1\n2\n3")
    assert catalog.inspect(entry, tmp_path).notes == (
        "list.txt: md5 differs from the published d41d8cd98f00b204e9800998ecf8427e",
    )


def test_other_forms_packages_and_sizes(tmp_path: Path) -> None:
    entry = Entry(
        "toy", "Toy", "what", "who", "terms", "how", "toy", ("a",), ("a",), (Count("a", 3, "bytes"),),
        other_forms={"toy-binary": "", "toy.tar.gz": "d41d8cd98f00b204e9800998ecf8427e"},
    )  # fmt: skip
    assert catalog.inspect(entry, tmp_path).state == "absent"
    (tmp_path / "toy.tar.gz").write_bytes(b"")
    assert catalog.inspect(entry, tmp_path).state == "whole"
    (tmp_path / "toy.tar.gz").write_bytes(b"x")
    assert catalog.inspect(entry, tmp_path).state == "differs"
    (tmp_path / "toy-binary").mkdir()
    status = catalog.inspect(entry, tmp_path)
    assert (status.state, status.notes) == ("whole", (f"in {tmp_path / 'toy-binary'}",))
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "a").write_bytes(b"1234")
    assert catalog.inspect(entry, tmp_path).notes == ("a: 4 bytes, published are 3",)
    assert catalog.inspect(replace(entry, bundled="json"), tmp_path).state == "whole"
    missing = catalog.inspect(replace(entry, bundled="no_such_package"), tmp_path)
    assert (missing.state, missing.notes) == ("absent", ("no_such_package is not installed",))


def test_not_found_says_who_and_where(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound) as error:
        catalog.require("ms1mv2", tmp_path / "train.rec")
    message = str(error.value)
    for part in (
        "MS1MV2",
        "train.rec does not exist",
        "no longer given out",
        "faces_emore/train.idx",
        "non-commercial",
    ):
        assert part in message
    assert catalog.require("lfw", tmp_path) == tmp_path
