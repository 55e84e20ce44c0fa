"""The doctor's look at cores, memory, disks, file systems and the clock."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from common.files import TEMPORARY_PREFIX, TEMPORARY_SUFFIX
from common.provenance import usable_cores
from papers.doctor import ROOT, Finding, Places, files_below, gigabytes, listed

LOW = 2e9  # bytes of disk or memory
EMPTY = 1e8  # bytes of disk with which no run can be finished
FEW_FILES = 1000
SMALL_SHARED_MEMORY = 1e9  # bytes; containers often have 64 MB
NETWORK = re.compile(
    r"nfs\d*|cifs|smb\w*|afs|9p|ceph|lustre|gpfs|beegfs|glusterfs|fuse\.(sshfs|glusterfs|s3fs|gcsfuse|rclone)|vboxsf"
)
AHEAD = 60  # seconds that clocks of two machines may differ


def cores(places: Places) -> Iterator[Finding]:
    """Cores that may be used, and who else uses them."""
    usable, there = usable_cores(), os.cpu_count() or 1
    what = f"{usable} cores" + (f" of {there} may be used" if usable < there else "")
    threads = os.environ.get("OMP_NUM_THREADS")
    what += f"; OMP_NUM_THREADS={threads} is set, but THREADS= decides here" if threads else ""
    busy = os.getloadavg()[0]
    if busy > 1.5 * usable:
        advice = "wait, or expect longer times; JOBS=1 takes one core"
        yield Finding("cores", "warn", f"{what}; {busy:.1f} processes want to run", advice)
    else:
        yield Finding("cores", "ok", f"{what}; JOBS defaults to one run a core, THREADS to 1")


def memory(places: Places) -> Iterator[Finding]:
    """Main memory, the limit of the container or job, shared memory."""
    available, limit = _available_memory(), cgroup_memory_limit()
    free = min(value for value in (available, limit) if value is not None) if available or limit else None
    if free is None:
        yield Finding("memory", "ok", "unknown on this system")
    else:
        limited = f", {gigabytes(limit)} allowed here" if limit is not None else ""
        what = f"{gigabytes(available or 0)} available{limited}"
        low = Finding("memory", "warn", what, "close other programs, ask for more, or run one at a time: JOBS=1")
        yield low if free < LOW else Finding("memory", "ok", what)
    shared = Path("/dev/shm")
    if shared.is_dir() and (size := shutil.disk_usage(shared).total) < SMALL_SHARED_MEMORY:
        advice = "start the container with --shm-size=2g, or use data modules with num_workers=0"
        yield Finding(
            "memory", "warn", f"shared memory is only {size / 1e6:.0f} MB: data loader workers may die", advice
        )


def cgroup_memory_limit(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes that this process's control group may use, the smallest of its and its parents' limits; None without one."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return None
    limits = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        base = root / "memory" if "memory" in controllers.split(",") else root
        name = "memory.limit_in_bytes" if base != root else "memory.max"
        folder = base / path.strip("/")
        for above in (folder, *folder.parents):
            try:
                text = (above / name).read_text().strip()
            except OSError:
                text = ""
            if text.isdigit() and int(text) < 1 << 60:  # version 1 says "unlimited" with a huge number
                limits.append(int(text))
            if above == base:
                break
    return min(limits, default=None)


def disks(places: Places) -> Iterator[Finding]:
    """Room, permission and kind of file system where things are written."""
    cache = os.environ.get("FAIRPRESS_CACHE")
    chosen = {"store": places.store, "results": places.results, "temp": Path(tempfile.gettempdir())}
    if cache:
        chosen["cache"] = Path(cache).expanduser()
    for name, folder in chosen.items():
        there = existing(folder)
        yield _room(name, folder, there)
        if problem := write_problem(there):
            advice = f"change its permissions or mount, or choose another one: {name.upper()}=/path"
            yield Finding(name, "bad", f"{folder} cannot be written: {problem}", advice)
    kind = file_system(existing(places.store))
    if kind and NETWORK.fullmatch(kind):
        yield Finding(
            "store",
            "warn",
            f"{places.store} lies on a network file system ({kind}): locks between machines depend on its server",
            "use a local disk (STORE=/path) unless several machines share this store; then make sure flock works there",
        )
    if not write_problem(existing(places.store)) and (problem := lock_problem(existing(places.store))):
        yield Finding(
            "store", "bad", f"locks do not work in {places.store}: {problem}", "choose another disk: STORE=/path"
        )


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _room(name: str, folder: Path, there: Path) -> Finding:
    free, files = shutil.disk_usage(there).free, os.statvfs(there).f_favail
    what = f"{gigabytes(free)} free in {folder}"
    advice = f"free some space, or choose another disk ({name.upper()}=/path)"
    if free < EMPTY:
        return Finding(name, "bad", f"only {free / 1e6:.0f} MB free in {folder}: no run can be finished", advice)
    if free < LOW:
        return Finding(name, "warn", what, advice)
    if 0 < files < FEW_FILES:
        return Finding(name, "warn", f"{what}, but room for only {files} more files", "delete small files there")
    return Finding(name, "ok", what)


def write_problem(folder: Path) -> str:
    """Why nothing can be written into a folder; empty when it can. Tried out, since permissions do not tell all."""
    try:
        handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, suffix=TEMPORARY_SUFFIX, dir=folder)
        os.close(handle)
        os.unlink(name)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def lock_problem(folder: Path) -> str:
    """Why two processes could hold one lock in a folder; empty when they cannot."""
    handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, suffix=TEMPORARY_SUFFIX, dir=folder)
    other = os.open(name, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return ""
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(handle)
        os.close(other)
        os.unlink(name)
    return "two holders at once"


def file_system(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Kind of the file system that a folder lies on (`ext4`, `nfs4`); empty where the system does not say."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    places = [(_unescaped(line[1]), line[2]) for line in lines if len(line) > 2]
    above = {str(path) for path in (folder.resolve(), *folder.resolve().parents)}
    return max((place for place in places if place[0] in above), key=lambda place: len(place[0]), default=("", ""))[1]


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def clock(places: Places) -> Iterator[Finding]:
    """Whether anything is dated in the future: then the clock has gone backwards, or was wrong before."""
    now, ahead = time.time(), []
    newest = 0.0
    for root in (places.store, places.results, *(ROOT / name for name in ("common", "datasets", "papers"))):
        for path, status in files_below(root):
            newest = max(newest, status.st_mtime)
            if status.st_mtime > now + AHEAD:
                ahead.append(str(path))
    ahead += list(_results_dated_later(places.results, now))
    if ahead:
        days = (newest - now) / 86400
        by = f" by up to {days:.2f} days" if days > 0 else ""
        what = f"{len(ahead)} files or results are dated in the future{by}: {listed(ahead)}"
        yield Finding("clock", "warn", what, "set the clock (timedatectl); results keep the dates that they were given")
    else:
        yield Finding("clock", "ok", f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(now))}, nothing is dated later")


def _results_dated_later(results: Path, now: float) -> Iterator[str]:
    """Committed results whose own date lies ahead; a clone gives their files its own date."""
    for path in results.glob("*/*/*.json"):
        try:
            made = json.loads(path.read_bytes())["provenance"]["date"]
            if datetime.fromisoformat(made).timestamp() > now + AHEAD:
                yield f"{path} of {made}"
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a run that is not ok has no date; what is damaged is told of elsewhere


def _available_memory() -> int | None:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


CHECKS = (cores, memory, disks, clock)
