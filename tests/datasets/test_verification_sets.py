"""The data modules of LFW, RFW and BUPT, on miniature trees in the official layout."""

import io
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.alignment import TEMPLATE_112
from datasets.bupt import BUPTFaces
from datasets.errors import BadList, CorruptImage, DatasetNotFound
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
