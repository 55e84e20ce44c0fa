"""Small valid files of every format, and the sums that make an altered one look whole: without them no change would get
past a checksum."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

GOLDEN = Path(__file__).parents[1] / "golden"
SIDE = 8


class Touch:
    """Pickles into a call that leaves a trace."""

    def __init__(self, function: Any = os.mkdir, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments or ("fuzz_canary",)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def picture(
    form: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (SIDE, SIDE), seed: int = 0, **options: Any
) -> bytes:
    """An encoded image of noise."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(
        0, 2 if mode == "1" else 256, (size[1], size[0], channels), dtype=np.uint8
    )
    image = Image.fromarray(pixels[..., :3].squeeze() if mode != "1" else pixels[..., 0] * 255).convert(mode)
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    """The content of an .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive whose checksums are right."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return stream.getvalue()


def unzipped(data: bytes) -> dict[str, bytes]:
    """The members of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def right_png(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums that they should have."""
    fixed, at = data[:8], 8
    while at + 12 <= len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        body = data[at + 4 : at + 8 + length]
        fixed += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return fixed + data[at:]


def network() -> nn.Module:
    """The smallest network with every kind of entry: weights, statistics, a counter."""
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def torch_file(content: Any, zipped_form: bool = True, protocol: int = 2) -> bytes:
    """What `torch.save` writes."""
    stream = io.BytesIO()
    torch.save(content, stream, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped_form)
    return stream.getvalue()


def torch_contents() -> list[Any]:
    """Checkpoints that load, and some that must not."""
    state = network().state_dict()
    return [
        state,
        {"epoch": 3, "lr": [0.1, (1, None, True)], "state_dict": {f"module.{k}": v for k, v in state.items()}},
        {k: v.t() if v.ndim == 2 else v for k, v in state.items()},
        {"state_dict": Touch()},
        {"a": torch.zeros(1).expand(4), "b": np.float64(3)},
    ]


def safetensors_file() -> bytes:
    """What `common.weights.save_weights` writes."""
    return save({k: v.contiguous() for k, v in network().state_dict().items()}, metadata={"network": "Sequential"})


def cache_file(head: bytes, payload: bytes) -> bytes:
    """A file of the rendered-image cache whose head names the right SHA-256."""
    try:
        fields = json.loads(head)
        fields["sha256"] = hashlib.sha256(payload).hexdigest()
        head = json.dumps(fields).encode()
    except (ValueError, TypeError, RecursionError):
        pass
    return b"fairpress-arrays-1\n" + head + b"\n" + payload


def bin_files() -> list[bytes]:
    """Verification sets: every protocol and form, and hostile ones."""
    images = [picture(seed=k, form=form) for k, form in enumerate(("PNG", "JPEG", "JPEG", "PNG"))]
    arrays = [np.frombuffer(image, np.uint8) for image in images]
    sets: list[Any] = [
        (images, [True, False]),
        (arrays, np.array([True, False])),
        (tuple(images[:2]), (np.bool_(True),)),
    ]
    found = [pickle.dumps(content, protocol) for content in sets for protocol in (0, 2, 4, 5)]
    hostile = [
        ([Touch()] * 2, [True]),
        ([bytearray(b"ab")] * 2, [1]),
        (np.array([None, 1], dtype=object), [True]),
        Touch(eval, "1"),
    ]
    return found + [pickle.dumps(content, 2) for content in hostile]


def matlab(content: dict[str, Any], compress: bool = False) -> bytes:
    """A MATLAB 5 file."""
    from scipy.io import savemat

    stream = io.BytesIO()
    savemat(stream, content, do_compression=compress)
    return stream.getvalue()


def agedb_protocol(folds: int = 2, pairs: int = 2) -> dict[str, Any]:
    """The structure of AgeDB's protocol file."""
    splits = np.empty((folds, 1), dtype=object)
    for fold in range(folds):
        names = np.empty((2, pairs), dtype=object)
        for k in range(pairs):
            for row in (0, 1):
                name = np.empty((1, 1), dtype=object)
                name[0, 0] = f"{fold * 10 + k}_JaneDoe_{30 + row}_{'fm'[row]}"
                names[row, k] = name
        cell = np.empty((1, 1), dtype=[("names", object), ("labels", object)])
        cell[0, 0] = (names, np.array([[1, -1] * pairs])[:, :pairs].astype(np.float64))
        splits[fold, 0] = cell
    return {"splits": splits}
