"""How important a weight is, for every weight of a network: magnitude, chance, SNIP, Taylor.

Scores are tensors by parameter name, of the parameter's shape; the larger, the more important. They are what
`select_per_layer` and `select_globally` take. What scores filters instead of weights is in `filters`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Scores = dict[str, Tensor]
Weights = Mapping[str, nn.Parameter]
Loss = Callable[[nn.Module, Any], Tensor]
"""Mean loss of a batch: (network, batch) -> scalar."""


def classification_loss(network: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy of a batch (x [B, ...], labels [B], ...) under a network that returns logits [B, classes]."""
    return F.cross_entropy(network(batch[0]), batch[1])


def magnitude(weights: Mapping[str, Tensor]) -> Scores:
    """|w|."""
    return {name: weight.detach().abs() for name, weight in weights.items()}


def random_scores(weights: Mapping[str, Tensor], seed: int) -> Scores:
    """Uniform draws, the same on every device: the baseline of every criterion."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(weight.shape, generator=generator).to(weight.device) for name, weight in weights.items()}


def connection_sensitivity(
    network: nn.Module,
    weights: Weights,
    batches: Iterable[Any],
    loss: Loss = classification_loss,
    training: bool = False,
) -> Scores:
    """g = dL/dc at c = 1 for a mask c on the weights: exactly w dL/dw, with its sign (SNIP, Lee et al. 2019, Eq. 4).

    Args:
        network: where the weights are; its weights, gradients, buffers and modes are afterwards what they were.
        weights: `Masks.weights` or `prunable_weights(network)`. Masked weights are zero, and so is their sensitivity.
        batches: of one mini-batch (the paper), or the pieces of a large one: L is the mean over all samples.
        loss: mean loss of a batch.
        training: score in train mode, where batch normalisations use the batch's statistics (a PyTorch port of SNIP); the
            official code scores in eval mode.

    Raises:
        ValueError: no batch, a weight that is frozen, or a loss that is not finite.
    """
    total = {name: torch.zeros_like(weight, requires_grad=False) for name, weight in weights.items()}
    samples = 0
    for size, gradients in _gradients(network, weights, batches, loss, training):
        samples += size
        for name, gradient in gradients.items():
            total[name].add_(gradient, alpha=size)
    return {name: weight.detach() * total[name] / samples for name, weight in weights.items()}


def snip(
    network: nn.Module,
    weights: Weights,
    batches: Iterable[Any],
    loss: Loss = classification_loss,
    training: bool = False,
) -> Scores:
    """SNIP's saliency s = |g| / sum |g| over all weights, g as in `connection_sensitivity`. Rank it globally."""
    return normalized(magnitude(connection_sensitivity(network, weights, batches, loss, training)))


def signed_snip(
    network: nn.Module,
    weights: Weights,
    batches: Iterable[Any],
    loss: Loss = classification_loss,
    training: bool = False,
) -> Scores:
    """-g: connections whose removal lowers the loss to first order (g > 0) go first, then those that matter least.

    Not in the paper, which takes |g| and so keeps connections that raise the loss; an arm of ours.
    """
    sensitivity = connection_sensitivity(network, weights, batches, loss, training)
    return {name: -g for name, g in sensitivity.items()}


def taylor(
    network: nn.Module,
    weights: Weights,
    batches: Iterable[Any],
    loss: Loss = classification_loss,
    training: bool = False,
    total: bool = False,
) -> Scores:
    """(g w)^2 with the gradient of each batch, averaged over the batches (Molchanov et al. 2019, Eq. 8).

    The mean of squares over batches is not the square of the mean: many batches are not one large batch.

    Args:
        network, weights, batches, loss, training: as in `connection_sensitivity`.
        total: sum over the batches instead (FairGRAPE).
    """
    squares = {name: torch.zeros_like(weight, requires_grad=False) for name, weight in weights.items()}
    count = 0
    for _, gradients in _gradients(network, weights, batches, loss, training):
        count += 1
        for name, gradient in gradients.items():
            squares[name].add_((gradient * weights[name].detach()).square_())
    return squares if total else {name: square / count for name, square in squares.items()}


def normalized(scores: Mapping[str, Tensor]) -> Scores:
    """Scores divided by their sum over all layers, so that they add up to 1; all-zero scores stay zero."""
    total = sum(float(layer.double().sum()) for layer in scores.values())
    return {name: layer / total if total else layer for name, layer in scores.items()}


def _gradients(
    network: nn.Module, weights: Weights, batches: Iterable[Any], loss: Loss, training: bool
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """(number of samples, gradient of the batch's mean loss by weight) of every batch; nothing is accumulated in `.grad`."""
    frozen = [name for name, weight in weights.items() if not weight.requires_grad]
    if frozen:
        raise ValueError(f"{', '.join(frozen)} cannot be scored: requires_grad is off")
    device = next(iter(weights.values())).device
    seen = False
    for batch in batches:
        seen = True
        batch = tuple(part.to(device) if isinstance(part, Tensor) else part for part in batch)
        with undisturbed(network, training), torch.enable_grad():
            value = loss(network, batch)
            gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
        if not bool(torch.isfinite(value)):
            raise ValueError(f"the loss of a scoring batch is {value.item():g}; the network has diverged")
        pairs = zip(weights.items(), gradients, strict=True)
        yield len(batch[0]), {name: torch.zeros_like(w) if g is None else g for (name, w), g in pairs}
    if not seen:
        raise ValueError("a score that needs gradients got no batch")


@contextmanager
def undisturbed(network: nn.Module, training: bool = False) -> Iterator[None]:
    """Train or eval mode inside; every module's mode and every buffer (running statistics) is restored afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in network.buffers()] if training else []
    network.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
