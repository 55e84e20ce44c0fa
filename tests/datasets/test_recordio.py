"""RecordIO: parity with reference bytes, random access from several processes, damage reported by key and offset."""

import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.errors import BadList, CorruptRecord, DatasetNotFound
from datasets.insightface import InsightFaceRecords, read_property
from datasets.recordio import (
    CURRENT,
    FIRST,
    Framing,
    RecordFile,
    frame,
    image_keys,
    pack_image,
    read_index,
    write_insightface,
)


@pytest.fixture
def reference(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "_fr_evaluation" / "recordio.npz"))


def lay_out(folder: Path, rec: bytes, idx: bytes) -> Path:
    (folder / "train.rec").write_bytes(rec)
    (folder / "train.idx").write_bytes(idx)
    return folder


def opened(folder: Path) -> tuple[RecordFile, dict[int, int]]:
    records = RecordFile(folder / "train.rec")
    index = read_index(folder / "train.idx", records.size)
    return records, dict(zip(index.keys.tolist(), index.offsets.tolist(), strict=True))


def test_reference_file_is_read(tmp_path: Path, reference: dict[str, np.ndarray]) -> None:
    lay_out(tmp_path, reference["rec"].tobytes(), reference["idx"].tobytes())
    records = RecordFile(tmp_path / "train.rec")
    index = read_index(tmp_path / "train.idx", records.size)
    assert image_keys(records, index).tolist() == reference["keys"].tolist()
    for key, label in zip(reference["keys"], reference["labels"], strict=True):
        record = records.image(int(index.offset(np.array([key]))[0]), int(key))
        assert record.labels == (float(label),)
        assert record.id == key
        assert record.image == reference[f"payload{key}"].tobytes()  # payload4 holds the magic twice: three parts


def test_writer_reproduces_the_reference_bytes(reference: dict[str, np.ndarray]) -> None:
    rec, idx = io.BytesIO(), io.BytesIO()
    images = [(reference[f"payload{k}"].tobytes(), int(reference["labels"][k - 1])) for k in range(1, 6)]
    assert write_insightface(rec, idx, images, FIRST) == 5
    assert rec.getvalue() == reference["rec"].tobytes()
    assert idx.getvalue() == reference["idx"].tobytes()


def test_hand_checked_record() -> None:
    by_hand = bytes.fromhex(
        "0a23d73e 1b000000 00000000 0000e040 0500000000000000 0000000000000000 616263 00".replace(" ", "")
    )
    assert len(by_hand) == 36
    assert frame(pack_image(b"abc", [7.0], 5), FIRST) == by_hand
    # the framing of released mxnet differs in the last byte of the magic only, as long as there is one part
    assert frame(pack_image(b"abc", [7.0], 5), CURRENT) == by_hand[:3] + b"\xce" + by_hand[4:]


@pytest.mark.parametrize("framing", [FIRST, CURRENT], ids=["0x3ed7230a", "0xced7230a"])
@pytest.mark.parametrize("cuts", [0, 1, 2, 3])
def test_magic_inside_the_payload(tmp_path: Path, framing: Framing, cuts: int) -> None:
    magic = struct.pack("<I", framing.magic)
    payload = (b"abcd" + magic) * cuts + b"ef" + magic  # the last magic is not 4-aligned and must not be cut
    record = frame(payload, framing)
    assert record.count(magic) == cuts + 2
    (tmp_path / "train.rec").write_bytes(b"\0" * 8 + record)
    assert RecordFile(tmp_path / "train.rec").read(8) == payload


def test_cut_record_written_out(tmp_path: Path) -> None:
    magic = bytes.fromhex("0a23d7ce")
    by_hand = magic + struct.pack("<I", 1 << 29 | 4) + b"wxyz" + magic + struct.pack("<I", 3 << 29 | 2) + b"pq\0\0"
    assert frame(b"wxyz" + magic + b"pq", CURRENT) == by_hand
    (tmp_path / "train.rec").write_bytes(by_hand)
    assert RecordFile(tmp_path / "train.rec").read(0) == b"wxyz" + magic + b"pq"


def test_several_labels_replace_the_label(tmp_path: Path) -> None:
    (tmp_path / "train.rec").write_bytes(frame(pack_image(b"jpeg", [3.0, 51.5], 9, several=True)))
    record = RecordFile(tmp_path / "train.rec").image(0)
    assert (record.flag, record.labels, record.image) == (2, (3.0, 51.5), b"jpeg")


def test_without_header_every_key_is_an_image(tmp_path: Path) -> None:
    first, second = frame(pack_image(b"one", [4], 0)), frame(pack_image(b"two", [5], 1))
    lay_out(tmp_path, first + second, f"1\t{len(first)}\n0\t0\n".encode())
    records = RecordFile(tmp_path / "train.rec")
    assert image_keys(records, read_index(tmp_path / "train.idx", records.size)).tolist() == [0, 1]


@pytest.mark.parametrize("cut", [4, 40, 60, 100, 300])
def test_truncated_file_is_reported_with_key_and_offset(
    tmp_path: Path, reference: dict[str, np.ndarray], cut: int
) -> None:
    lay_out(tmp_path, reference["rec"].tobytes(), reference["idx"].tobytes())
    earlier, offsets = opened(tmp_path)
    ends = dict(zip(sorted(offsets.values()), [*sorted(offsets.values())[1:], earlier.size], strict=True))
    (tmp_path / "train.rec").write_bytes(reference["rec"].tobytes()[:cut])
    with pytest.raises(CorruptRecord, match="truncated"):
        read_index(tmp_path / "train.idx", cut)
    later = RecordFile(tmp_path / "train.rec")
    for key, offset in offsets.items():
        if ends[offset] <= cut:
            assert later.image(offset, key) == earlier.image(offset, key)
            continue
        for records in (earlier, later):  # opened before and after the file was shortened
            with pytest.raises(CorruptRecord, match=f"key {key} at byte {offset}"):
                records.image(offset, key)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0" * 64, "no record begins"),
        (struct.pack("<II", CURRENT.magic, 2 << 29 | 4) + b"abcd", "continuation flag 2"),
        (struct.pack("<II", CURRENT.magic, 1 << 29 | 3) + b"abc\0", "not a multiple of 4"),
        (struct.pack("<II", CURRENT.magic, 1 << 29 | 4) + b"abcd" + struct.pack("<II", CURRENT.magic, 0), "flag 0"),
        (struct.pack("<II", CURRENT.magic, 1 << 29 | 4) + b"abcd" + struct.pack("<II", FIRST.magic, 0), "begins"),
        (struct.pack("<II", CURRENT.magic, (1 << 29) - 1), "the file ends at 8"),
        (struct.pack("<II", CURRENT.magic, 4) + b"abcd", "less than an image header"),
        (frame(struct.pack("<IfQQ", 2**32 - 1, 0, 0, 0)), "promises 4294967295 labels"),
    ],
)
def test_damaged_records_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "train.rec").write_bytes(content)
    with pytest.raises(CorruptRecord, match=message) as error:
        RecordFile(tmp_path / "train.rec").image(0, 17)
    assert "key 17 at byte 0" in str(error.value)


@pytest.mark.parametrize(
    ("idx", "error", "message"),
    [
        (b"", BadList, "empty"),
        (b"\r\n\n", BadList, "empty"),
        (b"0\t0\n1\n", BadList, "expected `key<TAB>offset`"),
        (b"0\t0\t3\n", BadList, "expected 2 fields"),
        (b"0\tx\n", BadList, "expected `key<TAB>offset`"),
        (b"0\t0\n0\t0\n", BadList, "key 0 occurs twice"),
        (b"0\t0\n1\t-8\n", CorruptRecord, "key 1 points at byte -8"),
        (b"0\t0\n3\t1000000\n", CorruptRecord, "key 3 points at byte 1000000"),
        (b"0\t2\n", CorruptRecord, "key 0 points at byte 2"),
    ],
)
def test_damaged_indices_are_refused(tmp_path: Path, idx: bytes, error: type[Exception], message: str) -> None:
    (tmp_path / "train.idx").write_bytes(idx)
    with pytest.raises(error, match=message):
        read_index(tmp_path / "train.idx", 400)


@pytest.mark.parametrize("change", ["\r\n", "\ufeff", "\n\n"])
def test_index_variants_are_read_alike(tmp_path: Path, reference: dict[str, np.ndarray], change: str) -> None:
    text = reference["idx"].tobytes().decode()
    text = {"\r\n": text.replace("\n", "\r\n"), "\ufeff": "\ufeff" + text, "\n\n": text + "\n\n"}[change]
    (tmp_path / "train.idx").write_bytes(text.encode())
    assert read_index(tmp_path / "train.idx", 412).keys.tolist() == list(range(9))


def test_header_and_index_must_agree(tmp_path: Path, reference: dict[str, np.ndarray]) -> None:
    lines = reference["idx"].tobytes().decode().splitlines(keepends=True)
    for gone, message in ((2, "names key 3"), (slice(4, 8), "images end before key 6")):
        kept = list(lines)
        del kept[gone]
        lay_out(tmp_path, reference["rec"].tobytes(), "".join(kept).encode())
        records = RecordFile(tmp_path / "train.rec")
        with pytest.raises(CorruptRecord, match=message):
            image_keys(records, read_index(tmp_path / "train.idx", records.size))


def test_missing_file_names_institution_and_tree(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match=r"InsightFace[\s\S]*train\.idx"):
        RecordFile(tmp_path / "train.rec")


# -- the data module ----------------------------------------------------------------------------------------------


def jpeg(value: int, size: tuple[int, int] = (112, 112)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (value, 255 - value, 128)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve images of four classes, class c is grey level 60 c, and a verification set of three pairs."""
    folder = tmp_path / "faces_emore"
    folder.mkdir()
    with (folder / "train.rec").open("wb") as rec, (folder / "train.idx").open("wb") as idx:
        write_insightface(rec, idx, [(jpeg(60 * (k // 3)), k // 3) for k in range(12)])
    (folder / "property").write_text("4,112,112\n12\n")
    images = [jpeg(v) for v in (0, 0, 100, 101, 0, 200)]
    (folder / "toy.bin").write_bytes(pickle.dumps((images, [True, True, False])))
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_do_not_depend_on_the_number_of_workers(root: Path, num_workers: int) -> None:
    data = InsightFaceRecords(str(root), batch_size=5, seed=1, num_workers=num_workers)
    data.setup()
    assert (data.num_classes, data.num_images, data.size) == (4, 12, (112, 112))
    loader = data.train_dataloader()
    loader.set_epoch(1)
    batches = list(loader)
    order = np.random.default_rng((1, 1, 0)).permutation(12)
    assert torch.cat([labels for _, labels in batches]).tolist() == [int(i) // 3 for i in order[:10]]
    for images, labels in batches:
        assert images.shape == (5, 3, 112, 112)
        grey = images[:, 0].mean((1, 2)) * 127.5 + 127.5
        assert torch.allclose(grey, 60.0 * labels, atol=3)


def test_records_survive_pickle_with_an_open_file(root: Path) -> None:
    data = InsightFaceRecords(str(root), num_workers=0)
    data.setup()
    before = data.source.read(torch.tensor([7, 0]))
    after = pickle.loads(pickle.dumps(data.source)).read(torch.tensor([7, 0]))
    assert torch.equal(before[0], after[0])
    assert after[1].tolist() == [2, 0]


def test_narrow_crops_keep_the_centre_columns(root: Path) -> None:
    data = InsightFaceRecords(str(root), batch_size=2, width=96, num_workers=0)
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (2, 3, 112, 96)
    assert data.pair_sets()["toy"].images.shape == (4, 3, 112, 96)


def test_verification_sets_and_fingerprint(root: Path) -> None:
    data = InsightFaceRecords(str(root), num_workers=0)
    pairs = data.pair_sets()
    assert list(pairs) == ["toy"]
    before = data.fingerprint()
    assert before == InsightFaceRecords(str(root), num_workers=0).fingerprint()
    (root / "faces_emore" / "toy.bin").write_bytes(pickle.dumps(([jpeg(1)] * 2, [True])))
    assert InsightFaceRecords(str(root), num_workers=0).fingerprint() != before
    with pytest.raises(DatasetNotFound, match=r"agedb_30\.bin"):
        InsightFaceRecords(str(root), verification=("agedb_30",)).pair_sets()


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (jpeg(9)[:400], 1, "cannot be decoded"),
        (b"not a jpeg", 1, "cannot be decoded"),
        (b"", 1, "cannot be decoded"),
        (jpeg(9, (96, 112)), 1, "112 high and 96 wide"),
        (jpeg(9), 4, "label is 4.0, expected 0..3"),
    ],
)
def test_damaged_images_are_reported(root: Path, image: bytes, label: int, message: str) -> None:
    folder = root / "faces_emore"
    with (folder / "train.rec").open("wb") as rec, (folder / "train.idx").open("wb") as idx:
        write_insightface(rec, idx, [(jpeg(0), 0), (image, label)])
    data = InsightFaceRecords(str(root), batch_size=2, num_workers=0)
    with pytest.raises(CorruptRecord, match=message) as error:
        list(data.train_dataloader())
    assert "key 2" in str(error.value)


def test_damage_is_reported_from_a_worker_process_too(root: Path) -> None:
    (root / "faces_emore" / "property").write_text("2,112,112\n")  # of four classes
    with pytest.raises(CorruptRecord, match=r"\(key \d+\) at byte \d+: the label is [23].0, expected 0..1"):
        list(InsightFaceRecords(str(root), batch_size=12, num_workers=1).train_dataloader())


def test_property(tmp_path: Path) -> None:
    path = tmp_path / "property"
    path.write_bytes(b"\xef\xbb\xbf9980,112,112\r\n")
    assert read_property(path) == (9980, 112, 112)
    for text, message in (("", "empty"), ("85742,112", "expected 3"), ("a,112,112", "integer >= 1"), ("0,1,1", ">= 1")):
        path.write_text(text)
        with pytest.raises(BadList, match=message):
            read_property(path)
