"""TAKD's claims, written down before any result of ours existed.

C1 to C5 are the paper's; W is its explanation; C6, the F and the G claims are ours. A scale judges those that its arms can
speak to. Quantities are accuracies; margins are in percent points.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.experiment.claims import (
    NUMBER_PREFIX,
    Claim,
    Contrast,
    Quantity,
    conjunction,
    monotone,
    superior,
    within,
)

TEST, TEACHER, BEST_EPOCH, ENTROPY = "test", "teacher", "best epoch", "softened_entropy"  # see `papers.takd.benchmark`
TIE = 0.2  # what counts as equal in ">="
NOISE = 0.5  # "within noise": the single-assistant rows of the paper lie up to 0.76 apart


def on(arm: str, pair_set: str = TEST, metric: str = "accuracy") -> Quantity:
    """An arm on the test part."""
    return Quantity(arm, pair_set, metric)


def distillation_helps(key: str, blkd: str, nokd: str) -> Claim:
    """C1: BLKD >= NOKD for the small student."""
    return superior(
        f"C1{key}", "the small student learns more from the large teacher than from labels alone", on(blkd), on(nokd)
    )


def assistant_helps(key: str, takd: str, blkd: str) -> Claim:
    """C2: TAKD with one assistant >= BLKD for the largest gap."""
    return superior(f"C2{key}", "one assistant beats distilling straight from the largest teacher", on(takd), on(blkd))


def largest_teacher_is_not_best(key: str, largest: str, smaller: Sequence[str]) -> Claim:
    """C3: student accuracy rises, then falls with the size of its teacher. Claimed of the mean over the smaller teachers.

    If their mean lies above the largest teacher, at least one of them does.
    """
    share = 1 / len(smaller)
    terms = (*((share, on(arm)) for arm in smaller), (-1.0, on(largest)))
    label = f"mean of {', '.join(smaller)} - {largest}"
    text = "teachers of the sizes in between teach the small student better, on average, than the largest one"
    return Claim(f"C3{key}", text, "superior", (Contrast(terms, label=label),))


def heuristic_chooses_well(key: str, chosen: str, singles: Sequence[str]) -> Claim:
    """C4: the assistant nearest to the mean accuracy is at least as good as any other single one, within noise."""
    parts = [within("", "", on(chosen), on(single), margin=NOISE) for single in singles]
    text = (
        f"the assistant whose accuracy is nearest to the mean is at most {NOISE} points worse than any other single one"
    )
    return conjunction(f"C4{key}", text, parts)


def longer_paths_help(key: str, full: str, one: str, blkd: str) -> Claim:
    """C5: full path >= one assistant >= BLKD."""
    parts = [within("", "", on(full), on(one), margin=TIE), within("", "", on(one), on(blkd), margin=TIE)]
    text = f"full path >= one assistant >= straight distillation (at most {TIE} points below each)"
    return conjunction(f"C5{key}", text, parts)


def larger_networks_are_sharper(key: str, falling: Sequence[str]) -> Claim:
    """W: the paper's explanation: the larger a network, the sharper its softened outputs. Arms from the smallest on."""
    metric = f"{NUMBER_PREFIX}{ENTROPY}"
    text = "softened by the same temperature, the outputs of larger networks have less entropy"
    return monotone(f"W{key}", text, [on(arm, metric=metric) for arm in falling])


def not_only_more_training(key: str, takd: str, longer: str) -> Claim:
    """G1, ours: TAKD beats labels alone with as many epochs in all as the chain."""
    text = "one assistant beats training the student alone for as many epochs as the whole chain"
    return superior(f"G1{key}", text, on(takd), on(longer), source="suite")


def gap_does_not_widen(key: str, takd: str, blkd: str, pair_set: str = TEST, kind: str = "class") -> Claim:
    """F1 (ours, not the paper's): the assistant does not pay with the worst group."""
    text = f"with one assistant the gap between the best and the worst {kind} is no larger than without (ours, not the paper's)"
    return superior(f"F1{key}", text, on(blkd, pair_set, "group_gap"), on(takd, pair_set, "group_gap"), source="suite")


def transfers_to_faces(key: str, takd: str, direct: str, student: str, pair_set: str) -> Claim:
    """C6, ours: the ordering TAKD > direct > labels alone holds for verification with embeddings."""
    parts = [
        superior("", "", on(takd, pair_set), on(direct, pair_set), source="suite"),
        superior("", "", on(direct, pair_set), on(student, pair_set), source="suite"),
    ]
    text = f"faces, {pair_set} pairs: a chain over one assistant beats direct distillation, which beats labels alone (ours)"
    return conjunction(f"C6{key}", text, parts)
