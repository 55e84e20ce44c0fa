"""The doctor's look at Python, packages, accelerators, wandb, SLURM and git."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import netrc
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlparse

from papers.doctor import ROOT, Finding, Places, gigabytes, listed

SET_UP = "make setup"
LOW_GPU_MEMORY = 2e9  # bytes
PIN = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)")


def python(places: Places) -> Iterator[Finding]:
    """The interpreter."""
    wanted = tuple(int(part) for part in re.findall(r"\d+", _project()["requires-python"]))
    what = f"Python {platform.python_version()} ({sys.executable})"
    if sys.version_info[: len(wanted)] < wanted:
        needed = ".".join(map(str, wanted))
        yield Finding("python", "bad", f"{what} is too old", f"make setup PYTHON=/path/to/python{needed}")
    else:
        yield Finding("python", "ok", what)


def packages(places: Places) -> Iterator[Finding]:
    """What is installed, against the pins of pyproject.toml."""
    project = _project()
    optional = [pin for pins in project.get("optional-dependencies", {}).values() for pin in pins]
    needed, extra = _pins(project["dependencies"]), _pins(optional)
    missing = [name for name in needed if _version(name) is None]
    other = [
        f"{name} {found} instead of {wanted}"
        for name, wanted in {**needed, **extra}.items()
        if (found := _version(name)) is not None and found.partition("+")[0] != wanted
    ]
    absent = [name for name in extra if _version(name) is None]
    if len(missing) > len(needed) / 2:
        yield Finding(
            "packages", "bad", f"the environment is not set up ({sys.executable} has no {missing[0]})", SET_UP
        )
        return
    if missing:
        yield Finding("packages", "bad", f"missing: {', '.join(missing)}", SET_UP)
    if other:
        yield Finding(
            "packages", "warn", f"other versions than tested: {'; '.join(other)}", f"{SET_UP}, after rm -r .venv"
        )
    if absent:
        yield Finding("packages", "warn", f"missing, needed for tests or export only: {', '.join(absent)}", SET_UP)
    if not (missing or other or absent):
        yield Finding("packages", "ok", f"{len(needed) + len(extra)} packages, all at their pinned versions")


def devices(places: Places) -> Iterator[Finding]:
    """Accelerators, and whether PyTorch can compute on them."""
    if importlib.util.find_spec("torch") is None:
        yield Finding("devices", "warn", "unknown without PyTorch", SET_UP)
        return
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(found):
        yield _gpu(index)
    driver = _nvidia_driver()
    if not found and driver and torch.version.cuda:
        why = f"; PyTorch says: {str(said[0].message).splitlines()[0]}" if said else ""
        what = f"an NVIDIA driver ({driver}) is here, but PyTorch for CUDA {torch.version.cuda} cannot use it{why}"
        advice = "update the driver, or install the PyTorch build that fits it; check CUDA_VISIBLE_DEVICES"
        yield Finding("devices", "bad", what, advice)
    elif not found and driver:
        what = f"an NVIDIA driver ({driver}) is here, but PyTorch {torch.__version__} is built without CUDA"
        yield Finding("devices", "warn", what, "install the CUDA build of PyTorch")
    elif torch.backends.mps.is_available():
        yield Finding("devices", "ok", "Apple GPU (MPS)")
    elif not found:
        yield Finding("devices", "ok", "no accelerator: smoke, demo and real need none; lab and paper need a GPU")


def _gpu(index: int) -> Finding:
    """One CUDA device, tried out."""
    import torch

    try:
        name = torch.cuda.get_device_name(index)
        free, total = torch.cuda.mem_get_info(index)
        if float(torch.ones(8, device=f"cuda:{index}").sum()) != 8:
            return Finding(
                "devices", "bad", f"GPU {index} ({name}) adds wrongly", "do not use it; ask its administrator"
            )
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        advice = f"hide it with CUDA_VISIBLE_DEVICES, or install a PyTorch for it (this is {torch.__version__})"
        return Finding("devices", "bad", f"GPU {index} cannot compute: {first}", advice)
    what = f"GPU {index}: {name}, {gigabytes(free)} of {gigabytes(total)} free"
    if free < LOW_GPU_MEMORY:
        return Finding("devices", "warn", what, "another process holds its memory: nvidia-smi shows which")
    return Finding("devices", "ok", what)


def wandb(places: Places) -> Iterator[Finding]:
    """Tracking: installed, logged in, what waits for an upload. wandb itself is not imported."""
    version = _version("wandb")
    if version is None:
        yield Finding("wandb", "warn", "not installed: nothing can be tracked", f"{SET_UP}, or WANDB=disabled")
        return
    mode = os.environ.get("WANDB_MODE")
    forced = f"; WANDB_MODE={mode} is set, but WANDB= decides here" if mode else ""
    if wandb_login(os.environ):
        yield Finding("wandb", "ok", f"{version}, logged in; offline unless WANDB=online{forced}")
    else:
        yield Finding(
            "wandb", "ok", f"{version}, not logged in: offline and disabled work, online needs `wandb login`{forced}"
        )
    waiting = [run for run in sorted(places.store.glob("wandb/offline-run-*")) if not list(run.glob("*.synced"))]
    if waiting:
        what = f"{len(waiting)} offline runs were not uploaded"
        yield Finding("wandb", "ok", what, f"to upload them: wandb sync {places.store}/wandb/offline-run-*")


def wandb_login(environment: Mapping[str, str]) -> bool:
    """Whether wandb would find a key, in the variable or in the netrc file; the key itself is not looked at."""
    if environment.get("WANDB_API_KEY"):
        return True
    host = urlparse(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    home = Path(environment.get("HOME", "~")).expanduser()
    chosen = environment.get("NETRC")
    for path in [Path(chosen)] if chosen else [home / ".netrc", home / "_netrc"]:
        try:
            if host in netrc.netrc(path).hosts:
                return True
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            continue  # not there, or not one that wandb could read either
    return False


def slurm(places: Places) -> Iterator[Finding]:
    """Whether jobs can be handed to a cluster."""
    tools = ("sbatch", "squeue", "scancel", "sinfo")
    present = [name for name in tools if shutil.which(name)]
    if not present:
        yield Finding("slurm", "ok", "no SLURM here: runs are computed on this machine")
    elif len(present) < len(tools):
        lacking = ", ".join(set(tools) - set(present))
        yield Finding("slurm", "warn", f"SLURM is here without {lacking}", "ask the administrator, or LAUNCH=local")
    elif (answer := _said(["sinfo", "--noheader", "--format=%P %a"], 10)) is None:
        yield Finding(
            "slurm", "warn", "SLURM is here, but its controller does not answer", "sinfo says why; or LAUNCH=local"
        )
    else:
        yield Finding("slurm", "ok", f"SLURM with partitions {listed(answer.split(chr(10)), 5)}")


def git(places: Places) -> Iterator[Finding]:
    """Whether results will say which code made them."""
    commit = _said(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"], 10)
    if commit is None:
        advice = "work in a clone of the repository; results are marked by their sources all the same"
        yield Finding("git", "warn", "no commit is known: results will not name one", advice)
        return
    changes = _said(["git", "-C", str(ROOT), "status", "--porcelain", "--", ":(top)", ":(top,exclude)results"], 30)
    if changes:
        what = f"commit {commit} with {len(changes.splitlines())} local changes"
        yield Finding("git", "warn", what, "commit them before making results that are to be published")
    else:
        yield Finding("git", "ok", f"commit {commit}, no local changes")


def _project() -> dict:
    project: dict = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def _pins(lines: list[str]) -> dict[str, str]:
    return {match[1]: match[2] for line in lines if (match := PIN.match(line))}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _nvidia_driver() -> str:
    """Version of the NVIDIA driver, empty without one."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return (_said(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], 10) or "").split("\n")[0]
    match = re.search(r"\b\d+\.\d+(?:\.\d+)?\b", text)
    return match[0] if match else "of unknown version"


def _said(command: list[str], seconds: float) -> str | None:
    """Output of a command; None when it is not there, fails or takes longer."""
    environment = {**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


CHECKS = (python, packages, devices, wandb, slurm, git)
