"""The gradient of the architecture: how the held-out loss after one training step depends on alpha (DARTS, second order)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Loss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]  # (weights, alphas) -> scalar
SMALL = 0.01


def virtual_step(
    weights: Sequence[Tensor],
    gradient: Sequence[Tensor],
    velocity: Sequence[Tensor],
    rate: float,
    momentum: float,
    decay: float,
) -> list[Tensor]:
    """w' = w - xi (mu v + g + lambda w): where one step of SGD would lead, for each tensor of weights; detached."""
    with torch.no_grad():
        return [w - rate * (momentum * v + g + decay * w) for w, g, v in zip(weights, gradient, velocity, strict=True)]


def unrolled_gradient(
    train_loss: Loss,
    held_out_loss: Loss,
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    gradient: Sequence[Tensor],
    velocity: Sequence[Tensor],
    rate: float,
    momentum: float,
    decay: float,
) -> list[Tensor]:
    """d/d alpha of L_val(w'(alpha), alpha), the second derivative by finite differences.

        d_alpha L_val(w', alpha) - xi [d_alpha L_train(w+, alpha) - d_alpha L_train(w-, alpha)] / (2 eps)
        w+- = w +- eps d,   d = d_w' L_val(w', alpha),   eps = 0.01 / ||d||

    Args:
        train_loss, held_out_loss: functions of weights and alphas, on a batch of either half of the data.
        weights: w; alphas: alpha (requiring gradients). gradient: d_w L_train(w, alpha).
        velocity: v, the optimiser's momentum buffers; rate: xi; momentum: mu; decay: lambda.

    Returns:
        One tensor for each of `alphas`.
    """
    ahead = [w.requires_grad_() for w in virtual_step(weights, gradient, velocity, rate, momentum, decay)]
    found = torch.autograd.grad(held_out_loss(ahead, alphas), [*ahead, *alphas])
    direction, direct = found[: len(ahead)], found[len(ahead) :]
    length = torch.stack([d.square().sum() for d in direction]).sum().sqrt()
    if not bool(length > 0):  # the held-out loss does not depend on the weights: nothing to look ahead for
        return list(direct)
    eps = SMALL / length

    def beside(sign: float) -> tuple[Tensor, ...]:
        with torch.no_grad():
            moved = [w + sign * eps * d for w, d in zip(weights, direction, strict=True)]
        return torch.autograd.grad(train_loss(moved, alphas), list(alphas))

    above, below = beside(1.0), beside(-1.0)
    return [a - rate * (p - n) / (2 * eps) for a, p, n in zip(direct, above, below, strict=True)]
