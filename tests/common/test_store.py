"""common/experiment/store.py: what counts as finished, what is handed out, what is thrown away."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from common.experiment import pair_tables
from common.experiment import store as store_module
from common.experiment.records import load_records, seal_results
from common.experiment.sources import sources_of
from common.experiment.store import Store, StoreError
from common.files import DamagedFileError, StorageError, read_json, sha256_of, write_json_atomically
from common.weights import save_weights

RUN, OTHER = "0123456789abcdef", "f" * 16
TABLE = {
    "same": np.array([True, False] * 2),
    **{name: np.zeros(4, dtype=np.int64) for name in ("fold", "group", "subject_a", "subject_b")},
    "group_names": np.array(["A"]),
}
SOURCES = sources_of(["common.activations"])


def finish(store: Store, digest: str = RUN, sources: dict[str, str] | None = None) -> None:
    """A run without the training."""
    sources = SOURCES if sources is None else sources
    with store.lock(digest, lambda: None):
        store.begin(digest, "arm seed 0", sources)
        save_weights(nn.Linear(3, 2), store.folder(digest) / "network.safetensors")
        save_weights(nn.Linear(3, 2), store.folder(digest) / "epoch1.safetensors")
        result = {"digest": digest, "arm": "arm", "seed": 0, "status": "ok", "metrics": {"easy": {"accuracy": 50.0}}}
        result |= {"pairs": {"easy": "0123456789ab"}, "sources": sources, "cost": {"parameters": 8}}
        store.finish(digest, result, {"easy/correct": np.ones(4, bool)}, {"0123456789ab": TABLE})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    finish(store)
    return store


def test_a_run_goes_from_not_run_to_ok(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert (store.status(RUN), store.state(RUN), store.verify(RUN)) == ("not run", None, {})
    with store.lock(RUN, lambda: None):
        store.begin(RUN, "arm seed 0", SOURCES)
        assert store.status(RUN) == "running"
        assert store.state(RUN) == {"status": "running", "label": "arm seed 0", "sources": SOURCES}
    assert store.status(RUN) == "interrupted"
    with pytest.raises(StoreError, match="no result: it is 'interrupted'"):
        store.result(RUN)
    with pytest.raises(StoreError, match="keeps no 'network': it is 'interrupted'"):
        store.weights(RUN)
    finish(store)
    assert (store.status(RUN), store.reason(RUN), store.verify(RUN)) == ("ok", "", {})
    assert store.result(RUN)["cost"] == {"parameters": 8}
    assert store.weights(RUN, "epoch1").name == "epoch1.safetensors"
    with pytest.raises(StoreError, match=r"keeps no 'epoch9' \(it keeps epoch1, network\)"):
        store.weights(RUN, "epoch9")


def test_the_manifest_lists_everything_and_can_be_checked_by_hand(store: Store) -> None:
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=store.folder(RUN), capture_output=True, text=True
    )
    listed = {line.removesuffix(": OK") for line in done.stdout.splitlines()}
    assert done.returncode == 0
    assert listed == {
        "result.json", "scores.npz", "network.safetensors", "epoch1.safetensors", "../../pairs/pairs-0123456789ab.npz",
    }  # fmt: skip
    kept = {path.name for path in store.folder(RUN).iterdir()}
    assert kept == {*(name for name in listed if "/" not in name), "SHA256SUMS", "state.json", "lock"}


def test_a_failure_keeps_label_and_sources(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.begin(RUN, "arm seed 0", SOURCES)
    store.set_state(RUN, "failed", error={"type": "X", "message": "m"})
    assert store.status(RUN) == "failed"
    assert store.state(RUN) == {
        "status": "failed", "label": "arm seed 0", "sources": SOURCES, "error": {"type": "X", "message": "m"}
    }  # fmt: skip


def test_the_status_is_the_last_thing_that_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash before any of the writes of a run leaves it unfinished, and everything before the state is in the manifest."""
    written: list[str] = []
    for module, name in (
        (store_module, "write_atomically"),
        (store_module, "write_json_atomically"),
        (store_module, "write_manifest"),
        (pair_tables, "write_atomically"),
    ):
        real = getattr(module, name)

        def noted(path: Path, *args: Any, real: Callable[..., Any] = real, **options: Any) -> Any:
            written.append(Path(path).name)
            return real(path, *args, **options)

        monkeypatch.setattr(module, name, noted)
    finish(Store(tmp_path))
    assert written == ["state.json", "pairs-0123456789ab.npz", "scores.npz", "result.json", RUN, "state.json"]


def cut(name: str) -> Callable[[Path], object]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 1)


def flip(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 4
        (folder / name).write_bytes(content)

    return change


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        *((cut(name), name) for name in ("result.json", "scores.npz", "epoch1.safetensors", "SHA256SUMS")),
        (flip("result.json"), "result.json"),
        (flip("SHA256SUMS"), "SHA256SUMS"),
        (flip("state.json"), "state.json"),
        (cut("state.json"), "state.json"),
        (lambda f: (f / "state.json").write_text('{"status": "ok"}'), "state.json"),
        (lambda f: write_json_atomically(f / "state.json", {"status": "perfect"}, seal=True), "state.json"),
        (lambda f: write_json_atomically(f / "state.json", {"status": ["ok"]}, seal=True), "state.json"),
        (lambda f: write_json_atomically(f / "state.json", {"status": "ok", "sizes": 3}, seal=True), "state.json"),
        (lambda f: write_json_atomically(f / "state.json", {"status": "ok", "sizes": {}}, seal=True), "state.json"),
        (lambda f: write_json_atomically(f / "state.json", {"status": "ok", "sizes": {"a": 3}}, seal=True), "state.json"),
        (lambda f: [(f / "state.json").unlink(), (f / "state.json").mkdir()], "state.json"),
        (lambda f: (f / "SHA256SUMS").unlink(), "state.json"),
        (lambda f: (f / "network.safetensors").unlink(), "network.safetensors"),
        (lambda f: (f / "../../pairs/pairs-0123456789ab.npz").unlink(), "../../pairs/pairs-0123456789ab.npz"),
    ],
)  # fmt: skip
def test_damage_that_a_glance_shows(store: Store, tmp_path: Path, damage: Callable[[Path], object], name: str) -> None:
    damage(store.folder(RUN))
    assert store.status(RUN) == "damaged"
    assert str(store.folder(RUN)) in store.reason(RUN)
    assert set(store.verify(RUN)) == {name}
    with pytest.raises(StoreError, match="it is 'damaged'"):
        store.result(RUN)
    assert store.publish(RUN, tmp_path / "results", "arm", "An arm", 0) == "damaged"
    published = read_json(tmp_path / "results" / f"{RUN}.json")
    assert published["status"] == "damaged"
    assert str(tmp_path) not in published["error"]["message"], "the result is public, this machine is not"
    store.discard(RUN, "it was damaged")
    assert store.status(RUN) == "not run"
    finish(store)
    assert (store.status(RUN), store.verify(RUN)) == ("ok", {})


@pytest.mark.parametrize("name", ["network.safetensors", "scores.npz"])
def test_damage_that_only_the_bytes_show_is_found_when_they_are_read(store: Store, tmp_path: Path, name: str) -> None:
    flip(name)(store.folder(RUN))
    assert store.status(RUN) == "ok"
    assert set(store.verify(RUN)) == {name}
    if name == "scores.npz":
        assert store.publish(RUN, tmp_path / "results", "arm", "An arm", 0) == "damaged"
        assert os.listdir(tmp_path / "results") == [f"{RUN}.json"]
    else:
        assert store.weights(RUN, "epoch1").exists()
        with pytest.raises(DamagedFileError, match=r"network\.safetensors is not as it was written"):
            store.weights(RUN)
    assert store.status(RUN) == "damaged", "the next command computes it again"
    assert name in store.reason(RUN)
    assert not store.is_locked(RUN)


def test_a_damaged_pair_table_is_restored_for_all_runs_by_the_first(store: Store, tmp_path: Path) -> None:
    finish(store, OTHER)
    flip("../../pairs/pairs-0123456789ab.npz")(store.folder(RUN))
    for digest in (RUN, OTHER):
        assert store.publish(digest, tmp_path / "results", "arm", "An arm", 0) == "damaged"
    assert [store.status(digest) for digest in (RUN, OTHER)] == ["damaged"] * 2
    store.discard(RUN)
    finish(store)
    assert [store.status(digest) for digest in (RUN, OTHER)] == ["ok"] * 2
    assert store.verify(OTHER) == {}


@pytest.mark.parametrize("position", [10, 12, 200, -40])
def test_a_damaged_pair_table_is_not_kept_by_the_next_run(store: Store, position: int) -> None:
    """10 and 12: the time and the date in the zip's header, which no reader of arrays looks at."""
    path = store.root / "pairs" / "pairs-0123456789ab.npz"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    assert store.verify(RUN)
    finish(store, OTHER)
    assert store.verify(RUN) == store.verify(OTHER) == {}


def test_a_pair_table_that_another_version_packed_is_kept(tmp_path: Path) -> None:
    store, path = Store(tmp_path), tmp_path / "pairs" / "pairs-0123456789ab.npz"
    path.parent.mkdir()
    np.savez(path, **TABLE)
    before = sha256_of(path)
    finish(store)
    finish(store, OTHER)
    assert sha256_of(path) == before
    assert store.verify(RUN) == store.verify(OTHER) == {}


def test_a_damaged_run_on_a_read_only_disk_is_still_refused(tmp_path: Path, store: Store) -> None:
    flip("network.safetensors")(store.folder(RUN))
    done = subprocess.run(["mount", "--bind", "-o", "ro", str(store.root), str(store.root)], capture_output=True)
    if done.returncode != 0:
        pytest.skip("a folder cannot be made read-only for root here")
    try:
        assert store.status(RUN) == "ok"
        with pytest.raises(DamagedFileError) as caught:
            store.weights(RUN)
        assert "could not be marked as damaged" in "".join(caught.value.__notes__)
        with pytest.raises(StorageError, match="read-only"):
            store.discard(RUN)
    finally:
        subprocess.run(["umount", str(store.root)], check=True)


def test_results_of_other_code_are_stale_or_accepted_by_name(store: Store, tmp_path: Path) -> None:
    finish(store, OTHER, {**SOURCES, "common.weights": "0" * 16})
    assert (store.status(RUN), store.status(OTHER)) == ("ok", "stale")
    assert store.reason(OTHER) == "changed since: common.weights"
    assert store.verify(OTHER) == {}
    with pytest.raises(StoreError, match=r"it is 'stale' \(changed since: common\.weights\)"):
        store.result(OTHER)
    assert store.publish(OTHER, tmp_path / "demo", "old", "Old", 0) == "stale"
    lenient = Store(store.root, accept_stale=True)
    assert (lenient.status(OTHER), lenient.result(OTHER)["arm"]) == ("ok", "arm")
    seal_results(tmp_path / "demo")
    assert load_records(tmp_path / "demo")[0].status == "stale"
    for digest, arm in ((OTHER, "old"), (RUN, "new")):
        assert lenient.publish(digest, tmp_path / "demo", arm, arm, 0) == "ok"
    seal_results(tmp_path / "demo")
    records = {record.arm: record for record in load_records(tmp_path / "demo")}
    assert (records["old"].stale, records["new"].stale) == (("common.weights",), ())
    assert records["old"].ok


def test_results_from_before_sources_were_recorded_are_stale(store: Store) -> None:
    finish(store, OTHER, {})
    assert store.status(OTHER) == "stale"


def test_discarding_leaves_the_log_and_says_why(store: Store) -> None:
    folder = store.folder(RUN)
    (folder / "log.txt").write_text("what the run printed\n")
    (folder / "lightning_logs" / "deep").mkdir(parents=True)
    (folder / "link").symlink_to(store.root, target_is_directory=True)
    with store.lock(RUN, lambda: None):
        store.discard(RUN, "other code")
        assert store.is_locked(RUN)
    assert sorted(os.listdir(folder)) == ["lock", "log.txt"]
    assert (store.root / "pairs" / "pairs-0123456789ab.npz").exists()
    first, second = (folder / "log.txt").read_text().splitlines()
    assert first == "what the run printed"
    assert second.endswith("discarded what was ok: other code")


def test_discarding_waits_for_whoever_computes_the_run(store: Store) -> None:
    process = multiprocessing.get_context("fork").Process(target=_hold, args=(store,))
    process.start()
    while not store.is_locked(RUN):
        time.sleep(0.01)
    since = time.monotonic()
    store.discard(RUN)
    assert time.monotonic() - since > 0.2
    process.join()


def _hold(store: Store) -> None:
    with store.lock(RUN, lambda: None):
        time.sleep(0.5)


def test_what_killed_writers_left_goes_when_the_run_begins(store: Store) -> None:
    left = [store.folder(RUN) / ".writing-0123.tmp", store.root / "pairs" / ".writing-4567.tmp"]
    for path in left:
        path.write_bytes(bytes(1000))
    finish(store)
    assert not any(path.exists() for path in left)


def test_publishers_of_one_paper_exclude_each_other(store: Store) -> None:
    waits: list[str] = []
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_publish, args=(store, queue))
    with store.exclusive("quantface"):
        process.start()
        assert queue.get(timeout=10) == "waits"
        with store.exclusive("prunefaces", lambda: waits.append("waits")):
            assert queue.empty()
    assert queue.get(timeout=10) == "holds"
    process.join()
    assert waits == []


def _publish(store: Store, queue: Any) -> None:
    with store.exclusive("quantface", lambda: queue.put("waits")):
        queue.put("holds")


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b", "/tmp/x"])
def test_a_lock_cannot_lie_elsewhere(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be called"):
        store.exclusive(name)


def test_publishing_again_touches_nothing(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    store.publish(RUN, folder, "arm", "An arm", 0)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(before) == 3
    store.publish(RUN, folder, "arm", "An arm", 0)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    (folder / f"{RUN}.json").write_text("{damaged")
    store.publish(RUN, folder, "arm", "An arm", 0)
    assert read_json(folder / f"{RUN}.json")["title"] == "An arm"


def test_a_store_can_be_moved(store: Store, tmp_path: Path) -> None:
    shutil.move(store.root, tmp_path / "elsewhere")
    assert Store(tmp_path / "elsewhere").verify(RUN) == {}
    assert Store(tmp_path / "elsewhere").status(RUN) == "ok"
