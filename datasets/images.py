"""Image files as uint8 RGB tensors, read lazily or all at once, with errors that name the file."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from datasets.errors import CorruptImage
from datasets.file_names import read_inside

#: columns of a 112x112 crop that networks for 112x96 see (the 96-pixel ArcFace template is the same, x - 8)
CENTRE_96 = (8, 104)
#: what is decoded: Pillow knows forty more formats, most of them hardly tested, and runs Ghostscript for one (EPS)
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP")
MAX_PIXELS = 1 << 24  # no face image has more
FREE_PIXELS = 1 << 20  # an image of at most so many pixels may be of one colour and compress to nothing
PIXELS_PER_BYTE = 256  # what a larger image has at most; photographs have one to ten
SCAN = b"\xff\xda"  # the mark at which a JPEG's scan begins
MAX_COLOURS = 256  # of a bitmap's palette; Pillow takes time in proportion to the square of what the file says
MAX_SCANS = 100  # of a progressive JPEG; encoders write about ten, and every one takes a pass over all pixels


def decode(data: bytes, where: str, size: tuple[int, int] | None = None) -> Image.Image:
    """Encoded image (`FORMATS`) -> RGB image; with `size` = (height, width) it must have that size.

    Raises:
        CorruptImage: not an image, truncated, of another size, or one that would take far more memory or time than its
            bytes are worth; the message begins with `where`.
    """
    if (colours := _palette(data)) > MAX_COLOURS:
        raise CorruptImage(f"{where}: a bitmap with a palette of {colours} colours is damaged; save it again.")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if size is not None and (height, width) != tuple(size):
            raise CorruptImage(
                f"{where}: the image is {height} high and {width} wide, expected are {size[0]} and {size[1]}. "
                "Align and crop it first."
            )
        if width * height > min(MAX_PIXELS, max(FREE_PIXELS, PIXELS_PER_BYTE * len(data))):
            raise CorruptImage(f"{where}: {width} x {height} pixels in {len(data)} bytes is no face image.")
        if image.format in ("JPEG", "MPO") and data.count(SCAN) > MAX_SCANS:
            raise CorruptImage(f"{where}: a JPEG of {data.count(SCAN)} scans is no photograph; save it again.")
        return image.convert("RGB")
    except CorruptImage:
        raise
    except UnidentifiedImageError as error:
        raise CorruptImage(
            f"{where}: {len(data)} bytes that are no {', '.join(FORMATS)}: cannot be decoded."
        ) from error
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error, ... depending on the damage
        raise CorruptImage(f"{where}: {len(data)} bytes that cannot be decoded as an image ({error}).") from error


def _palette(data: bytes) -> int:
    """Colours that a bitmap's header of 40 bytes or more says its palette has; 0 for other files."""
    is_bitmap = data[:2] == b"BM" and int.from_bytes(data[14:18], "little") >= 40
    return int.from_bytes(data[46:50], "little") if is_bitmap else 0


def to_tensor(images: Sequence[Image.Image], columns: tuple[int, int] | None = None) -> torch.Tensor:
    """Equally large RGB images -> uint8 [B, 3, H, W]; `columns` = (first, end) keeps only those columns."""
    pixels = np.stack([np.asarray(image) for image in images])
    if columns is not None:
        pixels = pixels[:, :, columns[0] : columns[1]]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


class ImageFiles:
    """Image files as a sequence that decodes what it is asked for.

    `files[3]`, `files[10:20]` and `files[[4, 2]]` give uint8 tensors ([3, H, W] for an integer, else [B, 3, H, W]).

    Args:
        root: folder of the files.
        files: paths relative to it.
        size: (height, width) that every image must have after `prepare`.
        columns: (first, end) of the columns that are kept, None for all.
        prepare: called with the decoded image and its relative path before the size is checked (alignment, crop).

    Raises (on access):
        FileNotFoundError: a file is missing.
        UnsafePath: a name or a link leads out of the folder, or to no regular file.
        CorruptImage: a file cannot be decoded or has another size.
    """

    def __init__(
        self,
        root: str | Path,
        files: Sequence[str],
        size: tuple[int, int] = (112, 112),
        columns: tuple[int, int] | None = None,
        prepare: Callable[[Image.Image, str], Image.Image] | None = None,
    ) -> None:
        self.root, self.files, self.size = Path(root), tuple(files), size
        self.columns, self.prepare = columns, prepare

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int | slice | Sequence[int] | torch.Tensor) -> torch.Tensor:
        if isinstance(index, int):
            return to_tensor([self.image(self.files[index])], self.columns)[0]
        if isinstance(index, slice):
            chosen: Sequence[str] = self.files[index]
        else:
            chosen = [self.files[int(i)] for i in index]
        if not chosen:
            width = self.columns[1] - self.columns[0] if self.columns else self.size[1]
            return torch.zeros(0, 3, self.size[0], width, dtype=torch.uint8)
        return to_tensor([self.image(file) for file in chosen], self.columns)

    def image(self, file: str) -> Image.Image:
        """One image, prepared and of the promised size."""
        path = self.root / file
        try:
            data = read_inside(self.root, file)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path} is named in a list of the data set but does not exist.") from error
        image = decode(data, str(path), self.size if self.prepare is None else None)
        if self.prepare is not None:
            image = self.prepare(image, file)
        return image


def read_all(images: ImageFiles, threads: int = 2, chunk: int = 64) -> torch.Tensor:
    """All images as one uint8 tensor [N, 3, H, W], decoded by a few threads (decoding releases the GIL)."""
    if not len(images):
        return images[0:0]
    probe = images[0]
    pixels = torch.empty(len(images), *probe.shape, dtype=torch.uint8)

    def fill(start: int) -> None:
        part = images[start : start + chunk]
        pixels[start : start + len(part)] = part

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, range(0, len(images), chunk)))  # list(): raises what a thread raised
    return pixels
