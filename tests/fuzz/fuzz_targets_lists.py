"""Lists: pairs, people, labels, csv files, landmarks, protocols; and whole data modules on them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_files import GOLDEN, agedb_protocol, matlab, picture
from fuzz_probe import Target, furnish
from PIL import Image

from datasets.bupt import read_lst
from datasets.errors import BadList, CorruptImage, DatasetNotFound
from datasets.fairface import read_labels
from datasets.image_folder import ImageFolder
from datasets.images import ImageFiles
from datasets.insightface import read_property
from datasets.lfw import LFW
from datasets.pair_lists import (
    PairList,
    read_calfw,
    read_cplfw,
    read_lfw_dev_pairs,
    read_lfw_pairs,
    read_lfw_people,
    read_rfw_pairs,
)
from datasets.protocols import agedb_gender, agedb_subject, cfp_subject, read_agedb, read_cfp
from datasets.rfw import Aligned, read_landmarks, read_people

LIST_ERRORS = (BadList, DatasetNotFound)
IMAGE_ERRORS = (*LIST_ERRORS, CorruptImage, FileNotFoundError)
CSV_WORDS = (
    b'"',
    b'""',
    b'"a,b"',
    b'"a\nb"',
    b",",
    b"\r",
    b"\n",
    b"path",
    b"label",
    b"train",
    b"val",
    b"fold",
    b"a.jpg",
    b"0",
    b"1",
)
TAB_WORDS = (b"\t", b"\n", b" ", b"Ada_L", b"Bob", b"1", b"2", b"\r\n", b"\xef\xbb\xbf")
TWO_LINES = "".join(f"A_{k}_0001.jpg 1\nA_{k}_0002.jpg 1\n" for k in range(10)) + "".join(
    f"A_{k}_0001.jpg 0\nB_{k}_0001.jpg 0\n" for k in range(10)
)


def with_images(root: Path, *names: str, side: int = 8) -> None:
    """A folder of images with the traps of the data root in it."""
    (root / "images").mkdir(exist_ok=True)
    for name in names:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_bytes(picture("JPEG", size=(side, side), seed=len(name)))
    furnish(root / "images", root.parent / "outside")


def open_images(root: Path, files: tuple[str, ...], count: int = 4) -> None:
    """Open what a list names, as every reader of images does; a missing image is no finding."""
    for file in files[:count]:
        with contextlib.suppress(CorruptImage, BadList, FileNotFoundError):
            ImageFiles(root / "images", (file,), (8, 8)).image(file)


def listed(name: str, read: Callable[[Path], Any], *texts: str, words: tuple[bytes, ...] = TAB_WORDS) -> Target:
    """A parser of one list file, whose images are opened afterwards."""

    def run(root: Path, data: bytes) -> None:
        (root / "list").write_bytes(data)
        found = read(root / "list")
        files = found.files() if isinstance(found, PairList) else getattr(found, "files", ())
        if isinstance(found, PairList):
            assert len(found.second) == len(found.same) == len(found.fold) == len(found)
            assert 0 <= found.fold.min() <= found.fold.max() < max(len(found), 1000)
        open_images(root, tuple(files))

    seeds = [(text.encode(),) for text in texts]
    return Target(
        name,
        run,
        lambda: seeds,
        IMAGE_ERRORS,
        words,
        prepare=lambda root: with_images(root, "a.jpg", "Ada_L/Ada_L_0001.jpg"),
    )


def golden_text(name: str) -> str:
    return (GOLDEN / "_datasets" / name).read_text()


# -- whole data modules ---------------------------------------------------------------------------------------------------


def image_folder(root: Path, images: bytes, pairs: bytes) -> None:
    (root / "images" / "images.csv").write_bytes(images)
    (root / "images" / "pairs.csv").write_bytes(pairs)
    data = ImageFolder(str(root), folder="images", pairs="pairs.csv", height=8, width=8, batch_size=2)
    data.setup()
    data.split("train")
    data.fingerprint()
    for pair_set in data.pair_sets().values():
        assert pair_set.folds <= 1000


IMAGES_CSV = b"path,label,subject,group,split\na.jpg,1,p,x,train\nb.jpg,2,q,y,train\nc.jpg,2,q,,val\nd.jpg,1,r,x,test\n"
SHORT_IMAGES_CSV, SHORT_PAIRS_CSV = b"path,label\na.jpg,1\nb.jpg,1\n", b"a,b,same\na.jpg,a.jpg,1\n"
PAIRS_CSV = b"a,b,same,fold\nb.jpg,c.jpg,1,0\na.jpg,d.jpg,0,1\n"


def lfw(root: Path, pairs: bytes, people: bytes, gender: bytes) -> None:
    for name, data in (("pairs.txt", pairs), ("people.txt", people), ("gender.csv", gender)):
        (root / "images" / name).write_bytes(data)
    data_module = LFW(str(root), folder="images", train_folds=(0,))
    data_module.setup()
    data_module.pair_sets()
    data_module.fingerprint()


LFW_PAIRS = b"2\t1\nAda_L\t1\t2\nAda_L\t1\tBob\t1\nCy\t1\t2\nCy\t1\tDi\t1\n"
LFW_PEOPLE = b"2\n2\nAda_L\t2\nBob\t1\n2\nCy\t2\nDi\t1\n"
LFW_GENDER = b"file,gender\nAda_L/Ada_L_0001.jpg,F\nBob/Bob_0001.jpg,M\nCy/Cy_0001.jpg,\nDi/Di_0001.jpg,M\n"
LFW_FILES = tuple(
    f"{name}/{name}_000{n}.jpg" for name, n in (("Ada_L", 1), ("Ada_L", 2), ("Bob", 1), ("Cy", 1), ("Cy", 2), ("Di", 1))
)


def landmarks(root: Path, data: bytes) -> None:
    (root / "list").write_bytes(data)
    found = read_landmarks(root / "list")
    prepare = Aligned(found)
    for file in [*found][:2]:
        with contextlib.suppress(BadList):  # points of no face
            prepare(Image.new("RGB", (16, 16)), file)


def agedb(root: Path, data: bytes) -> None:
    (root / "list.mat").write_bytes(data)
    pairs = read_agedb(root / "list.mat")
    for file in pairs.files():
        assert agedb_subject(file)
        assert agedb_gender(file) in (-1, 0, 1)
    open_images(root, pairs.files())


def cfp(root: Path, front: bytes, profile: bytes, same: bytes, diff: bytes) -> None:
    for kind, data in (("F", front), ("P", profile)):
        (root / "Protocol" / f"Pair_list_{kind}.txt").write_bytes(data)
    for name, data in (("same", same), ("diff", diff)):
        (root / "Protocol" / "Split" / "FP" / "01" / f"{name}.txt").write_bytes(data)
    pairs = read_cfp(root, "FP")
    for file in pairs.files():
        assert cfp_subject(file) is not None
    open_images(root, pairs.files())


def prepare_cfp(root: Path) -> None:
    with_images(root, "a.jpg")
    for fold in range(1, 11):
        folder = root / "Protocol" / "Split" / "FP" / f"{fold:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("same", "diff"):
            if fold > 1 and not (folder / f"{name}.txt").exists():
                (folder / f"{name}.txt").symlink_to(f"../01/{name}.txt")


LANDMARKS = b"x/m.0a/m.0a_0001.jpg\t0\t1\t2\t3\t2\t2\t4\t1\t6\t3\t6\n" * 2
CFP_LIST = b"1 ../Data/Images/001/frontal/01.jpg\n2 ..\\Data\\Images\\002\\frontal\\01.jpg\n"

TARGETS = [
    listed("lfw_pairs", read_lfw_pairs, "1\t1\nAda_L\t1\t2\nAda_L\t1\tBob\t1\n", golden_text("lfw_pairs.txt")),
    listed("lfw_dev_pairs", read_lfw_dev_pairs, "1\nAda_L\t1\t2\nAda_L\t1\tBob\t1\n"),
    listed("lfw_people", read_lfw_people, "1\n2\nAda_L\t2\nBob\t1\n"),
    listed("rfw_pairs", read_rfw_pairs, "m.0a\t1\t3\nm.0a\t1\tm.0b\t2\n", golden_text("African_pairs.txt")[:2000]),
    listed("rfw_people", read_people, "m.0a\t4\nm.0b\t0\n"),
    listed("calfw", read_calfw, TWO_LINES),
    listed("cplfw", read_cplfw, TWO_LINES),
    listed("train_lst", read_lst, "1\tAfrican/m.0a/1.jpg\t0\n1\tAfrican/m.0b/1.jpg\t1\n"),
    listed("property", read_property, "10,112,112\n", "85742,112,112\n5822653\n", words=CSV_WORDS),
    listed(
        "fairface", read_labels,
        "file,age,gender,race,service_test\na.jpg,3-9,Male,White,True\nb.jpg,20-29,Female,Indian,False\n",
        golden_text("fairface_label_val.csv"), golden_text("fairface_label_val_EXCEL_DAMAGED.csv"),
        words=(*CSV_WORDS, b"03-Sep", b"Male", b"East Asian", b"more than 70", b"True"),
    ),
    Target("landmarks", landmarks, lambda: [(LANDMARKS,)], LIST_ERRORS, TAB_WORDS),
    Target(
        "image_folder", image_folder,
        lambda: [(IMAGES_CSV, PAIRS_CSV), (SHORT_IMAGES_CSV, SHORT_PAIRS_CSV), (IMAGES_CSV, SHORT_PAIRS_CSV)],
        IMAGE_ERRORS, CSV_WORDS, prepare=lambda root: with_images(root, "a.jpg", "b.jpg", "c.jpg", "d.jpg"),
    ),
    Target(
        "lfw", lfw, lambda: [(LFW_PAIRS, LFW_PEOPLE, LFW_GENDER)], IMAGE_ERRORS,
        (*TAB_WORDS, b"Cy", b"Di", b"F", b"M", b","),
        prepare=lambda root: with_images(root, *LFW_FILES, side=112),
    ),
    Target(
        "agedb", agedb,
        lambda: [(matlab(agedb_protocol()),), (matlab(agedb_protocol(1, 1), compress=True),), (matlab({"splits": 1}),)],
        IMAGE_ERRORS, (b"splits", b"\x0e\0\0\0", b"\x0f\0\0\0", b"\x06\0\0\0", b"\x05\0\0\0", b"\x01\0\x04\0"),
        prepare=lambda root: with_images(root, "a.jpg"),
    ),
    Target(
        "cfp", cfp, lambda: [(CFP_LIST, CFP_LIST.replace(b"frontal", b"profile"), b"1,1\n2,2\n", b"1,2\n")],
        IMAGE_ERRORS,
        (b",", b" ", b"1", b"2", b"..", b"\\", b"/", b"\n"), prepare=prepare_cfp,
    ),
]  # fmt: skip
