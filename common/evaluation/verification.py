"""LFW-style pair verification: the threshold is fitted on the other folds, accuracy is measured on the held-out one.

Source: Huang et al., "Labeled Faces in the Wild", 2007 (view 2), in the form in which face-recognition papers report it
(InsightFace ``recognition/arcface_torch/eval/verification.py``): squared distance d = 2 - 2 cos of normalised
embeddings, thresholds 0, 0.01, ..., 3.99, same person iff d < t (strictly), first best threshold of the training folds,
ten contiguous folds.

The official loop compares every pair with every threshold in every fold. Here the place of each distance among the
thresholds is found once; counting the places of each fold, genuine and impostor ones apart, gives all true and false
acceptances of all folds and thresholds. All accuracies are ratios of exact counts. Rates are fractions in [0, 1].
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.evaluation.scores import check_same
from common.evaluation.threshold_grid import ascending_grid, grid_places, squared_distance

DISTANCE_GRID = np.arange(0, 4, 0.01)  # 400 thresholds of the accuracy
FINE_DISTANCE_GRID = np.arange(0, 4, 0.001)  # 4,000 thresholds of VAL@FAR
KINDS = ("impostor", "genuine")

Part = slice | NDArray[np.int64]
Places = list[NDArray[np.integer]]  # one array a fold


@dataclass(frozen=True)
class FoldedAccuracy:
    """Outcome of ``folded_accuracy``; F folds, T thresholds, P pairs."""

    accuracy: float  # mean over folds
    std: float  # over folds, ddof 0
    fold_accuracy: NDArray[np.float64]  # [F]
    threshold: NDArray[np.float64]  # [F] distance fitted on the other folds; same person iff distance < threshold
    threshold_index: NDArray[np.int64]  # [F] place in the grid of the first best threshold
    correct: NDArray[np.bool_]  # [P] each pair's decision at the threshold of its fold
    # [T] rates of the held-out folds, averaged over the folds (0 where a fold has no such pair)
    tpr: NDArray[np.float64]
    fpr: NDArray[np.float64]


@dataclass(frozen=True)
class ValidationRate:
    """VAL@FAR: genuine pairs accepted at the threshold where the other folds' FAR meets the target; F folds."""

    val: float  # mean over folds
    std: float  # over folds, ddof 0
    far: float  # realised on the held-out folds, mean
    fold_val: NDArray[np.float64]  # [F]
    fold_far: NDArray[np.float64]  # [F]
    threshold: NDArray[np.float64]  # [F]


def folded_accuracy(
    same: ArrayLike,
    *,
    score: ArrayLike | None = None,
    distance: ArrayLike | None = None,
    fold: ArrayLike | None = None,
    folds: int = 10,
    thresholds: NDArray[np.float64] = DISTANCE_GRID,
    ties: Literal["first", "mean"] = "first",
) -> FoldedAccuracy:
    """Accuracy of the k-fold verification protocol.

    Args:
        same: bool (or 0/1) [P], True for genuine pairs. score: cosine similarity [P], or [F, P] when the scores
        themselves depend on the held-out fold (row f fits and tests fold f: ``embedding.mean_removed_scores``).
        distance: instead of ``score``, squared distances in [0, 4] (any scale if ``thresholds`` fits it); same shapes.
        fold: int >= 0 [P], the test set's own folds (results in rising order of the labels). Default: ``folds``
        contiguous blocks. thresholds: ascending distances [T]; evenly spaced ones cost a fraction of the time.

    Raises ValueError on shapes that do not fit, NaN or infinite scores, cosines outside [-1, 1], fewer than two folds,
    and when the pairs that a threshold is fitted on are all genuine or all impostor (a list sorted by label and cut
    into contiguous folds).
    """
    pairs = _FoldedPairs(same, score, distance, fold, folds)
    grid = ascending_grid(thresholds)
    tally = pairs.tally(grid)
    train_correct = tally.train[:, 1] + (tally.train_size[:, :1] - tally.train[:, 0])
    best = train_correct.argmax(axis=1)  # the first one: the smallest threshold among equals
    if ties == "mean":
        equal = train_correct == train_correct.max(axis=1, keepdims=True)
        threshold = (equal @ grid) / equal.sum(axis=1)
        accepted = pairs.accepted(threshold)
    else:
        threshold = grid[best]
        accepted = pairs.joined(place <= index for place, index in zip(tally.places, best.tolist(), strict=True))
    correct = accepted == pairs.labels
    fold_accuracy = np.array([np.count_nonzero(correct[part]) for part in pairs.parts]) / tally.test_size.sum(axis=1)
    rate = tally.test / np.maximum(tally.test_size, 1)[:, :, None]
    return FoldedAccuracy(
        accuracy=float(fold_accuracy.mean()),
        std=float(fold_accuracy.std()),
        fold_accuracy=fold_accuracy,
        threshold=threshold,
        threshold_index=best,
        correct=correct,
        tpr=rate[:, 1].mean(axis=0),
        fpr=rate[:, 0].mean(axis=0),
    )


def val_at_far(
    same: ArrayLike,
    *,
    score: ArrayLike | None = None,
    distance: ArrayLike | None = None,
    fold: ArrayLike | None = None,
    folds: int = 10,
    far: float = 1e-3,
    thresholds: NDArray[np.float64] = FINE_DISTANCE_GRID,
) -> ValidationRate:
    """VAL@FAR of the same protocol; arguments and errors as in ``folded_accuracy``.

    The threshold is the linear interpolation of the grid as a function of the training folds' FAR at ``far`` (0 when
    the FAR never gets there). Equal FARs keep their smallest threshold: the official code hands all of them to SciPy's
    ``interp1d``, which refuses duplicates in its current versions. With fewer than 1 / far impostors the value lies
    below the first realisable FAR and VAL is close to 0: that says something about the list, not about the network.
    Also raises ValueError when a fold itself lacks genuine or impostor pairs (its rate would be 0 / 0).
    """
    pairs = _FoldedPairs(same, score, distance, fold, folds)
    grid = ascending_grid(thresholds)
    tally = pairs.tally(grid)
    if not tally.test_size.all():
        f, kind = np.argwhere(tally.test_size == 0)[0]
        raise ValueError(
            f"Fold {pairs.names[f]} has no {KINDS[kind]} pair, so its VAL@FAR is undefined; mix both kinds."
        )
    train_far = tally.train[:, 0] / tally.train_size[:, :1]
    threshold = np.zeros(len(pairs.names))
    for f, rates in enumerate(train_far):
        rising, first = np.unique(rates, return_index=True)
        if rising[-1] >= far:
            threshold[f] = np.interp(far, rising, grid[first])
    accepted = pairs.accepted(threshold)
    fold_val = np.array([accepted[part][pairs.labels[part]].mean() for part in pairs.parts])
    fold_far = np.array([accepted[part][~pairs.labels[part]].mean() for part in pairs.parts])
    return ValidationRate(
        val=float(fold_val.mean()),
        std=float(fold_val.std()),
        far=float(fold_far.mean()),
        fold_val=fold_val,
        fold_far=fold_far,
        threshold=threshold,
    )


def pair_distances(embeddings: ArrayLike) -> NDArray[np.float64]:
    """Squared distances [N] of the normalised embeddings [2N, D]; images 2k and 2k + 1 are pair k, as in ``.bin`` sets.

    Embeddings may be un-normalised; zero rows stay zero (distance 1 to any other). In float64, as the official
    evaluation.
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2 or len(rows) % 2:
        raise ValueError(
            f"Embeddings of shape {rows.shape} are no list of pairs; [2N, D] with an even number of rows was expected."
        )
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(norm == 0, 1.0, norm)
    return np.square(rows[0::2] - rows[1::2]).sum(axis=1)


def contiguous_folds(pairs: int, folds: int = 10) -> NDArray[np.int64]:
    """Fold of each pair [P] when the list is cut into blocks; the first ``pairs % folds`` blocks hold one pair more."""
    if not 2 <= folds <= pairs:
        raise ValueError(
            f"{pairs} pairs cannot be cut into {folds} folds; at least 2 folds of at least one pair each are needed."
        )
    sizes = np.full(folds, pairs // folds) + (np.arange(folds) < pairs % folds)
    return np.repeat(np.arange(folds), sizes)


@dataclass(frozen=True)
class _Tally:
    """Accepted pairs [F, 2, T] and pairs [F, 2] of each fold's training and test part (axis 1: impostor, genuine)."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    train_size: NDArray[np.int64]
    test_size: NDArray[np.int64]
    places: Places  # of each fold's test pairs among the thresholds


class _FoldedPairs:
    """Checked pairs of a k-fold protocol: labels [P], the pairs of each fold, distances by held-out fold."""

    def __init__(
        self, same: ArrayLike, score: ArrayLike | None, distance: ArrayLike | None, fold: ArrayLike | None, folds: int
    ) -> None:
        self.labels = check_same(same)
        self.names, self.parts = _folds(fold, folds, len(self.labels))
        if (score is None) == (distance is None):
            raise ValueError("Give either `score` (cosine) or `distance` (squared distance), and only one of them.")
        self.is_score = distance is None
        self.given = _check_values(
            score if self.is_score else distance, self.is_score, len(self.labels), len(self.names)
        )

    def distance(self, row: int, part: Part) -> NDArray[np.float64]:
        """Distances of the pairs in ``part`` when fold ``row`` is held out; a fresh array."""
        value = self.given[row if len(self.given) > 1 else 0, part]
        return squared_distance(value) if self.is_score else value.astype(np.float64)

    def tally(self, thresholds: NDArray[np.float64]) -> _Tally:
        """Counts of all folds at all thresholds; raises ValueError when a threshold cannot be fitted."""
        rows = [self._accepted(row, thresholds) for row in range(len(self.given))]
        own = rows if len(rows) > 1 else rows * len(self.names)
        test = np.stack([table[f] for f, (table, _) in enumerate(own)])
        train = np.stack([table.sum(axis=0) - table[f] for f, (table, _) in enumerate(own)])
        genuine = np.array([np.count_nonzero(self.labels[part]) for part in self.parts])
        size = np.stack((np.array([len(self.labels[part]) for part in self.parts]) - genuine, genuine), axis=1)
        train_size = size.sum(axis=0) - size
        if not train_size.all():
            f, kind = np.argwhere(train_size == 0)[0]
            raise ValueError(
                f"The folds other than fold {self.names[f]} hold no {KINDS[kind]} pair: no threshold can be fitted. "
                "Folds must mix genuine and impostor pairs: a list sorted by label cannot be cut into contiguous folds."
            )
        places = [places[f] for f, (_, places) in enumerate(own)]
        return _Tally(train=train, test=test, train_size=train_size, test_size=size, places=places)

    def _accepted(self, row: int, thresholds: NDArray[np.float64]) -> tuple[NDArray[np.int64], Places]:
        """Pairs with distance < threshold [F, 2, T], and the places of each fold's pairs among the thresholds."""
        bins = len(thresholds) + 1
        places: Places = []
        table = np.empty((len(self.parts), 2, len(thresholds)), dtype=np.int64)
        for f, part in enumerate(self.parts):
            place = grid_places(self.given[row, part], self.is_score, thresholds)
            by_kind = self.labels[part] * place.dtype.type(bins)  # genuine pairs behind the impostors
            by_kind += place
            count = np.bincount(by_kind, minlength=2 * bins).reshape(2, bins)
            table[f] = count[:, :-1].cumsum(axis=1)
            places.append(place)
        return table, places

    def accepted(self, threshold: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Each pair accepted or not [P] at the threshold of its fold [F], on the grid or not."""
        return self.joined(self.distance(f, part) < threshold[f] for f, part in enumerate(self.parts))

    def joined(self, decisions: Iterable[NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """The decisions on each fold's pairs, fold by fold, in the order of the list [P]."""
        decision = np.empty(len(self.labels), dtype=np.bool_)
        for part, of_fold in zip(self.parts, decisions, strict=True):
            decision[part] = of_fold
        return decision


def _check_values(values: ArrayLike | None, is_score: bool, pairs: int, folds: int) -> NDArray[np.floating]:
    """Scores or distances as [1, P] or [F, P]."""
    given, name = np.asarray(values), "score" if is_score else "distance"
    if given.shape not in ((pairs,), (folds, pairs)):
        raise ValueError(f"`{name}` has shape {given.shape}, expected ({pairs},) as the labels or ({folds}, {pairs}).")
    low, high = float(given.min()), float(given.max())  # NaN wins both
    if not np.isfinite((low, high)).all():
        bad = np.argwhere(~np.isfinite(given))
        raise ValueError(f"{len(bad)} of the {name}s are NaN or infinite, the first at pair {bad[0][-1]}.")
    if not is_score and low < 0:
        raise ValueError(
            f"The smallest `distance` is {low:g}; distances are not negative. Pass similarities as `score`."
        )
    if is_score and (low < -1.001 or high > 1.001):
        raise ValueError(
            f"`score` reaches from {low:g} to {high:g}; cosines lie in [-1, 1]. Pass distances as `distance`."
        )
    return np.atleast_2d(given)


def _folds(fold: ArrayLike | None, folds: int, pairs: int) -> tuple[NDArray[np.int64], list[Part]]:
    """Labels of the folds present [F], rising, and the pairs of each: a slice where they are contiguous, else
    indices."""
    given = contiguous_folds(pairs, folds) if fold is None else np.asarray(fold)
    if given.shape != (pairs,) or given.dtype.kind not in "iu":
        raise ValueError(
            f"`fold` is {given.dtype} of shape {given.shape}; one integer for each of {pairs} pairs expected."
        )
    cuts = np.flatnonzero(given[1:] != given[:-1]) + 1
    starts, stops = np.append(0, cuts), np.append(cuts, pairs)
    if not pairs or given[starts].min() < 0:
        raise ValueError("`fold` is empty or holds negative numbers; folds are numbered from 0.")
    names = np.unique(given[starts])
    if len(names) < 2:
        raise ValueError(f"All pairs are in fold {names[0]}; thresholds are fitted on other folds: give at least two.")
    if len(starts) == len(names):
        rising = np.argsort(given[starts])
        return names, [slice(int(starts[f]), int(stops[f])) for f in rising]
    return names, [np.flatnonzero(given == name) for name in names]
