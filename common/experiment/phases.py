"""The phases of a run: each one a `Trainer.fit` or a computation, done once, resumed where it was interrupted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from common.distributed import process_group_ends
from common.experiment.arm import Phase, Run
from common.experiment.callbacks import (
    KeepEpochs,
    Progress,
    Report,
    SeededEpochs,
    StopAtNonFiniteLoss,
    derived_seed,
)
from common.experiment.checkpoint import Checkpoints, SealedCheckpoints, load_sealed, save_sealed
from common.experiment.cluster_environment import KeepSignals, cluster_environment
from common.files import DamagedFileError, read_sealed
from common.synchronized_layers import SynchronizedLayers


@dataclass(frozen=True)
class Machine:
    """How runs are executed here; none of it is part of a run's digest.

    Attributes:
        data: the user's data root.
        threads: CPU threads of one run (the last bits of a result depend on it; provenance records it).
        devices, nodes: passed to Lightning's Trainer.
        tracking: `disabled`, `offline` or `online`; paper, scale: group and tag of what is tracked.
        checkpoint_every: seconds between two checkpoints of a run, and so the most that a kill costs; 0 = every step.
    """

    data: Path | None = None
    threads: int = 1
    devices: int = 1
    nodes: int = 1
    tracking: str = "disabled"
    paper: str = ""
    scale: str = ""
    checkpoint_every: float = 30.0

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

    def resume(self) -> int:
        """Take the newest end state of a phase that is on disk and whole.

        Returns:
            How many phases need not be done again.
        """
        for index in reversed(range(len(self.run.arm.phases))):
            path = self._end_of(index)
            if self._is_whole(path):
                self.method.load_state_dict(load_sealed(path))
                return index + 1
        return 0

    def do(self, index: int) -> None:
        """Run one phase, from its checkpoint if it was interrupted."""
        phase = self.run.arm.phases[index]
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
            save_sealed(self._end_of(index), self.method.state_dict())
            for done in (self.folder / f"last-{index}.ckpt", self._end_of(index - 1)):
                done.unlink(missing_ok=True)

    def _end_of(self, index: int) -> Path:
        return self.folder / f"phase-{index}.ckpt"

    def _is_whole(self, checkpoint: Path) -> bool:
        """Whether a checkpoint is there and undamaged; a damaged one is deleted, and what it held is computed again."""
        try:
            read_sealed(checkpoint)
        except FileNotFoundError:
            return False
        except DamagedFileError as error:
            self.report({"phase": f"damaged checkpoint not used: {error}"})
            if not further_process():
                checkpoint.unlink(missing_ok=True)
            return False
        return True

    def _fit(self, phase: Phase, last: Path, stream: str) -> None:
        """`Trainer.fit`, continued where its last checkpoint was taken if there is one."""
        resume_from = last if self._is_whole(last) else None
        callbacks: list[Callback] = [
            SeededEpochs(self.run.seed, stream),
            StopAtNonFiniteLoss(every=20 if torch.cuda.is_available() else 1),
            Progress(self.report, phase.name),
            Checkpoints(last, self.machine.checkpoint_every),
            KeepSignals(),
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
            enable_checkpointing=False,  # of Lightning's own; `Checkpoints` saves more, and safely
            plugins=[SealedCheckpoints(), SynchronizedLayers(), *cluster_environment(self.machine.world)],
        )
        with process_group_ends():
            trainer.fit(self.method, datamodule=self.data, ckpt_path=resume_from, weights_only=True)
            if trainer.interrupted:
                raise KeyboardInterrupt


def further_process() -> bool:
    """Whether this is not the first process of a run on several devices."""
    return bool(getattr(rank_zero_only, "rank", 0))
