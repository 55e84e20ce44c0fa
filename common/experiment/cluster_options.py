"""What a user can say about the SLURM jobs of a table, checked before anything is submitted. Imports no torch."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

PROGRAMS = ("sbatch", "srun", "squeue", "scontrol")
OURS = frozenset({"array", "dependency", "error", "job-name", "kill-on-invalid-dep", "nodes", "ntasks", "ntasks-per-node",
                  "open-mode", "output", "partition", "account", "requeue", "no-requeue", "signal", "time", "wrap"})  # fmt: skip


class SlurmError(RuntimeError):
    """SLURM is not here, refuses what it is asked, or was given options that cannot be meant."""


@dataclass(frozen=True)
class SlurmOptions:
    """How the jobs of a table are submitted. Devices, nodes and threads of a run come from `Machine`.

    Attributes:
        partition, account, qos, mem: of `sbatch`; None for the cluster's default. `mem` is a memory per node such as `8G`.
        minutes: time limit of one job; a run that needs longer is requeued and goes on. None for the partition's default.
        gpus: GPUs per node; None for as many as `Machine.devices` where the partition has any, 0 for none.
        parallel: how many jobs of one array may run at a time.
        requeues: how often a run may ask for another time slot; restarts that SLURM decides on do not count.
        warning: seconds before the time limit at which the run is told to requeue; None for 90, less where `minutes` is short.
        poll: seconds between two questions to the controller while the command waits.
        more: further options of `sbatch`, without their dashes.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    mem: str | None = None
    minutes: int | None = None
    gpus: int | None = None
    parallel: int = 64
    requeues: int = 50
    warning: int | None = None
    poll: float = 10.0
    more: dict[str, str] = field(default_factory=dict)

    @property
    def warned(self) -> int:
        """Seconds before the time limit at which SLURM tells the run to requeue (it may do so a minute earlier)."""
        if self.warning is not None:
            return self.warning
        return 90 if self.minutes is None else min(90, 15 * self.minutes)


def slurm_options(
    partition: str | None, account: str | None, time: str | None, settings: Iterable[str] = ()
) -> SlurmOptions:
    """Options from the command line.

    Args:
        partition, account: names; None for the cluster's default.
        time: limit of one job, in minutes or as `[days-]hours:minutes:seconds`.
        settings: `key=value`: `qos`, `mem`, `gpus`, `parallel`, `requeues`, `warning`, or any option of `sbatch`.

    Raises:
        SlurmError: a setting is not `key=value`, is not a number where one is needed, or is one that the launcher sets.
    """
    values: dict[str, Any] = {}
    more: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not value or not re.fullmatch(r"[a-z][a-z-]*", key) or not value.isprintable():
            raise SlurmError(f"'{setting}' is not a SLURM setting: expected key=value, for example qos=high or mem=8G")
        if key in OURS:
            raise SlurmError(
                f"the SLURM option '{key}' is set by the launcher (TIME, PARTITION, ACCOUNT, DEVICES, NODES, THREADS)"
            )
        if key in ("gpus", "parallel", "requeues", "warning"):
            values[key] = _count(key, value, least=1 if key == "parallel" else 0)
        elif key in ("qos", "mem"):
            values[key] = value
        else:
            more[key] = value
    minutes = None if time is None else _minutes(time)
    return SlurmOptions(partition=partition, account=account, minutes=minutes, more=more, **values)


def require_slurm() -> None:
    """Make sure that jobs can be submitted from here.

    Raises:
        SlurmError: a program of SLURM is not on the PATH.
    """
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise SlurmError(
            f"LAUNCH=slurm needs {', '.join(missing)}, which this machine does not have: call it on a login node of the "
            "cluster (often after `module load slurm`), or leave LAUNCH out to run here"
        )


def _count(key: str, value: str, least: int) -> int:
    if not value.isdigit() or int(value) < least:
        raise SlurmError(f"SLURM setting {key}={value}: expected a whole number from {least} on")
    return int(value)


def _minutes(text: str) -> int:
    """`90`, `1:30:00`, `2-00:00:00` or `2-12` as minutes, rounded up."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise SlurmError(f"time limit '{text}': expected minutes (90) or [days-]hours:minutes:seconds (1:30:00)")
    days, first, second, third = (None if part is None else int(part) for part in match.groups())
    if days is not None:
        seconds = ((days * 24 + (first or 0)) * 60 + (second or 0)) * 60 + (third or 0)
    elif third is not None:
        seconds = ((first or 0) * 60 + (second or 0)) * 60 + third
    else:
        seconds = (first or 0) * 60 + (second or 0)
    if seconds == 0:
        raise SlurmError(f"time limit '{text}' leaves a run no time")
    return -(-seconds // 60)
