"""Optional experiment tracking with Weights & Biases (wandb): off or offline, and never in the way.

The truth about a run is its stored result; wandb shows curves, tables and plots of it. Therefore:

- mode ``disabled`` never imports wandb; mode ``offline`` writes below ``directory`` and contacts nobody (``wandb sync
  <directory>/wandb/offline-run-*`` uploads later); only mode ``online``, asked for by name, uses the network.
- a failure of wandb becomes one warning line and switches tracking off until the next run; it never fails a training.
  Store a result before it is tracked all the same: an upload may wait for the network.
- wandb is told neither the host's name, nor the code, nor the packages of the machine, nor the console's output.

One wandb run is one run of ours, in the process that executes it::

    with tracker("offline", "quantface", "demo", directory) as tracking:
        tracking.start_run("w6a6", seed=0, config=spec, digest=digest)
        Trainer(logger=tracking.logger, ...).fit(...)
        tracking.log_summary(metrics)
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, cast, get_args

if TYPE_CHECKING:
    from pytorch_lightning.loggers import WandbLogger

Mode = Literal["disabled", "offline", "online"]
PROJECT = "fairpress"

log = logging.getLogger(__name__)


class TrackingError(RuntimeError):
    """Tracking was asked for in a way that cannot work; the message says what to do."""


class Tracker(Protocol):
    """What a run tells about itself. A context manager that ends the current run, as failed if left by an error."""

    @property
    def logger(self) -> WandbLogger | Literal[False]:
        """For ``Trainer(logger=...)``: the curves' logger of the current run; False while nothing is tracked."""

    def start_run(self, arm: str, seed: int | None, config: Mapping[str, Any], digest: str) -> None:
        """Begin a run, ending the one before. Without a seed (the table of a paper) its name is the arm's alone."""

    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Final numbers of the run; nested mappings become dotted names (``lfw.accuracy``), None is left out."""

    def log_table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], name: str = "table") -> None:
        """A table of text, numbers, booleans and None."""

    def log_plot(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """A plot file (.svg, or .png/.jpg); its name is the file's stem unless given."""

    def finish(self, ok: bool = True) -> None:
        """End the current run, if any."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def tracker(mode: Mode | str, paper: str, scale: str, directory: str | os.PathLike[str]) -> Tracker:
    """The tracker of one paper at one scale.

    Args:
        mode: "disabled", "offline" or "online" (the Make variable WANDB).
        paper: the paper's key; groups its runs.
        scale: tags its runs.
        directory: wandb writes into the folder ``wandb`` below it, and nowhere else.

    Raises:
        TrackingError: the mode is unknown, or wandb is asked for but not installed.
    """
    if mode not in get_args(Mode):
        raise TrackingError(f"WANDB={mode!r} is no tracking mode; expected one of {', '.join(get_args(Mode))}")
    if mode == "disabled":
        return _NullTracker()
    spec = importlib.util.find_spec("wandb")
    if (
        spec is None or spec.origin is None
    ):  # without an origin it is a mere folder called wandb, as wandb itself leaves
        raise TrackingError(f"WANDB={mode} needs wandb, which is not installed: `pip install wandb`, or WANDB=disabled")
    return _WandbTracker(cast(Mode, mode), paper, scale, Path(directory))


class _NullTracker:
    """Tracks nothing and imports nothing."""

    @property
    def logger(self) -> Literal[False]:
        return False

    def start_run(self, arm: str, seed: int | None, config: Mapping[str, Any], digest: str) -> None: ...

    def log_summary(self, values: Mapping[str, Any]) -> None: ...

    def log_table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], name: str = "table") -> None: ...

    def log_plot(self, path: str | os.PathLike[str], name: str | None = None) -> None: ...

    def finish(self, ok: bool = True) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _WandbTracker:
    def __init__(self, mode: Mode, paper: str, scale: str, directory: Path) -> None:
        self._mode, self._paper, self._scale, self._directory = mode, paper, scale, directory
        self._run: Any = None  # the wandb run, None between runs
        self._failed = False  # wandb failed during this run, and was told nothing more
        self._logger: WandbLogger | Literal[False] = False
        self._where = ""

    @property
    def logger(self) -> WandbLogger | Literal[False]:
        return self._logger

    def start_run(self, arm: str, seed: int | None, config: Mapping[str, Any], digest: str) -> None:
        from pytorch_lightning.utilities.rank_zero import rank_zero_only

        self.finish()
        if getattr(rank_zero_only, "rank", 0):  # with several devices, the first one tells
            return
        self._failed, self._where = False, arm if seed is None else f"{arm}/seed{seed}"
        try:
            self._start(arm, {**config, "digest": digest})
        except Exception as error:
            self._warn("start", error)

    def _start(self, arm: str, config: dict[str, Any]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        # Tables are staged and cached below the home folder, and offline wandb 0.31 still probes its server for a place
        # to send its own telemetry to, unless its environment variables say otherwise before it is imported.
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        for variable, folder in {"WANDB_DATA_DIR": "data", "WANDB_CACHE_DIR": "cache"}.items():
            os.environ.setdefault(variable, str((self._directory / "wandb" / folder).absolute()))
        import wandb

        self._run = wandb.init(
            project=PROJECT,
            group=self._paper,
            job_type=arm,
            name=self._where,
            tags=[self._scale],
            config=config,
            dir=self._directory,
            mode=self._mode,
            settings=_private_settings(),
        )
        self._run.define_metric("trainer/global_step")
        self._run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        self._logger = _curves_logger(self._run, str(self._directory), self._attempt)

    def log_summary(self, values: Mapping[str, Any]) -> None:
        self._attempt("log the summary", lambda: self._run.summary.update(_flat(values)))

    def log_table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], name: str = "table") -> None:
        def log_it() -> None:
            import wandb

            data = [list(row) for row in rows]
            self._run.log({name: wandb.Table(columns=list(columns), data=data, allow_mixed_types=True)})

        self._attempt(f"log the table {name!r}", log_it)

    def log_plot(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        def log_it() -> None:
            import wandb

            file = Path(path)
            if file.suffix == ".svg":  # wandb's images are pixels; its Html panels show SVG as it is
                self._run.log({name or file.stem: wandb.Html(file.read_text(encoding="utf-8"), inject=False)})
            else:
                self._run.log({name or file.stem: wandb.Image(os.fspath(file))})

        self._attempt(f"log the plot {os.fspath(path)!r}", log_it)

    def finish(self, ok: bool = True) -> None:
        if self._run is None:
            return
        try:
            import wandb

            self._run.finish(exit_code=0 if ok else 1)
            # End wandb's helper process too: a forked worker that leaves by os._exit would not.
            wandb.teardown()
        except Exception as error:
            self._warn("finish", error)
        self._run, self._logger, self._failed, self._where = None, False, False, ""

    def _attempt(self, what: str, action: Callable[[], object]) -> None:
        """Tell wandb something about the current run; a failure is one warning line and the end of the telling."""
        if self._run is None or self._failed:
            return
        try:
            action()
        except Exception as error:
            self._warn(what, error)

    def _warn(self, what: str, error: Exception) -> None:
        if not self._failed:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            log.warning("wandb could not %s; run %s goes on without tracking (%s)", what, self._where, reason)
        self._failed, self._logger = True, False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(ok=kind is None)


def _private_settings() -> Any:
    """What a run says is in its config and its result; wandb adds nothing about the machine, the code, the console."""
    import wandb

    return wandb.Settings(
        silent=True,
        console="off",
        host="undisclosed",
        disable_git=True,
        disable_code=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )


def _curves_logger(run: Any, directory: str, attempt: Callable[[str, Callable[[], object]], None]) -> WandbLogger:
    from pytorch_lightning.loggers import WandbLogger

    class CurvesLogger(WandbLogger):
        """Lightning's logger, whose failures are the tracker's and not the training's."""

        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            logged = super().log_metrics
            attempt("log the curves", lambda: logged(metrics, step))

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
            """Nothing: the config of a run is what its digest hashes, no more and no less."""

    return CurvesLogger(experiment=run, save_dir=directory, project=PROJECT)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    return flat
