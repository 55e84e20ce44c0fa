"""The data modules of FairFace and own folders, and lazily read images, on miniature trees."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.alignment import TEMPLATE_112
from datasets.errors import BadList, CorruptImage, DatasetNotFound
from datasets.fairface import Age, FairFace, Gender, Race, cells, chip_to_112, read_labels
from datasets.image_folder import ImageFolder
from datasets.images import ImageFiles, read_all


def save(path: Path, value: int, size: tuple[int, int] = (112, 112)) -> None:
    """A grey image, brighter on its right half."""
    pixels = np.full((size[1], size[0], 3), value, dtype=np.uint8)
    pixels[:, size[0] // 2 :] += 20
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


# -- FairFace ---------------------------------------------------------------------------------------------------------


def test_fairface_labels(golden: Path) -> None:
    labels = read_labels(golden / "_datasets" / "fairface_label_val.csv")
    assert labels.files == ("val/1.jpg", "val/2.jpg", "val/3.jpg", "val/4.jpg")
    assert labels.age.tolist() == [Age.FROM_0_TO_2, Age.FROM_3_TO_9, Age.FROM_10_TO_19, Age.MORE_THAN_70]
    assert labels.gender.tolist() == [Gender.FEMALE] * 3 + [Gender.MALE]
    assert labels.race.tolist() == [Race.MIDDLE_EASTERN] + [Race.LATINO_HISPANIC] * 3
    assert labels.service_test.tolist() == [True, False, True, True]
    assert cells(labels).tolist() == [13, 5, 5, 4]
    assert labels.select(labels.gender == Gender.MALE).files == ("val/4.jpg",)


def test_fairface_damaged_by_a_spreadsheet(golden: Path) -> None:
    path = golden / "_datasets" / "fairface_label_val_EXCEL_DAMAGED.csv"
    with pytest.raises(BadList, match="line 2: the age '03-Sep' is '3-9' after a spreadsheet"):
        read_labels(path)
    repaired = read_labels(path, repair_ages=True)
    assert repaired.age.tolist() == [Age.FROM_3_TO_9, Age.FROM_10_TO_19]
    assert repaired.service_test.tolist() == [True, False]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("val/1.jpg,3-9,Male,Martian,True", "race is 'Martian', expected one of White, Black"),
        ("val/1.jpg,4-9,Male,White,True", "age is '4-9'"),
        ("val/1.jpg,3-9,male,White,True", "gender is 'male'"),
        ("val/1.jpg,3-9,Male,White,maybe", "service_test"),
    ],
)
def test_fairface_unknown_labels(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "x.csv").write_text("file,age,gender,race,service_test\n" + row + "\n")
    with pytest.raises(BadList, match=message):
        read_labels(tmp_path / "x.csv")


def test_chip_crop_puts_eyes_and_mouth_near_the_template() -> None:
    # measured places of the average chip, and where ArcFace's template has the same points
    for (x, y), target in zip([(70, 67), (150, 67), (80, 152), (140, 152)], TEMPLATE_112[[0, 1, 3, 4]], strict=True):
        pixels = np.zeros((224, 224, 3), dtype=np.uint8)
        pixels[y - 4 : y + 5, x - 4 : x + 5] = 255
        out = np.asarray(chip_to_112(Image.fromarray(pixels), "x"))[:, :, 0].astype(float)
        rows, columns = np.mgrid[:112, :112]
        centre = np.array([(columns * out).sum(), (rows * out).sum()]) / out.sum()
        assert np.linalg.norm(centre - target) < 5
    with pytest.raises(CorruptImage, match="448 x 448, expected 224 x 224"):
        chip_to_112(Image.new("RGB", (448, 448)), "x")


@pytest.fixture
def fairface(tmp_path: Path) -> Path:
    header = "file,age,gender,race,service_test\n"
    for split, count in (("train", 8), ("val", 3)):
        rows = [
            f"{split}/{k}.jpg,20-29,{('Male', 'Female')[k % 2]},{('White', 'Black')[k // 4]},False"
            for k in range(count)
        ]
        (tmp_path / "fairface").mkdir(exist_ok=True)
        (tmp_path / "fairface" / f"fairface_label_{split}.csv").write_text(header + "\n".join(rows) + "\n")
        for k in range(count):
            save(tmp_path / "fairface" / split / f"{k}.jpg", 20 * k, (224, 224))
    return tmp_path


@pytest.mark.parametrize("in_memory", [100, 0])
def test_fairface_batches(fairface: Path, in_memory: int) -> None:
    data = FairFace(str(fairface), target="gender", batch_size=4, in_memory=in_memory, num_workers=0)
    assert (data.num_classes, data.class_names[1], data.group_names[1]) == (2, "Female", "Black")
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (4, 3, 112, 112)
    grey = (images[:, 0].mean((1, 2)) * 127.5 + 127.5 - 10).div(20).round().long()
    assert torch.equal(grey % 2, labels)
    assert torch.cat([part for _, part in data.val_dataloader()]).tolist() == [0, 1, 0]
    assert data.codes("train", "race").tolist() == [0] * 4 + [1] * 4
    assert data.pair_sets() == {}


def test_memory_and_stream_give_the_same_batches(fairface: Path) -> None:
    loaders = [
        FairFace(str(fairface), batch_size=3, seed=5, in_memory=n, num_workers=0).train_dataloader() for n in (100, 0)
    ]
    for loader in loaders:
        loader.set_epoch(2)
    for (a, la), (b, lb) in zip(*loaders, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(la, lb)


@pytest.mark.parametrize("in_memory", [100, 0])
def test_processes_share_the_training_and_each_validates_on_everything(
    fairface: Path, in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three validation images: two processes could not share them equally."""
    (fairface / "fairface" / "images.csv").write_text(
        "path,label,split\n"
        + "".join(f"train/{k}.jpg,a,train\n" for k in range(4))
        + "val/0.jpg,a,val\nval/1.jpg,a,val\n"
        "val/2.jpg,a,val\n"
    )
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    for data in (
        FairFace(str(fairface), batch_size=4, in_memory=in_memory, num_workers=0),
        ImageFolder(str(fairface), "fairface", batch_size=4, in_memory=in_memory, num_workers=0, height=224, width=224),
    ):
        assert {len(labels) for _, labels in data.train_dataloader()} == {2}
        assert sum(len(labels) for _, labels in data.val_dataloader()) == 3


def test_fairface_options(fairface: Path) -> None:
    assert FairFace(str(fairface), crop="chip").images("val").shape == (3, 3, 224, 224)
    assert FairFace(str(fairface), width=96).images("val").shape == (3, 3, 112, 96)
    for wrong in ({"target": "name"}, {"crop": "wide"}, {"crop": "chip", "width": 96}):
        with pytest.raises(ValueError, match="must be"):
            FairFace(str(fairface), **wrong)  # type: ignore[arg-type]


# -- own folders ------------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    rows = ["path,label,group,split"]
    for k in range(8):
        save(tmp_path / "faces" / f"i{k}.png", 20 * k, (48, 64))
        rows.append(f"i{k}.png,p{k // 2},{('x', 'y', '')[k // 3]},{'test' if k > 5 else ''}")
    rows[-2:] = [row.replace("p3", "p1") for row in rows[-2:]]
    (tmp_path / "faces" / "images.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "faces" / "pairs.csv").write_text("a,b,same\ni0.png,i1.png,1\ni0.png,i2.png,0\ni0.png,i5.png,0\n")
    return tmp_path


def test_own_folder(own: Path) -> None:
    data = ImageFolder(str(own), pairs="pairs.csv", height=64, width=48, batch_size=3)
    data.setup()
    assert (data.num_classes, data.class_names, data.group_names) == (3, ("p0", "p1", "p2"), ("x", "y"))
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (3, 3, 64, 48)
    assert labels.dtype == torch.int64
    stored, labels, groups = data.split("train")
    assert (labels.tolist(), groups.tolist()) == ([0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1])
    assert isinstance(stored, torch.Tensor)
    assert data.split("test")[2].tolist() == [-1, -1]
    pairs = data.pair_sets()["pairs"]
    assert pairs.group.tolist() == [0, 0, -1]
    assert pairs.same.tolist() == [True, False, False]
    assert data.validation_pair_sets() == {}
    before = data.fingerprint()
    save(own / "faces" / "i3.png", 1, (48, 64))
    assert ImageFolder(str(own), pairs="pairs.csv", height=64, width=48).fingerprint() != before


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        ("wrong size", CorruptImage, r"i2\.png: the image is 30 high and 20 wide, expected are 64 and 48"),
        ("truncated", CorruptImage, r"i2\.png: .* cannot be decoded"),
        ("missing", FileNotFoundError, r"i2\.png is named in a list of the data set but does not exist"),
        ("no csv", DatasetNotFound, r"images\.csv does not exist"),
        ("unknown pair", BadList, r"1 images of the pair list are not there, the first is i99\.png"),
        ("torn pair", ValueError, "pair 0 is genuine"),
    ],
)
def test_own_folder_errors(own: Path, damage: str, error: type[Exception], message: str) -> None:
    image, folder = own / "faces" / "i2.png", own / "faces"
    if damage == "wrong size":
        save(image, 3, (20, 30))
    elif damage == "truncated":
        image.write_bytes(image.read_bytes()[:60])
    elif damage == "missing":
        image.unlink()
    elif damage == "no csv":
        (folder / "images.csv").unlink()
    else:
        second = "i99.png" if damage == "unknown pair" else "i4.png"
        (folder / "pairs.csv").write_text(f"a,b,same\ni0.png,{second},1\n")
    data = ImageFolder(str(own), pairs="pairs.csv", height=64, width=48)
    with pytest.raises(error, match=message):
        _ = (data.pair_sets(), data.train_dataloader())


def test_pairs_without_folds_are_spread_over_ten(tmp_path: Path) -> None:
    from datasets.image_folder import read_pairs_csv

    rows = [f"a{k}.jpg,b{k}.jpg,{int(k < 40)}" for k in range(100)]
    (tmp_path / "pairs.csv").write_text("a,b,same\n" + "\n".join(rows))
    pairs = read_pairs_csv(tmp_path / "pairs.csv")
    assert np.bincount(pairs.fold).tolist() == [10] * 10
    assert np.bincount(pairs.fold[pairs.same]).tolist() == [4] * 10


# -- lazily read images -----------------------------------------------------------------------------------------------


def test_image_files_index_like_a_tensor(tmp_path: Path) -> None:
    for k in range(5):
        save(tmp_path / f"{k}.png", 10 * k, (6, 4))
    files = ImageFiles(tmp_path, [f"{k}.png" for k in range(5)], (4, 6))
    whole = read_all(files, chunk=2)
    assert whole.shape == (5, 3, 4, 6)
    assert whole[3, 0, 0].tolist() == [30] * 3 + [50] * 3
    assert torch.equal(files[1:4], whole[1:4])
    assert torch.equal(files[[4, 0]], whole[[4, 0]])
    assert torch.equal(files[torch.tensor([2])], whole[[2]])
    assert torch.equal(files[3], whole[3])
    assert files[5:].shape == (0, 3, 4, 6)
    again = pickle.loads(pickle.dumps(files))
    assert torch.equal(again[:], whole)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (4, 4), (102, 102, 102)).convert(mode).save(tmp_path / f"x.{'jpg' if mode == 'CMYK' else 'png'}")
    files = ImageFiles(tmp_path, [next(tmp_path.iterdir()).name], (4, 4))
    assert files[0].shape == (3, 4, 4)
    assert (files[0].float() - 102).abs().max() <= 2


def test_decompression_bombs_are_refused(tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    files: Any = ImageFiles(tmp_path, ["bomb.png"], (9000, 9000))
    with pytest.raises(CorruptImage, match="9000 x 9000 pixels"):
        _ = files[0]


def test_a_folder_without_a_csv_is_unlabelled_training_data(own: Path) -> None:
    data = ImageFolder(str(own), images="", height=64, width=48, batch_size=2)
    data.setup()
    files = sorted(f for f in data.path.rglob("*") if f.suffix in (".jpg", ".jpeg", ".png"))
    assert [row.path for row in data.rows] == [f.relative_to(data.path).as_posix() for f in files]
    assert data.num_classes == 1
    empty = ImageFolder(str(own), folder="nothing", images="")
    with pytest.raises(DatasetNotFound):
        empty.setup()
