"""One input, one parser, and whether it kept the promises that `tests/fuzz` is about.

1. Nothing leaves the parser but its declared errors, and they name the file.
2. It takes no more memory than a fixed amount and a small factor of the input's size.
3. Nothing is executed, nothing is written, no process or connection is started.
4. No file outside the data root is opened.
5. It ends.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import sysconfig
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fuzz_mutate import GLUE, parts_of

CPU_SECONDS, CPU_SECONDS_PER_BYTE = 2.0, 3e-6
WALL_SECONDS = 20.0
LONGEST_MESSAGE = 10_000
TRACED_EVERY = 8  # inputs; tracing every allocation makes Python ten times slower
RESIDENT = 32 << 20  # growth of the process's resident memory, looked at for every input
ADDRESSES = 512 << 20  # what may be reserved at once, for what is allocated and never touched


class Violation(AssertionError):
    """A parser broke one of the five promises; `reason` is the same for findings of one cause."""

    def __init__(self, target: str, reason: str, text: str = "") -> None:
        super().__init__(f"{target}: {reason} {text}".strip())
        self.reason = reason


class Costly(Violation):
    """An input cost more time or memory than its size allows."""


class Endless(BaseException):
    """Raised by the alarm; not an Exception, so that no parser swallows it."""


@dataclass(frozen=True)
class Target:
    """One parser.

    Attributes:
        name: what `--parser` calls it.
        run: called with the data root and the parts of an input; lays them out as files and reads them.
        seeds: makes valid inputs, each a tuple of parts.
        errors: what it may raise.
        words: tokens of its format.
        spare: bytes that it may allocate for any input; `factor` times the input's size comes on top.
        named: text that its messages must contain; "" is the data root's path.
        prepare: called once with the data root, for files that do not change.
    """

    name: str
    run: Callable[..., Any]
    seeds: Callable[[], list[tuple[bytes, ...]]]
    errors: tuple[type[BaseException], ...]
    words: tuple[bytes, ...] = ()
    spare: int = 2 << 20
    factor: int = 200
    named: str = ""
    prepare: Callable[[Path], None] | None = None

    @cached_property
    def inputs(self) -> tuple[bytes, ...]:
        """The seeds, their parts joined."""
        return tuple(GLUE.join(seed) for seed in self.seeds())

    @cached_property
    def parts(self) -> int:
        """Number of parts of an input."""
        return self.inputs[0].count(GLUE) + 1


@dataclass
class Probe:
    """Runs one target, input after input, in `folder`, which it furnishes with traps: links out, a named pipe.

    Attributes:
        outcomes: how often it read an input ("read") or refused it (name of the error).
        peak: the most bytes that Python allocated for an input; slowest: the most seconds of CPU.
    """

    target: Target
    folder: Path
    outcomes: dict[str, int] = field(default_factory=dict)
    peak: int = 0
    slowest: float = 0.0
    checked: int = 0

    def __post_init__(self) -> None:
        self.root = self.folder / "root"
        outside = self.folder / "outside"
        outside.mkdir(parents=True, exist_ok=True)
        self.root.mkdir(exist_ok=True)
        (outside / "secret.jpg").write_bytes(b"nobody may read this")
        furnish(self.root, outside)
        if self.target.prepare is not None:
            self.target.prepare(self.root)
        _WATCH.allowed = (os.path.realpath(self.root), *_LIBRARIES)
        read = 0
        for data in self.target.inputs:  # lazy imports happen here, where opening files is allowed
            with contextlib.suppress(*self.target.errors):
                self.target.run(self.root, *parts_of(data, self.target.parts))
                read += 1
        assert read, f"{self.target.name} reads none of its seeds"

    def check(self, data: bytes, trace: bool | None = None) -> None:
        """Let the parser read one input.

        Args:
            data: the input.
            trace: measure what Python allocates; by default for one input in `TRACED_EVERY`.

        Raises:
            Violation: it broke a promise.
        """
        self.checked += 1
        try:
            self._run(data, trace)
        except Costly:  # a first import or a machine that stood still is not the input's cost: that comes every time
            self._run(data, True)

    def _run(self, data: bytes, trace: bool | None) -> None:
        if trace or (trace is None and self.checked % TRACED_EVERY == 0):
            tracemalloc.start()
        parts = parts_of(data, self.target.parts)
        _WATCH.allowed = (os.path.realpath(self.root), *_LIBRARIES)
        _WATCH.seen.clear()
        resident = _resident(reset=True)
        start = time.process_time()
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        _WATCH.on = True
        error: BaseException | None = None
        try:
            self.target.run(self.root, *parts)
        except KeyboardInterrupt:
            raise
        except BaseException as raised:
            error = raised
        finally:
            _WATCH.on = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        seconds = time.process_time() - start
        peak, grown = tracemalloc.get_traced_memory()[1], _resident() - resident
        tracemalloc.stop()
        self._judge(error, len(data), peak, grown, seconds)

    def _judge(self, error: BaseException | None, size: int, peak: int, grown: int, seconds: float) -> None:
        target = self.target
        name = "read" if error is None else type(error).__name__
        self.outcomes[name] = self.outcomes.get(name, 0) + 1
        self.peak = max(self.peak, peak)
        self.slowest = max(self.slowest, seconds)
        if _WATCH.seen:
            kind, what = _WATCH.seen[0]
            raise Violation(target.name, kind, what) from error
        if isinstance(error, Endless) or seconds > CPU_SECONDS + CPU_SECONDS_PER_BYTE * size:
            raise Costly(target.name, "takes too long:", f"{seconds:.1f} s of CPU for {size} bytes") from error
        allowed = target.spare + target.factor * size
        if peak > allowed:
            raise Costly(target.name, "allocates too much:", f"{peak} bytes for {size}, allowed {allowed}") from error
        if grown > RESIDENT + allowed:
            raise Costly(target.name, "allocates too much:", f"{grown} bytes of memory for {size}") from error
        if error is None:
            return
        for cause in _chain(error):
            if isinstance(cause, MemoryError) or "allocate memory" in str(cause):
                raise Violation(target.name, "runs out of memory:", repr(cause)[:200]) from error
        if not isinstance(error, target.errors):
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} from {Path(where.filename).name}:{where.lineno}"
            raise Violation(target.name, f"does not declare {place}:", str(error)[:200]) from error
        message = str(error)
        if (target.named or str(self.root)) not in message:
            raise Violation(target.name, "does not name the file:", message[:300]) from error
        if len(message) > LONGEST_MESSAGE:
            raise Violation(target.name, "says too much:", f"{len(message)} characters, {message[:200]}") from error


def furnish(folder: Path, outside: Path) -> None:
    """Put traps into a folder: links that leave it, a named pipe that nobody writes to, a folder."""
    for name, target in (("link", outside), ("secret_link.jpg", outside / "secret.jpg")):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(os.path.relpath(target, folder))
    if not (folder / "fifo").exists():
        os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir(exist_ok=True)


@contextmanager
def watching() -> Iterator[None]:
    """Stop endless parsers and limit memory, for as long as this lasts; main thread only."""
    _WATCH.install()
    handler = signal.signal(signal.SIGALRM, _alarm)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if _PROC else 0
    if size:
        resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESSES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, handler)


@contextmanager
def unwatched() -> Iterator[None]:
    """For what a target itself writes before its parser reads."""
    on, _WATCH.on = _WATCH.on, False
    try:
        yield
    finally:
        _WATCH.on = on


def _alarm(*_: object) -> None:
    raise Endless


_PROC = Path("/proc/self/clear_refs").exists()
_LIBRARIES = tuple({os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"))})


def _resident(reset: bool = False) -> int:
    """The largest resident memory since the last reset, in bytes; 0 where the system does not tell."""
    if not _PROC:
        return 0
    if reset:
        with open("/proc/self/clear_refs", "wb") as clear:
            clear.write(b"5")
    with open("/proc/self/status", "rb") as status:
        return int(status.read().split(b"VmHWM:")[1].split()[0]) << 10


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class _Watch:
    """What Python's audit events tell while a parser runs; one for the process, since a hook cannot be removed."""

    FORBIDDEN = (
        "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen", "socket.",
        "ctypes.", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink",
        "os.truncate", "os.utime", "shutil.", "pickle.find_class", "code.__new__", "webbrowser.", "os.putenv",
        "urllib.", "builtins.input", "syslog.",
    )  # fmt: skip

    def __init__(self) -> None:
        self.on, self.installed = False, False
        self.seen: list[tuple[str, str]] = []
        self.allowed: tuple[str, ...] = ()

    def install(self) -> None:
        if not self.installed:
            sys.addaudithook(self)
            self.installed = True

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            self._opened(*arguments[:3])
        elif event == "exec":
            source = getattr(arguments[0], "co_filename", "?")
            if not source.startswith("<frozen") and not source.startswith(_LIBRARIES):
                self.seen.append(("executes code of", source))
        elif event == "import" and arguments[0].startswith("fuzz_canary"):
            self.seen.append(("imports", arguments[0]))
        elif event.startswith(self.FORBIDDEN):
            self.seen.append((f"calls {event}", repr(arguments)[:200]))
            raise PermissionError(f"{event} is forbidden here")

    def _opened(self, path: Any, mode: Any, flags: Any) -> None:
        if not isinstance(path, (str, bytes)):
            return
        real = os.path.realpath(os.fsdecode(path))
        if real.startswith("/proc/self/") or real == f"/proc/{os.getpid()}/statm":
            return
        if not any(real == root or real.startswith(root + os.sep) for root in self.allowed):
            self.seen.append(("opens a file outside the data root:", real))


_WATCH = _Watch()
