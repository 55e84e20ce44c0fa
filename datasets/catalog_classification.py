"""The entries of the catalog for image classification."""

from __future__ import annotations

from datasets.catalog import Count, Entry

IDX = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
IDX_TREE = tuple(f"{name} or {name}.gz" for name in IDX)
IDX_REQUIRED = tuple(name.replace("-idx", "?idx") + "*" for name in IDX)  # some mirrors write ".idx3"
IDX_BYTES = tuple(Count(name, n, "bytes") for name, n in zip(IDX, (47040016, 60008, 7840016, 10008), strict=True))
TORONTO = "University of Toronto (A. Krizhevsky)"
CIFAR_PAGE = "cs.toronto.edu/~kriz/cifar.html, python or binary version, unpacked or as the .tar.gz"
BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))

CLASSIFICATION = (
    Entry(
        "digits",
        "Optical recognition of handwritten digits (UCI)",
        "1,797 digits of 8x8 by 13 writers, ten classes; the default of the pruning papers.",
        "Bogazici University (E. Alpaydin, C. Kaynak), through scikit-learn",
        "CC BY 4.0",
        "nothing to do: scikit-learn brings it along",
        "",
        ("(no file: it is part of scikit-learn)",),
        (),
        reader="datasets.classification.Digits",
        bundled="sklearn",
    ),
    Entry(
        "mnist",
        "MNIST",
        "60,000 + 10,000 handwritten digits, 28x28, ten classes.",
        "Y. LeCun, C. Cortes, C. Burges",
        "freely redistributed, no licence stated",
        "any mirror; the four IDX files, unpacked or gzipped",
        "MNIST/raw",
        IDX_TREE,
        IDX_REQUIRED,
        IDX_BYTES,
        {
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        reader="datasets.classification.MNIST",
    ),
    Entry(
        "fashion_mnist",
        "Fashion-MNIST",
        "60,000 + 10,000 articles of clothing, 28x28, ten classes.",
        "Zalando Research (H. Xiao, K. Rasul, R. Vollgraf)",
        "MIT licence",
        "github.com/zalandoresearch/fashion-mnist; the four IDX files, unpacked or gzipped",
        "FashionMNIST/raw",
        IDX_TREE,
        IDX_REQUIRED,
        IDX_BYTES,
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        reader="datasets.classification.FashionMNIST",
    ),
    Entry(
        "cifar10",
        "CIFAR-10",
        "50,000 + 10,000 colour images, 32x32, ten classes; about 3 % of the test images resemble a training image.",
        TORONTO,
        "none stated; cite Krizhevsky 2009",
        CIFAR_PAGE,
        "cifar-10-batches-py",
        ("data_batch_{1..5}", "test_batch", "batches.meta"),
        (*BATCHES, "test_batch", "batches.meta"),
        checksums={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        },
        reader="datasets.classification.CIFAR10",
        other_forms={
            "cifar-10-batches-bin": "",
            "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
            "cifar-10-binary.tar.gz": "",
        },
    ),
    Entry(
        "cifar100",
        "CIFAR-100",
        "50,000 + 10,000 colour images, 32x32, 100 classes in 20 superclasses; about 10 % near-duplicates in the test part.",
        TORONTO,
        "none stated; cite Krizhevsky 2009",
        CIFAR_PAGE,
        "cifar-100-python",
        ("train", "test", "meta"),
        ("train", "test", "meta"),
        checksums={"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        reader="datasets.classification.CIFAR100",
        other_forms={
            "cifar-100-binary": "",
            "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
            "cifar-100-binary.tar.gz": "",
        },
    ),
    Entry(
        "tiny_imagenet",
        "Tiny-ImageNet-200",
        "100,000 + 10,000 labelled colour images, 64x64, 200 classes.",
        "Stanford University (course CS231n)",
        "ImageNet's: non-commercial research and education",
        "cs231n.stanford.edu/tiny-imagenet-200.zip, unpacked",
        "tiny-imagenet-200",
        ("train/<wnid>/images/<wnid>_0.JPEG", "val/images/val_0.JPEG", "val/val_annotations.txt"),
        ("train/*/images", "val/images", "val/val_annotations.txt"),
        (
            Count("train/*/images/*.JPEG", 100000),
            Count("val/images/*.JPEG", 10000),
            Count("val/val_annotations.txt", 10000, "lines"),
        ),
        reader="datasets.imagenet.TinyImageNet",
    ),
    Entry(
        "imagenet",
        "ImageNet-1k (ILSVRC 2012)",
        "1,281,167 + 50,000 labelled colour images of any size, 1,000 classes.",
        "Princeton and Stanford University (image-net.org)",
        "non-commercial research and education, by agreement",
        "register at image-net.org; unpack each class of the training archive into a folder of its name",
        "imagenet",
        (
            "train/<wnid>/<wnid>_<n>.JPEG",
            "val/<wnid>/ILSVRC2012_val_<n>.JPEG",
            "or val/ILSVRC2012_val_<n>.JPEG with ILSVRC2012_devkit_t12/data/{meta.mat,ILSVRC2012_validation_ground_truth.txt}",
        ),
        ("train/*", "val"),
        (Count("train/*/*.JPEG", 1281167),),
        reader="datasets.image_classes.ImageNetFolder",
    ),
)
