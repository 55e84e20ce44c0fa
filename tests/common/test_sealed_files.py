"""common/files.py: files and JSON that carry a SHA-256 of themselves."""

import io
import json
import os
import random
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from damage import every_flip_and_cut

from common.files import (
    DamagedFileError,
    StorageError,
    read_json,
    read_sealed,
    remove_temporary_files,
    write_json_atomically,
    write_sealed,
)


def test_what_is_sealed_comes_back(tmp_path: Path) -> None:
    for data in (b"", b"abc", os.urandom(1 << 20)):
        write_sealed(tmp_path / "a", data)
        assert read_sealed(tmp_path / "a") == data
    assert os.listdir(tmp_path) == ["a"]


def test_writers_of_every_library_can_write_into_it(tmp_path: Path) -> None:
    state = {"w": torch.randn(300, 40), "step": 3}
    write_sealed(tmp_path / "torch", lambda file: torch.save(state, file))
    loaded = torch.load(io.BytesIO(read_sealed(tmp_path / "torch")), weights_only=True)
    assert torch.equal(loaded["w"], state["w"])
    write_sealed(tmp_path / "npz", lambda file: np.savez_compressed(file, score=np.arange(1000)))
    assert np.load(io.BytesIO(read_sealed(tmp_path / "npz")))["score"].sum() == 499_500
    write_sealed(tmp_path / "zip", lambda file: zipfile.ZipFile(file, "w").writestr("name", "content"))
    assert zipfile.ZipFile(io.BytesIO(read_sealed(tmp_path / "zip"))).read("name") == b"content"


def test_a_writer_cannot_go_back(tmp_path: Path) -> None:
    def writer(file: BinaryIO) -> None:
        file.write(b"abc")
        file.seek(0)

    with pytest.raises(io.UnsupportedOperation):
        write_sealed(tmp_path / "a", writer)
    assert os.listdir(tmp_path) == []


def test_the_first_line_can_be_checked_by_hand(tmp_path: Path) -> None:
    write_sealed(tmp_path / "a", b"abc")
    assert (tmp_path / "a").read_bytes() == (
        b"fairpress-sealed 1 00000000000000000003 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\nabc"
    )


def test_every_flip_and_cut_of_a_sealed_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_sealed(path, random.Random(0).randbytes(150))
    for damage in every_flip_and_cut(path.stat().st_size):
        with damage.done_to(path), pytest.raises(DamagedFileError, match="cut off, altered or not sealed"):
            read_sealed(path)
    assert len(read_sealed(path)) == 150
    with pytest.raises(FileNotFoundError):
        read_sealed(tmp_path / "none")


def test_a_refused_write_keeps_the_sealed_file(tmp_path: Path) -> None:
    def writer(file: BinaryIO) -> None:
        raise ValueError("mine")

    write_sealed(tmp_path / "a", b"old")
    with pytest.raises(ValueError, match="mine"):
        write_sealed(tmp_path / "a", writer)
    assert read_sealed(tmp_path / "a") == b"old"
    with pytest.raises(StorageError):
        write_sealed(tmp_path / "a" / "below", b"new")


CONTENT = {"status": "ok", "sizes": {"a": 1, "é": 2.5}, "odd": "\udcff", "error": None, "list": [0.1 + 0.2, 1e-300]}


def test_sealed_json_comes_back_without_its_seal(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content in (CONTENT, {}, {"text": "→"}):
        write_json_atomically(path, content, seal=True)
        assert read_json(path, sealed=True) == content
        assert len(json.loads(path.read_bytes())["sha256"]) == 64
    with pytest.raises(ValueError, match="has an entry 'sha256' already"):
        write_json_atomically(path, {"sha256": 1}, seal=True)


def test_every_flip_and_cut_of_sealed_json_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json_atomically(path, CONTENT, seal=True)
    for damage in every_flip_and_cut(path.stat().st_size):
        with damage.done_to(path), pytest.raises(DamagedFileError, match=r"a\.json"):
            read_json(path, sealed=True)
    assert read_json(path, sealed=True) == CONTENT


def test_json_that_can_be_read_but_not_be_written_again_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Python 3.12 on, what reads goes deeper than what writes."""
    write_json_atomically(tmp_path / "a.json", {"a": [[[[[[]]]]]]}, seal=True)
    real = json.dumps

    def shallow(obj: Any, **options: Any) -> str:
        if "[[[[" in real(obj):
            raise RecursionError
        return real(obj, **options)

    monkeypatch.setattr(json, "dumps", shallow)
    with pytest.raises(DamagedFileError, match="does not have the SHA-256"):
        read_json(tmp_path / "a.json", sealed=True)


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"sha256": 1}', '{"a": 1, "a": 1}'])
def test_json_that_was_never_sealed_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DamagedFileError, match="does not have the SHA-256"):
        read_json(tmp_path / "a.json", sealed=True)


def test_only_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    names = [".writing-0123456789abcdef.tmp", "a.json", "writing.tmp", ".hidden"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert remove_temporary_files(tmp_path) == names[:1]
    assert sorted(os.listdir(tmp_path)) == sorted(names[1:])
