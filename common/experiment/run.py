"""Execute one run: its phases, its benchmark, its result. Everything here happens in the process that owns the run."""

from __future__ import annotations

import inspect
import os
import time
import traceback
from typing import Any

import pytorch_lightning as L
import torch

from common.experiment.arm import Arm, Run, canonical_run
from common.experiment.callbacks import Report, derived_seed
from common.experiment.phases import Machine, Work, further_process
from common.experiment.sources import sources_of_run, with_parents
from common.experiment.spec import Place, Spec, build, resolve_target
from common.experiment.store import Store
from common.files import StorageError
from common.provenance import provenance
from common.tracking import tracker
from common.weights import save_weights

SCHEMA = 1


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
    if further_process():
        return _follow(run, store, machine)
    with store.lock(run.digest, on_wait=lambda: report({"phase": "waiting for another process that computes it"})):
        if store.status(run.digest) == "ok":
            return "ok"
        sources = _sources(run, store)
        _discard_what_cannot_be_used(run, store, sources, report)
        store.begin(run.digest, run.label, sources)
        _make_deterministic(machine)
        try:
            _compute(run, store, machine, report)
        except Exception as error:  # recorded, shown in the table, and in the exit status of the command
            report({"error": f"{type(error).__name__}: {error}"})
            _record_failure(run, store, error, report)
            return "failed"
        return "ok"


def _record_failure(run: Run, store: Store, error: Exception, report: Report) -> None:
    what = {"type": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
    try:
        store.set_state(run.digest, "failed", label=run.label, error=what)
    except (
        StorageError
    ) as refusal:  # the disk is full, say: the failure is shown, and the next call finds the run interrupted
        report({"error": f"the failure could not be recorded either: {refusal}"})


def _sources(run: Run, store: Store) -> dict[str, str]:
    """Hashes of the modules that decide the run's numbers; a parent that other code has made keeps what it was made with."""
    finished = [parent for parent in run.parents if store.status(parent.digest) == "ok"]
    return with_parents(sources_of_run(run), [store.result(parent.digest).get("sources") for parent in finished])


def _discard_what_cannot_be_used(run: Run, store: Store, sources: dict[str, str], report: Report) -> None:
    """Delete what other code, or a damaged file, left of a run, and say so; unfinished work of this very code stays."""
    status, state = store.status(run.digest), store.state(run.digest)
    if status in ("stale", "damaged"):
        reason = status
    elif state is not None and state.get("sources") not in (None, sources):
        reason = "begun by other code"
    else:
        return
    store.discard(run.digest, reason)
    report({"phase": f"{reason}: computed again from the start"})


def _make_deterministic(machine: Machine) -> None:
    """Same digest, same numbers: fixed threads; on an accelerator deterministic kernels, with a warning where none exists."""
    torch.set_num_threads(machine.threads)
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(True, warn_only=True)


def _follow(run: Run, store: Store, machine: Machine) -> str:
    """What the further processes of a run on several devices do: take part in the fits, then wait for the first one's result."""
    _make_deterministic(machine)
    if any(phase.compute is None for phase in run.arm.phases) and store.status(run.digest) == "running":
        data, method = _build(run, _place_of(run, store, machine))
        work = Work(run, method, data, store.folder(run.digest), machine, lambda event: None)
        for index in range(work.resume(), len(run.arm.phases)):
            if run.arm.phases[index].compute is None:
                work.do(index)
    while store.status(run.digest) not in ("ok", "failed"):
        time.sleep(1)
    return store.status(run.digest)


def _build(run: Run, place: Place) -> tuple[Any, Any]:
    """Data module and method of a run; the initial weights depend on the seed alone."""
    data = build(_with_seed(run.arm.data, run.seed), place)
    data.prepare_data()
    data.setup("fit")
    L.seed_everything(derived_seed(run.seed, "build"), verbose=False)
    method = build(run.arm.method, place)
    if hasattr(method, "prepare"):
        method.prepare(data)  # what a method can only make when it knows the data, such as a head for its classes
    return data, method


def _compute(run: Run, store: Store, machine: Machine, report: Report) -> None:
    arm, folder = run.arm, store.folder(run.digest)
    place = _place_of(run, store, machine)
    started = time.monotonic()  # of this attempt; a clock that is set back does not matter
    seconds: dict[str, float] = {}

    report({"phase": "data"})
    data, method = _build(run, place)
    seconds["data"] = time.monotonic() - started

    config = canonical_run(arm, run.seed, place)
    with tracker(machine.tracking, machine.paper, machine.scale, store.root) as tracking:
        tracking.start_run(arm.name, run.seed, config, run.digest)
        work = Work(run, method, data, folder, machine, report, tracking.logger)
        for index in range(work.resume(), len(arm.phases)):
            since = time.monotonic()
            work.do(index)
            seconds[arm.phases[index].name] = time.monotonic() - since
        report({"phase": "benchmark"})
        since = time.monotonic()
        measured = build(arm.benchmark, place).measure(method, data)
        seconds["benchmark"] = time.monotonic() - since
        save_weights(method.network, folder / "network.safetensors")
        seconds["total"] = time.monotonic() - started
        result = {
            "schema": SCHEMA,
            "digest": run.digest,
            "arm": arm.name,
            "title": arm.title,
            "seed": run.seed,
            "status": "ok",
            "spec": config,
            "parents": {parent.arm.name: parent.digest for parent in run.parents},
            "sources": _sources(run, store),  # once more, so that a file edited while the run went on is noticed
            "metrics": measured.metrics,
            "pairs": measured.pairs,
            "cost": measured.cost,
            "provenance": {
                **provenance(),
                "threads": machine.threads,
                "devices": machine.world,
                "data": data.fingerprint(),
            },
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
        }
        store.finish(run.digest, result, measured.scores, measured.tables)
        tracking.log_summary(measured.metrics)
    for checkpoint in folder.glob("*.ckpt"):
        checkpoint.unlink()


def _place_of(run: Run, store: Store, machine: Machine) -> Place:
    def digest(arm: Arm) -> str:
        return next(parent.digest for parent in run.parents if parent.arm == arm)

    return Place(
        data=machine.data,
        weights=lambda arm, kept: store.weights(digest(arm), kept),
        digest=digest,
    )


def _with_seed(data: Spec, seed: int) -> Spec:
    """The data module of a run: what has an order to seed (an argument `seed`) and does not fix it takes the run's seed."""
    options = {name: _with_seed(v, seed) if isinstance(v, Spec) else v for name, v in data.options}
    if "seed" in inspect.signature(resolve_target(data.target)).parameters:
        options.setdefault("seed", seed)
    return data.replace(**options)
