"""FairFace for attribute classification with demographic groups: race, gender, both, or age.

The label file, its names and codes are read by `datasets.fairface`. FairFace has no identities: faces of one person may lie in
two parts, and every face counts as a person of its own.
"""

from __future__ import annotations

import numpy as np

from datasets.attribute_files import AttributeFiles, Faces
from datasets.attributes import TIMES, Task
from datasets.catalog import find
from datasets.fairface import NAMES, read_labels

ATTRIBUTES = ("race", "gender", "age", f"race{TIMES}gender")


class FairFaceAttributes(AttributeFiles):
    """FairFace's chips of 224x224 (margin 0.25), scaled to `size`.

    Args:
        root, folder: `<root>/<folder>/fairface_label_{train,val}.csv` and the images that they name.
        attribute: what is predicted: `"race"` (7), `"gender"` (2), `"age"` (9) or `"race x gender"` (14, row-major; the official
            code of FairGRAPE numbers race + 7 gender).
        group: sensitive column: race, gender, age, or an intersection.
        split: `"pooled"`, the FairGRAPE protocol; `"published"`: the published validation part is the test part, and of the
            training part the share `validation` validates, drawn by `split_seed`.
        imbalanced: keep each image that is not of White faces with probability 0.2, drawn before the split by NumPy's legacy
            generator at seed 42 (the official code's `ImbalancedFairFace`).
        repair_ages: see `datasets.fairface.read_labels`.
        others: see `AttributeFiles`.
    """

    KEY = "fairface_attributes"

    def __init__(
        self,
        root: str,
        folder: str = "fairface",
        attribute: str = "race",
        group: str = "race",
        size: int = 224,
        split: str = "pooled",
        split_seed: int = 42,
        validation: float = 0.1,
        imbalanced: bool = False,
        augmented: bool = False,
        repair_ages: bool = False,
        batch_size: int = 64,
        seed: int = 0,
        flip: bool = True,
        num_workers: int = 0,
        in_memory: int = 20_000,
    ) -> None:
        if attribute not in ATTRIBUTES or not 0 < validation < 1:
            raise ValueError(
                f"attribute is {attribute!r} and validation {validation}; expected one of {', '.join(ATTRIBUTES)}, and a share "
                "between 0 and 1."
            )
        self.ENTRY = find("fairface")
        super().__init__(
            root,
            folder,
            [Task(attribute, _classes(attribute))],
            dict(NAMES),
            group,
            size,
            split,
            split_seed,
            augmented,
            batch_size,
            seed,
            flip,
            num_workers,
            in_memory,
        )
        self.validation, self.imbalanced, self.repair_ages = validation, imbalanced, repair_ages

    def faces(self) -> Faces:
        """Both label files, training part first."""
        parts = [
            read_labels(self.label_file(f"fairface_label_{name}.csv"), self.repair_ages) for name in ("train", "val")
        ]
        files = tuple(file for part in parts for file in part.files)
        count = len(parts[0].files)
        # 0 training, 1 validation, 2 test
        part = np.repeat([0, 2], [count, len(files) - count])
        drawn = np.random.default_rng(self.split_seed).permutation(count)[: round(self.validation * count)]
        part[drawn] = 1
        faces = Faces(
            files,
            {name: np.concatenate([getattr(part, name) for part in parts]) for name in NAMES},
            files,
            np.arange(len(files)),
            part,
        )
        if not self.imbalanced:
            return faces
        chance = np.random.RandomState(42).rand(len(faces))
        return faces.select((faces.columns["race"] == 0) | (chance >= 0.8))

    def fingerprint(self) -> dict[str, object]:
        """That of `AttributeFiles`, and what is particular to this set."""
        return {**super().fingerprint(), "validation": self.validation, "imbalanced": self.imbalanced}


def _classes(attribute: str) -> tuple[str, ...]:
    names: tuple[str, ...] = ("",)
    for column in attribute.split(TIMES):
        names = tuple(f"{before}, {name}" if before else name for before in names for name in NAMES[column])
    return names
