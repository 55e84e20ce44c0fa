"""The claims about distillation of class probabilities, written down before any result of ours existed.

C1 to C5 are the paper's; C3b, S, E, F and the B claims are ours. A scale judges those that its arms can speak to.
"""

from __future__ import annotations

from common.experiment.claims import Claim, Contrast, Quantity, larger_drop, superior, within

TEST, TRAIN = "test", "train"


def on(arm: str, metric: str = "accuracy", part: str = TEST) -> Quantity:
    """An arm on a part of the data."""
    return Quantity(arm, part, metric)


def distilled_beats_hard(distilled: str, hard: str) -> Claim:
    """C1: the same architecture on the same transfer set."""
    return superior("C1", "the distilled student beats the student trained from labels", on(distilled), on(hard))


def closes_half_the_gap(distilled: str, hard: str, teacher: str) -> Claim:
    """C2: the teacher beats the student trained from labels, and the distilled one closes at least half of that gap."""
    half = Contrast(((1.0, on(distilled)), (-0.5, on(teacher)), (-0.5, on(hard))))
    gap = Contrast(((1.0, on(teacher)), (-1.0, on(hard))))
    text = "the distilled student closes at least half of the gap between teacher and student trained from labels"
    return Claim("C2", text, "superior", (gap, half))


def missing_class_comes_back(corrected: str, plain: str, label: str) -> Claim:
    """C3: after the correction of one number most of a class that was never shown is recognised, and more than before."""
    group = f"group:{label}"
    tests = (
        Contrast(((1.0, on(corrected, group)),), bound=50.0),
        Contrast(((1.0, on(corrected, group)), (-1.0, on(plain, group)))),
    )
    text = (
        f"of the class {label}, which the transfer set lacks, over half is recognised after one bias is corrected (chance: a "
        "tenth), and more than before"
    )
    return Claim("C3", text, "superior", tests, 50.0)


def missing_class_is_lost_without_correction(plain: str, label: str) -> Claim:
    """C3b, ours: without the correction most of it is lost (on MNIST the paper lost 13 % of it)."""
    test = Contrast(((1.0, on(plain, f"group:{label}")),), bound=50.0, above=False)
    text = f"without correction most of the class {label} is lost (the paper's own student lost 13 %)"
    return Claim("C3b", text, "superior", (test,), 50.0, source="suite")


def two_classes_are_enough(corrected: str, plain: str) -> Claim:
    """C3c: a transfer set of two classes; the correction helps."""
    text = "a student that saw 7s and 8s only gains from the correction of one number"
    return superior("C3c", text, on(corrected), on(plain))


def small_students_want_lower_temperatures(
    small_low: str, small_high: str, large_low: str, large_8: str, large_high: str
) -> tuple[Claim, Claim]:
    """C4: a very small student loses more than a larger one between T = 4 and T = 20; above 8 the larger one loses nothing."""
    return (
        larger_drop(
            "C4",
            "from T = 4 to T = 20 a very small student loses more accuracy than a larger one",
            on(small_high),
            on(small_low),
            on(large_high),
            on(large_low),
        ),
        within(
            "C4b",
            "for the larger student every T above 8 is much the same: T = 20 is at most 0.5 points below T = 8",
            on(large_high),
            on(large_8),
            margin=0.5,
        ),
    )


def soft_targets_overfit_less(soft: str, hard: str, percent: int) -> Claim:
    """C5: on a few percent of the transfer set the gap between training and test is smaller, the test accuracy higher."""
    gap = ((1.0, on(hard, part=TRAIN)), (-1.0, on(hard)), (-1.0, on(soft, part=TRAIN)), (1.0, on(soft)))
    better = ((1.0, on(soft)), (-1.0, on(hard)))
    text = f"with {percent} % of the transfer set, soft targets overfit less than hard ones and give the better student"
    return Claim("C5", text, "superior", (Contrast(gap), Contrast(better)))


def labels_are_not_needed(unlabelled: str, hard: str) -> Claim:
    """S, ours: the soft term alone, on images without labels, beats the labels alone."""
    text = "soft targets alone, without a label, beat labels alone"
    return superior("S1", text, on(unlabelled), on(hard), source="suite")


def ensembles_teach_better(ensemble: str, single: str) -> Claim:
    """E, ours at this scale: an ensemble is at least as good a teacher as one of its members (paper: speech)."""
    text = "a student of an ensemble of three is at most 0.5 points below a student of one teacher"
    return within("E1", text, on(ensemble), on(single), margin=0.5, source="suite")


def specialists_help(specialists: str, generalist: str) -> Claim:
    """G: the generalist with its specialists beats the generalist alone (paper: JFT, 25.0 to 26.1 %)."""
    return superior("G1", "the generalist with specialists beats the generalist alone", on(specialists), on(generalist))


def gap_shrinks(distilled: str, hard: str) -> Claim:
    """F, ours: soft targets narrow the gap between the best and the worst class."""
    text = "distillation narrows the gap between the best and the worst class"
    return superior("F1", text, on(hard, "group_gap"), on(distilled, "group_gap"), source="suite")


def identities_distil(plain: str, student: str, with_margin: str, pair_set: str) -> tuple[Claim, Claim, Claim]:
    """B: class probabilities of identities help a face student, if no margin distorts them; and they narrow the group gap."""
    return (
        superior(
            "B1",
            "identity logits without margin make a better face student than labels alone",
            on(plain, part=pair_set),
            on(student, part=pair_set),
            source="suite",
        ),
        superior(
            "B2",
            "identity logits without margin teach better than logits with margin and full scale",
            on(plain, part=pair_set),
            on(with_margin, part=pair_set),
            source="suite",
        ),
        superior(
            "B3",
            "identity logits narrow the gap between the best and the worst group of faces",
            on(student, "group_gap", pair_set),
            on(plain, "group_gap", pair_set),
            source="suite",
        ),
    )
