"""Checkpoints in the middle of an epoch, from which a killed run ends byte for byte where an undisturbed one ends.

Lightning's checkpoint holds the network, the optimiser, its schedule and the loop's counters. Ours adds the states of all
generators (`callbacks.SeededEpochs`) and the loader's place (`datasets.memory.EpochLoader`), is taken between two steps, and is
written and read sealed: a file that was cut off or has one flipped bit is refused, not loaded.
"""

from __future__ import annotations

import contextlib
import io
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as L
import torch
from pytorch_lightning.plugins.io import CheckpointIO

from common.files import read_sealed, write_sealed


def save_sealed(path: Path, state: Any) -> None:
    """Write tensors and plain values (`torch.save`) with their length and SHA-256, atomically."""
    write_sealed(path, lambda file: torch.save(state, file))


def load_sealed(path: Path, map_location: Any = "cpu") -> Any:
    """Read what `save_sealed` wrote; code in the file is not executed.

    Raises:
        DamagedFileError: the content is not what was written.
    """
    return torch.load(io.BytesIO(read_sealed(path)), map_location=map_location, weights_only=True)


class SealedCheckpoints(CheckpointIO):
    """How Lightning's Trainer stores its checkpoints."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write atomically and durably, with a SHA-256."""
        save_sealed(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read and verify.

        Raises:
            DamagedFileError: the content is not what was written.
        """
        checkpoint: dict[str, Any] = load_sealed(Path(path), map_location or "cpu")
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


class Checkpoints(L.Callback):
    """Save the run between two steps, every few seconds.

    The moment is the start of a step, before anything of it is done: all hooks of the step before it have run, those of
    the LightningModule too (Lightning calls them after those of the callbacks).

    Args:
        path: the file, replaced each time.
        every: seconds between two checkpoints; 0 saves before every step.
    """

    def __init__(self, path: Path, every: float) -> None:
        self.path, self.every = path, every
        self.saved = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the loader its place back: Lightning forgets to when the loader was needed to count the steps of a schedule."""
        trainer.fit_loop._load_combined_loader_states()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        due = trainer.global_step > 0 and time.monotonic() - self.saved >= self.every
        if trainer.world_size > 1:  # clocks differ, and all processes have to take part
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if not due:
            return
        loop = trainer.fit_loop.epoch_loop
        with _before_this_step(loop.batch_progress):
            if loop._accumulated_batches_reached():  # a half accumulated gradient is in no checkpoint
                trainer.save_checkpoint(self.path)
                self.saved = time.monotonic()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """The loader has already handed out the batch of the step about to start: it has to hand it out again."""
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        for loader in checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", []):
            if "given" in loader:
                loader["given"] = done


@contextlib.contextmanager
def _before_this_step(progress: Any) -> Iterator[None]:
    """Lightning's counters without the step that is about to start."""
    last, progress.is_last_batch = progress.is_last_batch, False
    for count in (progress.current, progress.total):
        count.ready -= 1
    try:
        yield
    finally:
        progress.is_last_batch = last
        for count in (progress.current, progress.total):
            count.ready += 1


def generator_states() -> dict[str, Any]:
    """States of all random generators, as tensors and plain values."""
    kind, keys, position, has_gauss, gauss = cast(tuple[str, np.ndarray, int, int, float], np.random.get_state())
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, keys.tolist(), int(position), int(has_gauss), float(gauss)],
        "python": [random.getstate()[0], list(random.getstate()[1]), random.getstate()[2]],
    }


def set_generator_states(states: dict[str, Any]) -> None:
    """Continue every generator where `generator_states` saw it."""
    torch.set_rng_state(states["torch"].cpu())
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state.cpu(), device)
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
