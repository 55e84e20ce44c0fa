"""One generalist and several specialists on classes that it confuses: the paper's section on very large data sets.

Symbols
    p^g    the generalist's probabilities [C] at T = 1
    S^m    classes of specialist m, a set of a partition of all classes
    p^m    the specialist's probabilities over S^m and a dustbin class that stands for all others, [|S^m| + 1]
    k      the generalist's n most probable classes;  A_k  the specialists whose S^m meets k
    q      softmax(z), the answer

Method
    S^m: k-means on the columns of the covariance of p^g over the training images                (8)
    specialist m starts from the generalist's weights; half of its examples come from S^m          (9)
    q = argmin KL(p^g, q) + sum_{m in A_k} KL(p^m, q),  by gradient descent on z, T = 1             (10)

In (10) the dustbin's probability is compared with the sum of q over the classes outside S^m. Since half of a specialist's
examples come from S^m, it sees these classes too often; the logarithm of how much too often is added to its dustbin's logit.
How the dustbin's weights start is our choice: the mean of the generalist's weights of the classes that it stands for.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.experiment.callbacks import derived_seed
from common.schedules import polynomial
from common.weights import load_weights

ITERATIONS = 100


def k_means(points: Tensor, count: int, generator: torch.Generator, restarts: int = 10) -> Tensor:
    """Cluster int64 [N] of every point [N, D], the best of several starts by the sum of squared distances (Lloyd).

    Starts are drawn as in k-means++. A cluster that loses its last point takes the point farthest from its own centre.

    Raises:
        ValueError: fewer points than clusters, or no cluster.
    """
    if not 1 <= count <= len(points):
        raise ValueError(f"{len(points)} points cannot make {count} clusters")
    best, least = torch.zeros(len(points), dtype=torch.int64), torch.inf
    for _ in range(restarts):
        centres = _starts(points, count, generator)
        for _ in range(ITERATIONS):
            distances = torch.cdist(points, centres).square()
            owner = distances.argmin(dim=1)
            _fill(owner, distances, count)
            moved = torch.stack([points[owner == cluster].mean(dim=0) for cluster in range(count)])
            if torch.equal(moved, centres):
                break
            centres = moved
        spread = float((points - centres[owner]).square().sum())
        if spread < least:
            best, least = owner, spread
    return best


def _fill(owner: Tensor, distances: Tensor, count: int) -> None:
    """Give every empty cluster the point that lies farthest from its own centre, in place."""
    for cluster in range(count):
        sizes = torch.bincount(owner, minlength=count)
        if not sizes[cluster]:
            far = distances.gather(1, owner[:, None]).squeeze(1).masked_fill(sizes[owner] == 1, -1.0)
            owner[far.argmax()] = cluster


def _starts(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    while len(chosen) < count:
        nearest = torch.cdist(points, points[chosen]).square().amin(dim=1)
        nearest[chosen] = 0
        if float(nearest.sum()) == 0:  # points that coincide
            nearest = torch.ones_like(nearest)
            nearest[chosen] = 0
        chosen.append(int(torch.multinomial(nearest, 1, generator=generator)))
    return points[chosen]


def confusable_classes(probabilities: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Equation (8): bool [m, C], the classes of every specialist, from the generalist's probabilities [N, C]."""
    owner = k_means(torch.cov(probabilities.double().T), count, generator)
    return F.one_hot(owner, count).T.bool()


def combine(
    generalist: Tensor, specialists: Tensor, members: Tensor, active: Tensor, steps: int = 200
) -> tuple[Tensor, Tensor]:
    """Equation (10) by gradient descent, for a batch.

    The step is 1 / (1 + number of active specialists), at which the objective cannot rise: the gradient of each of its terms
    changes by at most the change of z.

    Args:
        generalist: p^g, [B, C]. specialists: p^m, [B, m, C + 1], 0 outside S^m; the last entry is the dustbin's.
        members: bool [m, C], S^m. active: bool [B, m], A_k. steps: of the descent.

    Returns:
        q [B, C], and the objective [B] there up to the entropies of p^g and p^m, which do not depend on q.
    """
    z = generalist.clamp_min(1e-30).log()
    on = active.to(z.dtype)
    inside, outside = specialists[..., :-1] * members, specialists[..., -1:]
    rate = 1 / (1 + on.sum(dim=1, keepdim=True))
    for _ in range(steps):
        q = torch.softmax(z, dim=1)
        rest = (q[:, None] * ~members).sum(dim=2, keepdim=True).clamp_min(1e-30)  # [B, m, 1]
        targets = inside + outside * q[:, None] * ~members / rest  # what each specialist asks of q
        z = z - rate * (q - generalist + (on[..., None] * (q[:, None] - targets)).sum(dim=1))
    log_q = F.log_softmax(z, dim=1)
    rest = log_q[:, None].masked_fill(members, -torch.inf).logsumexp(dim=2).clamp_min(-70)
    value = -(generalist * log_q).sum(dim=1)
    value = value - (on * ((inside * log_q[:, None]).sum(dim=2) + outside.squeeze(2) * rest)).sum(dim=1)
    return log_q.exp(), value


class WithSpecialists(nn.Module):
    """The generalist and its specialists as one classifier; every specialist has C + 1 outputs, of which those of S^m and the
    dustbin's count.

    Args:
        generalist: trained network with the last layer `output` on `features`. count: m, number of specialists.
        top: n, how many of the generalist's classes choose the specialists. steps: see `combine`.
    """

    members: Tensor
    dustbin: Tensor

    def __init__(self, generalist: nn.Module, count: int, top: int = 1, steps: int = 200) -> None:
        super().__init__()
        self.generalist, self.top, self.steps = generalist, top, steps
        output: Any = generalist.output
        classes = output.out_features
        if not 1 <= count <= classes or not 1 <= top <= classes:
            raise ValueError(f"{count=} specialists and {top=} must lie between 1 and the {classes} classes")
        self.specialists = nn.ModuleList()
        for _ in range(count):
            specialist: Any = copy.deepcopy(generalist)
            specialist.output = nn.Linear(output.in_features, classes + 1)
            self.specialists.append(specialist)
        self.register_buffer("members", torch.zeros(count, classes, dtype=torch.bool))
        self.register_buffer("dustbin", torch.zeros(count))  # what is added to the dustbins' logits when answering

    @torch.no_grad()
    def assign(self, members: Tensor, shares: Tensor) -> None:
        """Give every specialist its classes, bool [m, C]; start it from the generalist.

        Args:
            members: S^m. shares: of S^m among all training images, [m].
        """
        self.members.copy_(members)
        source: Any = self.generalist
        for specialist, own in zip(self.specialists, members, strict=True):
            part: Any = specialist
            state = {name: value for name, value in source.state_dict().items() if not name.startswith("output.")}
            part.load_state_dict(state, strict=False)
            for mine, theirs in ((part.output.weight, source.output.weight), (part.output.bias, source.output.bias)):
                mine[:-1].copy_(theirs)
                mine[-1].copy_(theirs[~own].mean(dim=0) if bool((~own).any()) else torch.zeros_like(mine[-1]))
        # examples of S^m are drawn (1/2) / share times as often as they occur, the others (1/2) / (1 - share) times
        odds = (1 - shares).clamp_min(1e-6) / shares.clamp_min(1e-6)
        self.dustbin.copy_(odds.log())

    def specialist_logits(self, images: Tensor, which: int) -> Tensor:
        """[B, C + 1]: -inf outside S^m, the dustbin's last."""
        logits: Tensor = self.specialists[which](images)
        hidden = torch.cat([~self.members[which], self.members.new_zeros(1)])
        return logits.masked_fill(hidden, -torch.inf)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, ...] -> logarithms of q, [B, C]."""
        p = torch.softmax(self.generalist(images), dim=1)
        answers = []
        for which in range(len(self.specialists)):
            logits = self.specialist_logits(images, which)
            logits = torch.cat([logits[:, :-1], logits[:, -1:] + self.dustbin[which]], dim=1)
            answers.append(torch.softmax(logits, dim=1))
        chosen = torch.zeros_like(p, dtype=torch.bool).scatter_(1, p.topk(self.top, dim=1).indices, True)
        active = (chosen[:, None] & self.members).any(dim=2)
        q, _ = combine(p, torch.stack(answers, dim=1), self.members, active, self.steps)
        return q.clamp_min(1e-30).log()


class Specialists(L.LightningModule):
    """Find confusable classes, then train a specialist for each set of them, all in one fit.

    Args:
        network: the generalist. weights: its file; None takes it as it is.
        count: m. top: n. steps: of the descent, see `combine`.
        batch_size: examples a specialist and step, half of them of its own classes.
        lr, momentum: of SGD; the rate falls linearly to 0.
    """

    def __init__(
        self,
        network: nn.Module,
        weights: str | None = None,
        count: int = 3,
        top: int = 1,
        steps: int = 200,
        batch_size: int = 50,
        lr: float = 0.01,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        if weights is not None:
            load_weights(network, weights)
        self.network = WithSpecialists(network, count, top, steps)
        self.batch_size, self.lr, self.momentum = batch_size, lr, momentum
        self._pools: Sequence[tuple[Tensor, Tensor]] = ()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> logarithms of q, [B, classes]."""
        logits: Tensor = self.network(x)
        return logits

    @torch.no_grad()
    def cluster(self, data: Any) -> None:
        """Equation (8): which classes belong to which specialist, and where each starts."""
        network = self.network
        network.generalist.eval()
        batches = [network.generalist(x.to(self.device)) for x, _ in data.loader("train", 1000)]
        probabilities = torch.softmax(torch.cat(batches), dim=1).cpu()
        seed = derived_seed(torch.initial_seed() % 2**31, "k-means")
        members = confusable_classes(probabilities, len(network.specialists), torch.Generator().manual_seed(seed))
        labels = data.training_labels().cpu()
        shares = torch.stack([own[labels].double().mean() for own in members]).float()
        network.assign(members.to(self.device), shares.to(self.device))
        network.train()

    def on_fit_start(self) -> None:
        """Sort the training images into those of each specialist and the others."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if not bool(self.network.members.any()):
            raise ValueError("the specialists have no classes yet: give the run a phase that computes 'cluster' first")
        self._images, self._labels = data.inputs("train").to(self.device), data.training_labels().to(self.device)
        mine = [own[self._labels] for own in self.network.members]
        self._pools = [(torch.nonzero(own).flatten(), torch.nonzero(~own).flatten()) for own in mine]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Equation (9) for all specialists; the loader's batch only counts the steps."""
        losses = [self.specialist_loss(which) for which in range(len(self._pools))]
        return torch.stack(losses).sum()

    def specialist_loss(self, which: int) -> Tensor:
        """Cross entropy over S^m and the dustbin, of examples half of which are of S^m."""
        own, others = self._pools[which]
        half = self.batch_size // 2
        drawn = [pool[torch.randint(len(pool), (half,), device=pool.device)] for pool in (own, others) if len(pool)]
        index = torch.cat(drawn)
        labels = self._labels[index]
        dustbin = self.network.members.shape[1]
        labels = torch.where(self.network.members[which][labels], labels, dustbin)
        return F.cross_entropy(self.network.specialist_logits(self._images[index], which), labels)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.network.specialists.parameters(), self.lr, self.momentum)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, polynomial(int(self.trainer.estimated_stepping_batches))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
