"""Where runs live on this machine: one folder a run, named by its digest, so that nothing is computed twice.

    <store>/runs/<digest>/
        state.json          ok | failed | interrupted | running, and why
        result.json         metrics, cost, provenance: exists only when the run is ok
        scores.npz          what the benchmark saw
        network.safetensors the trained network; further files for what the arm keeps
        phase-<i>.ckpt      state after phase i;  last-<i>.ckpt: after its last finished epoch, while it runs
        log.txt             what the run printed

The committed copy of a table's runs lies in `results/<paper>/<scale>/` (`publish`): the small files only, enough to redraw every
table, plot and verdict without training.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.files import read_json, write_atomically, write_json_atomically

Arrays = Mapping[str, np.ndarray]


class StoreError(RuntimeError):
    """The store does not hold what it should, or cannot be written."""


@dataclass(frozen=True)
class Store:
    """A folder of finished and unfinished runs.

    Attributes:
        root: the folder; made when it is first written to.
    """

    root: Path

    def folder(self, digest: str) -> Path:
        """Folder of one run."""
        return self.root / "runs" / digest

    def status(self, digest: str) -> str:
        """`ok`, `failed`, `interrupted` or `not run`; a run whose process is gone counts as interrupted."""
        state = self.state(digest)
        if state is None:
            return "not run"
        if state["status"] == "running":
            return "running" if self.is_locked(digest) else "interrupted"
        return str(state["status"])

    def state(self, digest: str) -> dict[str, Any] | None:
        """What is known of a run's progress, or None when it was never started."""
        path = self.folder(digest) / "state.json"
        return read_json(path) if path.exists() else None

    def set_state(self, digest: str, status: str, **details: Any) -> None:
        """Record how far a run is; `details` end up beside the status (an error, a phase)."""
        self.folder(digest).mkdir(parents=True, exist_ok=True)
        write_json_atomically(self.folder(digest) / "state.json", {"status": status, **details})

    def result(self, digest: str) -> dict[str, Any]:
        """The stored result of a finished run.

        Raises:
            StoreError: the run is not finished.
        """
        path = self.folder(digest) / "result.json"
        if self.status(digest) != "ok" or not path.exists():
            raise StoreError(f"run {digest} has no result: it is '{self.status(digest)}'")
        result: dict[str, Any] = read_json(path)
        return result

    def weights(self, digest: str, kept: str = "network") -> Path:
        """File of a network that a finished run kept.

        Raises:
            StoreError: the file is not there.
        """
        path = self.folder(digest) / f"{kept}.safetensors"
        if not path.exists():
            have = sorted(p.stem for p in self.folder(digest).glob("*.safetensors"))
            raise StoreError(f"run {digest} keeps no '{kept}' (it keeps {', '.join(have) or 'nothing'})")
        return path

    @contextlib.contextmanager
    def lock(self, digest: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold a run for this process; while another process holds it, `on_wait` is called once and then waited.

        The system frees the lock if its owner dies.
        """
        folder = self.folder(digest)
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def is_locked(self, digest: str) -> bool:
        """Whether a living process holds the run."""
        path = self.folder(digest) / "lock"
        if not path.exists():
            return False
        handle = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(handle)

    def finish(self, digest: str, result: dict[str, Any], scores: Arrays, tables: Mapping[str, Arrays]) -> None:
        """Store the outcome of a run: arrays first, then the result, the status last, so that *ok* means all of it is there.

        Args:
            result: JSON values; its `pairs` maps a pair set to the name of its pair table.
            scores: `"<pair set>/score"` and `"<pair set>/correct"`.
            tables: pair table name (content hash) -> its arrays; each is written once for all runs.
        """
        folder = self.folder(digest)
        for name, arrays in tables.items():
            path = self.root / "pairs" / f"pairs-{name}.npz"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_arrays(path, arrays)
        write_arrays(folder / "scores.npz", scores)
        write_json_atomically(folder / "result.json", result)
        self.set_state(digest, "ok")

    def publish(self, digest: str, folder: Path, arm: str, title: str, seed: int) -> None:
        """Copy what redraws a table into `folder`: `<digest>.json`, `<digest>.npz` and its pair tables.

        A run that is not ok leaves its status and its error. `arm` and `title` are what this table calls the run: another paper
        that shares it may call it differently.
        """
        status = self.status(digest)
        if status == "ok":
            result = {**self.result(digest), "arm": arm, "title": title}
            _copy(self.folder(digest) / "scores.npz", folder / f"{digest}.npz")
            for name in set(result["pairs"].values()):
                _copy(self.root / "pairs" / f"pairs-{name}.npz", folder / f"pairs-{name}.npz")
        else:
            error = (self.state(digest) or {}).get("error", {})
            result = {
                "digest": digest,
                "arm": arm,
                "title": title,
                "seed": seed,
                "status": "interrupted" if status == "running" else status,
                "error": {name: text for name, text in error.items() if name != "traceback"},
            }
        target = folder / f"{digest}.json"
        if not target.exists() or read_json(target) != result:
            write_json_atomically(target, result)


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write a compressed `.npz` atomically."""
    buffer = io.BytesIO()
    named: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez_compressed(buffer, **named)
    write_atomically(path, buffer.getvalue())


def _copy(source: Path, target: Path) -> None:
    data = source.read_bytes()
    if not target.exists() or target.read_bytes() != data:
        write_atomically(target, data)
