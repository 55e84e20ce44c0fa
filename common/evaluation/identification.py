"""1:N identification: probes searched in a gallery, closed set (CMC) and open set (FPIR, FNIR).

Terms after ISO/IEC 19795-1 and NIST FRTE 1:N. Closed set: every probe has a mate in the gallery; the CMC at rank r is
the share of probes whose best mate is among the r best candidates. Open set: a probe without a mate that gets any
candidate above the threshold is a false positive (FPIR); a probe with a mate whose mate is not above the threshold, or
not among the first r candidates, is a false negative (FNIR). DIR, the detection and identification rate, is 1 - FNIR.
Rates are fractions in [0, 1].
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from common.evaluation.scores import (
    FEWEST_ACCEPTED_IMPOSTORS,
    accepted_allowance,
    count_above,
    threshold_at_rate,
)


@dataclass(frozen=True)
class IdentificationPoint:
    """Open-set error rates at one threshold; ``fpir`` is the realised rate, ``target`` the one that was asked for."""

    target: float
    threshold: float  # a candidate counts iff score > threshold
    fpir: float
    fnir: float
    rank: int
    nonmated: int  # probes without a mate
    mated: int
    reliable: bool  # False: the target stands for fewer than FEWEST_ACCEPTED_IMPOSTORS probes

    @property
    def dir(self) -> float:
        """Detection and identification rate, 1 - FNIR."""
        return 1.0 - self.fnir


@dataclass(frozen=True)
class Search:
    """Outcome of ``search`` for Q probes in a gallery of G entries."""

    mated: NDArray[np.bool_]  # [Q] the probe's subject is in the gallery
    mate_score: NDArray[np.float32]  # [Q] cosine of the best mate; -inf without mate
    mate_rank: NDArray[np.int64]  # [Q] from 1; 0 without mate
    top_score: NDArray[np.float32]  # [Q] best cosine among the entries of other subjects
    candidates: int  # gallery entries, or subjects with rank_by="subject": the largest rank

    def cmc(self, ranks: int | None = None) -> NDArray[np.float64]:
        """Closed-set identification rate at ranks 1 .. ``ranks`` [ranks]; ``cmc()[0]`` is the rank-1 rate.

        Raises ValueError when a probe has no mate: drop those probes or use ``at_fpir``.
        """
        if not self.mated.all():
            missing = np.flatnonzero(~self.mated)
            raise ValueError(
                f"{len(missing)} of {len(self.mated)} probes have no mate in the gallery, first probe {missing[0]}; "
                "a CMC needs a closed set. Leave those probes out, or ask for open-set rates (`at_fpir`)."
            )
        counts = np.bincount(self.mate_rank, minlength=self.candidates + 1)[1:]
        return counts.cumsum()[:ranks] / len(self.mate_rank)

    def at_threshold(self, threshold: float, rank: int = 1, target: float = float("nan")) -> IdentificationPoint:
        """Open-set rates when candidates count iff score > ``threshold`` and the mate must be among the first ``rank``.

        Raises ValueError when there are no probes with, or none without, a mate.
        """
        nonmated, mated = int((~self.mated).sum()), int(self.mated.sum())
        if not nonmated or not mated:
            raise ValueError(
                f"{mated} probes have a mate in the gallery, {nonmated} have none; open-set rates need both kinds."
            )
        impostor = np.sort(self.top_score[~self.mated])
        found = (self.mate_score > threshold) & (self.mate_rank <= rank) & self.mated
        enough = np.isnan(target) or accepted_allowance(target, nonmated) >= FEWEST_ACCEPTED_IMPOSTORS
        return IdentificationPoint(
            target=target,
            threshold=float(threshold),
            fpir=count_above(impostor, threshold) / nonmated,
            fnir=1.0 - int(found.sum()) / mated,
            rank=rank,
            nonmated=nonmated,
            mated=mated,
            reliable=bool(enough),
        )

    def at_fpir(self, fpir: float, rank: int = 1) -> IdentificationPoint:
        """FNIR (and DIR) at the lowest threshold whose FPIR does not exceed ``fpir``; rule and flag of
        ``ScoreList.tar_at_far``."""
        if self.mated.all():
            raise ValueError(
                "Every probe has a mate in the gallery, so FPIR is undefined; add probes of unknown subjects."
            )
        return self.at_threshold(threshold_at_rate(np.sort(self.top_score[~self.mated]), fpir), rank, fpir)


def search(
    gallery: ArrayLike,
    gallery_subject: ArrayLike,
    probe: ArrayLike,
    probe_subject: ArrayLike,
    exclude: ArrayLike | None = None,
    rank_by: Literal["entry", "subject"] = "entry",
    block_bytes: int = 1 << 26,
) -> Search:
    """Compare every probe with every gallery entry by cosine, in blocks of probes, and keep what identification rates
    need.

    A candidate that ties with the best mate is ranked before it: a collapsed network, whose embeddings are all alike,
    gets the worst rank, not the best.

    Args:
        gallery, probe: embeddings [G, D] and [Q, D], un-normalised; zero rows have cosine 0 with everything.
        gallery_subject, probe_subject: int [G] and [Q]. A subject may have several entries; the best one counts.
        exclude: int [Q], the gallery row that a probe must not be compared with (itself, when one list is both gallery
        and probes), -1
            for none.
        rank_by: "entry" counts gallery entries of other subjects above the mate (the position of the first right
            candidate in the sorted list), "subject" counts other subjects (each by its best entry).
        block_bytes: size of one block of the score matrix; about four of them are alive at a time.

    Raises ValueError on shapes that do not fit, non-finite embeddings, an empty list, and IndexError on bad ``exclude``
    rows.
    """
    entries, owners = _unit_rows(gallery, gallery_subject, "gallery")
    probes, subjects = _unit_rows(probe, probe_subject, "probe")
    if entries.shape[1] != probes.shape[1]:
        raise ValueError(f"Gallery embeddings have {entries.shape[1]} dimensions, probe embeddings {probes.shape[1]}.")
    if rank_by not in ("entry", "subject"):
        raise ValueError(f"rank_by={rank_by!r} is unknown; choose 'entry' or 'subject'.")
    skipped = _excluded(exclude, len(probes), len(entries))
    names, owner = torch.unique(owners, return_inverse=True)
    grouped = owner if rank_by == "subject" else None
    step = max(1, block_bytes // (4 * len(entries)))
    parts = [
        _search_block(
            entries,
            owners,
            probes[low : low + step],
            subjects[low : low + step],
            skipped[low : low + step],
            grouped,
            len(names),
        )
        for low in range(0, len(probes), step)
    ]
    mate, rank, top = (torch.cat([part[index] for part in parts]).numpy() for index in range(3))
    mated = mate > -np.inf
    candidates = len(names) if rank_by == "subject" else len(entries)
    return Search(
        mated=mated, mate_score=mate, mate_rank=np.where(mated, rank, 0), top_score=top, candidates=candidates
    )


def _search_block(
    entries: Tensor,
    owners: Tensor,
    probes: Tensor,
    subjects: Tensor,
    skipped: Tensor,
    grouped: Tensor | None,
    names: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Best mate score, its rank and the best other score of a block of probes."""
    scores = probes @ entries.T
    some = torch.nonzero(skipped >= 0).flatten()
    scores[some, skipped[some]] = -torch.inf
    mates = owners[None, :] == subjects[:, None]
    mate = scores.masked_fill(~mates, -torch.inf).amax(dim=1)
    scores.masked_fill_(mates, -torch.inf)
    top = scores.amax(dim=1)
    if grouped is not None:
        best = torch.full((len(probes), names), -torch.inf)
        scores = best.scatter_reduce_(1, grouped.expand(len(probes), -1), scores, "amax")
    # Entries of -inf (the mates, the excluded) are no candidates, even for a probe without mate.
    rank = 1 + ((scores >= mate[:, None]) & (scores > -torch.inf)).sum(dim=1)
    return mate, rank, top


def _unit_rows(embeddings: ArrayLike, subjects: ArrayLike, name: str) -> tuple[Tensor, Tensor]:
    rows, labels = np.asarray(embeddings), np.asarray(subjects)
    if rows.ndim != 2 or labels.shape != rows.shape[:1] or not len(rows) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{name} embeddings {rows.shape} and subjects {labels.dtype} {labels.shape} do not fit; "
            "[N, D] and integers [N], N >= 1, were expected."
        )
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{(~finite).sum()} {name} embeddings are NaN or infinite, the first in row {np.argmin(finite)}."
        )
    unit = torch.nn.functional.normalize(torch.from_numpy(np.array(rows, dtype=np.float32)), dim=1)
    return unit, torch.from_numpy(labels.astype(np.int64))


def _excluded(exclude: ArrayLike | None, probes: int, entries: int) -> Tensor:
    if exclude is None:
        return torch.full((probes,), -1)
    rows = np.asarray(exclude)
    if rows.shape != (probes,) or rows.dtype.kind not in "iu":
        raise ValueError(
            f"`exclude` is {rows.dtype} {rows.shape}; expected one gallery row or -1 for each of {probes} probes."
        )
    if rows.min() < -1 or rows.max() >= entries:
        raise IndexError(
            f"`exclude` reaches from {rows.min()} to {rows.max()}; gallery rows are 0 to {entries - 1} (-1: none)."
        )
    return torch.from_numpy(rows.astype(np.int64))
