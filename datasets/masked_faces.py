"""Faces of which the student sees some with a mask while the teacher sees all without, and pair sets under three protocols.

M. Huber et al., "Mask-invariant Face Recognition through Template-level Knowledge Distillation", FG 2021. The masks are those
of `datasets.face_masks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets import face_masks
from datasets.face_masks import FaceMasks, Look, fixed_looks, masked_where, mirrored, random_looks
from datasets.masked_pairs import COLOUR_KEY, MASKED_PAIRS, PROTOCOLS, WithMasks, under_protocol
from datasets.memory import Batch, EpochBatches, EpochLoader, MemoryLoader, normalise, stored_batch
from datasets.pairs import PairSet
from datasets.stream import StreamLoader
from datasets.wrapped_images import WrappedImages

TEACHER_SEES = ("clean", "official_code")


@dataclass(frozen=True)
class MaskedBatch(Batch):
    """A batch of images as the student sees them (`flip`: mirrored?).

    `masked` bool [B]: does the student see a mask? `look`: the masks of all B. `clean_flip` bool [B]: is the teacher's
    copy mirrored?
    """

    masked: torch.Tensor
    look: Look
    clean_flip: torch.Tensor


class MaskedBatches(EpochBatches):
    """`EpochBatches` in which every position also has a mask or none, its look, and a flip of the teacher's own.

    All of them depend on (seed, epoch, position) only.

    Args:
        length, batch_size, seed: see `EpochBatches`.
        probability: p of a mask.
        independent_flip: a masked face's two copies are mirrored by two coins (the official code); False: by one.
        options: those of `EpochBatches`.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, probability: float, independent_flip: bool, **options: Any
    ) -> None:
        super().__init__(length, batch_size, seed, **options)
        self.probability, self.independent_flip = probability, independent_flip

    def masks(self) -> tuple[torch.Tensor, Look, torch.Tensor]:
        """`masked` bool [N], `look` of N, and the teacher's coin bool [N] of every position of the current epoch."""
        masked = np.random.default_rng((self.seed, self.epoch, 3)).random(self.length) < self.probability
        coin = np.random.default_rng((self.seed, self.epoch, 5)).random(self.length) < 0.5
        look = random_looks(self.length, (self.seed, self.epoch, 4))
        return torch.from_numpy(masked), look, torch.from_numpy(coin & self.flip)

    def __iter__(self) -> Iterator[Batch]:
        order, coin = self.positions()
        index, flip = torch.from_numpy(order), torch.from_numpy(coin)
        masked, look, other = self.masks()
        clean_flip = torch.where(masked, other, flip) if self.independent_flip else flip
        start, self.start = self.start, 0
        for k in range(start, len(self)):
            mine = slice(k * self.batch_size + self.rank, (k + 1) * self.batch_size, self.world)
            yield MaskedBatch(index[mine], flip[mine], masked[mine], look[mine], clean_flip[mine])


class TwoViews(Dataset):
    """Whole batches with the student's and the teacher's view of every image.

    Args:
        read: index int64 [B] -> images uint8 [B, 3, H, W] that nobody else holds, and labels int64 [B].
        masks: draws the masks. batch_size, length: see `datasets.memory.MemoryImages`.
        divisor: pixels leave as (x - 127.5) / divisor.
        teacher_sees, teacher_images: see `MaskedFaces`.
    """

    def __init__(
        self,
        read: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
        masks: FaceMasks,
        length: int,
        batch_size: int,
        divisor: float,
        teacher_sees: str,
        teacher_images: bool,
    ) -> None:
        self.read, self.masks, self.length, self.batch_size = read, masks, length, batch_size
        self.divisor, self.teacher_sees, self.teacher_images = divisor, teacher_sees, teacher_images

    def __len__(self) -> int:
        """Number of batches in stored order, the last one perhaps shorter."""
        return -(-self.length // self.batch_size)

    def __getitem__(self, batch: MaskedBatch | int) -> tuple[torch.Tensor, ...]:
        """Student's images float32 [B, 3, H, W], labels, index int64 [B], teacher's flip bool [B] and, if asked, its images.

        An integer names a batch in stored order, without masks and flips.
        """
        if isinstance(batch, int):
            batch = unmasked(stored_batch(batch, self.batch_size, self.length))
        clean, labels = self.read(batch.index)
        student = masked_where(clean, batch.masked, batch.look, self.masks)  # a copy: `clean` stays as it is
        found = (normalise(mirrored(student, batch.flip), self.divisor), labels, batch.index, batch.clean_flip)
        if not self.teacher_images:
            return found
        seen = student if self.teacher_sees == "official_code" else clean
        return (*found, normalise(mirrored(seen, batch.clean_flip), self.divisor))


def unmasked(batch: Batch) -> MaskedBatch:
    """A batch of which no image wears a mask, mirrored for the teacher as for the student."""
    none = torch.zeros(len(batch.index), dtype=torch.bool)
    return MaskedBatch(batch.index, batch.flip, none, fixed_looks(len(batch.index), (0,)), batch.flip)


class MaskedFaces(WrappedImages):
    """Another data module whose training images wear masks for the student, and whose pair sets come under three protocols.

    Training batches: (student's images, labels, index, teacher's flip), which say which clean image the teacher sees, so that
    its answers are looked up (`common.distillation.teacher.TeacherAnswers`); or with the teacher's images behind them. The
    other data module keeps its images in memory (`MemoryLoader`) or streams them (`StreamLoader`, with the teacher's images).
    Everything else (classes, groups, order of the images) is the other's.

    Pair sets: `"<set>"`, `"<set>_one_masked"` and `"<set>_both_masked"` over one pool of images; a test image always wears
    the same mask, without shift; masks are drawn before the flip of the evaluation.

    Args:
        data: the other data module.
        probability: p, the share of training images with a mask.
        independent_flip: see `MaskedBatches`.
        teacher_sees: `"clean"` (the paper), or `"official_code"`: the masked image, as the published loader does, which draws
            into the image it should have copied.
        teacher_images: give the teacher's images with every batch; "official_code" and streams need it.
        margin, official_landmarks, arithmetic: of `face_masks.FaceMasks`; every size of image has masks of its own.
        sets: pair sets of the other data module that are used; () for all.
        protocols: of `PROTOCOLS`. masked_pairs: see `under_protocol`.

    Raises:
        ValueError: an option out of range, or teacher's images that are needed and not asked for.
    """

    def __init__(
        self,
        data: Any,
        probability: float = 0.5,
        independent_flip: bool = True,
        teacher_sees: str = "clean",
        teacher_images: bool = False,
        margin: float = 0.0,
        official_landmarks: bool = False,
        arithmetic: str = "plain",
        sets: tuple[str, ...] = (),
        protocols: tuple[str, ...] = tuple(PROTOCOLS),
        masked_pairs: str = "second",
    ) -> None:
        super().__init__(data)
        if not 0 <= probability <= 1:
            raise ValueError(f"probability is {probability}; expected the share of masked images, 0..1.")
        if teacher_sees not in TEACHER_SEES or masked_pairs not in MASKED_PAIRS or set(protocols) - set(PROTOCOLS):
            raise ValueError(
                f"{teacher_sees=}, {masked_pairs=}, {protocols=}; expected one of {', '.join(TEACHER_SEES)}; one of "
                f"{', '.join(MASKED_PAIRS)}; some of {', '.join(PROTOCOLS)}."
            )
        if teacher_sees == "official_code" and not teacher_images:
            raise ValueError("A teacher that sees masks sees new ones every time: set teacher_images=True.")
        self.probability, self.independent_flip = probability, independent_flip
        self.teacher_sees, self.teacher_images = teacher_sees, teacher_images
        self.margin, self.official_landmarks, self.arithmetic = margin, official_landmarks, arithmetic
        self.sets, self.protocols, self.masked_pairs = tuple(sets), tuple(protocols), masked_pairs
        self._masks: dict[tuple[int, int], FaceMasks] = {}
        self._pair_sets: dict[str, dict[str, PairSet]] = {}

    def masks(self, images: torch.Tensor) -> FaceMasks:
        """The masks of images [B, 3, H, W] of that height and width."""
        height, width = images.shape[-2:]
        if (height, width) not in self._masks:
            masks = FaceMasks(height, width, self.margin, self.official_landmarks, self.arithmetic)
            self._masks[height, width] = masks
        return self._masks[height, width]

    def memory_loader(self) -> Any:
        """The other's, whose images are clean: what the teacher is asked about.

        Raises:
            TypeError: masks cannot be drawn into it. ValueError: it streams, and the teacher's images are not asked for.
        """
        loader = self.data.train_dataloader()
        if not isinstance(loader, MemoryLoader | StreamLoader) or not isinstance(loader.sampler, EpochBatches):
            raise TypeError(f"{type(self.data).__name__} gives no loader that masks can be drawn into.")
        if isinstance(loader, StreamLoader) and not self.teacher_images:
            raise ValueError(f"{type(self.data).__name__} streams its images: set teacher_images=True.")
        return loader

    def train_dataloader(self) -> EpochLoader:
        """The other's images in the same order, with the two views of each."""
        loader: Any = self.memory_loader()
        batches, sampler = loader.dataset, loader.sampler
        if isinstance(loader, MemoryLoader):
            images, labels = batches.images, batches.labels
            length, example = len(images), images

            def read(index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return images.index_select(0, index), labels[index]
        else:
            read, length = batches.source.read, len(batches.source)
            example, _ = read(torch.tensor([0]))
        views = TwoViews(
            read,
            self.masks(example),
            length,
            batches.batch_size,
            batches.divisor,
            self.teacher_sees,
            self.teacher_images,
        )
        order = MaskedBatches(
            length,
            sampler.batch_size,
            sampler.seed,
            self.probability,
            self.independent_flip,
            flip=sampler.flip,
            shuffle=sampler.shuffle,
            drop_last=sampler.drop_last,
            rank=sampler.rank,
            world=sampler.world,
        )
        return EpochLoader(views, order, loader.num_workers)

    def pair_sets(self) -> dict[str, PairSet]:
        """The other's test sets under every protocol."""
        return self._under_protocols("test", self.data.pair_sets())

    def validation_pair_sets(self) -> dict[str, PairSet]:
        """The other's validation sets under every protocol."""
        return self._under_protocols("validation", self.data.validation_pair_sets())

    def _under_protocols(self, part: str, known: dict[str, PairSet]) -> dict[str, PairSet]:
        if part not in self._pair_sets:
            names = self.sets if known else ()  # a data module may have no validation sets
            absent = sorted(set(names) - set(known))
            if absent:
                raise ValueError(f"There is no pair set {', '.join(absent)}; there are {', '.join(known)}.")
            pools: dict[int, WithMasks] = {}
            found = {}
            for name in names or tuple(known):
                pairs = known[name]
                pool = pools.setdefault(id(pairs.images), self._with_masks(pairs.images))
                for protocol in self.protocols:
                    made = under_protocol(pairs, pool, protocol, self.masked_pairs)
                    found[made.name] = made
            self._pair_sets[part] = found
        return self._pair_sets[part]

    def _with_masks(self, images: Any) -> WithMasks:
        masks = self.masks(torch.as_tensor(images[:1]))
        return WithMasks(images, masks, fixed_looks(len(images), (COLOUR_KEY,)))

    def fingerprint(self) -> dict[str, Any]:
        """What decides the other's images and pairs, and the masks on them."""
        return {
            "masked_faces": self.data.fingerprint(),
            "template": [face_masks.OUTLINE, face_masks.CLOTH, face_masks.SHADES],
            "masks": [self.margin, self.official_landmarks, self.arithmetic],
            "training": [self.probability, self.independent_flip, self.teacher_sees],
            "pairs": [self.sets, self.protocols, self.masked_pairs, COLOUR_KEY],
        }
