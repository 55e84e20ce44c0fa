"""Settings of a run's process that save time and change no number.

A step of the smallest networks takes 2 ms, so that what Lightning spends beside it counts. Nothing here touches what is
computed: a fit ends with the same bits with and without.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from typing import Any

import pytorch_lightning as L
import torch
from lightning_utilities.core.enums import StrEnum
from pytorch_lightning.loops import training_epoch_loop
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.trainer import call
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import nn

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
EMPTY = frozenset(  # hooks of a step that do nothing in LightningModule itself
    {
        "on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward", "on_after_backward",
        "on_before_optimizer_step",
    }
)  # fmt: skip
_call_hooks = call._call_callback_hooks
_call_module_hook = call._call_lightning_module_hook
_move_batch = Strategy.batch_to_device
_equal_words = StrEnum.__eq__
_NOTHING = contextlib.nullcontext()


def quicken() -> None:
    """Make this process quick; doing it twice does no harm."""
    _keep_freed_memory()
    if not torch.cuda.is_available():
        # Lightning has PyTorch open NVIDIA's management library whenever it is asked for a GPU, and Adam asks at every step.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
        Strategy.batch_to_device = _leave_batch  # type: ignore[method-assign]
    PassThroughProfiler.profile = _profile_nothing  # type: ignore[method-assign, assignment]
    L.LightningModule.__setattr__ = _set_attribute  # type: ignore[method-assign, assignment]
    training_epoch_loop.is_param_in_hook_signature = _takes
    StrEnum.__eq__ = _same_member  # type: ignore[method-assign]
    call._call_callback_hooks = _call_hooks_of_somebody
    call._call_lightning_module_hook = _call_own_hook


def _keep_freed_memory() -> None:
    """Make glibc reuse freed tensors instead of handing them back to the system and asking for fresh pages at every step.

    Training on a CPU is 1.1 to 1.4 times as fast with it; elsewhere than on glibc nothing happens.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            libc.mallopt(parameter, 1 << 30)


def _profile_nothing(self: PassThroughProfiler, action_name: str) -> contextlib.AbstractContextManager[Any]:
    """In place of a generator's context, of which Lightning opens fifty a step to measure nothing in them."""
    return _NOTHING


def _leave_batch(self: Strategy, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
    """A batch of tensors that were made on the CPU stays there, unless the module or its data have something to do with it."""
    module = self.lightning_module
    owners = (module, getattr(getattr(module, "_trainer", None), "datamodule", None))
    plain = all(getattr(type(owner), name, None) in _OWN for owner in owners if owner is not None for name in TRANSFERS)
    tensors = isinstance(batch, tuple | list) and all(isinstance(one, torch.Tensor) and one.is_cpu for one in batch)
    return batch if plain and tensors else _move_batch(self, batch, device, dataloader_idx)


_OWN = frozenset(getattr(owner, name) for owner in (L.LightningModule, L.LightningDataModule) for name in TRANSFERS)


def _set_attribute(self: L.LightningModule, name: str, value: Any) -> None:
    """`nn.Module`'s, which searches parameters and buffers first, but for the name of the hook that runs: set 40 times a step."""
    if name == "_current_fx_name":
        self.__dict__[name] = value
    else:
        nn.Module.__setattr__(self, name, value)


def _same_member(self: StrEnum, other: object) -> bool:
    """Lightning's states are compared a dozen times a step; members of one class are the same or differ."""
    return self is other if type(other) is type(self) else _equal_words(self, other)


@functools.lru_cache(maxsize=16)
def _takes(hook: Any, parameter: str, explicit: bool = False, min_args: int | None = None) -> bool:
    """Lightning's question whether `training_step` takes the number of the batch, asked at every step, remembered."""
    return is_param_in_hook_signature(hook, parameter, explicit, min_args)


def _call_hooks_of_somebody(trainer: L.Trainer, hook_name: str, *args: Any, **options: Any) -> None:
    """A hook of all callbacks, unless every callback has the empty one: true of four of the six hooks of a step."""
    empty = getattr(L.Callback, hook_name, None)
    if any(getattr(type(one), hook_name, None) is not empty or hook_name in one.__dict__ for one in trainer.callbacks):  # type: ignore[attr-defined]
        _call_hooks(trainer, hook_name, *args, **options)


def _call_own_hook(
    trainer: L.Trainer, hook_name: str, *args: Any, pl_module: L.LightningModule | None = None, **options: Any
) -> Any:
    """A hook of the module, unless it is one of the empty ones that the module inherits."""
    if hook_name in EMPTY:
        module = pl_module or trainer.lightning_module
        inherited = getattr(type(module), hook_name, None) is getattr(L.LightningModule, hook_name)
        if inherited and hook_name not in module.__dict__:
            return None
    return _call_module_hook(trainer, hook_name, *args, pl_module=pl_module, **options)
