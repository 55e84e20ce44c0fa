"""NISP's claims, written down before any result of ours existed.

C1 to C5 are the paper's, read from its figures' descriptions and its abstract; C6 is the survey's question; G and F are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.experiment.claims import NUMBER_PREFIX, Claim, Quantity, conjunction, monotone, superior, within

TEST, AFTER_PRUNING, EPOCHS = "test", "after pruning", "epochs_to_recover"  # see `papers.nisp.benchmark`
TIE = 0.2  # percent points that count as equal


def on(arm: str, part: str = TEST, metric: str = "accuracy") -> Quantity:
    """An arm on the test part, or on another set of decisions."""
    return Quantity(arm, part, metric)


def ahead_after_pruning(
    key: str, title: str, nisp: str, magnitude: str, chance: str, part: str = AFTER_PRUNING, source: str = "paper"
) -> Claim:
    """C1: right after pruning, nothing retrained: NISP > magnitude > random."""
    parts = [
        superior("", "", on(nisp, part), on(magnitude, part), source=source),
        superior("", "", on(magnitude, part), on(chance, part), source=source),
    ]
    return conjunction(key, f"{title}, right after pruning: NISP beats magnitude, magnitude beats random", parts)


def ahead_after_fine_tuning(key: str, title: str, nisp: str, magnitude: str, scratch: str) -> Claim:
    """C2: after fine-tuning NISP >= magnitude >= training the same small network from scratch."""
    parts = [
        within("", "", on(nisp), on(magnitude), margin=TIE),
        within("", "", on(magnitude), on(scratch), margin=TIE),
    ]
    text = f"{title}, after fine-tuning: NISP at most {TIE} points below magnitude, and magnitude below scratch"
    return conjunction(key, text, parts)


def recovers_sooner(key: str, title: str, nisp: str, magnitude: str) -> Claim:
    """C3: NISP needs no more epochs than magnitude to come within 1 point of the dense network; less than half counts as none."""
    metric = f"{NUMBER_PREFIX}{EPOCHS}"
    text = f"{title}: NISP is within 1 point of the dense network after no more epochs of fine-tuning than magnitude"
    return within(key, text, on(magnitude, TEST, metric), on(nisp, TEST, metric), margin=0.5)


def ranking_helps(key: str, title: str, nisp: str, uniform: str, part: str = TEST, source: str = "paper") -> Claim:
    """C4: ranking the final responses helps or ties with taking all alike."""
    text = f"{title}: ranking the final responses is at most {TIE} points worse than taking all alike"
    return within(key, text, on(nisp, part), on(uniform, part), margin=TIE, source=source)


def falls_with_the_ratio(key: str, title: str, arms: Sequence[str]) -> Claim:
    """C5, first part: accuracy falls from the smallest ratio to the largest."""
    return monotone(key, f"{title}: accuracy after fine-tuning falls with the ratio", [on(arm) for arm in arms])


def half_is_nearly_free(key: str, title: str, nisp: str, dense: str) -> Claim:
    """C5, second part: at a ratio of 50 % the loss after fine-tuning is at most 1 point."""
    return within(key, f"{title}: half of every layer costs at most 1 point", on(nisp), on(dense), margin=1.0)


def rounds_help(key: str, pairs: Sequence[tuple[str, str]]) -> Claim:
    """C6, the survey's question: three rounds beat one with as many epochs of fine-tuning in all."""
    parts = [superior("", "", on(iterative), on(once), source="suite") for iterative, once in pairs]
    return conjunction(key, "three rounds of pruning and fine-tuning beat one with the same epochs in all", parts)


def norms_matter(key: str, title: str, scaled: str, plain: str, part: str = AFTER_PRUNING) -> Claim:
    """G, ours: scaling scores by |gamma| / sigma of batch normalisations beats passing them unchanged."""
    text = (
        f"{title}, right after pruning: scores scaled by |gamma| / sigma beat scores that pass normalisations unchanged"
    )
    return superior(key, text, on(scaled, part), on(plain, part), source="suite")


def gap_widens(key: str, title: str, dense: str, pruned: str) -> Claim:
    """F, ours: pruning widens the gap between the best and the worst class."""
    text = f"{title} widens the gap between the best and the worst class"
    return superior(key, text, on(pruned, TEST, "group_gap"), on(dense, TEST, "group_gap"), source="suite")
