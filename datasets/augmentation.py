"""Training batches for image classification: gather, shift, mirror, normalise; from memory, on the device of the training.

Order, mirror images and shifts are functions of (seed, epoch, image) alone, like everything in `datasets.memory`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from datasets.memory import Batch, EpochBatches, EpochLoader, mirror, stored_batch


class Normalisation:
    """uint8 images [B, C, H, W] -> float32 (x / 255 - mean) / std, the same shape, channels-last in memory.

    Args:
        mean, std: one value a channel, or one for all, on the scale 0..1.

    Raises:
        ValueError: no values, different numbers of them, or a std that is not positive.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if not mean or len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"mean and std need one value a channel and std > 0, got {tuple(mean)} and {tuple(std)}.")
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self._planes: dict[tuple[Any, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The images normalised; a new tensor.

        Raises:
            ValueError: as many channels as neither mean nor std have.
        """
        if len(self.mean) not in (1, images.shape[1]):
            raise ValueError(f"The images have {images.shape[1]} channels, mean and std have {len(self.mean)} values.")
        pixels = images.to(torch.float32, memory_format=torch.channels_last).div_(255)
        key = (*images.shape[1:], images.device)
        if key not in self._planes:  # whole planes in the images' own layout: three times as fast as broadcasting
            plane = torch.empty_like(pixels[:1])
            values = (torch.tensor(v, device=images.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
            mean, std = (plane.clone().copy_(value.expand_as(plane)) for value in values)
            self._planes[key] = (mean, std)
        mean, std = self._planes[key]
        return pixels.sub_(mean).div_(std)


def shifted(images: torch.Tensor, shift: torch.Tensor, flip: torch.Tensor, border: int) -> torch.Tensor:
    """A window of the images' own size out of each image with a black border around it, mirrored where `flip` is True.

    This is pad-and-crop, or a translation by up to `border` pixels, of He et al. 2016.

    Args:
        images: [B, C, H, W].
        shift: int64 [B, 2] in 0..2 * border: first row and column of the window; `border` leaves the image in place.
        flip: bool [B].
        border: pixels added on every side.

    Returns:
        [B, C, H, W], channels-last.
    """
    count, channels, height, width = images.shape
    wide, device = width + 2 * border, images.device
    padded = functional.pad(images.permute(0, 2, 3, 1), (0, 0, *(border,) * 4)).reshape(-1, channels)
    rows = torch.arange(height, device=device) + shift[:, :1]
    columns = torch.arange(width, device=device).expand(count, width)
    columns = torch.where(flip[:, None], width - 1 - columns, columns) + shift[:, 1:]
    first = torch.arange(count, device=device)[:, None] * (height + 2 * border)
    pixels = (first + rows)[:, :, None] * wide + columns[:, None, :]
    return padded.index_select(0, pixels.flatten()).view(count, height, width, channels).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class ShiftedBatch(Batch):
    """A batch whose images are also shifted by `shift` int64 [B, 2], see `shifted`."""

    shift: torch.Tensor


class ShiftedBatches(EpochBatches):
    """`EpochBatches` with a shift for every image that depends on (seed, epoch, image) only.

    Args:
        length, batch_size, seed: see `EpochBatches`.
        border: shifts are drawn from 0..2 * border, rows and columns each.
        options: those of `EpochBatches`.
    """

    def __init__(self, length: int, batch_size: int, seed: int, border: int, **options: Any) -> None:
        super().__init__(length, batch_size, seed, **options)
        self.border = border

    def shifts(self) -> np.ndarray:
        """int64 [N, 2] of the current epoch, by image."""
        generator = np.random.default_rng((self.seed, self.epoch, 2))
        return generator.integers(0, 2 * self.border + 1, (self.length, 2))

    def __iter__(self) -> Iterator[ShiftedBatch]:
        shifts = torch.from_numpy(self.shifts())
        for batch in super().__iter__():
            yield ShiftedBatch(batch.index, batch.flip, shifts[batch.index])


class TensorBatches(Dataset):
    """Whole batches out of one tensor in memory, on any device.

    Args:
        images: uint8 [N, C, H, W], normalised when they are asked for; or float32, taken as they are.
        labels: int64 [N].
        batch_size: size of the batches that an integer index names.
        normalisation: of uint8 images.
        border: of shifted batches.
    """

    def __init__(
        self, images: torch.Tensor, labels: torch.Tensor, batch_size: int, normalisation: Normalisation, border: int
    ) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.normalisation, self.border = normalisation, border
        self._rows = images.permute(0, 2, 3, 1).contiguous()  # a view of images that are channels-last

    def __len__(self) -> int:
        """Number of batches in stored order, the last one perhaps shorter."""
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, batch: Batch | int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float32 [B, C, H, W] and labels int64 [B]; an integer names a batch in stored order."""
        if isinstance(batch, int):
            batch = stored_batch(batch, self.batch_size, len(self.images))
        device = self.images.device
        index = batch.index.to(device, non_blocking=True)
        images = self._rows.index_select(0, index).permute(0, 3, 1, 2)
        if isinstance(batch, ShiftedBatch):
            images = shifted(images, batch.shift.to(device), batch.flip.to(device), self.border)
        elif batch.flip.any():
            images = mirror(images, batch.flip.to(device))
        if images.dtype == torch.uint8:
            images = self.normalisation(images)
        return images, self.labels.index_select(0, index)


class _InThisProcess(DataLoader):
    """Batches made here, without the 20 microseconds a batch that `DataLoader` spends on worker processes it lacks."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in self.sampler:
            yield self.dataset[batch]


class TensorLoader(EpochLoader, _InThisProcess):
    """Loader over a tensor in memory that keeps its place; yields float32 [B, C, H, W] and int64 [B].

    Args:
        images: uint8 [N, C, H, W], or float32 that is normalised already (then without `border`).
        labels: int64 [N], on the same device.
        batch_size: images a step, over all processes together.
        seed: order, shifts and mirror images depend on it, on the epoch and on the image, and on nothing else.
        normalisation: of uint8 images.
        border: largest shift in pixels, 0 for none.
        flip, shuffle, drop_last, rank, world: see `datasets.memory.EpochBatches`.
        sampler, batch_sampler: for Lightning, which makes loaders anew with a sampler of its own (`overfit_batches`).

    Raises:
        ValueError: another type or shape, not one label an image, shifts of normalised images; see `EpochBatches`.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        batch_size: int,
        seed: int,
        normalisation: Normalisation,
        border: int = 0,
        flip: bool = False,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int | None = None,
        world: int | None = None,
        sampler: Any = None,
        batch_sampler: None = None,
    ) -> None:
        if images.dtype not in (torch.uint8, torch.float32) or images.ndim != 4:
            raise ValueError(f"images must be uint8 or float32 [N, C, H, W], got {images.dtype} {list(images.shape)}.")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(f"labels must be int64 [{len(images)}], got {labels.dtype} {list(labels.shape)}.")
        if border and images.dtype != torch.uint8:
            raise ValueError("Shifted images get a black border, so they must be uint8 and normalised afterwards.")
        options: dict[str, Any] = {
            "flip": flip,
            "shuffle": shuffle,
            "drop_last": drop_last,
            "rank": rank,
            "world": world,
        }
        if sampler is None and border:
            sampler = ShiftedBatches(len(images), batch_size, seed, border, **options)
        elif sampler is None:
            sampler = EpochBatches(len(images), batch_size, seed, **options)
        super().__init__(TensorBatches(images, labels, batch_size, normalisation, border), sampler)
