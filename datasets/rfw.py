"""Racial Faces in the Wild: four verification sets of one protocol, one a group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image

from datasets import catalog, fingerprint
from datasets.alignment import align
from datasets.errors import BadList
from datasets.images import CENTRE_96, ImageFiles, read_all
from datasets.lists import integer, read_lines, split
from datasets.pair_lists import PairList, pair_set, read_rfw_pairs
from datasets.pairs import PairSet
from datasets.verification_bin import read_pair_set

RACES = ("African", "Asian", "Caucasian", "Indian")
LARGEST_COORDINATE = 1e5  # pixels


def read_people(path: str | Path) -> dict[str, int]:
    """`<Race>_people.txt` -> {id: number of images}: `id<TAB>count`; a count of 0 occurs in the official files.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: a wrong field count or number, an id named twice.
    """
    people: dict[str, int] = {}
    for number, line in enumerate(read_lines("rfw", path), 1):
        name, count = split(path, number, line, (2,))
        if name in people:
            raise BadList(f"{path}, line {number}: {name} is named twice.")
        people[name] = integer(path, number, count)
    return people


def read_landmarks(path: str | Path) -> dict[str, np.ndarray]:
    """`<Race>_lmk.txt` -> {`id/id_0001.jpg`: points float64 [5, 2]}: path, label, x1, y1, ..., y5, tab-separated.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: a wrong field count or a coordinate that is no number, or none of a pixel.
    """
    landmarks = {}
    for number, line in enumerate(read_lines("rfw", path), 1):
        fields = split(path, number, line, (12,))
        try:
            points = np.array([float(value) for value in fields[2:]]).reshape(5, 2)
        except ValueError as error:
            raise BadList(f"{path}, line {number}: a coordinate is no number: {line[:120]!r}.") from error
        if not (np.abs(points) <= LARGEST_COORDINATE).all():
            raise BadList(f"{path}, line {number}: a coordinate is not finite or outside any image: {line[:120]!r}.")
        landmarks["/".join(fields[0].replace("\\", "/").split("/")[-2:])] = points
    return landmarks


class Aligned:
    """Aligns an image of RFW by its landmarks; a `prepare` of `ImageFiles`.

    Args:
        landmarks: {`Race/id/id_0001.jpg`: points [5, 2]}.
    """

    def __init__(self, landmarks: dict[str, np.ndarray]) -> None:
        self.landmarks = landmarks

    def __call__(self, image: Image.Image, file: str) -> Image.Image:
        """The image, aligned to 112x112.

        Raises:
            BadList: the landmark file lacks this image, or its points coincide.
        """
        if file not in self.landmarks:
            raise BadList(f"The landmark file of RFW has no line for {file}; it cannot be aligned.")
        try:
            return align(image, self.landmarks[file])
        except (ValueError, np.linalg.LinAlgError) as error:
            raise BadList(f"The landmarks of {file} in RFW's landmark file are no face's: {error}") from error


def subject(file: str) -> str:
    """Identity of `Race/id/id_0001.jpg`; 13 ids occur in two races and stay one subject."""
    return file.split("/")[1]


class RFW(pl.LightningDataModule):
    """RFW as one pair set `rfw` of 4 x 6,000 pairs whose groups are the four races.

    Fold k holds block k of every race, so one threshold a fold is fitted for all groups together; for the official
    per-race protocol select the pairs of one group. From the 400x400 images (`source="images"`, aligned here with the
    published landmarks, subjects known) or from the `<Race>_test.bin` files (`source="bin"`, subjects derived, see
    `datasets.verification_bin.read_pair_set`).

    Args:
        root: data root.
        folder: folder of the set under it.
        source: "images" or "bin".
        width: 112, or 96 to keep the columns 8..103 for networks that read 112x96.
        divisor: pixels enter the network as (x - 127.5) / divisor.
        in_memory: hold the 40,000 images as one uint8 tensor (1.5 GB) instead of aligning them at every pass; sets
            from `.bin` files always are.

    Raises:
        ValueError: another source or width.
        DatasetNotFound, BadList, CorruptImage (setup): a file is missing or damaged.
    """

    group_names = RACES
    num_classes = 0

    def __init__(
        self,
        root: str,
        folder: str = "RFW",
        source: str = "images",
        width: int = 112,
        divisor: float = 127.5,
        in_memory: bool = False,
    ) -> None:
        super().__init__()
        if source not in ("images", "bin") or width not in (112, 96):
            raise ValueError(f"source must be images or bin and width 112 or 96, got {source!r} and {width}.")
        self.root, self.folder, self.source, self.divisor, self.in_memory = root, folder, source, divisor, in_memory
        self.columns = CENTRE_96 if width == 96 else None
        self._pairs: PairSet | None = None

    @property
    def path(self) -> Path:
        """Folder of the set."""
        return Path(self.root).expanduser() / self.folder

    def setup(self, stage: str | None = None) -> None:
        """Read lists and landmarks (images), or the `.bin` files."""
        if self._pairs is None:
            self._pairs = self._from_images() if self.source == "images" else self._from_bins()

    def _lists(self) -> PairList:
        """The four lists one after the other, paths prefixed with the race."""
        parts = [read_rfw_pairs(self.path / "test" / "txts" / race / f"{race}_pairs.txt") for race in RACES]
        return PairList(
            tuple(f"{race}/{file}" for race, part in zip(RACES, parts, strict=True) for file in part.first),
            tuple(f"{race}/{file}" for race, part in zip(RACES, parts, strict=True) for file in part.second),
            np.concatenate([part.same for part in parts]),
            np.concatenate([part.fold for part in parts]),
        )

    def _from_images(self) -> PairSet:
        pairs = self._lists()
        landmarks: dict[str, np.ndarray] = {}
        for race in RACES:
            points = read_landmarks(self.path / "test" / "txts" / race / f"{race}_lmk.txt")
            landmarks |= {f"{race}/{file}": value for file, value in points.items()}
        files = pairs.files()
        folder = catalog.require("rfw", self.path / "test" / "data")
        images: Any = ImageFiles(folder, files, (112, 112), self.columns, Aligned(landmarks))
        images = read_all(images) if self.in_memory else images
        return pair_set(
            "rfw", pairs, images, files, subject, lambda f: RACES.index(f.split("/")[0]), RACES, divisor=self.divisor
        )

    def _from_bins(self) -> PairSet:
        parts = [
            read_pair_set(self.path / f"{race}_test.bin", race, 112, self.columns, self.divisor, race, "rfw")
            for race in RACES
        ]
        images = np.cumsum([0] + [len(part.images) for part in parts])
        subjects = np.cumsum([0] + [int(part.subject.max()) + 1 for part in parts])
        return PairSet(
            name="rfw",
            images=torch.cat([part.images for part in parts]),
            first=np.concatenate([part.first + start for part, start in zip(parts, images, strict=False)]),
            second=np.concatenate([part.second + start for part, start in zip(parts, images, strict=False)]),
            same=np.concatenate([part.same for part in parts]),
            fold=np.concatenate([part.fold for part in parts]),
            subject=np.concatenate([part.subject + start for part, start in zip(parts, subjects, strict=False)]),
            group=np.concatenate([np.full(len(part), k) for k, part in enumerate(parts)]),
            group_names=RACES,
            divisor=self.divisor,
        )

    def pair_sets(self) -> dict[str, PairSet]:
        """{"rfw": the pairs of all four races}."""
        self.setup()
        assert self._pairs is not None
        return {"rfw": self._pairs}

    def validation_pair_sets(self) -> dict[str, PairSet]:
        """Empty: RFW is a test set."""
        return {}

    def audit(self) -> dict[str, dict[str, int]]:
        """Images and identities of every race's people file, and identities without images (releases differ)."""
        found = {}
        for race in RACES:
            people = read_people(self.path / "test" / "txts" / race / f"{race}_people.txt")
            empty = sum(count == 0 for count in people.values())
            found[race] = {"identities": len(people), "images": sum(people.values()), "empty": empty}
        return found

    def fingerprint(self) -> dict[str, Any]:
        """Pairs, and checksums of the landmark or `.bin` files."""
        texts = self.path / "test" / "txts"
        if self.source == "images":
            content: dict[str, Any] = {"pairs": self._lists().fingerprint()}
            content |= {race: fingerprint.of_file(texts / race / f"{race}_lmk.txt") for race in RACES}
        else:
            content = {race: fingerprint.of_file(self.path / f"{race}_test.bin") for race in RACES}
        return {"dataset": "rfw", "source": self.source, "columns": self.columns, "divisor": self.divisor} | content
