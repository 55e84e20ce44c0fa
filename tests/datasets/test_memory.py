"""MemoryLoader: batches that depend on (seed, epoch, position) and on nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from datasets.memory import Batch, EpochBatches, MemoryLoader, normalise


def faces(n: int = 26) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that tell their own number and which way round they are."""
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (n, 3, 6, 5), generator=generator, dtype=torch.uint8)
    return images, torch.arange(n)


def epoch_of(loader: MemoryLoader, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    loader.set_epoch(epoch)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_epoch_depends_on_seed_and_epoch_only() -> None:
    first = MemoryLoader(*faces(), batch_size=4, seed=3)
    epoch_of(first, 5)
    torch.manual_seed(99)
    np.random.seed(99)
    again = MemoryLoader(*faces(), batch_size=4, seed=3)
    for epoch in (0, 1):
        ours, theirs = epoch_of(first, epoch), epoch_of(again, epoch)
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    assert not torch.equal(epoch_of(first, 0)[1], epoch_of(first, 1)[1])
    assert not torch.equal(epoch_of(first, 0)[1], epoch_of(MemoryLoader(*faces(), batch_size=4, seed=4), 0)[1])


def test_global_rng_is_untouched() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    loader = MemoryLoader(*faces(), batch_size=4, seed=3)
    sampler_draws = [b.index for b in loader.sampler]
    assert len(sampler_draws) == len(list(loader)) == 6
    assert torch.equal(torch.rand(3), expected)


def test_batches_equal_the_written_out_reference() -> None:
    images, labels = faces()
    loader = MemoryLoader(images, labels, batch_size=4, seed=3, divisor=128.0)
    loader.set_epoch(2)
    order = np.random.default_rng((3, 2, 0)).permutation(26)
    mirrored = np.random.default_rng((3, 2, 1)).random(26) < 0.5
    batches = list(loader)
    assert len(batches) == len(loader) == 6
    assert 0 < mirrored.sum() < 26
    for k, (batch, batch_labels) in enumerate(batches):
        for row, position in enumerate(range(4 * k, 4 * k + 4)):
            image = images[order[position]].float()
            image = image.flip(-1) if mirrored[position] else image
            assert torch.equal(batch[row], (image - 127.5) / 128.0)
            assert batch_labels[row] == labels[order[position]]
        assert batch.shape == (4, 3, 6, 5)
        assert batch.dtype == torch.float32
        assert batch.is_contiguous(memory_format=torch.channels_last)
        assert batch_labels.dtype == torch.int64


def test_stored_images_are_never_written_to() -> None:
    images, labels = faces()
    before = images.clone()
    list(MemoryLoader(images, labels, batch_size=4, seed=0))
    list(MemoryLoader(images, labels, batch_size=26, seed=0, shuffle=False))
    assert torch.equal(images, before)


def test_without_shuffle_and_flip_the_stored_order_comes_back() -> None:
    images, labels = faces()
    loader = MemoryLoader(images, labels, batch_size=4, seed=0, flip=False, shuffle=False, drop_last=False)
    pixels, got = epoch_of(loader, 3)
    assert torch.equal(got, labels)
    assert torch.equal(pixels, normalise(images))
    assert [len(label) for _, label in loader] == [4] * 6 + [2]


def test_every_image_once_an_epoch() -> None:
    loader = MemoryLoader(*faces(), batch_size=4, seed=0, drop_last=False)
    assert sorted(epoch_of(loader, 1)[1].tolist()) == list(range(26))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_together_see_the_batches_of_one(world: int) -> None:
    images, labels = faces()
    shards = [MemoryLoader(images, labels, batch_size=6, seed=3, rank=r, world=world) for r in range(world)]
    whole = MemoryLoader(images, labels, batch_size=6, seed=3)
    for loader in (*shards, whole):
        loader.set_epoch(1)
    assert {len(s) for s in shards} == {len(whole)}
    for *parts, (images_, labels_) in zip(*shards, whole, strict=True):
        together = torch.stack([p[1] for p in parts], 1).flatten()
        assert torch.equal(together, labels_)
        pixels = torch.stack([p[0] for p in parts], 1).flatten(0, 1)
        assert torch.equal(pixels, images_)


def test_the_shorter_last_batch_is_shared_or_refused() -> None:
    shards = [MemoryLoader(*faces(9), batch_size=6, seed=3, drop_last=False, rank=r, world=3) for r in range(3)]
    labels = [[batch.tolist() for _, batch in shard] for shard in shards]
    assert [[len(batch) for batch in part] for part in labels] == [[2, 1]] * 3
    assert sorted(label for part in labels for batch in part for label in batch) == list(range(9))
    with pytest.raises(ValueError, match="last batch of 11 images has 5, which 3 processes cannot share"):
        MemoryLoader(*faces(11), batch_size=6, seed=3, drop_last=False, rank=0, world=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 27}, "do not fill one batch of 27"),
        ({"batch_size": 0}, "batch of one"),
        ({"batch_size": 2, "seed": -1}, "seed"),
        ({"batch_size": 9, "rank": 0, "world": 2}, "batch_size=9 .* 2 processes cannot share it equally"),
        ({"batch_size": 8, "rank": 2, "world": 2}, "rank"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryLoader(*faces(), **({"seed": 0} | arguments))


def test_labels_and_images_must_agree() -> None:
    images, labels = faces()
    with pytest.raises(ValueError, match=r"labels must be int64 \[26\]"):
        MemoryLoader(images, labels[:5], batch_size=2, seed=0)
    with pytest.raises(ValueError, match="uint8"):
        MemoryLoader(images.float(), labels, batch_size=2, seed=0)


def test_sampler_is_left_alone_by_lightning_under_ddp() -> None:
    assert isinstance(EpochBatches(8, 2, 0), torch.utils.data.DistributedSampler)


def test_batch_number_names_a_batch_in_stored_order() -> None:
    images, labels = faces()
    data = MemoryLoader(images, labels, batch_size=4, seed=0).dataset
    pixels, got = data[6]
    assert got.tolist() == [24, 25]
    assert torch.equal(pixels, normalise(images[24:]))
    assert len(data) == 7
    pixels, got = data[Batch(torch.tensor([3]), torch.tensor([True]))]
    assert torch.equal(pixels, normalise(images[3:4].flip(-1)))


class Recorder(pl.LightningModule):
    """A linear model that writes down the labels of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(90, 1)
        self.seen: list[list[int]] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        self.seen.append(batch[1].tolist())
        return self.layer(batch[0].flatten(1)).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


class Stop(Callback):
    """Break off like a killed job: an exception after so many steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.after:
            raise KeyError("killed")


def fit(folder: Path, callbacks: list[Callback], ckpt: Path | None = None) -> Recorder:
    torch.manual_seed(0)
    model = Recorder()
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        callbacks=callbacks,
        default_root_dir=folder,
    )
    trainer.fit(model, MemoryLoader(*faces(), batch_size=4, seed=3), ckpt_path=ckpt)
    return model


@pytest.mark.parametrize("step", [2, 6, 9])
def test_interrupted_lightning_run_goes_on_with_the_next_batch(tmp_path: Path, step: int) -> None:
    whole = fit(tmp_path / "whole", [])
    assert len(whole.seen) == 18
    assert whole.seen[0] != whole.seen[6]
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    with pytest.raises(KeyError, match="killed"):
        fit(tmp_path, [keep, Stop(step + 1)])
    resumed = fit(tmp_path, [], tmp_path / f"step={step}.ckpt")
    assert resumed.seen == whole.seen[step:]
    assert torch.equal(resumed.layer.weight, whole.layer.weight)


class Loaders(pl.LightningDataModule):
    """The way in which every data set of the suite hands out its loader."""

    def train_dataloader(self) -> MemoryLoader:
        return MemoryLoader(*faces(), batch_size=4, seed=3)


def test_overfit_batches_repeats_the_first_batches(tmp_path: Path) -> None:
    model = Recorder()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        max_epochs=2,
        overfit_batches=2,
        accelerator="cpu",
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        **quiet,
    )
    trainer.fit(model, datamodule=Loaders())
    assert model.seen == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2
