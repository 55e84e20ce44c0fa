"""CoupleFace's claims, written down before any result of ours existed.

C1 to C4 are the paper's as far as it could be read (its tables could not); C1b and the F claims are ours. TAR is the share of
genuine pairs accepted where 1 % of the impostors are: the smallest share that the embedded pair sets can speak to.
"""

from __future__ import annotations

from common.experiment.claims import Claim, Quantity, conjunction, superior, within

TAR = "number:tar_at_far_1e-2"


def relations_add_to_features(
    student: str, features: str, both: str, pair_set: str, tar: str = TAR
) -> tuple[Claim, Claim]:
    """C1: no distillation < FCD < FCD + RAD, in the true accept rate at a low false accept rate; C1b, ours: in accuracy."""
    words = "feature consistency beats the student alone, and with the relation loss it is better still"

    def rising(metric: str, source: str) -> list[Claim]:
        low, middle, high = (Quantity(arm, pair_set, metric) for arm in (student, features, both))
        return [superior("", "", middle, low, source=source), superior("", "", high, middle, source=source)]

    return (
        conjunction("C1", f"{words} (TAR at a low FAR)", rising(tar, "paper")),
        conjunction("C1b", f"{words} (ten-fold accuracy)", rising("accuracy", "suite")),
    )


def mined_beat_random(mined: str, random: str, pair_set: str, tar: str = TAR) -> Claim:
    """C2: as many mined hard identities are better than random ones."""
    return superior(
        "C2",
        "relations to mined hard identities beat relations to as many random identities (TAR)",
        Quantity(mined, pair_set, tar),
        Quantity(random, pair_set, tar),
    )


def one_side_suffices(one_sided: str, two_sided: str, pair_set: str, tar: str = TAR) -> Claim:
    """C3: leaving alone what the student separates better costs nothing."""
    return within(
        "C3",
        "the one-sided relation loss is not worse than the two-sided (TAR)",
        Quantity(one_sided, pair_set, tar),
        Quantity(two_sided, pair_set, tar),
        margin=0.0,
    )


def hard_pairs_are_separated(features: str, both: str, pair_set: str) -> tuple[Claim, Claim]:
    """C4: the share of mined pairs that the student finds more alike than the teacher falls faster with the relation loss.

    Both trainings start from the same weights, so the faster fall is the lower curve: its mean over the training, and its end.
    """

    def lower(metric: str, key: str = "", words: str = "") -> Claim:
        before, after = (Quantity(arm, pair_set, f"number:{metric}") for arm in (features, both))
        return superior(key, words, before, after)

    text = "the share of mined pairs more alike to the student than to the teacher falls faster with the relation loss"
    return (
        conjunction("C4", f"{text} (lower on average and at the end)", [lower("harder"), lower("harder_end")]),
        lower("similarity_end", "C4b", "and hard identities end less similar in the student"),
    )


def gap_narrows(key: str, text: str, before: str, after: str, pair_set: str) -> Claim:
    """F, ours, not the paper's (C5 of our specification): the gap between the best and the worst group is smaller."""
    return superior(
        key,
        f"{text}",
        Quantity(before, pair_set, "group_gap"),
        Quantity(after, pair_set, "group_gap"),
        source="suite",
    )
