"""The label files of face attribute sets, as whole data modules read them up to their images."""

from __future__ import annotations

from pathlib import Path

from fuzz_probe import Target
from fuzz_targets_lists import CSV_WORDS, LIST_ERRORS, with_images

from datasets.attribute_files import AttributeFiles
from datasets.celeba import NAMES, CelebA
from datasets.imagenet_people import ImageNetPeople
from datasets.utkface import read_name


def described(data: AttributeFiles) -> None:
    """What the label files say is of equal length and in range."""
    faces = data.faces()
    assert len(faces.files) == len(faces.photographs) == len(faces.subject) == len(set(faces.files))
    for name, codes in faces.columns.items():
        assert len(codes) == len(faces), name
        assert codes.min() >= -1, name


def celeba(root: Path, attributes: bytes, parts: bytes, people: bytes) -> None:
    files = {"list_attr_celeba": attributes, "list_eval_partition": parts, "identity_CelebA": people}
    for name, data in files.items():
        (root / "images" / f"{name}.txt").write_bytes(data)
    described(CelebA(str(root), folder="images", split="published"))


def imagenet_people(root: Path, data: bytes) -> None:
    (root / "images" / "Imagenet.csv").write_bytes(data)
    described(ImageNetPeople(str(root), folder="images", classes=4))


def utkface_name(_root: Path, data: bytes) -> None:
    found = read_name(data.decode(errors="surrogateescape"))
    assert found is None or (0 <= found[0] <= 116 and found[1] in (0, 1) and 0 <= found[2] < 5)


CELEBA_ATTRIBUTES = "\n".join(
    ["2", " ".join(NAMES), f"000001.jpg {' '.join(['1', '-1'] * 20)}", f"000002.jpg {'  '.join(['-1'] * 40)}", ""]
).encode()
CELEBA_PARTS, CELEBA_PEOPLE = b"000001.jpg 0\n000002.jpg 2\n", b"000001.jpg 2880\n000002.jpg 1\n"
PEOPLE = b"image_name,classes,gender\nn09618880_1589.JPEG,0,1\nn10000001_1.JPEG,3,0\nn09618880_2.JPEG,0,0\n"

TARGETS = [
    Target(
        "celeba", celeba, lambda: [(CELEBA_ATTRIBUTES, CELEBA_PARTS, CELEBA_PEOPLE)], LIST_ERRORS,
        (b" ", b"  ", b"\n", b"\r\n", b"1", b"-1", b"2", b"000001.jpg", b"Male", b"Young", b"\xef\xbb\xbf"),
        prepare=lambda root: with_images(root, "img_align_celeba/000001.jpg"),
    ),
    Target(
        "imagenet_people", imagenet_people, lambda: [(PEOPLE,)], LIST_ERRORS,
        (*CSV_WORDS, b"n09618880_1589.JPEG", b".JPEG", b"_", b"gender", b"classes"),
        prepare=lambda root: with_images(root, "images/n09618880_1589.JPEG"),
    ),
    Target(
        "utkface_name", utkface_name,
        lambda: [(b"26_0_1_20170104023102422.jpg.chip.jpg",), (b"61_1_20170109142408075.jpg.chip.jpg",)],
        LIST_ERRORS, (b"_", b".jpg", b".chip", b"0", b"116", b"4", b"/", b"\0"), named="jpg",
    ),
]  # fmt: skip
