"""The data modules of LFW, RFW, BUPT, FairFace and own folders, on miniature trees in the official layout."""

import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.alignment import TEMPLATE_112
from datasets.bupt import BUPTFaces
from datasets.errors import BadList, CorruptImage, DatasetNotFound
from datasets.fairface import Age, FairFace, Gender, Race, cells, chip_to_112, read_labels
from datasets.image_folder import ImageFolder
from datasets.images import ImageFiles, read_all
from datasets.lfw import LFW
from datasets.rfw import RACES, RFW
from datasets.verification_bin import VerificationBins


def save(path: Path, value: int, size: tuple[int, int] = (112, 112)) -> None:
    """A grey image, brighter on its right half."""
    pixels = np.full((size[1], size[0], 3), value, dtype=np.uint8)
    pixels[:, size[0] // 2 :] += 20
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


# -- LFW --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lfw(tmp_path: Path) -> Path:
    """Ten folds of two people (F<k> female with two images, M<k> male with two) and 1 + 1 pairs a fold."""
    folder = tmp_path / "lfw_112"
    pairs, people, gender = ["10\t1"], ["10"], ["file,gender"]
    for fold in range(10):
        female, male = f"F{fold}_A", f"M{fold}_B"
        pairs += [f"{female}\t1\t2", f"{female}\t1\t{male}\t2" if fold % 2 else f"{male}\t1\t{female}\t2"]
        people += ["2", f"{female}\t2", f"{male}\t2"]
        for k in (1, 2):
            save(folder / female / f"{female}_{k:04d}.jpg", 10 * fold + k)
            save(folder / male / f"{male}_{k:04d}.jpg", 100 + 10 * fold + k)
        gender += [f"{female}/{female}_0001.jpg,F", f"{female}/{female}_0002.jpg,F", f"{male}/{male}_0001.jpg,M"]
    (folder / "pairs.txt").write_text("\n".join(pairs) + "\n")
    (folder / "people.txt").write_text("\n".join(people) + "\n")
    (folder / "gender.csv").write_text("\n".join(gender) + "\n")
    return tmp_path


def test_lfw_pairs_folds_groups_and_subjects(lfw: Path) -> None:
    data = LFW(str(lfw))
    pairs = data.pair_sets()["lfw"]
    assert len(pairs) == 20
    assert pairs.fold.tolist() == [k // 2 for k in range(20)]
    assert pairs.same.tolist() == [True, False] * 10
    assert pairs.group_names == data.group_names == ("female", "male")
    assert pairs.group.tolist() == [0, -1] * 10
    assert ((pairs.subject_a == pairs.subject_b) == pairs.same).all()
    assert data.num_classes == 0
    first = pairs.images[pairs.first[6]]  # F3_A 1
    assert abs(float(first[:, :, :50].float().mean()) - 31) < 2
    with pytest.raises(ValueError, match="nothing to train"):
        data.train_dataloader()


def test_lfw_training_folds_are_never_tested(lfw: Path) -> None:
    data = LFW(str(lfw), train_folds=(0, 4), batch_size=4)
    pairs = data.pair_sets()["lfw"]
    assert sorted(set(pairs.fold.tolist())) == [1, 2, 3, 5, 6, 7, 8, 9]
    assert data.num_classes == 4
    images, labels = data.train_images()
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]  # F0, F4, M0, M4 by name
    grey = images[:, 0, :, :50].float().mean((1, 2)).round().tolist()
    assert grey == pytest.approx([1, 2, 41, 42, 101, 102, 141, 142], abs=2)
    batch, _ = next(iter(data.train_dataloader()))
    assert batch.shape == (4, 3, 112, 112)
    chosen = LFW(str(lfw), train_folds=(0,), test_folds=(7,)).pair_sets()["lfw"]
    assert set(chosen.fold.tolist()) == {7}


def test_lfw_refuses_leaks_and_nonsense(lfw: Path) -> None:
    with pytest.raises(ValueError, match=r"\[3\] are both"):
        LFW(str(lfw), train_folds=(3,), test_folds=(3, 4))
    with pytest.raises(ValueError, match=r"folds 0\.\.9"):
        LFW(str(lfw), train_folds=(10,))
    people = lfw / "lfw_112" / "people.txt"
    people.write_text(people.read_text().replace("F0_A", "F5_X").replace("F5_A", "F0_A"))
    with pytest.raises(BadList, match="puts F0_A into fold 5"):
        LFW(str(lfw), train_folds=(5,)).setup()


def test_lfw_narrow_crop_and_fingerprint(lfw: Path) -> None:
    narrow = LFW(str(lfw), width=96, divisor=128.0)
    pairs = narrow.pair_sets()["lfw"]
    assert pairs.images.shape[2:] == (112, 96)
    assert torch.equal(pairs.images, LFW(str(lfw)).pair_sets()["lfw"].images[:, :, :, 8:104])
    assert pairs.divisor == 128.0
    prints = [LFW(str(lfw)).fingerprint(), LFW(str(lfw)).fingerprint(), narrow.fingerprint()]
    assert prints[0] == prints[1] != prints[2]
    (lfw / "lfw_112" / "gender.csv").unlink()
    assert LFW(str(lfw)).pair_sets()["lfw"].group_names == ()


def test_lfw_bad_images_are_named(lfw: Path) -> None:
    victim = lfw / "lfw_112" / "M3_B" / "M3_B_0001.jpg"
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    LFW(str(lfw), test_folds=(4,)).setup()  # not needed there
    with pytest.raises((CorruptImage, FileNotFoundError), match=r"M3_B_0002\.jpg|M3_B_0001\.jpg"):
        LFW(str(lfw), train_folds=(3,)).setup()
    save(victim, 5, (250, 250))
    with pytest.raises(CorruptImage, match=r"M3_B_0001\.jpg: the image is 250 high and 250 wide, expected are 112"):
        LFW(str(lfw), train_folds=(3,)).setup()
    shutil.rmtree(lfw / "lfw_112" / "F2_A")
    with pytest.raises(FileNotFoundError, match=r"F2_A_0001\.jpg is named in a list"):
        LFW(str(lfw)).setup()
    with pytest.raises(DatasetNotFound, match="Massachusetts"):
        LFW(str(lfw / "elsewhere")).setup()


# -- RFW and BUPT -----------------------------------------------------------------------------------------------------


def landmark_line(file: str, shift: float) -> str:
    return "\t".join([file, "0", *(f"{value:.3f}" for value in (TEMPLATE_112 + shift).ravel())])


@pytest.fixture
def rfw(tmp_path: Path) -> Path:
    """One genuine and one impostor pair a race; the faces lie 60 pixels right of and below the template."""
    for number, race in enumerate(RACES):
        texts = tmp_path / "RFW" / "test" / "txts" / race
        texts.mkdir(parents=True)
        ids = [f"m.0{race[:2]}", "m.0shared" if number < 2 else f"m.0{race[:2]}2"]
        (texts / f"{race}_pairs.txt").write_text(f"{ids[0]}\t1\t2\n{ids[0]}\t1\t{ids[1]}\t1\n")
        (texts / f"{race}_people.txt").write_text(f"{ids[0]}\t2\n{ids[1]}\t1\nm.empty\t0\n")
        files = [f"{ids[0]}/{ids[0]}_0001.jpg", f"{ids[0]}/{ids[0]}_0002.jpg", f"{ids[1]}/{ids[1]}_0001.jpg"]
        lines = [landmark_line(f"/data/{race}/{file}", 60.0) for file in files]
        (texts / f"{race}_lmk.txt").write_text("\n".join(lines) + "\n")
        for file in files:
            save(tmp_path / "RFW" / "test" / "data" / race / file, 40 * number + 30, (250, 250))
    return tmp_path


@pytest.mark.parametrize("in_memory", [False, True])
def test_rfw_from_images(rfw: Path, in_memory: bool) -> None:
    data = RFW(str(rfw), in_memory=in_memory)
    pairs = data.pair_sets()["rfw"]
    assert pairs.group_names == RACES
    assert pairs.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert pairs.same.tolist() == [True, False] * 4
    assert pairs.fold.tolist() == [0, 1] * 4
    assert len(set(pairs.subject.tolist())) == 7  # one identity occurs in two races
    images = pairs.images[0:12]
    assert images.shape == (12, 3, 112, 112)
    asian = images[pairs.first[2]].float()
    # the seam at column 125 of the original lies at 125 - 60 after alignment
    assert float(asian[:, :, :64].mean()) == pytest.approx(70, abs=2)
    assert float(asian[:, :, 67:].mean()) == pytest.approx(90, abs=2)
    assert data.audit()["African"] == {"identities": 3, "images": 3, "empty": 1}
    assert data.fingerprint() == RFW(str(rfw)).fingerprint()


def test_rfw_without_landmarks_or_lists(rfw: Path) -> None:
    texts = rfw / "RFW" / "test" / "txts"
    (texts / "Asian" / "Asian_lmk.txt").write_text(landmark_line("x/y/z.jpg", 0) + "\n")
    with pytest.raises(BadList, match="no line for Asian/m"):
        _ = RFW(str(rfw)).pair_sets()["rfw"].images[0:12]
    (texts / "Indian" / "Indian_pairs.txt").unlink()
    with pytest.raises(DatasetNotFound, match=r"Beijing[\s\S]*Indian_pairs|Indian_pairs[\s\S]*Beijing"):
        RFW(str(rfw)).setup()
    with pytest.raises(ValueError, match="source"):
        RFW(str(rfw), source="zip")


def jpeg(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (112, 112), (value, value, value)).save(stream, "JPEG")
    return stream.getvalue()


def test_rfw_from_bins(tmp_path: Path) -> None:
    for number, race in enumerate(RACES):
        content = ([jpeg(50 * number + k) for k in (0, 3, 6, 9)], [True, False])
        (tmp_path / f"{race}_test.bin").write_bytes(pickle.dumps(content))
    pairs = RFW(str(tmp_path), folder="", source="bin").pair_sets()["rfw"]
    assert pairs.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert pairs.images.shape == (16, 3, 112, 112)
    assert pairs.first.tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    assert len(set(pairs.subject.tolist())) == 12
    assert float(pairs.images[pairs.second[6]].float().mean()) == pytest.approx(153, abs=1)
    bins = VerificationBins(str(tmp_path), folder="")
    assert sorted(bins.pair_sets()) == [f"{race}_test" for race in RACES]
    assert bins.fingerprint() == VerificationBins(str(tmp_path), folder="").fingerprint()
    with pytest.raises(DatasetNotFound, match=r"none\.bin"):
        VerificationBins(str(tmp_path), folder="", names=("none",)).setup()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bupt_streams_identities_and_groups(tmp_path: Path, num_workers: int) -> None:
    base = tmp_path / "BUPT-Balancedface" / "race_per_7000"
    for number, race in enumerate(RACES):
        for person in range(2):
            for k in range(2):
                save(base / race / f"m.0{person}" / f"{k}.jpg", 50 * number + 20 * person)
    data = BUPTFaces(str(tmp_path), batch_size=4, flip=False, num_workers=num_workers)
    data.setup()
    assert (data.num_classes, len(data.files)) == (8, 16)
    assert data.labels.tolist() == [k // 2 for k in range(16)]
    assert data.groups.tolist() == [k // 4 for k in range(16)]
    seen = []
    for images, labels in data.train_dataloader():
        grey = images[:, 0, :, :50].mean((1, 2)) * 127.5 + 127.5
        assert torch.allclose(grey, 50.0 * (labels // 2) + 20.0 * (labels % 2), atol=2)
        seen += labels.tolist()
    assert sorted(seen) == data.labels.tolist()
    assert BUPTFaces(str(tmp_path), exclude=("m.01",)).fingerprint()["num_classes"] == 4
    save(base / "Asian" / "m.00" / "0.jpg", 9, (400, 400))
    with pytest.raises(CorruptImage, match=r"Asian/m\.00/0\.jpg: the image is 400 high"):
        list(data.train_dataloader())
    shutil.rmtree(base / "Indian")
    with pytest.raises(DatasetNotFound, match="Indian does not exist"):
        BUPTFaces(str(tmp_path)).setup()


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
