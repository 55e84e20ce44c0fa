"""One network on one data set, dense and pruned in every way: the rows that NISP's tables have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from common.experiment.arm import Arm, Phase
from common.experiment.spec import DataFile, Spec, WeightsOf, spec

METHOD = "papers.nisp.method.NISP"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "nisp": ("NISP", {}),
    "nisp_no_frl": ("NISP without ranking", {"ranking": "uniform"}),
    "nisp_bn_gamma": ("NISP, BN scales", {"norms": "scale"}),
    "nisp_no_zero": ("NISP, pruned scores flow (ours)", {"zero_pruned": False}),
    "magnitude": ("magnitude", {"criterion": "magnitude"}),
    "random": ("random", {"criterion": "random"}),
    "scratch": ("scratch", {"redraw": True}),
    "nisp_iterative": ("NISP, three rounds (ours)", {"rounds": 3}),
}
ROUNDS = 3


@dataclass(frozen=True)
class Family:
    """What the arms of one network share.

    Attributes:
        prefix: of the arms' names; title: of the network.
        network, data, benchmark: specs.
        epochs: of the dense training; tuned: of the fine-tuning after pruning, 0 for none.
        dense_recipe, tuning_recipe: options of the method in the two.
        weights: published weights in place of a training of our own.
        reported: key of the paper's rows for this network; empty for none.
    """

    prefix: str
    title: str
    network: Spec
    data: Spec
    benchmark: Spec
    epochs: int
    tuned: int
    dense_recipe: dict[str, Any] = field(default_factory=dict)
    tuning_recipe: dict[str, Any] = field(default_factory=dict)
    weights: DataFile | None = None
    reported: str = ""

    def dense(self) -> Arm:
        """The reference, trained or published; every pruned arm of the same seed starts from it."""
        options = {**self.dense_recipe, "ratio": 0.0}
        if self.weights is not None:
            options["weights"] = self.weights
        phases = () if self.weights is not None else (Phase("train", epochs=self.epochs),)
        return self._arm("dense", "dense", "dense", options, phases)

    def longer(self) -> Arm:
        """Control: the dense network with the epochs of fine-tuning on top."""
        options = {**self.tuning_recipe, "weights": self._start(), "ratio": 0.0}
        return self._arm(
            "dense_longer", "dense, fine-tuned too", "dense", options, (Phase("finetune", epochs=self.tuned),)
        )

    def pruned(self, variant: str, ratio: float, **changes: Any) -> Arm:
        """Every hidden layer loses a share of its neurons and channels.

        Args:
            variant: of `VARIANTS`. ratio: the share. changes: to the variant's options.
        """
        words, options = VARIANTS[variant]
        percent = round(100 * ratio, 4)
        recipe = self.tuning_recipe
        if variant == "scratch":  # as the dense network is trained, for as many epochs as the others are fine-tuned
            recipe = {**recipe, **self.dense_recipe}
        options = {**recipe, **options, "weights": self._start(), "ratio": ratio, **changes}
        options["tracked_epochs"] = self.tuned
        arm_title = f"{words}, {percent:g} %"
        return self._arm(f"{variant}_{percent:g}", arm_title, words, options, self._phases(options), pruned=True)

    def scratch_long(self, ratio: float) -> Arm:
        """Control (ours): from scratch for as many epochs as training and fine-tuning have together."""
        percent, words = round(100 * ratio, 4), "scratch, all epochs (ours)"
        options = {**self.tuning_recipe, **self.dense_recipe, "weights": self._start(), "ratio": ratio, "redraw": True}
        phases = (Phase("prune", compute="prune"), Phase("train", epochs=self.epochs + self.tuned))
        return self._arm(f"scratch_long_{percent:g}", f"{words}, {percent:g} %", words, options, phases, pruned=True)

    def _start(self) -> DataFile | WeightsOf:
        return self.weights if self.weights is not None else WeightsOf(self.dense())

    def _phases(self, options: dict[str, Any]) -> tuple[Phase, ...]:
        """Prune and fine-tune, once or in rounds that share the epochs."""
        if options.get("rounds", 1) == 1:
            tuning = (Phase("finetune", epochs=self.tuned),) if self.tuned else ()
            return (Phase("prune", compute="prune"), *tuning)
        phases: list[Phase] = []
        for i in range(ROUNDS):
            epochs = self.tuned * (i + 1) // ROUNDS - self.tuned * i // ROUNDS
            phases += [Phase(f"prune {i + 1}", compute="prune"), Phase(f"finetune {i + 1}", epochs=epochs)]
        return tuple(phases)

    def _arm(
        self,
        kind: str,
        words: str,
        series: str,
        options: dict[str, Any],
        phases: tuple[Phase, ...],
        pruned: bool = False,
    ) -> Arm:
        return Arm(
            name=f"{self.prefix}{kind}",
            title=f"{self.title}: {words}",
            method=spec(METHOD, network=self.network, **options),
            data=self.data,
            benchmark=self.benchmark,
            phases=phases,
            series=f"{self.title}, {series}",
            reported=f"{self.reported}_{kind}" if self.reported else None,
            baseline=f"{self.prefix}dense" if pruned else None,
        )
