"""The official pair lists of verification sets: who is compared with whom, and in which fold.

Every reader gives a `PairList` in the order of the protocol. Sources: LFW README (view 2); the parsers of FaceX-Zoo's
`test_protocol/pairs_parser.py` for RFW, CALFW, CPLFW and AgeDB; CFP's official Readme.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets import fingerprint
from datasets.errors import BadList
from datasets.lists import file_name, integer, read_lines, split
from datasets.pairs import PairSet

FOLDS = 10
MOST_IMAGES = 9999  # of one person: LFW's and RFW's names have four digits


@dataclass(frozen=True, eq=False)
class PairList:
    """P pairs of image paths (relative, POSIX), same bool [P], fold int64 [P]."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    same: np.ndarray
    fold: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def files(self) -> tuple[str, ...]:
        """Every image of the list once, sorted by path."""
        return tuple(sorted({*self.first, *self.second}))

    def select(self, keep: np.ndarray) -> PairList:
        """The pairs where `keep` bool [P] is True, in order."""
        at = np.flatnonzero(keep)
        first, second = (tuple(side[i] for i in at) for side in (self.first, self.second))
        return PairList(first, second, self.same[at], self.fold[at])

    def fingerprint(self) -> str:
        """16 hex digits over pairs, labels and folds."""
        return fingerprint.of_names((*self.first, *self.second, fingerprint.of_arrays(self.same, self.fold)))


def make(rows: Sequence[tuple[str, str, bool]], fold: np.ndarray) -> PairList:
    """Rows (first, second, same) and their folds as a `PairList`."""
    same = np.array([row[2] for row in rows], dtype=bool)
    return PairList(tuple(r[0] for r in rows), tuple(r[1] for r in rows), same, np.asarray(fold, dtype=np.int64))


def pair_set(
    name: str,
    pairs: PairList,
    images: Any,
    files: Sequence[str],
    subject_of: Callable[[str], str],
    group_of: Callable[[str], int] | None = None,
    group_names: tuple[str, ...] = (),
    divisor: float = 127.5,
) -> PairSet:
    """A `PairList` with its images as a `PairSet`.

    Args:
        name: name of the set.
        pairs: the pairs.
        images: uint8 [N, 3, H, W] or a lazy sequence, image i being `files[i]`.
        files: paths of the images; all paths of `pairs` must be among them.
        subject_of: identity of an image, by path.
        group_of: group index of an image, by path, -1 for none; a pair has a group if both images have the same.
        group_names: names of the groups.
        divisor: of the pixel normalisation.

    Raises:
        BadList: a pair names an image that is not in `files`.
    """
    position = {file: i for i, file in enumerate(files)}
    missing = [file for file in (*pairs.first, *pairs.second) if file not in position]
    if missing:
        raise BadList(f"{name}: {len(missing)} images of the pair list are not there, the first is {missing[0]}.")
    first = np.array([position[file] for file in pairs.first], dtype=np.int64)
    second = np.array([position[file] for file in pairs.second], dtype=np.int64)
    number: dict[str, int] = {}
    subject = np.array([number.setdefault(subject_of(file), len(number)) for file in files], dtype=np.int64)
    groups = np.array([group_of(file) if group_of else -1 for file in files], dtype=np.int64)
    group = np.where(groups[first] == groups[second], groups[first], -1)
    return PairSet(name, images, first, second, pairs.same, pairs.fold, subject, group, group_names, divisor)


# -- LFW ----------------------------------------------------------------------------------------------------------


def lfw_image(person: str, number: int) -> str:
    """Path of an image in LFW's naming: `Person/Person_0001.jpg`."""
    return f"{person}/{person}_{number:04d}.jpg"


def _named_pair(path: str | Path, number: int, line: str) -> tuple[str, str, bool]:
    fields = split(path, number, line, (3, 4))
    second = fields[0] if len(fields) == 3 else fields[2]
    a, b = (integer(path, number, field, 1, MOST_IMAGES) for field in (fields[1], fields[-1]))
    first_file, second_file = (file_name(path, number, lfw_image(*of)) for of in ((fields[0], a), (second, b)))
    return first_file, second_file, len(fields) == 3


def read_lfw_pairs(path: str | Path) -> PairList:
    """LFW's `pairs.txt`: a line `folds<TAB>n`, then per fold n genuine `name n1 n2` and n impostor `a n1 b n2` lines.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: another number of lines than the first line says, a wrong field count, a pair in the wrong block.
    """
    lines = read_lines("lfw", path)
    folds, each = (integer(path, 1, field, 1) for field in split(path, 1, lines[0], (2,)))
    if len(lines) != 1 + folds * 2 * each:
        raise BadList(
            f"{path} has {len(lines) - 1} pairs, but its first line promises {folds} x 2 x {each} = {folds * 2 * each}."
        )
    rows = [_named_pair(path, number, line) for number, line in enumerate(lines[1:], 2)]
    for k, row in enumerate(rows):
        if row[2] != (k % (2 * each) < each):
            kind = "a genuine" if not row[2] else "an impostor"
            raise BadList(f"{path}, line {k + 2}: expected {kind} pair here (blocks of {each}).")
    return make(rows, np.repeat(np.arange(folds), 2 * each))


def read_lfw_dev_pairs(path: str | Path) -> PairList:
    """LFW's view 1 (`pairsDevTrain.txt`, `pairsDevTest.txt`): a line n, n genuine and n impostor pairs; one fold, 0.

    Raises:
        DatasetNotFound, BadList: as `read_lfw_pairs`.
    """
    lines = read_lines("lfw", path)
    each = integer(path, 1, split(path, 1, lines[0], (1,))[0], 1)
    if len(lines) != 1 + 2 * each:
        raise BadList(f"{path} has {len(lines) - 1} pairs, but its first line promises 2 x {each}.")
    rows = [_named_pair(path, number, line) for number, line in enumerate(lines[1:], 2)]
    return make(rows, np.zeros(len(rows)))


def read_lfw_people(path: str | Path) -> dict[str, tuple[int, int]]:
    """LFW's `people.txt` -> {person: (fold, number of images)}: a line with the folds, per fold a count and its lines.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: the counts and the lines disagree, a wrong field count, a person named twice, a name that is no file's.
    """
    lines = read_lines("lfw", path)
    folds = integer(path, 1, split(path, 1, lines[0], (1,))[0], 1)
    people: dict[str, tuple[int, int]] = {}
    at = 1
    for fold in range(folds):
        if at >= len(lines):
            raise BadList(f"{path} ends before fold {fold + 1} of {folds}.")
        count = integer(path, at + 1, split(path, at + 1, lines[at], (1,))[0], 1)
        if at + 1 + count > len(lines):
            raise BadList(f"{path}, line {at + 1}: fold {fold + 1} promises {count} people, the file ends before.")
        for number in range(at + 1, at + 1 + count):
            name, images = split(path, number + 1, lines[number], (2,))
            if name in people:
                raise BadList(f"{path}, line {number + 1}: {name} is named twice.")
            file_name(path, number + 1, lfw_image(name, 1))
            people[name] = (fold, integer(path, number + 1, images, 1, MOST_IMAGES))
        at += 1 + count
    if at != len(lines):
        raise BadList(f"{path}, line {at + 1}: more lines than the {folds} folds promise.")
    return people


# -- RFW ----------------------------------------------------------------------------------------------------------


def read_rfw_pairs(path: str | Path, block: int = 300) -> PairList:
    """`<Race>_pairs.txt`: no header; blocks of `block` genuine `id n1 n2` and `block` impostor `a n1 b n2` lines.

    Fold k is block k. Official files have 10 x (300 + 300) lines; a file of another length is one of contiguous tenths.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: a wrong field count or number.
    """
    lines = read_lines("rfw", path)
    rows = [_named_pair(path, number, line) for number, line in enumerate(lines, 1)]
    if len(rows) % (2 * block) == 0:
        return make(rows, np.arange(len(rows)) // (2 * block))
    return make(rows, contiguous_folds(len(rows)))


def contiguous_folds(pairs: int, folds: int = FOLDS) -> np.ndarray:
    """Fold int64 [P] of contiguous blocks like scikit-learn's KFold(shuffle=False): the first P % folds are longer."""
    sizes = [pairs // folds + (k < pairs % folds) for k in range(folds)]
    return np.repeat(np.arange(folds), sizes)


# -- CALFW, CPLFW: two lines a pair, all genuine pairs before all impostor pairs -------------------------------------


def read_calfw(path: str | Path) -> PairList:
    """`pairs_CALFW.txt`: two lines `Name_0001.jpg label` a pair; 0 is an impostor pair, any other label a genuine one.

    Raises:
        DatasetNotFound, BadList: see `_two_line_pairs`.
    """
    return _two_line_pairs("calfw", path)


def read_cplfw(path: str | Path) -> PairList:
    """`pairs_CPLFW.txt`: two lines `Name_0001.jpg label` a pair, label 0 or 1.

    Raises:
        DatasetNotFound, BadList: see `_two_line_pairs`.
    """
    return _two_line_pairs("cplfw", path)


def _two_line_pairs(key: str, path: str | Path) -> PairList:
    """Regroup the file's pairs into ten folds of equally many genuine and impostor pairs each.

    The files list all genuine pairs first: contiguous folds of the file order would hold one class only. Fold k takes
    the k-th tenth of the genuine and then the k-th tenth of the impostor pairs, as FaceX-Zoo's parsers do.

    Raises:
        DatasetNotFound: there is no such file.
        BadList: a wrong field count, two lines of a pair with different kinds, classes that are no multiple of ten.
    """
    lines = read_lines(key, path)
    if len(lines) % 2:
        raise BadList(f"{path} has {len(lines)} lines, expected two lines a pair.")
    fields = [split(path, number, line, (2,), None) for number, line in enumerate(lines, 1)]
    names = [file_name(path, number, field[0]) for number, field in enumerate(fields, 1)]
    kinds = [integer(path, number, field[1]) != 0 for number, field in enumerate(fields, 1)]
    rows: dict[bool, list[tuple[str, str, bool]]] = {True: [], False: []}
    for k in range(0, len(lines), 2):
        if kinds[k] != kinds[k + 1]:
            raise BadList(f"{path}, lines {k + 1} and {k + 2} are one pair, but only one says that it is genuine.")
        rows[kinds[k]].append((names[k], names[k + 1], kinds[k]))
    counts = {len(rows[True]), len(rows[False])}
    if len(counts) != 1 or counts.pop() % FOLDS:
        raise BadList(
            f"{path} has {len(rows[True])} genuine and {len(rows[False])} impostor pairs; expected are equally many, "
            f"a multiple of {FOLDS}."
        )
    each = len(rows[True]) // FOLDS
    ordered = [row for k in range(FOLDS) for kind in (True, False) for row in rows[kind][k * each : (k + 1) * each]]
    return make(ordered, np.repeat(np.arange(FOLDS), 2 * each))


def name_before_number(file: str) -> str:
    """Identity in LFW-style file names: `images/First_Last_0003.jpg` -> `First_Last`."""
    return Path(file).stem.rsplit("_", 1)[0]
