"""Lightning callbacks of every run: seeded epochs, states to keep, a stop at the first non-finite loss, progress."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch

from common.experiment.checkpoint import generator_states, set_generator_states
from common.weights import save_weights

Report = Callable[[dict[str, Any]], None]


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the run stops, others go on."""


def derived_seed(*parts: object) -> int:
    """A 32-bit seed that depends on every part (run seed, phase, epoch) and on nothing else."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


class SeededEpochs(L.Callback):
    """Seed all generators at the start of every epoch from (run seed, phase, epoch), and keep their states in checkpoints.

    Lightning's checkpoints hold no generator state. With this, an epoch draws the same dropout masks and margins whether
    it runs through, is continued in its middle, or is repeated alone.
    """

    def __init__(self, seed: int, phase: str) -> None:
        self.seed, self.phase = seed, phase
        self.states: dict[str, Any] | None = None  # of the checkpoint, until the first step after it

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.states = None
        L.seed_everything(derived_seed(self.seed, self.phase, trainer.current_epoch), verbose=False)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Nothing is drawn between the checkpoint's moment and this one, except by Lightning's own set-up."""
        if self.states is not None:
            set_generator_states(self.states)
            self.states = None

    def state_dict(self) -> dict[str, Any]:
        return generator_states()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.states = state_dict


class StopAtNonFiniteLoss(L.Callback):
    """End the run as soon as the loss is not a number.

    Args:
        every: check every that many steps (reading the loss makes an accelerator wait).
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every:
            return
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor) and not bool(torch.isfinite(loss).all()):
            raise NonFiniteLossError(
                f"the loss is {float(loss):g} in epoch {trainer.current_epoch + 1}, step {trainer.global_step}: "
                "lower the learning rate, or look at the batch and the precision"
            )


class KeepEpochs(L.Callback):
    """Store the network after chosen epochs (`Arm.keep = ("epoch3", ...)`)."""

    def __init__(self, keep: tuple[str, ...], folder: Path) -> None:
        unknown = [name for name in keep if not (name.startswith("epoch") and name[5:].isdigit())]
        if unknown:
            raise ValueError(f"an arm can keep 'epoch<k>', not {', '.join(unknown)}")
        self.keep, self.folder = keep, folder

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        name = f"epoch{trainer.current_epoch + 1}"
        if name in self.keep and trainer.is_global_zero:
            save_weights(pl_module.network, self.folder / f"{name}.safetensors")


class Progress(L.Callback):
    """Tell whoever started the run how far it is, about once a second.

    Args:
        report: takes `{"phase", "step", "steps", "loss"}`.
        phase: name shown.
    """

    def __init__(self, report: Report, phase: str) -> None:
        self.report, self.phase = report, phase
        self.last = 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self.last < 1.0:
            return
        self.last = now
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self.report(
            {
                "phase": self.phase,
                "step": trainer.global_step,
                "steps": int(trainer.estimated_stepping_batches),
                "loss": float(loss) if isinstance(loss, torch.Tensor) else None,
            }
        )
