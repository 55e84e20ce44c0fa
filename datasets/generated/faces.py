"""The embedded face data as a LightningDataModule: training images and three verification test sets over four
demographic groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from datasets.generated.cache import cached
from datasets.generated.identity import GROUPS, Group
from datasets.generated.nuisance import DOMAINS, FREE, FRONTAL, FRONTAL_YAW, SIDE, SIDE_YAW, Nuisance
from datasets.generated.pairlists import FOLDS, build, protocols, views
from datasets.generated.render import SMALLEST, VERSION, Photo, render, view_of
from datasets.memory import MemoryLoader
from datasets.pairs import PairSet

SPACES = {"train": 0, "validation": 1, "test": 2, "second": 3}  # key spaces of people; no person lives in two of them
CHUNK = 1 << 16  # pixels rendered at once: a layer of them stays in the cache of a core
POSES = (FRONTAL, FRONTAL, FRONTAL, SIDE, FREE, FREE, FREE, FREE, FREE, FREE)
"""Poses of a test person's pictures, in turn, so that every person has pictures for the frontal and for the
cross-pose pairs."""
RANGE = 1 << 24  # identities of a group are numbered from group * RANGE


def planted(
    groups: str,
    group_share: Sequence[float] | None,
    id_scale: Sequence[float] | None,
    contrast: Sequence[float] | None,
    exposure: Sequence[float] | None,
) -> tuple[Group, ...]:
    """The four groups of a preset with the given settings, one value a group, in their place.

    Raises ValueError for an unknown preset, a wrong number of values, or shares that do not sum to 1.
    """
    equal = [replace(g, id_scale=1.0, contrast=1.0, exposure=0.0) for g in GROUPS]
    presets = {
        "planted": list(GROUPS),
        "appearance": equal,
        "identical": [replace(g, tone=0.45, tone_sd=0.2, shift=()) for g in equal],
    }
    if groups not in presets:
        raise ValueError(f"groups is {groups!r}; expected one of {sorted(presets)}.")
    chosen = presets[groups]
    given = {"share": group_share, "id_scale": id_scale, "contrast": contrast, "exposure": exposure}
    for name, values in given.items():
        if values is None:
            continue
        if len(values) != len(chosen):
            known = [g.name for g in chosen]
            raise ValueError(f"{name} has {len(values)} values; there are {len(chosen)} groups, {known}.")
        changes: list[dict[str, Any]] = [{name: float(value)} for value in values]
        chosen = [replace(g, **change) for g, change in zip(chosen, changes, strict=True)]
    total = sum(g.share for g in chosen)
    if abs(total - 1.0) > 1e-6:
        raise ValueError(f"The groups' shares {[g.share for g in chosen]} sum to {total:.6g}; expected 1.")
    return tuple(chosen)


def apportion(total: int, groups: tuple[Group, ...]) -> list[int]:
    """Identities of every group by largest remainder. Raises ValueError when a group gets fewer than two."""
    exact = [total * g.share for g in groups]
    counts = [int(e) for e in exact]
    for i in sorted(range(len(groups)), key=lambda i: (counts[i] - exact[i], i))[: total - sum(counts)]:
        counts[i] += 1
    for g, count in zip(groups, counts, strict=True):
        if count < 2:
            raise ValueError(
                f"Group {g.name} gets {count} of {total} training identities at a share of {g.share}; "
                "every group needs at least 2. Raise identities or the group's share."
            )
    return counts


class GeneratedFaces(pl.LightningDataModule):
    """Generated persons: training identities, and "mixed", "frontal" and "cross_pose" pairs of other persons.

    Images are RGB uint8 in memory and (x - 127.5) / divisor, float32 [B,3,size,size], in batches; labels are int64
    [B] in 0..num_classes-1. The pictures are decided by every argument except `batch_size`, `seed`, `flip` and
    `divisor`; they are rendered once and cached (see `datasets.generated.cache`). Test and validation pictures are
    always of the domain "original"; they follow the groups' settings, but neither their shares nor any other training
    setting.

    Args:
        size: side of the rendered images, pixels, at least 32.
        crop: rows and columns that are cut off every edge afterwards. 144 pixels with (16, 16) put eyes and mouth where
            InsightFace's 112 x 112 template has them, with (16, 24) where its 112 x 96 template has them.
        identities: training identities of all groups together.
        images_per_identity: training images a person.
        domain: "original", or "second": other persons by another photographer, in equal shares unless
            `group_share` is given.
        groups: "planted" (a known gap), "appearance" (the groups differ in tone and features only) or "identical"
            (one distribution for all: with equal shares of training identities, the true gap is exactly zero).
        group_share: share of the training identities, one value a group, summing to 1.
        id_scale: spread between identities, one factor a group; the smaller, the more alike and the harder (see
            `Group`).
        contrast: luminance contrast, one factor a group.
        exposure: shift of exposure in stops, one value a group.
        batch_size: images a training batch.
        seed: order and flips of the training images, nothing else.
        data_seed: which persons and pictures.
        test_identities_per_group, validation_identities_per_group: persons of the pair sets, at least 20 (two a fold).
        test_images_per_identity: images of each of them, at least 4 (three frontal, one from the side).
        pairs_per_fold: genuine pairs a fold and group of "mixed" (as many impostor pairs); the other sets have up
            to a third of it.
        flip: mirror half of the training images.
        divisor: pixels enter the network as (x - 127.5) / divisor.
    """

    def __init__(
        self,
        size: int = 48,
        identities: int = 400,
        images_per_identity: int = 12,
        domain: str = "original",
        groups: str = "planted",
        group_share: tuple[float, ...] | None = None,
        id_scale: tuple[float, ...] | None = None,
        contrast: tuple[float, ...] | None = None,
        exposure: tuple[float, ...] | None = None,
        batch_size: int = 64,
        seed: int = 0,
        data_seed: int = 2022,
        test_identities_per_group: int = 100,
        validation_identities_per_group: int = 40,
        test_images_per_identity: int = 10,
        pairs_per_fold: int = 150,
        flip: bool = True,
        divisor: float = 127.5,
        crop: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        if min(crop) < 0 or 2 * max(crop) >= size:
            raise ValueError(f"crop is {crop}; expected (rows, columns) from 0 to less than half of {size} pixels.")
        if domain not in DOMAINS:
            raise ValueError(f"domain is {domain!r}; expected one of {sorted(DOMAINS)}.")
        if size < SMALLEST:
            raise ValueError(f"size is {size} pixels; generated faces need at least {SMALLEST} to show their features.")
        least = {
            "images_per_identity": (images_per_identity, 1),
            "test_images_per_identity": (test_images_per_identity, 4),
        }
        least |= {"batch_size": (batch_size, 1), "pairs_per_fold": (pairs_per_fold, 1), "data_seed": (data_seed, 0)}
        least["test_identities_per_group"] = (test_identities_per_group, 2 * FOLDS)
        least["validation_identities_per_group"] = (validation_identities_per_group, 2 * FOLDS)
        for name, (value, minimum) in least.items():
            if value < minimum:
                raise ValueError(f"{name} is {value}; expected at least {minimum}.")
        if domain == "second" and group_share is None:
            group_share = (0.25,) * len(GROUPS)
        self.groups = planted(groups, group_share, id_scale, contrast, exposure)
        self.per_group = apportion(identities, self.groups)
        self.size, self.domain, self.images_per_identity, self.divisor = size, domain, images_per_identity, divisor
        self.batch_size, self.seed, self.data_seed, self.flip = batch_size, seed, data_seed, flip
        self.crop = tuple(crop)
        self.people = {"test": test_identities_per_group, "validation": validation_identities_per_group}
        self.test_images_per_identity, self.pairs_per_fold = test_images_per_identity, pairs_per_fold
        self.group_names: tuple[str, ...] = tuple(g.name for g in self.groups)
        self.num_classes: int = identities
        self._images: torch.Tensor | None = None
        self._pools: dict[str, dict[str, PairSet]] = {}

    def prepare_data(self) -> None:
        """Render the training images into the cache (Lightning calls it in one process only)."""
        self._load_training()

    def setup(self, stage: str | None = None) -> None:
        """Read the training images unless `stage` is only about testing."""
        if stage in (None, "fit"):
            self._load_training()

    @property
    def train_images(self) -> torch.Tensor:
        """RGB uint8 [N,3,size,size], person after person."""
        return self._load_training()

    @property
    def train_labels(self) -> torch.Tensor:
        """int64 [N] in 0..num_classes-1."""
        return torch.arange(self.num_classes).repeat_interleave(self.images_per_identity)

    @property
    def train_groups(self) -> torch.Tensor:
        """int64 [N], index into `group_names` of every training image."""
        return torch.tensor(np.repeat(np.arange(len(self.groups)), self.per_group)).repeat_interleave(
            self.images_per_identity
        )

    def train_dataloader(self) -> MemoryLoader:
        """Batches (float32 [B,3,size,size], int64 [B]) whose order depends on (seed, epoch, position) only."""
        return MemoryLoader(
            self.train_images, self.train_labels, self.batch_size, self.seed, flip=self.flip, divisor=self.divisor
        )

    def pair_sets(self) -> dict[str, PairSet]:
        """Test sets "mixed", "frontal" and "cross_pose" over one pool of images of unseen persons."""
        return self._pool("test")

    def validation_pair_sets(self) -> dict[str, PairSet]:
        """The same three sets over persons of their own, for every choice that is made before testing."""
        return self._pool("validation")

    def fingerprint(self) -> dict[str, Any]:
        """What decides the pictures and the pairs, as plain values."""
        return {
            "generator": "faces",
            "version": VERSION,
            "size": self.size,
            "crop": list(self.crop),
            "data_seed": self.data_seed,
            "domain": self.domain,
            "nuisance": {self.domain: asdict(DOMAINS[self.domain]), "original": asdict(DOMAINS["original"])},
            "groups": [asdict(g) for g in self.groups],
            "identities": self.per_group,
            "images_per_identity": self.images_per_identity,
            "pairs": {
                "people": self.people,
                "images": self.test_images_per_identity,
                "fold": self.pairs_per_fold,
                "folds": FOLDS,
            }
            | {"poses": POSES, "frontal_yaw": FRONTAL_YAW, "side_yaw": SIDE_YAW},
        }

    def _load_training(self) -> torch.Tensor:
        if self._images is None:
            space = "second" if self.domain == "second" else "train"
            rendered = self._render(space, self.per_group, self.images_per_identity, self.domain)
            self._images = self._cropped(rendered["images"])
        return self._images

    def _cropped(self, images: np.ndarray) -> torch.Tensor:
        rows, columns = self.crop
        height, width = images.shape[2:]
        return torch.from_numpy(images)[:, :, rows : height - rows, columns : width - columns].contiguous()

    def _pool(self, part: str) -> dict[str, PairSet]:
        if part not in self._pools:
            people, each = self.people[part], self.test_images_per_identity
            arrays = self._render(part, [people] * len(self.groups), each, "original")
            images = self._cropped(arrays["images"])
            subject = np.repeat(np.arange(people * len(self.groups)), each)
            view, key = views(arrays["yaw"], arrays["clear"]), (self.data_seed, SPACES[part])
            self._pools[part] = {
                protocol.name: build(
                    protocol, images, subject, subject // people, view, self.group_names, key, self.divisor
                )
                for protocol in protocols(self.pairs_per_fold)
            }
        return self._pools[part]

    def _render(self, space: str, per_group: list[int], each: int, domain: str) -> dict[str, np.ndarray]:
        nuisance = DOMAINS[domain]
        # A group's share decides how many of its persons there are, not what they look like.
        looks = [{k: v for k, v in asdict(g).items() if k != "share"} for g in self.groups]
        settings = {
            "version": VERSION,
            "size": self.size,
            "data_seed": self.data_seed,
            "space": SPACES[space],
            "per_group": per_group,
        }
        poses = POSES if space in self.people else (FREE,)
        settings |= {"images": each, "poses": poses, "groups": looks, "nuisance": asdict(nuisance)}
        photos = [
            Photo(self.data_seed, SPACES[space], g * RANGE + i, g, k, poses[k % len(poses)])
            for g, count in enumerate(per_group)
            for i in range(count)
            for k in range(each)
        ]
        return cached(settings, lambda: photograph(photos, self.groups, nuisance, self.size))


def photograph(photos: list[Photo], groups: tuple[Group, ...], nuisance: Nuisance, size: int) -> dict[str, np.ndarray]:
    """Render all `photos`: "images" uint8 [N,3,size,size], "yaw" float32 [N] in radians, "clear" bool [N]."""
    images = torch.empty(len(photos), 3, size, size, dtype=torch.uint8)
    step = max(1, CHUNK // (size * size))
    for start in range(0, len(photos), step):
        images[start : start + step] = render(photos[start : start + step], groups, nuisance, size)
    yaw, clear = zip(*(view_of(photo, nuisance) for photo in photos), strict=True)
    return {"images": images.numpy(), "yaw": np.array(yaw, dtype=np.float32), "clear": np.array(clear, dtype=bool)}
