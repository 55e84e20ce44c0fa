"""Folders of images, one folder a class, that are too many for memory: cropped and scaled by worker processes.

Crop and mirror image of a training image are a function of (seed, epoch, image) alone, so neither the number of workers
nor the number of processes changes a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from datasets import fingerprint
from datasets.augmentation import Normalisation
from datasets.catalog import require
from datasets.classification import IMAGENET_MEAN, IMAGENET_STD
from datasets.errors import BadList
from datasets.file_names import read_inside
from datasets.imagenet import Listed, class_folders, image_files, read_ground_truth
from datasets.images import decode, to_tensor
from datasets.memory import Batch, EpochBatches, EpochLoader, mirror, stored_batch
from datasets.splits import PARTS, ImageClassification, held_out

AREAS = (0.08, 1.0)  # share of the image that a training crop covers (Szegedy et al. 2015)
RATIOS = (3 / 4, 4 / 3)  # its width / height
TRIES = 10


def random_box(width: int, height: int, generator: np.random.Generator) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a crop of random area and shape; of the centre where ten draws do not fit."""
    for _ in range(TRIES):
        area = width * height * generator.uniform(*AREAS)
        ratio = np.exp(generator.uniform(np.log(RATIOS[0]), np.log(RATIOS[1])))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = generator.integers(0, width - w + 1), generator.integers(0, height - h + 1)
            return left, top, left + w, top + h
    w, h = min(width, height * RATIOS[1]), min(height, width / RATIOS[0])
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def centre_box(width: int, height: int, share: float = 7 / 8) -> tuple[float, float, float, float]:
    """The central square whose side is `share` of the shorter side: "resize to 256, cut out 224"."""
    side = share * min(width, height)
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


@dataclass(frozen=True)
class CutBatch(Batch):
    """A training batch; its crops depend on (seed, epoch, image)."""

    seed: int
    epoch: int


class CutBatches(EpochBatches):
    """`EpochBatches` that tell seed and epoch to the process that cuts the images."""

    def __iter__(self) -> Iterator[CutBatch]:
        for batch in super().__iter__():
            yield CutBatch(batch.index, batch.flip, self.seed, self.epoch)


class FolderBatches(Dataset):
    """Whole batches out of image files, cropped to `size` x `size`.

    Args:
        root: folder that the paths are relative to.
        listed: files and labels.
        batch_size: size of the batches that an integer index names.
        size: side of the crops, pixels.
        normalisation: of the pixels.

    Raises (on access):
        CorruptImage: a file cannot be decoded.
        UnsafePath: a link that leads out of the folder, or no regular file.
    """

    def __init__(self, root: Path, listed: Listed, batch_size: int, size: int, normalisation: Normalisation) -> None:
        self.root, self.listed, self.batch_size = root, listed, batch_size
        self.size, self.normalisation = size, normalisation

    def __len__(self) -> int:
        """Number of batches in stored order, the last one perhaps shorter."""
        return -(-len(self.listed) // self.batch_size)

    def __getitem__(self, batch: Batch | int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float32 [B, 3, size, size] and labels int64 [B]; an integer names a batch in stored order."""
        if isinstance(batch, int):
            batch = stored_batch(batch, self.batch_size, len(self.listed))
        images = to_tensor([self._image(i, batch) for i in batch.index.tolist()])
        return self.normalisation(mirror(images, batch.flip)), self.listed.labels[batch.index]

    def _image(self, index: int, batch: Batch) -> Image.Image:
        file = self.listed.files[index]
        image = decode(read_inside(self.root, file), str(self.root / file))
        if isinstance(batch, CutBatch):
            box = random_box(*image.size, np.random.default_rng((batch.seed, batch.epoch, 3, index)))
        else:
            box = centre_box(*image.size)
        return image.resize((self.size, self.size), Image.Resampling.BILINEAR, box)


class FolderLoader(EpochLoader):
    """Loader over image files that keeps its place; yields float32 [B, 3, size, size] and int64 [B].

    Args:
        batches: the files.
        seed: of order, crops and mirror images.
        training: random crops in random order; otherwise central crops in stored order, the whole part in every process.
        flip: mirror training images with probability 1/2.
        drop_last: leave out the training images that do not fill a batch.
        num_workers: processes that decode; 0 decodes in this one.
        sampler, batch_sampler: for Lightning, which makes loaders anew with a sampler of its own (`overfit_batches`).
    """

    def __init__(
        self,
        batches: FolderBatches,
        seed: int = 0,
        training: bool = False,
        flip: bool = False,
        drop_last: bool = False,
        num_workers: int = 0,
        sampler: Any = None,
        batch_sampler: None = None,
    ) -> None:
        count, size = len(batches.listed), batches.batch_size
        if sampler is None and training:
            sampler = CutBatches(count, size, seed, flip, drop_last=drop_last)
        elif sampler is None:
            sampler = EpochBatches(count, size, seed, False, shuffle=False, drop_last=False, rank=0, world=1)
        super().__init__(batches, sampler, num_workers)


class ImageNetFolder(ImageClassification):
    """ImageNet-1k, or any folder of its form: `<root>/<folder>/train/<class>/*.JPEG` and `.../val/<class>/*.JPEG`.

    The classes are the sorted names of the folders. `val` may also hold the files as ImageNet gives them out
    (`ILSVRC2012_val_00000001.JPEG`, ...), with the development kit beside it. The published validation images are the
    test part. Training crops are of random size and shape (Szegedy et al. 2015), test crops central.

    After `setup()`, `listed` holds files and labels of "train", "validation" and "test"; `loader` reads them.

    Args:
        root: data root.
        folder: folder of the set under it.
        size: side of the crops, pixels.
        num_workers: processes that decode images.
        others: see `ImageClassification`.
    """

    KEY, MEAN, STD, VALIDATION, FLIP = "imagenet", IMAGENET_MEAN, IMAGENET_STD, 0, True
    num_classes, image_size = 1000, (224, 224)

    def __init__(
        self,
        root: str,
        folder: str = "imagenet",
        size: int = 224,
        num_workers: int = 4,
        batch_size: int = 256,
        seed: int = 0,
        validation: int | None = None,
        validation_seed: int = 0,
        stratified: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        flip: bool | None = None,
        drop_last: bool = True,
    ) -> None:
        if size < 1 or num_workers < 0:
            raise ValueError(f"size must be >= 1 and num_workers >= 0, got {size} and {num_workers}.")
        super().__init__(root, batch_size, seed, validation, validation_seed, stratified, mean, std, 0, flip, drop_last)
        self.folder, self.num_workers, self.image_size = folder, num_workers, (size, size)

    @property
    def path(self) -> Path:
        """Folder of the set."""
        return Path(self.root).expanduser() / self.folder

    def setup(self, stage: str | None = None) -> None:
        """List the files. Does nothing the second time."""
        if self.class_names:
            return
        listed, classes = class_folders(self.KEY, self.path / "train")
        kept, drawn = held_out(listed.labels.numpy(), self.held_out, self.validation_seed, self.stratified)
        self.listed = {"train": listed.select(kept), "validation": listed.select(drawn), "test": self._test(classes)}
        self.num_classes, self.class_names = len(classes), classes

    def _test(self, classes: tuple[str, ...]) -> Listed:
        folder = require(self.KEY, self.path / "val")
        flat = image_files(folder)
        if not flat:
            listed, found = class_folders(self.KEY, folder)
            if found != classes:
                other = sorted(set(found) ^ set(classes))[0]
                raise BadList(f"{self.path}: train and val have different classes; one of them lacks {other}.")
            return listed
        labels = read_ground_truth(self.path, classes)
        if len(labels) != len(flat):
            raise BadList(f"{folder} has {len(flat)} images, the development kit {len(labels)} labels.")
        return Listed(tuple(flat), labels)

    def labels(self, name: str) -> torch.Tensor:
        """True labels int64 [N] of a part, in stored order."""
        self.setup()
        return self.listed[name].labels

    def _batches(self, name: str, batch_size: int) -> FolderBatches:
        self.setup()
        folder = self.path / ("val" if name == "test" else "train")
        return FolderBatches(folder, self.listed[name], batch_size, self.image_size[0], self.normalisation)

    def train_dataloader(self) -> FolderLoader:
        """Images float32 [B, 3, size, size] and labels int64 [B] of the training part; its place is kept over a resume."""
        batches = self._batches("train", self.batch_size)
        return FolderLoader(batches, self.seed, True, self.flip, self.drop_last, self.num_workers)

    def loader(self, name: str, batch_size: int = 256) -> FolderLoader:
        """Batches of a part in stored order, central crops; every process sees the whole of it."""
        return FolderLoader(self._batches(name, batch_size), num_workers=self.num_workers)

    def fingerprint(self) -> dict[str, Any]:
        """Checksums of file names, file sizes and labels of every part, and what is done to the images."""
        self.setup()
        parts = {}
        for name in PARTS:
            batches = self._batches(name, 1)
            sizes = np.array([(batches.root / file).stat().st_size for file in batches.listed.files], dtype=np.int64)
            names = fingerprint.of_names(batches.listed.files)
            parts[name] = f"{names}-{fingerprint.of_arrays(sizes, batches.listed.labels.numpy())}"
        return {
            "dataset": self.KEY,
            "parts": parts,
            "size": self.image_size,
            "mean": self.normalisation.mean,
            "std": self.normalisation.std,
            "flip": self.flip,
        }
