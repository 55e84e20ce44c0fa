"""FairGRAPE's claims, written down before any result of ours existed.

C1 to C5 are the paper's, C6 and the G claims are ours. (8) of `benchmark` is twice the spread of the groups on the set
`change`. Accuracies are of the test part, all groups together.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.experiment.claims import Claim, Contrast, Quantity, conjunction, superior, within

TEST, CHANGE, STD_OF_CHANGE = "test", "change", "std_of_change"
FULL, OURS = "full", "fairgrape"
NAMES = {
    "fairgrape": "FairGRAPE",
    "importance": "importance",
    "weight_selection": "weight selection",
    "lottery": "lottery",
    "snip": "SNIP",
    "grasp": "GraSP",
    "random": "random",
}


def on(arm: str, metric: str = "accuracy") -> Quantity:
    """An arm on the test part."""
    return Quantity(arm, TEST, metric)


def spread(arm: str, sign: float = 1.0) -> tuple[float, Quantity]:
    """(8) of an arm as a term of a contrast."""
    return 2 * sign, Quantity(arm, CHANGE, "group_std")


def loses_more_evenly(arm: str, other: str, source: str = "paper") -> Claim:
    """The spread of d_g is smaller for `arm` than for `other`."""
    contrast = Contrast((spread(other), spread(arm, -1)), label=f"std of d_g: {other} - {arm}")
    return Claim("", "", "superior", (contrast,), source=source)


def claims_of(
    prefix: str,
    high: Sequence[int],
    low: int | None,
    uneven: Sequence[str] = ("weight_selection", "snip"),
    accurate: Sequence[str] = ("snip", "grasp", "weight_selection", "lottery"),
    importance: bool = True,
    uniform: int | None = None,
    tag: str = "",
    words: str = "",
) -> tuple[Claim, ...]:
    """The claims that arms `<prefix><criterion>_<percent>` can speak to.

    Args:
        prefix: of the arms. high: high sparsities, percent, ascending. low: the one that C3 compares the highest with.
        uneven: baselines of C1 and C3; accurate: of C2; importance: whether C4 can be judged.
        uniform: sparsity at which the arm `uniform` is (C6). tag: appended to keys; words: put before texts.
    """
    ours, top = f"{prefix}{OURS}", high[-1]
    at = " and ".join(f"{p} %" for p in high)
    found = [
        conjunction(
            f"C1{tag}",
            f"{words}at {at} sparsity the groups' losses spread less with FairGRAPE than with "
            f"{' and '.join(NAMES[name] for name in uneven)}",
            [loses_more_evenly(f"{ours}_{p}", f"{prefix}{name}_{p}") for p in high for name in uneven],
        ),
        conjunction(
            f"C2{tag}",
            f"{words}at {at} FairGRAPE's accuracy is at most 1 point below {', '.join(NAMES[name] for name in accurate)}",
            [
                within("", "", on(f"{ours}_{p}"), on(f"{prefix}{name}_{p}"), margin=1.0)
                for p in high
                for name in accurate
            ],
        ),
    ]
    if low is not None:
        parts = [_advantage_grows(prefix, name, low, top) for name in uneven]
        text = (
            f"{words}FairGRAPE's advantage in the spread of losses over {' and over '.join(NAMES[n] for n in uneven)} is "
            f"larger at {top} % than at {low} %"
        )
        found.append(conjunction(f"C3{tag}", text, parts))
    if importance:
        found += _against_importance(prefix, high, tag, words)
    found.append(_mechanism(prefix, top, tag, words))
    if uniform is not None:
        text = (
            f"{words}with equal targets the kept importances are shared more equally than with the dense network's (ours, "
            "after the survey)"
        )
        numbers = [on(f"{arm}_{uniform}", "number:from_equal_first") for arm in (ours, f"{prefix}uniform")]
        found.append(superior(f"C6{tag}", text, *numbers, source="suite"))
    found.append(_gap_widens(prefix, top, tag, words))
    return tuple(found)


def _advantage_grows(prefix: str, name: str, low: int, high: int) -> Claim:
    terms = (
        spread(f"{prefix}{name}_{high}"),
        spread(f"{prefix}{OURS}_{high}", -1),
        spread(f"{prefix}{name}_{low}", -1),
        spread(f"{prefix}{OURS}_{low}"),
    )
    label = f"std of d_g: ({name} - {OURS}) at {high} minus at {low}"
    return Claim("", "", "superior", (Contrast(terms, label=label),))


def _against_importance(prefix: str, high: Sequence[int], tag: str, words: str) -> list[Claim]:
    ours, plain = f"{prefix}{OURS}", f"{prefix}importance"
    at = " and ".join(f"{p} %" for p in high)
    return [
        conjunction(
            f"C4{tag}",
            f"{words}at {at} balancing the groups makes their losses more even than the same scores without groups",
            [loses_more_evenly(f"{ours}_{p}", f"{plain}_{p}") for p in high],
        ),
        conjunction(
            f"C4b{tag}",
            f"{words}at {at} balancing the groups costs at most 1 point of accuracy",
            [within("", "", on(f"{ours}_{p}"), on(f"{plain}_{p}"), margin=1.0) for p in high],
        ),
    ]


def _mechanism(prefix: str, top: int, tag: str, words: str) -> Claim:
    """C5: in the first round, over the layers, selection (3) is closer to the targets than the importance mask of its size."""
    arm = f"{prefix}{OURS}_{top}"
    text = f"{words}one selection keeps the groups' shares closer to their targets than importance without groups does"
    numbers = [on(arm, f"number:{name}") for name in ("deviation_first_importance", "deviation_first")]
    return superior(f"C5{tag}", text, *numbers)


def _gap_widens(prefix: str, top: int, tag: str, words: str) -> Claim:
    """G1, ours: at the highest sparsity weight selection widens the gap between the groups."""
    text = f"{words}weight selection at {top} % widens the gap between the best and the worst group (ours, not the paper's)"
    pruned, dense = on(f"{prefix}weight_selection_{top}", "group_gap"), on(f"{prefix}{FULL}", "group_gap")
    return superior(f"G1{tag}", text, pruned, dense, source="suite")
