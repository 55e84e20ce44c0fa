"""Going back: keeping a network's early weights and restoring the survivors, or drawing new ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.pruning.masks import Masks


class KeptState(nn.Module):
    """A copy of a network's whole state (weights, biases, normalisations with their running statistics) to go back to.

    Make it an attribute of the LightningModule: the copy consists of buffers, so that checkpoints hold it and a resumed run
    rewinds to the same values. It starts as the network is now; call `keep` again after the first k steps for "early"
    weights.

        self.start = KeptState(self.network)
        ...
        self.start.restore(self.network, self.masks)     # rewind: survivors go back, pruned weights stay zero

    The optimiser and its schedule start anew with every phase; within one, see `forget`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name, tensor in network.state_dict().items():
            self.register_buffer(_buffer_name(name), tensor.detach().clone())

    @torch.no_grad()
    def keep(self, network: nn.Module) -> None:
        """Replace what is kept by the network's present state.

        Raises:
            ValueError: the network has other tensors than the one this was made for.
        """
        for name, kept in self._own(network).items():
            kept.copy_(network.state_dict()[name])

    @torch.no_grad()
    def restore(self, network: nn.Module, masks: Masks | None = None) -> None:
        """Give the network the state that is kept; with masks, pruned weights are zero afterwards.

        Raises:
            ValueError: the network has other tensors than the one this was made for.
        """
        state = network.state_dict()
        for name, kept in self._own(network).items():
            state[name].copy_(kept)
        if masks is not None:
            masks.apply_to_weights()

    def as_dict(self) -> dict[str, Tensor]:
        """The kept state under the network's own names."""
        return {name.replace("/", "."): kept for name, kept in self._buffers.items() if kept is not None}

    def _own(self, network: nn.Module) -> dict[str, Tensor]:
        own, state = self.as_dict(), network.state_dict()
        different = sorted(own.keys() ^ state.keys()) or [n for n in own if own[n].shape != state[n].shape]
        if different:
            raise ValueError(
                f"the kept state is of another network: {', '.join(different[:3])} differ. Channels that were removed "
                "cannot come back; keep the state after the surgery."
            )
        return own


def redraw(
    network: nn.Module,
    seed: int,
    masks: Masks | None = None,
    initialize: Callable[[nn.Module], object] | None = None,
) -> None:
    """Draw all parameters of a network anew from its own distribution; running statistics start again.

    This is the lottery ticket's control (random re-initialisation under the same masks) and, with `masks`, what SNIP's
    official code does after scoring: it trains other weights than it scored. Global generators are left alone.

    Args:
        network: every module's `reset_parameters` is called, then the network's own `initialize()`.
        seed: of the draw. masks: pruned weights are zero afterwards.
        initialize: called with the network in place of its own method.

    Raises:
        ValueError: the network has no method `initialize` and none is given, so that its distribution is unknown.
    """
    own = getattr(network, "initialize", None)
    if initialize is None and not callable(own):
        raise ValueError(
            f"{type(network).__name__} has no method initialize(), so that its initial distribution is unknown; pass one"
        )
    devices = sorted({weight.device.index for weight in network.parameters() if weight.device.type == "cuda"})
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for module in network.modules():
            if callable(getattr(module, "reset_parameters", None)):
                module.reset_parameters()  # type: ignore[operator]
        if initialize is not None:
            initialize(network)
        else:
            assert callable(own)
            own()
    if masks is not None:
        masks.apply_to_weights()


def forget(optimizer: torch.optim.Optimizer) -> None:
    """Empty an optimiser's state (momenta, step counts), as if it had just been made."""
    optimizer.state.clear()


def _buffer_name(name: str) -> str:
    return name.replace(".", "/")
