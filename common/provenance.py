"""What made a result: the code, the libraries and the machine, so that two results can be compared knowingly.

Names of people, folders and hosts are not recorded: a result is meant to be published.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

UNKNOWN = "unknown"

# How /proc/cpuinfo calls the instructions that multiply 8-bit integers, and the name that we report ("asimddp" is
# ARM's SDOT and UDOT).
_INT8_FLAGS = {
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "avx_vnni_int8": "avx_vnni_int8",
    "amx_int8": "amx_int8",
    "asimddp": "sdot",
    "i8mm": "i8mm",
}


def provenance() -> dict[str, Any]:
    """Describe code, libraries and machine as plain JSON values.

    Returns:
        ``git``: {``commit`` (40 hex digits or "unknown"), ``dirty`` (True if, outside ``results/``, a tracked file
        differs or an untracked one is not ignored, None if unknown)}; ``versions``: {python, torch,
        pytorch_lightning, numpy, fairpress: version or "unknown"}; ``platform``; ``cpu``: {``model``, ``cores`` (that
        this process may use), ``int8_instructions``}; ``threads`` (of torch, inside one operation); ``gpus`` (names);
        ``date`` (UTC, ISO 8601, whole seconds).
        The name of the host is not recorded.
    """
    import torch

    return {
        "git": _git_state(Path(__file__).resolve()),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "pytorch_lightning", "numpy", "fairpress")},
        },
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": {"model": cpu_model(), "cores": usable_cores(), "int8_instructions": list(cpu_int8_instructions())},
        "threads": torch.get_num_threads(),
        "gpus": _gpu_names(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def usable_cores() -> int:
    """Cores that this process may run on (fewer than the machine has inside a SLURM job or a container)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """The CPU's name as the operating system gives it, or "unknown"."""
    cpuinfo = _cpuinfo()
    for key in ("model name", "Model", "Hardware"):
        if cpuinfo.get(key):
            return cpuinfo[key]
    return platform.processor() or UNKNOWN


def cpu_int8_instructions() -> tuple[str, ...]:
    """Which instructions for products of 8-bit integers this CPU has, sorted; empty if none or if it cannot be known.

    A measured int8 speed (and, without VNNI, even int8 accuracy, since pair sums saturate at 16 bits) depends on them.
    """
    cpuinfo = _cpuinfo()
    flags = set(cpuinfo.get("flags", cpuinfo.get("Features", "")).split())
    return tuple(sorted(name for flag, name in _INT8_FLAGS.items() if flag in flags))


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo as a dict; empty where there is no such file (macOS, Windows)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return _parse_cpuinfo(text)


def _parse_cpuinfo(text: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            entries.setdefault(key.strip(), value.strip())
    return entries


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN


def _git_state(source: Path) -> dict[str, Any]:
    """Commit and dirtiness of the checkout that tracks the file ``source``; unknown without git or outside a checkout.

    A copy installed below somebody else's checkout is not tracked there, so that their commit is not taken for ours.
    """
    unknown: dict[str, Any] = {"commit": UNKNOWN, "dirty": None}
    if _git(source.parent, "ls-files", "--error-unmatch", "--", source.name) is None:
        return unknown
    commit = _git(source.parent, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return unknown
    # A table that has just been written does not change the code that writes the next one.
    status = _git(source.parent, "status", "--porcelain", "--", ":(top)", ":(top,exclude)results")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command, or None if git is missing, refuses or takes longer than 10 s."""
    # Reading the status must neither wait for nor take the lock of someone else's git command.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _gpu_names() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
