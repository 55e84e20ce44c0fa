"""How long a training step takes in our runs and in a bare PyTorch loop that does the same, measured in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from common.experiment.arm import Arm, Phase, Run
from common.experiment.phases import Machine, Work
from common.experiment.quick import quicken
from common.experiment.spec import spec
from datasets.splits import ImagesInMemory, Published, part_of


class DigitsLikeMNIST(ImagesInMemory):
    """54,000 grey images of 28x28 in memory, of noise: what a step costs does not depend on what they show."""

    KEY, MEAN, STD = "noise", (0.1307,), (0.3081,)
    in_channels, image_size = 1, (28, 28)

    def read(self) -> Published:
        """60,000 and 1,000 images."""
        generator = np.random.default_rng(0)
        train, test = (
            part_of(generator.integers(0, 256, (n, 28, 28), dtype=np.uint8), generator.integers(0, 10, n))
            for n in (60_000, 1_000)
        )
        return Published(train, test, tuple(map(str, range(10))))


@dataclass(frozen=True)
class Speed:
    """Seconds of processor time a step, one value a turn: in our runs, and in the bare loop."""

    ours: list[float]
    bare: list[float]

    @property
    def share(self) -> float:
        """What our runs add, as a share of their step: the median over turns, in [0, 1]."""
        return statistics.median(1 - bare / ours for ours, bare in zip(self.ours, self.bare, strict=True))

    def __str__(self) -> str:
        ours, bare = statistics.median(self.ours), statistics.median(self.bare)
        return (
            f"{1 / ours:.0f} steps/s ({1e3 * ours:.2f} ms) in our runs, {1 / bare:.0f} ({1e3 * bare:.2f} ms) in a bare "
            f"loop, ratio {bare / ours:.2f}; {100 * self.share:.0f} % of a step are ours"
        )


def bare_loop(method: Any, optimizer: torch.optim.Optimizer, data: ImagesInMemory) -> Callable[[int], None]:
    """A plain loop over the same images in memory: gather a batch, forward, backward, step. Returns what does n steps."""
    images, labels = data.inputs("train"), data.training_labels()
    rows = images.permute(0, 2, 3, 1).contiguous()
    order, at = torch.randperm(len(labels)), 0

    def steps(count: int) -> None:
        nonlocal order, at
        for _ in range(count):
            if at + data.batch_size > len(labels):
                order, at = torch.randperm(len(labels)), 0
            index = order[at : at + data.batch_size]
            at += data.batch_size
            x = rows.index_select(0, index).permute(0, 3, 1, 2)
            optimizer.zero_grad()
            F.cross_entropy(method.network(x), labels.index_select(0, index)).backward()
            optimizer.step()

    return steps


def measure(method: Any, data: ImagesInMemory, bare: Callable[[int], None], folder: Path, turns: int = 20) -> Speed:
    """Train `method` as a run's phase does, and let the bare loop take its turn every 40 steps."""
    size, found, since = 40, Speed([], []), 0.0

    def turn(batch: Any, batch_idx: int) -> None:
        nonlocal since
        step = method.trainer.global_step
        if step % size:
            return
        before = time.process_time()
        bare(size)
        after = time.process_time()
        if step >= 2 * size:  # the first turns warm up
            found.ours.append((before - since) / size)
            found.bare.append((after - before) / size)
        since = time.process_time()

    quicken()  # as in the process of every run
    method.on_train_batch_start = turn
    arm = Arm("speed", "speed", spec(""), spec(""), spec(""), (Phase("train", steps=(turns + 1) * size + 1),))
    Work(Run(arm, 0, "", ()), method, data, folder, Machine(), lambda event: None).do(0)
    return found
