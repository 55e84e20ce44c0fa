"""Weights: what is saved comes back, foreign checkpoints load by name, and whatever does not fit is refused whole."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from common.backbones import MobileFaceNet, MobileFaceNet112x96
from common.files import DamagedFileError
from common.weights import WeightsMismatchError, load_weights, save_weights

PUBLISHED = Path(os.environ.get("DATA", "~/fairpress-data")).expanduser() / ("weights/mobilefacenet_xiaoccer_068.ckpt")


def small(**options: object) -> MobileFaceNet:
    return MobileFaceNet(**({"embedding_size": 32, "width": 0.125, "input_size": 48, "blocks": (1, 1, 1)} | options))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture
def trained() -> MobileFaceNet:
    torch.manual_seed(0)
    network = small()
    network(torch.randn(4, 3, 48, 48))  # moves the batch statistics
    return network


def test_what_is_saved_comes_back(trained, tmp_path):
    path = tmp_path / "new folder" / "weights.safetensors"
    save_weights(trained.to(memory_format=torch.channels_last), path)
    other = small()
    assert not same(trained, other)
    load_weights(other, path)
    assert same(trained, other)
    assert [p.name for p in path.parent.iterdir()] == ["weights.safetensors"]


def test_tied_weights_and_foreign_memory_are_saved(tmp_path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.second = nn.Linear(3, 3)
            self.second.weight = self.first.weight

    network, other = Tied(), Tied()
    save_weights(network, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert same(network, other)
    assert other.first.weight is other.second.weight


def test_equal_networks_are_equal_files(trained, tmp_path):
    save_weights(trained, tmp_path / "a.safetensors")
    other = small()
    load_weights(other, tmp_path / "a.safetensors")
    save_weights(other, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_every_kind_of_tensor_is_sealed(tmp_path):
    class Various(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("nothing", torch.empty(0, 3))
            self.register_buffer("number", torch.tensor(3))
            self.register_buffer("mask", torch.tensor([True, False]))
            self.register_buffer("short", torch.ones(2, 2, dtype=torch.bfloat16))

    network, other = Various(), Various()
    network.mask[1] = True
    network.short[0, 1] = -2
    save_weights(network, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert same(network, other)


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"network": "MobileFaceNet"}, {"hashes": '{"sha256": 1}'}]
)
def test_files_of_strangers_need_no_checksum(trained, tmp_path, metadata):
    (tmp_path / "a.safetensors").write_bytes(safetensors.torch.save(dict(trained.state_dict()), metadata=metadata))
    other = small()
    load_weights(other, tmp_path / "a.safetensors")
    assert same(trained, other)


def rewritten(raw: bytes, change: Callable[[dict], None]) -> bytes:
    """A safetensors file whose header is another one."""
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + raw[8 + size :]


def swap(header: dict) -> None:
    """Gives two tensors of one shape each other's name."""
    a, b = "conv_3.model.0.project.bn.weight", "conv_3.model.0.project.bn.bias"
    header[a], header[b] = header[b], header[a]


def drop_checksum(header: dict) -> None:
    header["__metadata__"] = {"fairpress": '{"network": "MobileFaceNet"}'}


def rename_entry(header: dict) -> None:
    header["__metadata__"] = {"fairprest": header["__metadata__"]["fairpress"]}


@pytest.mark.parametrize("change", [swap, drop_checksum, rename_entry])
def test_what_we_wrote_is_recognised_when_it_was_changed(trained, tmp_path, change):
    path = tmp_path / "a.safetensors"
    save_weights(trained, path)
    path.write_bytes(rewritten(path.read_bytes(), change))
    network = small()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(DamagedFileError, match="not as it was written"):
        load_weights(network, path)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("nested", [None, "state_dict", "net_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_files_nested_and_prefixed(trained, tmp_path, nested, prefix):
    state: object = {prefix + name: value for name, value in trained.state_dict().items()}
    torch.save(state if nested is None else {"epoch": 3, nested: state}, tmp_path / "a.ckpt")
    other = small()
    load_weights(other, tmp_path / "a.ckpt")
    assert same(trained, other)


def test_key_and_prefix_choose_one_network_of_a_file(trained, tmp_path):
    state = {f"student.{name}": value for name, value in trained.state_dict().items()}
    state |= {f"teacher.{name}": value + 1 for name, value in trained.state_dict().items()}
    torch.save({"elsewhere": state}, tmp_path / "a.ckpt")
    other = small()
    load_weights(other, tmp_path / "a.ckpt", key="elsewhere", prefix="student.")
    assert same(trained, other)
    with pytest.raises(DamagedFileError, match="no weights under 'nowhere'; it has elsewhere"):
        load_weights(other, tmp_path / "a.ckpt", key="nowhere")
    with pytest.raises(WeightsMismatchError, match=r"no name that starts with 'pupil\.'"):
        load_weights(other, tmp_path / "a.ckpt", key="elsewhere", prefix="pupil.")


def test_half_precision_files_become_float32(trained, tmp_path):
    torch.save(trained.half().state_dict(), tmp_path / "a.pt")
    other = small()
    load_weights(other, tmp_path / "a.pt")
    assert {p.dtype for p in other.parameters()} == {torch.float32}
    assert same(other, trained.float())


def test_counters_may_be_missing(trained, tmp_path):
    state = {name: value for name, value in trained.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "a.th")
    other = small()
    load_weights(other, tmp_path / "a.th")
    assert torch.equal(other.output_layer.bn.running_var, trained.output_layer.bn.running_var)


def test_differences_are_named_and_nothing_is_loaded(trained, tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(trained, path)
    other = small(blocks=(2, 1, 1))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(WeightsMismatchError, match=r"saved from MobileFaceNet.*missing in the file: conv_3\.model\.1"):
        load_weights(other, path)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    save_weights(other, tmp_path / "larger.safetensors")
    with pytest.raises(WeightsMismatchError, match=r"not in the network: conv_3\.model\.1\.conv.* and \d+ more"):
        load_weights(small(), tmp_path / "larger.safetensors")
    with pytest.raises(WeightsMismatchError, match=r"output_layer\.linear\.weight \[32, 64\] instead of \[64, 64\]"):
        load_weights(small(embedding_size=64), path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda weight: weight.fill_(float("nan")), "not finite: conv1.conv.weight"),
        (lambda weight: weight.to(torch.int8), "conv1.conv.weight torch.int8 instead of torch.float32"),
    ],
)
def test_values_that_are_no_weights_are_refused(trained, tmp_path, change, sentence):
    state = dict(trained.state_dict())
    state["conv1.conv.weight"] = change(state["conv1.conv.weight"].clone())
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(WeightsMismatchError, match=sentence):
        load_weights(small(), tmp_path / "a.pt")


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_executed(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    if zipped:
        torch.save({"state_dict": Malicious()}, "a.pt")
    else:
        Path("a.pt").write_bytes(pickle.dumps({"state_dict": Malicious()}, protocol=2))
    with pytest.raises(DamagedFileError, match="not loaded"):
        load_weights(small(), "a.pt")
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_damaged_files_are_named(trained, tmp_path, name):
    path = tmp_path / name
    torch.save(trained.state_dict(), path) if name == "a.pt" else save_weights(trained, path)
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[:7], whole[: len(whole) // 2], whole[:-1] if name != "a.pt" else whole[:-30]):
        path.write_bytes(content)
        with pytest.raises(DamagedFileError, match=name):
            load_weights(small(), path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_changed_bytes_never_load_half(trained, tmp_path, name):
    path = tmp_path / name
    torch.save(trained.state_dict(), path) if name == "a.pt" else save_weights(trained, path)
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for place in torch.randint(len(whole), (15,), generator=generator).tolist() + list(range(0, 200, 20)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        network = small()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        try:
            load_weights(network, path)
        except (DamagedFileError, WeightsMismatchError):
            refused += 1
            assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert refused >= 5


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {"epoch": 3}, {}, {"state_dict": {"a": 1}}])
def test_files_without_weights_are_named(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(DamagedFileError, match=r"a\.pt"):
        load_weights(small(), tmp_path / "a.pt")


def test_paths_are_checked(trained, tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match="There is no weights file"):
            load_weights(trained, path)
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        save_weights(trained, tmp_path / "a.pt")


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published checkpoint is not on this machine")
def test_the_published_checkpoint_loads_by_name():
    network = MobileFaceNet112x96().eval()
    load_weights(network, PUBLISHED)
    with torch.no_grad():
        embedding = network(torch.zeros(1, 3, 112, 96))
    assert embedding.shape == (1, 128)
    assert network.linear1.bn.num_batches_tracked > 0
    with pytest.raises(WeightsMismatchError, match="does not fit MobileFaceNet:"):
        load_weights(MobileFaceNet(), PUBLISHED)
