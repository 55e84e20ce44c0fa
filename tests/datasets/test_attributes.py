"""Attribute sets: generated faces with a known gap, and the readers of the official formats on miniature trees."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.attribute_augmentation import CHANGES, augmented, warped
from datasets.attributes import PARTS, AttributeImages, AttributePart, Task, split_by_photograph
from datasets.celeba import NAMES, CelebA, read_attributes, read_numbers
from datasets.errors import BadList, DatasetNotFound
from datasets.fairface_attributes import FairFaceAttributes
from datasets.generated_attributes import GeneratedAttributes
from datasets.imagenet_people import ImageNetPeople
from datasets.utkface import UTKFace, read_name

SMALL: dict[str, Any] = {"train": 96, "validation": 32, "test": 64, "images_per_person": 2, "batch_size": 16}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> GeneratedAttributes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRPRESS_CACHE", str(tmp_path_factory.mktemp("rendered")))
        data = GeneratedAttributes(**SMALL, attribute=("worn", "beard"))
        data.setup()
    return data


def save(path: Path, value: int, size: tuple[int, int] = (32, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).save(path, format="JPEG", quality=95)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRPRESS_CACHE", str(tmp_path / "cache"))


# -- generated faces --------------------------------------------------------------------------------------------------


def test_what_is_worn_is_independent_of_the_group(generated: GeneratedAttributes) -> None:
    for name in PARTS:
        labels, groups = generated.part(name).labels[:, 0], generated.groups(name)
        for g in range(4):
            counts = labels[groups == g].bincount(minlength=4)
            assert counts.max() - counts.min() <= 1


def test_shares_are_planted_in_the_training_part_only(generated: GeneratedAttributes) -> None:
    assert [len(generated.part(name)) for name in PARTS] == [96, 32, 64]
    assert generated.groups("train").bincount().tolist() == [38, 26, 20, 12]
    assert generated.groups("test").bincount().tolist() == [16] * 4


def test_people_of_the_parts_are_different_and_belong_to_one_group(generated: GeneratedAttributes) -> None:
    images = [generated.part(name).images.flatten(1).float() for name in PARTS]
    assert torch.cdist(images[0], images[2]).min() > 100
    part, groups = generated.part("test"), generated.groups("test")
    assert all(len(groups[part.subject == person].unique()) == 1 for person in part.subject.unique())


def test_planted_groups_are_blurred_and_dark_and_identical_ones_are_not() -> None:
    """Difficulty is what it is said to be: contrast falls from group to group, and not where groups are identical."""

    def contrast(**options: Any) -> list[float]:
        data = GeneratedAttributes(**{**SMALL, "train": 160, "validation": 16, "test": 16}, **options)
        data.setup()
        pixels = data.part("train").images.float()
        return [float(pixels[data.groups("train") == g].std(dim=(1, 2, 3)).mean()) for g in range(4)]

    equal = (0.25,) * 4
    planted, same = contrast(group_share=equal), contrast(groups="identical", group_share=equal)
    assert planted[0] > planted[2] + 5
    assert planted[0] > planted[3] + 5
    assert max(same) - min(same) < 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attribute": "hat"}, "There is no task hat; generated faces have worn, beard"),
        ({"group": "race"}, "There is no group column 'race'; GeneratedAttributes has group"),
        ({"group": "groups"}, "Did you mean 'group'"),
        ({"degraded": (1.0, 2.0)}, "expected 4 factors"),
        ({"size": 16}, "at least 32 pixels"),
        ({"group_share": (0.5, 0.5, 0.5, 0.5)}, "sum to 2; expected 1"),
    ],
    ids=["task", "column", "typo", "factors", "size", "shares"],
)
def test_generated_arguments_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GeneratedAttributes(**{**SMALL, **options})


# -- the interface ----------------------------------------------------------------------------------------------------


class Made(AttributeImages):
    """Twelve images of two tasks and two group columns."""

    KEY = "made"
    image_size = (8, 8)

    def __init__(self, change: Any = None, **options: Any) -> None:
        tasks = [Task("smile", ("no", "yes")), Task("hair", ("a", "b", "c"))]
        columns = {"race": ("x", "y"), "gender": ("m", "f")}
        super().__init__(tasks, columns, **{"group": "race", "batch_size": 4, **options})
        self.change = change

    def read(self) -> dict[str, AttributePart]:
        i = torch.arange(12)
        parts = {}
        for name in PARTS:
            groups = {"race": i % 2, "gender": i // 2 % 2}
            labels = torch.stack([i % 2, i % 3], dim=1)
            if self.change is not None:
                self.change(name, labels, groups)
            images = (i * 20).to(torch.uint8)[:, None, None, None].expand(12, 3, 8, 8).clone()
            parts[name] = AttributePart(images, labels, groups, i)
        return parts


def test_batches_carry_all_tasks_and_intersections_are_row_major() -> None:
    data = Made(group="race x gender")
    assert data.group_names == ("x, m", "x, f", "y, m", "y, f")
    assert data.num_classes == 5
    images, labels, groups = next(data.batches("test", 6))
    assert images.shape == (6, 3, 8, 8)
    assert labels.shape == (6, 2)
    assert groups.tolist() == [0, 2, 1, 3, 0, 2]
    first, again = ([batch[1] for batch in data.train_dataloader()] for _ in range(2))
    assert len(first) == 3
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    order = torch.tensor([5, 1])
    assert next(data.batches("train", 8, order))[1].tolist() == [[1, 2], [1, 1]]


def test_augmentation_depends_on_the_image_and_the_epoch_alone() -> None:
    seen: list[float] = []

    def note(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        seen.append(float(rng.random()))
        return image

    data = Made(augment=note)
    loader = data.train_dataloader()
    for epoch in (0, 0, 1):
        loader.set_epoch(epoch)
        list(loader)
    assert seen[:12] == seen[12:24] != seen[24:]
    assert len(set(seen[:12])) == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, y, g: y.__setitem__((0, 1), 7), "Labels of hair in the train part lie in 0..7; 3 classes"),
        (
            lambda n, y, g: g["race"].fill_(0) if n == "train" else None,
            "training part of Made has no image of race y",
        ),
        (lambda n, y, g: g["gender"].fill_(4), r"Codes of gender in the train part lie in 4..4; 2 groups \(m, f\)"),
    ],
    ids=["label", "missing group", "code"],
)
def test_labels_and_groups_out_of_range(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Made(change).setup()


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_group_that_cannot_be_compared_is_said(part: str) -> None:
    with pytest.warns(UserWarning, match=f"The {part} part of Made has no image of race y"):
        Made(lambda n, y, g: g["race"].fill_(0) if n == part else None).setup()


def test_faces_of_a_photograph_stay_together() -> None:
    photographs = [f"{i // 3}.jpg" for i in range(300)]
    found = split_by_photograph(photographs)
    assert [len(found[name]) for name in PARTS] == [240, 30, 30]
    parts = [{photographs[i] for i in index} for index in found.values()]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    shuffled = split_by_photograph(photographs[::-1])
    assert {photographs[::-1][i] for i in shuffled["test"]} == parts[2]


# -- FairFace -----------------------------------------------------------------------------------------------------------


def fairface(root: Path, races: tuple[str, ...], each: int) -> None:
    for split in ("train", "val"):
        rows = ["file,age,gender,race,service_test"]
        for i, race in enumerate(races):
            for k in range(each):
                file = f"{split}/{i * each + k + 1}.jpg"
                rows.append(f"{file},20-29,{('Male', 'Female')[k % 2]},{race},True")
                save(root / "fairface" / file, 40 * i)
        (root / "fairface" / f"fairface_label_{split}.csv").write_text("\n".join(rows) + "\n")


def test_fairface_parts_labels_and_joint_classes(tmp_path: Path) -> None:
    races = ("White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian", "Middle Eastern")
    fairface(tmp_path, races, 20)
    data = FairFaceAttributes(str(tmp_path), attribute="race x gender", size=16, split="published")
    data.setup()
    assert [len(data.part(name)) for name in PARTS] == [126, 14, 140]
    assert data.num_classes == 14
    assert data.class_names[:3] == ("White, Male", "White, Female", "Black, Male")
    test = data.part("test")
    assert test.labels[:, 0].tolist() == [2 * race + k % 2 for race in range(7) for k in range(20)]
    assert abs(float(test.images[20].float().mean()) - 40) < 3
    pooled = FairFaceAttributes(str(tmp_path), size=16)
    assert [len(pooled.part(name)) for name in PARTS] == [224, 28, 28]
    imbalanced = FairFaceAttributes(str(tmp_path), size=16, imbalanced=True)
    races_left = torch.cat([imbalanced.groups(name) for name in PARTS]).bincount(minlength=7)
    assert races_left[0] == 40
    assert 30 < int(races_left[1:].sum()) < 70
    assert data.fingerprint() != pooled.fingerprint()


def test_images_are_decoded_once_and_again_when_a_file_changes(tmp_path: Path) -> None:
    fairface(tmp_path, ("White", "Black"), 20)
    first = FairFaceAttributes(str(tmp_path), group="gender", size=16, split="published")
    before = first.part("test").images.clone()
    save(tmp_path / "fairface" / "val" / "1.jpg", 250)
    again = FairFaceAttributes(str(tmp_path), group="gender", size=16, split="published").part("test").images
    assert int((before != again).flatten(1).any(1).sum()) == 1


def test_fairface_that_is_not_there_and_unknown_arguments(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match=r"FairFace is not there: (.|\n)*Nothing is downloaded"):
        FairFaceAttributes(str(tmp_path)).setup()
    with pytest.raises(ValueError, match="attribute is 'mood'"):
        FairFaceAttributes(str(tmp_path), attribute="mood")
    with pytest.raises(ValueError, match=r"There is no group column 'rase'.*Did you mean 'race'"):
        FairFaceAttributes(str(tmp_path), group="rase")
    with pytest.raises(ValueError, match="split is 'random'"):
        FairFaceAttributes(str(tmp_path), split="random")


# -- UTKFace ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("26_1_2_20170116174525125.jpg.chip.jpg", (26, 1, 2)),
        ("116_0_4_20170116174525125.jpg", (116, 0, 4)),
        ("55_0_0_20170116232725357jpg.chip.jpg", (55, 0, 0)),
        ("39_1_20170116174525125.jpg.chip.jpg", None),
        ("61_1_20170109142408075.jpg.chip.jpg", None),
    ],
    ids=["usual", "plain", "no dot", "no race", "no race either"],
)
def test_utkface_names(name: str, expected: tuple[int, int, int] | None) -> None:
    assert read_name(name) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("26_2_2_20170116174525125.jpg.chip.jpg", "the gender is 2, expected 0..1"),
        ("26_1_5_20170116174525125.jpg.chip.jpg", "the race is 5, expected 0..4"),
        ("126_1_1_20170116174525125.jpg.chip.jpg", "the age is 126, expected 0..116"),
        ("portrait.jpg", "is no file name of UTKFace"),
        ("26_\u0663_0_20170104023102422.jpg.chip.jpg", "is no file name of UTKFace"),  # a digit of another script
    ],
    ids=["gender", "race", "age", "other", "other digits"],
)
def test_utkface_names_that_say_no_labels(name: str, message: str) -> None:
    with pytest.raises(BadList, match=message):
        read_name(name)


def test_utkface_leaves_others_and_nameless_out(tmp_path: Path) -> None:
    for i in range(60):
        save(tmp_path / "UTKFace" / f"{20 + i}_{i % 2}_{i // 2 % 5}_201701161745251{i:02}.jpg.chip.jpg", 2 * i)
    save(tmp_path / "UTKFace" / "39_1_20170116174525125.jpg.chip.jpg", 0)
    data = UTKFace(str(tmp_path), attribute=("race", "gender"), size=16)
    data.setup()
    assert sum(len(data.part(name)) for name in PARTS) == 48
    assert data.num_classes == 6
    assert data.left_out == ("39_1_20170116174525125.jpg.chip.jpg",)
    assert data.tasks[0].classes == ("White", "Black", "Asian", "Indian")
    assert data.group_names == ("Male", "Female")
    with pytest.raises(DatasetNotFound, match="UTKFace is not there"):
        UTKFace(str(tmp_path / "elsewhere")).setup()


# -- CelebA -----------------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "fairgrape" / "celeba"


def test_celeba_lists_are_read_as_torchvision_reads_them() -> None:
    files, names, values = read_attributes(GOLDEN / "list_attr_celeba.txt")
    people = read_numbers(GOLDEN / "identity_CelebA.txt", files)
    part = read_numbers(GOLDEN / "list_eval_partition.txt", files, 2)
    with np.load(GOLDEN / "celeba.npz") as expected:
        assert names == tuple(expected["names"].tolist())
        for i, name in enumerate(("train", "valid", "test")):
            at = part == i
            assert [file for file, chosen in zip(files, at, strict=True) if chosen] == expected[
                f"{name}_files"
            ].tolist()
            np.testing.assert_array_equal(values[at], expected[f"{name}_attr"])
            np.testing.assert_array_equal(people[at], expected[f"{name}_identity"])


def celeba(root: Path, count: int = 40) -> Path:
    folder = root / "celeba"
    folder.mkdir()
    rows = [str(count), " ".join(NAMES) + " "]
    for i in range(count):
        values = [" 1" if (i >> (a % 5)) & 1 else "-1" for a in range(len(NAMES))]
        rows.append(f"{i + 1:06}.jpg  {'  '.join(values)}")
        save(folder / "img_align_celeba" / f"{i + 1:06}.jpg", 5 * i)
    (folder / "list_attr_celeba.txt").write_text("\r\n".join(rows) + "\r\n")
    return folder


def test_celeba_predicts_39_attributes_and_names_its_groups(tmp_path: Path) -> None:
    folder = celeba(tmp_path)
    data = CelebA(str(tmp_path), size=16)
    data.setup()
    assert len(data.tasks) == 39
    assert data.num_classes == 78
    assert "Male" not in {task.name for task in data.tasks}
    assert data.group_names == ("female", "male")
    part = data.part("train")
    male = NAMES.index("Male") % 5
    index = (part.images[:, 0].float().mean((1, 2)) / 5).round().long()
    assert torch.equal(data.groups("train"), (index >> male) & 1)
    (folder / "list_eval_partition.txt").write_text("\n".join(f"{i + 1:06}.jpg {i % 3}" for i in range(40)) + "\n")
    assert len(CelebA(str(tmp_path), size=16, split="published").part("test")) == 13


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("000001.jpg  -1", "000001.jpg  0"), "line 3: an attribute is '0', expected 1 or -1"),
        (lambda text: text.replace("40", "41", 1), "announces 41 images and lists 40"),
        (lambda text: text.replace("Young", "Smiling"), "line 2: an attribute is named twice"),
        (lambda text: text.replace("Male", "Mail"), "line 2: Male is not among the attributes"),
        (lambda text: text.replace("000003.jpg", "../3.jpg"), "leads out of its folder"),
        (lambda text: text.replace("000002.jpg", "000001.jpg"), "names an image twice"),
    ],
    ids=["value", "count", "twice", "missing", "path", "image"],
)
def test_celeba_lists_that_are_damaged(tmp_path: Path, damage: Any, message: str) -> None:
    path = celeba(tmp_path) / "list_attr_celeba.txt"
    path.write_text(damage(path.read_text()))
    with pytest.raises(BadList, match=message):
        CelebA(str(tmp_path), size=16).setup()


def test_celeba_attributes_that_there_are_not(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="CelebA has no attribute Beard; it has 5_o_Clock_Shadow"):
        CelebA(str(tmp_path), attributes=("Beard",))


# -- ImageNet -----------------------------------------------------------------------------------------------------------


def test_imagenet_people(tmp_path: Path) -> None:
    rows = ["image_name,face_name_align,classes,gender"]
    for i in range(40):
        name = f"n{9618880 + i % 4:08}_{i}.JPEG"
        rows.append(f"{name},{name},{i % 4},{i // 4 % 2}")
        save(tmp_path / "imagenet_people" / "images" / name, 6 * i)
    path = tmp_path / "imagenet_people" / "Imagenet.csv"
    path.write_text("\n".join(rows) + "\n")
    data = ImageNetPeople(str(tmp_path), classes=4, size=16)
    assert torch.cat([data.part(name).labels[:, 0] for name in PARTS]).bincount().tolist() == [10] * 4
    assert data.group_names == ("Male", "Female")
    for old, new, message in (
        ("_1.JPEG,1,", "_1.JPEG,2,", "n09618881 is class 1 here and class 2 before"),
        ("_1.JPEG,1,0", "_1.JPEG,9,0", "expected an integer <= 3, got 9"),
        ("_1.JPEG,1,0", "_1.JPEG,1,2", "expected an integer <= 1, got 2"),
        ("n09618881_1.JPEG,n0", "person.jpg,n0", "'person.jpg' is no image of ImageNet"),
    ):
        path.write_text(("\n".join(rows) + "\n").replace(old, new, 1))
        with pytest.raises(BadList, match=message):
            ImageNetPeople(str(tmp_path), classes=4, size=16).setup()
    shutil.rmtree(tmp_path / "imagenet_people")
    with pytest.raises(DatasetNotFound, match="demographic annotations is not there"):
        ImageNetPeople(str(tmp_path)).setup()


# -- FairGRAPE's augmentation ----------------------------------------------------------------------------------------


def test_augmented_images_are_the_same_for_the_same_draw_and_keep_their_form() -> None:
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 24, 20), dtype=np.uint8))
    one, same, other = (augmented(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == image.shape
    assert one.dtype == torch.uint8
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_change_leaves_a_grey_image_near_what_it_was(change: Any) -> None:
    grey = np.full((16, 16, 3), 128, dtype=np.float32)
    for seed in range(8):
        out = np.clip(change(grey, np.random.default_rng(seed)), 0, 255)
        assert out.shape == grey.shape
        assert abs(float(out.mean()) - 128) < 75


def test_the_affine_map_moves_the_middle_by_at_most_what_is_stated() -> None:
    pixels = np.zeros((101, 101, 3), dtype=np.uint8)
    pixels[46:55, 46:55] = 255
    for seed in range(20):
        rows, columns = np.nonzero(warped(pixels, np.random.default_rng(seed))[:, :, 0] > 127)
        # a tenth of the side by translation, a twentieth by the crop, and its enlargement
        assert abs(rows.mean() - 50) < 17
        assert abs(columns.mean() - 50) < 17
        assert 60 < len(rows) < 160
