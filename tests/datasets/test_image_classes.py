"""Tiny-ImageNet and folders of ImageNet's form: which label an image gets, and which pixels whoever reads it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from datasets.errors import BadList, CorruptImage, DatasetNotFound, UnsafePath
from datasets.image_classes import CutBatch, CutBatches, FolderLoader, ImageNetFolder, centre_box, random_box
from datasets.imagenet import TinyImageNet, read_ground_truth, read_tiny_validation

WNIDS = ("n01", "n02", "n03")
Batches = list[tuple[torch.Tensor, torch.Tensor]]


def save(path: Path, seed: int, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size).convert(mode).save(path)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-imagenet-200"
    for label, wnid in enumerate(WNIDS):
        for n in range(4):
            save(folder / "train" / wnid / "images" / f"{wnid}_{n}.JPEG", 10 * label + n, mode="L" if n == 3 else "RGB")
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("x\t0\t0\t1\t1\n")
    lines = []
    for n, wnid in enumerate(("n03", "n01", "n03")):
        save(folder / "val" / "images" / f"val_{n}.JPEG", 50 + n)
        lines.append(f"val_{n}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return tmp_path


def test_tiny_imagenet(tiny: Path) -> None:
    data = TinyImageNet(str(tiny), batch_size=4, validation=3, stratified=True)
    data.setup()
    assert [len(data.part(name)) for name in ("train", "validation", "test")] == [9, 3, 3]
    assert data.labels("test").tolist() == [2, 0, 2]
    assert data.labels("validation").tolist() == [0, 1, 2]
    assert (data.num_classes, data.class_names, data.image_size) == (3, WNIDS, (64, 64))
    pixels = np.asarray(Image.open(tiny / "tiny-imagenet-200/val/images/val_1.JPEG"))
    np.testing.assert_array_equal(data.test.images[1].permute(1, 2, 0), pixels)
    assert next(iter(data.train_dataloader()))[0].shape == (4, 3, 64, 64)
    assert [note.split(": ")[1] for note in data.notes] == [
        "12 training images, published are 100000.",
        "3 validation images, published are 10000.",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("val_0.JPEG\tn01\n", "line 1: expected 6 tab-separated fields, got 2"),
        ("val_0.JPEG\tn99\t0\t0\t1\t1\n", "'n99' is no class"),
        ("../../secret\tn01\t0\t0\t1\t1\n", "no file name"),
    ],
)
def test_tiny_validation_list(tiny: Path, line: str, message: str) -> None:
    folder = tiny / "tiny-imagenet-200"
    (folder / "val" / "val_annotations.txt").write_text(line)
    with pytest.raises(BadList, match=message):
        read_tiny_validation(folder, WNIDS)


def test_tiny_trouble(tiny: Path) -> None:
    folder = tiny / "tiny-imagenet-200"
    save(folder / "val" / "images" / "val_1.JPEG", 0, size=(64, 56))
    with pytest.raises(CorruptImage, match=r"val_1.JPEG: the image is 56 high and 64 wide"):
        TinyImageNet(str(tiny), validation=0).setup()
    shutil.rmtree(folder / "train" / "n02" / "images")
    with pytest.raises(DatasetNotFound, match=r"n02/images does not exist"):
        TinyImageNet(str(tiny), validation=0).setup()
    with pytest.raises(DatasetNotFound, match="Stanford"):
        TinyImageNet(str(tiny / "nowhere")).setup()


# -- ImageNet ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, wnid in enumerate(WNIDS):
        for n in range(4):
            save(tmp_path / "imagenet" / "train" / wnid / f"{wnid}_{n}.JPEG", 10 * label + n, size=(40 + 8 * n, 48))
        save(tmp_path / "imagenet" / "val" / wnid / f"ILSVRC2012_val_{label}.JPEG", 40 + label, size=(56, 40))
    return tmp_path


def imagenet(root: Path, **options: Any) -> ImageNetFolder:
    return ImageNetFolder(str(root), **({"size": 32, "batch_size": 4, "num_workers": 0, "seed": 5} | options))


def epoch(loader: FolderLoader, number: int) -> Batches:
    loader.set_epoch(number)
    return list(loader)


def same(ours: Batches, theirs: Batches) -> bool:
    pairs = list(zip(ours, theirs, strict=True))
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def test_folder_parts_and_central_crops(folder: Path) -> None:
    data = imagenet(folder, validation=3, stratified=True)
    (images, labels), *rest = list(data.test_dataloader())
    assert not rest
    assert labels.tolist() == [0, 1, 2]
    assert (data.num_classes, data.class_names) == (3, WNIDS)
    assert data.labels("validation").tolist() == [0, 1, 2]
    assert len(data.labels("train")) == 9
    assert data.listed["train"].files[:3] == tuple(f"n01/n01_{n}.JPEG" for n in range(4) if n != drawn(data))
    image = Image.open(folder / "imagenet/val/n02/ILSVRC2012_val_1.JPEG")
    crop = image.resize((32, 32), Image.Resampling.BILINEAR, (10.5, 2.5, 45.5, 37.5))
    expected = data.normalisation(torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None])
    assert torch.equal(images[1:2], expected)


def drawn(data: ImageNetFolder) -> int:
    """Number of the validation image of the first class."""
    return int(data.listed["validation"].files[0][-6])


def test_crops_of_an_image_follow_seed_and_epoch(folder: Path) -> None:
    batches = imagenet(folder).train_dataloader().dataset
    still = torch.tensor([False])
    views = [batches[CutBatch(torch.tensor([7]), still, *key)][0] for key in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert torch.equal(views[0], views[3])
    assert not any(torch.equal(views[0], other) for other in views[1:3])


def test_training_batches_depend_on_seed_and_epoch_only(folder: Path) -> None:
    first = imagenet(folder).train_dataloader()
    epoch(first, 3)
    again = imagenet(folder, num_workers=2).train_dataloader()
    assert same(epoch(first, 1), epoch(again, 1))
    assert not same(epoch(first, 0), epoch(first, 1))
    assert not same(epoch(first, 0), epoch(imagenet(folder, seed=6).train_dataloader(), 0))


def test_two_processes_see_what_one_sees_and_a_resume_changes_nothing(folder: Path) -> None:
    whole = imagenet(folder).train_dataloader()
    expected = epoch(whole, 2)
    for rank in range(2):
        sampler = CutBatches(12, 4, 5, True, rank=rank, world=2)
        half = epoch(FolderLoader(whole.dataset, sampler=sampler), 2)  # type: ignore[arg-type]
        assert same(half, [(x[rank::2], y[rank::2]) for x, y in expected])
    whole.set_epoch(2)
    next(iterator := iter(whole))
    resumed = imagenet(folder).train_dataloader()
    resumed.load_state_dict(whole.state_dict())
    assert same(epoch(resumed, 2), expected[1:])
    del iterator


def test_crops_lie_inside_the_image_and_have_the_asked_shape() -> None:
    generator = np.random.default_rng(0)
    boxes = np.array([random_box(100, 60, generator) for _ in range(2000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 100
    assert boxes[:, 3].max() <= 60
    area, ratio = width * height / 6000, width / height
    assert 0.07 < area.min() < 0.1
    assert 0.72 < ratio.min() < ratio.max() < 1.37
    assert random_box(1000, 2, generator) == pytest.approx((500 - 4 / 3, 0, 500 + 4 / 3, 2))
    assert centre_box(256, 512) == (16, 144, 240, 368)


def test_flat_validation_images_with_the_development_kit(folder: Path) -> None:
    base = folder / "imagenet"
    shutil.rmtree(base / "val")
    for n in range(1, 5):
        save(base / "val" / f"ILSVRC2012_val_{n:08d}.JPEG", n)
    kit = base / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    rows = [(1, "n03", 0), (2, "n01", 0), (3, "n02", 0), (4, "n00", 3)]
    dtype = [("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)]
    savemat(kit / "meta.mat", {"synsets": np.array(rows, dtype=dtype)[:, None]})
    truth = kit / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1\n2\n3\n1\n")
    data = imagenet(folder)
    assert data.labels("test").tolist() == [2, 0, 1, 2]
    assert next(iter(data.test_dataloader()))[0].shape == (4, 3, 32, 32)
    truth.write_text("1\n2\n3\n")
    with pytest.raises(BadList, match="4 images, the development kit 3 labels"):
        imagenet(folder).setup()
    truth.write_text("4\n")
    with pytest.raises(BadList, match="line 1: id 4 is None"):
        read_ground_truth(base, WNIDS)
    for fields, row, message in (
        (dtype[1:], ("n01", 0), "no structure 'synsets' with ILSVRC2012_ID"),
        (dtype, ("x", "n01", 0), "no number where its id"),
        (dtype, (np.nan, "n01", 0), "no number where its id"),
        (dtype, (1, 5, 0), "a class has no name"),
    ):
        savemat(kit / "meta.mat", {"synsets": np.array([row], dtype=fields)[:, None]}, do_compression=True)
        with pytest.raises(BadList, match=message):
            read_ground_truth(base, WNIDS)
    (kit / "meta.mat").write_bytes(b"MATLAB" * 30)
    with pytest.raises(BadList, match="is not ImageNet's meta"):
        read_ground_truth(base, WNIDS)


def test_folder_trouble(folder: Path) -> None:
    (folder / "imagenet" / "val" / "n03").rename(folder / "imagenet" / "val" / "n04")
    with pytest.raises(BadList, match="one of them lacks n03"):
        imagenet(folder).setup()
    (folder / "imagenet" / "val" / "n04").rename(folder / "imagenet" / "val" / "n03")
    (folder / "imagenet" / "train" / "n01" / "n01_2.JPEG").write_bytes(b"no image")
    with pytest.raises(CorruptImage, match=r"n01_2.JPEG: 8 bytes"):
        epoch(imagenet(folder).train_dataloader(), 0)
    for file in (folder / "imagenet" / "train" / "n02").iterdir():
        file.unlink()
    with pytest.raises(DatasetNotFound, match=r"n02/\*.JPEG does not exist"):
        imagenet(folder).setup()
    with pytest.raises(ValueError, match="size must be >= 1"):
        imagenet(folder, size=0)


def test_links_out_of_the_folder_are_not_followed(folder: Path) -> None:
    file = folder / "imagenet" / "train" / "n01" / "n01_2.JPEG"
    file.rename(folder / "elsewhere.JPEG")
    file.symlink_to(folder / "elsewhere.JPEG")
    with pytest.raises(UnsafePath, match="outside its data set"):
        epoch(imagenet(folder).train_dataloader(), 0)


def test_fingerprint_follows_files_and_split(folder: Path) -> None:
    base = imagenet(folder).fingerprint()
    assert base == imagenet(folder, seed=1, batch_size=2).fingerprint()
    assert base != imagenet(folder, validation=3).fingerprint()
    save(folder / "imagenet" / "train" / "n01" / "n01_2.JPEG", 77, size=(72, 72))
    assert base != imagenet(folder).fingerprint()
