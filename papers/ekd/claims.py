"""EKD's claims, written down before any result of ours existed.

C1 to C5 are the paper's; F and G are ours. C6, that student and teacher may have embeddings of different size, is a property
of the code and a test. TPR at a FPR is the share of genuine pairs accepted at that share of accepted impostors; it has no
decisions of single pairs, so that only seeds are resampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from common.experiment.claims import Claim, Contrast, Quantity, conjunction, superior, within


def tpr(arm: str, pair_set: str, metric: str) -> Quantity:
    """TPR in percent under its name in the run's metrics; `"accuracy"` where no list is long enough for a low FPR."""
    return Quantity(arm, pair_set, metric if metric == "accuracy" else f"number:{metric}")


def beats_relations_and_labels(ekd: str, rkd: str, none: str, pair_set: str, metric: str) -> Claim:
    """C1: EKD beats RKD and the student from labels alone at the lowest FPR."""
    parts = [superior("", "", tpr(ekd, pair_set, metric), tpr(other, pair_set, metric)) for other in (rkd, none)]
    return conjunction("C1", "at the lowest FPR EKD beats RKD and no distillation", parts)


def rkd_leads_the_others(rkd: str, others: Sequence[str], pair_set: str, metric: str) -> Claim:
    """C1b: RKD is not below any of the other losses."""
    parts = [within("", "", tpr(rkd, pair_set, metric), tpr(other, pair_set, metric), margin=0.0) for other in others]
    return conjunction("C1b", "at the lowest FPR RKD is not below KD of logits, SP, CCKD and FitNet", parts)


def gain_grows_as_fpr_falls(ekd: str, none: str, pair_set: str, metrics: Sequence[str]) -> Claim:
    """C2: EKD's gain over no distillation is larger at every next lower FPR; `metrics` from the highest FPR down."""
    tests = []
    for high, low in pairwise(metrics):
        terms = (
            (1.0, tpr(ekd, pair_set, low)),
            (-1.0, tpr(none, pair_set, low)),
            (-1.0, tpr(ekd, pair_set, high)),
            (1.0, tpr(none, pair_set, high)),
        )
        tests.append(Contrast(terms, label=f"gain at {low} - gain at {high}"))
    return Claim("C2", "EKD's gain grows as the FPR falls", "superior", tuple(tests), unit="number")


def matching_instances_hurts(ekd: str, fitnet: str, none: str, pair_set: str, metric: str) -> Claim:
    """C3: for the small student FitNet is below no distillation at low FPR, EKD above."""
    parts = [
        superior("", "", tpr(none, pair_set, metric), tpr(fitnet, pair_set, metric)),
        superior("", "", tpr(ekd, pair_set, metric), tpr(none, pair_set, metric)),
    ]
    return conjunction("C3", "at the lowest FPR FitNet is worse than no distillation and EKD better", parts)


def thresholds_and_hard_pairs_matter(ekd: str, three: str, random: str, pair_set: str, metric: str) -> Claim:
    """C4: six thresholds are not worse than three, hardest negatives not worse than random ones."""
    parts = [
        within("", "", tpr(ekd, pair_set, metric), tpr(other, pair_set, metric), margin=0.0)
        for other in (three, random)
    ]
    return conjunction("C4", "6 thresholds are not worse than 3, nor the hardest negatives than random ones", parts)


def ranks_beat_similarities(ekd: str, similarity: str, pair_set: str, metric: str) -> Claim:
    """C4b: the rank loss beats the L2 loss on the similarities of critical pairs."""
    return superior(
        "C4b",
        "the rank loss beats L2 on the similarities of critical pairs",
        tpr(ekd, pair_set, metric),
        tpr(similarity, pair_set, metric),
    )


def small_students_gain_more(small: tuple[str, str], large: tuple[str, str], pair_set: str, metric: str) -> Claim:
    """C5: EKD's gain is larger for the student of lower capacity; (EKD, no distillation) each."""
    terms = (
        (1.0, tpr(small[0], pair_set, metric)),
        (-1.0, tpr(small[1], pair_set, metric)),
        (-1.0, tpr(large[0], pair_set, metric)),
        (1.0, tpr(large[1], pair_set, metric)),
    )
    contrast = Contrast(terms, label=f"gain of {small[0]} - gain of {large[0]}")
    unit = "pp" if metric == "accuracy" else "number"
    return Claim("C5", "EKD gains more for the student of lower capacity", "superior", (contrast,), unit=unit)


def features_beat_relations(features: str, ekd: str, pair_set: str) -> Claim:
    """G1, ours, after what users report of the official code: plain L2 of unit embeddings is better than EKD."""
    return superior(
        "G1",
        "plain L2 of unit embeddings beats EKD in accuracy",
        Quantity(features, pair_set),
        Quantity(ekd, pair_set),
        source="suite",
    )


def gap_narrows(key: str, title: str, arm: str, none: str, pair_set: str) -> Claim:
    """F (ours, not the paper's): the distilled student's groups lie closer together than the undistilled one's."""
    return superior(
        key,
        f"{title} narrows the gap between the best and the worst group",
        Quantity(none, pair_set, "group_gap"),
        Quantity(arm, pair_set, "group_gap"),
        source="suite",
    )


def features_lead_without_labels(features: str, relations: Sequence[str], pair_set: str) -> Claim:
    """G2, ours: without labels, matching embeddings one by one beats every loss on relations."""
    parts = [superior("", "", Quantity(features, pair_set), Quantity(r, pair_set), source="suite") for r in relations]
    return conjunction("G2", "without labels L2 of unit embeddings beats every loss on relations", parts)


def gap_widens(key: str, arm: str, teacher: str, pair_set: str) -> Claim:
    """F (ours, not the paper's): the student's groups lie further apart than its teacher's."""
    return superior(
        key,
        "a student of half the width has a wider gap between the groups than its teacher",
        Quantity(arm, pair_set, "group_gap"),
        Quantity(teacher, pair_set, "group_gap"),
        source="suite",
    )
