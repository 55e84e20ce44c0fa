"""Does compression take more from the group that was worst off before?

To choose the worst group of a model and to measure on the same answers what it then loses is a trap: the lowest of
several noisy accuracies is low by bad luck too, and luck does not last. Half of it is in the people (their images are
hard by chance), half in the training (this seed was bad for this group), and both make the chosen group seem to *gain*.
So it is chosen on other people and at other seeds than it is measured with: people are halved within groups, the group is
chosen on one half by the uncompressed models of the *other* seeds, and what it loses is measured on the other half; then the
halves change places, and all this is averaged over several divisions. (With one seed, only people can be others.) Groups
that tie for the lowest accuracy share the choice.

As the choice never saw the answers that are measured, intervals come from the bootstrap of people and the spread over seeds
with the choice held fixed (see `common.fairness.paired`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.fairness.bootstrap import SubjectTable, accuracy_draws, multiplicities, pair_weights, subject_table
from common.fairness.groups import FloatArray, IntArray, check_pairs
from common.fairness.paired import Effect, effect

FEWEST_PEOPLE = 10  # of a group: five a half
DIVISIONS = 10
TIE = 1e-9


@dataclass(frozen=True)
class Drops:
    """What A compressed models lose against one uncompressed model, in percent points.

    Attributes:
        overall: over all pairs; worst: of the group that was worst off before; excess: worst - overall. Of each the
            values at S seeds, float64 [A, S], and in D draws of people, [D, A, S].
        chosen: group -> share of the choices that fell on it; they sum to 1.
        left_out: group -> why it could not be chosen.
    """

    overall: tuple[FloatArray, FloatArray]
    worst: tuple[FloatArray, FloatArray]
    chosen: Mapping[str, float]
    left_out: Mapping[str, str]

    @property
    def excess(self) -> tuple[FloatArray, FloatArray]:
        """Worst minus overall drop: positive = compression hurts the already disadvantaged more."""
        return self.worst[0] - self.overall[0], self.worst[1] - self.overall[1]

    def effects(self, arm: int, level: float = 0.95) -> dict[str, Effect]:
        """`overall`, `worst` and `excess` of one compressed model, with intervals."""
        return {
            name: effect(point[arm], draws[:, arm], level)
            for name, (point, draws) in (("overall", self.overall), ("worst", self.worst), ("excess", self.excess))
        }

    def mean_excess(self, arms: Sequence[int], level: float = 0.95) -> Effect:
        """The excess averaged over several compressed models, which share people and seeds."""
        point, draws = self.excess
        return effect(point[list(arms)].mean(axis=0), draws[:, list(arms)].mean(axis=1), level)


def disadvantaged_drops(
    uncompressed: npt.ArrayLike,
    compressed: npt.ArrayLike,
    same: npt.ArrayLike,
    group: npt.ArrayLike,
    group_names: Sequence[str],
    subject_a: npt.ArrayLike,
    subject_b: npt.ArrayLike,
    *,
    draws: int = 1000,
    seed: int = 0,
    divisions: int = DIVISIONS,
) -> Drops:
    """Drops of everyone and of the group that was worst off before.

    Args:
        uncompressed: bool [S, P], right decisions at S seeds. compressed: bool [A, S, P], of A models at the same seeds.
        same: bool [P]. group: int [P], -1 = no group. subject_a, subject_b: int [P]; the same column twice for images.
        draws, seed: of the bootstrap and of the divisions. divisions: how often people are halved.

    Raises:
        ValueError: other seeds or pairs, a subject of two groups, or fewer than two groups of ten people.
    """
    base, arms = np.asarray(uncompressed, dtype=bool), np.asarray(compressed, dtype=bool)
    if base.ndim != 2 or arms.shape[1:] != base.shape:
        raise ValueError(f"uncompressed has shape {base.shape}, compressed {arms.shape}: give [S, P] and [A, S, P].")
    mated = np.asarray(same, dtype=bool)
    groups = check_pairs(group, group_names, same=mated, decisions=base[0])
    people = subject_table(subject_a, subject_b, groups)
    eligible, left_out = _eligible(people, group_names)
    halves = _halves(people, eligible, divisions, seed)
    cells = [_cells(people, groups, half) for half in halves]
    measured = _Measured(np.concatenate([base, *arms]), mated, len(group_names), len(base))
    once = np.ones((1, groups.size), dtype=np.float32)
    weight = [_choice(measured.cells(once, cell)[0], eligible) for cell in cells]
    overall, worst = measured.drops(once, cells, weight)
    parts = [
        measured.drops(pair_weights(times, people), cells, weight) for times in multiplicities(people, draws, seed)
    ]
    share = np.mean([one.mean(axis=(0, 1)) for one in weight], axis=0)
    return Drops(
        overall=(overall[0], np.concatenate([part[0] for part in parts])),
        worst=(worst[0], np.concatenate([part[1] for part in parts])),
        chosen={name: float(share[g]) for g, name in enumerate(group_names) if eligible[g]},
        left_out=left_out,
    )


def _eligible(people: SubjectTable, names: Sequence[str]) -> tuple[npt.NDArray[np.bool_], dict[str, str]]:
    """Groups of enough people [G], and a word on the others."""
    inside = people.stratum[people.stratum >= 0]
    count = np.bincount(inside, minlength=len(names))
    left_out = {
        name: f"{count[g]} people; {FEWEST_PEOPLE} are needed to choose on one half and measure on the other"
        for g, name in enumerate(names)
        if count[g] < FEWEST_PEOPLE
    }
    if len(names) - len(left_out) < 2:
        raise ValueError(
            f"{len(names) - len(left_out)} of {len(names)} groups have {FEWEST_PEOPLE} people or more; two are needed."
        )
    return count >= FEWEST_PEOPLE, left_out


def _halves(people: SubjectTable, eligible: npt.NDArray[np.bool_], divisions: int, seed: int) -> list[IntArray]:
    """For every division the half (0 or 1) of each subject int64 [people], -1 for those of groups that are left out."""
    rng = np.random.default_rng([seed, divisions])
    found = []
    for _ in range(divisions):
        half = np.full(people.stratum.size, -1, dtype=np.int64)
        for g in np.flatnonzero(eligible):
            members = np.flatnonzero(people.stratum == g)
            half[members] = rng.permutation(np.arange(members.size) % 2)
        found.append(half)
    return found


def _cells(people: SubjectTable, group: IntArray, half: IntArray) -> IntArray:
    """Cell 2 g + h of every pair [P] whose two people are in half h of group g; -1 for the others."""
    first, second = half[people.first], half[people.second]
    return np.where((group >= 0) & (first == second) & (first >= 0), 2 * group + first, -1)


def _choice(accuracy: FloatArray, eligible: npt.NDArray[np.bool_]) -> FloatArray:
    """Weight of every group at seed s when it is measured on half h, [S, 2, G]: chosen elsewhere, ties shared.

    ``accuracy`` [S, G, 2] of the uncompressed models.
    """
    seeds = len(accuracy)
    others = (accuracy.sum(axis=0) - accuracy) / (seeds - 1) if seeds > 1 else accuracy
    others = np.where(eligible[:, None], others, np.inf)[..., ::-1]  # half h is judged by the other half
    lowest = others <= others.min(axis=1, keepdims=True) + TIE
    return np.asarray((lowest / lowest.sum(axis=1, keepdims=True)).transpose(0, 2, 1))


@dataclass(frozen=True)
class _Measured:
    """Decisions of S uncompressed runs followed by those of A models at S seeds each, bool [(1 + A) S, P]."""

    correct: npt.NDArray[np.bool_]
    same: npt.NDArray[np.bool_]
    n_groups: int
    seeds: int

    def _accuracy(self, weights: npt.NDArray[np.float32], cell: IntArray) -> FloatArray:
        """Percent, [draws, 1 + A, S, 2 G + 1]; the last place is over all pairs."""
        found = 100 * accuracy_draws(self.correct, weights, self.same, cell, 2 * self.n_groups)
        return found.reshape(len(weights), -1, self.seeds, 2 * self.n_groups + 1)

    def cells(self, weights: npt.NDArray[np.float32], cell: IntArray) -> FloatArray:
        """Accuracy of the uncompressed runs in every half of every group, [draws, S, G, 2]."""
        return self._accuracy(weights, cell)[:, 0, :, :-1].reshape(len(weights), self.seeds, self.n_groups, 2)

    def drops(
        self, weights: npt.NDArray[np.float32], cells: Sequence[IntArray], choice: Sequence[FloatArray]
    ) -> tuple[FloatArray, FloatArray]:
        """Drop of everyone and of the chosen groups, averaged over divisions, each [draws, A, S]."""
        overall, worst = [], []
        for cell, chosen in zip(cells, choice, strict=True):
            found = self._accuracy(weights, cell)
            lost = found[:, :1] - found[:, 1:]
            halves = lost[..., :-1].reshape(*lost.shape[:-1], self.n_groups, 2)
            where = chosen.transpose(0, 2, 1)  # [S, G, 2]
            taken = np.where(where > 0, halves * where, 0.0)
            worst.append(taken.sum(axis=-2).mean(axis=-1))
            overall.append(lost[..., -1])
        return np.mean(overall[:1], axis=0), np.mean(worst, axis=0)
