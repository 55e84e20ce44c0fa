"""One network at several widths on one data set, dense and pruned in every way: the rows that the tables have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.experiment.arm import Arm, Phase
from common.experiment.spec import Spec, WeightsOf, spec
from papers.to_prune_or_not.footprint import Footprint

METHOD = "papers.to_prune_or_not.method.GradualPruning"
BENCHMARK = "papers.to_prune_or_not.benchmark.FootprintBenchmark"


@dataclass(frozen=True)
class Width:
    """A network at one width: its spec and how many parameters it has."""

    network: Spec
    footprint: Footprint


@dataclass(frozen=True)
class Schedule:
    """Lengths in optimiser steps: `start` of dense training at a constant rate, then `steps` with a falling one.

    Every arm has both, dense ones too. In the second part masks are updated from `begin` to `end`, every `every` steps.
    """

    start: int
    steps: int
    begin: int
    end: int
    every: int


@dataclass(frozen=True)
class Family:
    """What the arms of one network share.

    Attributes:
        prefix: of the arms' names; title: of the network.
        widths: by factor; 1 is the large network that everything is compared with.
        data: spec. schedule: see `Schedule`.
        dense: names of layers that stay dense.
        recipe: options of the method that all arms share.
        reported: key of the paper's rows for this network; empty for none.
    """

    prefix: str
    title: str
    widths: Mapping[float, Width]
    data: Spec
    schedule: Schedule
    dense: tuple[str, ...] = ()
    recipe: dict[str, Any] = field(default_factory=dict)
    reported: str = ""

    def small_dense(self, width: float) -> Arm:
        """A network that is never pruned."""
        words = f"dense, width {width:g}"
        return self._arm(
            f"dense_w{width:g}", words, "dense, of several widths", width, 0.0, {}, None if width == 1 else 1
        )

    def sparse(self, percent: float, width: float = 1.0) -> Arm:
        """Pruned gradually to a sparsity in percent."""
        at, words = ("", "") if width == 1 else (f"w{width:g}_", f"width {width:g}, ")
        return self._gradual(f"{at}sparse_{percent:g}", f"{words}pruned {percent:g} %", width, percent / 100)

    def matched(self, width: float) -> Arm:
        """The large network with as many non-zero parameters as the dense one of a width: the card's matching rule."""
        sparsity = self.widths[1].footprint.sparsity_for(self.widths[width].footprint.parameters)
        words = f"pruned {100 * sparsity:.1f} % (NNZ of dense, width {width:g})"
        return self._gradual(f"matched_w{width:g}", words, 1.0, sparsity)

    def mild(self, width: float, percent: float) -> Arm:
        """Ours: a narrower network, pruned to the number of non-zero parameters that the large one has at `percent`."""
        sparsity = self.widths[width].footprint.sparsity_for(self.widths[1].footprint.nnz(percent / 100))
        words = f"width {width:g}, pruned {100 * sparsity:.1f} % (NNZ of width 1 at {percent:g} %; ours)"
        return self._gradual(f"mild_w{width:g}_as_{percent:g}", words, width, sparsity)

    def variant(self, kind: str, words: str, percent: float, **options: Any) -> Arm:
        """The large network pruned in another way; `kind` becomes part of the name, `words` of the title."""
        title = f"pruned {percent:g} %, {words}"
        return self._arm(f"{kind}_{percent:g}", title, words, 1.0, percent / 100, options, 1.0)

    def interval(self, every: int, percent: float = 90) -> Arm:
        """Masks updated at another interval dt."""
        words = f"masks every {every:,} steps"
        title = f"pruned {percent:g} %, {words}"
        return self._arm(f"dt_{every}", title, words, 1.0, percent / 100, {"every": every}, 1.0)

    def start(self, width: float) -> Arm:
        """The first part of every arm of a width: dense, at a constant rate. No row of a table."""
        return Arm(
            name=f"{self.prefix}start_w{width:g}",
            title=f"{self.title}: dense start, width {width:g}",
            method=spec(METHOD, network=self.widths[width].network, sparsity=0.0, dense=self.dense, **self._constant()),
            data=self.data,
            benchmark=self._benchmark(),
            phases=(Phase("train", steps=self.schedule.start),),
        )

    def _constant(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.recipe.items() if not name.startswith("lr_")}
        return {**kept, "lr_decay": "constant"}

    def _benchmark(self) -> Spec:
        return spec(BENCHMARK, largest=self.widths[1].footprint.parameters)

    def _gradual(self, kind: str, words: str, width: float, sparsity: float) -> Arm:
        series = f"width {width:g}, pruned"
        return self._arm(kind, words, series, width, sparsity, {}, width)

    def _arm(
        self,
        kind: str,
        words: str,
        series: str,
        width: float,
        sparsity: float,
        options: dict[str, Any],
        baseline: float | None,
    ) -> Arm:
        s = self.schedule
        when = {"begin": s.begin, "end": s.end, "every": s.every} if sparsity else {}
        return Arm(
            name=f"{self.prefix}{kind}",
            title=f"{self.title}: {words}",
            method=spec(
                METHOD,
                network=self.widths[width].network,
                weights=WeightsOf(self.start(width)),
                sparsity=round(sparsity, 6),
                dense=self.dense,
                **{**self.recipe, **when, **options},
            ),
            data=self.data,
            benchmark=self._benchmark(),
            phases=(Phase("prune" if sparsity else "train", steps=s.steps),),
            series=f"{self.title}, {series}",
            reported=f"{self.reported}_{kind}" if self.reported else None,
            baseline=None if baseline is None else f"{self.prefix}dense_w{baseline:g}",
        )
