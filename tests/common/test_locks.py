"""common/locks.py: one holder at a time, and none that is dead."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from common import locks
from common.files import StorageError
from common.locks import is_held_here, is_locked, locked

HOLD = """
import sys, time
from pathlib import Path
from common.locks import locked
with locked(Path(sys.argv[1]), lambda: print("waits", flush=True)):
    print("holds", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(path: Path, seconds: float) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), str(seconds)],
        cwd=Path(locks.__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    return process


def test_a_lock_is_given_back_when_its_holder_is_killed(tmp_path: Path) -> None:
    process = holder(tmp_path / "new" / "lock", 60)
    assert is_locked(tmp_path / "new" / "lock")
    assert not is_held_here(tmp_path / "new" / "lock")
    waited: list[bool] = []
    threading.Timer(0.2, process.send_signal, [signal.SIGKILL]).start()
    since = time.monotonic()
    with locked(tmp_path / "new" / "lock", lambda: waited.append(True)):
        assert time.monotonic() - since > 0.1
        assert is_held_here(tmp_path / "new" / "lock")
        assert is_locked(tmp_path / "new" / "lock")
    process.wait()
    assert waited == [True]
    assert not is_locked(tmp_path / "new" / "lock")
    assert not is_held_here(tmp_path / "new" / "lock")


def test_who_looks_is_not_taken_for_a_holder(tmp_path: Path) -> None:
    with locked(tmp_path / "lock", lambda: None):
        pass
    stop, seen = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            seen.append(is_locked(tmp_path / "lock"))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join()
    assert len(seen) > 100
    assert not any(seen)


def test_a_lock_whose_folder_was_deleted_excludes_nobody_and_is_made_anew(tmp_path: Path) -> None:
    process = holder(tmp_path / "run" / "lock", 60)
    told = threading.Event()
    got: list[bool] = []

    def wait() -> None:
        with locked(tmp_path / "run" / "lock", told.set):
            got.append(is_locked(tmp_path / "run" / "lock"))

    thread = threading.Thread(target=wait)
    thread.start()
    assert told.wait(10)
    (tmp_path / "run" / "lock").unlink()
    process.kill()
    process.wait()
    thread.join(10)
    assert got == [True], "the file that it holds is the one that others see"


def test_a_child_that_inherited_the_file_does_not_keep_the_lock(tmp_path: Path) -> None:
    with locked(tmp_path / "lock", lambda: None):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        assert not is_locked(tmp_path / "lock")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="is a file, not a folder"), locked(tmp_path / "file" / "lock", lambda: None):
        raise AssertionError("held")
    assert not is_locked(tmp_path / "none" / "lock")
