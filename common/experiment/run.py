"""Execute one run: its phases, its benchmark, its result. Everything here happens in the process that owns the run."""

from __future__ import annotations

import inspect
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from common.experiment.arm import Arm, Phase, Run, canonical_run
from common.experiment.callbacks import (
    KeepEpochs,
    Progress,
    Report,
    SeededEpochs,
    StopAtNonFiniteLoss,
    derived_seed,
)
from common.experiment.spec import Place, Spec, build, resolve_target
from common.experiment.store import Store
from common.provenance import provenance
from common.tracking import tracker
from common.weights import save_weights

SCHEMA = 1


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


def execute(run: Run, store: Store, machine: Machine, report: Report) -> str:
    """Do what is left of a run and store its outcome.

    Args:
        run: what to compute; its parents are finished.
        store: where it goes and where its parents' weights come from.
        machine: threads, devices, data root.
        report: receives progress events (dicts).

    Returns:
        `"ok"` or `"failed"`. A failure is recorded with its traceback and not raised: the other runs of the table go on.
        When another process computes the run, its result is waited for and taken.
    """
    if _further_process():
        return _follow(run, store, machine)
    with store.lock(run.digest, on_wait=lambda: report({"phase": "waiting for another process that computes it"})):
        if store.status(run.digest) == "ok":
            return "ok"
        store.set_state(run.digest, "running", label=run.label)
        torch.set_num_threads(machine.threads)
        try:
            _compute(run, store, machine, report)
        except Exception as error:  # recorded, shown in the table, and in the exit status of the command
            store.set_state(
                run.digest,
                "failed",
                label=run.label,
                error={"type": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()},
            )
            report({"error": f"{type(error).__name__}: {error}"})
            return "failed"
        return "ok"


def _further_process() -> bool:
    """Whether this is not the first process of a run on several devices."""
    return bool(getattr(rank_zero_only, "rank", 0))


def _follow(run: Run, store: Store, machine: Machine) -> str:
    """What the further processes of a run on several devices do: take part in the fits, then wait for the first one's result."""
    torch.set_num_threads(machine.threads)
    if any(phase.compute is None for phase in run.arm.phases) and store.status(run.digest) == "running":
        data, method = _build(run, _place_of(run, store, machine))
        for index, phase in enumerate(run.arm.phases):
            if phase.compute is None:
                folder = store.folder(run.digest)
                _phase(run, index, phase, method, data, folder, machine, False, lambda event: None)
    while store.status(run.digest) in ("running", "not run", "interrupted"):
        time.sleep(1)
    return store.status(run.digest)


def _build(run: Run, place: Place) -> tuple[Any, Any]:
    """Data module and method of a run; the initial weights depend on the seed alone."""
    data = build(_with_seed(run.arm.data, run.seed), place)
    data.prepare_data()
    data.setup("fit")
    L.seed_everything(derived_seed(run.seed, "build"), verbose=False)
    return data, build(run.arm.method, place)


def _compute(run: Run, store: Store, machine: Machine, report: Report) -> None:
    arm, folder = run.arm, store.folder(run.digest)
    place = _place_of(run, store, machine)
    started = time.time()
    seconds: dict[str, float] = {}

    report({"phase": "data"})
    data, method = _build(run, place)
    seconds["data"] = time.time() - started

    config = canonical_run(arm, run.seed, place)
    with tracker(machine.tracking, machine.paper, machine.scale, store.root) as tracking:
        tracking.start_run(arm.name, run.seed, config, run.digest)
        for index, phase in enumerate(arm.phases):
            since = time.time()
            _phase(run, index, phase, method, data, folder, machine, tracking.logger, report)
            seconds[phase.name] = time.time() - since
        report({"phase": "benchmark"})
        since = time.time()
        measured = build(arm.benchmark, place).measure(method, data)
        seconds["benchmark"] = time.time() - since
        save_weights(method.network, folder / "network.safetensors")
        seconds["total"] = time.time() - started
        result = {
            "schema": SCHEMA,
            "digest": run.digest,
            "arm": arm.name,
            "title": arm.title,
            "seed": run.seed,
            "status": "ok",
            "spec": config,
            "parents": {parent.arm.name: parent.digest for parent in run.parents},
            "metrics": measured.metrics,
            "pairs": measured.pairs,
            "cost": measured.cost,
            "provenance": {
                **provenance(),
                "threads": machine.threads,
                "devices": machine.devices * machine.nodes,
                "data": data.fingerprint(),
            },
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
        }
        store.finish(run.digest, result, measured.scores, measured.tables)
        tracking.log_summary(measured.metrics)
    for checkpoint in folder.glob("*.ckpt"):
        checkpoint.unlink()


def _phase(
    run: Run,
    index: int,
    phase: Phase,
    method: L.LightningModule,
    data: L.LightningDataModule,
    folder: Path,
    machine: Machine,
    logger: Any,
    report: Report,
) -> None:
    """Run one phase, or take its end state from disk when it was finished before an interruption."""
    finished = folder / f"phase-{index}.ckpt"
    if finished.exists():
        method.load_state_dict(torch.load(finished, weights_only=True))
        return
    report({"phase": phase.name})
    L.seed_everything(derived_seed(run.seed, index, phase.name), verbose=False)
    start_phase = getattr(method, "start_phase", None)
    if start_phase is not None:
        start_phase(phase.name)
    if phase.compute is not None:
        getattr(method, phase.compute)(data)
    else:
        _fit(run, index, phase, method, data, folder, machine, logger, report)
    if _further_process():
        return
    partial = finished.with_suffix(".part")
    torch.save(method.state_dict(), partial)
    partial.replace(finished)


def _fit(
    run: Run,
    index: int,
    phase: Phase,
    method: L.LightningModule,
    data: L.LightningDataModule,
    folder: Path,
    machine: Machine,
    logger: Any,
    report: Report,
) -> None:
    last = folder / f"last-{index}.ckpt"
    on_accelerator = torch.cuda.is_available()
    callbacks: list[Callback] = [
        SeededEpochs(run.seed, f"{index}:{phase.name}"),
        StopAtNonFiniteLoss(every=20 if on_accelerator else 1),
        Progress(report, phase.name),
        ModelCheckpoint(folder, last.stem, enable_version_counter=False, save_on_train_epoch_end=True),
    ]
    if run.arm.keep:
        callbacks.append(KeepEpochs(run.arm.keep, folder))
    trainer = L.Trainer(
        accelerator="auto",
        devices=machine.devices,
        num_nodes=machine.nodes,
        strategy="ddp" if machine.devices * machine.nodes > 1 else "auto",
        precision=run.arm.precision,  # type: ignore[arg-type]
        max_epochs=phase.epochs if phase.epochs is not None else -1,
        max_steps=phase.steps if phase.steps is not None else -1,
        callbacks=callbacks,
        logger=logger,
        log_every_n_steps=20,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,  # our loaders shard by themselves, with the order fixed by (seed, epoch)
        default_root_dir=folder,
    )
    trainer.fit(method, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt


def _place_of(run: Run, store: Store, machine: Machine) -> Place:
    def digest(arm: Arm) -> str:
        return next(parent.digest for parent in run.parents if parent.arm == arm)

    return Place(
        data=machine.data,
        world=machine.devices * machine.nodes,
        weights=lambda arm, kept: store.weights(digest(arm), kept),
        digest=digest,
    )


def _with_seed(data: Spec, seed: int) -> Spec:
    """The data module of a run: what has an order to seed (an argument `seed`) and does not fix it takes the run's seed."""
    options = {name: _with_seed(v, seed) if isinstance(v, Spec) else v for name, v in data.options}
    if "seed" in inspect.signature(resolve_target(data.target)).parameters:
        options.setdefault("seed", seed)
    return data.replace(**options)
