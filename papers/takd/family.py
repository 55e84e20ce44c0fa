"""One line of networks on one data set: every network alone, and every chain of teachers, as arms that share their hops."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.experiment.arm import Arm, Phase
from common.experiment.spec import Spec, WeightsOf, spec

METHOD = "papers.takd.method.TAKD"
TEACHER = "common.distillation.teacher.Teacher"
ASSISTANTS = "papers.takd.heuristic.Assistants"


def chains(teacher: int, student: int, between: Sequence[int]) -> list[tuple[int, ...]]:
    """All 2^n ways from the teacher down to the student over n sizes between them, the shortest first."""
    falling = sorted(between, reverse=True)
    chosen = (c for count in range(len(falling) + 1) for c in itertools.combinations(falling, count))
    return [(teacher, *sizes, student) for sizes in chosen]


@dataclass(frozen=True)
class Chain:
    """What the arms of one line of networks share.

    Attributes:
        prefix: of the arms' names; title: of a network, with `{}` for its size.
        networks: size -> spec; data, benchmark: specs; epochs: of every hop.
        recipe: options of the method that all arms share; hop: those of every hop with a teacher (lam, temperature, ...);
        overrides: (teacher's size, student's size) -> options of that hop alone.
        watched: sizes whose arms are watched on the test part, as the paper's protocol does.
    """

    prefix: str
    title: str
    networks: Mapping[int, Spec]
    data: Spec
    benchmark: Spec
    epochs: int
    recipe: Mapping[str, Any] = field(default_factory=dict)
    hop: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[tuple[int, int], Mapping[str, Any]] = field(default_factory=dict)
    watched: tuple[int, ...] = ()

    def alone(self, size: int, epochs: int | None = None) -> Arm:
        """NOKD: trained from labels alone; `epochs` for a control that trains as long as a whole chain."""
        longer = epochs is not None
        return self._arm(
            f"nokd_{size}" + "_long" * longer,
            f"{self.title.format(size)}, no KD" + f", {epochs} epochs" * longer,
            size,
            {"lam": 0.0},
            "no KD" + ", longer" * longer,
            epochs=epochs,
        )

    def path(self, *sizes: int) -> Arm:
        """N_0 -> ... -> N_k hop by hop: one size is NOKD, two are BLKD, more are TAKD; the arm is the last hop.

        Raises:
            ValueError: sizes that do not fall.
        """
        if not sizes or list(sizes) != sorted(set(sizes), reverse=True):
            raise ValueError(f"sizes are {sizes}: expected falling ones, teacher first")
        if len(sizes) == 1:
            return self.alone(sizes[0])
        before, size = self.path(*sizes[:-1]), sizes[-1]
        options = {"teacher": self._trained(sizes[-2], before), **self._hop(sizes[-2], size)}
        kind = {2: "BLKD", 3: "TAKD, one assistant"}.get(len(sizes), f"TAKD, {len(sizes) - 2} assistants")
        return self._arm(
            "path_" + "_".join(map(str, sizes)),
            f"{self.title.format(size)}, " + " → ".join(map(str, sizes)),
            size,
            options,
            kind,
            baseline=f"nokd_{size}",
            teacher=self._name(sizes[:-1]),
        )

    def paths(self, teacher: int, student: int, between: Sequence[int]) -> list[Arm]:
        """Every chain from teacher to student, and before them the hops that make their assistants."""
        ends = chains(teacher, student, between)
        hops = {sizes[:count]: None for sizes in ends for count in range(2, len(sizes))}
        return [self.path(*sizes) for sizes in (*sorted(hops, key=lambda sizes: (len(sizes), sizes)), *ends)]

    def nearest(self, teacher: int, student: int, between: Sequence[int]) -> Arm:
        """TAKD with the one assistant that the paper's heuristic takes, by validation accuracies of the same seed."""
        assistants = spec(
            ASSISTANTS,
            teacher=self._trained(teacher, self.alone(teacher)),
            student=self._trained(student, self.alone(student)),
            alone=[self._trained(size, self.alone(size)) for size in between],
            distilled=[self._trained(size, self.path(teacher, size)) for size in between],
        )
        return self._arm(
            f"nearest_{teacher}_{student}",
            f"{self.title.format(student)}, {teacher} → nearest to the mean → {student}",
            student,
            {"teaching_assistants": assistants, **self.hop},
            "TAKD, one assistant",
            baseline=f"nokd_{student}",
            choose=True,
        )

    def variant(self, kind: str, words: str, teacher: int, student: int, **options: Any) -> Arm:
        """BLKD with other options of the hop."""
        return self._arm(
            f"{kind}_{teacher}_{student}",
            f"{self.title.format(student)}, {teacher} → {student}, {words}",
            student,
            {"teacher": self._trained(teacher, self.alone(teacher)), **self._hop(teacher, student), **options},
            f"BLKD, {words}",
            baseline=f"nokd_{student}",
            teacher=self._name((teacher,)),
        )

    def _hop(self, teacher: int, student: int) -> dict[str, Any]:
        return {**self.hop, **self.overrides.get((teacher, student), {})}

    def _trained(self, size: int, arm: Arm) -> Spec:
        return spec(TEACHER, network=self.networks[size], weights=WeightsOf(arm))

    def _name(self, sizes: Sequence[int]) -> str:
        return self.prefix + (f"nokd_{sizes[0]}" if len(sizes) == 1 else "path_" + "_".join(map(str, sizes)))

    def _arm(
        self,
        kind: str,
        title: str,
        size: int,
        options: dict[str, Any],
        series: str,
        epochs: int | None = None,
        baseline: str = "",
        teacher: str = "",
        choose: bool = False,
    ) -> Arm:
        options = {**self.recipe, **options, "watch_test": size in self.watched}
        first = (Phase("choose", compute="choose"),) if choose else ()
        return Arm(
            name=f"{self.prefix}{kind}",
            title=title,
            method=spec(METHOD, network=self.networks[size], **options),
            data=self.data,
            benchmark=self.benchmark,
            phases=(*first, Phase("train", epochs=epochs or self.epochs)),
            series=series,
            baseline=f"{self.prefix}{baseline}" if baseline else None,
            teacher=teacher or None,
        )
