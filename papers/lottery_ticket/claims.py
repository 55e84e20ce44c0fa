"""The lottery ticket's claims, written down before any result of ours existed.

C1 to C5 are the paper's; C6 and F1 are ours. Accuracies are those at the early-stopping step unless a claim says otherwise.
Levels are numbers of prunings: 7, 9, 12, 16 leave 21.1, 13.5, 7.0 and 2.9 % of LeNet-300-100.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.experiment.claims import Claim, Contrast, Quantity, conjunction, superior, within

EARLY = (
    "early stop"  # the benchmark's name for decisions under the weights of that step; declaring claims imports no torch
)


def on(arm: str, metric: str = "accuracy") -> Quantity:
    """An arm at its early-stopping step."""
    return Quantity(arm, EARLY, metric)


def step(arm: str) -> Quantity:
    """The early-stopping step of an arm."""
    return on(arm, "number:step")


def initialisation_matters(prefix: str, levels: Sequence[int], draws: Sequence[int]) -> tuple[Claim, Claim]:
    """C1: tickets beat random reinitialisation from 21 to 2.9 %, and the gap is wider at the last level than at the first."""

    def gap(level: int, sign: float = 1.0) -> tuple[tuple[float, Quantity], ...]:
        others = [(-sign / len(draws), on(f"{prefix}reinit{draw}_{level:02d}")) for draw in draws]
        return ((sign, on(f"{prefix}ticket_{level:02d}")), *others)

    def words(level: int) -> str:
        return f"{prefix}ticket_{level:02d} - mean of {len(draws)} reinitialisations"

    text = "winning tickets beat the same masks with other initial weights from 21 down to 2.9 %"
    better = tuple(Contrast(gap(level), label=words(level)) for level in levels)
    wider = Contrast((*gap(levels[-1]), *gap(levels[0], -1.0)), label="gap at 2.9 % - gap at 21 %")
    return (
        Claim("C1", text, "superior", better),
        Claim("C1b", "and the gap grows as fewer weights remain", "superior", (wider,)),
    )


def tickets_match_the_dense_network(prefix: str, levels: Sequence[int], hill: int) -> tuple[Claim, Claim]:
    """C2: within 0.1 points of the dense network down to 3.6 %, and above it at 13.5 % ("Occam's hill")."""
    dense = on(f"{prefix}dense")
    parts = [within("", "", on(f"{prefix}ticket_{level:02d}"), dense, margin=0.1) for level in levels]
    return (
        conjunction("C2", "tickets lose at most 0.1 points to the dense network down to 3.6 %", parts),
        superior(
            "C2b", "and at 13.5 % a ticket is better than the dense network", on(f"{prefix}ticket_{hill:02d}"), dense
        ),
    )


def tickets_learn_faster(prefix: str, level: int) -> Claim:
    """C3: at 21 % the ticket's validation loss is smallest sooner than the dense network's, the reinitialised one's later."""
    dense, ticket, reinit = (step(f"{prefix}{arm}") for arm in ("dense", f"ticket_{level:02d}", f"reinit1_{level:02d}"))
    parts = [superior("", "", dense, ticket), superior("", "", reinit, dense)]
    return conjunction(
        "C3", "at 21 % the ticket stops earlier than the dense network, the reinitialised one later", parts
    )


def iterative_beats_one_shot(prefix: str, levels: Sequence[int]) -> Claim:
    """C4: where at most 5 % remain, iterative pruning is more accurate than one-shot pruning."""
    parts = [superior("", "", on(f"{prefix}ticket_{n:02d}"), on(f"{prefix}oneshot_{n:02d}")) for n in levels]
    return conjunction("C4", "at 5 % and less, iterative pruning finds better tickets than one-shot pruning", parts)


def global_beats_layerwise(key: str, pairs: Sequence[tuple[str, str]], where: str) -> Claim:
    """C5: on a network with layers of very different sizes one ranking over all of them is better at 5 % and less."""
    parts = [superior("", "", on(everywhere), on(each)) for everywhere, each in pairs]
    return conjunction(key, f"{where}: ranking all layers together beats layer by layer at 5 % and less", parts)


def resetting_costs_nothing(prefix: str, levels: Sequence[int]) -> Claim:
    """C6, the survey's question: down to 20 % resetting and fine-tuning end within 0.5 points of each other."""
    parts = []
    for n in levels:
        reset, tuned = on(f"{prefix}ticket_{n:02d}"), on(f"{prefix}finetune_{n:02d}")
        parts += [
            within("", "", one, other, margin=0.5, source="suite") for one, other in ((reset, tuned), (tuned, reset))
        ]
    text = "down to 21 % a reset ticket and the fine-tuned network with its mask are within 0.5 points of each other"
    return conjunction("C6", text, parts)


def gap_widens(prefix: str, level: int, percent: str) -> Claim:
    """F1, ours: pruning widens the gap between the best and the worst class, at the end of training."""
    ticket, dense = (Quantity(f"{prefix}{arm}", "test", "group_gap") for arm in (f"ticket_{level:02d}", "dense"))
    text = (
        f"the winning ticket of {percent} % has a wider gap between its best and its worst class than the dense network"
    )
    return superior("F1", text, ticket, dense, source="suite")
