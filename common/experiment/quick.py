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
from pytorch_lightning.loops import training_epoch_loop
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.trainer import call
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import nn

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_call_hooks = call._call_callback_hooks
_NOTHING = contextlib.nullcontext()


def quicken() -> None:
    """Make this process quick; doing it twice does no harm."""
    _keep_freed_memory()
    if not torch.cuda.is_available():
        # Lightning has PyTorch open NVIDIA's management library whenever it is asked for a GPU, and Adam asks at every step.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    PassThroughProfiler.profile = _profile_nothing  # type: ignore[method-assign, assignment]
    L.LightningModule.__setattr__ = _set_attribute  # type: ignore[method-assign, assignment]
    training_epoch_loop.is_param_in_hook_signature = _takes
    call._call_callback_hooks = _call_hooks_of_somebody


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


def _set_attribute(self: L.LightningModule, name: str, value: Any) -> None:
    """`nn.Module`'s, which searches parameters and buffers first, but for the name of the hook that runs: set 40 times a step."""
    if name == "_current_fx_name":
        self.__dict__[name] = value
    else:
        nn.Module.__setattr__(self, name, value)


@functools.lru_cache(maxsize=16)
def _takes(hook: Any, parameter: str, explicit: bool = False, min_args: int | None = None) -> bool:
    """Lightning's question whether `training_step` takes the number of the batch, asked at every step, remembered."""
    return is_param_in_hook_signature(hook, parameter, explicit, min_args)


def _call_hooks_of_somebody(trainer: L.Trainer, hook_name: str, *args: Any, **options: Any) -> None:
    """A hook of all callbacks, unless every callback has the empty one: true of four of the six hooks of a step."""
    empty = getattr(L.Callback, hook_name, None)
    if any(getattr(type(one), hook_name, None) is not empty or hook_name in one.__dict__ for one in trainer.callbacks):  # type: ignore[attr-defined]
        _call_hooks(trainer, hook_name, *args, **options)
