"""LFW-style pair verification: the threshold is fitted on the other folds, accuracy is measured on the held-out one.

Source: Huang et al., "Labeled Faces in the Wild", 2007 (view 2), in the form in which face-recognition papers report it
(InsightFace ``recognition/arcface_torch/eval/verification.py``): squared distance d = 2 - 2 cos of normalised
embeddings, thresholds 0, 0.01, ..., 3.99, same person iff d < t (strictly), first best threshold of the training folds,
ten contiguous folds.

The official loop compares every pair with every threshold in every fold. Here the distances of each fold are sorted
once, genuine and impostor ones apart; the places of the thresholds in them are all true and false acceptances of all
folds and thresholds. All accuracies are ratios of exact counts. Rates are fractions in [0, 1].
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.evaluation.scores import check_same

DISTANCE_GRID = np.arange(0, 4, 0.01)  # 400 thresholds of the accuracy
FINE_DISTANCE_GRID = np.arange(0, 4, 0.001)  # 4,000 thresholds of VAL@FAR
KINDS = ("impostor", "genuine")

Part = slice | NDArray[np.int64]


@dataclass(frozen=True)
class FoldedAccuracy:
    """Outcome of ``folded_accuracy``; F folds, T thresholds, P pairs."""

    accuracy: float  # mean over folds
    std: float  # over folds, ddof 0
    fold_accuracy: NDArray[np.float64]  # [F]
    threshold: NDArray[np.float64]  # [F] distance fitted on the other folds; same person iff distance < threshold
    threshold_index: NDArray[np.int64]  # [F] place in the grid of the first best threshold
    correct: NDArray[np.bool_]  # [P] each pair's decision at the threshold of its fold
    tpr: NDArray[
        np.float64
    ]  # [T] rates of the held-out folds, averaged over the folds (0 where a fold has no such pair)
    fpr: NDArray[np.float64]  # [T]


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
        themselves depend on the held-out fold (row f is used to fit and to
            test the f-th fold: ``embedding.mean_removed_scores``).
        distance: instead of ``score``, squared distances in [0, 4] (any scale if ``thresholds`` fits it); same shapes.
        fold: int >= 0 [P], the test set's own folds (results in rising order of the labels). Default: ``folds``
        contiguous blocks. thresholds: ascending distances [T].

    Raises ValueError on shapes that do not fit, NaN or infinite scores, cosines outside [-1, 1], fewer than two folds,
    and when the pairs that a threshold is fitted on are all genuine or all impostor (a list sorted by label and cut
    into contiguous folds).
    """
    pairs = _FoldedPairs(same, score, distance, fold, folds)
    grid = _ascending(thresholds)
    tally = pairs.tally(grid)
    train_correct = tally.train[:, 1] + (tally.train_size[:, :1] - tally.train[:, 0])
    best = train_correct.argmax(axis=1)  # the first one: the smallest threshold among equals
    threshold = grid[best]
    if ties == "mean":
        equal = train_correct == train_correct.max(axis=1, keepdims=True)
        threshold = (equal @ grid) / equal.sum(axis=1)
    correct = pairs.accepted(threshold) == pairs.labels
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
    grid = _ascending(thresholds)
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
        if not self.is_score:
            return value.astype(np.float64)
        distance = np.multiply(value, -2.0, dtype=np.float64)
        distance += 2.0
        return np.maximum(distance, 0.0, out=distance)  # a cosine rounded to above 1 is distance 0

    def tally(self, thresholds: NDArray[np.float64]) -> _Tally:
        """Counts of all folds at all thresholds; raises ValueError when a threshold cannot be fitted."""
        tables = [self._accepted(row, thresholds) for row in range(len(self.given))]
        own = [tables[f if len(tables) > 1 else 0] for f in range(len(self.names))]
        test = np.stack([table[f] for f, table in enumerate(own)])
        train = np.stack([table.sum(axis=0) - table[f] for f, table in enumerate(own)])
        genuine = np.array([np.count_nonzero(self.labels[part]) for part in self.parts])
        size = np.stack((np.array([len(self.labels[part]) for part in self.parts]) - genuine, genuine), axis=1)
        train_size = size.sum(axis=0) - size
        if not train_size.all():
            f, kind = np.argwhere(train_size == 0)[0]
            raise ValueError(
                f"The folds other than fold {self.names[f]} hold no {KINDS[kind]} pair: no threshold can be fitted. "
                "Folds must mix genuine and impostor pairs: a list sorted by label cannot be cut into contiguous folds."
            )
        return _Tally(train=train, test=test, train_size=train_size, test_size=size)

    def _accepted(self, row: int, thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
        """Pairs with distance < threshold [F, 2, T], from one sort of the distances of each fold.

        Impostor distances get a minus sign before the sort: they end up before the genuine ones without a pass that
        parts them.
        """
        table = np.empty((len(self.parts), 2, len(thresholds)), dtype=np.int64)
        for f, part in enumerate(self.parts):
            genuine = self.labels[part]
            signed = self.distance(row, part)
            signed *= 2.0 * genuine - 1.0
            signed.sort()
            impostors = len(genuine) - np.count_nonzero(genuine)
            table[f, 0] = impostors - np.searchsorted(signed, -thresholds, side="right")
            table[f, 1] = np.searchsorted(signed, thresholds, side="left") - impostors
        return np.maximum(table, 0, out=table)  # thresholds <= 0 lie on the other side of the sign: they accept nothing

    def accepted(self, threshold: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Each pair accepted or not [P] at the threshold of its fold [F]."""
        decision = np.empty(len(self.labels), dtype=np.bool_)
        for f, part in enumerate(self.parts):
            decision[part] = self.distance(f, part) < threshold[f]
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
    if not pairs or given.min() < 0:
        raise ValueError("`fold` is empty or holds negative numbers; folds are numbered from 0.")
    cuts = np.flatnonzero(given[1:] != given[:-1]) + 1
    starts, stops = np.append(0, cuts), np.append(cuts, pairs)
    names = np.unique(given[starts])
    if len(names) < 2:
        raise ValueError(f"All pairs are in fold {names[0]}; thresholds are fitted on other folds: give at least two.")
    if len(starts) == len(names):
        rising = np.argsort(given[starts])
        return names, [slice(int(starts[f]), int(stops[f])) for f in rising]
    return names, [np.flatnonzero(given == name) for name in names]


def _ascending(thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    grid = np.asarray(thresholds, dtype=np.float64)
    if grid.ndim != 1 or not len(grid) or not (np.diff(grid) > 0).all():
        raise ValueError(
            f"The thresholds (shape {grid.shape}) must be one ascending list of distances without repeats."
        )
    return grid
