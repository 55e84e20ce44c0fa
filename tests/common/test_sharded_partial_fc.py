"""Class weights spread over two processes: loss, gradients, states and runs are those of one process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distributed_cases import largest_difference
from distributed_fits import train
from sharded_fits import (
    CLASSES,
    SIZE,
    VARIANTS,
    arm,
    everything,
    go_on,
    interrupted,
    numbers,
    steps_of_one,
    steps_of_shards,
)
from torch import Tensor
from two_processes import in_two_processes

from common.distributed import processes
from common.heads import ArcFace, ShardedPartialFC
from common.heads.sharded_partial_fc import initial_rows, merge_shards, shard


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def pair(folder: Path) -> list[dict[str, Any]]:
    return in_two_processes(everything, folder, folder / "two")


@pytest.fixture(scope="module")
def single(folder: Path) -> dict[str, Tensor]:
    return train(arm(), folder / "one", 1)


@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_compute_what_the_whole_head_computes(name: str, pair: list[dict[str, Any]]) -> None:
    expected = steps_of_one(name)
    for rank in (0, 1):
        assert largest_difference(pair[rank]["steps"][name], expected) < 1e-12
    assert largest_difference(steps_of_shards(name), expected) < 1e-12


def test_each_process_holds_and_starts_from_its_rows_of_the_whole_draw(pair: list[dict[str, Any]]) -> None:
    torch.manual_seed(3)
    whole = ArcFace(SIZE, CLASSES)
    after = torch.rand(1)
    for rank, (first, end) in enumerate([(0, 11), (11, 21)]):
        state = pair[rank]["state"]
        assert state["place"].tolist() == [first, end, CLASSES]
        assert torch.equal(state["local.weight"], whole.weight[first:end])
        assert torch.equal(pair[rank]["after"], after)  # the generators of all stay alike
        assert tuple(pair[rank]["loaded"].shape) == (end - first, SIZE)
        assert torch.equal(pair[rank]["loaded"], numbers(CLASSES, SIZE).float()[first:end])


@pytest.mark.parametrize(("classes", "size", "block"), [(37, 16, 8), (64, 8, 16), (50, 32, 50)])
def test_blocks_draw_what_one_draw_gives(classes: int, size: int, block: int) -> None:
    torch.manual_seed(5)
    whole, after = torch.empty(classes, size).normal_(0, 0.01), torch.rand(1)
    for first, end in ((0, classes), (0, 11), (11, 30), (30, classes)):
        torch.manual_seed(5)
        assert torch.equal(initial_rows(classes, size, first, end, block), whole[first:end])
        assert torch.equal(torch.rand(1), after)


def test_shards_of_two_processes_load_into_one(pair: list[dict[str, Any]]) -> None:
    whole = merge_shards([pair[1]["state"], pair[0]["state"]])
    head = ShardedPartialFC(SIZE, CLASSES)
    head.load_state_dict(whole)
    torch.manual_seed(3)
    assert torch.equal(head.local.weight, ArcFace(SIZE, CLASSES).weight)
    with pytest.raises(ValueError, match="do not make up one weight: they hold the classes 11 to 20 of 21"):
        merge_shards([pair[1]["state"]])
    with pytest.raises(ValueError, match="11 of 21 class weights are here"):
        head.load_state_dict(pair[0]["state"])


def test_each_process_samples_its_own_classes_and_those_of_the_batch(pair: list[dict[str, Any]]) -> None:
    for rank in (0, 1):
        sampled = pair[rank]["sampled"]
        assert len(sampled) == 25
        assert {5, 60} <= set(sampled.tolist())
        assert torch.equal(sampled, sampled.unique())
        assert sampled.max() < 100
    assert not torch.equal(pair[0]["sampled"], pair[1]["sampled"])


# --- runs --------------------------------------------------------------------------------------------------------------


def test_alone_it_trains_as_the_plain_head_does(single: dict[str, Tensor], folder: Path) -> None:
    plain = train(arm("ArcFace"), folder / "plain", 1)
    plain["head.local.weight"] = plain.pop("head.weight")
    plain["head.place"] = torch.tensor([0, 7, 7])
    assert largest_difference(single, plain) < 1e-12


def test_a_run_on_two_devices_ends_like_a_run_on_one(single: dict[str, Tensor], pair: list[dict[str, Any]]) -> None:
    """Backbone, class weights (collected after the fit) and the last loss."""
    for rank in (0, 1):
        assert pair[rank]["run"]["head.local.weight"].shape == (7, 16)
        assert largest_difference(pair[rank]["run"], single) < 1e-9


def test_while_it_trains_each_device_holds_its_part_of_weight_and_momentum(pair: list[dict[str, Any]]) -> None:
    assert [pair[rank]["held"].tolist() for rank in (0, 1)] == [[4, 4], [3, 3]]


@pytest.fixture(scope="module")
def gone_on(folder: Path) -> dict[str, Tensor]:
    """The end of a run that was interrupted and continued in one process (Lightning restores float64 by way of float32)."""
    interrupted(folder / "interrupted", 1)
    return train(arm(), folder / "interrupted", 1)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_interrupted_on_two_devices_goes_on_with_any_number(
    devices: int, gone_on: dict[str, Tensor], pair: list[dict[str, Any]], folder: Path
) -> None:
    copy = folder / f"going-on-{devices}"
    shutil.copytree(folder / "two" / "interrupted", copy)
    ends = [train(arm(), copy, 1)] if devices == 1 else in_two_processes(go_on, folder, copy)
    for end in ends:
        assert largest_difference(end, gone_on) < 1e-9


# --- one process, and refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_it_equals_the_official_one(golden: Path, monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    expected = np.load(golden / "_fr_backbones_heads" / f"partialfc_sr{rate}.npz")
    head = ShardedPartialFC(16, 40, head="ArcFace", gradient="straight_through", sample_rate=rate)
    head.local.weight.data = torch.from_numpy(expected["weight"])
    sampled = torch.from_numpy(expected["sampled_index"])
    monkeypatch.setattr(head, "sample", lambda own: sampled)
    embedding = torch.from_numpy(expected["emb"]).requires_grad_()
    loss = head(embedding, torch.from_numpy(expected["labels"]))
    loss.backward()
    assert embedding.grad is not None
    assert head.local.weight.grad is not None
    assert loss.item() == pytest.approx(float(expected["loss"]), rel=1e-5)
    np.testing.assert_allclose(embedding.grad.numpy(), expected["grad_emb"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(head.local.weight.grad.numpy(), expected["grad_weight"], rtol=1e-4, atol=1e-5)


def test_the_loss_is_capped_and_rows_without_a_target_count_for_nothing() -> None:
    head = ShardedPartialFC(SIZE, 40, scale=1000.0, head="CosFace")
    opposite = -head.local.weight[:1].detach()
    assert head(opposite, torch.tensor([0])).item() == pytest.approx(69.0776, rel=1e-5)
    embedding = torch.randn(4, SIZE, requires_grad=True)
    head(embedding, torch.tensor([1, -1, 2, -1])).backward()
    assert embedding.grad is not None
    assert embedding.grad[[1, 3]].abs().max() == 0
    assert embedding.grad[[0, 2]].abs().min() > 0
    nobody = head(embedding.detach().requires_grad_(), torch.full((4,), -1))
    assert nobody.item() == 0


def test_rows_are_shared_out_as_evenly_as_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for world, classes in ((1, 2), (3, 11), (8, 85_742), (7, 360_232)):
        monkeypatch.setattr("common.heads.sharded_partial_fc.processes", lambda world=world: world)
        bounds = [shard(classes, process) for process in range(world)]
        assert [end - first for first, end in bounds] == [
            classes // world + (r < classes % world) for r in range(world)
        ]
        assert [end for _, end in bounds[:-1]] == [first for first, _ in bounds[1:]]
        assert (bounds[0][0], bounds[-1][1]) == (0, classes)


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, words in (
        ({"head": "CurricularFace"}, "head is 'CurricularFace', but only ArcFace, CosFace, NormalizedSoftmax"),
        ({"sample_rate": 0.0}, "sample_rate is 0.0"),
        ({"margin": -1.0}, "margin is -1.0"),
    ):
        with pytest.raises(ValueError, match=words):
            ShardedPartialFC(SIZE, CLASSES, **options)
    assert processes() == 1
    head = ShardedPartialFC(SIZE, 5)
    monkeypatch.setattr("common.heads.sharded_partial_fc.processes", lambda: 2)
    with pytest.raises(RuntimeError, match="holds the classes 0 to 4 of 5, but of 2 processes it should hold others"):
        head(torch.zeros(1, SIZE), torch.tensor([0]))
    monkeypatch.setattr("common.heads.sharded_partial_fc.processes", lambda: 3)
    with pytest.raises(ValueError, match="5 classes cannot be spread over 3 processes"):
        ShardedPartialFC(SIZE, 5)
