"""CIFAR: equal to torchvision's reader in every published form; nothing is run, nothing is written, nothing guessed."""

import gzip
import io
import os
import pickle
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.archive import CorruptArchive, read_members
from datasets.cifar import KINDS, CorruptBatch, parse_batch, read_cifar
from datasets.errors import DatasetNotFound, UnsafePickle

TEN = KINDS["cifar10"]


@pytest.fixture
def expected(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "_datasets" / "cifar10.npz"))


def folder_of(golden: Path) -> Path:
    return golden / "_datasets" / "cifar-10-batches-py"


def packed(path: Path, members: dict[str, bytes], **how: Any) -> Path:
    with tarfile.open(path, "w:gz", **how) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def agrees(root: Path, expected: dict[str, np.ndarray]) -> None:
    found = read_cifar(root)
    for part in ("train", "test"):
        read = getattr(found, part)
        np.testing.assert_array_equal(read.images.transpose(0, 2, 3, 1), expected[f"{part}_data"])
        np.testing.assert_array_equal(read.labels, expected[f"{part}_targets"])
        assert read.images.dtype == np.uint8
        assert read.labels.dtype == np.int64
    assert found.class_names[:2] == ("airplane", "automobile")


def test_folder_equals_torchvision_and_says_what_differs(golden: Path, expected: dict[str, np.ndarray]) -> None:
    agrees(golden / "_datasets", expected)
    notes = "\n".join(read_cifar(golden / "_datasets").notes)
    assert "test_batch: 2 images, published are 10000" in notes
    assert "6 of 6 batch files are not the published ones" in notes


@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_archive_equals_folder(
    golden: Path, tmp_path: Path, expected: dict[str, np.ndarray], prefix: str, form: int
) -> None:
    members = {f"{prefix}cifar-10-batches-py/{f.name}": f.read_bytes() for f in sorted(folder_of(golden).iterdir())}
    unwanted = {"cifar-10-batches-py/readme.html": b"x" * 700, "../../escaped": b"y", "z" * 300: b"w"}
    unwanted = unwanted if form != tarfile.USTAR_FORMAT else {}
    packed(tmp_path / "cifar-10-python.tar.gz", unwanted | members, format=form)
    agrees(tmp_path, expected)
    assert [f.name for f in tmp_path.iterdir()] == ["cifar-10-python.tar.gz"]


def binary_files(expected: dict[str, np.ndarray]) -> Iterator[tuple[str, bytes]]:
    rows = expected["train_data"].transpose(0, 3, 1, 2).reshape(-1, 3072)
    for i in range(5):
        part = slice(2 * i, 2 * i + 2)
        records = np.column_stack([expected["train_targets"][part].astype(np.uint8), rows[part]])
        yield f"data_batch_{i + 1}.bin", records.tobytes()
    rows = expected["test_data"].transpose(0, 3, 1, 2).reshape(-1, 3072)
    yield "test_batch.bin", np.column_stack([expected["test_targets"].astype(np.uint8), rows]).tobytes()
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    yield "batches.meta.txt", (names.replace(" ", "\n") + "\n\n").encode()


def test_binary_version(tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    files = {f"cifar-10-batches-bin/{name}": data for name, data in binary_files(expected)}
    packed(tmp_path / "cifar-10-binary.tar.gz", files)
    agrees(tmp_path, expected)
    (tmp_path / "cifar-10-batches-bin").mkdir()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    agrees(tmp_path, expected)
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(bytes(3072))
    with pytest.raises(CorruptBatch, match="3072 bytes, expected a multiple of 3073"):
        read_cifar(tmp_path)


def hundred() -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(3)
    sets = {}
    for name, n in (("train", 6), ("test", 3)):
        fine = rng.integers(0, 100, n).tolist()
        data = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        sets[name] = {"data": data, "fine_labels": fine, "coarse_labels": [f // 5 for f in fine]}
    names = {
        "fine_label_names": [f"fine_{i}" for i in range(100)],
        "coarse_label_names": [f"big-{i}" for i in range(20)],
    }
    return sets | {"meta": names}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_cifar100_python_and_binary(tmp_path: Path, protocol: int) -> None:
    sets = hundred()
    folder = tmp_path / "python" / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, content in sets.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    other = tmp_path / "binary" / "cifar-100-binary"
    other.mkdir(parents=True)
    for name in ("train", "test"):
        columns = [np.array(sets[name][f"{kind}_labels"], dtype=np.uint8) for kind in ("coarse", "fine")]
        (other / f"{name}.bin").write_bytes(np.column_stack([*columns, sets[name]["data"]]).tobytes())
    for kind in ("fine", "coarse"):
        (other / f"{kind}_label_names.txt").write_text("\n".join(sets["meta"][f"{kind}_label_names"]))
    for root in (tmp_path / "python", tmp_path / "binary"):
        for kind, key in (("cifar100", "fine"), ("cifar100_coarse", "coarse")):
            found = read_cifar(root, kind)
            assert found.test.labels.tolist() == sets["test"][f"{key}_labels"]
            np.testing.assert_array_equal(found.train.images.reshape(6, -1), sets["train"]["data"])
            assert found.class_names == tuple(sets["meta"][f"{key}_label_names"])


def batch(**changes: Any) -> bytes:
    content: dict[str, Any] = {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2]} | changes
    return pickle.dumps(content, protocol=2)


def test_labels_as_array_and_other_keys_are_read() -> None:
    found = parse_batch(batch(labels=np.array([3, 9]), filenames=["a", "b"]), "a", TEN, binary=False)
    assert found.labels.tolist() == [3, 9]


BAD = {
    "no dict": (pickle.dumps([1, 2]), "holds a list, expected a dict"),
    "no data": (pickle.dumps({"labels": [1]}), r"'data' is no array, expected uint8 \[N, 3072\]"),
    "data type": (batch(data=np.zeros((2, 3072))), r"float64 \[2, 3072\]"),
    "data shape": (batch(data=np.zeros((2, 3071), np.uint8)), r"uint8 \[2, 3071\]"),
    "labels missing": (batch(labels=None), "'labels' is no list of integers"),
    "labels of text": (batch(labels=["1", "2"]), "no list of integers"),
    "labels huge": (batch(labels=[10**400, 2]), "no list of integers"),
    "labels too few": (batch(labels=[1]), "2 images and 1 labels"),
    "label range": (batch(labels=[1, 10]), "labels from 1 to 10, expected are 0 to 9"),
    "label negative": (batch(labels=[-1, 1]), "labels from -1 to 1"),
    "no image": (batch(data=np.zeros((0, 3072), np.uint8), labels=[]), "0 images"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_wrong_batches(name: str) -> None:
    data, message = BAD[name]
    with pytest.raises(CorruptBatch, match=message) as caught:
        parse_batch(data, "/data/test_batch", TEN, binary=False)
    assert str(caught.value).startswith("/data/test_batch: ")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def test_no_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for data in (pickle.dumps(Bomb()), batch(filenames=[Bomb()])):
        with pytest.raises(UnsafePickle, match="system"):
            parse_batch(data, "x", TEN, binary=False)
    with pytest.raises(UnsafePickle, match="damaged"):
        parse_batch(batch()[:-100], "x", TEN, binary=False)
    assert not list(tmp_path.iterdir())


def test_missing_files(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match="University of Toronto"):
        read_cifar(tmp_path)
    with pytest.raises(ValueError, match="cifar100_coarse"):
        read_cifar(tmp_path, "cifar11")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for file in folder_of(golden).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b"]}))
    with pytest.raises(CorruptBatch, match="2 class names in 'label_names', expected 10"):
        read_cifar(tmp_path)
    (folder / "data_batch_3").unlink()
    (folder / "batches.meta").write_bytes((folder_of(golden) / "batches.meta").read_bytes())
    with pytest.raises(DatasetNotFound, match="data_batch_3"):
        read_cifar(tmp_path)


def test_archive_without_a_file_says_which(golden: Path, tmp_path: Path) -> None:
    files = {
        f"cifar-10-batches-py/{f.name}": f.read_bytes() for f in folder_of(golden).iterdir() if f.name != "test_batch"
    }
    packed(tmp_path / "cifar-10-python.tar.gz", files)
    with pytest.raises(DatasetNotFound, match="cifar-10-batches-py/test_batch"):
        read_cifar(tmp_path)


def test_links_damage_and_bombs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
        with tarfile.open(path, "w:gz") as tar:
            link = tarfile.TarInfo("set/wanted")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
        with pytest.raises(CorruptArchive, match="links are refused"):
            dict(read_members(path, {"set/wanted"}))
    packed(path, {"set/other": b"1", "set/wanted": np.random.default_rng(0).bytes(50_000)})
    whole = path.read_bytes()
    assert len(dict(read_members(path, {"set/wanted"}))["set/wanted"]) == 50_000
    path.write_bytes(whole[:-9000])
    with pytest.raises(CorruptArchive, match="truncated gzip"):
        dict(read_members(path, {"set/wanted"}))
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:20_000]))
    with pytest.raises(CorruptArchive, match="before the end of a member"):
        dict(read_members(path, {"set/wanted"}))
    flipped = bytearray(gzip.decompress(whole))
    flipped[140] ^= 1  # a digit of the first member's time, which only the checksum tells
    for data in (b"no gzip at all", gzip.compress(b"no tar" * 200), gzip.compress(bytes(flipped))):
        path.write_bytes(data)
        with pytest.raises(CorruptArchive, match="damaged"):
            dict(read_members(path, {"set/wanted"}))


def test_a_bomb_allocates_nothing(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar.gz", {"set/wanted": bytes(30_000_000)})
    assert path.stat().st_size < 40_000
    tracemalloc.start()
    with pytest.raises(CorruptArchive, match="30000128 bytes makes the archive larger"):
        dict(read_members(path, {"set/wanted"}))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
