"""What this suite writes and strangers may alter: results, sealed files, manifests, states; and the papers' own files."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_files import npy, zipped
from fuzz_probe import Target, furnish, unwatched

from common.experiment.arrays import decode_arrays
from common.experiment.records import load_records
from common.experiment.run_folder import STATUSES
from common.experiment.store import Store
from common.files import DamagedFileError, read_json, read_sealed, write_json_atomically, write_sealed
from common.manifest import damaged_files, read_manifest, read_verified, write_manifest
from papers.registry import PaperError, read_paper

ROOT = Path(__file__).parents[2]
RESULTS = Path("paper") / "demo"  # a manifest may name files two folders above its own

# -- the papers' own files ----------------------------------------------------------------------------------------------------


def paper_toml(root: Path, data: bytes) -> None:
    (root / "paper.toml").write_bytes(data)
    read_paper(root / "paper.toml")


SMALL_PAPER = b"""title = "T"
family = "pruning"
year = 2022
basis = "code"
scales = ["smoke", "demo"]
reported = [ { row = "a", metric = "lfw", value = 99.8, unit = "%", source = "fig", verified = true } ]
[sources]
fig = "Table 2"
"""
TOML_WORDS = (
    b"[", b"]", b"[[", b"]]", b"=", b"{", b"}", b'"""', b"'''", b"#", b".", b"a.", b"[a.b]", b"[[reported]]",
    b"reported", b"sources", b"scales", b"year",
    b"1979-05-27T07:32:00Z", b"inf", b"nan", b"true", b"0x", b"\\u0000", b"\\uD800", b"[" * 2000, b"a." * 500,
    b"1_000", b"family", b"basis",
)  # fmt: skip


def paper_seeds() -> list[tuple[bytes, ...]]:
    real = (ROOT / "papers" / "quantface" / "paper.toml").read_bytes().split(b"\n")
    kept = [line for line in real if b"row = " not in line or b'"lfw"' in line]  # of a hundred numbers those on one set
    return [(SMALL_PAPER,), (b"\n".join(kept),)]


# -- results ------------------------------------------------------------------------------------------------------------------


def json_file(root: Path, data: bytes) -> None:
    (root / "value.json").write_bytes(data)
    read_json(root / "value.json")


def sealed_file(root: Path, data: bytes) -> None:
    (root / "state").write_bytes(data)
    read_sealed(root / "state")


def sealed_json(root: Path, data: bytes) -> None:
    (root / "state.json").write_bytes(data)
    read_json(root / "state.json", sealed=True)


def written(write: Callable[..., Any], *arguments: Any, **options: Any) -> bytes:
    """What a writer of files writes."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "file", *arguments, **options)
        return (Path(folder) / "file").read_bytes()


def sealed_seeds() -> list[tuple[bytes, ...]]:
    return [(written(write_sealed, data),) for data in (b"some content", b"")]


def sealed_json_seeds() -> list[tuple[bytes, ...]]:
    return [(written(write_json_atomically, content, seal=True),) for content in (STATE, {})]


def last_line(listed: bytes) -> bytes:
    """The line that vouches for those above it."""
    return f"# {hashlib.sha256(listed).hexdigest()} of the lines above\n".encode()


def manifest(root: Path, listed: bytes, file: bytes) -> None:
    """A manifest whose last line is right, so that its names are looked at."""
    (root / RESULTS / "a.json").write_bytes(file)
    (root / RESULTS / "SHA256SUMS").write_bytes(listed + last_line(listed))
    damaged_files(root / RESULTS)
    for name in read_manifest(root / RESULTS):
        read_verified(root / RESULTS, name)


def manifest_raw(root: Path, data: bytes) -> None:
    (root / RESULTS / "SHA256SUMS").write_bytes(data)
    damaged_files(root / RESULTS)
    read_manifest(root / RESULTS)


MANIFEST_LINE = f"{hashlib.sha256(b'x').hexdigest()}  a.json\n".encode()
MANIFEST_WORDS = (
    b"  ", b"../", b"../../", b"../../../", b"/", b"//", b"./", b"\\", b"a.json", MANIFEST_LINE, b"..", b"../folder",
    b"link", b"../link/secret.jpg",
    b"../fifo", b"../folder", b"a.json/../a.json", "é".encode(),
)  # fmt: skip


def state(root: Path, state_text: bytes, result: bytes) -> None:
    """A run of a stranger's store, its seals and its manifest right."""
    store = Store(root / "store")
    folder = store.folder("d" * 16)
    (folder / "result.json").write_bytes(result)
    with unwatched():
        write_manifest(folder, ["result.json"])
        try:
            content = json.loads(state_text)
            write_json_atomically(folder / "state.json", {k: v for k, v in content.items() if k != "sha256"}, seal=True)
        except (ValueError, TypeError, AttributeError, RecursionError):
            (folder / "state.json").write_bytes(state_text)
    assert store.status("d" * 16) in STATUSES
    store.reason("d" * 16)
    store.verify("d" * 16)
    assert store.status("d" * 16) != "ok" or store.result("d" * 16)


STATE = {"status": "ok", "label": "x", "sources": {"common.cost": "1" * 64}, "sizes": {"result.json": 2}}

JSON_WORDS = (
    b"[", b"]", b"{", b"}", b'"', b",", b":", b"null", b"true", b"NaN", b"Infinity", b"-Infinity", b"1e999",
    b"[" * 5000, b'{"a":' * 2000, b"\\ud800",
    b'"arm"', b'"seed"', b'"status"', b'"ok"', b'"pairs"', b'"metrics"', b'"failed"', b'"../../outside/x"', b'"../x"',
    b'"digest"',
)  # fmt: skip
RESULT: dict[str, Any] = {
    "arm": "a", "seed": 0, "status": "ok", "digest": "0" * 16, "pairs": {"lfw": "abcdef012345"},
    "metrics": {"lfw": {"accuracy": 99.0}},
    "cost": {"parameters": 3}, "provenance": {"commit": "x"}, "error": None,
}  # fmt: skip
ARRAYS = ("lfw_correct", "same", "fold", "group", "subject_a", "subject_b", "group_names", "pool")


def records(root: Path, result: bytes, scores: bytes, table: bytes) -> None:
    folder = root / RESULTS
    (folder / f"{'0' * 16}.json").write_bytes(result)
    (folder / f"{'0' * 16}.npz").write_bytes(scores)
    (folder / "pairs-abcdef012345.npz").write_bytes(table)
    with unwatched():
        write_manifest(folder, [f"{'0' * 16}.json", f"{'0' * 16}.npz", "pairs-abcdef012345.npz"])
    load_records(folder)


def arrays(root: Path, data: bytes) -> None:
    decode_arrays(data, root / "scores.npz")


def records_npy(root: Path, *arrays: bytes) -> None:
    """The members of archives whose checksums are right."""
    named = dict(zip(ARRAYS, arrays, strict=True))
    correct = named.pop("lfw_correct")
    records(
        root,
        json.dumps(RESULT).encode(),
        zipped({"lfw/correct.npy": correct}),
        zipped({f"{k}.npy": v for k, v in named.items()}),
    )


def record_arrays() -> list[np.ndarray]:
    pairs = np.arange(4)
    return [pairs > 1, pairs > 2, pairs, pairs % 2, pairs, pairs + 1, np.array(["x", "y"]), np.array("people")]


def record_seeds() -> list[tuple[bytes, ...]]:
    correct, *columns = map(npy, record_arrays())
    table = {f"{name}.npy": data for name, data in zip(ARRAYS[1:], columns, strict=True)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{"lfw/correct": record_arrays()[0]})
    failed = {"arm": "a", "seed": 1, "status": "failed", "error": {"type": "ValueError", "message": "no"}}
    return [
        (json.dumps(RESULT).encode(), buffer.getvalue(), zipped(table)),
        (json.dumps(RESULT).encode(), zipped({"lfw/correct.npy": correct}), zipped(table)),
        (json.dumps(failed).encode(), b"", b""),
    ]


NPY_WORDS = (
    b"\x93NUMPY", b"'descr': '|O'", b"'descr': '<U4'", b"'descr': '|S0'", b"'descr': '<M8[s]'", b"'descr': '<c16'",
    b"'descr': [('a','<i4')]",
    b"'shape': (1099511627776,)", b"'shape': ()", b"'shape': (4, 0)", b"'shape': (-1,)", b"(" * 400, b"True",
    b"False", b"{", b"}", b"PK\x03\x04",
    b"PK\x01\x02", b"PK\x05\x06", b".npy",
)  # fmt: skip


def folders(root: Path) -> None:
    """The folders of results and of a store's run, with traps in them."""
    for folder in (root / RESULTS, Store(root / "store").folder("d" * 16)):
        folder.mkdir(parents=True, exist_ok=True)
        furnish(folder, root.parent / "outside")


DAMAGED = (DamagedFileError,)
TARGETS = [
    Target("paper_toml", paper_toml, paper_seeds, (PaperError,), TOML_WORDS),
    Target("json", json_file, lambda: [(json.dumps(RESULT).encode(),)], DAMAGED, JSON_WORDS),
    Target("sealed_file", sealed_file, sealed_seeds, DAMAGED, (b"fairpress-sealed 1 ", b"\n", b"0" * 20)),
    Target("sealed_json", sealed_json, sealed_json_seeds, DAMAGED, JSON_WORDS),
    Target("manifest", manifest, lambda: [(MANIFEST_LINE, b"x"), (b"", b"")], DAMAGED, MANIFEST_WORDS, prepare=folders),
    Target("manifest_raw", manifest_raw, lambda: [(MANIFEST_LINE + last_line(MANIFEST_LINE),)], DAMAGED,
    MANIFEST_WORDS, prepare=folders),
    Target("state", state, lambda: [(json.dumps(STATE).encode(), b"{}"), (b'{"status": "running"}', b"{}")], DAMAGED,
    JSON_WORDS, prepare=folders),
    Target("arrays", arrays, lambda: [(seed[1],) for seed in record_seeds()[:2]], DAMAGED, NPY_WORDS),
    Target("records", records, record_seeds, DAMAGED, JSON_WORDS + NPY_WORDS, prepare=folders),
    Target("records_npy", records_npy, lambda: [tuple(map(npy, record_arrays()))], DAMAGED, NPY_WORDS, prepare=folders),
]  # fmt: skip
