"""The classification sets: parts that never mix, batches that depend on (seed, epoch, image) alone, the real numbers."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torchvision.transforms.functional import to_tensor
from torchvision.transforms.v2 import functional as reference

from datasets import catalog
from datasets.augmentation import Normalisation, TensorLoader, shifted
from datasets.classification import CIFAR10, CIFAR10_MEAN, CIFAR10_STD, MNIST, CIFAR100Coarse, Digits, FashionMNIST
from datasets.errors import DatasetNotFound
from datasets.idx import CorruptIdx
from datasets.splits import ImagesInMemory, Published, held_out, part_of

REAL = Path("~/fairpress-data").expanduser()
Batches = list[tuple[torch.Tensor, torch.Tensor]]


class Numbered(ImagesInMemory):
    """Images whose every pixel tells place and number; the label is the number."""

    KEY = "numbered"

    def read(self) -> Published:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (40, 3, 6, 5), dtype=np.uint8)
        parts = [part_of(images[:30], np.arange(30) % 10), part_of(images[30:], np.arange(10))]
        return Published(parts[0], parts[1], tuple("abcdefghij"))


def numbered(**options: Any) -> Numbered:
    return Numbered(**({"root": "", "batch_size": 4, "validation": 6, "crop": 2, "flip": True, "seed": 3} | options))


def epoch(loader: Any, number: int) -> Batches:
    loader.set_epoch(number)
    return list(loader)


def same(ours: Batches, theirs: Batches) -> bool:
    pairs = list(zip(ours, theirs, strict=True))
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


# -- parts ------------------------------------------------------------------------------------------------------------


def test_parts_are_disjoint_whole_and_fixed_by_their_own_seed() -> None:
    data, other = numbered(), numbered(seed=9, batch_size=5)
    data.setup()
    other.setup()
    published = data.read()
    assert torch.equal(data.validation.images, other.validation.images)
    assert [len(data.part(name)) for name in ("train", "validation", "test")] == [24, 6, 10]
    assert torch.equal(data.test.images, published.test.images)
    both = torch.cat([data.train.images, data.validation.images]).flatten(1)
    assert {tuple(row.tolist()) for row in both} == {tuple(row.tolist()) for row in published.train.images.flatten(1)}
    moved = numbered(validation_seed=1)
    moved.setup()
    assert not torch.equal(data.validation.images, moved.validation.images)
    with pytest.raises(ValueError, match="expected one of train, validation, test"):
        data.part("val")
    assert numbered(validation=0).val_dataloader() == []


def test_held_out() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    kept, drawn = held_out(labels, 10, seed=4)
    assert sorted([*kept, *drawn]) == list(range(100))
    assert len(drawn) == 10
    assert (np.diff(kept) > 0).all()
    assert np.bincount(labels[held_out(labels, 10, 0, stratified=True)[1]]).tolist() == [5, 3, 2]
    assert np.bincount(labels[held_out(labels, 11, 0, stratified=True)[1]]).tolist() == [6, 3, 2]
    assert not np.array_equal(held_out(labels, 10, 0, True)[1], held_out(labels, 10, 1, True)[1])
    assert len(held_out(labels, 0, 0, stratified=True)[1]) == 0
    for count in (-1, 100):
        with pytest.raises(ValueError, match="expected 0 to 99"):
            held_out(labels, count, 0)


def test_shuffled_labels_are_a_fixed_permutation_of_the_training_labels_only() -> None:
    data, shuffled = numbered(crop=0, flip=False), numbered(crop=0, flip=False, shuffled_labels=True)
    true = torch.cat([y for _, y in epoch(data.train_dataloader(), 0)])
    first, again = (torch.cat([y for _, y in epoch(shuffled.train_dataloader(), 0)]) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, true)
    assert torch.equal(shuffled.training_labels().sort().values, data.labels("train").sort().values)
    assert torch.equal(shuffled.labels("train"), data.labels("train"))
    assert torch.equal(shuffled.loader("test").dataset.labels, data.labels("test"))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"validation": -1}, "validation=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"crop": -1}, "crop=-1"),
        ({"mean": (0.5, 0.5), "std": (0.5,)}, "one value a channel"),
        ({"mean": (0.5,), "std": (0.0,)}, "std > 0"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        numbered(**options)


def test_wrong_number_of_channels_or_held_out_images_is_said_when_the_data_are_known() -> None:
    with pytest.raises(ValueError, match="3 channels, mean and std have 2"):
        next(iter(numbered(mean=(0.5, 0.5), std=(1.0, 1.0)).train_dataloader()))
    with pytest.raises(ValueError, match="30 of 30 images cannot be held out"):
        numbered(validation=30).setup()


# -- batches ----------------------------------------------------------------------------------------------------------


def test_normalisation_equals_torchvision_bit_for_bit() -> None:
    images = torch.randint(0, 256, (7, 3, 6, 5), dtype=torch.uint8)
    scaled = torch.stack([to_tensor(image.permute(1, 2, 0).numpy()) for image in images])
    expected = reference.normalize(scaled, list(CIFAR10_MEAN), list(CIFAR10_STD))
    found = Normalisation(CIFAR10_MEAN, CIFAR10_STD)(images)
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_shifted_equals_pad_crop_and_flip() -> None:
    images = torch.randint(1, 256, (9, 3, 6, 5), dtype=torch.uint8)
    shift = torch.tensor([[i % 5, i // 2] for i in range(9)])
    flip = torch.arange(9) % 2 == 1
    found = shifted(images, shift, flip, border=2)
    for i in range(9):
        window = reference.crop(reference.pad(images[i], [2, 2, 2, 2]), *shift[i].tolist(), 6, 5)
        assert torch.equal(found[i], reference.horizontal_flip(window) if flip[i] else window)
    assert torch.equal(shifted(images, torch.full((9, 2), 2), flip & False, 2), images)


def test_an_epoch_is_the_written_out_reference() -> None:
    data = numbered()
    batches = epoch(data.train_dataloader(), 2)
    order = np.random.default_rng((3, 2, 0)).permutation(24)
    coin = np.random.default_rng((3, 2, 1)).random(24) < 0.5
    shift = np.random.default_rng((3, 2, 2)).integers(0, 5, (24, 2))
    assert len(batches) == 6
    for k, (images, labels) in enumerate(batches):
        for row, position in enumerate(range(4 * k, 4 * k + 4)):
            image = order[position]
            pixels = reference.crop(reference.pad(data.train.images[image], [2] * 4), *shift[image].tolist(), 6, 5)
            pixels = reference.horizontal_flip(pixels) if coin[position] else pixels
            assert torch.equal(images[row], pixels.float() / 255)
            assert labels[row] == data.train.labels[image]
    assert 0 < coin.sum() < 24
    assert len(np.unique(shift)) == 5


@pytest.mark.parametrize("options", [{}, {"crop": 0}, {"crop": 0, "flip": False}])
def test_batches_depend_on_seed_and_epoch_only(options: dict[str, Any]) -> None:
    first = numbered(**options).train_dataloader()
    epoch(first, 5)
    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    again = numbered(**options).train_dataloader()
    assert same(epoch(first, 1), epoch(again, 1))
    assert torch.equal(torch.rand(3), expected)
    assert not same(epoch(first, 0), epoch(first, 1))
    assert not same(epoch(first, 0), epoch(numbered(**options, seed=4).train_dataloader(), 0))


def test_small_sets_are_kept_normalised_and_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    data = numbered(crop=0, mean=(0.1, 0.2, 0.3), std=(0.3, 0.2, 0.1))
    kept = data.train_dataloader()
    monkeypatch.setattr("datasets.splits.FLOAT_BYTES", 0)
    fresh = data.train_dataloader()
    assert (kept.dataset.images.dtype, fresh.dataset.images.dtype) == (torch.float32, torch.uint8)  # type: ignore[attr-defined]
    assert same(epoch(kept, 0), epoch(fresh, 0))
    before = data.inputs("train").clone()
    epoch(kept, 1)
    assert torch.equal(data.inputs("train"), before)


def test_two_processes_see_what_one_sees() -> None:
    data = numbered()
    part = data.part("train")
    options: dict[str, Any] = {"border": 2, "flip": True}
    whole = epoch(data.train_dataloader(), 1)
    shares = [
        epoch(TensorLoader(part.images, part.labels, 4, 3, data.normalisation, rank=r, world=2, **options), 1)
        for r in range(2)
    ]
    for (images, labels), *halves in zip(whole, *shares, strict=True):
        for rank, (half, half_labels) in enumerate(halves):
            assert torch.equal(half, images[rank::2])
            assert torch.equal(half_labels, labels[rank::2])


def test_every_process_evaluates_the_whole_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    data = numbered()
    assert [len(y) for _, y in data.train_dataloader()] == [2] * 6
    assert torch.equal(torch.cat([y for _, y in data.loader("test", 3)]), data.labels("test"))


def test_resumed_in_the_middle_of_an_epoch() -> None:
    undisturbed = numbered().train_dataloader()
    expected = epoch(undisturbed, 0) + epoch(undisturbed, 1)
    killed = numbered().train_dataloader()
    seen = epoch(killed, 0)
    killed.set_epoch(1)
    iterator = iter(killed)
    seen += [next(iterator), next(iterator)]
    state = killed.state_dict()
    assert state == {"epoch": 1, "given": 2}
    resumed = numbered().train_dataloader()
    resumed.load_state_dict(state)
    assert same(seen + epoch(resumed, 1), expected)
    assert same(epoch(resumed, 1), expected[6:])


class Recorder(pl.LightningModule):
    """Trains nothing and remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: Batches = []
        self.validated = 0

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        self.seen.append((batch[0].clone(), batch[1].clone()))
        return self.weight * 0.0

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> None:
        self.validated += len(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(model: Recorder, data: Numbered, **options: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", enable_checkpointing=False, num_sanity_val_steps=0, **quiet, **options)
    trainer.fit(model, datamodule=data)
    return trainer


@pytest.mark.filterwarnings("ignore")
def test_lightning_sees_the_same_batches() -> None:
    data, model = numbered(), Recorder()
    fit(model, data, max_epochs=2)
    loader = numbered().train_dataloader()
    assert same(model.seen, epoch(loader, 0) + epoch(loader, 1))
    assert model.validated == 12
    again = Recorder()
    fit(again, numbered(), max_epochs=2, overfit_batches=2)
    assert same(again.seen[:2], again.seen[2:])


def test_fingerprint_follows_content_and_options() -> None:
    base = numbered().fingerprint()
    assert base == numbered(seed=7, batch_size=3).fingerprint()
    for options in ({"validation_seed": 1}, {"crop": 0}, {"mean": (0.1,), "std": (1.0,)}, {"shuffled_labels": True}):
        assert numbered(**options).fingerprint() != base


# -- sets -------------------------------------------------------------------------------------------------------------


def write_mnist(root: Path, train: int = 12, test: int = 4, stem: str = "{}-{}-idx{}-ubyte") -> None:
    rng = np.random.default_rng(1)
    root.mkdir(parents=True, exist_ok=True)
    for name, n in (("train", train), ("t10k", test)):
        images, labels = rng.integers(0, 256, n * 784, np.uint8), np.arange(n, dtype=np.uint8) % 10
        (root / stem.format(name, "images", 3)).write_bytes(struct.pack(">4I", 2051, n, 28, 28) + images.tobytes())
        (root / stem.format(name, "labels", 1)).write_bytes(struct.pack(">2I", 2049, n) + labels.tobytes())


@pytest.mark.parametrize(
    ("kind", "folder", "stem"),
    [
        (MNIST, "MNIST/raw", "{}-{}-idx{}-ubyte"),
        (MNIST, "MNIST/raw", "{}-{}.idx{}-ubyte"),
        (FashionMNIST, "FashionMNIST/raw", "{}-{}-idx{}-ubyte.gz"),
    ],
)
def test_mnist_tree(tmp_path: Path, kind: type[MNIST], folder: str, stem: str) -> None:
    write_mnist(tmp_path / folder, stem=stem)
    data = kind(str(tmp_path), batch_size=3, validation=2)
    assert catalog.inspect(catalog.find(data.KEY), tmp_path).state in ("whole", "differs")
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (3, 1, 28, 28)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert data.inputs("test").shape == (4, 1, 28, 28)
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 1, (28, 28))
    assert data.notes[0].endswith("12 images, published are 60000.")
    assert data.class_names[1] == ("1" if kind is MNIST else "Trouser")


def test_mnist_trouble_names_file_and_sizes(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match="train-images-idx3-ubyte does not exist"):
        MNIST(str(tmp_path)).setup()
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw)
    whole = (raw / "train-images-idx3-ubyte").read_bytes()
    (raw / "train-images-idx3-ubyte").write_bytes(whole[:-100])
    with pytest.raises(CorruptIdx, match=r"train-images-idx3-ubyte: .* 9424 bytes; the file has 9324 bytes"):
        MNIST(str(tmp_path)).setup()
    (raw / "train-images-idx3-ubyte").write_bytes(whole)
    labels = raw / "t10k-labels-idx1-ubyte"
    for content, message in (
        (struct.pack(">2I", 2049, 3) + bytes(3), r"uint8 \[3\], expected uint8 \[4\]"),
        (struct.pack(">2I", 2049, 4) + bytes([1, 2, 3, 10]), "one label of 0 to 9"),
        (struct.pack(">3I", 2050, 4, 1) + bytes(4), r"uint8 \[4, 1\]"),
    ):
        labels.write_bytes(content)
        with pytest.raises(CorruptIdx, match=message):
            MNIST(str(tmp_path)).setup()
    (raw / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, 12, 14, 56) + whole[16:])
    with pytest.raises(CorruptIdx, match=r"expected uint8 \[N, 28, 28\]"):
        MNIST(str(tmp_path)).setup()


def test_cifar_module(golden: Path) -> None:
    data = CIFAR10(str(golden / "_datasets"), batch_size=4, validation=2)
    assert next(iter(data.train_dataloader()))[0].shape == (4, 3, 32, 32)
    assert data.train.images.is_contiguous(memory_format=torch.channels_last)
    expected = np.load(golden / "_datasets" / "cifar10.npz")
    test = torch.from_numpy(expected["test_data"].transpose(0, 3, 1, 2).copy())
    assert torch.equal(data.test.images, test)
    assert torch.equal(data.inputs("test"), data.normalisation(test))
    assert data.labels("test").tolist() == expected["test_targets"].tolist()
    assert (data.crop, data.flip, data.class_names[9]) == (4, True, "truck")
    assert any("not the published ones" in note for note in data.notes)
    with pytest.raises(DatasetNotFound, match="CIFAR-100"):
        CIFAR100Coarse(str(golden / "_datasets")).setup()


def test_digits_need_no_files() -> None:
    data = Digits(batch_size=60)
    data.setup()
    assert [len(data.part(name)) for name in ("train", "validation", "test")] == [1237, 200, 360]
    assert data.inputs("train").shape == (1237, 1, 8, 8)
    assert abs(float(data.inputs("train").mean())) < 0.01
    counts = torch.bincount(data.labels("test"))
    assert (counts >= 34).all()
    assert int(data.test.images.max()) == 255
    assert torch.equal(data.test.images, Digits(validation=0, seed=5).part("test").images)
    large = Digits(size=28)
    assert large.inputs("test").shape == (360, 1, 28, 28)
    border = large.test.images.clone()
    assert int(border[:, :, 4:24, 4:24].max()) > 240
    border[:, :, 4:24, 4:24] = 0
    assert not border.any()
    quarters = (large.test.images[:, :, 4:24, 4:24], 5), (data.test.images, 2)  # both averaged to 4x4
    coarse = [torch.nn.functional.avg_pool2d(images.float(), side).flatten() for images, side in quarters]
    assert torch.corrcoef(torch.stack(coarse))[0, 1] > 0.98
    with pytest.raises(ValueError, match="size must be 8 or 28"):
        Digits(size=16)


# -- the real files ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (REAL / "MNIST").is_dir(), reason="MNIST is not below ~/fairpress-data")
def test_real_mnist() -> None:
    data = MNIST(str(REAL), batch_size=60)
    data.setup()
    assert [len(data.part(name)) for name in ("train", "validation", "test")] == [55000, 5000, 10000]
    assert data.notes == ()
    train = torch.cat([data.train.labels, data.validation.labels])
    assert torch.bincount(train).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    pixels = torch.cat([data.train.images, data.validation.images]).float() / 255
    assert float(pixels.mean()) == pytest.approx(0.1307, abs=5e-5)
    assert float(pixels.std()) == pytest.approx(0.3081, abs=5e-5)
    assert len(data.train_dataloader()) == 916


@pytest.mark.skipif(not (REAL / "cifar-10-batches-py").is_dir(), reason="CIFAR-10 is not below ~/fairpress-data")
@pytest.mark.slow
def test_real_cifar10() -> None:
    data = CIFAR10(str(REAL), validation=0)
    data.setup()
    assert torch.bincount(data.train.labels).tolist() == [5000] * 10
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    mean = data.train.images.sum((0, 2, 3)) / (255 * 50000 * 32 * 32)
    assert mean.tolist() == pytest.approx(CIFAR10_MEAN, abs=1e-4)


@pytest.mark.speed
def test_a_batch_costs_little_more_than_its_gather() -> None:
    """60 of 20,000 grey images of 28x28: the loader against the bare `index_select` of the same images."""
    images, labels = torch.randn(20000, 1, 28, 28), torch.zeros(20000, dtype=torch.int64)
    loader = TensorLoader(images, labels, 60, 0, Normalisation((0.0,), (1.0,)))
    order = torch.randperm(20000)

    def bare() -> None:
        for k in range(len(loader)):
            index = order[60 * k : 60 * k + 60]
            images.index_select(0, index), labels.index_select(0, index)

    def seconds(run: Any) -> float:
        start = time.process_time()
        run()
        return time.process_time() - start

    ratio = min(seconds(lambda: list(iter_all(loader))) for _ in range(5)) / min(seconds(bare) for _ in range(5))
    assert ratio < 2.5


def iter_all(loader: TensorLoader) -> Any:
    """Every batch, none kept."""
    for _ in loader:
        yield None
