"""Partial FC with the class weights spread over the processes (An et al., arXiv 2203.15565).

For hundreds of thousands of classes. Of C classes and W processes, process r holds C // W + [r < C mod W] neighbouring rows of
the weight. Every process sees the embeddings of all and computes their cosines to its own rows; the softmax is that of all rows,
with its maximum and its sum taken over the processes. Together they compute what one process would for the whole batch.

Symbols
    z     logits [N, C_r] of the N rows of the step's batch and the classes that are here
    n     rows of the batch that have a target

Loss
    l_i = min(max_j z_ij + ln sum_j exp(z_ij - max_j z_ij) - z_{i,y_i}, -ln 1e-30),  j over all processes        (1)
    L   = 1/n sum_i l_i                                                                                         (2)
    dL/dz_ij = (p_ij - [j = y_i]) / n                                                                           (3)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from common.distributed import gather_rows, processes, rank, total
from common.heads.cosine import CosineHead, checked_labels
from common.heads.margins import ArcFace, CosFace, NormalizedSoftmax
from common.heads.partial_fc import LARGEST_LOSS

#: heads whose margin of an entry needs that entry alone; the others look at entries that are in other processes
HEADS: dict[str, type[CosineHead]] = {"ArcFace": ArcFace, "CosFace": CosFace, "NormalizedSoftmax": NormalizedSoftmax}
INITIAL_DEVIATION = 0.01  # of `CosineHead`
BLOCK = 4096


class ShardedPartialFC(nn.Module):
    """Mean cross-entropy of a margin head whose class weights are spread over the processes.

    Made inside a process group it holds its own rows from the start, and never more. Made outside it holds all, until
    `spread()`; both have the values that the whole head would start from. The parameter must be kept out of DDP
    (`unshared`): its gradient is that of the global loss already, and each process has another part of it.

    Args:
        embedding_size: D. num_classes: C, at least two a process. scale: s. margin: m; NormalizedSoftmax has none.
        head: `"ArcFace"`, `"CosFace"` or `"NormalizedSoftmax"`.
        sample_rate: share of its own classes that each process compares a step with, in (0, 1]; those of the batch are always
            among them. Below 1 the drawn classes depend on the number of processes (as in the official code).
        options: further arguments of the head.

    Raises:
        ValueError: no such head; the rate is not in (0, 1]; fewer than two classes a process; see the head.
    """

    place: Tensor

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        scale: float = 64.0,
        margin: float = 0.5,
        head: str = "ArcFace",
        sample_rate: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise ValueError(f"head is '{head}', but only {', '.join(HEADS)} can be spread over processes")
        if not 0.0 < sample_rate <= 1.0:
            raise ValueError(f"sample_rate is {sample_rate}, but must be above 0 and at most 1.")
        self.num_classes, self.sample_rate = num_classes, sample_rate
        first, end = shard(num_classes)
        if head != "NormalizedSoftmax":
            options = {"margin": margin, **options}
        generator = torch.get_rng_state()  # the head's own draw, of its rows alone, is not the one that counts
        self.local: Any = HEADS[head](embedding_size, end - first, scale=scale, **options)
        torch.set_rng_state(generator)
        self.local.weight.data.copy_(initial_rows(num_classes, embedding_size, first, end))
        self.register_buffer("place", torch.tensor([first, end, num_classes]))

    @property
    def margin(self) -> float:
        """m, which a warm-up may change between steps."""
        return float(getattr(self.local, "margin", 0.0))

    @margin.setter
    def margin(self, value: float) -> None:
        if hasattr(self.local, "margin"):
            self.local.margin = value

    @property
    def rows(self) -> tuple[int, int]:
        """The classes that are here: the first, and the one behind the last."""
        first, end, _ = self.place.tolist()
        return first, end

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over the rows of all processes, the same scalar in each.

        Args:
            embedding: raw, [B, D], this process's rows of the step's batch; all processes have equally many.
            labels: int [B] in 0..C-1, -1 for a row that does not count.

        Raises:
            RuntimeError: the weights are not spread over the processes there are now.
        """
        first, end = self.rows
        if (first, end) != shard(self.num_classes):
            raise RuntimeError(
                f"this process holds the classes {first} to {end - 1} of {self.num_classes}, but of {processes()} processes "
                "it should hold others: call spread() when the process group is there"
            )
        labels = gather_rows(checked_labels(labels, len(embedding)))
        own = torch.where((labels >= first) & (labels < end), labels - first, -1)
        classes = None
        if self.training and self.sample_rate < 1:
            classes = self.sample(own)
            own = torch.where(own >= 0, torch.searchsorted(classes, own), own)
        logits = self.local(gathered(embedding), own, classes)
        return _ShardedCrossEntropy.apply(logits, own, labels >= 0)

    def sample(self, own: Tensor) -> Tensor:
        """The classes of a step, counted within this process and sorted: those of the batch, and random others.

        int(sample_rate * C_r) in all, or those of the batch alone if they are more; at least one. Every process draws a number
        for every class of all, so that the generators of all stay alike.
        """
        first, end = self.rows
        positives = own[own >= 0].unique()
        count = max(int(self.sample_rate * (end - first)), 1)
        priority = torch.rand(self.num_classes, device=own.device)[first:end]
        if len(positives) >= count:
            return positives
        priority[positives] = 2.0
        return priority.topk(count).indices.sort().values

    # --- where the weights are ----------------------------------------------------------------------------------------

    def unshared(self, prefix: str) -> list[str]:
        """Names that DDP must leave alone (`_ddp_params_and_buffers_to_ignore`) in a module that calls this one `prefix`."""
        return [f"{prefix}.{name}" for name in ("local.weight", "place")]

    @torch.no_grad()
    def spread(self) -> None:
        """Keep this process's rows of a weight that is whole; nothing where they are what is here."""
        first, end = shard(self.num_classes)
        if self.rows != (first, end):
            self._hold(self._whole(self.local.weight)[first:end].clone(), first, end)

    @torch.no_grad()
    def collect(self) -> None:
        """The whole weight in every process, in host memory: before the process group ends."""
        if self.rows != (0, self.num_classes):
            self._hold(self.gather(self.local.weight), 0, self.num_classes)

    def _hold(self, rows: Tensor, first: int, end: int) -> None:
        self.local.weight.data = rows
        self.local.num_classes = end - first
        self.place.copy_(torch.tensor([first, end, self.num_classes]))

    def _whole(self, rows: Tensor) -> Tensor:
        if len(rows) != self.num_classes:
            raise ValueError(
                f"{len(rows)} of {self.num_classes} class weights are here, and they belong to another number of processes: "
                "put all shards together first (merge_shards)"
            )
        return rows

    @torch.no_grad()
    def gather(self, rows: Tensor) -> Tensor:
        """What lies beside the own rows in every process, [C_r, D] -> [C, D] in host memory; all processes must call it."""
        whole = torch.empty(self.num_classes, *rows.shape[1:], dtype=rows.dtype)
        for source in range(processes()):
            first, end = shard(self.num_classes, source)
            part = rows.detach().contiguous() if source == rank() else rows.new_empty(end - first, *rows.shape[1:])
            if processes() > 1:
                dist.broadcast(part, source)
            whole[first:end] = part.cpu()
        return whole

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any, **options: Any) -> None:
        """Own rows from a whole weight; a shard only where it is the one that belongs here."""
        weight, place = state_dict.get(f"{prefix}local.weight"), state_dict.get(f"{prefix}place")
        if weight is not None and place is not None and place.tolist() != self.place.tolist():
            first, end = self.rows
            state_dict[f"{prefix}local.weight"] = self._whole(weight)[first:end]
            state_dict[f"{prefix}place"] = self.place.clone()
        super()._load_from_state_dict(state_dict, prefix, *others, **options)

    def extra_repr(self) -> str:
        first, end = self.rows
        return f"classes {first} to {end - 1} of {self.num_classes}, sample_rate={self.sample_rate:g}"


def shard(num_classes: int, process: int | None = None) -> tuple[int, int]:
    """First class of a process (None: this one) and the one behind its last.

    Raises:
        ValueError: fewer than two classes a process.
    """
    process = rank() if process is None else process
    each, more = divmod(num_classes, processes())
    if each < 2:
        raise ValueError(
            f"{num_classes} classes cannot be spread over {processes()} processes: each needs two at least"
        )
    first = each * process + min(process, more)
    return first, first + each + (process < more)


def initial_rows(num_classes: int, size: int, first: int, end: int, block: int = BLOCK) -> Tensor:
    """Rows `first` to `end` of the N(0, 0.01) matrix [C, D] that a whole head draws, without ever holding more than a block.

    The global generator ends where the whole draw leaves it, in every process.
    """
    rows = torch.empty(end - first, size)
    for start in range(0, num_classes, block):
        stop = min(start + block, num_classes)
        drawn = torch.empty(stop - start, size).normal_(0.0, INITIAL_DEVIATION)
        low, high = max(start, first), min(stop, end)
        if low < high:
            rows[low - first : high - first] = drawn[low - start : high - start]
    return rows


def gathered(embedding: Tensor) -> Tensor:
    """The embeddings of all processes, [B, D] -> [W B, D], in the order of the step's batch.

    The gradient of the global loss reaches each process's rows W times: DDP divides the parameters' gradients by W.
    """
    everything = gather_rows(embedding)
    if processes() > 1 and everything.requires_grad:
        everything.register_hook(lambda gradient: gradient * processes())
    return everything


def merge_shards(states: Sequence[Mapping[str, Tensor]], prefix: str = "") -> dict[str, Tensor]:
    """The state of a head that holds all classes, from what `state_dict()` gave in each process, in any order.

    `load_state_dict` of a head with any number of processes takes it.

    Raises:
        ValueError: the shards do not make up one weight.
    """
    parts = sorted(states, key=lambda state: state[f"{prefix}place"].tolist())
    places = [part[f"{prefix}place"].tolist() for part in parts]
    bounds = [0, *(end for _, end, _ in places)]
    whole = places[-1][2] if places else 0
    if [first for first, _, _ in places] != bounds[:-1] or bounds[-1] != whole or {c for _, _, c in places} != {whole}:
        held = ", ".join(f"{first} to {end - 1} of {classes}" for first, end, classes in places)
        raise ValueError(f"these shards do not make up one weight: they hold the classes {held or 'of none'}")
    return {
        f"{prefix}local.weight": torch.cat([part[f"{prefix}local.weight"].cpu() for part in parts]),
        f"{prefix}place": torch.tensor([0, whole, whole]),
    }


class _ShardedCrossEntropy(torch.autograd.Function):
    """(1) and (2) of logits [N, C_r], targets among them int64 [N] (-1: elsewhere) and bool [N], whether a row has one."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, own: Tensor, present: Tensor) -> Tensor:
        highest = logits.amax(1)
        if processes() > 1:
            dist.all_reduce(highest, dist.ReduceOp.MAX)
        exponentials = (logits - highest[:, None]).exp_()
        target = logits.gather(1, own.clamp(min=0)[:, None])[:, 0]
        sums = total(torch.stack([exponentials.sum(1), torch.where(own >= 0, target, 0.0)]))
        losses = (highest + sums[0].log() - sums[1]).clamp(max=LARGEST_LOSS)
        weight = present.to(losses) / present.sum().clamp(min=1)
        ctx.save_for_backward(exponentials.div_(sums[0][:, None]), own, weight)
        return (losses * weight).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # (3)
        probabilities, own, weight = ctx.saved_tensors
        weight = weight * gradients[0]
        gradient = probabilities * weight[:, None]
        gradient[torch.arange(len(own), device=own.device), own.clamp(min=0)] -= torch.where(own >= 0, weight, 0.0)
        return gradient, None, None
