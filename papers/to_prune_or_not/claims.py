"""The claims of gradual pruning, written down before any result of ours existed.

C1 to C5 are the paper's, C6 is the survey's question, G and F are ours. Quantities are accuracies on the test part. A scale
judges those that its arms can speak to; `p` is the prefix of the arms, `name` the network.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.experiment.claims import Claim, Quantity, conjunction, larger_drop, monotone, superior, within


def on(arm: str, metric: str = "accuracy") -> Quantity:
    """An arm on the test part."""
    return Quantity(arm, "test", metric)


def large_sparse_beats_small_dense(key: str, name: str, p: str, widths: Sequence[float]) -> Claim:
    """C1: at equal NNZ the pruned large network is more accurate than the dense narrow one, at each width."""
    parts = [superior("", "", on(f"{p}matched_w{w:g}"), on(f"{p}dense_w{w:g}")) for w in widths]
    at = " and ".join(f"{w:g}" for w in widths)
    text = f"{name}: pruned to the footprint of the dense network of width {at}, the large one is more accurate"
    return conjunction(key, text, parts)


def accuracy_falls_with_sparsity(key: str, name: str, p: str, percents: Sequence[float]) -> Claim:
    """C2: the order of the arms of the grid, the dense one first."""
    arms = [f"{p}dense_w1", *(f"{p}sparse_{percent:g}" for percent in percents)]
    return monotone(key, f"{name}: accuracy falls with sparsity", [on(arm) for arm in arms])


def falls_sharply_beyond_90(key: str, name: str, p: str, last: float) -> Claim:
    """C2, second half: more is lost between 90 % and the last sparsity than between none and 50 %."""
    text = f"{name}: more accuracy is lost from 90 to {last:g} % than from 0 to 50 %"
    dense, half, ninety, end = (on(p + arm) for arm in ("dense_w1", "sparse_50", "sparse_90", f"sparse_{last:g}"))
    return larger_drop(key, text, end, ninety, half, dense)


def wide_networks_lose_less(key: str, name: str, p: str, width: float, percents: Sequence[float]) -> Claim:
    """C3: at equal sparsity the narrower network loses more points against its own dense self."""
    narrow, wide = on(f"{p}dense_w{width:g}"), on(f"{p}dense_w1")
    parts = [
        larger_drop("", "", on(f"{p}w{width:g}_sparse_{s:g}"), narrow, on(f"{p}sparse_{s:g}"), wide) for s in percents
    ]
    at = " and ".join(f"{s:g}" for s in percents)
    return conjunction(key, f"{name}: at {at} % sparsity width {width:g} loses more points than width 1", parts)


def gradual_beats_one_shot(key: str, name: str, p: str, percent: float = 90) -> Claim:
    """C4: with equal steps in total."""
    text = f"{name}: pruned gradually to {percent:g} % it is more accurate than pruned in one shot"
    return superior(key, text, on(f"{p}sparse_{percent:g}"), on(f"{p}one_shot_{percent:g}"))


def interval_does_not_matter(key: str, name: str, p: str, others: Sequence[int], margin: float) -> Claim:
    """C5: every two intervals dt differ by less than the margin, a seed's spread, both ways; the first is that of the grid."""
    arms = [f"{p}sparse_90", *(f"{p}dt_{every}" for every in others)]
    parts = [within("", "", on(a), on(b), margin=margin) for a in arms for b in arms if a != b]
    text = f"{name}: how often the masks are updated changes accuracy by less than {margin:g} points"
    return conjunction(key, text, parts)


def narrower_wins_at_extreme_sparsity(key: str, name: str, p: str, width: float, percent: float) -> Claim:
    """C6, the survey's question: at the NNZ of the large network at `percent`, a milder pruned narrower one is better."""
    text = f"{name}: with the non-zero parameters of width 1 at {percent:g} %, width {width:g} is more accurate"
    return superior(key, text, on(f"{p}mild_w{width:g}_as_{percent:g}"), on(f"{p}sparse_{percent:g}"), source="suite")


def cubic_beats_linear(key: str, name: str, p: str, percent: float) -> Claim:
    """G1, ours: what the exponent 3 is for."""
    text = f"{name}: at {percent:g} % the cubic schedule is more accurate than a linear one"
    return superior(key, text, on(f"{p}sparse_{percent:g}"), on(f"{p}linear_{percent:g}"), source="suite")


def coming_back_helps(key: str, name: str, p: str, percent: float) -> Claim:
    """G2, ours: Gale's reading against the paper's."""
    text = f"{name}: at {percent:g} % it helps that masked weights go on learning and may come back"
    return superior(key, text, on(f"{p}regrow_{percent:g}"), on(f"{p}sparse_{percent:g}"), source="suite")


def gap_widens(key: str, name: str, p: str, percent: float) -> Claim:
    """F1, ours: pruning widens the gap between the best and the worst class."""
    text = f"{name}: pruning {percent:g} % widens the gap between the best and the worst class"
    return superior(
        key, text, on(f"{p}sparse_{percent:g}", "group_gap"), on(f"{p}dense_w1", "group_gap"), source="suite"
    )


def worst_class_prefers_sparse(key: str, name: str, p: str, width: float) -> Claim:
    """F2, ours: at equal NNZ the worst class, too, is better off in the pruned large network."""
    text = f"{name}: at the footprint of width {width:g} the worst class is better off in the pruned large network"
    a, b = on(f"{p}matched_w{width:g}", "worst_group"), on(f"{p}dense_w{width:g}", "worst_group")
    return superior(key, text, a, b, source="suite")
