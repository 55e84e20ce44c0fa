"""Same digest, same numbers: in this process, in one of the launcher's, beside others, and with whatever came before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_runs import Silent, shared_faces, student, teacher

from common.experiment.arm import plan_runs
from common.experiment.launch import launch
from common.experiment.phases import Machine
from common.experiment.run import execute
from common.experiment.store import Store
from common.files import sha256_of


@pytest.fixture(scope="module", autouse=True)
def _faces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with shared_faces(tmp_path_factory.mktemp("faces")):
        yield


def files(store: Store) -> dict[str, str]:
    """Hash of every weight file and of every array of scores, by run."""
    found = {}
    for path in sorted((store.root / "runs").rglob("*")):
        if path.suffix in (".safetensors", ".npz"):
            found[f"{path.parent.name}/{path.name}"] = sha256_of(path)
    return found


@pytest.mark.slow
def test_how_runs_are_scheduled_changes_no_byte(tmp_path: Path) -> None:
    parent = teacher(2, head="ElasticArcFace")
    runs = plan_runs([parent, student(parent)], (0, 1))
    here, one, two = Store(tmp_path / "here"), Store(tmp_path / "one"), Store(tmp_path / "two")
    torch.rand(7)  # what other code has drawn from the generators must not matter
    for run in runs:
        assert execute(run, here, Machine(), lambda event: None) == "ok"
    assert set(launch(runs, one, Machine(), 1, Silent()).values()) == {"ok"}
    assert set(launch(runs, two, Machine(checkpoint_every=0), 2, Silent()).values()) == {"ok"}
    assert len(files(here)) == 2 * len(runs)
    assert files(here) == files(one) == files(two)
    metrics = [[store.result(run.digest)["metrics"] for run in runs] for store in (here, one, two)]
    assert metrics[0] == metrics[1] == metrics[2]


def test_what_may_change_the_last_bits_is_recorded(tmp_path: Path) -> None:
    (run,) = plan_runs([teacher(1)], (0,))
    assert launch([run], Store(tmp_path), Machine(threads=2), 1, Silent()) == {run.digest: "ok"}
    provenance = Store(tmp_path).result(run.digest)["provenance"]
    assert provenance["threads"] == 2
    assert provenance["devices"] == 1
    assert {"torch", "numpy", "python", "pytorch_lightning"} <= set(provenance["versions"])
    assert {"model", "cores"} <= set(provenance["cpu"])
    assert isinstance(provenance["gpus"], list)
