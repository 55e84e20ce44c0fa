"""People of ImageNet with an annotated gender: the csv that FairGRAPE made of the demographic annotations.

K. Yang et al., "Towards Fairer Datasets: Filtering and Balancing the Distribution of the People Subtree in the ImageNet
Hierarchy", FAT* 2020. Kept there: classes that are "safe" and of imageability 4 or more, images with one annotated gender that is
not "unsure", classes of at least 10 such images: 104 classes, 10,215 images.
"""

from __future__ import annotations

import re

import numpy as np

from datasets.attribute_files import AttributeFiles, Faces
from datasets.attributes import Task
from datasets.catalog_attributes import IMAGENET_PEOPLE
from datasets.errors import BadList
from datasets.lists import file_name, integer, read_csv

GENDERS = ("Male", "Female")
CLASSES = 104
FILE = re.compile(r"(n\d{8})_\d+\.JPEG", re.IGNORECASE | re.ASCII)


class ImageNetPeople(AttributeFiles):
    """104 classes of people, scaled to `size` x `size`.

    Args:
        root, folder: `<root>/<folder>/Imagenet.csv` with the columns image_name, classes and gender (0 male, 1 female), and
            `images/<image_name>`.
        classes: number of them.
        group: `"gender"`.
        others: see `AttributeFiles`; there are no published parts.

    Raises (setup):
        DatasetNotFound: a file is missing. BadList: a damaged csv, a class that two synsets share, or a synset of two classes.
    """

    KEY = "imagenet_people"
    ENTRY = IMAGENET_PEOPLE

    def __init__(
        self,
        root: str,
        folder: str = "imagenet_people",
        classes: int = CLASSES,
        group: str = "gender",
        size: int = 224,
        split_seed: int = 42,
        augmented: bool = False,
        batch_size: int = 64,
        seed: int = 0,
        flip: bool = True,
        num_workers: int = 0,
        in_memory: int = 20_000,
    ) -> None:
        task = Task("class", tuple(str(i) for i in range(classes)))
        super().__init__(
            root, folder, [task], {"gender": GENDERS}, group, size, "pooled", split_seed, augmented, batch_size, seed, flip,
            num_workers, in_memory,
        )  # fmt: skip
        self.classes = classes

    def faces(self) -> Faces:
        """The rows of the csv."""
        path = self.label_file("Imagenet.csv")
        files, labels, genders = [], [], []
        synsets: dict[str, int] = {}
        for number, row in read_csv("imagenet_people", path, ("image_name", "classes", "gender")):
            name = file_name(path, number, row["image_name"])
            found = FILE.fullmatch(name)
            if found is None:
                raise BadList(
                    f"{path}, line {number}: {name[:120]!r} is no image of ImageNet: expected n<8 digits>_<number>.JPEG."
                )
            label = integer(path, number, row["classes"], 0, self.classes - 1)
            if synsets.setdefault(found[1], label) != label:
                raise BadList(
                    f"{path}, line {number}: {found[1]} is class {label} here and class {synsets[found[1]]} before."
                )
            files.append(name)
            labels.append(label)
            genders.append(integer(path, number, row["gender"], 0, 1))
        if len(set(synsets.values())) != len(synsets):
            raise BadList(
                f"{path}: two synsets share a class; {len(synsets)} synsets have {len(set(synsets.values()))} classes."
            )
        if len(set(files)) != len(files):
            raise BadList(f"{path} names an image twice.")
        columns = {"class": np.array(labels, dtype=np.int64), "gender": np.array(genders, dtype=np.int64)}
        return Faces(tuple(f"images/{name}" for name in files), columns, tuple(files), np.arange(len(files)))
