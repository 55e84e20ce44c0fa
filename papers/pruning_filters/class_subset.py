"""Images of some classes of a set, for the survey's task: prune a network of N classes down to one of n < N classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from datasets.splits import ImagesInMemory, Part


class ClassSubset(ImagesInMemory):
    """The images of a few classes, in every part of another data module; labels become positions in `classes`.

    Args:
        data: the whole set; batch size, order, augmentation and held-out images are its own.
        classes: labels of the set, in the order of the new ones.

    Raises:
        ValueError: fewer than two classes, one twice, one that there is not, or shuffled labels.
    """

    def __init__(self, data: ImagesInMemory, classes: Sequence[int]) -> None:
        super().__init__(
            data.root, data.batch_size, data.seed, data.held_out, data.validation_seed, data.stratified,
            data.normalisation.mean, data.normalisation.std, data.crop, data.flip, data.drop_last,
        )  # fmt: skip
        self.whole, self.classes = data, tuple(int(label) for label in classes)
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise ValueError(f"classes is {self.classes}, but must name at least two classes, each once")
        if data.shuffled_labels:
            raise ValueError("a subset of the classes of a set with shuffled labels is no task; leave them as they are")
        self.num_classes = len(self.classes)

    def setup(self, stage: str | None = None) -> None:
        """Set the whole up and take the images of the classes; does nothing the second time."""
        if self.class_names:
            return
        self.whole.setup(stage)
        if not set(self.classes) <= set(range(self.whole.num_classes)):
            raise ValueError(f"classes is {self.classes}, but the set has 0 to {self.whole.num_classes - 1}")
        self.train, self.validation, self.test = map(
            self._of_classes, (self.whole.train, self.whole.validation, self.whole.test)
        )
        self.KEY = f"{self.whole.KEY} {self.classes}"  # type: ignore[misc]
        self.notes, self.in_channels, self.image_size = self.whole.notes, self.whole.in_channels, self.whole.image_size
        self.class_names = tuple(self.whole.class_names[label] for label in self.classes)

    def _of_classes(self, part: Part) -> Part:
        place = torch.full((self.whole.num_classes,), -1)
        place[list(self.classes)] = torch.arange(len(self.classes))
        new = place[part.labels]
        images = part.select((new >= 0).nonzero().flatten().numpy())
        return Part(images.images, new[new >= 0])
