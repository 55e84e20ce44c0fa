"""common/files.py: a file is the old one or the new one, whatever happens while it is written."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch

from common import files
from common.files import DamagedFileError, StorageError, read_json, sha256_of, write_atomically, write_json_atomically


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_bytes_and_writers_arrive_whole_and_leave_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new" / "folder" / "a", b"abc")
    write_atomically(tmp_path / "new" / "folder" / "a", lambda file: file.write(b"later") and None)
    assert (tmp_path / "new" / "folder" / "a").read_bytes() == b"later"
    assert os.listdir(tmp_path / "new" / "folder") == ["a"]


def test_new_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_file_and_folder_are_synced_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        real_sync(descriptor)

    def replace(source: Path, target: Path) -> None:
        assert source.read_bytes() == b"abc", "renamed before all bytes were flushed"
        events.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    write_atomically(tmp_path / "a", b"abc")
    assert events == ["file", "rename", "folder"]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), FileNotFoundError(2, "gone", "source.bin")])
def test_a_failing_writer_keeps_the_old_file_and_its_own_error(tmp_path: Path, error: BaseException) -> None:
    def writer(file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(type(error)) as caught:
        write_atomically(tmp_path / "a", writer)
    assert caught.value is error
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_writer_that_may_not_read_its_source_is_no_storage_error(tmp_path: Path) -> None:
    def writer(file: BinaryIO) -> None:
        raise PermissionError(13, "Permission denied", "/elsewhere/source.bin")

    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "a", writer)


WRITERS = {
    "bytes": bytes(100_000),
    "torch": lambda file: torch.save(torch.zeros(50_000), file),
    "npz": lambda file: np.savez(file, score=np.zeros(50_000)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_named_and_harmless(tiny_disk: Path, kind: str) -> None:
    (tiny_disk / "a").write_bytes(b"old")
    with pytest.raises(StorageError, match=r"bytes free.*No space left on device; the disk is full") as caught:
        write_atomically(tiny_disk / "a", WRITERS[kind])  # type: ignore[arg-type]
    assert str(tiny_disk) in str(caught.value)
    assert caught.value.errno == 28
    assert os.listdir(tiny_disk) == ["a"]
    assert (tiny_disk / "a").read_bytes() == b"old"
    write_atomically(tiny_disk / "a", b"new")  # the failed attempt gave its room back
    assert (tiny_disk / "a").read_bytes() == b"new"


def test_a_read_only_disk_is_named(tiny_disk: Path) -> None:
    (tiny_disk / "a").write_bytes(b"old")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(StorageError, match="mounted read-only; choose another folder"):
        write_atomically(tiny_disk / "a", b"new")
    assert (tiny_disk / "a").read_bytes() == b"old"


def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="may not be written by this user"):
        write_atomically(tmp_path / "a", b"new")


@pytest.mark.parametrize("relative", ["file/a", "file/deeper/a"])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path, relative: str) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        write_atomically(tmp_path / relative, b"new")
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(StorageError, match="a folder of this name is in the way"):
        write_atomically(tmp_path / "a", b"new")
    assert os.listdir(tmp_path) == ["a"]


WRITE_FOR_EVER = """
import sys
from common.files import write_atomically
for i in range(10**9):
    write_atomically(sys.argv[1], bytes([i % 256]) * 300_000)
"""


def test_killed_while_writing_the_file_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a"
    for pause in (0.0, 0.003, 0.007, 0.011):
        target.unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOR_EVER, str(target)], cwd=Path(files.__file__).parents[1]
        )
        while not target.exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        content = target.read_bytes()
        assert len(content) == 300_000
        assert len(set(content)) == 1, "two versions of the file were mixed"


def test_json_round_trip_is_canonical(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": {"title": "W6A6 → Gesicht", "odd name": "\udcff.png"}, "t": (1, 2)}
    write_json_atomically(tmp_path / "a.json", value)
    raw = (tmp_path / "a.json").read_bytes()
    assert raw.startswith(b'{\n "a": {\n  "odd name"')
    assert raw.endswith(b"}\n")
    assert read_json(tmp_path / "a.json") == {**value, "t": [1, 2]}
    write_json_atomically(tmp_path / "b.json", {"title": "→"})
    assert "→" in (tmp_path / "b.json").read_text(encoding="utf-8"), "readable characters need no escapes"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_json_refuses_what_is_not_finite_by_its_key_path(tmp_path: Path, bad: float) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match=r"at metrics\.lfw\.fold\[1\] is .*(nan|inf).*store None"):
        write_json_atomically(tmp_path / "a.json", {"metrics": {"lfw": {"fold": [0.5, bad]}}})
    assert (tmp_path / "a.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"a": np.float32(1)}, r"at a is a numpy\.float32, expected a plain Python value"),
        ({"a": {1: 2}}, r"the key 1 at a is a int, expected a string"),
        ([{"a": {1, 2}}], r"at \[0\]\.a is a builtins\.set"),
        (Path("a"), r"at the top level"),
    ],
)
def test_json_refuses_what_would_not_come_back(tmp_path: Path, bad: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        write_json_atomically(tmp_path / "a.json", bad)
    assert os.listdir(tmp_path) == []


def test_any_truncation_of_a_json_file_is_noticed(tmp_path: Path) -> None:
    write_json_atomically(tmp_path / "a.json", {"metrics": {"accuracy": 99.5, "title": "é"}, "list": [1, 2]})
    whole = (tmp_path / "a.json").read_bytes()
    for length in range(len(whole) - 1):  # without its last byte, the line end, it is still whole
        (tmp_path / "a.json").write_bytes(whole[:length])
        with pytest.raises(DamagedFileError, match=r"a\.json.*(restore|delete) it"):
            read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "text", ['{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', '"\xff"', "[" * 200_000, "1" * 5000]
)
def test_json_that_is_not_ours_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DamagedFileError, match="is damaged"):
        read_json(tmp_path / "a.json")


def test_a_missing_json_file_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "a.json")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    big = io.BytesIO(os.urandom(1_000_003)).getvalue()
    (tmp_path / "a").write_bytes(big)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(big).hexdigest()


def test_files_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, common.files, json; print(json.dumps([n in sys.modules for n in ('torch', 'numpy')]))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == [False, False]
