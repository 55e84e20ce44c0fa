"""A real SLURM of one node, private to the test that starts it: its own programs, configuration, keys, ports and folders.

The programs are those on the PATH, else Debian's packages (downloaded once to a cache folder and unpacked there; nothing is
installed and the system is not changed), else, only with FAIRPRESS_SLURM=install and as root, installed with apt-get.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
DAEMONS = {"munged": ("munged",), "slurmctld": ("slurmctld", "slurmctld-wlm"), "slurmd": ("slurmd", "slurmd-wlm"),
           "slurmstepd": ("slurmstepd", "slurmstepd-wlm")}  # fmt: skip
CONFIGURATION = """
ClusterName=fairpress
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
{plugins}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=2
MinJobAge=300
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=low Nodes=localhost Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=grace Nodes=localhost MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=localhost MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class NoSlurmError(RuntimeError):
    """SLURM cannot be had here; the message says why."""


@dataclass
class SlurmCluster:
    """A running SLURM.

    Attributes:
        root: everything of it lies here. environment: what a program that talks to it needs, beside `os.environ`.
        partitions: `low` (default), `grace` (60 s to a preempted job), `high` (preempts both).
    """

    root: Path
    environment: dict[str, str]
    programs: dict[str, str]
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def ask(self, *command: str) -> str:
        """Standard output of a SLURM command."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def start(self, name: str) -> None:
        """Start one of the daemons; it dies with this process."""
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        commands = {
            "munged": [
                "--foreground",
                "--force",
                *(f"--{what}={self.root}/munge.{end}" for what, end in files.items()),
            ],
            "slurmctld": ["-D", "-f", f"{self.root}/slurm.conf"],
            "slurmd": ["-D", "-f", f"{self.root}/slurm.conf", "-N", "localhost", "-d", self.programs["slurmstepd"]],
        }
        with open(self.root / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(
                [self.programs[name], *commands[name]],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def stop(self, name: str) -> None:
        """End one of the daemons."""
        daemon = self.daemons.pop(name)
        daemon.terminate()
        try:
            daemon.wait(timeout=10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def wait_until_up(self) -> None:
        """Wait for the node to take jobs."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            for name, daemon in self.daemons.items():
                if daemon.poll() is not None:
                    raise NoSlurmError(f"{name} does not run here: {_tail(self.root / f'{name}.out')}")
            with contextlib.suppress(AssertionError):
                if self.ask("sinfo", "--noheader", "--partition=low", "--format=%T").strip() == "idle":
                    return
            time.sleep(0.1)
        raise NoSlurmError(f"the node of SLURM is not up after 60 s: {_tail(self.root / 'slurmd.out')}")


@contextlib.contextmanager
def slurm_cluster(root: Path) -> Iterator[SlurmCluster]:
    """Start SLURM in a new folder and end every process of it afterwards.

    Raises:
        NoSlurmError: it cannot be had or does not run here.
    """
    root.mkdir(parents=True)
    cluster = _prepared(root)
    cleaner = subprocess.Popen(
        [sys.executable, "-S", __file__, str(root)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        for name in ("munged", "slurmctld", "slurmd"):
            cluster.start(name)
            _wait_for(root / "munge.socket")
        cluster.wait_until_up()
        yield cluster
    finally:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            cluster.ask("scancel", f"--user={os.getuid()}")
        for name in reversed(list(cluster.daemons)):
            cluster.stop(name)
        cleaner.communicate()


def _clean_up(root: Path) -> None:
    """End what is left of a cluster once the process that started it closes the pipe, or is killed; a program of its own.

    What SLURM starts leaves its session and its parents: it is known by the configuration in its environment. What the test
    itself has started (the processes of local runs) is not touched while the test lives.
    """
    owner = os.getppid()
    sys.stdin.read()
    until = time.monotonic() + 20
    while (left := processes(root, owner)) and time.monotonic() < until:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def processes(root: Path, owner: int) -> list[int]:
    """Living processes of the cluster in a folder and of its jobs, without those that `owner` has started and this one."""
    mark = f"SLURM_CONF={root}/slurm.conf\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes() + b"\0":
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid() and owner not in _ancestors(pid)]


def _ancestors(pid: int) -> list[int]:
    """A process and those above it."""
    above = []
    while pid > 1:
        above.append(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            break
    return above


def _prepared(root: Path) -> SlurmCluster:
    programs, environment = _programs_on_path() or _programs_unpacked()
    for folder in ("state", "spool"):
        (root / folder).mkdir()
    (root / "munge.key").write_bytes(secrets.token_bytes(1024))
    (root / "munge.key").chmod(0o600)
    ports = _free_ports(2)
    plugins = environment.pop("PLUGINS", "")
    text = CONFIGURATION.format(
        root=root, user=pwd.getpwuid(os.getuid()).pw_name, controller_port=ports[0], node_port=ports[1], plugins=plugins
    )
    (root / "slurm.conf").write_text(text)
    return SlurmCluster(root, {**environment, "SLURM_CONF": f"{root}/slurm.conf"}, programs)


def _programs_on_path() -> tuple[dict[str, str], dict[str, str]] | None:
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    found = _find(path)
    return (found, {"PATH": path}) if found and shutil.which("sbatch", path=path) else None


def _find(path: str) -> dict[str, str] | None:
    found = {}
    for name, candidates in DAEMONS.items():
        at = next((there for one in candidates if (there := shutil.which(one, path=path))), None)
        if at is None:
            return None
        found[name] = at
    return found


def _programs_unpacked() -> tuple[dict[str, str], dict[str, str]]:
    if os.environ.get("FAIRPRESS_SLURM") == "install":
        _run(["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES], Path("/"))
        found = _programs_on_path()
        if found is None:
            raise NoSlurmError("the packages were installed, but the daemons of SLURM are not on the PATH")
        return found
    prefix = _unpack()
    libraries = next(prefix.glob("usr/lib/*/slurm*/auth_munge.so"), None)
    path = f"{prefix}/usr/bin:{prefix}/usr/sbin:{os.environ['PATH']}"
    found_there = _find(path)
    if libraries is None or found_there is None:
        raise NoSlurmError(f"the packages of SLURM unpacked in {prefix} are not complete: delete it")
    search = f"{libraries.parent}:{libraries.parents[1]}"
    return found_there, {"PATH": path, "LD_LIBRARY_PATH": search, "PLUGINS": f"PluginDir={libraries.parent}"}


def _unpack() -> Path:
    """Debian's packages of SLURM in a folder of their own, downloaded the first time."""
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise NoSlurmError(f"SLURM is not installed, and without {program} its packages cannot be had")
    system = platform.freedesktop_os_release()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fairpress"
    prefix = cache / f"slurm-{system.get('ID', 'linux')}-{system.get('VERSION_ID', '')}-{platform.machine()}"
    if not prefix.exists():
        making = cache / f"slurm-{secrets.token_hex(4)}.tmp"
        making.mkdir(parents=True)
        try:
            plan = _run(["apt-get", "install", "--simulate", "--no-install-recommends", *PACKAGES], making)
            lines = [line for line in plan.splitlines() if line.startswith("Inst")]
            wanted = [f"{line.split()[1]}={line.split('(')[1].split()[0]}" for line in lines]
            _run(
                ["apt-get", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=10", "download", *wanted], making
            )
            for package in making.glob("*.deb"):
                _run(["dpkg", "--extract", str(package), str(making)], making)
                package.unlink()
            with contextlib.suppress(OSError):  # another test was faster
                making.rename(prefix)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return prefix


def _run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=600, env={**os.environ, "LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoSlurmError(f"SLURM is not installed, and its packages cannot be had: {error}") from error
    if done.returncode:
        raise NoSlurmError(f"SLURM is not installed, and its packages cannot be had: {done.stderr.strip()[-300:]}")
    return done.stdout


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait_for(path: Path) -> None:
    until = time.monotonic() + 20
    while not path.exists():
        if time.monotonic() > until:
            raise NoSlurmError(f"munged does not run here: {_tail(path.with_name('munged.out'))}")
        time.sleep(0.02)


def _tail(path: Path) -> str:
    return " ".join(path.read_text(errors="replace").split())[-300:] if path.exists() else "it said nothing"


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    _clean_up(Path(sys.argv[1]))
