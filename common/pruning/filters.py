"""How important a filter is: norms, Taylor terms, and how criteria are called by name.

A filter is a slice of a weight along its first axis: an output channel of a convolution, a neuron of a linear layer. Scores
are tensors [filters] by layer name (not parameter name); the larger, the more important.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.pruning.scores import Loss, Scores, _gradients, classification_loss, random_scores

Form = Literal["sum_of_squares", "square_of_sum"]


def filter_norms(weight: Tensor, order: int = 1, inputs: Tensor | None = None) -> Tensor:
    """L1 or L2 norm of every filter (Li et al. 2017: s_j = sum |F_j|).

    Args:
        weight: [out, in, ...]. order: 1 or 2.
        inputs: bool [in]: only these input kernels count. With the mask of the layer before it is the paper's greedy
            selection, without it the independent one.

    Returns:
        [out].

    Raises:
        ValueError: another order, or a mask of another length.
    """
    if order not in (1, 2):
        raise ValueError(f"the order of the norm is {order}, but must be 1 or 2")
    kept = weight.detach()
    if inputs is not None:
        if inputs.shape != weight.shape[1:2]:
            raise ValueError(f"the mask of inputs is {list(inputs.shape)}, but the weight has {weight.shape[1]} inputs")
        kept = kept[:, inputs]
    return torch.linalg.vector_norm(kept.flatten(1), order, dim=1)


def taylor_form(products: Tensor, form: Form = "sum_of_squares") -> Tensor:
    """The two aggregates of g w over a filter: sum (g w)^2, or (sum g w)^2.

    Behind a batch normalisation in train mode the sum of g w over a filter is 0 (scaling it changes nothing), so that the
    second form is degenerate there.

    Args:
        products: g w, [out, ...]. form: which aggregate.

    Returns:
        [out].
    """
    if form == "sum_of_squares":
        return products.square().flatten(1).sum(1)
    if form == "square_of_sum":
        return products.flatten(1).sum(1).square()
    raise ValueError(f"the form is {form!r}, but must be sum_of_squares or square_of_sum")


@dataclass(frozen=True)
class Evidence:
    """What a filter criterion may look at.

    Attributes:
        network: the network. layers: names of the convolutions and linear layers to score.
        batches: (x, labels, ...) for criteria that need data. loss: mean loss of a batch. training: mode while scoring.
        seed: of random criteria.
    """

    network: nn.Module
    layers: tuple[str, ...]
    batches: Iterable[Any] = field(default=(), compare=False)
    loss: Loss = classification_loss
    training: bool = False
    seed: int = 0

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The weight of every layer, by layer name.

        Raises:
            ValueError: a name is not that of a convolution or linear layer.
        """
        modules = dict(self.network.named_modules())
        weights: dict[str, nn.Parameter] = {}
        for name in self.layers:
            module = modules.get(name)
            if not isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
                raise ValueError(f"{name} is no convolution or linear layer, so that it has no filters to score")
            weights[name] = module._parameters["weight"]  # type: ignore[assignment]
        return weights


Criterion = Callable[[Evidence], Scores]
"""A filter criterion: scores [filters] by layer. A method may define its own and pass it where a name is expected."""


def l1(evidence: Evidence) -> Scores:
    """L1 norm of every filter."""
    return {name: filter_norms(weight, 1) for name, weight in evidence.weights.items()}


def l2(evidence: Evidence) -> Scores:
    """L2 norm of every filter."""
    return {name: filter_norms(weight, 2) for name, weight in evidence.weights.items()}


def chance(evidence: Evidence) -> Scores:
    """Uniform draws."""
    one_each = {name: weight.detach().flatten(1)[:, 0] for name, weight in evidence.weights.items()}
    return random_scores(one_each, evidence.seed)


def taylor_sum_of_squares(evidence: Evidence) -> Scores:
    """Mean over batches of sum (g w)^2 (Molchanov et al. 2019)."""
    return _taylor(evidence, "sum_of_squares")


def taylor_square_of_sum(evidence: Evidence) -> Scores:
    """Mean over batches of (sum g w)^2 (Molchanov et al. 2019, group form)."""
    return _taylor(evidence, "square_of_sum")


def _taylor(evidence: Evidence, form: Form) -> Scores:
    weights = evidence.weights
    totals: Scores = {}
    count = 0
    for _, gradients in _gradients(evidence.network, weights, evidence.batches, evidence.loss, evidence.training):
        count += 1
        for name, gradient in gradients.items():
            score = taylor_form(gradient * weights[name].detach(), form)
            totals[name] = totals[name] + score if name in totals else score
    return {name: total / count for name, total in totals.items()}


CRITERIA: Mapping[str, Criterion] = {
    "l1": l1,
    "l2": l2,
    "random": chance,
    "taylor": taylor_sum_of_squares,
    "taylor_square_of_sum": taylor_square_of_sum,
}


def score_filters(criterion: str | Criterion, evidence: Evidence) -> Scores:
    """Filter scores by a criterion's name or by a criterion of one's own.

    Raises:
        ValueError: an unknown name, or scores that are not one number a filter.
    """
    if isinstance(criterion, str) and criterion not in CRITERIA:
        raise ValueError(f"there is no criterion {criterion!r}; there are {', '.join(CRITERIA)}")
    scores = (CRITERIA[criterion] if isinstance(criterion, str) else criterion)(evidence)
    for name, weight in evidence.weights.items():
        if name not in scores or scores[name].shape != weight.shape[:1]:
            found = list(scores[name].shape) if name in scores else "nothing"
            raise ValueError(
                f"the criterion gave {found} for {name}, expected [{weight.shape[0]}], one number a filter"
            )
    return scores
