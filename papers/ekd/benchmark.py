"""TPR at low FPR from every pair of test images: the quantity that EKD is made for."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.evaluation.benchmark import Measurement, VerificationBenchmark
from common.evaluation.embedding import embed
from common.evaluation.scores import ScoreList

TARGETS = (1e-2, 1e-3, 1e-4, 1e-5)


def metric(far: float) -> str:
    """Name of the TAR of all pairs at a FAR, in percent: `"all_tar_at_far_1e-4"`."""
    return f"all_tar_at_far_{far:.0e}".replace("e-0", "e-")


class AllPairsBenchmark(VerificationBenchmark):
    """`VerificationBenchmark`, and TAR at low FAR over all pairs of a set's images.

    A list of 6,000 impostors says nothing about a FAR of 1e-4. All pairs of its 4,000 images hold 8 million.

    Args:
        all_pairs_of: name of the pair set whose images are compared, each with each.
        options: of `VerificationBenchmark`.
    """

    def __init__(self, all_pairs_of: str = "mixed", **options: Any) -> None:
        super().__init__(**options)
        self.all_pairs_of = all_pairs_of

    def measure(self, method: Any, data: Any) -> Measurement:
        """As `VerificationBenchmark`, with `metric(far)` among the metrics of the set; None where it rests on too few pairs.

        Raises:
            ValueError: there is no such pair set.
        """
        found = super().measure(method, data)
        sets = data.pair_sets() if self.part == "test" else data.validation_pair_sets()
        if self.all_pairs_of not in sets:
            raise ValueError(f"there is no pair set '{self.all_pairs_of}' but {', '.join(sets)}")
        pairs = sets[self.all_pairs_of]
        embeddings = embed(
            method.network, pairs.images, divisor=pairs.divisor, flip=self.flip, batch_size=self.batch_size
        )
        found.metrics[self.all_pairs_of] |= all_pairs_tar(embeddings, pairs.subject)
        return found


def all_pairs_tar(embeddings: np.ndarray, subject: np.ndarray) -> dict[str, float | int | None]:
    """Embeddings [N, D] and identities [N] -> TAR in percent at `TARGETS`, and the numbers of pairs."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    first, second = np.triu_indices(len(unit), 1)
    same = subject[first] == subject[second]
    curve = ScoreList((unit @ unit.T)[first, second], same)
    tar: dict[str, float | int | None] = {"all_pairs": len(same), "all_genuine_pairs": int(same.sum())}
    for target in TARGETS:
        point = curve.tar_at_far(target)
        tar[metric(target)] = 100 * point.tar if point.reliable else None
    return tar
