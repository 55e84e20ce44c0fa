"""Where runs live on this machine: one folder a run, named by its digest, so that nothing is computed twice.

    <store>/runs/<digest>/
        state.json          ok | failed | interrupted | running, and why; sealed, written last
        result.json         metrics, cost, provenance, sources: exists only when the run is ok
        scores.npz          what the benchmark saw
        network.safetensors the trained network; further files for what the arm keeps
        SHA256SUMS          every file of a finished run and its pair tables, compared whenever one is read
        log.txt             what the run printed
        ...                 checkpoints, while it runs
    <store>/pairs/          pair tables, each once for all runs
    <store>/locks/          locks of what is no run

The committed copy of a table's runs lies in `results/<paper>/<scale>/` (`publish`): the small files only, enough to redraw every
table, plot and verdict without training.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.experiment.arrays import Arrays, encode_arrays
from common.experiment.pair_tables import PAIRS, add_tables, table_file
from common.experiment.run_folder import LOCK, LOG, RESULT, SCORES, STATE, RunFolder
from common.files import (
    DamagedFileError,
    StorageError,
    encode_json,
    remove_temporary_files,
    write_atomically,
    write_json_atomically,
)
from common.locks import is_held_here, is_locked, locked
from common.manifest import MANIFEST, damage, damaged_files, read_manifest, read_verified, write_manifest


class StoreError(RuntimeError):
    """The store does not hold what was asked for."""


@dataclass(frozen=True)
class Store:
    """A folder of finished and unfinished runs.

    Attributes:
        root: the folder; made when it is first written to.
        accept_stale: results of other code than the present one count as ok; their publication says so.
    """

    root: Path
    accept_stale: bool = False

    def folder(self, digest: str) -> Path:
        """Folder of one run."""
        return self.root / "runs" / digest

    def status(self, digest: str) -> str:
        """How far a run is; one of `run_folder.STATUSES`. Raises nothing, whatever lies in the folder.

        `stale`: finished by code that has changed since. `damaged`: its state, manifest or result is not as it was written, or
        a file is missing or of another size (`verify` reads every byte). A run whose process is gone is `interrupted`.
        """
        return self._judged(digest)[0]

    def reason(self, digest: str) -> str:
        """Why a run is stale or damaged, in words; empty for every other."""
        return self._judged(digest)[1]

    def _judged(self, digest: str) -> tuple[str, str]:
        return RunFolder(self.folder(digest)).judge(self.accept_stale)

    def state(self, digest: str) -> dict[str, Any] | None:
        """What is known of a run's progress; None when it was never started or its state is damaged (`status` says which)."""
        try:
            return RunFolder(self.folder(digest)).state()
        except (DamagedFileError, OSError):
            return None

    def set_state(self, digest: str, status: str, **details: Any) -> None:
        """Record how far a run is; `details` end up beside the status (an error, a phase). Its label and sources stay."""
        begun = {name: kept for name, kept in (self.state(digest) or {}).items() if name in ("label", "sources")}
        write_json_atomically(self.folder(digest) / STATE, {**begun, "status": status, **details}, seal=True)

    def begin(self, digest: str, label: str, sources: Mapping[str, str]) -> None:
        """Record that a run is computed now, by this code; the caller holds its lock.

        Args:
            digest: the run. label: its name for people.
            sources: module -> hash (`common.experiment.sources`).
        """
        if self.folder(digest).exists():
            remove_temporary_files(self.folder(digest))  # of a writer that was killed
        self.set_state(digest, "running", label=label, sources=dict(sources))

    def result(self, digest: str) -> dict[str, Any]:
        """The stored result of a finished run.

        Raises:
            StoreError: the run is not finished.
            DamagedFileError: its file is not as it was written.
        """
        status, why = self._judged(digest)
        if status != "ok":
            raise StoreError(f"run {digest} has no result: it is '{status}'" + (f" ({why})" if why else ""))
        with self._marking_damage(digest):
            return RunFolder(self.folder(digest)).result()

    def weights(self, digest: str, kept: str = "network") -> Path:
        """File of a network that a finished run kept; all its bytes were just compared with what was written.

        Raises:
            StoreError: the run is not finished or keeps no such network.
            DamagedFileError: the file is not as it was written; the run is marked, and computed again by the next command.
        """
        folder, name = self.folder(digest), f"{kept}.safetensors"
        if (self.state(digest) or {}).get("status") != "ok":
            raise StoreError(f"run {digest} keeps no '{kept}': it is '{self.status(digest)}'")
        with self._marking_damage(digest):
            manifest = read_manifest(folder)
            if name not in manifest:
                have = sorted(Path(one).stem for one in manifest if one.endswith(".safetensors"))
                raise StoreError(f"run {digest} keeps no '{kept}' (it keeps {', '.join(have) or 'nothing'})")
            if wrong := damage(folder, name, manifest[name]):
                raise DamagedFileError(f"{folder / name} {wrong}; the next command computes run {digest} again")
        return folder / name

    def verify(self, digest: str) -> dict[str, str]:
        """Every file of a finished run that is not as it was written: name -> what is wrong. Reads every byte."""
        folder, (status, why) = self.folder(digest), self._judged(digest)
        if status not in ("ok", "stale", "damaged"):
            return {}
        found = damaged_files(folder) if (folder / MANIFEST).exists() else {}
        return found or ({STATE: why} if status == "damaged" else {})

    def discard(self, digest: str, reason: str = "") -> None:
        """Delete what there is of a run but its lock and its log, which is told why. Waits for whoever computes it.

        Args:
            digest: the run. reason: what was wrong with it.
        """
        held = is_held_here(self.folder(digest) / LOCK)
        with contextlib.nullcontext() if held else self.lock(digest, lambda: None):
            folder, status = self.folder(digest), self.status(digest)
            # The state first, so that what is half deleted does not count as finished.
            for path in sorted(folder.iterdir(), key=lambda path: path.name != STATE):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name not in (LOCK, LOG):
                    path.unlink()
            with open(folder / LOG, "a", encoding="utf-8") as log:
                now = datetime.now(UTC).isoformat(timespec="seconds")
                log.write(f"{now} discarded what was {status}{f': {reason}' if reason else ''}\n")

    @contextlib.contextmanager
    def _marking_damage(self, digest: str) -> Iterator[None]:
        """A run of which a file turns out to be damaged is recorded as such, so that it is computed again.

        A damaged pair table is deleted instead: the first run that is computed again restores it for all of them.
        """
        try:
            yield
        except DamagedFileError as error:
            try:
                if not self.is_locked(digest):
                    with self.lock(digest, lambda: None), self.exclusive("pairs"):
                        found = self.verify(digest)  # nothing, when another has computed it again meanwhile
                        for name in [name for name in found if name.startswith(PAIRS)]:
                            (self.folder(digest) / name).unlink(missing_ok=True)
                            del found[name]
                        if found:
                            what = {"type": type(error).__name__, "message": str(error)}
                            self.set_state(digest, "damaged", error=what)
            except StorageError as refusal:
                error.add_note(f"The run could not be marked as damaged: {refusal}")
            raise

    def lock(self, digest: str, on_wait: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Hold a run for this process; while another process holds it, `on_wait` is called once and then waited.

        The system frees the lock if its owner dies.

        Raises:
            StorageError: the store cannot be written.
        """
        return locked(self.folder(digest) / LOCK, on_wait)

    def is_locked(self, digest: str) -> bool:
        """Whether a living process holds the run."""
        return is_locked(self.folder(digest) / LOCK)

    def exclusive(
        self, name: str, on_wait: Callable[[], None] = lambda: None
    ) -> contextlib.AbstractContextManager[None]:
        """Exclude every other process that asks for the same name, such as the paper whose results are published.

        Args:
            name: letters, digits, `-`, `_` and `.`; on_wait: called once if another holds it, before waiting for it.

        Raises:
            ValueError: another name.
            StorageError: the store cannot be written.
        """
        if not re.fullmatch(r"[\w-][\w.-]*", name, re.ASCII):
            raise ValueError(f"a lock cannot be called {name!r}: expected letters, digits, '-', '_' and '.'")
        return locked(self.root / "locks" / name, on_wait)

    def finish(self, digest: str, result: dict[str, Any], scores: Arrays, tables: Mapping[str, Arrays]) -> None:
        """Store the outcome of a run, the manifest of its files after them and its status last: *ok* means all is there.

        Args:
            result: JSON values; `pairs` maps a pair set to the name of its pair table, `sources` a module to its hash.
            scores: `"<pair set>/score"` and `"<pair set>/correct"`.
            tables: pair table name (content hash) -> its arrays; each is written once for all runs.

        Raises:
            StorageError: the store cannot be written; the run is not finished then.
        """
        folder = self.folder(digest)
        with self.exclusive("pairs"):
            add_tables(self.root, tables)
        write_atomically(folder / SCORES, encode_arrays(scores))
        write_json_atomically(folder / RESULT, result)
        names = [RESULT, SCORES, *(path.name for path in folder.glob("*.safetensors"))]
        names += [f"{PAIRS}{table_file(name)}" for name in {*tables, *result.get("pairs", {}).values()}]
        sizes = {name: (folder / name).stat().st_size for name in write_manifest(folder, names)}
        self.set_state(digest, "ok", sizes=sizes)

    def publish(self, digest: str, folder: Path, arm: str, title: str, seed: int) -> str:
        """Copy what redraws a table into `folder`: `<digest>.json`, `<digest>.npz` and its pair tables, all verified.

        A run that is not ok leaves its status and its error. `arm` and `title` are what this table calls the run: another paper
        that shares it may call it differently. A result of other code, where it is accepted, names under `stale` what changed.

        Returns:
            The status that was published; `damaged` when only the bytes showed it, and the next command computes it again.
        """
        status, why = self._judged(digest)
        files: dict[str, bytes] = {}
        if status == "ok":
            try:
                with self._marking_damage(digest):
                    files = self._published(digest, {"arm": arm, "title": title})
            except DamagedFileError as error:
                status, why = "damaged", str(error)
        if not files:
            status = "interrupted" if status == "running" else status
            error_of = {"type": status, "message": why} if why else (self.state(digest) or {}).get("error", {})
            short = {
                name: str(text).replace(str(self.root), "<store>")
                for name, text in error_of.items()
                if name != "traceback"
            }
            run = {"digest": digest, "arm": arm, "title": title, "seed": seed, "status": status, "error": short}
            files = {f"{digest}.json": encode_json(run, digest)}
        for name, data in files.items():
            if not (folder / name).exists() or (folder / name).read_bytes() != data:
                write_atomically(folder / name, data)
        return status

    def _published(self, digest: str, names: dict[str, str]) -> dict[str, bytes]:
        own, manifest = self.folder(digest), read_manifest(self.folder(digest))
        result = {**RunFolder(own).result(), **names}
        if changed := RunFolder.changed(result) if self.accept_stale else []:
            result["stale"] = changed
        files = {f"{digest}.npz": read_verified(own, SCORES, manifest)}
        for table in {table_file(name) for name in result.get("pairs", {}).values()}:
            files[table] = read_verified(own, f"{PAIRS}{table}", manifest)
        return {**files, f"{digest}.json": encode_json(result, digest)}
