"""A head whose class weights are spread over the processes: steps, states and whole runs that have to end as with one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from distributed_fits import BENCHMARK, RandomFaces, mobilefacenet, recognizer, train
from torch import Tensor, nn

from common import distributed
from common.distributed import gather_rows, own_rows, process_group_ends, processes
from common.experiment.arm import Arm, Phase, plan_runs
from common.experiment.phases import Machine, Work
from common.experiment.run import _build
from common.experiment.spec import Place, spec
from common.heads import CosineHead, ShardedPartialFC
from common.heads.partial_fc import capped_cross_entropy
from common.heads.sharded_partial_fc import HEADS, shard

ROWS, SIZE, CLASSES, STEPS = 12, 6, 21, 3  # 21 classes: 11 and 10
# The second process has four rows without a target, the first none; classes 10 and 11 are the last and the first of a part.
LABELS = torch.tensor([3, -1, 10, -1, 11, 3, 20, -1, 12, -1, 0, 7])
SAMPLED = torch.tensor([0, 1, 3, 7, 8, 10, 11, 12, 15, 16, 20])  # the classes of a step with a sampling rate of a half
VARIANTS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "ArcFace": ("ArcFace", {}, False),
    "ArcFace of InsightFace": ("ArcFace", {"gradient": "straight_through"}, False),
    "CosFace": ("CosFace", {"scale": 8.0, "margin": 0.4}, False),
    "no margin": ("NormalizedSoftmax", {}, False),
    "filtered": ("CosFace", {"scale": 8.0, "interclass_filtering_threshold": 0.3}, False),
    "ArcFace, sampled": ("ArcFace", {"scale": 8.0}, True),
    "CosFace, sampled": ("CosFace", {}, True),
}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Sampled(ShardedPartialFC):
    """Given draws: of `SAMPLED`, those that are here."""

    def sample(self, own: Tensor) -> Tensor:
        first, end = self.rows
        return torch.tensor([label - first for label in SAMPLED.tolist() if first <= label < end])


def steps_of_shards(name: str) -> dict[str, Tensor]:
    """Losses, gradients of the embeddings and weights of three steps, in as many processes as there are."""
    head_name, options, sampled = VARIANTS[name]
    kind = Sampled if sampled else ShardedPartialFC
    head = kind(SIZE, CLASSES, head=head_name, sample_rate=0.5 if sampled else 1.0, **options).double().train()
    first, end = shard(CLASSES)
    weight = head.local.weight
    assert tuple(weight.shape) == (end - first, SIZE)
    weight.data = numbers(CLASSES, SIZE, seed=1)[first:end]
    results: dict[str, Tensor] = {}
    for k in range(STEPS):
        embedding = own_rows(numbers(ROWS, SIZE, seed=10 + k)).clone().requires_grad_()
        loss = head(embedding, own_rows(LABELS))
        head.zero_grad()
        loss.backward()
        assert weight.grad is not None
        assert embedding.grad is not None
        weight.data -= 0.05 * weight.grad  # not averaged: DDP leaves it alone
        results[f"loss {k}"] = distributed.average(loss.detach())
        results[f"gradient {k}"] = gather_rows(embedding.grad) / processes()  # as DDP averages what comes of it
    return results | {"weight": head.gather(weight)}


def steps_of_one(name: str) -> dict[str, Tensor]:
    """The same with the whole weight and the cross-entropy of `PartialFC`, in one process."""
    head_name, options, sampled = VARIANTS[name]
    head: CosineHead = HEADS[head_name](
        SIZE, CLASSES, **{} if head_name == "NormalizedSoftmax" else {"margin": 0.5} | options
    )
    head = head.double().train()
    head.weight.data = numbers(CLASSES, SIZE, seed=1)
    classes = SAMPLED if sampled else torch.arange(CLASSES)
    places = torch.where(LABELS >= 0, torch.searchsorted(classes, LABELS), -1)
    results: dict[str, Tensor] = {}
    for k in range(STEPS):
        embedding = numbers(ROWS, SIZE, seed=10 + k).requires_grad_()
        loss = capped_cross_entropy(head(embedding, places, classes), places)
        head.zero_grad()
        loss.backward()
        assert head.weight.grad is not None
        assert embedding.grad is not None
        head.weight.data -= 0.05 * head.weight.grad
        results |= {f"loss {k}": loss.detach(), f"gradient {k}": embedding.grad}
    return results | {"weight": head.weight.detach()}


# --- whole runs ------------------------------------------------------------------------------------------------------


class InFloat64(nn.Module):
    """A network that computes in float64 whatever it is given: a frozen teacher, which Lightning's precision does not reach."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.network(x.double())
        return found


class SevenFaces(RandomFaces):
    """Seven kinds, which two processes cannot share equally: four and three."""

    num_classes = 7


def arm(head: str = "ShardedPartialFC") -> Arm:
    """Two epochs of four steps, with momentum, a margin that grows and a rate that falls."""
    options = {"head": "ArcFace"} if head == "ShardedPartialFC" else {}
    method = recognizer(mobilefacenet(), 2.0, head, head_options=options, schedule="one_cycle", margin_warm_up=0.5)
    data = spec("sharded_fits.SevenFaces")
    return Arm(head, head, method, data, BENCHMARK, (Phase("train", epochs=2),), (), "64-true")


class StoppedError(Exception):
    """What interrupts a run here."""


def interrupted(folder: Path, devices: int, at: int = 5) -> tuple[int, int]:
    """Begin the run, checkpoint before every step and stop in the middle of step `at`.

    Returns:
        Rows of the class weight, and of its momentum, in this process while it trained.
    """
    (run,) = plan_runs([arm()], (0,))
    data, method = _build(run, Place())
    folder.mkdir(parents=True, exist_ok=True)
    plain, held = method.training_step, [0, 0]

    def training_step(batch: Any, batch_idx: int) -> Tensor:
        if method.global_step == at:
            weight = method.head.local.weight
            held[:] = len(weight), len(method.trainer.optimizers[0].state[weight]["momentum_buffer"])
            raise StoppedError
        return plain(batch, batch_idx)

    method.training_step = training_step
    try:
        Work(run, method, data, folder, Machine(devices=devices, checkpoint_every=0), lambda event: None).do(0)
    except StoppedError:
        return held[0], held[1]
    raise AssertionError("the run was not interrupted")


def everything(folder: Path) -> dict[str, Any]:
    """In each of two processes: steps, states, an undisturbed run, an interrupted one, and what came of it."""
    with process_group_ends():
        torch.distributed.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]), world_size=2)
        steps = {name: steps_of_shards(name) for name in VARIANTS}
        torch.manual_seed(3)
        head = ShardedPartialFC(SIZE, CLASSES)
        state, after = {name: value.clone() for name, value in head.state_dict().items()}, torch.rand(1)
        head.load_state_dict(
            {"local.weight": numbers(CLASSES, SIZE).float(), "place": torch.tensor([0, CLASSES, CLASSES])}
        )
        torch.manual_seed(4)
        sampled = ShardedPartialFC(SIZE, 200, sample_rate=0.25).sample(torch.tensor([-1, 5, 60]))
    run = train(arm(), folder / "whole", 2)
    held = interrupted(folder / "interrupted", 2)  # last: it leaves no fresh port for another process group
    return {
        "steps": steps,
        "state": state,
        "after": after,
        "loaded": head.local.weight.detach().clone(),
        "sampled": sampled,
        "held": torch.tensor(held),
        "run": run,
    }


def go_on(folder: Path) -> dict[str, Tensor]:
    """In each of two processes: the interrupted run to its end."""
    return train(arm(), folder, 2)
