"""Full disks, read-only folders, lost data, clocks that go backwards, no network: real ones, on real runs.

Whatever happens, finished work stays, the message says what to do, and the same call finishes the rest once it can.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Silent, benchmark, network, shared_faces, teacher

from common.experiment.arm import Arm, Phase, Run, plan_runs
from common.experiment.launch import launch
from common.experiment.phases import Machine
from common.experiment.spec import DataFile, DataRoot, SpecError, WeightsOf, spec
from common.experiment.store import Store
from common.files import StorageError

ROOT = Path(__file__).resolve().parents[2]
MACHINE = Machine(checkpoint_every=0)
MEGABYTE = 2**20

CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <sys/time.h>
/* Every look at the wall clock shows a minute less than the one before; the monotonic clock is left alone. */
static long looks = 0;
int clock_gettime(clockid_t which, struct timespec *out) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(which, out);
    if (which == CLOCK_REALTIME) out->tv_sec -= 60 * __sync_add_and_fetch(&looks, 1);
    return answer;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *out, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""

COMMAND = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {support!r}]
import tiny_runs
from common.experiment.arm import plan_runs
from common.experiment.launch import launch
from common.experiment.phases import Machine
from common.experiment.store import Store

if __name__ == "__main__":
    parent = tiny_runs.teacher(1)
    arms = [parent, tiny_runs.student(parent)][: int(sys.argv[2])]
    runs, watcher = plan_runs(arms, (0,)), tiny_runs.Silent()
    machine = Machine(tracking=sys.argv[3], paper="p", scale="smoke")
    statuses = launch(runs, Store(Path(sys.argv[1])), machine, 1, watcher)
    print(sorted(set(statuses.values())), len(watcher.ended))
"""


@pytest.fixture(scope="module", autouse=True)
def faces_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("faces")
    with shared_faces(folder):
        yield folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 8 MB large."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


class AfterEach(Silent):
    """Does something whenever a run has ended."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__()
        self.action = action

    def end(self, run: Run, status: str, seconds: float) -> None:
        super().end(run, status, seconds)
        self.action()

    @property
    def errors(self) -> str:
        return "\n".join(str(event["error"]) for _, event in self.events if "error" in event)


def fill(disk: Path, leave: int) -> None:
    """Write ballast until `leave` bytes are free."""
    free = shutil.disk_usage(disk).free
    if free > leave:
        with open(disk / "ballast", "ab") as file:
            file.write(b"\0" * (free - leave))


def fingerprints(store: Store, run: Run) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in store.folder(run.digest).iterdir() if path.name != "lock"}


def test_a_disk_that_fills_up_costs_only_the_run_that_is_computed(small_disk: Path) -> None:
    store, runs = Store(small_disk / "store"), plan_runs([teacher(1)], (0, 1))
    watcher = AfterEach(lambda: fill(small_disk, leave=20_000))
    statuses = launch(runs, store, MACHINE, 1, watcher)
    assert statuses[runs[0].digest] == "ok"
    assert statuses[runs[1].digest] in ("failed", "interrupted")
    assert "No space left on device" in watcher.errors
    assert "free some space or choose another folder" in watcher.errors
    assert str(store.folder(runs[1].digest)) in watcher.errors
    kept = fingerprints(store, runs[0])
    assert store.verify(runs[0].digest) == {}
    (small_disk / "ballast").unlink()
    assert set(launch(runs, store, MACHINE, 1, Silent()).values()) == {"ok"}
    assert fingerprints(store, runs[0]) == kept
    assert not list(store.root.rglob(".writing-*"))


def test_not_one_free_byte_is_said_and_does_no_harm(small_disk: Path) -> None:
    store, (run,) = Store(small_disk / "store"), plan_runs([teacher(1)], (0,))
    fill(small_disk, leave=0)
    watcher = AfterEach(lambda: None)
    assert launch([run], store, MACHINE, 1, watcher)[run.digest] != "ok"
    assert "free some space" in watcher.errors
    (small_disk / "ballast").unlink()
    assert launch([run], store, MACHINE, 1, Silent()) == {run.digest: "ok"}


def test_a_read_only_store_is_refused_before_anything_is_computed_and_still_read(small_disk: Path) -> None:
    store, runs = Store(small_disk / "store"), plan_runs([teacher(1)], (0, 1))
    assert launch(runs[:1], store, MACHINE, 1, Silent()) == {runs[0].digest: "ok"}
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    watcher = Silent()
    with pytest.raises(StorageError, match="read-only; choose another folder"):
        launch(runs, store, MACHINE, 1, watcher)
    assert watcher.ended == {}
    assert store.result(runs[0].digest)["status"] == "ok"
    assert launch(runs[:1], store, MACHINE, 1, watcher) == {runs[0].digest: "ok"}
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert set(launch(runs, store, MACHINE, 1, watcher).values()) == {"ok"}


def as_nobody(action: Callable[[], str]) -> str:
    """What an action says in a process of a user without rights; permissions do not stop root."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(writer, action().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


def test_a_folder_without_permission_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)

        def write() -> str:
            try:
                with Store(Path(folder) / "store").exclusive("launch"):
                    return "written"
            except StorageError as error:
                return str(error)

        said = as_nobody(write)
        assert "change its permissions or choose another folder" in said
        assert folder in said
        assert list(Path(folder).iterdir()) == []


def own_data(name: str, root: Path) -> Arm:
    """An arm that measures on a user's own folder."""
    data = spec("datasets.image_folder.ImageFolder", root=DataRoot("faces"), pairs="pairs.csv", height=32, width=32)
    method = spec("common.recognition.Pretrained", backbone=network(), weights=WeightsOf(teacher(1)))
    return Arm(name, name, method, data, benchmark())


def test_a_data_root_that_disappears_fails_its_runs_and_no_others(tmp_path: Path) -> None:
    from PIL import Image

    root = tmp_path / "data"
    (root / "faces").mkdir(parents=True)
    for name in ("a", "b", "c", "d"):
        Image.new("RGB", (32, 32), (ord(name), 50, 90)).save(root / "faces" / f"{name}.png")
    (root / "faces" / "images.csv").write_text(
        "path,label,subject,group,split\n"
        + "".join(f"{name}.png,{index // 2},{index // 2},g,test\n" for index, name in enumerate("abcd"))
    )
    (root / "faces" / "pairs.csv").write_text("a,b,same\na.png,b.png,1\nc.png,d.png,1\na.png,c.png,0\nb.png,d.png,0\n")
    runs = plan_runs([own_data("own", root), teacher(1, name="embedded")], (0,), data=root)
    shutil.rmtree(root)  # planned, then the disk with the data is gone
    watcher = AfterEach(lambda: None)
    statuses = launch(runs, Store(tmp_path / "store"), Machine(data=root, checkpoint_every=0), 2, watcher)
    by_name = {run.arm.name: statuses[run.digest] for run in runs}
    assert by_name.pop("own") == "failed"
    assert set(by_name.values()) == {"ok"}
    assert str(root / "faces") in watcher.errors


def test_a_file_of_the_data_root_that_is_missing_is_named_before_anything_starts(tmp_path: Path) -> None:
    arm = teacher(1)
    method = spec("common.recognition.Pretrained", backbone=network(), weights=DataFile("weights/network.safetensors"))
    with pytest.raises(SpecError, match=r"weights/network\.safetensors is missing: python -m datasets says"):
        plan_runs([Arm("real", "real", method, arm.data, benchmark(), (Phase("x", compute="y"),))], (0,), data=tmp_path)


def run_command(tmp_path: Path, arms: int, tracking: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "command.py"
    script.write_text(COMMAND.format(root=str(ROOT), support=str(Path(__file__).parents[1] / "support")))
    here = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    return subprocess.run(
        [sys.executable, str(script), str(tmp_path / "store"), str(arms), tracking],
        env={**here, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def preload(tmp_path: Path, source: str) -> str:
    """Compile a library that stands before the system's."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("there is no C compiler, or no LD_PRELOAD, here")
    (tmp_path / "shim.c").write_text(source)
    library = tmp_path / "shim.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", library, tmp_path / "shim.c", "-ldl", "-lpthread"], check=True
    )
    return str(library)


@pytest.mark.slow
def test_a_clock_that_goes_backwards_changes_nothing(tmp_path: Path) -> None:
    library = preload(tmp_path, CLOCK)
    backwards = subprocess.run(
        [sys.executable, "-c", "import time; a = time.time(); print(time.time() < a)"],
        env={**os.environ, "LD_PRELOAD": library}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert backwards.stdout.strip() == "True", "the clock was not turned back: the test would show nothing"
    answer = run_command(tmp_path, 1, "disabled", LD_PRELOAD=library)
    assert answer.stdout.strip().endswith("['ok'] 1"), answer.stdout + answer.stderr
    store = Store(tmp_path / "store")
    for folder in (store.root / "runs").iterdir():
        seconds = store.result(folder.name)["seconds"]
        assert min(seconds.values()) >= 0
        assert seconds["total"] < 600
    assert run_command(tmp_path, 1, "disabled").stdout.strip().endswith("['ok'] 0"), "a second call computes nothing"


NO_NETWORK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <unistd.h>
/* Connections to other machines, datagrams and name look-ups fail and are written down; this machine is left alone. */
static int is_local(const struct sockaddr *to) {
    if (!to || to->sa_family == AF_UNIX || to->sa_family == AF_NETLINK || to->sa_family == AF_UNSPEC) return 1;
    if (to->sa_family == AF_INET) return (ntohl(((const struct sockaddr_in *)to)->sin_addr.s_addr) >> 24) == 127;
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)to)->sin6_addr);
}
static void note(const char *what) {
    FILE *log = fopen(getenv("FAIRPRESS_NETWORK_LOG"), "a");
    if (log) { fprintf(log, "%s\\n", what); fclose(log); }
}
int connect(int s, const struct sockaddr *to, socklen_t n) {
    static int (*real)(int, const struct sockaddr *, socklen_t);
    if (!real) real = (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "connect");
    if (is_local(to)) return real(s, to, n);
    note("connect"); errno = ENETUNREACH; return -1;
}
ssize_t sendto(int s, const void *b, size_t n, int f, const struct sockaddr *to, socklen_t m) {
    static ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    if (!real) real = (ssize_t (*)(int, const void *, size_t, int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "sendto");
    if (is_local(to)) return real(s, b, n, f, to, m);
    note("sendto"); errno = ENETUNREACH; return -1;
}
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **out) {
    static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    char own[256] = "";
    gethostname(own, sizeof own - 1);
    if (!real)
        real = (int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))dlsym(RTLD_NEXT, "getaddrinfo");
    char address[16];
    if (!node || !strcmp(node, "localhost") || !strcmp(node, own) || inet_pton(AF_INET, node, address) == 1
        || inet_pton(AF_INET6, node, address) == 1)
        return real(node, service, hints, out);
    note(node); return EAI_FAIL;
}
"""


@pytest.mark.slow
def test_nothing_needs_the_network_or_asks_for_it(tmp_path: Path) -> None:
    """Training, quantization, tracking (wandb's default, offline) and judging with every way out closed and watched."""
    library, log = preload(tmp_path, NO_NETWORK), tmp_path / "network.txt"
    blocked: dict[str, Any] = {"LD_PRELOAD": library, "FAIRPRESS_NETWORK_LOG": str(log)}
    probe = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"
    refused = subprocess.run(
        [sys.executable, "-c", probe], env={**os.environ, **blocked}, capture_output=True, text=True, check=False
    )
    assert "Network is unreachable" in refused.stderr
    assert log.read_text() == "connect\n", "the test would not see a connection"
    log.unlink()
    answer = run_command(tmp_path, 2, "offline", **blocked)
    assert answer.stdout.strip().endswith("['ok'] 2"), answer.stdout + answer.stderr
    assert list((tmp_path / "store" / "wandb").glob("offline-run-*")), "tracking was on"
    assert not log.exists(), f"asked for the network: {log.read_text()}"
