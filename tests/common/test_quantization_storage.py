"""Packed codes and packed files: the bits on disk, exact restoration, true sizes, and damaged or foreign files."""

import json
import math
import tracemalloc
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.backbones import MobileFaceNet
from common.files import DamagedFileError
from common.quantization import calibrating, freeze_ranges, quantize_network, quantize_uniform, unfreeze_ranges
from common.quantization.packed_format import CHECKSUM, MAGIC, NUMBERS, checksum
from common.quantization.packing import CHUNK, pack_codes, packed_size, unpack_codes
from common.quantization.running_range import RunningRangeWeightQuantizer
from common.quantization.storage import (
    PackedFileMismatchError,
    load_packed,
    packed_bytes,
    quantized_weights,
    rebuild_weight,
    save_packed,
)
from common.quantization.weight_quantizer import UniformWeightQuantizer, weight_ranges


@pytest.mark.parametrize(
    ("codes", "bits", "signed", "packed"),
    [
        ([3, 0, 2, 1], 2, False, [0x63]),
        ([-3, 2, 7, -8], 4, True, [0x2D, 0x87]),
        ([1, 0, 1, 1, 0, 0, 0, 1], 1, False, [0x8D]),
        ([-1, 127, -128], 8, True, [0xFF, 0x7F, 0x80]),
        ([1, 2, 3], 3, False, [0b11010001, 0b0]),  # 3, 2, 1 from the left: 011 010 001
        ([-1], 5, True, [0b00011111]),
        ([], 4, True, []),
    ],
)
def test_bits_lie_where_they_should(codes, bits, signed, packed):
    tensor = torch.tensor(codes, dtype=torch.int32)
    data = pack_codes(tensor, bits, signed)
    assert list(data) == packed
    assert unpack_codes(data, len(codes), bits, signed).tolist() == codes


@given(bits=st.integers(1, 8), signed=st.booleans(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_codes_come_back(bits, signed, data):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    codes = data.draw(st.lists(st.integers(low, high), max_size=70))
    packed = pack_codes(torch.tensor(codes, dtype=torch.int64), bits, signed)
    assert len(packed) == math.ceil(bits * len(codes) / 8) == packed_size(len(codes), bits)
    assert unpack_codes(packed, len(codes), bits, signed).tolist() == codes
    stream = int.from_bytes(packed, "little")
    assert [(stream >> (bits * i)) & (2**bits - 1) for i in range(len(codes))] == [q & (2**bits - 1) for q in codes]


@pytest.mark.parametrize("bits", [3, 7])
def test_long_streams_come_back_across_chunks(bits):
    codes = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (2 * CHUNK + 5,), generator=torch.manual_seed(0))
    assert torch.equal(unpack_codes(pack_codes(codes, bits, True), codes.numel(), bits, True).long(), codes)


def test_codes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"0\.\.3"):
        pack_codes(torch.tensor([4]), 2, signed=False)
    with pytest.raises(ValueError, match="whole numbers"):
        pack_codes(torch.tensor([0.5]), 2, signed=False)
    with pytest.raises(ValueError, match="take 1 bytes; got 2"):
        unpack_codes(b"ab", 2, 4, signed=True)
    with pytest.raises(ValueError, match="bits is 9"):
        pack_codes(torch.tensor([4]), 9, signed=False)
    with pytest.raises(ValueError, match="-1"):
        unpack_codes(b"", -1, 8, signed=True)


def quantizers() -> list[RunningRangeWeightQuantizer | UniformWeightQuantizer]:
    return [
        scheme
        for bits in range(2, 9)
        for granularity in ("per_channel", "per_tensor")
        for scheme in (
            RunningRangeWeightQuantizer(bits, granularity),
            UniformWeightQuantizer(bits, granularity),
            UniformWeightQuantizer(bits, granularity, symmetric=False),
        )
    ]


@pytest.mark.parametrize("quantizer", quantizers(), ids=str)
def test_a_rebuilt_weight_has_the_same_ranges_codes_and_values(quantizer):
    torch.manual_seed(1)
    weight = torch.randn(8, 4, 3, 3)
    weight[1] = 0.25  # constant, zero, one-sided, tiny and two-valued channels
    weight[2] = 0.0
    weight[3] = weight[3].abs() + 0.1
    weight[4] *= 1e-7
    weight[5] = torch.where(weight[5] > 0, 0.3, -0.1)
    weight[6] = -weight[6].abs() - 0.1
    for candidate in (weight, weight[:, :1, :1, :1], weight[0, 0, 0]):
        low, high = weight_ranges(candidate, quantizer.granularity)
        codes = quantizer.encode(candidate, low, high)
        rebuilt = rebuild_weight(quantizer, codes, low, high)
        assert all(
            torch.equal(a, b) for a, b in zip(weight_ranges(rebuilt, quantizer.granularity), (low, high), strict=True)
        )
        values = quantizer(candidate)
        assert torch.equal(quantizer(rebuilt).view(torch.int32), values.view(torch.int32))
        assert torch.equal(quantizer.decode(codes, low, high).view(torch.int32), values.view(torch.int32))


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network(seed: int = 0, width: float = 0.25) -> MobileFaceNet:
    torch.manual_seed(seed)
    return MobileFaceNet(embedding_size=16, width=width, input_size=32, blocks=(1, 1, 1)).eval()


def quantized(bits: int, seed: int = 0) -> nn.Module:
    twin = quantize_network(network(seed), bits, bits).eval()
    unfreeze_ranges(twin)
    with torch.no_grad():
        twin(IMAGES)
    freeze_ranges(twin)
    return twin


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_stored_network_computes_the_same(tmp_path: Path, bits: int):
    stored = quantized(bits)
    written = save_packed(stored, tmp_path / "network.fpq")
    assert written == (tmp_path / "network.fpq").stat().st_size == len(packed_bytes(stored))
    fresh = quantize_network(network(seed=7), bits, bits).eval()
    load_packed(fresh, tmp_path / "network.fpq")
    modules = dict(fresh.named_modules())
    for name, module in stored.named_modules():
        for weight_name, quantizer in getattr(module, "weight_quantizers", dict)().items():
            ours, theirs = getattr(modules[name], weight_name), getattr(module, weight_name)
            assert torch.equal(quantizer(ours).view(torch.int32), quantizer(theirs).view(torch.int32))
    with torch.no_grad():
        assert torch.equal(fresh(IMAGES), stored(IMAGES))

    plain = network(seed=8)
    load_packed(plain, tmp_path / "network.fpq", dequantize=True)
    layer = stored.conv_3.model[0].conv_dw.conv
    assert torch.equal(plain.conv_3.model[0].conv_dw.conv.weight, layer.weight_quantizer(layer.weight))
    slopes = stored.conv1.prelu
    assert torch.equal(plain.conv1.prelu.weight, slopes.weight_quantizer(slopes.weight))


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_file_of_a_full_network_is_as_small_as_its_bits_say(bits):
    twin = quantize_network(MobileFaceNet(), bits, bits)
    parts = 0
    quantizers = quantized_weights(twin)
    assert len(quantizers) == 50 + 33
    for name, tensor in twin.state_dict().items():
        if name in quantizers:
            ranges = tensor.shape[0] if quantizers[name].granularity == "per_channel" else 1
            parts += math.ceil(bits * tensor.numel() / 8) + 8 * ranges  # scale and zero point, 4 bytes each
        else:
            parts += tensor.numel() * tensor.element_size()
    assert parts < len(packed_bytes(twin)) <= 1.05 * parts


def test_a_float_network_and_a_uniformly_quantized_one_are_stored_exactly(tmp_path):
    stored = network()
    stored.register_buffer("mask", torch.tensor([True, False]))
    stored.register_buffer("nothing", torch.empty(0, 3))
    size = sum(tensor.numel() * tensor.element_size() for tensor in stored.state_dict().values())
    assert size < save_packed(stored, tmp_path / "float.fpq") < 1.15 * size
    fresh = network(seed=3)
    fresh.register_buffer("mask", torch.tensor([False, False]))
    fresh.register_buffer("nothing", torch.empty(0, 3))
    load_packed(fresh, tmp_path / "float.fpq")
    assert all(torch.equal(value, stored.state_dict()[name]) for name, value in fresh.state_dict().items())

    uniform = quantize_uniform(network(), 4, 8)
    with calibrating(uniform):
        uniform(IMAGES)
    save_packed(uniform, tmp_path / "uniform.fpq")
    fresh = quantize_uniform(network(seed=3), 4, 8)
    load_packed(fresh, tmp_path / "uniform.fpq")
    with torch.no_grad():
        assert torch.equal(fresh(IMAGES), uniform(IMAGES))


def test_weights_whose_codes_would_not_survive_are_stored_raw(tmp_path):
    stored = quantize_network(nn.Sequential(nn.Linear(64, 8)), 8, None)
    with torch.no_grad():  # at 100 +- 1e-5 float32 cannot tell 255 codes apart
        stored[0].weight.copy_(100 + 1e-5 * torch.randn(8, 64, generator=torch.manual_seed(0)))
        stored[0].weight[0] = float("nan")
    fresh = quantize_network(nn.Sequential(nn.Linear(64, 8)), 8, None)
    plain = nn.Sequential(nn.Linear(64, 8))
    assert save_packed(stored, tmp_path / "odd.fpq") > 64 * 8 * 4
    load_packed(fresh, tmp_path / "odd.fpq")
    load_packed(plain, tmp_path / "odd.fpq", dequantize=True)
    values = stored[0].weight_quantizer(stored[0].weight)
    for loaded in (fresh[0].weight_quantizer(fresh[0].weight), plain[0].weight):
        assert torch.allclose(loaded, values, rtol=0, atol=0, equal_nan=True)


def test_files_of_other_networks_are_refused_and_change_nothing(tmp_path):
    path = tmp_path / "network.fpq"
    save_packed(quantized(6), path)
    cases = [
        (quantized(4, seed=2), False, "'bits': 6"),
        (network(2), False, "dequantize=True|only in the file"),
        (quantize_network(network(2, width=0.5), 6, 6), False, r"\[32, 3, 3, 3\] in the network"),
        (quantize_network(network(2), 6, 6, weight_granularity="per_tensor"), False, "per_tensor"),
        (quantized(6, seed=2), True, "fills a float network"),
        (nn.Sequential(nn.Linear(2, 2)), False, "only in the network"),
    ]
    for target, dequantize, message in cases:
        before = {name: value.clone() for name, value in target.state_dict().items()}
        with pytest.raises(PackedFileMismatchError, match=message):
            load_packed(target, path, dequantize)
        assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    with pytest.raises(FileNotFoundError):
        load_packed(network(), tmp_path / "missing.fpq")
    with pytest.raises(ValueError, match=r"float\(\)"):
        packed_bytes(quantized(6).double())


def forged(header: object, payload: bytes = b"", announced: int | None = None) -> bytes:
    raw = json.dumps(header).encode()
    small = zlib.compress(raw)
    size = len(raw) if announced is None else announced
    start = MAGIC + NUMBERS.pack(len(small), size, len(payload))
    return start + checksum(start, small, payload) + small + payload


ODD_HEADERS = [
    {"not": "a list"},
    [["w", [2], "float32", None]],
    [["w", [2.0], "float32", None, False]],
    [["w", [-2], "float32", None, False]],
    [["w", [2**50], "float32", None, False]],
    [["w", [2], "object", None, False]],
    [["w", [2], ["float32"], None, False]],
    [["w", [0], "float32", None, True]],
    [["w", [2**39, 2**39], "float32", None, False]],
    [["w", [], "float32", {"scheme": "running_range", "bits": 8, "granularity": "per_channel"}, True]],
    [["w", [2], "float32", {"scheme": "pickle", "bits": 8, "granularity": "per_channel"}, True]],
    [["w", [2], "float32", {"scheme": ["a"], "bits": 8, "granularity": "per_channel"}, True]],
    [["w", [2], "float32", {"scheme": "running_range", "bits": 99, "granularity": "per_channel"}, True]],
    [["w", [2], "float32", {"scheme": "running_range", "bits": 8, "granularity": []}, True]],
    [["w", [2], "float32", {"scheme": "running_range", "bits": 8, "granularity": "per_tensor", "x": 1}, True]],
    [["w", [2], "float32", {"scheme": "uniform", "bits": 8, "granularity": "per_tensor", "symmetric": "no"}, True]],
    [["w", [0], "float32", None, False], ["w", [0], "float32", None, False]],
]


@pytest.mark.parametrize("header", ODD_HEADERS, ids=str)
def test_forged_headers_are_refused(tmp_path, header):
    path = tmp_path / "forged.fpq"
    path.write_bytes(forged(header))
    with pytest.raises(DamagedFileError, match=r"forged\.fpq"):
        load_packed(nn.Sequential(nn.Linear(2, 2)), path)


def test_a_header_that_inflates_beyond_its_announced_size_is_not_inflated(tmp_path):
    bomb = zlib.compress(bytes(3 * 10**7))
    start = MAGIC + NUMBERS.pack(len(bomb), 10, 0)
    (tmp_path / "bomb.fpq").write_bytes(start + checksum(start, bomb, b"") + bomb)
    target = nn.Sequential(nn.Linear(2, 2))
    tracemalloc.start()
    with pytest.raises(DamagedFileError, match="header"):
        load_packed(target, tmp_path / "bomb.fpq")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**6


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "network.fpq"
    sound = packed_bytes(quantized(6))
    fresh = quantize_network(network(seed=7), 6, 6)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    damaged = [sound[:length] for length in (0, 5, 20, 40, 300, len(sound) - 1)]
    damaged += [sound + b"x", b"PK" + sound[2:], b"\x80\x04" + bytes(200)]
    for position in (9, 13, 17, 25, 30, 100, 2000, len(sound) - 3):
        damaged.append(sound[:position] + bytes([sound[position] ^ 0x41]) + sound[position + 1 :])
    damaged.append(MAGIC + NUMBERS.pack(10, 2**31, 0) + bytes(CHECKSUM + 10))  # announces a header of 2 GiB
    damaged.append(forged([], announced=10**6))
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(DamagedFileError, match=r"network\.fpq"):
            load_packed(fresh, path)
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
