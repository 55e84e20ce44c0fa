"""What Lightning is told about SLURM: how many processes there are, and that it must not requeue anything by itself."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytorch_lightning as L
from lightning_fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment


def cluster_environment(world: int) -> list[ClusterEnvironment]:
    """Plugins for `Trainer(plugins=...)`.

    Left alone, Lightning takes every process below an `sbatch` or `salloc` for one task of a distributed run and requeues jobs
    behind our back. Only a run that has one task per process, started by `srun`, is one.

    Args:
        world: processes that train a run together.

    Returns:
        Nothing outside of SLURM (Lightning decides).
    """
    if "SLURM_JOB_ID" not in os.environ:
        return []
    if world > 1 and os.environ.get("SLURM_STEP_NUM_TASKS") == str(world):
        return [SLURMEnvironment(auto_requeue=False)]
    return [LightningEnvironment()]


class KeepSignals(L.Callback):
    """Leave SIGTERM to whoever handled it before the fit.

    Lightning's own handler ends the process after the batch. In a job that SLURM preempts with a grace period this counts as a
    failure instead of a requeue; and with several processes it starts a broadcast in the middle of whatever they exchange.
    """

    def __init__(self) -> None:
        self.before = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if "SLURM_JOB_ID" in os.environ and self.before is not None:
            signal.signal(signal.SIGTERM, self.before)
