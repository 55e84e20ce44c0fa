"""Pair protocols that are spread over several files or MATLAB structures: AgeDB-30 and CFP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from datasets import catalog
from datasets.errors import BadList
from datasets.lists import integer, read_lines, split
from datasets.pair_lists import FOLDS, PairList, make


def read_agedb(path: str | Path) -> PairList:
    """AgeDB-30's `04_FINAL_protocol_30_years.mat`: `splits`, ten cells of two rows of names and a row of labels 1/-1.

    The cells are read by position, as FaceX-Zoo's parser does; names lack `.jpg`, which is added.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: not a MATLAB file of that structure.
    """
    path = catalog.require("agedb_30", path)
    rows: list[tuple[str, str, bool]] = []
    folds: list[int] = []
    try:
        splits = loadmat(str(path))["splits"]
        for fold in range(len(splits)):
            cell = splits[fold][0][0, 0]
            names, labels = cell[0], np.asarray(cell[1]).ravel()
            if names.shape != (2, len(labels)) or not np.isin(labels, (1, -1)).all():
                raise BadList(f"fold {fold + 1} has names {names.shape} and {len(labels)} labels, expected 1 or -1")
            for k, label in enumerate(labels):
                first, second = (str(np.asarray(names[row, k][0, 0][0]).ravel()[0]) + ".jpg" for row in (0, 1))
                rows.append((first, second, bool(label == 1)))
                folds.append(fold)
    except Exception as error:  # scipy fails in many ways on a damaged file
        raise BadList(f"{path} is not AgeDB's protocol ({type(error).__name__}: {error}). Get it from iBUG.") from error
    return make(rows, np.array(folds))


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
        BadList: a wrong field count, or a number that the lists do not have.
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
                    raise BadList(f"{path}, line {number}: {line!r} names an image that the pair lists do not have.")
                rows.append((found[0], found[1], same))
                folds.append(fold)
    return make(rows, np.array(folds))


def _cfp_images(path: Path) -> dict[int, str]:
    images = {}
    for number, line in enumerate(read_lines("cfp", path), 1):
        index, file = split(path, number, line, (2,), None)
        images[integer(path, number, index, 1)] = file.replace("\\", "/").removeprefix("../")
    return images


def cfp_subject(file: str) -> str:
    """Identity in CFP's paths: `Data/Images/002/frontal/01.jpg` -> `002`."""
    return Path(file).parts[-3]
