"""Generated faces for attribute classification: what a person wears is predicted, and which group is harder is known.

The four groups are those of `datasets.generated`. How hard a group is is planted by its share of the training images, by
exposure and contrast, and by how blurred and noisy its photographs are; what is worn is drawn alike in every group, so that
label and group are independent. The settings say nothing about any real group of people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from datasets.attribute_batches import AttributePart
from datasets.attributes import AttributeImages, Task
from datasets.generated.cache import cached
from datasets.generated.faces import CHUNK, RANGE, apportion, planted
from datasets.generated.identity import Group, person, stream
from datasets.generated.nuisance import DOMAINS, Nuisance, image_parameters
from datasets.generated.render import SMALLEST, VERSION, Photo, render

SPACES = {"train": 8, "validation": 9, "test": 10}  # key spaces of people, none of `datasets.generated.faces`
WORN = ("nothing", "glasses", "sunglasses", "mask")
TASKS = {
    "worn": Task("worn", WORN),
    "beard": Task("beard", ("none", "beard")),
    "mouth": Task("mouth", ("closed", "open")),
    "smile": Task("smile", ("no", "smile")),
}
DEGRADED = {"planted": (1.0, 2.0, 3.5, 5.0), "appearance": (1.0,) * 4, "identical": (1.0,) * 4}
GENERATED_MEAN, GENERATED_STD = (0.5,), (0.25,)


class GeneratedAttributes(AttributeImages):
    """Generated persons wearing nothing, glasses, sunglasses or a mask, in equal numbers in each of four groups.

    Persons of the three parts are different ones. The pictures are decided by every argument except `group`, `attribute`,
    `batch_size`, `seed` and `flip`; they are rendered once and cached.

    Args:
        size: side of the images, pixels, at least 32.
        train, validation, test: images of the parts; the last two in equal numbers a group.
        images_per_person: pictures of each.
        attribute: task, or tasks, of `TASKS`. group: the sensitive column; there is one, `"group"`.
        groups: `"planted"` (a known gap), `"appearance"` (the groups differ in looks only) or `"identical"`.
        group_share: share of the training images, one value a group, summing to 1; None: 0.40, 0.28, 0.20, 0.12.
        contrast, exposure: as in `GeneratedFaces`. degraded: factor on blur and noise, one value a group.
        batch_size, seed, flip: see `AttributeImages`. data_seed: which persons and pictures.

    Raises:
        ValueError: an argument out of its range, or a group column or task that there is not.
    """

    KEY = "generated_attributes"

    def __init__(
        self,
        size: int = 32,
        train: int = 2400,
        validation: int = 600,
        test: int = 1600,
        images_per_person: int = 4,
        attribute: str | Sequence[str] = "worn",
        group: str = "group",
        groups: str = "planted",
        group_share: Sequence[float] | None = None,
        contrast: Sequence[float] | None = None,
        exposure: Sequence[float] | None = None,
        degraded: Sequence[float] | None = None,
        batch_size: int = 64,
        seed: int = 0,
        flip: bool = True,
        data_seed: int = 2022,
    ) -> None:
        names = (attribute,) if isinstance(attribute, str) else tuple(attribute)
        unknown = [name for name in names if name not in TASKS]
        if unknown:
            raise ValueError(f"There is no task {', '.join(unknown)}; generated faces have {', '.join(TASKS)}.")
        self.people = planted(groups, group_share, None, contrast, exposure)
        self.degraded = tuple(DEGRADED[groups] if degraded is None else map(float, degraded))
        if len(self.degraded) != len(self.people) or min(self.degraded) < 0:
            raise ValueError(f"degraded is {self.degraded}; expected {len(self.people)} factors of at least 0.")
        if size < SMALLEST or images_per_person < 1 or min(train, validation, test) < 8 * images_per_person:
            raise ValueError(
                f"{size=}, {train=}, {validation=}, {test=}, {images_per_person=}: at least {SMALLEST} pixels, one picture "
                "a person and two persons a group and part are needed."
            )
        super().__init__(
            [TASKS[name] for name in names],
            {"group": tuple(g.name for g in self.people)},
            group,
            batch_size,
            seed,
            flip,
            mean=GENERATED_MEAN,
            std=GENERATED_STD,
        )
        equal = tuple(replace(g, share=1 / len(self.people)) for g in self.people)
        self.persons = {
            name: apportion(count // images_per_person, self.people if name == "train" else equal)
            for name, count in (("train", train), ("validation", validation), ("test", test))
        }
        self.image_size, self.images_per_person, self.data_seed = (size, size), images_per_person, data_seed

    def read(self) -> dict[str, AttributePart]:
        """Render the parts, or take them from the cache."""
        return {name: self._part(name) for name in SPACES}

    def _part(self, name: str) -> AttributePart:
        looks = [{k: v for k, v in asdict(g).items() if k != "share"} for g in self.people]
        settings: dict[str, Any] = {
            "kind": "attributes",
            "version": VERSION,
            "size": self.image_size[0],
            "data_seed": self.data_seed,
            "space": SPACES[name],
            "persons": self.persons[name],
            "images": self.images_per_person,
            "groups": looks,
            "degraded": self.degraded,
            "nuisance": asdict(DOMAINS["original"]),
        }
        found = cached(settings, lambda: self._photograph(name))
        columns = [list(TASKS).index(task.name) for task in self.tasks]
        return AttributePart(
            torch.from_numpy(found["images"]),
            torch.from_numpy(found["labels"][:, columns].astype(np.int64)),
            {"group": torch.from_numpy(found["group"].astype(np.int64))},
            torch.from_numpy(found["subject"].astype(np.int64)),
        )

    def _photograph(self, name: str) -> dict[str, np.ndarray]:
        """images uint8 [N, 3, S, S], labels of all tasks int8 [N, T], group int8 [N], subject int32 [N]."""
        each, space, size = self.images_per_person, SPACES[name], self.image_size[0]
        group = np.repeat(np.arange(len(self.people)), [each * n for n in self.persons[name]])
        subject = np.arange(len(group)) // each
        first = np.concatenate([[0], np.cumsum(self.persons[name])])
        worn = np.concatenate(
            [
                np.random.default_rng((self.data_seed, space, g)).permutation(np.arange(each * n) % len(WORN))
                for g, n in enumerate(self.persons[name])
            ]
        )
        photos = [
            Photo(self.data_seed, space, g * RANGE + int(subject[i] - first[g]), g, i % each)
            for i, g in enumerate(group.tolist())
        ]
        images = np.empty((len(photos), 3, size, size), dtype=np.uint8)
        labels = np.empty((len(photos), len(TASKS)), dtype=np.int8)
        step = max(1, CHUNK // (size * size))
        for g in range(len(self.people)):
            for kind in range(len(WORN)):
                nuisance = wearing(kind, self.degraded[g])
                at = np.flatnonzero((group == g) & (worn == kind))
                for start in range(0, len(at), step):
                    some = at[start : start + step]
                    images[some] = render([photos[i] for i in some], self.people, nuisance, size).numpy()
                for i in at:
                    labels[i] = (kind, *shown(photos[i], self.people[g], nuisance))
        return {
            "images": images,
            "labels": labels,
            "group": group.astype(np.int8),
            "subject": subject.astype(np.int32),
        }


def wearing(kind: int, degraded: float) -> Nuisance:
    """The photographer of people who wear `WORN[kind]`, with blur and noise times a factor."""
    usual = DOMAINS["original"]
    return replace(
        usual,
        glasses=float(kind == 1),
        sunglasses=float(kind == 2),
        mask=float(kind == 3),
        blur=usual.blur * degraded,
        noise=usual.noise * degraded,
    )


def shown(photo: Photo, group: Group, nuisance: Nuisance) -> tuple[int, int, int]:
    """Beard, open mouth and smile of one picture, 0 or 1 each, without rendering it."""
    who = person(group, photo.data_seed, photo.space, photo.identity)
    rng = stream(photo.data_seed, photo.space, photo.identity, photo.image)
    shot = image_parameters(nuisance, rng, photo.pose)
    return int(float(who["beard"]) > 0.2), int(float(shot["mouth_open"]) > 0.1), int(float(shot["smile"]) > 0)
