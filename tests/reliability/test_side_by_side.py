"""Two commands at once on one store: every run is computed once, and a killed command leaves its work to the other."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_runs import shared_faces, student, teacher

from common.experiment.arm import plan_runs
from common.experiment.store import Store

ROOT = Path(__file__).resolve().parents[2]
COMMAND = """
import json, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {support!r}]
from common.experiment.arm import plan_runs
from common.experiment.launch import launch
from common.experiment.phases import Machine
from common.experiment.store import Store
from tiny_runs import Silent, student, teacher

if __name__ == "__main__":
    parent, watcher = teacher(4), Silent()
    runs = plan_runs([parent, student(parent)], (0, 1))
    statuses = launch(runs, Store(Path(sys.argv[1])), Machine(checkpoint_every=0.1), 2, watcher)
    steps = [label for label, event in watcher.events if event.get("phase") == "benchmark"]
    print(json.dumps([sorted(set(statuses.values())), steps]))
"""

Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the command; whatever still runs at the end is killed."""
    script = tmp_path / "command.py"
    script.write_text(COMMAND.format(root=str(ROOT), support=str(ROOT / "tests" / "support")))
    started: list[subprocess.Popen[str]] = []

    def one() -> subprocess.Popen[str]:
        words = [sys.executable, str(script), str(tmp_path / "store")]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    with shared_faces(tmp_path / "faces"):
        yield one
    for process in started:
        process.kill()
        process.wait()


def said(process: subprocess.Popen[str]) -> tuple[list[str], list[str]]:
    """Statuses, and the runs whose benchmark this command has measured."""
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    statuses, measured = json.loads(out.splitlines()[-1])
    return statuses, measured


@pytest.mark.slow
def test_two_commands_share_the_work_and_repeat_none(tmp_path: Path, start: Start) -> None:
    first, second = start(), start()
    answers = [said(first), said(second)]
    assert [statuses for statuses, _ in answers] == [["ok"], ["ok"]]
    measured = sorted(answers[0][1] + answers[1][1])
    assert measured == ["fp32 seed 0", "fp32 seed 1", "w6a6 seed 0", "w6a6 seed 1"]
    store = Store(tmp_path / "store")
    parent = teacher(4)
    assert all(store.verify(run.digest) == {} for run in plan_runs([parent, student(parent)], (0, 1)))


@pytest.mark.slow
def test_what_a_killed_command_held_is_taken_over(tmp_path: Path, start: Start) -> None:
    first = start()
    while not list((tmp_path / "store").glob("runs/*/last-0.ckpt")):
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.01)
    second = start()
    first.send_signal(signal.SIGKILL)
    first.wait()
    statuses, measured = said(second)
    assert statuses == ["ok"]
    assert {"w6a6 seed 0", "w6a6 seed 1"} <= set(measured)
