"""QuantFace's claims, written down before any result of ours existed.

C1 to C5 are the paper's, read off its numbers (the margins are its own largest differences); C6, the F and the G claims are
ours. A scale judges those that its arms and test sets can speak to.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from common.experiment.claims import Claim, Quantity, conjunction, larger_drop, monotone, superior, within


def w8a8_is_nearly_free(full: str, w8: str, easy: str, others: Sequence[str]) -> Claim:
    """C1: W8A8 tuned on synthetic faces loses at most 0.2 points on the easy set, at most 1.3 on every set."""
    return conjunction(
        "C1",
        "W8A8, tuned on generated faces, loses at most 0.2 points on the easy set and 1.3 on every set",
        [
            within("", "", Quantity(w8, easy), Quantity(full, easy), margin=0.2),
            *(within("", "", Quantity(w8, s), Quantity(full, s), margin=1.3) for s in others),
        ],
    )


def fewer_bits_fewer_hits(full: str, w8: str, w6: str, sets: Sequence[str]) -> Claim:
    """C2: on every set FP32 >= W8A8 >= W6A6."""
    orders = [monotone("", "", [Quantity(arm, s) for arm in (full, w8, w6)]) for s in sets]
    return conjunction("C2", "on every set FP32 >= W8A8 >= W6A6", orders)


def hard_set_suffers_more(full: str, w6: str, easy: str, hard: str) -> Claim:
    """C3: under W6A6 the cross-pose set loses more than the easy one."""
    return larger_drop(
        "C3",
        f"at W6A6 {hard} loses more than {easy}",
        Quantity(w6, hard),
        Quantity(full, hard),
        Quantity(w6, easy),
        Quantity(full, easy),
    )


def depth_makes_it_worse(prefixes: Sequence[str], w6: str, hard: str) -> Claim:
    """C4: in the IResNet family the W6A6 drop grows with depth; `prefixes` from shallow to deep, `w6` the arm's suffix."""
    deeper = [
        larger_drop(
            "",
            "",
            Quantity(f"{deep}{w6}", hard),
            Quantity(f"{deep}fp32", hard),
            Quantity(f"{shallow}{w6}", hard),
            Quantity(f"{shallow}fp32", hard),
        )
        for shallow, deep in pairwise(prefixes)
    ]
    return conjunction("C4", "the deeper the IResNet, the more W6A6 costs", deeper)


def any_faces_will_do(w8_own: str, w8_other: str, sets: Sequence[str]) -> Claim:
    """C5: at W8A8 fine-tuning on other faces is within 0.5 points of fine-tuning on the training data."""
    return conjunction(
        "C5",
        "at W8A8, tuning on faces of another kind is within 0.5 points of tuning on the recogniser's own kind",
        [within("", "", Quantity(w8_other, s), Quantity(w8_own, s), margin=0.5) for s in sets],
    )


def tuning_beats_calibration(key: str, tuned: str, calibrated: str, pair_set: str, bits: int) -> Claim:
    """C6, ours: distillation beats calibration alone on the same data."""
    return superior(
        key,
        f"W{bits}A{bits} tuned by distillation beats calibration alone on the same faces",
        Quantity(tuned, pair_set),
        Quantity(calibrated, pair_set),
        source="suite",
    )


def gap_widens(key: str, full: str, low: str, pair_set: str, bits: int) -> Claim:
    """F, ours: fewer bits widen the gap between the best and the worst group."""
    return superior(
        key,
        f"W{bits}A{bits} widens the gap between the best and the worst group",
        Quantity(low, pair_set, "group_gap"),
        Quantity(full, pair_set, "group_gap"),
        source="suite",
    )


def channels_beat_layers(key: str, per_channel: str, per_layer: str, pair_set: str, bits: int) -> Claim:
    """G, ours: weight ranges per channel beat one range a layer."""
    return superior(
        key,
        f"W{bits}A{bits}: weight ranges per channel beat one range a layer",
        Quantity(per_channel, pair_set),
        Quantity(per_layer, pair_set),
        source="suite",
    )
