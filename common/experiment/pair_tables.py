"""Pair tables of a store: each lies there once, for all runs that were measured on it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from common.experiment.arrays import Arrays, encode_arrays, same_arrays
from common.files import DamagedFileError, remove_temporary_files, write_atomically
from common.manifest import read_manifest

PAIRS = "../../pairs/"  # as the folder of a run sees it


def table_file(name: str) -> str:
    """File of the pair table of this name (a hash of its content)."""
    return f"pairs-{name}.npz"


def add_tables(root: Path, tables: Mapping[str, Arrays]) -> None:
    """Write those that are missing or damaged; the caller holds the lock of all pair tables.

    Args:
        root: of the store. tables: name -> arrays.
    """
    if (root / "pairs").exists():
        remove_temporary_files(root / "pairs")
    for name, arrays in tables.items():
        data = encode_arrays(arrays)
        if not _is_whole(root, table_file(name), data, arrays):
            write_atomically(root / "pairs" / table_file(name), data)


def _is_whole(root: Path, file: str, data: bytes, arrays: Arrays) -> bool:
    path = root / "pairs" / file
    found = path.read_bytes() if path.exists() else b""
    if found == data:
        return True
    # Another version of zlib has packed it, and the manifests of runs list its bytes: it stays. If they list ours, it is damaged.
    return same_arrays(found, arrays) and hashlib.sha256(data).hexdigest() not in _listed(root, f"{PAIRS}{file}")


def _listed(root: Path, name: str) -> set[str]:
    """SHA-256 that the manifests of runs give for a file."""
    found = set()
    for folder in (root / "runs").iterdir():
        try:
            found.add(read_manifest(folder).get(name, ""))
        except DamagedFileError:
            continue  # of a run that is not finished, or is to be computed again
    return found
