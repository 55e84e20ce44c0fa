"""What stored runs say about single quantities: seeds in common, and the draws of the bootstrap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from common.experiment.claims import NUMBER_PREFIX, Claim, Quantity
from common.experiment.records import PairTable, RunRecord
from common.experiment.resampling import Accuracies, FloatArray, draw_seeds, resampled_pool


class NotJudged(Exception):
    """A claim cannot be judged from these runs; the message is the reason that is printed."""


class Evidence:
    """The runs of a table, resampled: the same people and seeds for every arm and claim.

    Args:
        runs: every arm at every seed.
        quantities: those that will be asked for; only their pair sets and arms are resampled.
        draws: number of draws B; seed: of the random stream.

    Raises:
        ValueError: two runs of one arm and seed.
    """

    def __init__(self, runs: Sequence[RunRecord], quantities: Iterable[Quantity], draws: int, seed: int) -> None:
        self.draws, self.seed = draws, seed
        self.runs: dict[str, dict[int, RunRecord]] = {}
        for run in sorted(runs, key=lambda run: (run.arm, run.seed)):
            if run.seed in self.runs.setdefault(run.arm, {}):
                raise ValueError(f"{run} is there twice: give every arm one run a seed")
            self.runs[run.arm][run.seed] = run
        asked = sorted({(quantity.pair_set, quantity.arm) for quantity in quantities})
        self._keys: dict[str, list[tuple[str, int]]] = {}
        for name, arm in asked:
            scored = [(arm, at) for at, run in self.runs.get(arm, {}).items() if run.ok and name in run.correct]
            self._keys.setdefault(name, []).extend(scored)
        self._tables: dict[str, PairTable] = {
            name: self._run(keys[0]).pairs[name] for name, keys in self._keys.items() if keys
        }
        self._accuracies: dict[str, Accuracies] = {}

    def _run(self, key: tuple[str, int]) -> RunRecord:
        return self.runs[key[0]][key[1]]

    def shared_seeds(self, claim: Claim) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Seeds at which every arm of the claim is ok, and notes about those that are not.

        Raises:
            NotJudged: an arm was not run, or is ok at no seed, or the arms have no seed in common.
        """
        good: dict[str, set[int]] = {}
        every: set[int] = set()
        for arm in claim.arms:
            known = self.runs.get(arm, {})
            good[arm] = {at for at, run in known.items() if run.ok}
            every |= set(known)
            if not known:
                raise NotJudged(f"arm '{arm}' was not run")
            if not good[arm]:
                raise NotJudged(f"arm '{arm}' has no finished run: {'; '.join(map(_fate, known.values()))}")
        shared = tuple(sorted(set.intersection(*good.values())))
        if not shared:
            have = ", ".join(f"{arm}: {sorted(seeds)}" for arm, seeds in good.items())
            raise NotJudged(f"the arms have no finished seed in common ({have})")
        notes = []
        for at in sorted(every - set(shared)):
            without = ", ".join(arm for arm in claim.arms if at not in good[arm])
            notes.append(f"seed {at} is left out: no finished run of {without}")
        if len(shared) == 1:
            notes.append("one seed only: the interval covers the choice of people, not of training")
        return shared, tuple(notes)

    def values(self, quantity: Quantity, seeds: Sequence[int]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """A quantity over the given seeds.

        Returns:
            mean over seeds []; its draws over people [B]; deviation of the draws' resampled seeds from that [B]. Their
            sum is the hierarchical bootstrap of seeds and people.

        Raises:
            NotJudged: the pair set or the group was not measured, or arms were scored on different pairs.
        """
        name = quantity.pair_set
        wanted = [(quantity.arm, at) for at in seeds]
        if quantity.metric.startswith(NUMBER_PREFIX):
            return self._numbers(quantity, seeds)
        absent = [key for key in wanted if key not in self._keys.get(name, [])]
        if absent:
            raise NotJudged(f"{self._run(absent[0])} has no decisions on pair set '{name}'")
        for key in wanted:
            if not self._run(key).pairs[name].agrees_with(self._tables[name]):
                first = self._run(self._keys[name][0])
                raise NotJudged(f"{self._run(key)} and {first} were scored on different pairs of '{name}'")
        try:
            point, draws = self._resampled(name).of(quantity)
        except LookupError as error:
            raise NotJudged(str(error)) from error
        columns = [self._column(name, key) for key in wanted]
        shares = draw_seeds(seeds, self.draws, self.seed)
        with np.errstate(invalid="ignore"):
            return point[columns].mean(), draws[:, columns].mean(axis=1), shares @ point[columns]

    def _numbers(self, quantity: Quantity, seeds: Sequence[int]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """A number of the runs' metrics that has no decisions: nothing but the seeds is drawn."""
        key = quantity.metric.removeprefix(NUMBER_PREFIX)
        if len(seeds) < 2:
            raise NotJudged(f"'{key}' varies with the seed alone, and there is one seed only")
        runs = [self._run((quantity.arm, at)) for at in seeds]
        found = [run.metrics.get(quantity.pair_set, {}).get(key) for run in runs]
        for run, value in zip(runs, found, strict=True):
            if not isinstance(value, int | float) or not np.isfinite(value):
                raise NotJudged(f"{run} has no number '{key}' on '{quantity.pair_set}'")
        point = np.array(found, dtype=np.float64)
        return point.mean(), np.full(self.draws, point.mean()), draw_seeds(seeds, self.draws, self.seed) @ point

    def subjects(self, claim: Claim) -> int:
        """Number of different people in the pair sets of a claim."""
        members: dict[str, set[int]] = {}
        for name in {q.pair_set for q in claim.quantities if not q.metric.startswith(NUMBER_PREFIX)}:
            table = self._tables[name]
            members.setdefault(table.pool, set()).update(np.union1d(table.subject_a, table.subject_b).tolist())
        return sum(map(len, members.values()))

    def _agreeing(self, name: str) -> list[tuple[str, int]]:
        table = self._tables[name]
        return [key for key in self._keys[name] if self._run(key).pairs[name].agrees_with(table)]

    def _column(self, name: str, key: tuple[str, int]) -> int:
        return self._agreeing(name).index(key)

    def _resampled(self, name: str) -> Accuracies:
        """Accuracies of every agreeing run on one pair set; all sets of its pool are resampled at once."""
        if name not in self._accuracies:
            pool = self._tables[name].pool
            tables = {other: table for other, table in self._tables.items() if table.pool == pool}
            correct = {
                other: np.stack([self._run(key).correct[other] for key in self._agreeing(other)]) for other in tables
            }
            try:
                self._accuracies.update(resampled_pool(tables, correct, self.draws, self.seed))
            except ValueError as error:
                raise NotJudged(f"the people of '{name}' cannot be resampled: {error}") from error
        return self._accuracies[name]


def _fate(run: RunRecord) -> str:
    why = (run.error or {}).get("message") or (run.error or {}).get("type")
    return f"seed {run.seed} {run.status}" + (f" ({why})" if why else "")
