"""What this paper's networks are measured on: classification, and the number of non-zero parameters (NNZ)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.evaluation.benchmark import Measurement
from common.evaluation.classification import ClassificationBenchmark


class FootprintBenchmark:
    """`ClassificationBenchmark`, with the size of a network counted so that networks of several widths can be compared.

    Args:
        largest: parameters of the dense network of width 1, of which `remaining` is a share. parts: of the data set.

    Raises:
        ValueError: `largest` is not positive, or no part, or one that there is not.
    """

    def __init__(self, largest: int, parts: Sequence[str] = ("test",)) -> None:
        if largest < 1:
            raise ValueError(f"largest is {largest}, but must be the number of parameters of the network of width 1")
        self.largest, self.classification = largest, ClassificationBenchmark(parts=parts)

    def measure(self, method: Any, data: Any) -> Measurement:
        """The measurement of `method.network`, and as costs:

        `nnz`: kept weights and all parameters that are not pruned; `unpruned`: the latter alone (layers that stay dense,
        biases, normalisations); `remaining`: NNZ in percent of `largest`; `asked` and `sparsity`: share of the prunable weights
        that is masked, as asked for and as it is, in percent; `sparsity_of_all`: the same of all parameters; `returned`:
        masked weights that came back, over all updates; `updates`: of the masks.
        """
        found = self.classification.measure(method, data)
        cost = found.cost
        unpruned = cost["parameters"] - cost["prunable"]
        nnz = unpruned + cost["kept"]
        cost.update(
            nnz=nnz,
            unpruned=unpruned,
            remaining=100 * nnz / self.largest,
            asked=100 * method.sparsity,
            sparsity_of_all=100 * (1 - nnz / cost["parameters"]),
            returned=int(method.returned),
            updates=int(method.updates),
        )
        return found
