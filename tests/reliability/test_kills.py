"""SIGKILL at random moments, then the same call: weights, scores and metrics are byte for byte those of an undisturbed run.

One paper of each family: its tiny arms, killed until the count is reached. `FAIRPRESS_KILLS=200` kills more often than the
default suite does; `-s` prints where the kills fell.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Silent, run_processes, shared_faces, snip_arms, student, teacher

from common.experiment.arm import Arm, Run, plan_runs
from common.experiment.launch import launch
from common.experiment.phases import Machine
from common.experiment.store import Store
from common.files import sha256_of

KILLS = int(os.environ.get("FAIRPRESS_KILLS", "20"))
MACHINE = Machine(checkpoint_every=0.02)
ARTEFACTS = ("network.safetensors", "scores.npz")


@pytest.fixture(scope="module", autouse=True)
def _faces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with shared_faces(tmp_path_factory.mktemp("faces")):
        yield


def quantization() -> list[Arm]:
    """A teacher whose margins are drawn anew in every step, and its quantization-aware student."""
    parent = teacher(4, head="ElasticArcFace", keep=("epoch2",))
    return [parent, student(parent, epochs=3)]


FAMILIES: dict[str, Callable[[], Sequence[Arm]]] = {"quantization": quantization, "pruning": snip_arms}


class Killer:
    """Kills whatever run is being computed, at chosen moments, and remembers what it interrupted."""

    def __init__(self, store: Store, runs: Sequence[Run], seed: int) -> None:
        self.folders, self.random = [store.folder(run.digest) for run in runs], random.Random(seed)
        self.moments: Counter[str] = Counter()
        self.stop = threading.Event()

    def any_time(self, longest: float) -> None:
        """At a moment between now and `longest` seconds."""
        if not self.stop.wait(longest * self.random.random()):
            self._kill()

    def while_training(self, longest: float) -> None:
        """At a moment after the first checkpoint."""
        while not self.stop.is_set():
            if any(next(folder.glob("last-*.ckpt"), None) for folder in self.folders):
                return self.any_time(longest / 4)
            time.sleep(0.002)

    def while_writing(self, longest: float) -> None:
        """As soon as some file of a run is half written."""
        while not self.stop.is_set():
            if self._half_written():
                self._kill()
                return

    def _kill(self) -> None:
        victims = run_processes()
        for process in victims:
            os.kill(process, signal.SIGKILL)
        if victims:
            self.moments["while a file was written" if self._half_written() else "elsewhere"] += 1

    def _half_written(self) -> bool:
        for folder in self.folders:
            with contextlib.suppress(FileNotFoundError):
                if any(name.startswith(".writing-") for name in os.listdir(folder)):
                    return True
        return False


def outcome(store: Store, runs: Sequence[Run]) -> dict[str, Any]:
    """What has to be the same: hashes of all arrays and weights, and the metrics."""
    found: dict[str, Any] = {}
    for run in runs:
        folder = store.folder(run.digest)
        files = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".npz"))
        assert set(ARTEFACTS) <= set(files)
        assert not list(folder.glob("*.ckpt"))
        assert not list(folder.glob(".writing-*"))
        found[run.label] = {name: sha256_of(folder / name) for name in files}
        found[run.label]["metrics"] = json.dumps(store.result(run.digest)["metrics"], sort_keys=True)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_killed_at_random_moments_ends_as_if_never_killed(family: str, tmp_path: Path) -> None:
    runs = plan_runs(FAMILIES[family](), (0,))
    undisturbed = Store(tmp_path / "undisturbed")
    since = time.monotonic()
    assert set(launch(runs, undisturbed, Machine(), 1, Silent()).values()) == {"ok"}
    longest = (time.monotonic() - since) / len(runs)
    expected = outcome(undisturbed, runs)

    kills, launches, completions, phases, moments = 0, 0, 0, Counter[str](), Counter[str]()
    while kills < KILLS or not completions:
        assert completions < 10 + KILLS, f"only {kills} of {launches} launches were hit: the runs are too short to kill"
        store = Store(tmp_path / f"killed{completions}")
        statuses: dict[str, str] = {}
        while set(statuses.values()) != {"ok"}:
            killer = Killer(store, runs, seed=launches)  # another moment every time, whether or not the last one hit
            ways = killer.any_time, killer.while_training, killer.while_writing, killer.while_training
            thread = threading.Thread(target=ways[launches % len(ways)], args=(longest,))
            if kills < KILLS:
                thread.start()
            watcher = Silent()
            statuses = launch(runs, store, MACHINE, 1, watcher)
            launches += 1
            killer.stop.set()
            if thread.ident is not None:
                thread.join()
            if sum(killer.moments.values()):
                kills += 1
                moments += killer.moments
                phases[watcher.events[-1][1].get("phase", "?") if watcher.events else "start"] += 1
            elif set(statuses.values()) == {"ok"}:
                longest = min(
                    longest, max(watcher.seconds.values(), default=longest)
                )  # the first run also starts the server
        completions += 1
        assert outcome(store, runs) == expected
    print(f"\n{family}: {kills} kills survived in {completions} completions; {dict(phases)}; {dict(moments)}")
    assert kills >= KILLS
    assert len(phases) > 1, "all kills hit the same phase: the moments were not random"
