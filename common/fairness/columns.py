"""Group columns: names instead of codes, several attributes crossed, and answers to what is wrong with a column.

Codes are a trap (0 is male in one data set and female in the next), so groups are named as soon as they are read, and
every message here lists the names that there are.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.fairness.groups import BoolArray, IntArray, check_pairs

CROSSED_BY = " x "


@dataclass(frozen=True)
class GroupColumn:
    """One way to divide samples into groups.

    Attributes:
        name: of the attribute (`"race"`, `"race x gender"`).
        index: int64 [N], place in `names`; -1 = no group (unknown, or left out).
        names: of the groups.

    Raises ValueError for indices without a name and for names that are there twice.
    """

    name: str
    index: IntArray
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", check_pairs(self.index, self.names))

    @property
    def sizes(self) -> dict[str, int]:
        """Samples of every group; groups without one are there with 0."""
        inside = self.index[self.index >= 0]
        counts = np.bincount(inside, minlength=len(self.names))
        return dict(zip(self.names, map(int, counts), strict=True))


def pick(columns: Mapping[str, GroupColumn], name: str) -> GroupColumn:
    """The column of this name; `"race x gender"` crosses two or more of them.

    Raises ValueError for an unknown name: the message lists the known ones and the nearest.
    """
    if name in columns:
        return columns[name]
    parts = name.split(CROSSED_BY)
    for part in parts:
        if part not in columns:
            raise ValueError(f"There is no group column {part!r}{_known(part, columns)}.")
    return cross(*(columns[part] for part in parts))


def encode(name: str, values: Sequence[str], names: Sequence[str], unknown: Sequence[str] = ()) -> GroupColumn:
    """A column from the words of a label file.

    Args:
        name: of the attribute. values: [N], one word a sample. names: of the groups, in their order.
        unknown: words that stand for "no group" ("unsure", ""), which become -1.

    Raises ValueError for any other word, with its place, the known words and the nearest.
    """
    place = {word: i for i, word in enumerate(names)} | dict.fromkeys(unknown, -1)
    wrong = next((i for i, word in enumerate(values) if word not in place), None)
    if wrong is not None:
        word = values[wrong]
        raise ValueError(f"Sample {wrong} has the {name} {word!r}{_known(str(word), place)}.")
    return GroupColumn(name, np.array([place[word] for word in values], dtype=np.int64), tuple(names))


def cross(*columns: GroupColumn) -> GroupColumn:
    """Intersectional groups: every combination of the given columns, named `"Black x Female"`.

    A sample that is in no group of one column is in no group of the crossing. Combinations without a sample stay, so
    that a table shows that they are empty.

    Raises ValueError for fewer than two columns, columns of different lengths, or the same one twice.
    """
    if len(columns) < 2 or len({column.name for column in columns}) < len(columns):
        raise ValueError(f"Give two or more different columns to cross, not {[column.name for column in columns]}.")
    lengths = {column.name: column.index.size for column in columns}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Columns to cross need one entry a sample each, but have {lengths}.")
    index, names = columns[0].index, columns[0].names
    for column in columns[1:]:
        inside = (index >= 0) & (column.index >= 0)
        index = np.where(inside, index * len(column.names) + column.index, -1)
        names = tuple(f"{first}{CROSSED_BY}{second}" for first in names for second in column.names)
    return GroupColumn(CROSSED_BY.join(column.name for column in columns), index, names)


def require_groups(column: GroupColumn, part: str, fewest: int = 1, among: BoolArray | None = None) -> None:
    """Make sure that every group is there, where something is to be chosen for all of them.

    Args:
        column: of the part. part: its name in the message ("validation"). fewest: samples that a group needs.
        among: bool [N], the samples that count (the positives, the non-mated pairs); all when None.

    Raises ValueError that names the groups that are missing or too small, with their counts.
    """
    counted = np.ones(column.index.shape, dtype=bool) if among is None else np.asarray(among, dtype=bool)
    sizes = GroupColumn(column.name, np.where(counted, column.index, -1), column.names).sizes
    short = {name: size for name, size in sizes.items() if size < fewest}
    if short:
        told = ", ".join(f"{name!r} has {size}" for name, size in short.items())
        raise ValueError(
            f"The {part} part lacks groups of {column.name}: {told}, at least {fewest} needed. Draw the {part} part "
            "within groups, or leave these groups out by name; what is chosen without them is not chosen for them."
        )


def class_labels(name: str, values: npt.ArrayLike, n_classes: int) -> IntArray:
    """Class labels as int64, of any shape.

    Raises ValueError for values that are not whole numbers in 0..n_classes-1; the message names the first one.
    """
    labels = np.asarray(values)
    if labels.dtype.kind not in "biu":
        raise ValueError(f"{name} must hold whole numbers, but is of type {labels.dtype}.")
    labels = labels.astype(np.int64)
    wrong = (labels < 0) | (labels >= n_classes)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"{name} holds {int(labels.ravel()[at])} at place {at}, and {int(wrong.sum())} such labels in all; with "
            f"{n_classes} classes they must lie in 0..{n_classes - 1}."
        )
    return labels


def binary_labels(name: str, values: npt.ArrayLike) -> BoolArray:
    """Labels 0 and 1 (or False and True) as bool, of any shape.

    Raises ValueError for anything else. CelebA's files say -1 for "no", which as a truth value would be "yes".
    """
    labels = np.asarray(values)
    if labels.dtype.kind == "b":
        return labels
    wrong = ~np.isin(labels, (0, 1))
    if wrong.any():
        found = labels[wrong].ravel()[0]
        hint = " (CelebA writes -1 for 0: give `labels > 0`)" if found == -1 else ""
        raise ValueError(f"{name} must hold zeros and ones, but holds {found!s}{hint}.")
    return labels.astype(bool)


def _known(word: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(word, known, 1, cutoff=0.6)
    return f"; known are {', '.join(map(repr, known))}" + (f" (did you mean {close[0]!r}?)" if close else "")
