"""What the folder of one run says, and whether it can be believed. Nothing here writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.experiment.sources import changed_modules
from common.files import DamagedFileError, parse_json, read_json
from common.locks import is_locked
from common.manifest import MANIFEST, read_manifest, read_verified

STATUSES = ("ok", "stale", "damaged", "failed", "interrupted", "running", "not run")
LOCK, LOG, STATE, RESULT, SCORES = "lock", "log.txt", "state.json", "result.json", "scores.npz"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: where it is, or would be.
    """

    path: Path

    def state(self) -> dict[str, Any] | None:
        """What `state.json` says; None when there is none.

        Raises:
            DamagedFileError: it is not as it was written.
        """
        path = self.path / STATE
        if not path.exists():
            return None
        state: dict[str, Any] = read_json(path, sealed=True)
        if state.get("status") not in STATUSES:
            raise DamagedFileError(f"{path} has the status {state.get('status')!r}, which does not exist; run it again")
        return state

    def judge(self, accept_stale: bool) -> tuple[str, str]:
        """Status (one of `STATUSES`), and in words why it is `stale` or `damaged`. Raises nothing."""
        try:
            state = self.state()
            if state is None:
                return "not run", ""
            if state["status"] == "running":
                return ("running" if is_locked(self.path / LOCK) else "interrupted"), ""
            if state["status"] == "damaged":
                error = state.get("error")
                return "damaged", str(error.get("message", "")) if isinstance(error, dict) else ""
            if state["status"] != "ok":
                return state["status"], ""
            self._check_sizes(state)
            changed = self.changed(self.result())
        except (DamagedFileError, OSError) as error:
            return "damaged", str(error)
        if changed and not accept_stale:
            return "stale", f"changed since: {', '.join(changed)}"
        return "ok", ""

    def result(self) -> dict[str, Any]:
        """The result of a finished run, compared with the manifest.

        Raises:
            DamagedFileError: it or the manifest is not as it was written.
        """
        result = parse_json(read_verified(self.path, RESULT), self.path / RESULT)
        if not isinstance(result, dict):
            raise DamagedFileError(f"{self.path / RESULT} is no result of a run; run it again")
        return result

    @staticmethod
    def changed(result: Mapping[str, Any]) -> list[str]:
        """Modules that a result was made with and that are other ones now."""
        return changed_modules(result.get("sources") or {})

    def _check_sizes(self, state: dict[str, Any]) -> None:
        sizes = state.get("sizes")
        if not isinstance(sizes, dict) or set(sizes) != set(read_manifest(self.path)):
            raise DamagedFileError(f"{self.path / MANIFEST} and {STATE} beside it list different files; run it again")
        for name, size in sizes.items():
            file = self.path / name
            found = file.stat().st_size if file.exists() else "no"
            if found != size:
                raise DamagedFileError(f"{file} has {found} bytes instead of {size}: cut off or lost; run it again")
