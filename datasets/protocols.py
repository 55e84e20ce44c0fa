"""Pair protocols that are spread over several files or MATLAB structures: AgeDB-30 and CFP."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from datasets import catalog
from datasets.errors import BadList
from datasets.file_names import checked_name, read_regular
from datasets.lists import file_name, integer, read_lines, split
from datasets.matlab import Cells, DamagedMatlab, read_matlab
from datasets.pair_lists import FOLDS, PairList, make


def read_agedb(path: str | Path) -> PairList:
    """AgeDB-30's `04_FINAL_protocol_30_years.mat`: `splits`, ten cells of two rows of names and a row of labels 1/-1.

    The cells are read by position, as FaceX-Zoo's parser does; names lack `.jpg`, which is added.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: not a MATLAB file of that structure, or a name that is not `<number>_<person>_<age>_<gender>`.
    """
    path = catalog.require("agedb_30", path)
    try:
        splits = read_matlab(read_regular(path)).get("splits")
        if not isinstance(splits, Cells) or not splits.items:
            raise DamagedMatlab("it has no cells `splits`")
        parts = [_agedb_fold(cell, f"fold {fold}") for fold, cell in enumerate(splits.items, 1)]
    except DamagedMatlab as error:
        raise BadList(f"{path} is not AgeDB's protocol: {error}. Get it from iBUG.") from error
    rows = [(_agedb_file(path, a), _agedb_file(path, b), same) for part in parts for a, b, same in part]
    return make(rows, np.repeat(np.arange(len(parts)), [len(part) for part in parts]))


def _agedb_fold(cell: Any, where: str) -> list[tuple[str, str, bool]]:
    """The pairs of one fold: a structure of names (cells, 2 x P) and labels (P numbers)."""
    while isinstance(cell, Cells) and not cell.fields and len(cell.items) == 1:
        cell = cell.items[0]
    if not isinstance(cell, Cells) or len(cell.items) != 1 or len(cell.fields) < 2:
        raise DamagedMatlab(f"{where} is no structure of names and labels")
    names, labels = cell.items[0][:2]
    if not isinstance(names, Cells) or not isinstance(labels, np.ndarray) or not labels.size:
        raise DamagedMatlab(f"{where} has no cells of names or no labels")
    if names.shape != (2, labels.size) or not np.isin(labels, (1, -1)).all():
        raise DamagedMatlab(f"{where} has names {names.shape} and {labels.size} labels, expected 1 or -1")
    texts = [_agedb_text(item, where) for item in names.items]  # column by column: a pair after the other
    return [(*pair, label == 1) for *pair, label in zip(texts[::2], texts[1::2], labels.ravel().tolist(), strict=True)]


def _agedb_text(value: Any, where: str) -> str:
    """The text inside cells of one element and structures, whose first field it is."""
    while isinstance(value, Cells) and len(value.items) == 1:
        value = value.items[0][0] if value.fields else value.items[0]
    if not isinstance(value, str):
        raise DamagedMatlab(f"{where} has a name that is no text")
    return value


def _agedb_file(path: Path, name: str) -> str:
    if not re.fullmatch(r"\w+_[^/\\_]+_\w+", name):
        raise BadList(f"{path} names {name[:120]!r}, expected <number>_<person>_<age>_<gender>.")
    return checked_name(f"{name}.jpg", str(path))


def agedb_subject(file: str) -> str:
    """Identity in AgeDB's file names: `123_JaneDoe_47_f.jpg` -> `JaneDoe`."""
    return Path(file).stem.split("_")[1]


def agedb_gender(file: str) -> int:
    """Group in AgeDB's file names: f -> 0, m -> 1, anything else -> -1."""
    return {"f": 0, "m": 1}.get(Path(file).stem.rsplit("_", 1)[-1], -1)


def read_cfp(folder: str | Path, protocol: str = "FP") -> PairList:
    """CFP's protocol FF (frontal-frontal) or FP (frontal-profile): ten folds of `same.txt` and `diff.txt`.

    `Pair_list_F.txt` and `Pair_list_P.txt` number the images (1-based); the splits hold lines `a,b` of such numbers, a
    always of F, b of F or P. Paths are relative to the folder of the set.

    Args:
        folder: folder that holds `Protocol/` and `Data/`.
        protocol: "FF" or "FP".

    Raises:
        ValueError: another protocol.
        DatasetNotFound: a file is missing.
        BadList: a wrong field count, a path that is no image's, or a number that the lists do not have.
    """
    if protocol not in ("FF", "FP"):
        raise ValueError(f"CFP has the protocols FF and FP, not {protocol!r}.")
    base = Path(folder) / "Protocol"
    images = {kind: _cfp_images(base / f"Pair_list_{kind}.txt") for kind in set(protocol)}
    rows: list[tuple[str, str, bool]] = []
    folds: list[int] = []
    for fold in range(FOLDS):
        for name, same in (("same", True), ("diff", False)):
            path = base / "Split" / protocol / f"{fold + 1:02d}" / f"{name}.txt"
            for number, line in enumerate(read_lines("cfp", path), 1):
                pair = split(path, number, line, (2,), ",")
                found = [images[kind].get(integer(path, number, n, 1)) for kind, n in zip(protocol, pair, strict=True)]
                if found[0] is None or found[1] is None:
                    raise BadList(
                        f"{path}, line {number}: {line[:120]!r} names an image that the pair lists do not have."
                    )
                rows.append((found[0], found[1], same))
                folds.append(fold)
    return make(rows, np.array(folds))


def _cfp_images(path: Path) -> dict[int, str]:
    images = {}
    for number, line in enumerate(read_lines("cfp", path), 1):
        index, file = split(path, number, line, (2,), None)
        file = file_name(path, number, file.replace("\\", "/").removeprefix("../"))
        if len(Path(file).parts) < 3:
            raise BadList(
                f"{path}, line {number}: expected ../Data/Images/<person>/<view>/<image>, got {file[:120]!r}."
            )
        images[integer(path, number, index, 1)] = file
    return images


def cfp_subject(file: str) -> str:
    """Identity in CFP's paths: `Data/Images/002/frontal/01.jpg` -> `002`."""
    return Path(file).parts[-3]
