"""1:1 verification, and what became of the mined pairs while the student was trained."""

from __future__ import annotations

from typing import Any

from common.evaluation.benchmark import Measurement, VerificationBenchmark


class RelationBenchmark:
    """`VerificationBenchmark`, and on one of its pair sets the curves of the training (`CoupleFace.curves`).

    Added to `metrics[beside]`: `harder_curve`, percent of the pairs of a sample with a hard identity that the student finds more
    alike than the teacher, and `similarity_curve`, the student's mean cosine of these pairs, one value for each equal part of
    the training; `harder`, mean of the first; `harder_end` and `similarity_end`, the last of each.

    Args:
        beside: name of the pair set. fmr: false match rate of the global threshold for groups.
    """

    def __init__(self, beside: str = "mixed", fmr: float = 1e-2) -> None:
        self.beside, self.verification = beside, VerificationBenchmark(fmr=fmr)

    def measure(self, method: Any, data: Any) -> Measurement:
        """See `VerificationBenchmark.measure`.

        Raises:
            ValueError: the data have no pair set of that name.
        """
        found = self.verification.measure(method, data)
        if self.beside not in found.metrics:
            raise ValueError(f"there is no pair set '{self.beside}'; there are {', '.join(found.metrics)}")
        curves = method.curves()
        harder, similarity = curves["harder"], curves["similarity"]
        if harder:
            found.metrics[self.beside] |= {
                "harder": sum(harder) / len(harder),
                "harder_end": harder[-1],
                "similarity_end": similarity[-1],
                "harder_curve": [round(value, 4) for value in harder],
                "similarity_curve": [round(value, 5) for value in similarity],
            }
        return found
