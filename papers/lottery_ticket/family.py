"""One network on one data set: the search for its tickets, and the controls at the same masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from common.experiment.arm import Arm, Phase
from common.experiment.spec import Spec, WeightsOf, spec

METHOD = "papers.lottery_ticket.method.LotteryTicket"
BEGIN = Phase("begin", compute="begin")
PRUNING = ("rate", "rates", "scope")  # options that level 0 does not read


@dataclass(frozen=True)
class Family:
    """What the arms of one network share. A level is the number of prunings; level 0 is the dense network.

    Attributes:
        prefix: of the arms' names; title: of the network.
        network, data, benchmark: specs. steps: of every training.
        sizes: (weights, share that one pruning removes of them) of the layers that are pruned.
        options: of the method, shared by all arms; `rate`, `rates`, `scope` and `dense` among them.
        dense_title, dense_prefix: of the dense network, where another family has it (the way of pruning does not change it).
    """

    prefix: str
    title: str
    network: Spec
    data: Spec
    benchmark: Spec
    steps: int
    sizes: tuple[tuple[int, float], ...]
    options: dict[str, Any] = field(default_factory=dict)
    dense_title: str = ""
    dense_prefix: str = ""

    def remaining(self, level: int) -> float:
        """P_m in percent: P_k = sum_l n_l (1 - p_l)^k / sum_l n_l."""
        return 100 * sum(n * (1 - p) ** level for n, p in self.sizes) / sum(n for n, _ in self.sizes)

    def dense(self) -> Arm:
        """Level 0: the first training, which the reference, every ticket and every control begin with."""
        options = {name: value for name, value in self.options.items() if name not in PRUNING}
        owner = replace(
            self, prefix=self.dense_prefix or self.prefix, title=self.dense_title or self.title, options=options
        )
        return owner._arm("dense", "dense", "winning ticket", {}, 0)

    def ticket(self, level: int) -> Arm:
        """The winning ticket of a level: pruned after the level before, and put back to theta_0."""
        if level == 0:
            return self.dense()
        return self._arm(
            self._name("ticket", level), "winning ticket", "winning ticket", self._after(self.ticket(level - 1)), level
        )

    def reinitialised(self, level: int, draw: int = 1) -> Arm:
        """Control: the ticket's mask, other initial weights."""
        options = {**self._after(self.ticket(level - 1)), "start": "reinit", "draw": draw}
        words = "random reinitialisation"
        return self._arm(self._name(f"reinit{draw}", level), f"{words} {draw}", words, options, level)

    def random_mask(self, level: int) -> Arm:
        """Control: as many weights of every layer at random places, other initial weights."""
        options = {**self._after(self.ticket(level - 1)), "start": "random_mask", "draw": 1}
        return self._arm(self._name("random", level), "random mask", "random mask", options, level)

    def one_shot(self, level: int) -> Arm:
        """Control: pruned once, after the first training, to what the level leaves; put back to theta_0."""
        options = {**self._after(self.dense()), "rounds": level}
        return self._arm(self._name("oneshot", level), "one-shot", "one-shot", options, level)

    def finetuned(self, level: int) -> Arm:
        """Ours, after the survey: the ticket's mask, and the trained weights go on as they are, for as many steps."""
        options = {**self._after(self.ticket(level - 1)), "start": "finetune"}
        return self._arm(
            self._name("finetune", level), "fine-tuned, not reset (ours)", "fine-tuned (ours)", options, level
        )

    def continued(self, level: int) -> Arm:
        """Appendix B, strategy 2: pruned and trained on level after level, put back to theta_0 only at the end."""
        options = self._after(self._trained_on(level - 1))
        words = "continued training, reset once"
        return self._arm(self._name("continued", level), words, words, options, level)

    def _trained_on(self, level: int) -> Arm:
        if level == 0:
            return self.dense()
        options = {**self._after(self._trained_on(level - 1)), "start": "finetune"}
        return self._arm(self._name("trained_on", level), "continued training", "", options, level)

    def _after(self, arm: Arm) -> dict[str, Any]:
        return {"trained": WeightsOf(arm)}

    def _name(self, kind: str, level: int) -> str:
        return f"{kind}_{level:02d}"

    def _arm(self, kind: str, words: str, series: str, options: dict[str, Any], level: int) -> Arm:
        left = f", {self.remaining(level):.1f} %" if level else ""
        return Arm(
            name=f"{self.prefix}{kind}",
            title=f"{self.title}: {words}{left}",
            method=spec(METHOD, network=self.network, steps=self.steps, **{**self.options, **options}),
            data=self.data,
            benchmark=self.benchmark,
            phases=(BEGIN, Phase("train", steps=self.steps)),
            series=f"{self.title}, {series}" if series else "",
            baseline=f"{self.dense_prefix or self.prefix}dense" if level else None,
        )


def pruned_otherwise(family: Family, prefix: str, words: str, **options: Any) -> Family:
    """The same network and dense training, pruned in another way, as rows of their own."""
    return replace(
        family,
        prefix=f"{family.prefix}{prefix}",
        title=f"{family.title}, {words}",
        options={**family.options, **options},
        dense_title=family.title,
        dense_prefix=family.prefix,
    )


def search(family: Family, levels: Sequence[int]) -> list[Arm]:
    """The dense network and its tickets at these levels; the levels between are run and are no rows."""
    return [family.dense(), *(family.ticket(level) for level in levels)]
