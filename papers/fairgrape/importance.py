"""How important a weight is for a group of people (FairGRAPE's score), and what the official code computes instead.

Symbols
    w, W     one prunable weight; all of them
    D_g^b    samples of group g in mini-batch b
    L        cross entropy, averaged over the samples given and over the tasks

    I_{g,w} = sum_b ( L(D_g^b; W) - L(D_g^b; W | w = 0) )^2  ~  sum_b ( w dL(D_g^b)/dw )^2         (1)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from common.pruning.scores import undisturbed

Batch = tuple[Tensor, Tensor, Tensor]
"""Images [B, C, H, W], labels int64 [B, tasks] and groups int64 [B]; group -1: none."""
TaskLoss = Callable[[Tensor, Tensor], Tensor]
"""(outputs [B, K], labels [B, tasks]) -> mean loss."""
Norms = Literal["running", "batch"]


def group_importance(
    network: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batches: Iterable[Batch],
    groups: int,
    loss: TaskLoss,
    norms: Norms = "running",
) -> dict[str, Tensor]:
    """(1): weight name -> importances, float32 [groups, *shape of the weight].

    Network, gradients and running statistics are afterwards what they were. A group without a sample in a batch adds nothing.
    What is pruned is zero, and so is its importance.

    Args:
        norms: batch normalisation by its `"running"` statistics, as at inference, so that a group's loss depends on its own
            samples alone; or by those of the `"batch"`, all groups together, as the official code does.

    Raises:
        ValueError: no batch, a loss that is not finite, or a group without any sample.
    """
    total = {name: torch.zeros(groups, *w.shape, device=w.device) for name, w in weights.items()}
    seen = torch.zeros(groups, dtype=torch.int64)
    parameters = list(weights.values())
    for images, labels, group in _on_device(batches, parameters[0].device):
        with undisturbed(network, norms == "batch"), torch.enable_grad():
            together = network(images) if norms == "batch" else None
            present = [g for g in range(groups) if bool((group == g).any())]
            for g in present:
                mine = group == g
                outputs = network(images[mine]) if together is None else together[mine]
                value = loss(outputs, labels[mine])
                _finite(value)
                gradients = torch.autograd.grad(
                    value, parameters, retain_graph=together is not None and g != present[-1], allow_unused=True
                )
                for (name, w), gradient in zip(weights.items(), gradients, strict=True):
                    if gradient is not None:
                        total[name][g].add_((w.detach() * gradient).square_())
                seen[g] += int(mine.sum())
    _every_group(seen)
    return total


def official_importance(
    network: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batches: Iterable[Batch],
    groups: int,
    loss: TaskLoss,
    masks: Mapping[str, Tensor] | None = None,
    lr: float = 1e-4,
) -> dict[str, Tensor]:
    """What `importance_by_class0` of the official code computes, on a copy of the network; shapes as in `group_importance`.

    It differs from (1) in three ways. Gradients are never set to zero, so that a group's "gradient" holds those of all groups
    and batches before it. An Adam step follows every group, so that weights, and masks of ones that multiply them, drift
    while they are scored. And what is summed is divided by the number of batches for the last group only.

    Args:
        masks: weight name -> 1 where kept; None: everything. lr: of Adam; 0 keeps the weights where they are.

    Raises:
        ValueError: as `group_importance`.
    """
    own = copy.deepcopy(network).train()
    own.zero_grad(set_to_none=True)
    mine = {name: own.get_parameter(name) for name in weights}
    ones = {name: nn.Parameter(torch.ones_like(w)) for name, w in mine.items()}
    optimizer = torch.optim.Adam([*own.parameters(), *ones.values()], lr=lr)
    total = {name: torch.zeros(groups, *w.shape, device=w.device) for name, w in mine.items()}
    seen, count = torch.zeros(groups, dtype=torch.int64), 0
    for images, labels, group in _on_device(batches, next(iter(mine.values())).device):
        count += 1
        for g in range(groups):
            chosen = group == g
            if not bool(chosen.any()):
                continue
            with torch.enable_grad():
                # Batch normalisation sees the whole batch, the loss only the group.
                masked = {name: w * ones[name] for name, w in mine.items()}
                value = loss(functional_call(own, masked, (images,))[chosen], labels[chosen])
                _finite(value)
                value.backward()
            optimizer.step()  # before weight and mask are read
            for name, w in mine.items():
                if w.grad is not None:
                    total[name][g].add_((w.detach() * w.grad * ones[name].detach()).square_())
            seen[g] += int(chosen.sum())
    _every_group(seen)
    for name, importance in total.items():
        importance[groups - 1] /= count
        if masks is not None:
            importance *= masks[name].to(importance)
    return total


def group_losses(network: nn.Module, batches: Iterable[Batch], groups: int, loss: TaskLoss) -> Tensor:
    """Mean loss of every group under the network as at inference, float64 [groups].

    Raises:
        ValueError: no batch, or a group without any sample.
    """
    total, seen = torch.zeros(groups, dtype=torch.float64), torch.zeros(groups, dtype=torch.int64)
    device = next(network.parameters()).device
    with undisturbed(network), torch.no_grad():
        for images, labels, group in _on_device(batches, device):
            outputs = network(images)
            for g in range(groups):
                mine = group == g
                if bool(mine.any()):
                    total[g] += float(loss(outputs[mine], labels[mine])) * int(mine.sum())
                    seen[g] += int(mine.sum())
    _every_group(seen)
    return total / seen


def mean_loss(network: nn.Module, batches: Iterable[Batch], loss: TaskLoss) -> float:
    """Mean loss under the network as at inference.

    Raises:
        ValueError: no batch.
    """
    everyone = ((images, labels, torch.zeros_like(group)) for images, labels, group in batches)
    return float(group_losses(network, everyone, 1, loss))


def _on_device(batches: Iterable[Batch], device: torch.device) -> Iterable[Batch]:
    for images, labels, group in batches:
        yield images.to(device), labels.to(device), group.to(device)


def _finite(value: Tensor) -> None:
    if not bool(torch.isfinite(value)):
        raise ValueError(f"the loss of a scoring batch is {value.item():g}; the network has diverged")


def _every_group(seen: Tensor) -> None:
    if not int(seen.sum()):
        raise ValueError("a score that needs gradients got no batch")
    empty = [str(g) for g, samples in enumerate(seen.tolist()) if not samples]
    if empty:
        raise ValueError(
            f"group {', '.join(empty)} has no training image, so that no weight can matter for it. Leave the group out "
            "of the data set, or choose another group column."
        )
