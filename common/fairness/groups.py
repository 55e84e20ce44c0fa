"""Rates of demographic groups, with the counts behind them.

Every fairness number of this package is computed from a :class:`GroupRates`: the rate, its numerator and denominator,
the subjects, and the groups that could not be measured with the reason why. Error rates follow ISO/IEC 19795-1: FNMR is
the share of *mated* comparisons rejected, FMR the share of *non-mated* comparisons accepted. (Dividing both by all
comparisons of a group, as some public code does, halves them on balanced pair lists.)

All groups are judged at **one global threshold**; a threshold of its own for every group would be a mitigation, not an
audit. Pairs of group -1 (none, or two different groups) count in overall numbers only: impostors from two groups are
easier to tell apart, and would make a group's FMR look better than it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

FEWEST_SUBJECTS = 2  # one person says nothing about a group, and cannot be resampled


@dataclass(frozen=True)
class GroupRates:
    """One rate in every group: ``numerator / denominator``, fractions in [0, 1].

    Arrays have one entry a group, in the order of ``group_names``. ``overall_*`` also count the pairs of no group.
    ``skipped`` maps the groups whose rate is undefined to a sentence that says why; their ``rate`` is NaN, never 0.
    """

    metric: str
    group_names: tuple[str, ...]
    numerator: IntArray
    denominator: IntArray
    subjects: IntArray
    overall_numerator: int
    overall_denominator: int
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def measured(self) -> BoolArray:
        """Which groups have a defined rate, bool [G]."""
        return np.array([name not in self.skipped for name in self.group_names], dtype=bool)

    @property
    def rate(self) -> FloatArray:
        """Rate of every group, float64 [G]; NaN where the group is in ``skipped``."""
        return np.where(self.measured, self.numerator / np.maximum(self.denominator, 1), np.nan)

    @property
    def overall(self) -> float:
        """Rate over all pairs, those of no group included; NaN without any pair."""
        return self.overall_numerator / self.overall_denominator if self.overall_denominator else float("nan")

    def rows(self) -> list[dict[str, Any]]:
        """The table, one dictionary a group; the rate is None and ``reason`` says why where it is undefined."""
        return [
            {
                "group": name,
                "rate": None if name in self.skipped else float(self.rate[i]),
                "numerator": int(self.numerator[i]),
                "denominator": int(self.denominator[i]),
                "subjects": int(self.subjects[i]),
                "reason": self.skipped.get(name),
            }
            for i, name in enumerate(self.group_names)
        ]


@dataclass(frozen=True)
class OperatingPoint:
    """A global threshold chosen for a target FMR, and the FMR that it really has on the scores that chose it."""

    threshold: float
    target_fmr: float
    realised_fmr: float
    non_mated: int
    caution: str | None


def check_pairs(group: npt.ArrayLike, group_names: Sequence[str], **columns: npt.ArrayLike) -> IntArray:
    """Validate the columns of a pair list and return ``group`` as int64 [P].

    Raises ValueError when a column is not one-dimensional or not as long as ``group``, when a group index lies outside
    -1..len(group_names)-1, or when two groups bear the same name.
    """
    groups = np.asarray(group)
    if groups.ndim != 1 or groups.dtype.kind not in "iu":
        raise ValueError(f"group must hold one integer a pair, but has shape {groups.shape} and type {groups.dtype}.")
    for name, column in columns.items():
        shape = np.shape(column)
        if shape != groups.shape:
            raise ValueError(f"{name} has shape {shape}, but group has {groups.shape}: both need one entry a pair.")
    if len(set(group_names)) != len(group_names):
        raise ValueError(f"Group names must differ from one another, but are {tuple(group_names)}.")
    if groups.size and (groups.min() < -1 or groups.max() >= len(group_names)):
        raise ValueError(
            f"group holds indices {groups.min()}..{groups.max()}, but with {len(group_names)} group names they must "
            f"lie in -1..{len(group_names) - 1} (-1: no group)."
        )
    return groups.astype(np.int64)


def subjects_per_group(group: IntArray, n_groups: int, subject_a: npt.ArrayLike, subject_b: npt.ArrayLike) -> IntArray:
    """Number of different subjects in the pairs of every group, int64 [n_groups]."""
    inside = group >= 0
    subject, member = np.unique(
        np.concatenate([np.asarray(subject_a)[inside], np.asarray(subject_b)[inside]]), return_inverse=True
    )
    memberships = np.unique(np.tile(group[inside], 2) * max(subject.size, 1) + member)
    return np.bincount(memberships // max(subject.size, 1), minlength=n_groups)


def group_rates(
    metric: str,
    event: npt.ArrayLike,
    group: npt.ArrayLike,
    group_names: Sequence[str],
    subject_a: npt.ArrayLike,
    subject_b: npt.ArrayLike,
    counted: npt.ArrayLike | None = None,
) -> GroupRates:
    """Share of the ``counted`` pairs of every group in which ``event`` is true.

    Args:
        metric: name of the rate, for tables and messages.
        event: bool [P].
        group: int [P], index into ``group_names``; -1 = no group.
        subject_a, subject_b: int [P], the two people of every pair.
        counted: bool [P], which pairs form the denominator (all when None).

    A group with fewer than two subjects, or with no counted pair, is undefined with a reason.
    """
    groups = check_pairs(group, group_names, event=event, subject_a=subject_a, subject_b=subject_b)
    happened = np.asarray(event, dtype=bool)
    chosen = np.ones(groups.shape, dtype=bool) if counted is None else np.asarray(counted, dtype=bool)
    inside = chosen & (groups >= 0)
    size = len(group_names)
    denominator = np.bincount(groups[inside], minlength=size)
    subjects = subjects_per_group(groups, size, subject_a, subject_b)
    skipped: dict[str, str] = {}
    for i, name in enumerate(group_names):
        if subjects[i] < FEWEST_SUBJECTS:
            found = "one subject only" if subjects[i] else "no subject"
            skipped[name] = f"group {name!r} has {found}; at least {FEWEST_SUBJECTS} are needed to measure {metric}"
        elif not denominator[i]:
            skipped[name] = f"group {name!r} has no pair that counts for {metric}"
    return GroupRates(
        metric=metric,
        group_names=tuple(group_names),
        numerator=np.bincount(groups[inside & happened], minlength=size),
        denominator=denominator,
        subjects=subjects,
        overall_numerator=int(np.count_nonzero(chosen & happened)),
        overall_denominator=int(np.count_nonzero(chosen)),
        skipped=skipped,
    )


def verification_rates(
    score: npt.ArrayLike,
    same: npt.ArrayLike,
    group: npt.ArrayLike,
    group_names: Sequence[str],
    subject_a: npt.ArrayLike,
    subject_b: npt.ArrayLike,
    threshold: float,
) -> dict[str, GroupRates]:
    """FMR, FNMR and TAR of every group when a pair is accepted iff ``score > threshold`` (one threshold for all).

    Args:
        score: float [P], similarity. same: bool [P], mated pairs. Others as in :func:`group_rates`.

    Returns:
        {"fmr": over non-mated pairs, "fnmr": over mated pairs, "tar": 1 - FNMR over mated pairs}.
    """
    scores, mated = check_scores(score), np.asarray(same, dtype=bool)
    check_pairs(group, group_names, score=scores, same=mated)
    accepted = scores > threshold
    events = {"fmr": (accepted, ~mated), "fnmr": (~accepted, mated), "tar": (accepted, mated)}
    return {
        name: group_rates(name, event, group, group_names, subject_a, subject_b, counted)
        for name, (event, counted) in events.items()
    }


def check_scores(score: npt.ArrayLike) -> FloatArray:
    """Scores as float64; raises ValueError when one is not finite (a NaN would silently be a rejection)."""
    scores = np.asarray(score, dtype=np.float64)
    bad = int(np.count_nonzero(~np.isfinite(scores)))
    if bad:
        raise ValueError(
            f"{bad} of {scores.size} scores are not finite: look at the model's embeddings of these pairs."
        )
    return scores


def accepted_allowance(target_fmr: float, non_mated: npt.ArrayLike) -> FloatArray:
    """How many of N ``non_mated`` comparisons may be accepted at FMR f: floor(f N), robust to the rounding of f N."""
    return np.floor(np.asarray(non_mated, dtype=np.float64) * target_fmr * (1 + 1e-12))


def operating_point(score: npt.ArrayLike, non_mated: npt.ArrayLike, target_fmr: float) -> OperatingPoint:
    """The lowest threshold whose FMR on the pooled non-mated scores does not exceed ``target_fmr``.

    ``t = sorted_descending[floor(f N)]`` and a pair is accepted iff score > t, so that ties lower the realised FMR.

    Args:
        score: float [P]. non_mated: bool [P], the impostor pairs that choose the threshold. target_fmr: in (0, 1).

    Raises ValueError when ``target_fmr`` is out of range or when N is too small to show it (f N < 1). With f N < 10 the
    point is returned with a caution: so few accepted pairs fix a threshold only roughly.
    """
    if not 0 < target_fmr < 1:
        raise ValueError(f"The target FMR must lie strictly between 0 and 1, but is {target_fmr}.")
    impostor = check_scores(score)[np.asarray(non_mated, dtype=bool)]
    allowed = int(accepted_allowance(target_fmr, impostor.size))
    if allowed < 1:
        raise ValueError(
            f"An FMR of {target_fmr:g} cannot be measured on {impostor.size} non-mated pairs; at least "
            f"{int(np.ceil(1 / target_fmr))} are needed."
        )
    threshold = float(-np.partition(-impostor, allowed)[allowed])
    caution = None
    if allowed < 10:
        caution = f"the threshold of FMR {target_fmr:g} rests on {allowed} of {impostor.size} non-mated pairs"
    realised = float(np.count_nonzero(impostor > threshold) / impostor.size)
    return OperatingPoint(threshold, target_fmr, realised, int(impostor.size), caution)
