"""Training batches from one uint8 tensor in memory: no worker processes, no per-image Python, no global RNG.

Order and flips are functions of (seed, epoch, position) alone, so a run interrupted and resumed, or spread over several
processes, sees the same batches as one that was neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch.utils.data import DataLoader, Dataset, DistributedSampler


def normalise(images: torch.Tensor, divisor: float = 127.5) -> torch.Tensor:
    """uint8 [B, 3, H, W] in 0..255 -> float32 (x - 127.5) / divisor, same shape, channels-last in memory."""
    pixels = images.to(torch.float32, memory_format=torch.channels_last)
    return pixels.sub_(127.5).div_(divisor)


@dataclass(frozen=True)
class Batch:
    """What the sampler hands to the data set: `index` int64 [B] and `flip` bool [B] (mirror this image?)."""

    index: torch.Tensor
    flip: torch.Tensor


def mirror(images: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Mirror those images [B, C, H, W] in place for which `flip` [B] is True, left to right; returns them."""
    chosen = torch.nonzero(flip).squeeze(1)
    return images.index_copy_(0, chosen, images.index_select(0, chosen).flip(-1))


def stored_batch(k: int, batch_size: int, length: int) -> Batch:
    """The k-th batch of `length` images in stored order, without flips."""
    index = torch.arange(k * batch_size, min((k + 1) * batch_size, length))
    return Batch(index, torch.zeros(len(index), dtype=torch.bool))


class EpochBatches(DistributedSampler):
    """Sampler of whole batches whose content depends on (seed, epoch, position in the epoch) only.

    Position p of an epoch holds image `permutation(seed, epoch)[p]`, mirrored if `coin(seed, epoch)[p]`. Step k takes
    the positions from k * batch_size on; of W processes, process r takes those with p % W == r. All processes together
    therefore see exactly what one process sees, step by step.

    It is a `DistributedSampler` so that Lightning leaves it in place under DDP; it calls `set_epoch` by itself.

    Args:
        length: number of images N.
        batch_size: images a step, over all processes together.
        seed: seed of order and flips.
        flip: mirror every image with probability 1/2 (the only augmentation of InsightFace's training).
        shuffle: False keeps the stored order.
        drop_last: leave out the positions that do not fill a batch. If False, the last batch may be shorter.
        rank, world: this process and the number of processes; None asks `torch.distributed` (0 of 1 without it).

    Raises:
        ValueError: a size below 1, a rank outside the world, a batch (also the last, shorter one) that the processes
            cannot share equally, or fewer images than one batch with `drop_last`.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        flip: bool = True,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        ready = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.world = world if world is not None else (torch.distributed.get_world_size() if ready else 1)
        self.rank = rank if rank is not None else (torch.distributed.get_rank() if ready else 0)
        if length < 1 or batch_size < 1:
            raise ValueError(
                f"EpochBatches needs at least one image and a batch of one, got {length} and {batch_size}."
            )
        if seed < 0:
            raise ValueError(f"EpochBatches needs a seed >= 0, got {seed}.")
        super().__init__(range(length), self.world, self.rank, shuffle, seed, drop_last)  # type: ignore[arg-type]
        self.length, self.batch_size, self.flip = length, batch_size, flip
        self.start = 0  # first batch of the next iteration; not 0 only once, after a resume in the middle of an epoch
        if len(self) < 1:
            raise ValueError(
                f"{length} images do not fill one batch of {batch_size}; make batch_size smaller or set drop_last=False."
            )
        self._check_equal_parts()

    def _check_equal_parts(self) -> None:
        """Every process takes as many images of a step as every other: the mean over processes is the batch's then."""
        if self.batch_size % self.world:
            raise ValueError(
                f"batch_size={self.batch_size} is the batch of all processes together, and {self.world} processes "
                f"cannot share it equally; choose a multiple of {self.world} or another number of devices."
            )
        rest = self.length % self.batch_size
        if not self.drop_last and rest % self.world:
            raise ValueError(
                f"The last batch of {self.length} images has {rest}, which {self.world} processes cannot share "
                "equally; set drop_last=True, choose another batch_size or another number of devices."
            )

    def __len__(self) -> int:
        """Steps an epoch."""
        return self.length // self.batch_size if self.drop_last else -(-self.length // self.batch_size)

    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Image index int64 [N] and flip bool [N] of every position of the current epoch, before sharding."""
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch, 0)).permutation(self.length)
        coin = np.zeros(self.length, dtype=bool)
        if self.flip:
            coin = np.random.default_rng((self.seed, self.epoch, 1)).random(self.length) < 0.5
        return order, coin

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing is drawn before the first batch is asked for, because Lightning makes the iterator first
        # and calls set_epoch afterwards.
        order, coin = self.positions()
        index, flip = torch.from_numpy(order), torch.from_numpy(coin)
        start, self.start = self.start, 0
        for k in range(start, len(self)):
            mine = slice(k * self.batch_size + self.rank, (k + 1) * self.batch_size, self.world)
            yield Batch(index[mine], flip[mine])


class MemoryImages(Dataset):
    """Whole batches out of one uint8 tensor: one gather, one flip, one normalisation.

    Args:
        images: uint8 [N, 3, H, W], RGB, 0..255.
        labels: int64 [N].
        batch_size: size of the batches that an integer index names.
        divisor: pixels leave as (x - 127.5) / divisor.

    Raises:
        ValueError: another type or shape, or not one label an image.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, batch_size: int, divisor: float = 127.5) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images must be a uint8 tensor [N, C, H, W], got {images.dtype} {list(images.shape)}.")
        labels = torch.as_tensor(labels)
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels must be int64 [{len(images)}], one an image, got {labels.dtype} {list(labels.shape)}."
            )
        self.images, self.labels, self.batch_size, self.divisor = images, labels, batch_size, divisor

    def __len__(self) -> int:
        """Number of batches in stored order, the last one perhaps shorter."""
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, batch: Batch | int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float32 [B, C, H, W] and labels int64 [B].

        An integer k names the k-th batch in stored order without flips, so that Lightning's `overfit_batches`, which
        replaces every sampler by a sequential one, works.
        """
        if isinstance(batch, int):
            batch = stored_batch(batch, self.batch_size, len(self.images))
        # index_select is 5 to 8 times as fast as indexing with [] on uint8 images
        pixels = self.images.index_select(0, batch.index)
        return normalise(mirror(pixels, batch.flip), self.divisor), self.labels[batch.index]


class EpochLoader(DataLoader):
    """A loader of whole batches that keeps its place.

    `state_dict()` holds the epoch and the number of its batches already given out; Lightning stores it in its
    checkpoints, and a resumed run goes on with the batch after the last one.

    Args:
        batches: data set indexed by `Batch`.
        sampler: `EpochBatches`, or the sequential sampler by which Lightning replaces it for `overfit_batches`.
        num_workers: processes that prepare batches; 0 prepares them in this one.
    """

    def __init__(self, batches: Dataset, sampler: Any, num_workers: int = 0) -> None:
        super().__init__(
            batches,
            batch_size=None,
            sampler=sampler,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            # An iterator draws a seed for its workers. From the global generator it would move dropout and margins,
            # once an epoch without workers and once a training with them.
            generator=torch.Generator(),
        )
        self._given = 0
        self._resume: dict[str, int] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration (Lightning does it by itself)."""
        self.sampler.set_epoch(epoch)  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        resume, self._resume = self._resume, None
        self._given = 0
        if resume is not None and isinstance(self.sampler, EpochBatches) and resume["epoch"] == self.sampler.epoch:
            self._given = self.sampler.start = resume["given"]
        for batch in super().__iter__():
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """`epoch` and `given`, the number of its batches already handed out."""
        return {"epoch": int(getattr(self.sampler, "epoch", 0)), "given": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after batch `given` of `epoch`, once, if that is the next epoch iterated."""
        self._resume = {"epoch": int(state["epoch"]), "given": int(state["given"])}


class MemoryLoader(EpochLoader):
    """Training loader over images in memory; yields float32 [B, 3, H, W] and int64 [B].

    Args:
        images: uint8 [N, 3, H, W], RGB.
        labels: int64 [N].
        batch_size: images a step, over all processes together; each takes its equal part.
        seed: order and flips depend on it, on the epoch and on the position, and on nothing else.
        flip, shuffle, drop_last, rank, world: see `EpochBatches`.
        divisor: pixels leave as (x - 127.5) / divisor.
        sampler, batch_sampler: for Lightning, which makes loaders anew with a sampler of its own (`overfit_batches`).
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        batch_size: int,
        seed: int,
        flip: bool = True,
        shuffle: bool = True,
        drop_last: bool = True,
        divisor: float = 127.5,
        rank: int | None = None,
        world: int | None = None,
        sampler: Any = None,
        batch_sampler: None = None,
    ) -> None:
        if sampler is None:
            sampler = EpochBatches(len(images), batch_size, seed, flip, shuffle, drop_last, rank, world)
        super().__init__(MemoryImages(images, labels, batch_size, divisor), sampler)
