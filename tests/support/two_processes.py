"""Run a function in two processes that train together (gloo, on this machine)."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def in_two_processes(function: Callable[..., Any], folder: Path, *arguments: Any, timeout: float = 600.0) -> list[Any]:
    """`function(*arguments)` in both of two processes; returns what each returned, rank 0 first.

    `function` must be importable. It finds the environment that Lightning's launcher would make; the process group is its
    own affair.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["common.experiment.run"])  # as the launcher does
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    members = [
        context.Process(target=_member, args=(rank, port, function, folder, arguments), daemon=True) for rank in (0, 1)
    ]
    for member in members:
        member.start()
    deadline = time.monotonic() + timeout
    try:
        while any(member.is_alive() for member in members):
            failed = [rank for rank in (0, 1) if (folder / f"error-{rank}.txt").exists()]
            assert not failed, "\n".join((folder / f"error-{rank}.txt").read_text() for rank in failed)
            assert time.monotonic() < deadline, f"two processes wait for each other for {timeout:.0f} s"
            time.sleep(0.02)
    finally:
        for member in members:
            member.kill()
            member.join()
    failed = [rank for rank in (0, 1) if (folder / f"error-{rank}.txt").exists()]
    assert not failed, "\n".join((folder / f"error-{rank}.txt").read_text() for rank in failed)
    codes = [member.exitcode for member in members]
    assert codes == [0, 0], f"the two processes ended with {codes}; what they say is in the captured output"
    return [torch.load(folder / f"result-{rank}.pt", weights_only=True) for rank in (0, 1)]


def _member(rank: int, port: int, function: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]) -> None:
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    os.environ |= {
        "LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    rank_zero_only.rank = rank
    torch.set_num_threads(1)
    try:
        torch.save(function(*arguments), folder / f"result-{rank}.pt")
    except BaseException:
        (folder / f"error-{rank}.txt").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        raise
