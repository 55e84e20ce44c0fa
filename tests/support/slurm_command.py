"""A command that submits runs to SLURM, for a process that a test may kill."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tiny_runs import Silent

from common.experiment.arm import Run
from common.experiment.cluster import launch_on_slurm
from common.experiment.cluster_options import SlurmOptions
from common.experiment.phases import Machine
from common.experiment.store import Store


class Noting(Silent):
    """A watcher that remembers remarks on the table too."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def phases(self, label: str) -> list[str]:
        """What was said of a run."""
        return [str(event.get("phase", event.get("error"))) for run, event in self.events if run == label]


def command(
    environment: dict[str, str], runs: Sequence[Run], store: Store, machine: Machine, options: SlurmOptions
) -> None:
    """Body of the process."""
    os.environ.update(environment)
    launch_on_slurm(runs, store, machine, options, Noting())
