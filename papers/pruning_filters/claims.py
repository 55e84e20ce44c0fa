"""The claims of Li et al. 2017, written down before any result of ours existed.

C1 to C8 are the paper's; C3b is what Liu et al. 2019 found against it; F is ours. A scale judges those that its arms can
speak to; arms that are measured on other images than the rest (fewer classes, ImageNet) are in no claim. Quantities are
accuracies, so that an error that is 0.5 points higher is an accuracy that is 0.5 points lower.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.experiment.claims import Claim, Contrast, Quantity, conjunction, superior, within
from papers.pruning_filters.configurations import ORDER, SET

EARLY, LATE = "early layers at 50 %", "late layers at 50 %"


def on(arm: str, metric: str = "accuracy", pair_set: str = SET) -> Quantity:
    """An arm on the test part."""
    return Quantity(arm, pair_set, metric)


def smallest_filters_matter_least(key: str, sensitivity: str) -> Claim:
    """C1: one layer at 50 to 90 %, not retrained: smallest >= random > largest in at least 80 % of the cases."""
    text = "of single layers pruned by 50 to 90 % without retraining, over 80 % follow smallest >= random > largest"
    test = Contrast(((1.0, on(sensitivity, pair_set=ORDER)),), bound=80.0)
    return Claim(key, text, "superior", (test,), 80.0)


def order_of_criteria(key: str, smallest: str, chance: str, largest: str, percent: str) -> Claim:
    """C1 on whole networks: smallest beats random beats largest."""
    parts = [superior("", "", on(smallest), on(chance)), superior("", "", on(chance), on(largest))]
    text = f"all layers at {percent}, not retrained: removing the smallest beats random filters, these beat the largest"
    return conjunction(key, text, parts)


def pruning_is_nearly_free(key: str, dense: str, pruned: str, words: str) -> Claim:
    """C2: after retraining within 0.5 points of the dense network."""
    return within(key, f"{words} loses at most 0.5 points after retraining", on(pruned), on(dense), margin=0.5)


def retraining_beats_scratch(key: str, retrained: str, scratch: str, words: str) -> tuple[Claim, Claim]:
    """C3: over 1 point better than the same architecture from scratch; C3b, of Liu et al. 2019: scratch is as good (0.5)."""
    return (
        superior(
            key,
            f"{words}: retraining beats training from scratch by over 1 point",
            on(retrained),
            on(scratch),
            margin=1.0,
        ),
        within(
            f"{key}b",
            f"{words}: training from scratch is at most 0.5 points worse than retraining (Liu et al. 2019)",
            on(scratch),
            on(retrained),
            margin=0.5,
            source="suite",
        ),
    )


def early_layers_are_sensitive(sensitivity: str, early: str, late: str) -> Claim:
    """C4: half of the filters of one early layer cost more than half of those of one late layer."""
    text = f"without half of its filters, {early} costs more accuracy than {late}, on average"
    return superior("C4", text, on(sensitivity, pair_set=LATE), on(sensitivity, pair_set=EARLY))


def greedy_is_not_worse(pairs: Sequence[tuple[str, str]]) -> tuple[Claim, Claim]:
    """C5: at 60 % and more, before retraining, greedy is at most 1 point worse; C5b: it is better."""
    return (
        conjunction(
            "C5",
            "many filters of every layer removed, not retrained: the greedy selection is at most 1 point worse",
            [within("", "", on(greedy), on(independent), margin=1.0) for greedy, independent in pairs],
        ),
        conjunction(
            "C5b",
            "many filters of every layer removed, not retrained: the greedy selection beats the independent one",
            [superior("", "", on(greedy), on(independent)) for greedy, independent in pairs],
        ),
    )


def first_convolutions_hurt_less(key: str, first: str, second: str, how: str) -> Claim:
    """C6: at equal cost, first convolutions rather than second ones and shortcuts."""
    text = f"residual blocks at equal MACs, {how}: pruning first convolutions beats pruning second ones and shortcuts"
    return superior(key, text, on(first), on(second))


def norms_beat_activations(key: str, smallest: str, others: Sequence[str], percent: str) -> Claim:
    """C7: l1 beats mean-mean, mean-l1, mean-l2 and var-l2, not retrained."""
    parts = [superior("", "", on(smallest), on(other)) for other in others]
    text = f"all layers at {percent}, not retrained: kernels' l1 beats four statistics of the feature maps"
    return conjunction(key, text, parts)


def deviation_is_as_good(key: str, deviation: str, smallest: str, percent: str) -> Claim:
    """C8: mean-std is equal or better up to 60 %."""
    text = f"all layers at {percent}, not retrained: the mean of deviations is at most 1 point worse than kernels' l1"
    return within(key, text, on(deviation), on(smallest), margin=1.0)


def l2_makes_no_difference(key: str, l2: str, l1: str, words: str) -> Sequence[Claim]:
    """C9: "no noticeable difference": neither is over 1 point worse."""
    parts = [within("", "", on(a), on(b), margin=1.0) for a, b in ((l1, l2), (l2, l1))]
    return (conjunction(key, f"{words}: l1 and l2 are within 1 point of each other", parts),)


def gap_widens(key: str, dense: str, pruned: str, words: str) -> Claim:
    """F, ours: pruning widens the gap between the best and the worst class."""
    text = f"{words} widens the gap between the best and the worst class"
    return superior(key, text, on(pruned, "group_gap"), on(dense, "group_gap"), source="suite")
