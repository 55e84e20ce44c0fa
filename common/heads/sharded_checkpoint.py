"""Checkpoints of a run whose class weights are spread over devices: one file, from which any number of devices can go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.heads.sharded_partial_fc import ShardedPartialFC, shard


def whole_in_checkpoint(
    checkpoint: dict[str, Any], head: ShardedPartialFC, name: str, optimizers: Sequence[Any]
) -> None:
    """Replace the own rows in a Lightning checkpoint, weight and optimiser state, by those of all processes.

    Args:
        checkpoint: as Lightning made it; all processes must call this. head: in the module under `name`.
        optimizers: of the trainer, in its order.
    """
    weight, state_dict = head.local.weight, checkpoint["state_dict"]
    if len(weight) < head.num_classes:  # else a fit has ended, and what is here is whole
        state_dict[f"{name}.local.weight"] = head.gather(weight)
        state_dict[f"{name}.place"] = torch.tensor([0, head.num_classes, head.num_classes])
    places, (first, end) = [], shard(head.num_classes)
    for at, optimizer in enumerate(optimizers):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(parameters):
            states = checkpoint["optimizer_states"][at]["state"]
            if parameter is weight and index in states:
                own = states[index].items()
                states[index] = {key: head.gather(v) if _is_a_row_each(v, end - first) else v for key, v in own}
                places.append([at, index])
    checkpoint["sharded_head"] = places


def own_in_checkpoint(checkpoint: dict[str, Any], head: ShardedPartialFC) -> None:
    """Keep this process's rows of the optimiser state that `whole_in_checkpoint` gathered; the weight's are kept on loading."""
    first, end = head.rows
    for at, index in checkpoint.get("sharded_head", []):
        states = checkpoint["optimizer_states"][at]["state"]
        whole = states[index].items()
        states[index] = {k: v[first:end].clone() if _is_a_row_each(v, head.num_classes) else v for k, v in whole}


def _is_a_row_each(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and len(value) == rows
