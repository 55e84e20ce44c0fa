"""Error rates of one list of comparison scores: everything is read off the two sorted halves of the list.

Sorting genuine and impostor scores separately costs what one sort of the whole list costs; afterwards TAR@FAR, FNMR@FMR
and the EER are binary searches, and the ROC is one merge.

Convention: higher score = more alike; a comparison is accepted iff ``score > threshold``; FAR = FMR = accepted
impostors / impostors; TAR = accepted genuines / genuines = 1 - FNMR. All rates are fractions in [0, 1].
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

# With fewer expected impostor acceptances than this a rate is mostly counting noise ("rule of 30" asks for three times
# as many).
FEWEST_ACCEPTED_IMPOSTORS = 10


@dataclass(frozen=True)
class OperatingPoint:
    """One threshold and the error rates that were realised at it."""

    target: float  # the FAR that was asked for
    threshold: float  # accept iff score > threshold
    far: float  # realised FAR; <= target for ``tar_at_far``
    tar: float
    accepted_impostors: int
    impostors: int
    reliable: bool  # False: the target stands for fewer than FEWEST_ACCEPTED_IMPOSTORS impostor comparisons

    @property
    def fmr(self) -> float:
        """False match rate, the other name of the realised FAR."""
        return self.far

    @property
    def fnmr(self) -> float:
        """False non-match rate, 1 - TAR."""
        return 1.0 - self.tar


@dataclass(frozen=True)
class Curve:
    """Error rates at falling thresholds (rising FAR): arrays of one length."""

    threshold: NDArray[np.floating]
    far: NDArray[np.float64]
    tar: NDArray[np.float64]

    @property
    def fmr(self) -> NDArray[np.float64]:
        """False match rate, the other name of FAR: the abscissa of a DET plot."""
        return self.far

    @property
    def fnmr(self) -> NDArray[np.float64]:
        """False non-match rate, 1 - TAR: the ordinate of a DET plot."""
        return 1.0 - self.tar


def accepted_allowance(rate: float, count: int) -> int:
    """floor(rate * count), computed exactly: 0.29 of 100 is 29, although 0.29 * 100 = 28.999... in floating point.

    Raises ValueError when ``rate`` is not in [0, 1].
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(
            f"A false acceptance rate of {rate} was asked for; it is a fraction, give a value from 0 to 1."
        )
    return int(Fraction(repr(float(rate))) * count)


def threshold_at_rate(sorted_scores: NDArray[np.floating], rate: float) -> float:
    """Smallest score t such that at most ``rate`` of all scores are > t: ``sorted_desc[floor(rate * N)]``.

    ``sorted_scores`` ascending. rate = 1 (everything may be accepted) gives -inf.
    """
    allowance = accepted_allowance(rate, len(sorted_scores))
    return (
        float("-inf") if allowance >= len(sorted_scores) else float(sorted_scores[len(sorted_scores) - 1 - allowance])
    )


def count_above(sorted_scores: NDArray[np.floating], threshold: float) -> int:
    """Number of the (ascending) scores that are strictly above ``threshold``."""
    # Searching for a float64 in float32 scores would convert the whole list. The largest float32 not above the
    # threshold has the same scores above it.
    kind = sorted_scores.dtype.type
    key = kind(threshold)
    if float(key) > threshold:
        key = np.nextafter(key, kind(-np.inf))
    return len(sorted_scores) - int(np.searchsorted(sorted_scores, key, side="right"))


class ScoreList:
    """Scores of genuine and impostor comparisons, sorted once.

    Args:
        score: float [P], higher = more alike (any finite range); float32 stays float32, so that thresholds are scores
        of the list. same: bool (or 0/1) [P], True for genuine comparisons.

    Raises ValueError on a length mismatch, on labels other than 0/1, on NaN or infinite scores, and when there is no
    genuine or no impostor comparison.

    Attributes: ``genuine`` and ``impostor``, the scores in ascending order.
    """

    def __init__(self, score: ArrayLike, same: ArrayLike) -> None:
        scores, labels = check_scores(score, same)
        # compress is four times faster than indexing with the mask.
        self.genuine: NDArray[np.floating] = np.compress(labels, scores)
        self.impostor: NDArray[np.floating] = np.compress(~labels, scores)
        if not len(self.genuine) or not len(self.impostor):
            missing = "genuine (same person)" if not len(self.genuine) else "impostor (different persons)"
            raise ValueError(
                f"None of the {len(scores)} comparisons is {missing}: error rates need both kinds of pairs."
            )
        self.genuine.sort()
        self.impostor.sort()
        ends = np.array([self.genuine[0], self.genuine[-1], self.impostor[0], self.impostor[-1]])  # NaN sorts last
        if not np.isfinite(ends).all():
            bad = np.flatnonzero(~np.isfinite(scores))
            raise ValueError(f"{len(bad)} of {len(scores)} scores are NaN or infinite, the first at position {bad[0]}.")

    def point(self, threshold: float, target: float = float("nan")) -> OperatingPoint:
        """Error rates when a comparison is accepted iff score > ``threshold``."""
        impostors = len(self.impostor)
        accepted = count_above(self.impostor, threshold)
        enough = np.isnan(target) or accepted_allowance(target, impostors) >= FEWEST_ACCEPTED_IMPOSTORS
        return OperatingPoint(
            target=target,
            threshold=float(threshold),
            far=accepted / impostors,
            tar=count_above(self.genuine, threshold) / len(self.genuine),
            accepted_impostors=accepted,
            impostors=impostors,
            reliable=bool(enough),
        )

    def tar_at_far(self, far: float) -> OperatingPoint:
        """TAR at the lowest threshold whose FAR does not exceed ``far``: ``impostor_desc[floor(far * N)]``.

        Tied impostor scores are rejected together, so the realised FAR (returned) may lie below ``far``. ``reliable``
        is False when far * N < 10: then the point rests on a handful of impostor comparisons.
        """
        return self.point(threshold_at_rate(self.impostor, far), far)

    def fnmr_at_fmr(self, fmr: float) -> OperatingPoint:
        """The same point as ``tar_at_far``; read ``.fnmr`` and ``.fmr``."""
        return self.tar_at_far(fmr)

    @cached_property
    def eer(self) -> float:
        """Equal error rate: where the line through neighbouring ROC vertices meets FMR = FNMR.

        The vertices are the distinct thresholds; ties make slanted steps, exactly as in the AUC.
        """
        crossing = min(self._first_crossing(self.genuine), self._first_crossing(self.impostor))
        fmr, fnmr = self._rates(crossing)
        before_fmr, before_fnmr = self._rates(
            max(self._below(self.genuine, crossing), self._below(self.impostor, crossing))
        )
        share = (before_fmr - before_fnmr) / ((before_fmr - before_fnmr) + (fnmr - fmr))
        return before_fmr + share * (fmr - before_fmr)

    def _rates(self, threshold: float) -> tuple[float, float]:
        fmr = count_above(self.impostor, threshold) / len(self.impostor)
        return fmr, 1.0 - count_above(self.genuine, threshold) / len(self.genuine)

    def _first_crossing(self, scores: NDArray[np.floating]) -> float:
        """Smallest of ``scores`` at which FNMR >= FMR, by bisection; +inf when there is none."""
        low, high = 0, len(scores)
        while low < high:
            middle = (low + high) // 2
            fmr, fnmr = self._rates(scores[middle])
            low, high = (low, middle) if fnmr >= fmr else (middle + 1, high)
        return float(scores[low]) if low < len(scores) else float("inf")

    @staticmethod
    def _below(scores: NDArray[np.floating], threshold: float) -> float:
        # A number of Python's own would make searchsorted convert float32 scores, all of them.
        place = int(np.searchsorted(scores, scores.dtype.type(threshold), side="left"))
        return float(scores[place - 1]) if place else float("-inf")

    @cached_property
    def auc(self) -> float:
        """Area under the ROC = P(genuine > impostor) + P(tie) / 2 (Mann-Whitney)."""
        few, many = sorted((self.genuine, self.impostor), key=len)
        lower = int(np.searchsorted(many, few, side="left").sum()) + int(np.searchsorted(many, few, side="right").sum())
        wins = lower / (2.0 * len(few) * len(many))
        return wins if few is self.genuine else 1.0 - wins

    def det(self, points: int = 512) -> Curve:
        """DET curve at up to ``points`` FMRs spaced evenly on a logarithmic axis from 1/N to 1, after FMR = 0."""
        count = len(self.impostor)
        allowed = np.unique(np.rint(np.geomspace(1, count, points)).astype(np.int64))
        threshold = np.append(self.impostor[::-1][np.append(0, allowed[:-1])], self.impostor.dtype.type(-np.inf))
        return self._curve(threshold)

    def roc(self, thinned: bool = False) -> Curve:
        """ROC with one point a distinct score: from (0, 0) at the highest score to (1, 1) at threshold -inf.

        ``thinned`` drops the points at which neither the step of FAR nor the step of TAR changes, the default of
        scikit-learn's ``roc_curve`` (``drop_intermediate``); rules that pick the nearest point depend on it.
        """
        merged = np.concatenate((self.genuine, self.impostor))
        merged.sort(kind="stable")  # two sorted runs: one merge
        keep = np.append(merged[1:] != merged[:-1], True)
        # Accepting scores >= v is accepting scores > (next lower distinct value), hence the shift.
        distinct = merged[keep][::-1]
        threshold = np.append(distinct, distinct.dtype.type(-np.inf))
        curve = self._curve(threshold)
        if not thinned or len(distinct) < 2:
            return curve
        return _thin(curve, len(self.genuine), len(self.impostor))

    def _curve(self, threshold: NDArray[np.floating]) -> Curve:
        far = (len(self.impostor) - np.searchsorted(self.impostor, threshold, side="right")) / len(self.impostor)
        tar = (len(self.genuine) - np.searchsorted(self.genuine, threshold, side="right")) / len(self.genuine)
        return Curve(threshold=threshold, far=far, tar=tar)

    @cached_property
    def _thinned(self) -> Curve:
        return self.roc(thinned=True)

    def nearest_far(self, far: float, tie: str = "highest_tar") -> OperatingPoint:
        """The point of the thinned ROC whose FAR is nearest to ``far``, above or below it.

        ``tie`` among points of one distance: "highest_tar" is the rule of the official IJB-B/C evaluation (InsightFace
        ``eval_ijbc.py``: the ROC reversed, first minimum), "lowest_tar" that of the official periocular evaluation
        (first minimum in the order of rising FAR). Published TAR@FAR values of those two protocols follow this rule;
        prefer ``tar_at_far``, which never exceeds the FAR it promises.
        """
        curve = self._thinned
        gap = np.abs(curve.far - far)
        if tie == "highest_tar":
            best = len(gap) - 1 - int(np.argmin(gap[::-1]))
        elif tie == "lowest_tar":
            best = int(np.argmin(gap))
        else:
            raise ValueError(f"tie={tie!r} is unknown; choose 'highest_tar' (IJB) or 'lowest_tar' (periocular).")
        return self.point(float(curve.threshold[best]), far)

    @cached_property
    def eer_nearest(self) -> OperatingPoint:
        """EER of the official periocular evaluation (jankolf/ijcb-periocular-quantization): the FAR of this point.

        It is the point of the thinned ROC with the smallest |1 - TAR - FAR|. Coarser than ``eer`` on small lists (it
        does not interpolate).
        """
        curve = self._thinned
        best = int(np.argmin(np.abs(1.0 - curve.tar - curve.far)))
        return self.point(float(curve.threshold[best]))


def _thin(curve: Curve, genuines: int, impostors: int) -> Curve:
    """Drop collinear points; counts, not rates, are compared so that rounding cannot keep or drop a point."""
    tps = np.rint(curve.tar * genuines).astype(np.int64)
    fps = np.rint(curve.far * impostors).astype(np.int64)
    # Second differences vanish where a point continues the step before it. The origin is no sample of the official
    # curve's differences (it is put in front afterwards), so they start at the second point.
    turn = (np.diff(fps[1:], 2) != 0) | (np.diff(tps[1:], 2) != 0)
    keep = np.concatenate(([True, True], turn, [True]))
    return Curve(threshold=curve.threshold[keep], far=curve.far[keep], tar=curve.tar[keep])


def check_scores(score: ArrayLike, same: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Scores float [P] (float32 kept, integers and half precision widened) and labels bool [P] of one length."""
    scores, labels = np.asarray(score), check_same(same)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(
            f"Scores of shape {scores.shape} do not fit labels of shape {labels.shape}: one of each per comparison."
        )
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float32 if scores.dtype == np.float16 else np.float64)
    return scores, labels


def check_same(same: ArrayLike) -> NDArray[np.bool_]:
    """Labels as bool [P]; 0/1 integers are accepted, anything else is refused with ValueError."""
    labels = np.asarray(same)
    if labels.dtype != np.bool_:
        if not np.isin(labels, (0, 1)).all():
            raise ValueError(
                "`same` holds values other than 0 and 1: give True for genuine pairs and False for impostor pairs."
            )
        labels = labels.astype(np.bool_)
    if labels.ndim != 1:
        raise ValueError(f"`same` has shape {labels.shape}; one label a comparison was expected, shape [P].")
    return labels
