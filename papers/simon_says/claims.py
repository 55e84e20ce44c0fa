"""The claims of Simon Says, written down before any result of ours existed.

C1 to C6 are the paper's, as its notebooks state them; G and F are ours. CEV and SDE are numbers of a whole population, one for
every seed (that is: for every unpruned network), so that only seeds are resampled. Low is good.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.experiment.claims import NUMBER_PREFIX, Claim, Contrast, Quantity, conjunction, superior
from papers.simon_says.sets import ACROSS, TEST

RISE = 2.0  # C2: CEV at 75 % over CEV at 30 % (the paper's is 2.8)
IMBALANCE = 3.0  # C3: CEV of pruning with cut classes over CEV without (the paper's is 5.2)


def number(arm: str, key: str, part: str = TEST) -> Quantity:
    """A number of an arm: `cev`, `sde`, ..."""
    return Quantity(arm, part, f"{NUMBER_PREFIX}{key}")


def _lower(better: str, worse: str, keys: Sequence[str] = ("cev", "sde"), factor: float = 1.0) -> tuple[Contrast, ...]:
    """`better` lies below `worse` in every key: worse - factor x better > 0."""
    return tuple(Contrast(((1.0, number(worse, key)), (-factor, number(better, key)))) for key in keys)


def _claim(key: str, text: str, tests: tuple[Contrast, ...], source: str = "paper") -> Claim:
    return Claim(key, text, "superior", tests, unit="number", source=source)


def distillation_evens_out(pairs: Sequence[tuple[str, str]]) -> Claim:
    """C1: at every sparsity KD has lower CEV and SDE than pruning alone. Pairs (kd, struct)."""
    tests = tuple(test for kd, struct in pairs for test in _lower(kd, struct))
    return _claim("C1", "at every sparsity pruning with KD has lower CEV and SDE than pruning alone", tests)


def bias_grows(struct_30: str, struct_75: str) -> tuple[Claim, Claim]:
    """C2: CEV of pruning alone at least doubles from 30 % to 75 %; SDE grows."""
    return (
        _claim(
            "C2",
            f"pruning alone: CEV at 75 % is at least {RISE:g} times that at 30 %",
            _lower(struct_30, struct_75, ("cev",), RISE),
        ),
        _claim("C2b", "pruning alone: SDE at 75 % is above that at 30 %", _lower(struct_30, struct_75, ("sde",))),
    )


def imbalance_is_worse(balanced: str, cut: str, with_kd: Sequence[str]) -> tuple[Claim, Claim]:
    """C3: with cut classes CEV of pruning alone is at least three times its balanced value; every KD arm lies below it."""
    tests = tuple(test for arm in with_kd for test in _lower(arm, cut))
    return (
        _claim(
            "C3",
            f"cut classes make CEV of pruning alone at least {IMBALANCE:g} times as high",
            _lower(balanced, cut, ("cev",), IMBALANCE),
        ),
        _claim("C3b", "with cut classes every arm with KD has lower CEV and SDE than pruning alone", tests),
    )


def both_are_better(pairs: Sequence[tuple[str, str]]) -> tuple[Claim, Claim]:
    """C4: with cut classes a feature loss and KL together beat the feature loss alone, in CEV, SDE and accuracy."""
    tests = tuple(test for both, alone in pairs for test in _lower(both, alone))
    accuracy = [superior("", "", Quantity(both, TEST), Quantity(alone, TEST)) for both, alone in pairs]
    return (
        _claim("C4", "with cut classes every feature loss has lower CEV and SDE with KL than without", tests),
        conjunction("C4b", "with cut classes every feature loss is more accurate with KL than without", accuracy),
    )


def accuracy_hides_it(gallery: str) -> Claim:
    """C5: the ranking of the arms by CEV is not their ranking by error."""
    test = Contrast(((1.0, number(gallery, "tau", ACROSS)),), bound=1.0, above=False)
    return _claim(
        "C5", "with cut classes arms are ranked otherwise by CEV than by error (Kendall's tau below 1)", (test,)
    )


def similarity_goes_along(gallery: str) -> Claim:
    """C6: across arms CEV rises with the SVCCA distance of the first stage."""
    test = Contrast(((1.0, number(gallery, "pearson", ACROSS)),))
    return _claim(
        "C6",
        "across arms and sparsities CEV rises with the SVCCA distance of the first stage (Pearson above 0)",
        (test,),
    )


def the_gap_too(kd: str, struct: str) -> Claim:
    """F1 (ours, not the paper's): with KD the gap between the best and the worst class is smaller too."""
    text = "with cut classes KD leaves a smaller gap between best and worst class than pruning alone"
    return superior("F1", text, Quantity(struct, TEST, "group_gap"), Quantity(kd, TEST, "group_gap"), source="suite")


def teacher_or_softness(kd: str, struct: str) -> Claim:
    """G1, ours: KD is more accurate than pruning alone where classes are cut, so that lower CEV is not bought with errors."""
    return superior(
        "G1",
        "with cut classes KD is more accurate than pruning alone",
        Quantity(kd, TEST),
        Quantity(struct, TEST),
        source="suite",
    )
