"""Indexed: the batches of what it wraps, and which image is which."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from datasets.classification import Digits
from datasets.indexed import Indexed
from datasets.memory import MemoryLoader


class Noise(pl.LightningDataModule):
    """26 images in memory; the only thing that a wrapped data module needs."""

    num_classes = 5

    def __init__(self, flip: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.pixels = torch.randint(0, 256, (26, 3, 6, 5), generator=generator, dtype=torch.uint8)
        self.train_labels = torch.arange(26) % 5
        self.flip = flip
        self.prepared = self.set_up = 0

    def prepare_data(self) -> None:
        self.prepared += 1

    def setup(self, stage: str | None = None) -> None:
        self.set_up += 1

    def train_dataloader(self) -> MemoryLoader:
        return MemoryLoader(self.pixels, self.train_labels, batch_size=4, seed=3, flip=self.flip)


def epoch_of(loader: Any, epoch: int) -> list[tuple[torch.Tensor, ...]]:
    loader.set_epoch(epoch)
    return list(loader)


def test_batches_are_those_of_the_other_data_module() -> None:
    data = Noise()
    plain, numbered = data.train_dataloader(), Indexed(data).train_dataloader()
    assert len(plain) == len(numbered)
    for epoch in (0, 1, 5):
        pairs = zip(epoch_of(plain, epoch), epoch_of(numbered, epoch), strict=True)
        for (images, labels), (same, again, index, flip) in pairs:
            assert torch.equal(images, same)
            assert torch.equal(labels, again)
            assert torch.equal(data.train_labels[index], labels)
            assert flip.dtype == torch.bool


def test_an_image_and_its_flip_are_named_rightly() -> None:
    data = Indexed(Noise())
    sides = set()
    for images, _, index, flip in epoch_of(data.train_dataloader(), 0):
        for image, i, side in zip(images, index, flip.tolist(), strict=True):
            assert torch.equal(image, data.images(i[None], side)[0])
            assert not torch.equal(image, data.images(i[None], not side)[0])
            sides.add(side)
    assert sides == {False, True}


@pytest.mark.parametrize("given", [0, 2, 5])
def test_a_resumed_epoch_goes_on_where_it_was(given: int) -> None:
    data = Indexed(Noise())
    whole = epoch_of(data.train_dataloader(), 1)
    first = data.train_dataloader()
    first.set_epoch(1)
    batches = iter(first)
    for _ in range(given):
        next(batches)
    state = first.state_dict()
    assert state == {"epoch": 1, "given": given}
    second = data.train_dataloader()
    second.load_state_dict(state)
    rest = epoch_of(second, 1)
    assert len(rest) == len(whole) - given
    for ours, theirs in zip(rest, whole[given:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_everything_else_is_the_others() -> None:
    inner = Noise()
    data = Indexed(inner)
    data.prepare_data()
    data.setup("fit")
    assert (inner.prepared, inner.set_up) == (1, 1)
    assert data.num_classes == 5
    assert data.train_labels is inner.train_labels
    with pytest.raises(AttributeError):
        _ = data.nothing


def test_images_that_are_not_in_memory_as_bytes_are_refused() -> None:
    digits = Digits(size=28)
    digits.setup()
    with pytest.raises(TypeError, match="Digits does not keep its training images in memory"):
        Indexed(digits).train_dataloader()
