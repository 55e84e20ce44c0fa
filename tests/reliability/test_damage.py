"""Flipped bits and lost ends in every kind of file that is kept: each one is noticed, and nothing of such a file is used.

The files are those of real runs. `FAIRPRESS_DAMAGE=100000` tries that many changes instead of some 2,000; `-s` prints the counts.
"""

from __future__ import annotations

import functools
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import Damage, random_damage
from tiny_runs import network, shared_faces, student, teacher

from common.experiment.arm import Run, plan_runs
from common.experiment.checkpoint import load_sealed
from common.experiment.phases import Machine
from common.experiment.records import load_records, seal_results
from common.experiment.run import execute
from common.experiment.spec import Place, build
from common.experiment.store import Store
from common.files import DamagedFileError, read_json, write_json_atomically
from common.manifest import read_verified
from common.quantization import quantize_network
from common.quantization.storage import load_packed, save_packed
from common.weights import load_weights

CHANGES = int(os.environ.get("FAIRPRESS_DAMAGE", "2000"))
MACHINE = Machine(checkpoint_every=0.02)


@dataclass(frozen=True)
class World:
    """A store with a teacher and its student, both published, and files that were taken aside.

    Attributes:
        store: holds `run`, the student, whose parent is the teacher.
        results: the results folder; `../demo.json` lies beside it.
        checkpoint: of the student, from before it was finished.
        packed: the quantized network as packed codes.
    """

    store: Store
    run: Run
    results: Path
    checkpoint: Path
    packed: Path

    @property
    def folder(self) -> Path:
        return self.store.folder(self.run.digest)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with shared_faces(tmp_path_factory.mktemp("faces")):
        root = tmp_path_factory.mktemp("damage")
        store = Store(root / "store", accept_stale=True)  # code may change beside a long run of this test
        parent, run = plan_runs([student(teacher(1))], (0,))
        assert execute(parent, store, MACHINE, lambda event: None) == "ok"
        with pytest.raises(KeyboardInterrupt):
            execute(run, store, MACHINE, _stop_before_the_benchmark)
        checkpoint = shutil.copy(next(store.folder(run.digest).glob("*.ckpt")), root / "student.ckpt")
        assert execute(run, store, MACHINE, lambda event: None) == "ok"
        results = root / "results" / "quantface" / "demo"
        for one in (parent, run):
            assert store.publish(one.digest, results, one.arm.name, one.arm.title, 0) == "ok"
        write_json_atomically(results.with_name("demo.json"), {"paper": "quantface", "runs": [run.digest]})
        seal_results(results)
        save_packed(quantized_network(), root / "network.fpq")
        yield World(store, run, results, Path(checkpoint), root / "network.fpq")


def _stop_before_the_benchmark(event: dict[str, Any]) -> None:
    if event.get("phase") == "benchmark":
        raise KeyboardInterrupt


@functools.cache
def quantized_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return quantize_network(build(network(), Place()), 6, 6)


def refuses(read: Callable[[], object]) -> bool:
    """Whether a reader says that the file is damaged; another error is none of its answers and fails the test."""
    try:
        read()
    except DamagedFileError:
        return True
    return False


@dataclass(frozen=True)
class Artefact:
    """A kind of file.

    Attributes:
        path: where it is.
        notices: whether its readers refuse it as it is now.
    """

    path: Callable[[World], Path]
    notices: Callable[[World], bool]


def is_damaged(world: World) -> bool:
    return world.store.status(world.run.digest) == "damaged"


def is_not_published(world: World) -> bool:
    """While the run is held it is not marked, so that nothing has to be put back for the next change."""
    scratch = world.results.with_name("scratch")
    with world.store.lock(world.run.digest, lambda: None):
        published = world.store.publish(world.run.digest, scratch, "arm", "An arm", 0)
    return published == read_json(scratch / f"{world.run.digest}.json")["status"] == "damaged"


def is_not_handed_out(world: World) -> bool:
    with world.store.lock(world.run.digest, lambda: None):
        return refuses(lambda: world.store.weights(world.run.digest))


def records_are_refused(world: World) -> bool:
    return refuses(lambda: load_records(world.results))


def is_not_loaded(load: Callable[[torch.nn.Module, Path], None], path: Path) -> bool:
    """Loading refuses it, and the network is as it was."""
    target = quantized_network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    refused = refuses(lambda: load(target, path))
    return refused and all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def of_run(name: str) -> Callable[[World], Path]:
    return lambda world: world.folder / name


def of_results(name: str) -> Callable[[World], Path]:
    return lambda world: world.results / name.replace("<digest>", world.run.digest)


def pair_table(world: World) -> Path:
    return next((world.store.root / "pairs").glob("pairs-*.npz"))


def published_pair_table(world: World) -> Path:
    return next(world.results.glob("pairs-*.npz"))


ARTEFACTS = {
    "checkpoint": Artefact(
        lambda world: world.checkpoint, lambda world: refuses(lambda: load_sealed(world.checkpoint))
    ),
    "state.json": Artefact(of_run("state.json"), is_damaged),
    "result.json": Artefact(of_run("result.json"), is_damaged),
    "SHA256SUMS of a run": Artefact(of_run("SHA256SUMS"), is_damaged),
    "scores.npz": Artefact(of_run("scores.npz"), is_not_published),
    "pair table": Artefact(pair_table, is_not_published),
    "network.safetensors, stored": Artefact(of_run("network.safetensors"), is_not_handed_out),
    "network.safetensors, alone": Artefact(
        of_run("network.safetensors"), lambda world: is_not_loaded(load_weights, world.folder / "network.safetensors")
    ),
    "packed network": Artefact(lambda world: world.packed, lambda world: is_not_loaded(load_packed, world.packed)),
    "published <digest>.json": Artefact(of_results("<digest>.json"), records_are_refused),
    "published <digest>.npz": Artefact(of_results("<digest>.npz"), records_are_refused),
    "published pair table": Artefact(published_pair_table, records_are_refused),
    "SHA256SUMS of results": Artefact(of_results("SHA256SUMS"), records_are_refused),
    "<scale>.json": Artefact(
        of_results("../demo.json"), lambda world: refuses(lambda: read_verified(world.results, "../demo.json"))
    ),
}


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_every_change_of_a_file_is_noticed(world: World, kind: str) -> None:
    artefact = ARTEFACTS[kind]
    path, count = artefact.path(world), CHANGES // len(ARTEFACTS)
    assert not artefact.notices(world), "a file as it was written is not refused"
    tried: Counter[str] = Counter()
    for damage in random_damage(path.stat().st_size, count, seed=zlib.crc32(kind.encode())):
        with damage.done_to(path):
            assert artefact.notices(world), f"{damage} of {path.name} went unnoticed"
        tried[damage.kind] += 1
    assert not artefact.notices(world)
    print(f"\n{kind} ({path.stat().st_size:,} bytes): {dict(tried)}, all noticed", end="")


def test_torch_load_accepts_what_is_refused_here(world: World, tmp_path: Path) -> None:
    """Why checkpoints are sealed: the same flips in a file of `torch.save`."""
    plain = tmp_path / "plain.ckpt"
    torch.save(load_sealed(world.checkpoint), plain)
    seal = world.checkpoint.stat().st_size - plain.stat().st_size
    accepted = 0
    flips = [damage for damage in random_damage(plain.stat().st_size, 40, seed=0) if damage.kind == "flip"]
    for flip in flips:
        with flip.done_to(plain):
            try:
                torch.load(plain, weights_only=True)
            except Exception:
                continue
        accepted += 1
        with Damage("flip", flip.place + 8 * seal).done_to(world.checkpoint):
            assert refuses(lambda: load_sealed(world.checkpoint))
    assert accepted > 0
    print(f"\ntorch.load accepted {accepted} of {len(flips)} flipped bits, sealed checkpoints none", end="")


@pytest.mark.parametrize("name", ["state.json", "result.json"])
def test_a_damaged_run_is_computed_again_to_the_same_bytes(world: World, name: str) -> None:
    kept = {file: (world.folder / file).read_bytes() for file in ("network.safetensors", "scores.npz")}
    path = world.folder / name
    os.truncate(path, path.stat().st_size // 2)
    assert world.store.status(world.run.digest) == "damaged"
    assert execute(world.run, world.store, MACHINE, lambda event: None) == "ok"
    assert {file: (world.folder / file).read_bytes() for file in kept} == kept
    assert world.store.verify(world.run.digest) == {}
