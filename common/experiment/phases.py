"""The phases of a run: each one a `Trainer.fit` or a computation, done once, resumed where it was interrupted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from common.experiment.arm import Phase, Run
from common.experiment.callbacks import (
    KeepEpochs,
    Progress,
    Report,
    SeededEpochs,
    StopAtNonFiniteLoss,
    derived_seed,
)
from common.files import write_atomically


@dataclass(frozen=True)
class Machine:
    """How runs are executed here; none of it is part of a run's digest.

    Attributes:
        data: the user's data root.
        threads: CPU threads of one run (the last bits of a result depend on it; provenance records it).
        devices, nodes: passed to Lightning's Trainer.
        tracking: `disabled`, `offline` or `online`; paper, scale: group and tag of what is tracked.
    """

    data: Path | None = None
    threads: int = 1
    devices: int = 1
    nodes: int = 1
    tracking: str = "disabled"
    paper: str = ""
    scale: str = ""

    @property
    def world(self) -> int:
        """Processes that train a run together."""
        return self.devices * self.nodes


@dataclass(frozen=True)
class Work:
    """A run in progress.

    Attributes:
        run: what is computed. method, data: built from its specs. folder: where its checkpoints lie.
        machine: threads, devices. report: receives progress. logger: of Lightning; False for none.
    """

    run: Run
    method: Any
    data: Any
    folder: Path
    machine: Machine
    report: Report
    logger: Any = False

    def do(self, index: int) -> None:
        """Run one phase, or take its end state from disk when it was finished before an interruption."""
        phase, finished = self.run.arm.phases[index], self.folder / f"phase-{index}.ckpt"
        if finished.exists():
            self.method.load_state_dict(torch.load(finished, weights_only=True))
            return
        self.report({"phase": phase.name})
        L.seed_everything(derived_seed(self.run.seed, index, phase.name), verbose=False)
        if hasattr(self.method, "start_phase"):
            self.method.start_phase(phase.name)
        if phase.compute is not None:
            self.method.to("cuda" if torch.cuda.is_available() else "cpu")
            getattr(self.method, phase.compute)(self.data)
        else:
            self._fit(phase, self.folder / f"last-{index}.ckpt", f"{index}:{phase.name}")
        if not further_process():
            write_atomically(finished, lambda file: torch.save(self.method.state_dict(), file))

    def _fit(self, phase: Phase, last: Path, stream: str) -> None:
        """`Trainer.fit`, continued after the last finished epoch if there is a checkpoint of it."""
        callbacks: list[Callback] = [
            SeededEpochs(self.run.seed, stream),
            StopAtNonFiniteLoss(every=20 if torch.cuda.is_available() else 1),
            Progress(self.report, phase.name),
            ModelCheckpoint(self.folder, last.stem, enable_version_counter=False, save_on_train_epoch_end=True),
        ]
        if self.run.arm.keep:
            callbacks.append(KeepEpochs(self.run.arm.keep, self.folder))
        trainer = L.Trainer(
            accelerator="auto",
            devices=self.machine.devices,
            num_nodes=self.machine.nodes,
            strategy="ddp" if self.machine.world > 1 else "auto",
            precision=self.run.arm.precision,  # type: ignore[arg-type]
            max_epochs=phase.epochs if phase.epochs is not None else -1,
            max_steps=phase.steps if phase.steps is not None else -1,
            callbacks=callbacks,
            logger=self.logger,
            log_every_n_steps=20,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            use_distributed_sampler=False,  # our loaders shard by themselves, with the order fixed by (seed, epoch)
            default_root_dir=self.folder,
        )
        trainer.fit(self.method, datamodule=self.data, ckpt_path=last if last.exists() else None, weights_only=True)
        if trainer.interrupted:
            raise KeyboardInterrupt


def further_process() -> bool:
    """Whether this is not the first process of a run on several devices."""
    return bool(getattr(rank_zero_only, "rank", 0))
