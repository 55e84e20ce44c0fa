"""SNIP's claims, written down before any result of ours existed.

C1 to C5 are the paper's; C6, the F and the G claims are ours. A scale judges those that its arms can speak to. Quantities are
accuracies, so that an error that is 0.3 points higher is an accuracy that is 0.3 points lower.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.experiment.claims import Claim, Contrast, Quantity, conjunction, superior, within

TEST, TRAIN, MASKS = "test", "train", "class masks"


def on(arm: str, metric: str = "accuracy") -> Quantity:
    """An arm on the test part."""
    return Quantity(arm, TEST, metric)


def pruning_is_nearly_free(dense: str, at_90: str, at_99: str) -> Claim:
    """C1: LeNet-5-Caffe at 90 % is within 0.3 points of the dense network, at 99 % within 1."""
    parts = [within("", "", on(at_90), on(dense), margin=0.3), within("", "", on(at_99), on(dense), margin=1.0)]
    return conjunction("C1", "LeNet-5-Caffe loses at most 0.3 points at 90 % sparsity and 1.0 at 99 %", parts)


def beats_chance_and_magnitude(key: str, title: str, ours: str, controls: Sequence[str]) -> Claim:
    """C2: connection sensitivity beats random scores and magnitudes at initialisation, all ranked globally."""
    parts = [superior("", "", on(ours), on(control)) for control in controls]
    return conjunction(key, f"{title}: SNIP at 95 % beats random and magnitude-at-initialisation masks", parts)


def larger_scoring_batch(one: str, hundred: str, thousand: str) -> tuple[Claim, Claim]:
    """C3: error(1) > error(100) >= error(1000) at 90 %, for |D^b|; the second part with a tolerance of 0.1 points."""
    return (
        superior("C3", "a scoring batch of 100 beats one of a single image", on(hundred), on(one)),
        within(
            "C3b",
            "a scoring batch of 1,000 is at most 0.1 points worse than 100",
            on(thousand),
            on(hundred),
            margin=0.1,
        ),
    )


def pruned_networks_do_not_memorise(dense: str, pruned: str, shuffled: str) -> Claim:
    """C4: at 99 % the loss on shuffled training labels is over ten times the dense network's, on true labels both are below 0.1.

    Args:
        dense, pruned: arms trained on true labels. shuffled: suffix of the same arms on shuffled labels.
    """

    def loss(arm: str) -> Quantity:
        return Quantity(arm, TRAIN, "number:loss")

    tests = (
        Contrast(((1.0, loss(dense)),), bound=0.1, above=False),
        Contrast(((1.0, loss(pruned)),), bound=0.1, above=False),
        Contrast(((1.0, loss(pruned + shuffled)), (-10.0, loss(dense + shuffled)))),
    )
    text = (
        "dense and at 99 % sparsity LeNet-5-Caffe fits true labels (training loss below 0.1); shuffled ones only dense: the "
        "pruned network's loss is over ten times as high"
    )
    return Claim("C4", text, "superior", tests, unit="number")


def masks_show_their_class(arm: str) -> Claim:
    """C5: masks scored on one class keep that class's pixels: most correlate best with their own class's mean image."""
    text = "most masks scored on one digit follow that digit's mean image more than any other's"
    return Claim("C5", text, "superior", (Contrast(((1.0, Quantity(arm, MASKS)),), bound=50.0),), 50.0)


def the_sign_matters(pairs: Sequence[tuple[str, str]]) -> Claim:
    """C6, the survey's question: also removing the connections that raise the loss is better than keeping them."""
    parts = [superior("", "", on(signed), on(plain), source="suite") for signed, plain in pairs]
    text = "keeping the sign of g, so that connections that raise the loss go first, beats SNIP at every sparsity"
    return conjunction("C6", text, parts)


def positions_matter(key: str, ours: str, shuffled: str, percent: str) -> Claim:
    """G, ours: which connections of a layer stay matters, not only how many (doubted by Frankle et al. 2021)."""
    text = f"at {percent} % SNIP's mask beats the same mask shuffled inside every layer"
    return superior(key, text, on(ours), on(shuffled), source="suite")


def gap_widens(key: str, dense: str, pruned: str, percent: str) -> Claim:
    """F, ours: pruning widens the gap between the best and the worst class."""
    text = f"pruning {percent} % widens the gap between the best and the worst class"
    return superior(key, text, on(pruned, "group_gap"), on(dense, "group_gap"), source="suite")
