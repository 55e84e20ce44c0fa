"""Attribute sets whose images lie in files: the table of a label file, its split, and images that are read when needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datasets import fingerprint
from datasets.attribute_augmentation import augmented as paper_augmentation
from datasets.attribute_batches import AttributePart
from datasets.attributes import AttributeImages, Task, split_by_photograph
from datasets.catalog import Entry
from datasets.errors import BadList, DatasetNotFound
from datasets.generated.cache import cached
from datasets.images import ImageFiles, read_all


@dataclass(frozen=True)
class Faces:
    """What label files say of N faces, in their order.

    Attributes:
        files: paths relative to the folder of the set.
        columns: name -> codes int64 [N]; -1 where none was written down.
        photographs: name of each face's photograph; subject: int64 [N], the person, or the face itself where unknown.
        part: int64 [N], 0 training, 1 validation, 2 test, as published; None where nothing was.
    """

    files: tuple[str, ...]
    columns: dict[str, np.ndarray]
    photographs: tuple[str, ...]
    subject: np.ndarray
    part: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.files)

    def select(self, keep: np.ndarray) -> Faces:
        """The faces where `keep` bool [N] is True."""
        at = np.flatnonzero(keep)
        return Faces(
            tuple(self.files[i] for i in at),
            {name: codes[at] for name, codes in self.columns.items()},
            tuple(self.photographs[i] for i in at),
            self.subject[at],
            None if self.part is None else self.part[at],
        )


class AttributeFiles(AttributeImages):
    """Base of the sets in files. Subclasses read their label files into `Faces`.

    Args:
        root: data root. folder: of the set under it.
        tasks, columns, group, batch_size, seed, flip, num_workers: see `AttributeImages`.
        size: side to which images are scaled, pixels.
        split: `"pooled"`: 80 % train, 10 % validate and 10 % test, all faces of a photograph in one part, drawn by `split_seed`
            (the FairGRAPE protocol); `"published"`: the parts of the makers.
        augmented: FairGRAPE's augmentation of training images, see `datasets.attribute_augmentation`.
        in_memory: parts of at most so many images are held as one uint8 tensor.

    Raises:
        ValueError: another split, or a size below 1.
        DatasetNotFound, BadList, CorruptImage (setup): a file is missing or damaged.
    """

    ENTRY: Entry

    def __init__(
        self,
        root: str,
        folder: str,
        tasks: Sequence[Task],
        columns: Mapping[str, tuple[str, ...]],
        group: str,
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
        if split not in ("pooled", "published") or size < 1:
            raise ValueError(
                f"split is {split!r} and size {size}; expected pooled or published, and at least one pixel."
            )
        augment = paper_augmentation if augmented else None
        # Mirror images are one of the draws of that augmentation.
        super().__init__(tasks, columns, group, batch_size, seed, flip, augment, num_workers=num_workers)
        self.root, self.folder, self.split, self.split_seed = root, folder, split, split_seed
        self.image_size, self.in_memory = (size, size), in_memory
        self._label_files: dict[str, str] = {}

    @property
    def path(self) -> Path:
        """Folder of the set."""
        return Path(self.root).expanduser() / self.folder

    def faces(self) -> Faces:
        """All faces that the label files name. Every subclass has its own."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its label files are read.")

    def read(self) -> dict[str, AttributePart]:
        """The parts: labels at once, images at once where they are few."""
        faces = self.faces()
        return {name: self._part(faces.select(keep)) for name, keep in self._split(faces).items()}

    def _split(self, faces: Faces) -> dict[str, np.ndarray]:
        """Part -> bool [N]."""
        if self.split == "published":
            if faces.part is None:
                raise ValueError(f"{type(self).__name__} was published without parts; take split='pooled'.")
            return {name: faces.part == i for i, name in enumerate(("train", "validation", "test"))}
        found = {}
        for name, index in split_by_photograph(faces.photographs, self.split_seed).items():
            found[name] = np.zeros(len(faces), dtype=bool)
            found[name][index] = True
        return found

    def _part(self, faces: Faces) -> AttributePart:
        lazy = ImageFiles(self.path, faces.files, self.image_size, None, self._scaled)
        labels = np.stack([self._codes(faces, task.name) for task in self.tasks], axis=1)
        return AttributePart(
            self._decoded(lazy) if len(lazy) <= self.in_memory else lazy,
            torch.from_numpy(labels),
            {name: torch.from_numpy(faces.columns[name]) for name in self.columns},
            torch.from_numpy(faces.subject),
        )

    def _decoded(self, images: ImageFiles) -> torch.Tensor:
        """All images, uint8 [N, 3, S, S]; decoded once and kept (`FAIRPRESS_CACHE`), as long as no file changes."""
        stats = [self.require(file).stat() for file in images.files]
        state = np.array([(s.st_size, s.st_mtime_ns) for s in stats], dtype=np.int64)
        settings = {
            "kind": self.KEY,
            "scaling": 1,
            "size": self.image_size[0],
            "names": fingerprint.of_names(images.files),
            "state": fingerprint.of_arrays(state),
        }
        return torch.from_numpy(cached(settings, lambda: {"images": read_all(images).numpy()})["images"])

    def _codes(self, faces: Faces, task: str) -> np.ndarray:
        """Classes int64 [N] of a task: a column, or an intersection of columns in row-major order."""
        codes = np.zeros(len(faces), dtype=np.int64)
        for column in task.split(" x "):
            codes = codes * len(self.columns.get(column, ("", ""))) + faces.columns[column]
        return codes

    def _scaled(self, image: Image.Image, file: str) -> Image.Image:
        if image.size == self.image_size:
            return image
        # Areas are averaged where an image shrinks by much, or fine texture turns into noise.
        return image.resize(self.image_size, Image.Resampling.BILINEAR, reducing_gap=2.0)

    def require(self, name: str) -> Path:
        """A file or folder of the set.

        Raises:
            DatasetNotFound: it is not there; the message says who gives the set out and what is expected where.
        """
        path = self.path / name
        if not path.exists():
            tree = "\n".join(f"    {self.ENTRY.folder}/{line}" for line in self.ENTRY.tree)
            raise DatasetNotFound(
                f"{self.ENTRY.title} is not there: {path} does not exist. It comes from {self.ENTRY.institution} "
                f"({self.ENTRY.terms}); {self.ENTRY.obtain} Expected under the data root:\n{tree}\nNothing is downloaded "
                "by itself."
            )
        return path

    def label_file(self, name: str) -> Path:
        """A label file of the set, whose checksum becomes part of the fingerprint; raises as `require`."""
        path = self.require(name)
        self._label_files[name] = fingerprint.of_file(path)
        return path

    def fingerprint(self) -> dict[str, object]:
        """That of `AttributeImages`, checksums of the label files, and the split."""
        return {
            **super().fingerprint(),
            "label_files": dict(sorted(self._label_files.items())),
            "split": self.split,
            "split_seed": self.split_seed,
            "augmented": self.augment is not None,
        }


def one_of(where: str, what: str, code: int, count: int) -> int:
    """A code in 0..count - 1.

    Raises:
        BadList: another one.
    """
    if not 0 <= code < count:
        raise BadList(f"{where}: {what} is {code}, expected 0..{count - 1}.")
    return code
