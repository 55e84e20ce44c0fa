"""Checkpoints without torch.load: the same tensors, and nothing that only pretends to be one."""

import collections
import io
import os
import pickle
import zipfile
from typing import Any

import pytest
import torch
from torch import nn

from common.torch_file import TorchFileError, UnsafeTorchFile, read_torch_file


def saved(content: Any, zipped: bool = True, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride() and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


BASE = torch.arange(24.0).reshape(4, 6)
CONTENTS: dict[str, Any] = {
    "a state dict": nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict(),
    "views of one storage": {"all": BASE, "turned": BASE.t(), "part": BASE[1:3, ::2], "one": BASE[2, 3]},
    "types": {str(d): torch.tensor([0, 1, 3]).to(d) for d in (torch.float64, torch.half, torch.bfloat16, torch.int64,
              torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)},
    "plain values": {"epoch": 3, 5: [1.5, None, True, "é", b"x", (1, -2, 1 << 40), {}], "empty": torch.zeros(0, 3)},
    "a parameter": [nn.Parameter(torch.ones(2))],
    "a schedule": {"milestones": collections.Counter([1, 2, 2])},
}  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", CONTENTS)
def test_the_same_as_torch_load(name: str, zipped: bool, protocol: int) -> None:
    data = saved(CONTENTS[name], zipped, protocol)
    assert same(torch.load(io.BytesIO(data), weights_only=False), read_torch_file(data))


class Call:
    """Pickles into a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


class Plain:
    """An object of a class of one's own."""


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "content",
    [
        Call(os.mkdir, "executed"),
        Call(eval, "1"),
        Plain(),
        {1, 2},
        bytearray(b"x"),
        torch.device("cpu"),
        torch.float32,
        1j,
    ],
    ids=["mkdir", "eval", "object", "set", "bytearray", "device", "dtype", "complex"],
)
def test_what_is_no_plain_value_is_refused(
    content: Any, zipped: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafeTorchFile):
        read_torch_file(saved({"state_dict": content}, zipped))
    assert not list(tmp_path.iterdir())


def altered(
    old: bytes, new: bytes, content: Any = None, zipped: bool = True, method: int = zipfile.ZIP_STORED
) -> bytes:
    """A checkpoint of four numbers whose pickle says something else."""
    data = saved({"a": torch.arange(4.0)} if content is None else content, zipped)
    if not zipped:
        assert old in data
        return data.replace(old, new)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(stream, "w", method) as target:
        for name in source.namelist():
            body = source.read(name)
            assert not name.endswith("data.pkl") or old in body
            target.writestr(name, body.replace(old, new) if name.endswith(("data.pkl", "byteorder")) else body)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (altered(b"K\x04\x85", b"K\x05\x85"), r"shape \(5,\) in a storage of 4"),  # size
        (altered(b"K\x00K\x04\x85", b"K\x01K\x04\x85"), "in a storage of 4"),  # offset
        (altered(b"K\x01\x85", b"K\x02\x85"), "in a storage of 4"),  # stride
        (altered(b"K\x04\x85", b"J\xff\xff\xff\xff\x85"), "no tensor has"),  # a size of -1
        (altered(b"K\x04tq", b"K\x05tq"), "a storage of 16 bytes instead of 5"),
        (altered(b"K\x04Nt", b"K\x05Nt", zipped=False), "a storage of 4 numbers instead of 5"),
        (altered(b"K\x04Nt", b"J\0\0\0\x7fNt", zipped=False), "of more bytes than"),
        (altered(b"storage", b"stofage"), "no storage"),
        (altered(b"", b"", method=zipfile.ZIP_DEFLATED), "compressed"),
        (altered(b"", b"", torch.zeros(1).expand(4)), r"shape \(4,\) in a storage of 1"),
        (saved({})[:-30], "damaged"),
        (saved({}, False)[:-1], "damaged"),
        (pickle.dumps({"a": 1}), "neither an archive nor"),
        (b"", "damaged"),
    ],
)
def test_what_does_not_add_up_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(TorchFileError, match=message):
        read_torch_file(data)


def test_one_flipped_bit_of_a_tensor_is_noticed() -> None:
    data = bytearray(saved({"a": torch.full((64,), 1.5)}))
    data[data.index(torch.full((4,), 1.5).numpy().tobytes()) + 2] ^= 1
    assert torch.load(io.BytesIO(data), weights_only=True)["a"][0] != 1.5
    with pytest.raises(TorchFileError, match="CRC"):
        read_torch_file(bytes(data))
