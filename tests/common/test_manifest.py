"""common/manifest.py: what a folder should hold, said in a file that a stranger may have written."""

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import every_flip_and_cut

from common.files import DamagedFileError
from common.manifest import MANIFEST, damaged_files, read_manifest, read_verified, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a manifest of two files in it, one beside it and one two levels up."""
    folder = tmp_path / "a" / "b"
    (folder / "deeper").mkdir(parents=True)
    for name in ("one", "deeper/two words", "../b.json", "../../shared.npz"):
        (folder / name).write_bytes(name.encode() * 100)
    write_manifest(folder, ["one", "deeper/two words", "../b.json", "../../shared.npz", "one"])
    return folder


def forge(folder: Path, *lines: str) -> None:
    """A manifest as a stranger would write it: in the right form."""
    body = "".join(f"{line}\n" for line in lines)
    (folder / MANIFEST).write_text(f"{body}# {hashlib.sha256(body.encode()).hexdigest()} of the lines above\n")


def test_files_come_back_and_sha256sum_agrees(folder: Path) -> None:
    assert set(read_manifest(folder)) == {"one", "deeper/two words", "../b.json", "../../shared.npz"}
    assert read_verified(folder, "../b.json") == b"../b.json" * 100
    assert read_verified(folder, "deeper/two words", read_manifest(folder)) == b"deeper/two words" * 100
    assert damaged_files(folder) == {}
    done = subprocess.run(["sha256sum", "-c", "--strict", MANIFEST], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count(": OK")) == (0, 4), done.stderr


def test_a_relative_folder_and_one_behind_a_link_are_fine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert damaged_files("b") == {}
    (folder.parents[1] / "link").symlink_to(folder.parent)
    assert damaged_files(folder.parents[1] / "link" / "b") == {}


@pytest.mark.parametrize(
    ("damage", "name", "reason"),
    [
        (lambda f: (f / "one").write_bytes(b"two"), "one", "not as it was written"),
        (lambda f: (f / "one").unlink(), "one", "is missing"),
        (lambda f: (f / "../b.json").write_bytes(b""), "../b.json", "not as it was written"),
        (lambda f: [(f / "one").unlink(), (f / "one").mkdir()], "one", "no ordinary file"),
        (lambda f: [(f / "one").unlink(), os.mkfifo(f / "one")], "one", "no ordinary file"),
        (lambda f: [(f / "one").rename(f / "1"), (f / "one").symlink_to(f / "1")], "one", "symbolic link"),
        (lambda f: [(f / "deeper").rename(f / "d"), (f / "deeper").symlink_to("d")], "deeper/two words", "symbolic"),
    ],
)
def test_a_changed_file_is_named(folder: Path, damage: Callable[[Path], object], name: str, reason: str) -> None:
    damage(folder)
    found = damaged_files(folder)
    assert set(found) == {name}
    assert reason in found[name]
    with pytest.raises(DamagedFileError, match=f"{reason}.*restore it or run again"):
        read_verified(folder, name)


def test_what_is_not_listed_is_not_read(folder: Path) -> None:
    (folder / "other").write_bytes(b"")
    with pytest.raises(DamagedFileError, match="does not list 'other'"):
        read_verified(folder, "other")


SOUND = "0" * 64


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../../../far", "deeper/../../x", "a/../b", "..", "../..", ".", "./one", "a//b", "a/", "/", "a\\b",
        "a\x00b", "a\tb", "../../", "../../..", "a/..", "deeper/./x",
    ],
)  # fmt: skip
def test_a_name_that_leads_elsewhere_is_refused(folder: Path, name: str) -> None:
    forge(folder, f"{SOUND}  {name}")
    with pytest.raises(DamagedFileError, match=r"names .*which no manifest may|not as it was written"):
        read_manifest(folder)
    with pytest.raises(DamagedFileError, match="leads out of its folder"):
        read_verified(folder, name, {name: SOUND})
    with pytest.raises(ValueError, match="leads out of its folder"):
        write_manifest(folder, [name])


def test_a_link_is_not_listed(folder: Path) -> None:
    (folder / "link").symlink_to("one")
    with pytest.raises(ValueError, match="symbolic link"):
        write_manifest(folder, ["link"])
    with pytest.raises(FileNotFoundError):
        write_manifest(folder, ["none"])
    assert damaged_files(folder) == {}, "the manifest from before stays"


@pytest.mark.parametrize(
    "lines",
    [
        [f"{SOUND}  one", f"{SOUND}  one"],
        [f"{SOUND}  two", f"{SOUND}  one"],
        [f"{SOUND} *one"],
        [f"{SOUND.replace('0', 'A')}  one"],
        [f"{SOUND}0  one"],
        ["# a remark", f"{SOUND}  one"],
        [""],
        [f"{SOUND}  on\u2028e", f"{SOUND}  one\x85"],
    ],
)
def test_only_one_form_of_a_manifest_is_read(folder: Path, lines: list[str]) -> None:
    forge(folder, *lines)
    with pytest.raises(DamagedFileError, match=MANIFEST):
        read_manifest(folder)
    assert set(damaged_files(folder)) == {MANIFEST}


@pytest.mark.parametrize("content", [b"", b"\n", b"#", b"\xff\xfe", b"\x00" * 1000])
def test_a_manifest_of_other_bytes_is_refused(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(DamagedFileError, match="run again the command that made it"):
        read_manifest(folder)


def test_a_folder_without_manifest_says_so(tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError, match="SHA256SUMS is missing"):
        read_manifest(tmp_path)
    assert "missing" in damaged_files(tmp_path / "none")[MANIFEST]


def test_an_empty_manifest_is_one(tmp_path: Path) -> None:
    assert write_manifest(tmp_path, []) == {}
    assert read_manifest(tmp_path) == {}


def test_every_flip_and_cut_of_a_manifest_is_noticed(folder: Path) -> None:
    for damage in every_flip_and_cut((folder / MANIFEST).stat().st_size):
        with damage.done_to(folder / MANIFEST):
            assert set(damaged_files(folder)) == {MANIFEST}, damage
    assert damaged_files(folder) == {}
