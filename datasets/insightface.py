"""Training sets in InsightFace's form (MS1MV2, MS1MV3, Glint360K, CASIA-WebFace, ...): `train.rec` and `.bin` sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from datasets import catalog, fingerprint
from datasets.errors import BadList, CorruptImage, CorruptRecord
from datasets.images import CENTRE_96, decode, to_tensor
from datasets.lists import integer, read_lines, split
from datasets.pairs import PairSet
from datasets.recordio import RecordFile, image_keys, read_index
from datasets.stream import StreamLoader
from datasets.verification_bin import read_pair_set


def read_property(path: str | Path, dataset: str = "ms1mv2") -> tuple[int, int, int]:
    """`property` -> (num_classes, height, width); a second line (image count) of newer files is ignored.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: the first line is not `num_classes,height,width`.
    """
    fields = split(path, 1, read_lines(dataset, path)[0], (3,), ",")
    classes, height, width = (integer(path, 1, field, 1) for field in fields)
    return classes, height, width


class RecordImages:
    """The images of a `.rec` file as an `ImageSource` of `StreamLoader`.

    Args:
        records: the `.rec` file.
        keys: int64 [N], keys of the images, used in error messages.
        offsets: int64 [N], their byte offsets.
        num_classes: labels must be 0..num_classes - 1.
        size: (height, width) that every image must have.
        columns: (first, end) of the columns that are kept, None for all.
    """

    def __init__(
        self,
        records: RecordFile,
        keys: np.ndarray,
        offsets: np.ndarray,
        num_classes: int,
        size: tuple[int, int],
        columns: tuple[int, int] | None = None,
    ) -> None:
        self.records, self.keys, self.offsets = records, keys, offsets
        self.num_classes, self.size, self.columns = num_classes, size, columns

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`index` int64 [B] -> images uint8 [B, 3, H, W] and labels int64 [B].

        Raises:
            CorruptRecord: a damaged record or image, or a label outside 0..num_classes - 1; names key and offset.
        """
        images, labels = [], []
        for i in index.tolist():
            key, offset = int(self.keys[i]), int(self.offsets[i])
            where = f"{self.records.path}, image {i} (key {key}) at byte {offset}"
            record = self.records.image(offset, key)
            label = record.labels[0]
            if not (0 <= label < self.num_classes and label == int(label)):
                raise CorruptRecord(f"{where}: the label is {label}, expected 0..{self.num_classes - 1}.")
            try:
                images.append(decode(record.image, where, self.size))
            except CorruptImage as error:
                raise CorruptRecord(str(error)) from error
            labels.append(int(label))
        return to_tensor(images, self.columns), torch.tensor(labels, dtype=torch.int64)


class InsightFaceRecords(pl.LightningDataModule):
    """A training set in InsightFace's form and the verification sets beside it.

    After `setup()`: `num_classes` (from `property`), `num_images`, `size` (height, width), `group_names` (empty: the
    format knows no groups).

    Args:
        root: data root.
        folder: folder of `train.rec`, `train.idx` and `property` under the root (`faces_emore` is MS1MV2).
        batch_size: images a step, over all processes together.
        seed: decides order and flips, together with the epoch.
        flip: mirror with probability 1/2, InsightFace's only augmentation.
        width: 112, or 96 to keep the columns 8..103 for networks that read 112x96.
        divisor: pixels enter the network as (x - 127.5) / divisor.
        num_workers: processes that decode images.
        verification: names of the `.bin` sets to read, e.g. [lfw, cfp_fp]; empty reads all that are there.

    Raises (setup):
        DatasetNotFound, BadList, CorruptRecord: a file is missing or damaged.
    """

    def __init__(
        self,
        root: str,
        folder: str = "faces_emore",
        batch_size: int = 128,
        seed: int = 0,
        flip: bool = True,
        width: int = 112,
        divisor: float = 127.5,
        num_workers: int = 2,
        verification: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        if width not in (112, 96):
            raise ValueError(f"width must be 112 or 96 (the two ArcFace templates), got {width}.")
        self.root, self.folder, self.batch_size, self.seed, self.flip = root, folder, batch_size, seed, flip
        self.columns = CENTRE_96 if width == 96 else None
        self.divisor, self.num_workers, self.verification = divisor, num_workers, tuple(verification)
        self.num_classes = 0
        self.group_names: tuple[str, ...] = ()
        self._source: RecordImages | None = None
        self._pair_sets: dict[str, PairSet] | None = None

    @property
    def path(self) -> Path:
        """Folder of the set."""
        return Path(self.root).expanduser() / self.folder

    def setup(self, stage: str | None = None) -> None:
        """Read `property` and the index; images stay on disk."""
        if self._source is not None:
            return
        self.num_classes, height, width = read_property(self.path / "property")
        records = RecordFile(self.path / "train.rec")
        index = read_index(self.path / "train.idx", records.size)
        keys = image_keys(records, index)
        self.size = (height, width)
        if self.columns is not None and self.size != (112, 112):
            raise BadList(f"{self.path / 'property'}: width=96 needs images of 112x112, these are {height}x{width}.")
        self._source = RecordImages(records, keys, index.offset(keys), self.num_classes, self.size, self.columns)
        self.num_images = len(self._source)

    @property
    def source(self) -> RecordImages:
        """The images; available after `setup()`."""
        if self._source is None:
            self.setup()
        assert self._source is not None
        return self._source

    def train_dataloader(self) -> StreamLoader:
        """Images float32 [B, 3, H, W] and labels int64 [B]."""
        return StreamLoader(
            self.source, self.batch_size, self.seed, self.flip, divisor=self.divisor, num_workers=self.num_workers
        )

    def pair_sets(self) -> dict[str, PairSet]:
        """The chosen `.bin` sets by name (see `datasets.verification_bin.read_pair_set` on derived subjects)."""
        if self._pair_sets is None:
            names = self.verification or tuple(sorted(path.stem for path in self.path.glob("*.bin")))
            self._pair_sets = {
                name: read_pair_set(self.path / f"{name}.bin", name, 112, self.columns, self.divisor) for name in names
            }
        return self._pair_sets

    def validation_pair_sets(self) -> dict[str, PairSet]:
        """Empty: InsightFace's form has no validation set apart from the test sets."""
        return {}

    def fingerprint(self) -> dict[str, Any]:
        """Size and index of the training set and checksums of the `.bin` files that are read."""
        names = self.verification or tuple(sorted(path.stem for path in self.path.glob("*.bin")))
        return {
            "dataset": "insightface_records",
            "folder": self.folder,
            "num_classes": self.source.num_classes,
            "num_images": len(self.source),
            "rec_bytes": self.source.records.size,
            "index": fingerprint.of_arrays(self.source.keys, self.source.offsets),
            "property": fingerprint.of_file(self.path / "property"),
            "verification": {
                name: fingerprint.of_file(catalog.require("verification_bins", self.path / f"{name}.bin"))
                for name in names
            },
            "columns": self.columns,
            "divisor": self.divisor,
        }
