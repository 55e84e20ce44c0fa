"""Masks on the weights of a network: pruned weights are exactly zero and stay so through any optimiser.

The weights themselves are zeroed, and the forward pass is the plain one: nothing is multiplied in it, the network's state
dict has its own names, and a network that was never masked loads it. What keeps the zeros is done around the optimiser
step: the gradient of a pruned weight is zeroed as soon as it is there (before it is clipped or exchanged between processes),
its momenta are zeroed when masks change, and after the step every pruned weight is zeroed again unless the optimiser is
known to leave such weights alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from common.pruning.prunable import prunable_weights

AnyOptimizer = TypeVar("AnyOptimizer", bound=torch.optim.Optimizer)
# A weight whose value, gradient and momenta are zero stays zero under these; what others do is undone after every step.
LEAVE_ZEROS = frozenset({torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RMSprop})


@dataclass(frozen=True)
class LayerCount:
    """Weights of one layer: how many there are and how many are kept."""

    total: int
    kept: int

    @property
    def sparsity(self) -> float:
        """Pruned share, in [0, 1]."""
        return 1 - self.kept / self.total


class Masks(nn.Module):
    """One mask for each prunable parameter of a network; all ones at first.

    Make it an attribute of the LightningModule, beside the network: masks are buffers, so that checkpoints hold them, while
    the network's own state dict stays that of an unmasked network.

        self.masks = Masks(self.network, dense=("fc3",))
        ...
        self.masks.set(select_globally(scores, sparsity=0.9))      # prunes
        ...
        def configure_optimizers(self):
            return self.masks.guard(torch.optim.SGD(self.network.parameters(), 0.1))

    Args:
        network: its parameters are masked in place. After surgery (`remove_channels`) make new masks.
        dense, biases: see `prunable_weights`.

    Attributes:
        weights: the prunable parameters by name.

    Raises:
        ValueError: nothing is prunable, or a name in `dense` does not exist.
    """

    def __init__(self, network: nn.Module, dense: Iterable[str] = (), biases: bool = False) -> None:
        super().__init__()
        self.weights = prunable_weights(network, dense, biases)
        for name, weight in self.weights.items():
            # In the weight's own type: multiplying by a bool mask takes seven times as long on a CPU.
            self.register_buffer(_buffer_name(name), torch.ones_like(weight.detach()))
        self._hooked: dict[str, RemovableHandle] = {}
        self._guarded: list[weakref.ref[torch.optim.Optimizer]] = []

    def as_dict(self) -> dict[str, Tensor]:
        """Parameter name -> bool tensor of the parameter's shape, True where the weight is kept."""
        return {name: mask != 0 for name, mask in zip(self.weights, self._masks(), strict=True)}

    @torch.no_grad()
    def set(self, kept: Mapping[str, Tensor], revive: bool = False) -> None:
        """Put new masks in place and zero what they prune, in the weights and in the state of guarded optimisers.

        Args:
            kept: parameter name -> tensor of its shape, non-zero where the weight is kept; parameters that are not named
                keep their masks.
            revive: allow masks that are not subsets of the present ones. A revived weight starts from zero.

        Raises:
            ValueError: an unknown name, another shape, or a pruned weight would come back.
        """
        own = dict(zip(self.weights, self._masks(), strict=True))
        for name, mask in kept.items():
            if name not in own:
                raise ValueError(f"there is no mask {name!r}; the prunable parameters are {', '.join(own)}")
            if mask.shape != own[name].shape:
                raise ValueError(f"the mask of {name} is {list(mask.shape)}, the weight {list(own[name].shape)}")
            back = 0 if revive else int(((mask != 0) & (own[name] == 0).to(mask.device)).sum())
            if back:
                raise ValueError(f"{back} pruned weights of {name} would come back; pass revive=True if that is meant")
        for name, mask in kept.items():
            own[name].copy_(mask != 0)
        self.apply_to_weights()

    @torch.no_grad()
    def apply_to_weights(self) -> None:
        """Zero the pruned weights (after new values were loaded into the network) and what guarded optimisers know of them."""
        for weight, mask in zip(self.weights.values(), self._masks(), strict=True):
            weight.copy_(torch.where(mask != 0, weight, 0.0))  # a product would leave negative zeros
        for optimizer in [each() for each in self._guarded]:
            if optimizer is not None:
                self._clean(optimizer)

    def guard(self, optimizer: AnyOptimizer) -> AnyOptimizer:
        """Keep pruned weights at zero whenever this optimiser steps; call it in `configure_optimizers`.

        The masks may change later: the optimiser's momenta are zeroed with the weights. Costs one product a weight a step, two
        with optimisers that are not among `LEAVE_ZEROS`. Give Adam `fused=True` on a CPU: otherwise it takes the square roots
        of exact zeros, for which MKL is ten times slower.

        Returns:
            The optimiser.
        """
        for name, weight in self.weights.items():
            if name not in self._hooked and weight.requires_grad:
                self._hooked[name] = weight.register_post_accumulate_grad_hook(_GradientMask(self, _buffer_name(name)))
        self._guarded = [each for each in self._guarded if each() is not None]
        if all(each() is not optimizer for each in self._guarded):
            if type(optimizer) not in LEAVE_ZEROS:
                optimizer.register_step_post_hook(self._after_step)
            self._clean(optimizer)
            self._guarded.append(weakref.ref(optimizer))
        return optimizer

    def _after_step(self, *_: Any) -> None:
        with torch.no_grad():
            torch._foreach_mul_(list(self.weights.values()), self._masks())

    @torch.no_grad()
    def _clean(self, optimizer: torch.optim.Optimizer) -> None:
        """Zero momenta and the like of pruned weights."""
        for weight, mask in zip(self.weights.values(), self._masks(), strict=True):
            for value in optimizer.state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    value.mul_(mask)

    def counts(self) -> dict[str, LayerCount]:
        """Total and kept weights of each prunable parameter."""
        pairs = zip(self.weights, self._masks(), strict=True)
        return {name: LayerCount(mask.numel(), int(torch.count_nonzero(mask))) for name, mask in pairs}

    @property
    def kept(self) -> int:
        """Weights that are kept, over all prunable parameters."""
        return sum(count.kept for count in self.counts().values())

    @property
    def total(self) -> int:
        """All prunable weights."""
        return sum(weight.numel() for weight in self.weights.values())

    @property
    def sparsity(self) -> float:
        """Pruned share of the prunable weights, in [0, 1]; 1 - sparsity is the lottery ticket's P_m."""
        return 1 - self.kept / self.total

    def check_zeros(self) -> None:
        """Make sure that no pruned weight has a value (as when an optimiser was not guarded).

        Raises:
            RuntimeError: which parameters have such weights.
        """
        alive = {
            name: int(torch.count_nonzero(weight.detach()[mask == 0]))
            for (name, weight), mask in zip(self.weights.items(), self._masks(), strict=True)
        }
        wrong = ", ".join(f"{count} of {name}" for name, count in alive.items() if count)
        if wrong:
            raise RuntimeError(
                f"pruned weights are not zero: {wrong}. Let the masks guard every optimiser of the network, and call "
                "apply_to_weights after loading values into it."
            )

    def _masks(self) -> list[Tensor]:
        return list(self._buffers.values())  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles are of the masks, not of the hooks: guard the optimiser of the copy."""
        return {**self.__dict__, "_hooked": {}, "_guarded": []}


class _GradientMask:
    """Hook on a parameter: zeroes the gradient where the mask, as it is then, is zero."""

    def __init__(self, masks: Masks, buffer: str) -> None:
        self.masks, self.buffer = masks, buffer

    def __call__(self, weight: Tensor) -> None:
        if weight.grad is not None:
            weight.grad.mul_(self.masks.get_buffer(self.buffer))


def _buffer_name(parameter: str) -> str:
    """Buffers may not have dots in their names."""
    return parameter.replace(".", "/")
