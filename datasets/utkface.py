"""UTKFace: aligned faces whose file names are their labels.

Z. Zhang, Y. Song, H. Qi, "Age Progression/Regression by Conditional Adversarial Autoencoder", CVPR 2017. The set has no
identities, no published parts and duplicates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from datasets.attribute_files import AttributeFiles, Faces, one_of
from datasets.attributes import Task
from datasets.catalog_attributes import UTKFACE
from datasets.errors import BadList

GENDERS = ("Male", "Female")
RACES = ("White", "Black", "Asian", "Indian", "Others")
OLDEST = 116
#: `<age>_<gender>_<race>_<time>.jpg.chip.jpg`; one published name lacks the dot before "jpg", other copies lack ".chip.jpg"
NAME = re.compile(r"(\d{1,3})_(\d)_(\d)_(\d{10,20})\.?(?:jpg)?(?:\.chip)?\.jpg", re.IGNORECASE | re.ASCII)
#: three published names have no race; projects that repair them disagree, and so they are left out
WITHOUT_RACE = re.compile(r"\d{1,3}_\d_\d{10,20}\.?(?:jpg)?(?:\.chip)?\.jpg", re.IGNORECASE | re.ASCII)


def read_name(name: str) -> tuple[int, int, int] | None:
    """Age, gender (0 male, 1 female) and race (0 White, 1 Black, 2 Asian, 3 Indian, 4 Others) of a file's name.

    Returns:
        None for a name without a race.

    Raises:
        BadList: another form, or a code that there is not.
    """
    found = NAME.fullmatch(name)
    if found is None:
        if WITHOUT_RACE.fullmatch(name):
            return None
        raise BadList(f"{name[:120]!r} is no file name of UTKFace: expected <age>_<gender>_<race>_<time>.jpg.chip.jpg.")
    age, gender, race = (int(found[i]) for i in (1, 2, 3))
    where = f"file {name}"
    return (
        one_of(where, "the age", age, OLDEST + 1),
        one_of(where, "the gender", gender, len(GENDERS)),
        one_of(where, "the race", race, len(RACES)),
    )


class UTKFace(AttributeFiles):
    """UTKFace's aligned faces of 200x200, scaled to `size`; "Others" are left out, as in FairGRAPE.

    Args:
        root, folder: `<root>/<folder>/*.jpg`.
        attribute: what is predicted: `"race"` (4), `"gender"` (2), or both as two tasks.
        group: sensitive column: gender, race, or their intersection.
        others: see `AttributeFiles`; there are no published parts.

    Raises (setup):
        DatasetNotFound: no folder, or no image in it. BadList: a file whose name says no labels.
    """

    KEY = "utkface"
    ENTRY = UTKFACE

    def __init__(
        self,
        root: str,
        folder: str = "UTKFace",
        attribute: str | Sequence[str] = "race",
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
        columns = {"gender": GENDERS, "race": RACES[:4]}
        names = (attribute,) if isinstance(attribute, str) else tuple(attribute)
        unknown = [name for name in names if name not in columns]
        if unknown:
            raise ValueError(f"attribute names {', '.join(unknown)}; expected race, gender or both.")
        tasks = [Task(name, columns[name]) for name in names]
        super().__init__(
            root, folder, tasks, columns, group, size, "pooled", split_seed, augmented, batch_size, seed, flip,
            num_workers, in_memory,
        )  # fmt: skip
        self.left_out: tuple[str, ...] = ()

    def faces(self) -> Faces:
        """Every image of the folder, by name; `left_out` are those without a race."""
        files = sorted(path.name for path in self.require(".").iterdir() if path.suffix.lower() == ".jpg")
        if not files:
            self.require("<age>_<gender>_<race>_<time>.jpg.chip.jpg")
        codes = {file: read_name(file) for file in files}
        self.left_out = tuple(file for file, found in codes.items() if found is None)
        known = [(file, found) for file, found in codes.items() if found is not None and found[2] < len(RACES) - 1]
        names = tuple(file for file, _ in known)
        columns = {name: np.array([c[i] for _, c in known], dtype=np.int64) for i, name in ((1, "gender"), (2, "race"))}
        return Faces(names, columns, names, np.arange(len(names)))
