"""Image classification sets: IDX, CIFAR batches, archives, and the lists of ImageNet and its relatives."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
from fuzz_files import GOLDEN, matlab
from fuzz_probe import Target
from fuzz_targets_images import pickle_words

from datasets.archive import CorruptArchive, read_members
from datasets.cifar import KINDS, CorruptBatch, parse_batch, parse_class_names
from datasets.errors import BadList, DatasetNotFound, UnsafePickle
from datasets.idx import CorruptIdx, read_idx
from datasets.imagenet import DEVKIT, read_ground_truth, read_tiny_validation

KIND = KINDS["cifar10"]


def idx(root: Path, data: bytes) -> None:
    (root / "file-idx").write_bytes(data)
    read_idx(root / "file-idx")


def idx_gzipped(root: Path, data: bytes) -> None:
    idx(root, gzip.compress(data, 1, mtime=0))


def idx_plain_seeds() -> list[tuple[bytes, ...]]:
    names = ("images-idx3-ubyte", "labels-idx1-ubyte", "floats-idx2")
    return [((GOLDEN / "_datasets" / name).read_bytes(),) for name in names]


def idx_seeds() -> list[tuple[bytes, ...]]:
    plain = idx_plain_seeds()
    return [*plain, (gzip.compress(plain[0][0], mtime=0),)]


def cifar(root: Path, data: bytes) -> None:
    parse_batch(data, str(root), KIND, binary=False)


def cifar_binary(root: Path, data: bytes) -> None:
    parse_batch(data, str(root), KIND, binary=True)


def cifar_names(root: Path, data: bytes) -> None:
    parse_class_names(data, str(root), KIND, binary=not data.startswith(b"\x80"))


def cifar_seeds() -> list[tuple[bytes, ...]]:
    small = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [3], b"filenames": [b"x.png"], b"batch_label": b"one"}
    found = [pickle.dumps(small, protocol) for protocol in (0, 2, 4)]
    return [
        ((GOLDEN / "_datasets" / "cifar-10-batches-py" / "data_batch_1").read_bytes(),),
        *[(data,) for data in found],
    ]


def names_seeds() -> list[tuple[bytes, ...]]:
    names = [f"class{k}" for k in range(10)]
    meta = (GOLDEN / "_datasets" / "cifar-10-batches-py" / "batches.meta").read_bytes()
    return [(meta,), ("\n".join(names).encode(),), (pickle.dumps({"label_names": names}, 2),)]


def archive(root: Path, tar: bytes) -> None:
    archive_raw(root, gzip.compress(tar, 1, mtime=0))


def archive_raw(root: Path, data: bytes) -> None:
    (root / "set.tar.gz").write_bytes(data)
    for _ in read_members(root / "set.tar.gz", ("folder/data_1", "folder/meta", "../../outside/secret.jpg")):
        pass


def tar_seed() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in (("folder/data_1", b"content"), ("folder/other", b"x" * 600), ("folder/meta", b"names")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("folder/link")
        link.type, link.linkname = tarfile.SYMTYPE, "../../outside/secret.jpg"
        tar.addfile(link)
    return stream.getvalue()


def folders(root: Path) -> None:
    (root / "val").mkdir(exist_ok=True)
    (root / DEVKIT).mkdir(parents=True, exist_ok=True)


def tiny_validation(root: Path, data: bytes) -> None:
    (root / "val" / "val_annotations.txt").write_bytes(data)
    for file in read_tiny_validation(root, ("n01443537", "n01629819")).files:
        assert ".." not in Path(file).parts


def ground_truth(root: Path, meta: bytes, listed: bytes) -> None:
    folder = root / DEVKIT
    (folder / "meta.mat").write_bytes(meta)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_bytes(listed)
    read_ground_truth(root, ("n01", "n02"))


def meta_seeds() -> list[tuple[bytes, ...]]:
    synsets = np.empty((2, 1), dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)])
    for k in range(2):
        synsets[k, 0] = (np.array([[k + 1.0]]), f"n0{k + 1}", np.array([[0.0]]))
    return [(matlab({"synsets": synsets}, compress), b"1\n2\n1\n") for compress in (False, True)]


MAT_WORDS = (
    b"synsets",
    b"\x0e\0\0\0",
    b"\x0f\0\0\0",
    b"\x06\0\0\0",
    b"\x05\0\0\0",
    b"\x01\0\x04\0",
    b"IM",
    b"MI",
    b"\x10\0\0\0",
    b"\x11\0\0\0",
)
TINY = b"val_0.JPEG\tn01443537\t0\t0\t5\t5\nval_1.JPEG\tn01629819\t0\t0\t5\t5\n"
TAR_WORDS = (
    b"ustar\x0000",
    b"0000644\0",
    b"0" * 11 + b"\0",
    b"77777777777\0",
    b"folder/data_1\0",
    b"L",
    b"x",
    b"2",
    b"../../outside/secret.jpg",
)

TARGETS = [
    Target("idx", idx, idx_seeds, (CorruptIdx,), (b"\0\0\x08\3", b"\0\0\x0d\1", struct.pack(">I", 1 << 31),
    b"\x1f\x8b\x08")),
    Target("idx_gzipped", idx_gzipped, idx_plain_seeds, (CorruptIdx,), (b"\0\0\x08\3", b"\0\0\x0d\1",
    b"\x7f\xff\xff\xff")),
    Target("cifar", cifar, cifar_seeds, (CorruptBatch, UnsafePickle), pickle_words()),
    Target("cifar_binary", cifar_binary, lambda: [(b"\3" + bytes(3072),)], (CorruptBatch,)),
    Target("cifar_names", cifar_names, names_seeds, (CorruptBatch, UnsafePickle), pickle_words()),
    Target("archive", archive, lambda: [(tar_seed(),)], (CorruptArchive,), TAR_WORDS, spare=4 << 20),
    Target("archive_raw", archive_raw, lambda: [(gzip.compress(tar_seed(), mtime=0),)], (CorruptArchive,),
    spare=4 << 20),
    Target("tiny_validation", tiny_validation, lambda: [(TINY,)], (BadList, DatasetNotFound), (b"\t", b"n01443537",
    b"val_0.JPEG"), prepare=folders),
    Target("ground_truth", ground_truth, meta_seeds, (BadList, DatasetNotFound), MAT_WORDS, prepare=folders),
]  # fmt: skip
