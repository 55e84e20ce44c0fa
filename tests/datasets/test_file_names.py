"""Names in the lists of strangers: none leads out of its folder, by itself or through a link, or to what is no file."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datasets import fingerprint
from datasets.bupt import read_lst
from datasets.errors import BadList, UnsafePath
from datasets.fairface import read_labels
from datasets.file_names import checked_name, inside, read_inside, read_regular
from datasets.image_folder import ImageFolder, read_images_csv, read_pairs_csv
from datasets.images import FORMATS, ImageFiles, decode
from datasets.lists import read_lines
from datasets.pair_lists import read_calfw, read_lfw_people, read_rfw_pairs
from datasets.protocols import read_cfp

OUT = [
    "../x.jpg",
    "a/../../x.jpg",
    "..",
    "/etc/passwd",
    "~/x.jpg",
    "C:\\x.jpg",
    "..\\x.jpg",
    "\\x.jpg",
    "",
    ".",
    "./",
    "a\0b",
    "a\nb",
]
LONG = ["x" * 256, "x" * 200 + "\\" + "x" * 200, "x/" * 600 + "a.jpg", "é" * 130]


@pytest.mark.parametrize("name", [*OUT, *LONG, "a\x1b[31mb", "\ud800"])
def test_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(UnsafePath, match=r"list\.txt, line 3"):
        checked_name(name, "list.txt, line 3")


@pytest.mark.parametrize(
    "name",
    ["a.jpg", "a/b/c.jpg", ".hidden/a", "..a/b..", "a b.jpg", "é/😀.png", "a\\b.jpg", "x" * 255, "./a.jpg", "C:x"],
)
def test_names_inside_are_kept(name: str) -> None:
    assert checked_name(name, "") == name


LISTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "rfw pairs": (read_rfw_pairs, "{}\t1\t3\n"),
    "lfw people": (read_lfw_people, "1\n1\n{}\t2\n"),
    "calfw": (read_calfw, "{} 1\nb.jpg 1\n"),
    "train.lst": (read_lst, "1\t{}\t0\n"),
    "fairface": (read_labels, "file,age,gender,race,service_test\n{},3-9,Male,White,True\n"),
    "images csv": (read_images_csv, "path,label\n{},1\n"),
    "pairs csv": (read_pairs_csv, "a,b,same\n{},b.jpg,1\n"),
}


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a\0b"])
@pytest.mark.parametrize("kind", LISTS)
def test_lists_refuse_them(tmp_path: Path, kind: str, name: str) -> None:
    read, text = LISTS[kind]
    (tmp_path / "list").write_text(text.format(name))
    with pytest.raises(UnsafePath, match=r"list, line \d"):
        read(tmp_path / "list")


def test_cfp_refuses_them(tmp_path: Path) -> None:
    (tmp_path / "Protocol").mkdir()
    for kind in "FP":
        (tmp_path / "Protocol" / f"Pair_list_{kind}.txt").write_text("1 ../../Data/Images/001/frontal/01.jpg\n")
    with pytest.raises(UnsafePath, match=r"Pair_list_.\.txt, line 1"):
        read_cfp(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set with an image, and links inside, outwards and in a circle."""
    root = tmp_path / "set"
    (root / "sub").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(root / "sub" / "a.png")
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "elsewhere" / "secret.png")
    (root / "inside.png").symlink_to("sub/a.png")
    (root / "outside.png").symlink_to("../elsewhere/secret.png")
    (root / "elsewhere").symlink_to("../elsewhere")
    (root / "circle").symlink_to("circle")
    os.mkfifo(root / "pipe")
    return root


def test_links_may_stay_inside(folder: Path, tmp_path: Path) -> None:
    assert read_inside(folder, "inside.png") == (folder / "sub" / "a.png").read_bytes()
    (tmp_path / "moved").symlink_to(folder)  # the whole set may lie elsewhere
    assert ImageFiles(tmp_path / "moved", ("sub/a.png",), (8, 8))[0].shape == (3, 8, 8)


@pytest.mark.parametrize("name", ["outside.png", "elsewhere/secret.png"])
def test_links_that_lead_out_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(UnsafePath, match="outside its data set"):
        inside(folder, name)
    with pytest.raises(UnsafePath, match="outside its data set"):
        ImageFiles(folder, (name,), (8, 8)).image(name)


@pytest.mark.parametrize(("name", "message"), [("pipe", "a pipe"), ("sub", "a folder"), ("circle", "in a circle")])
def test_what_is_no_file_is_refused_without_waiting(folder: Path, name: str, message: str) -> None:
    for read in (lambda: read_inside(folder, name), lambda: fingerprint.of_file(folder / name)):
        with pytest.raises(UnsafePath, match=message):
            read()
    if name != "circle":
        with pytest.raises(UnsafePath, match=message):
            read_lines("lfw", folder / name)
    with pytest.raises(FileNotFoundError, match="a part of it is a file"):
        read_regular(folder / "sub" / "a.png" / "b")


def test_a_fingerprint_does_not_read_what_may_not_be_read(folder: Path) -> None:
    (folder / "images.csv").write_text("path,label\nsub/a.png,1\noutside.png,2\n")
    data = ImageFolder(str(folder.parent), folder="set", height=8, width=8)
    with pytest.raises(UnsafePath, match="outside its data set"):
        data.fingerprint()


def test_a_fold_is_a_small_number(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("a,b,same,fold\na.jpg,b.jpg,1,1000\n")
    with pytest.raises(BadList, match="integer <= 999"):
        read_pairs_csv(tmp_path / "pairs.csv")


@pytest.mark.parametrize("form", FORMATS)
def test_formats_that_are_decoded(tmp_path: Path, form: str) -> None:
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "image", form)
    assert decode((tmp_path / "image").read_bytes(), "image").size == (8, 8)
