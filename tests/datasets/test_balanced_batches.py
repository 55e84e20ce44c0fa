"""Batches of two halves: what is in them, that they come back after a kill, and how processes share them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.balanced_batches import BalancedBatches, ImagesByIdentity, TwoHalfBatches, TwoHalves, record_labels
from datasets.indexed import Indexed
from datasets.insightface import InsightFaceRecords
from datasets.memory import MemoryImages, MemoryLoader
from datasets.recordio import write_insightface

LABELS = np.repeat(np.arange(10), 7)[::-1].copy()  # 70 images, 10 identities


def sampler(
    labels: np.ndarray = LABELS, general: int = 8, identities: int = 3, images: int = 4, **options: object
) -> TwoHalfBatches:
    return TwoHalfBatches(labels, general, identities, images, 5, **options)  # type: ignore[arg-type]


def batches(source: TwoHalfBatches, epoch: int = 0) -> list[TwoHalves]:
    source.set_epoch(epoch)
    return list(source)  # type: ignore[arg-type]


class Faces:
    """A data module with its images in memory."""

    batch_size, num_classes = 8, 10

    def __init__(self, num_classes: int = 10) -> None:
        self.pixels = torch.arange(70, dtype=torch.uint8)[:, None, None, None].expand(70, 3, 2, 2).contiguous()
        self.pixels[..., 0] += 100

    def train_dataloader(self) -> MemoryLoader:
        return MemoryLoader(self.pixels, torch.from_numpy(LABELS), self.batch_size, 5)


def test_the_balanced_half_holds_identities_with_different_images() -> None:
    for batch in batches(sampler()):
        balanced = batch.index[~batch.general].numpy().reshape(3, 4)
        assert all(len(set(LABELS[row])) == 1 for row in balanced)
        assert len({LABELS[row[0]] for row in balanced}) == 3
        assert all(len(set(row)) == 4 for row in balanced.tolist())


def test_every_identity_and_every_image_comes() -> None:
    seen = {int(i) for epoch in range(20) for b in batches(sampler(), epoch) for i in b.index[~b.general]}
    assert seen == set(range(70))


def test_identities_with_few_images_repeat_them() -> None:
    labels = np.array([0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3])
    by_identity = ImagesByIdentity(labels)
    for seed in range(20):
        drawn = by_identity.draw(np.random.default_rng(seed), 4, 4).reshape(4, 4)
        for row in drawn:
            identity = labels[row[0]]
            assert set(labels[row]) == {identity}
            counts = np.bincount(row - np.flatnonzero(labels == identity)[0])
            assert counts.max() - counts[counts > 0].min() <= 1
            assert len(set(row)) == min(4, (labels == identity).sum())


def test_labels_may_have_gaps() -> None:
    assert len(ImagesByIdentity(np.array([7, -3, 7, 100]))) == 3


def test_the_general_half_is_the_batch_of_a_plain_training() -> None:
    plain, both = Indexed(Faces()), BalancedBatches(Faces(), identities=3, images=4)
    for epoch in (0, 3):
        loaders = plain.train_dataloader(), both.train_dataloader()
        for loader in loaders:
            loader.set_epoch(epoch)
        for alone, batch in zip(*loaders, strict=True):
            general = batch[4]
            assert general.tolist() == [True] * 8 + [False] * 12
            for part, whole in zip(alone, batch, strict=False):
                assert torch.equal(part, whole[general])


def test_a_batch_says_which_images_it_holds() -> None:
    data = BalancedBatches(Faces(), identities=3, images=4)
    images, labels, index, flip, _ = next(iter(data.train_dataloader()))
    assert torch.equal(labels, torch.from_numpy(LABELS)[index])
    assert flip.any()
    assert not flip.all()
    for k in range(len(index)):
        assert torch.equal(data.images(index[k : k + 1], bool(flip[k]))[0], images[k])


def test_a_draw_depends_on_seed_epoch_and_position() -> None:
    one, two = batches(sampler(), 2), batches(sampler(), 2)
    assert all(torch.equal(a.index, b.index) and torch.equal(a.flip, b.flip) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0].index, batches(sampler(), 3)[0].index)
    assert not torch.equal(one[0].index[~one[0].general], one[1].index[~one[1].general])


@pytest.mark.parametrize("draw", ["epoch", "step"])
def test_after_a_kill_the_next_batch_comes(draw: str) -> None:
    data = BalancedBatches(Faces(), identities=3, images=4, draw=draw)  # type: ignore[arg-type]
    loader = data.train_dataloader()
    whole = list(loader)
    interrupted = iter(loader)
    for _ in range(3):
        next(interrupted)
    state = loader.state_dict()
    resumed = data.train_dataloader()
    resumed.load_state_dict(state)
    for expected, batch in zip(whole[3:], resumed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected, batch, strict=True))


@pytest.mark.parametrize("draw", ["epoch", "step"])
def test_processes_share_either_half(draw: str) -> None:
    """Rows of the processes in turn are the rows of the batch, as `common.distributed.gather_rows` puts them."""
    whole = batches(sampler(draw=draw))
    parts = [batches(sampler(draw=draw, rank=rank, world=2)) for rank in (0, 1)]
    for k, batch in enumerate(whole):
        for name in ("index", "flip", "general"):
            rows = torch.stack([getattr(part[k], name) for part in parts], 1).flatten()
            assert torch.equal(rows, getattr(batch, name)), name


def test_a_draw_at_every_step_repeats_images_in_an_epoch() -> None:
    def general(draw: str) -> list[int]:
        return [int(i) for b in batches(sampler(draw=draw)) for i in b.index[b.general]]

    assert len(set(general("epoch"))) == 64
    assert len(set(general("step"))) < 64
    assert all(len(set(b.index[b.general].tolist())) == 8 for b in batches(sampler(draw="step")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"identities": 11}, "at most the 10 identities"),
        ({"identities": 0}, "at least one"),
        ({"images": 0}, "at least one"),
        ({"images": 3, "rank": 0, "world": 2}, "cannot share equally"),
        ({"draw": "always"}, "'epoch' or 'step'"),
    ],
    ids=["too many identities", "no identity", "no image", "odd rows", "draw"],
)
def test_halves_that_cannot_be_filled_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(**options)  # type: ignore[arg-type]


def test_no_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="N > 0"):
        ImagesByIdentity(np.zeros(0, dtype=np.int64))


def test_memory_is_one_number_an_image_and_one_an_identity() -> None:
    for identities in (100, 10_000):
        found = ImagesByIdentity(np.repeat(np.arange(identities), 4))
        assert found.order.size + found.bounds.size == 5 * identities + 1


def test_images_that_are_not_in_memory_cannot_be_looked_up_again() -> None:
    class Streamed(Faces):
        def train_dataloader(self) -> MemoryLoader:
            loader = super().train_dataloader()
            loader.__dict__["dataset"] = object()
            return loader

    data = BalancedBatches(Streamed())
    with pytest.raises(TypeError, match="kept_answers=False"):
        data.images(torch.arange(2), False)
    with pytest.raises(TypeError, match="does not say which image shows whom"):
        _ = data.train_labels


def test_everything_else_is_the_other_modules() -> None:
    data = BalancedBatches(Faces())
    assert (data.batch_size, data.num_classes) == (8, 10)
    assert isinstance(data.train_dataloader().dataset.batches, MemoryImages)
    batch = data.train_dataloader().dataset[0]  # a batch in stored order: Lightning's overfit_batches
    assert batch[2].tolist() == list(range(8))
    assert batch[4].all()


@pytest.mark.parametrize("with_identities", [True, False], ids=["InsightFace", "im2rec"])
def test_labels_of_records_are_read_without_decoding(tmp_path: Path, with_identities: bool) -> None:
    folder = tmp_path / "faces_emore"
    folder.mkdir()
    picture = io.BytesIO()
    Image.new("RGB", (112, 112)).save(picture, "JPEG")
    labels = [0, 0, 0, 1, 2, 2]
    with (folder / "train.rec").open("wb") as rec, (folder / "train.idx").open("wb") as idx:
        write_insightface(rec, idx, [(picture.getvalue(), label) for label in labels])
    if not with_identities:  # only the images' own keys are left
        lines = (folder / "train.idx").read_text().splitlines()[:6]
        (folder / "train.idx").write_text("\n".join(lines) + "\n")
    (folder / "property").write_text("3,112,112\n")
    data = InsightFaceRecords(str(tmp_path), batch_size=2)
    assert record_labels(data.source).tolist() == labels
    batch = next(iter(BalancedBatches(data, identities=2, images=2).train_dataloader()))
    assert batch[0].shape == (6, 3, 112, 112)
    assert torch.equal(batch[1], torch.tensor(labels)[batch[2]])
