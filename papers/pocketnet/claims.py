"""PocketNet's claims, written down before any result of ours existed.

C1 to C6 are the paper's, read off its tables and training logs; F1 and the G claims are ours. A scale judges those that its arms
can speak to. Margins and bounds are fixed here for every scale: one point of accuracy is "a small gap" (C6), a rise by a
twentieth of the smallest value is a rise (C3; in the official logs 20 % with multi-step distillation and none without).
"""

from __future__ import annotations

from collections.abc import Sequence

from common.experiment.claims import Claim, Contrast, Quantity, conjunction, monotone, superior, within

SMALL_GAP = 1.0
RISE = 0.05


def order_of_distillation(none: str, final: str, multi: str, pair_set: str) -> Claim:
    """C1: multi-step >= ordinary >= no distillation, same student."""
    text = f"on {pair_set}: multi-step distillation >= ordinary distillation >= none, same student"
    return monotone("C1", text, [Quantity(arm, pair_set) for arm in (multi, final, none)])


def ends_closer(final: str, multi: str, pair_set: str) -> Claim:
    """C2: the student of multi-step distillation ends closer to the finished teacher than that of ordinary distillation."""
    on = [Quantity(arm, pair_set, "number:final_last") for arm in (final, multi)]
    return superior("C2", "after multi-step distillation the finished teacher is closer than after ordinary", *on)


def classifies_better(final: str, multi: str, pair_set: str, epochs: int) -> Claim:
    """C2b: the ArcFace loss of the training is lower under multi-step distillation in every epoch."""
    parts = [
        superior("", "", *(Quantity(arm, pair_set, f"number:arcface_epoch{epoch}") for arm in (final, multi)))
        for epoch in range(1, epochs + 1)
    ]
    return conjunction(
        "C2b", "in every epoch the ArcFace loss is lower under multi-step distillation than under ordinary", parts
    )


def target_moves_away(final: str, multi: str, pair_set: str) -> Claim:
    """C3: the distance to the present teacher dips and rises again under multi-step distillation, and only there."""
    rises, stays = (
        Contrast(((1.0, Quantity(arm, pair_set, "number:present_rise")),), RISE, above=arm == multi)
        for arm in (multi, final)
    )
    text = (
        "under multi-step distillation the distance to the present teacher ends 5 % or more above its minimum, under ordinary "
        "distillation less than that"
    )
    return Claim("C3", text, "superior", (rises, stays), RISE, "number")


def faces_beat_objects(key: str, faces: str, objects: str, pair_set: str, found_on: str = "faces") -> Claim:
    """C4: cells found on faces beat cells found on CIFAR-10, both networks trained alike on faces."""
    text = f"cells found on {found_on} beat the cells found on CIFAR-10, trained alike"
    source = "paper" if key == "C4" else "suite"
    return superior(key, text, Quantity(faces, pair_set), Quantity(objects, pair_set), source=source)


def wider_is_better(small: str, medium: str, pair_set: str) -> Claim:
    """C5: PocketNetM >= PocketNetS at the same embedding size."""
    return superior(
        "C5", "the medium network beats the small one", Quantity(medium, pair_set), Quantity(small, pair_set)
    )


def dimensions_matter_less(small: str, small_wide: str, medium: str, pair_set: str) -> Claim:
    """C5b: doubling the embedding changes the small network's accuracy by less than the medium network gains, up or down."""
    s, wide, m = (Quantity(arm, pair_set) for arm in (small, small_wide, medium))
    tests = (Contrast(((1.0, m), (-1.0, wide))), Contrast(((1.0, m), (1.0, wide), (-2.0, s))))
    return Claim("C5b", "twice the embedding changes accuracy by less than the medium network does", "superior", tests)


def small_is_enough(pocket: str, mobile: str, pair_set: str) -> Claim:
    """C6: PocketNetS is within one point of a MobileFaceNet of its size, trained with the same distillation."""
    text = f"PocketNetS is at most {SMALL_GAP:g} points below a MobileFaceNet of about its size, distilled alike"
    return within("C6", text, Quantity(pocket, pair_set), Quantity(mobile, pair_set), margin=SMALL_GAP)


def gap_narrows(key: str, plain: str, distilled: str, pair_set: str, what: str) -> Claim:
    """F, ours: distillation narrows the gap between the best and the worst group."""
    text = f"{what} narrows the gap between the best and the worst group"
    return superior(
        key, text, Quantity(plain, pair_set, "group_gap"), Quantity(distilled, pair_set, "group_gap"), source="suite"
    )


def no_wider_than_the_teacher(key: str, teacher: str, student: str, pair_set: str) -> Claim:
    """F, ours: the student's gap between groups is at most one point wider than its teacher's."""
    tests = (
        Contrast(
            ((1.0, Quantity(student, pair_set, "group_gap")), (-1.0, Quantity(teacher, pair_set, "group_gap"))),
            SMALL_GAP,
            above=False,
        ),
    )
    text = f"the gap between the groups is at most {SMALL_GAP:g} point wider than the teacher's"
    return Claim(key, text, "within", tests, SMALL_GAP, source="suite")


def same_loss_same_student(key: str, pairs: Sequence[tuple[str, str]], pair_set: str) -> Claim:
    """G, ours: squared distance of unit embeddings and cosine distance are one function but for a factor; so are the students."""
    parts = [
        within("", "", Quantity(a, pair_set), Quantity(b, pair_set), margin=SMALL_GAP, source="suite")
        for pair in pairs
        for a, b in (pair, pair[::-1])
    ]
    text = f"students of the squared and of the cosine distance are within {SMALL_GAP:g} point of each other"
    return conjunction(key, text, parts)
