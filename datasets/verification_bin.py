"""InsightFace's `.bin` verification sets (`lfw.bin`, `agedb_30.bin`, `African_test.bin`, ...).

The file is a pickle of (images, issame): 2P encoded images in pair order and P booleans (InsightFace
`arcface_mxnet/common/build_eval_pack.py`, `arcface_torch/eval/verification.py` `load_bin`). It is read by
`datasets.plain_pickle`, which runs nothing that the file asks for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from datasets import catalog, fingerprint
from datasets.errors import BadList, CorruptImage
from datasets.file_names import read_regular
from datasets.images import CENTRE_96, decode, to_tensor
from datasets.pair_lists import contiguous_folds
from datasets.pairs import PairSet
from datasets.plain_pickle import PlainArray, unpickle_plain


def read_bin(path: str | Path, dataset: str = "verification_bins") -> tuple[list[bytes], np.ndarray]:
    """Encoded images (2P, pair k is images 2k and 2k + 1) and issame bool [P] of a `.bin` file.

    Raises:
        DatasetNotFound: there is no such file.
        UnsafePickle: not a plain pickle.
        BadList: a pickle of something else than a verification set, or no regular file.
    """
    path = catalog.require(dataset, path)
    content = unpickle_plain(read_regular(path), str(path))
    if not (isinstance(content, (tuple, list)) and len(content) == 2):
        raise BadList(f"{path} is a pickle, but not of (images, issame).")
    images, same = (part.array if isinstance(part, PlainArray) else part for part in content)
    if not isinstance(images, (list, tuple)) or not isinstance(same, (list, tuple, np.ndarray)) or not len(same):
        raise BadList(f"{path} is a pickle, but not of two lists (images, issame).")
    if len(images) != 2 * len(same):
        raise BadList(f"{path} has {len(images)} images for {len(same)} pairs, expected {2 * len(same)}.")
    encoded: list[bytes] = []
    copied: dict[int, bytes] = {}  # a pickle may name one object a million times; it is copied once
    for k, image in enumerate(images):
        if id(image) not in copied:
            copied[id(image)] = _encoded(image, f"{path}: image {k}")
        encoded.append(copied[id(image)])
    flags = [value for value in same]
    if any(not isinstance(value, (bool, int, np.bool_, np.integer)) or value not in (0, 1) for value in flags):
        raise BadList(f"{path}: issame must hold booleans.")
    return encoded, np.array(flags, dtype=bool)


def _encoded(image: Any, where: str) -> bytes:
    if isinstance(image, PlainArray) and image.array.dtype == np.uint8:
        return image.array.tobytes()
    if not isinstance(image, (bytes, bytearray)):
        raise BadList(f"{where} is a {type(image).__name__}, expected encoded bytes.")
    return bytes(image)


def components(images: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Connected components int64 [N] of the graph whose edges are the pairs (first, second)."""
    graph = coo_matrix((np.ones(len(first), dtype=np.int8), (first, second)), shape=(images, images))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def shorter_side(image: Image.Image, side: int, where: str) -> Image.Image:
    """Resize so that the shorter side is `side` (bilinear), as `load_bin` does with images that are not 112x112.

    Raises:
        CorruptImage: the longer side would have another length, so the image is not square.
    """
    scale = side / min(image.size)
    width, height = (round(length * scale) for length in image.size)
    if (width, height) != (side, side):
        raise CorruptImage(f"{where}: the image is {height} x {width} after resizing, expected {side} x {side}.")
    return image if image.size == (side, side) else image.resize((side, side), Image.Resampling.BILINEAR)


def read_pair_set(
    path: str | Path,
    name: str = "",
    side: int = 112,
    columns: tuple[int, int] | None = None,
    divisor: float = 127.5,
    group: str = "",
    dataset: str = "verification_bins",
) -> PairSet:
    """A `.bin` set as a `PairSet`, decoded into one uint8 tensor; each different image is held once.

    The format names no subjects. They are **derived**: two images are of one subject if they are byte-identical or
    joined by a chain of genuine pairs. A person whose images never meet in a genuine pair therefore counts as several
    subjects (LFW's 4,281 people become 4,859), so intervals that resample these subjects are a little too narrow; where
    the official list exists, the set's own reader knows better. Folds are ten contiguous blocks, as InsightFace's.

    Args:
        path: the `.bin` file.
        name: name of the set; the file's stem if empty.
        side: height and width of the images.
        columns: (first, end) of the columns that are kept, None for all.
        divisor: of the pixel normalisation.
        group: name of the group to which all pairs belong, "" for none.
        dataset: catalog key used in the error if the file is missing.

    Raises:
        DatasetNotFound, UnsafePickle, BadList: see `read_bin`.
        CorruptImage: an image cannot be decoded or is not square; names file and image number.
    """
    encoded, same = read_bin(path, dataset)
    position: dict[bytes, int] = {}
    where = np.array([position.setdefault(image, len(position)) for image in encoded], dtype=np.int64)
    first, second = where[0::2], where[1::2]
    numbers = {index: k for k, index in reversed(list(enumerate(where.tolist())))}
    pixels = []
    for index, image in enumerate(position):
        label = f"{path}, image {numbers[index]} of {len(encoded)}"
        pixels.append(to_tensor([shorter_side(decode(image, label), side, label)], columns))
    return PairSet(
        name=name or Path(path).stem,
        images=torch.cat(pixels),
        first=first,
        second=second,
        same=same,
        fold=contiguous_folds(len(same)),
        subject=components(len(position), first[same], second[same]),
        group=np.full(len(same), 0 if group else -1),
        group_names=(group,) if group else (),
        divisor=divisor,
    )


class VerificationBins(pl.LightningDataModule):
    """A folder of `.bin` sets to test on, without training images.

    Args:
        root: data root.
        folder: folder of the `.bin` files under it.
        names: sets to read, e.g. [lfw, cfp_fp]; empty reads all that are there.
        width: 112, or 96 to keep the columns 8..103 for networks that read 112x96.
        divisor: pixels enter the network as (x - 127.5) / divisor.

    Raises:
        ValueError: another width.
        DatasetNotFound (setup): no such file, or no `.bin` file in the folder.
        UnsafePickle, BadList, CorruptImage (setup): see `read_pair_set`.
    """

    num_classes = 0
    group_names: tuple[str, ...] = ()

    def __init__(
        self,
        root: str,
        folder: str = "faces_emore",
        names: tuple[str, ...] = (),
        width: int = 112,
        divisor: float = 127.5,
    ) -> None:
        super().__init__()
        if width not in (112, 96):
            raise ValueError(f"width must be 112 or 96 (the two ArcFace templates), got {width}.")
        self.root, self.folder, self.names = root, folder, tuple(names)
        self.columns = CENTRE_96 if width == 96 else None
        self.divisor = divisor
        self._pair_sets: dict[str, PairSet] = {}

    def paths(self) -> dict[str, Path]:
        """The files by name of their set."""
        base = Path(self.root).expanduser() / self.folder
        names = self.names or tuple(sorted(path.stem for path in base.glob("*.bin"))) or ("lfw",)
        return {name: catalog.require("verification_bins", base / f"{name}.bin") for name in names}

    def setup(self, stage: str | None = None) -> None:
        """Read all sets."""
        for name, path in self.paths().items():
            if name not in self._pair_sets:
                self._pair_sets[name] = read_pair_set(path, name, 112, self.columns, self.divisor)

    def pair_sets(self) -> dict[str, PairSet]:
        """The sets by name."""
        self.setup()
        return self._pair_sets

    def validation_pair_sets(self) -> dict[str, PairSet]:
        """Empty: test sets."""
        return {}

    def fingerprint(self) -> dict[str, Any]:
        """Checksums of the files, and options."""
        files = {name: fingerprint.of_file(path) for name, path in self.paths().items()}
        return {"dataset": "verification_bins", "files": files, "columns": self.columns, "divisor": self.divisor}
