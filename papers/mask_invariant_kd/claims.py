"""MaskInv's claims, written down before any result of ours existed.

C1 to C5 are the paper's in words (none of its tables could be read: margins are ours); C6 and G1 are the suite's. "At least"
allows 0.2 points, "within a small drop" 1 point. A scale judges those that its arms can speak to.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.experiment.claims import Claim, Quantity, conjunction, monotone, superior, within

AT_LEAST = 0.2  # points
SMALL_DROP = 1.0
GAP_GROWTH = 1.0


def one_masked(base: str) -> str:
    """The pair set of a masked face against an unmasked one."""
    return f"{base}_one_masked"


def both_masked(base: str) -> str:
    """The pair set of two masked faces."""
    return f"{base}_both_masked"


def guidance_helps(base: str, order: Sequence[str]) -> Claim:
    """C1: accuracy of masked against unmasked faces; `order` from the best arm to the worst."""
    names = " >= ".join(order)
    return monotone("C1", f"masked against unmasked: {names}", [Quantity(arm, one_masked(base)) for arm in order])


def masks_help(key: str, base: str, trained: str, teacher: str) -> Claim:
    """C1b: training with masks beats the teacher on masked against unmasked faces."""
    text = f"masked against unmasked: {trained} beats the teacher"
    return superior(key, text, Quantity(trained, one_masked(base)), Quantity(teacher, one_masked(base)))


def at_least_on_masks(base: str, low: str, others: Sequence[str]) -> Claim:
    """C2: on two masked faces LG is at least as accurate as each of the others."""
    parts = [
        within("", "", Quantity(low, both_masked(base)), Quantity(other, both_masked(base)), margin=AT_LEAST)
        for other in others
    ]
    return conjunction("C2", f"masked against masked: {low} is at least as good as {' and '.join(others)}", parts)


def unmasked_is_kept(base: str, guided: Sequence[str], teacher: str) -> Claim:
    """C3: on unmasked faces LG and HG lose at most one point against the teacher."""
    parts = [within("", "", Quantity(arm, base), Quantity(teacher, base), margin=SMALL_DROP) for arm in guided]
    return conjunction("C3", f"unmasked: {' and '.join(guided)} lose at most 1 point against the teacher", parts)


def high_loses_no_more(base: str, high: str, augmented: str) -> Claim:
    """C3b: on unmasked faces HG loses no more than mask augmentation without distillation."""
    text = f"unmasked: {high} loses no more than {augmented}"
    return within("C3b", text, Quantity(high, base), Quantity(augmented, base), margin=AT_LEAST)


def distance_falls(base: str, order: Sequence[str]) -> Claim:
    """C4: ||S(mask(x)) - T(x)||^2 falls with lambda; `order` from the largest distance to the smallest."""
    text = f"distance of a masked face's template to the teacher's: {' >= '.join(order)}"
    return monotone("C4", text, [Quantity(arm, both_masked(base), "number:template_distance") for arm in order])


def scores_separate(base: str, guided: Sequence[str], teacher: str) -> Claim:
    """C5: mean genuine score and Fisher ratio of masked against unmasked faces are above the teacher's."""
    parts = [
        superior("", "", Quantity(arm, one_masked(base), metric), Quantity(teacher, one_masked(base), metric))
        for metric in ("number:genuine_mean", "number:fisher_ratio")
        for arm in guided
    ]
    text = (
        f"masked against unmasked: {' and '.join(guided)} raise mean genuine score and Fisher ratio over the teacher's"
    )
    return conjunction("C5", text, parts)


def gap_does_not_grow(base: str, guided: str, teacher: str) -> Claim:
    """C6, ours: with masks the gap between groups grows by less than one point from the teacher to `guided`."""
    parts = [
        within(
            "", "", Quantity(teacher, on, "group_gap"), Quantity(guided, on, "group_gap"), margin=GAP_GROWTH,
            source="suite",
        )
        for on in (one_masked(base), both_masked(base))
    ]  # fmt: skip
    text = f"with masks the gap between groups grows by less than 1 point from the teacher to {guided}"
    return conjunction("C6", text, parts)


def teacher_must_not_see_masks(base: str, clean: str, published: str) -> Claim:
    """G1, ours: a teacher that sees the unmasked face teaches more than one that sees the mask, as in the published loader."""
    text = f"masked against unmasked: {clean}, whose teacher sees no mask, beats {published}, whose teacher sees it"
    return superior(
        "G1", text, Quantity(clean, one_masked(base)), Quantity(published, one_masked(base)), source="suite"
    )
