"""CelebA: aligned faces with 40 binary attributes.

Z. Liu, P. Luo, X. Wang, X. Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015. Attributes are read by their names
in the file, never by position, and the group "Male" by its name as well: the official csv of FairGRAPE codes CelebA's gender the
other way round than that of its other data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.attribute_files import AttributeFiles, Faces
from datasets.attributes import TIMES, Task
from datasets.catalog_attributes import CELEBA
from datasets.errors import BadList
from datasets.lists import file_name, integer, read_lines, split

IMAGES = "img_align_celeba"
NAMES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses", "Goatee",
    "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard",
    "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair",
    "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip
GROUPS = {"gender": ("female", "male"), "age": ("old", "young")}
SOURCE = {"gender": "Male", "age": "Young"}


def read_attributes(path: Path) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray]:
    """`list_attr_celeba.txt`: a line with the number of images, one with the attributes' names, then one an image.

    Returns:
        files, names of the attributes, and int8 [N, A] of 0 and 1.

    Raises:
        BadList: another form, a value that is neither 1 nor -1, a name twice, or another number of images than announced.
    """
    lines = read_lines("celeba", path)
    if len(lines) < 3:
        raise BadList(f"{path} has {len(lines)} lines; expected a count, the names of the attributes, and images.")
    announced = integer(path, 1, lines[0].strip(), 1)
    names = tuple(lines[1].split())
    if len(set(names)) != len(names):
        raise BadList(f"{path}, line 2: an attribute is named twice.")
    files, values = [], np.empty((len(lines) - 2, len(names)), dtype=np.int8)
    for i, line in enumerate(lines[2:]):
        name, *row = split(path, i + 3, line, (len(names) + 1,), None)
        wrong = [value for value in row if value not in ("1", "-1")]
        if wrong:
            raise BadList(f"{path}, line {i + 3}: an attribute is {wrong[0][:40]!r}, expected 1 or -1.")
        files.append(file_name(path, i + 3, name))
        values[i] = [value == "1" for value in row]
    if len(files) != announced:
        raise BadList(
            f"{path} announces {announced} images and lists {len(files)}. Get the file again from its makers."
        )
    if len(set(files)) != len(files):
        raise BadList(f"{path} names an image twice.")
    return tuple(files), names, values


def read_numbers(path: Path, files: Sequence[str], highest: int | None = None) -> np.ndarray:
    """`list_eval_partition.txt` or `identity_CelebA.txt`: a file and a number a line, int64 [N] in the order of `files`.

    Raises:
        BadList: another form, a number out of range, or other images.
    """
    found = {}
    for number, line in enumerate(read_lines("celeba", path), 1):
        name, value = split(path, number, line, (2,), None)
        found[name] = integer(path, number, value) if highest is None else integer(path, number, value, 0, highest)
    missing = [file for file in files if file not in found]
    if missing:
        raise BadList(f"{path} has no line for {missing[0]}, which the list of attributes names.")
    return np.array([found[file] for file in files], dtype=np.int64)


class CelebA(AttributeFiles):
    """CelebA, scaled to `size` x `size`; FairGRAPE predicts 39 attributes, and compares the groups of the fortieth, `Male`.

    Args:
        root, folder: `<root>/<folder>/list_attr_celeba.txt`, `img_align_celeba/`, and, for `split="published"`,
            `list_eval_partition.txt`. With `identity_CelebA.txt` the bootstrap resamples people, else images.
        attributes: names of what is predicted; None: all but those behind the group column.
        group: sensitive column: `"gender"` (attribute Male), `"age"` (Young), or their intersection.
        split: `"pooled"` splits by image name, as the official code does, so that a person may lie in two parts; the parts of
            `"published"` have different people.
        others: see `AttributeFiles`.

    Raises:
        ValueError: an attribute that CelebA does not have.
    """

    KEY = "celeba"
    ENTRY = CELEBA

    def __init__(
        self,
        root: str,
        folder: str = "celeba",
        attributes: Sequence[str] | None = None,
        group: str = "gender",
        size: int = 224,
        split: str = "pooled",
        split_seed: int = 42,
        augmented: bool = False,
        batch_size: int = 64,
        seed: int = 0,
        flip: bool = True,
        num_workers: int = 0,
        in_memory: int = 20_000,
    ) -> None:
        sensitive = [SOURCE[column] for column in group.split(TIMES) if column in SOURCE]
        names = tuple(attributes) if attributes is not None else tuple(n for n in NAMES if n not in sensitive)
        unknown = [name for name in names if name not in NAMES]
        if unknown:
            raise ValueError(f"CelebA has no attribute {', '.join(unknown)}; it has {', '.join(NAMES)}.")
        super().__init__(
            root, folder, [Task(name, ("no", "yes")) for name in names], GROUPS, group, size, split, split_seed, augmented,
            batch_size, seed, flip, num_workers, in_memory,
        )  # fmt: skip

    def faces(self) -> Faces:
        """The list of attributes with its parts and identities, where these are there."""
        files, names, values = read_attributes(self.label_file("list_attr_celeba.txt"))
        needed = {task.name for task in self.tasks} | {SOURCE[column] for column in GROUPS}
        missing = sorted(needed - set(names))
        if missing:
            raise BadList(
                f"{self.path / 'list_attr_celeba.txt'}, line 2: {', '.join(missing)} is not among the attributes."
            )
        columns = {name: values[:, names.index(name)].astype(np.int64) for name in needed}
        columns |= {group: columns[source] for group, source in SOURCE.items()}
        people, part = np.arange(len(files)), None
        if (self.path / "identity_CelebA.txt").exists():
            people = read_numbers(self.label_file("identity_CelebA.txt"), files)
        if self.split == "published":
            part = read_numbers(self.label_file("list_eval_partition.txt"), files, 2)
        return Faces(tuple(f"{IMAGES}/{file}" for file in files), columns, files, people, part)
