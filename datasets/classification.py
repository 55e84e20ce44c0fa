"""The image classification sets of the pruning and quantization papers, all with the interface of `ImageClassification`.

MNIST: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE
1998. Fashion-MNIST: H. Xiao, K. Rasul, R. Vollgraf, arXiv:1708.07747. CIFAR: A. Krizhevsky, "Learning Multiple Layers of
Features from Tiny Images", 2009. Digits: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from datasets.catalog import not_found
from datasets.cifar import read_cifar
from datasets.idx import CorruptIdx, read_idx
from datasets.splits import ImagesInMemory, Part, Published, held_out, part_of

#: mean and std of the training images on the scale 0..1, rounded as everybody writes them
MNIST_MEAN, MNIST_STD = (0.1307,), (0.3081,)
FASHION_MEAN, FASHION_STD = (0.2860,), (0.3530,)
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
DIGITS_MEAN, DIGITS_STD = (0.3053,), (0.3760,)
#: ImageNet's, with which the published CIFAR-10 networks of akamaster/pytorch_resnet_cifar10 were trained too
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: pixels / 255 and no more
UNIT_MEAN, UNIT_STD = (0.0,), (1.0,)

DIGIT_NAMES = tuple(str(digit) for digit in range(10))
FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


class MNIST(ImagesInMemory):
    """MNIST, 60,000 + 10,000 grey digits of 28x28: `<root>/MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]`.

    Held out: 5,000 images (the lottery ticket's split; SNIP holds out 6,000). No augmentation.
    """

    KEY, MEAN, STD = "mnist", MNIST_MEAN, MNIST_STD
    FOLDER = "MNIST/raw"
    NAMES = DIGIT_NAMES
    in_channels, image_size = 1, (28, 28)

    def read(self) -> Published:
        """The four IDX files, plain or gzipped.

        Raises:
            DatasetNotFound: a file is missing.
            CorruptIdx: a file is damaged, or images and labels do not fit together.
        """
        parts, notes = [], []
        for stem, published in (("train", 60000), ("t10k", 10000)):
            images, labels = self._idx(f"{stem}-images", 3), self._idx(f"{stem}-labels", 1)
            pixels, codes = read_idx(images), read_idx(labels)
            if pixels.dtype != np.uint8 or pixels.shape[1:] != (28, 28):
                raise CorruptIdx(f"{images}: {pixels.dtype} {list(pixels.shape)}, expected uint8 [N, 28, 28].")
            if codes.dtype != np.uint8 or codes.shape != pixels.shape[:1] or not len(codes) or codes.max() > 9:
                raise CorruptIdx(
                    f"{labels}: {codes.dtype} {list(codes.shape)}, expected uint8 [{len(pixels)}], one label of 0 to 9 "
                    f"for every image of {images.name}."
                )
            if len(codes) != published:
                notes.append(f"{images}: {len(codes)} images, published are {published}.")
            parts.append(part_of(pixels, codes))
        return Published(parts[0], parts[1], self.NAMES, tuple(notes))

    def _idx(self, stem: str, dimensions: int) -> Path:
        folder = self.path / self.FOLDER
        for dash in "-.":
            for end in ("", ".gz"):
                path = folder / f"{stem}{dash}idx{dimensions}-ubyte{end}"
                if path.is_file():
                    return path
        raise not_found(self.KEY, folder / f"{stem}-idx{dimensions}-ubyte")


class FashionMNIST(MNIST):
    """Fashion-MNIST, 60,000 + 10,000 grey articles of clothing: `<root>/FashionMNIST/raw/...`, named like MNIST's files."""

    KEY, MEAN, STD = "fashion_mnist", FASHION_MEAN, FASHION_STD
    FOLDER = "FashionMNIST/raw"
    NAMES = FASHION_NAMES


class CIFAR10(ImagesInMemory):
    """CIFAR-10, 50,000 + 10,000 colour images of 32x32 in ten classes; see `datasets.cifar.read_cifar` for the files.

    Held out: 5,000 images. Training images are cut out of a black border of 4 pixels and mirrored (He et al. 2016); the
    lottery ticket's Conv-2/4/6 need `crop=0, flip=False`.
    """

    KEY, MEAN, STD, CROP, FLIP = "cifar10", CIFAR10_MEAN, CIFAR10_STD, 4, True
    KIND = "cifar10"

    def read(self) -> Published:
        """The batches of the python or binary version.

        Raises:
            DatasetNotFound, CorruptBatch, UnsafePickle, CorruptArchive: see `datasets.cifar.read_cifar`.
        """
        found = read_cifar(self.path, self.KIND)
        train, test = (part_of(part.images, part.labels) for part in (found.train, found.test))
        return Published(train, test, found.class_names, found.notes)


class CIFAR100(CIFAR10):
    """CIFAR-100, 50,000 + 10,000 colour images of 32x32 in 100 classes; otherwise like `CIFAR10`."""

    KEY, MEAN, STD = "cifar100", CIFAR100_MEAN, CIFAR100_STD
    KIND, num_classes = "cifar100", 100


class CIFAR100Coarse(CIFAR100):
    """CIFAR-100 with its 20 superclasses as labels."""

    KIND, num_classes = "cifar100_coarse", 20


class Digits(ImagesInMemory):
    """The 1,797 real handwritten digits of 8x8 that scikit-learn carries: no download, the default of a fresh machine.

    They are the test part of UCI's set, from 13 writers; a fixed stratified draw makes 360 of them the test part here,
    and by default 200 more the validation part. The 17 grey levels become 0..255.

    Args:
        root: unused; every set has it.
        size: 8, or 28: enlarged to 20x20 (bilinear) within a black border of 4 pixels, as MNIST's digits lie, so that
            the LeNets run.
        test: images of the test part.
        others: see `ImageClassification`.
    """

    KEY, MEAN, STD, VALIDATION = "digits", DIGITS_MEAN, DIGITS_STD, 200
    TEST_SEED = 1998
    in_channels = 1

    def __init__(
        self,
        root: str = "",
        size: int = 8,
        test: int = 360,
        batch_size: int = 128,
        seed: int = 0,
        validation: int | None = None,
        validation_seed: int = 0,
        stratified: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        crop: int | None = None,
        flip: bool | None = None,
        drop_last: bool = True,
        shuffled_labels: bool = False,
    ) -> None:
        if size not in (8, 28):
            raise ValueError(f"size must be 8 or 28, got {size}.")
        super().__init__(
            root, batch_size, seed, validation, validation_seed, stratified, mean, std, crop, flip, drop_last,
            shuffled_labels,
        )  # fmt: skip
        self.size, self.test_count = size, test
        self.image_size = (size, size)

    def read(self) -> Published:
        """scikit-learn's bundled file."""
        from sklearn.datasets import load_digits  # half a second of import

        digits = load_digits()
        images = torch.from_numpy(digits.images)[:, None] * (255 / 16)
        if self.size == 28:
            images = functional.pad(functional.interpolate(images, (20, 20), mode="bilinear"), (4, 4, 4, 4))
        whole = Part(images.round().to(torch.uint8), torch.from_numpy(digits.target.astype(np.int64)))
        train, test = held_out(whole.labels.numpy(), self.test_count, self.TEST_SEED, stratified=True)
        return Published(whole.select(train), whole.select(test), DIGIT_NAMES)
