"""BUPT-Balancedface and BUPT-Globalface: training images whose folders name the demographic group."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from datasets import catalog, fingerprint
from datasets.errors import BadList
from datasets.images import CENTRE_96, ImageFiles
from datasets.lists import file_name, integer, read_lines, split
from datasets.pairs import PairSet
from datasets.rfw import RACES
from datasets.stream import LabelledImages, StreamLoader


def read_lst(path: str | Path) -> list[tuple[str, int]]:
    """InsightFace's `train.lst`: `aligned<TAB>path<TAB>label`, aligned 1 -> [(path, label)] in order.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: a wrong field count, name or number, or an image that is marked as not aligned.
    """
    rows = []
    for number, line in enumerate(read_lines("bupt_balancedface", path), 1):
        aligned, file, label = split(path, number, line, (3,))
        if aligned != "1":
            raise BadList(f"{path}, line {number}: expected 1 (aligned) in the first field, got {aligned[:120]!r}.")
        rows.append((file_name(path, number, file), integer(path, number, label)))
    return rows


class BUPTFaces(pl.LightningDataModule):
    """Faces in folders `<Race>/<id>/<image>`, streamed from disk.

    The published images are crops of up to 400x400: align them to 112x112 with five points first (another size is an
    error that names the file). Three identities of Balancedface are in RFW: name them in `exclude`.

    After `setup()`: `num_classes`, `group_names`, `labels` int64 [N] (order of race, then id), `groups` int64 [N].

    Args:
        root: data root.
        folder: folder of the race folders under it.
        exclude: identities that are left out.
        batch_size: images a training step, over all processes together.
        seed: decides order and flips of the training images, together with the epoch.
        flip: mirror training images with probability 1/2.
        width: 112, or 96 to keep the columns 8..103 for networks that read 112x96.
        divisor: pixels enter the network as (x - 127.5) / divisor.
        num_workers: processes that decode images.

    Raises:
        DatasetNotFound (setup): a race folder is missing.
        BadList (setup): a race folder holds no images.
    """

    group_names = RACES

    def __init__(
        self,
        root: str,
        folder: str = "BUPT-Balancedface/race_per_7000",
        exclude: tuple[str, ...] = (),
        batch_size: int = 128,
        seed: int = 0,
        flip: bool = True,
        width: int = 112,
        divisor: float = 127.5,
        num_workers: int = 2,
    ) -> None:
        super().__init__()
        if width not in (112, 96):
            raise ValueError(f"width must be 112 or 96 (the two ArcFace templates), got {width}.")
        self.root, self.folder, self.exclude = root, folder, frozenset(exclude)
        self.batch_size, self.seed, self.flip = batch_size, seed, flip
        self.columns = CENTRE_96 if width == 96 else None
        self.divisor, self.num_workers = divisor, num_workers
        self.num_classes = 0
        self.files: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Folder of the race folders."""
        return Path(self.root).expanduser() / self.folder

    def setup(self, stage: str | None = None) -> None:
        """List the files, sorted by race, identity and name."""
        if self.files:
            return
        files: list[str] = []
        labels: list[int] = []
        groups: list[int] = []
        classes = 0
        for group, race in enumerate(RACES):
            base = catalog.require("bupt_balancedface", self.path / race)
            before = len(files)
            for person in sorted(entry.name for entry in os.scandir(base) if entry.is_dir()):
                names = sorted(n for n in os.listdir(base / person) if n.lower().endswith((".jpg", ".jpeg", ".png")))
                if person in self.exclude or not names:
                    continue
                files += [f"{race}/{person}/{name}" for name in names]
                labels += [classes] * len(names)
                groups += [group] * len(names)
                classes += 1
            if len(files) == before:
                raise BadList(f"{base} holds no images; expected <id>/<image>.jpg.")
        self.files, self.num_classes = tuple(files), classes
        self.labels, self.groups = np.array(labels, dtype=np.int64), np.array(groups, dtype=np.int64)

    def train_dataloader(self) -> StreamLoader:
        """Images float32 [B, 3, H, W] and identities int64 [B]."""
        self.setup()
        images = ImageFiles(self.path, self.files, (112, 112), self.columns)
        source = LabelledImages(images, torch.from_numpy(self.labels))
        return StreamLoader(
            source, self.batch_size, self.seed, self.flip, divisor=self.divisor, num_workers=self.num_workers
        )

    def pair_sets(self) -> dict[str, PairSet]:
        """Empty: a training set."""
        return {}

    def validation_pair_sets(self) -> dict[str, PairSet]:
        """Empty: a training set."""
        return {}

    def fingerprint(self) -> dict[str, Any]:
        """Names of all files, images a group, and options."""
        self.setup()
        return {
            "dataset": "bupt",
            "folder": self.folder,
            "files": fingerprint.of_names(self.files),
            "images": dict(zip(RACES, np.bincount(self.groups, minlength=len(RACES)).tolist(), strict=True)),
            "num_classes": self.num_classes,
            "excluded": sorted(self.exclude),
            "columns": self.columns,
            "divisor": self.divisor,
        }
