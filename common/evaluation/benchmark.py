"""What a trained face network is measured on: accuracy, every group's accuracy, and cost, in one call."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from common.cost import measure_cost, measure_latency
from common.evaluation.embedding import embed, mean_removed_scores, pair_scores
from common.evaluation.scores import ScoreList
from common.evaluation.verification import folded_accuracy
from common.fairness.report import verification_report
from common.quantization import require_observed_ranges
from common.quantization.storage import save_packed

FAR_TARGETS = (1e-2, 1e-3)


class PairSetLike(Protocol):
    """What the benchmark reads of a verification test set (`datasets.pairs.PairSet`): P pairs over N images."""

    name: str
    images: Any
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    fold: np.ndarray
    subject: np.ndarray
    group: np.ndarray
    group_names: tuple[str, ...]
    divisor: float


@dataclass(frozen=True)
class Measurement:
    """Everything the benchmark found.

    Attributes:
        metrics: pair set -> metric -> number, JSON values; undefined ones are None and named with a reason.
        cost: parameters, non-zeros, MACs, stored bytes, latency.
        scores: `"<set>/score"` float32 [P] and `"<set>/correct"` bool [P].
        tables: content hash -> who was compared with whom; pairs: pair set -> content hash.
    """

    metrics: dict[str, dict[str, Any]]
    cost: dict[str, Any]
    scores: dict[str, np.ndarray]
    tables: dict[str, dict[str, np.ndarray]]
    pairs: dict[str, str]


class VerificationBenchmark:
    """1:1 verification after the ten-fold protocol of LFW, with one threshold a fold for all groups.

    Args:
        flip: `"sum"` adds the embeddings of image and mirror image before normalising (InsightFace), `"concatenate"` joins
            them, `"none"` takes the image alone.
        centre: `"none"`, or `"other_folds"`: subtract the mean feature of the nine other folds before the cosine.
        part: `"test"`, or `"validation"` for choosing settings without looking at test data.
        fmr: false match rate of the global threshold at which group FNMR and FMR are reported.
        batch_size: images at a time.
        latency_repeats: timed repetitions of one image on one thread; 0 measures no latency.
    """

    def __init__(
        self,
        flip: Literal["sum", "concatenate", "none"] = "sum",
        centre: Literal["none", "other_folds"] = "none",
        part: Literal["test", "validation"] = "test",
        fmr: float = 1e-2,
        batch_size: int = 128,
        latency_repeats: int = 20,
    ) -> None:
        if part not in ("test", "validation"):
            raise ValueError(f"part is 'test' or 'validation', not '{part}'")
        if centre not in ("none", "other_folds"):
            raise ValueError(f"centre is 'none' or 'other_folds', not '{centre}'")
        self.flip, self.centre, self.part, self.fmr = flip, centre, part, fmr
        self.batch_size, self.latency_repeats = batch_size, latency_repeats

    def measure(self, method: Any, data: Any) -> Measurement:
        """Measure `method.network` on the pair sets of a data module.

        Pair sets over the same images are embedded once.

        Raises:
            RuntimeError: the network holds activation ranges that were never observed.
            ValueError: a pair set cannot be judged (no genuine or no impostor pairs, non-finite embeddings, ...).
        """
        network: nn.Module = method.network
        require_observed_ranges(network)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network.to(device)
        sets: dict[str, PairSetLike] = data.pair_sets() if self.part == "test" else data.validation_pair_sets()
        embeddings: dict[int, np.ndarray] = {}
        pools: dict[int, str] = {}
        found = Measurement({}, {}, {}, {}, {})
        for name, pairs in sets.items():
            if id(pairs.images) not in embeddings:
                embeddings[id(pairs.images)] = embed(
                    network,
                    pairs.images,
                    divisor=pairs.divisor,
                    flip=self.flip,
                    batch_size=self.batch_size,
                    device=device,
                )
            pool = pools.setdefault(id(pairs.images), name)
            self._measure_set(name, pool, pairs, embeddings[id(pairs.images)], found)
        network.to("cpu")
        size = tuple(next(iter(sets.values())).images[:1].shape[-2:])
        found.cost.update(self._cost(network, size))
        return found

    def _measure_set(
        self, name: str, pool: str, pairs: PairSetLike, embeddings: np.ndarray, found: Measurement
    ) -> None:
        subject_a, subject_b = pairs.subject[pairs.first], pairs.subject[pairs.second]
        score = pair_scores(embeddings, pairs.first, pairs.second)
        judged = score
        if self.centre == "other_folds":
            judged = mean_removed_scores(embeddings, pairs.first, pairs.second, pairs.fold)
            score = judged[np.unique(pairs.fold, return_inverse=True)[1], np.arange(len(pairs.fold))]
        folded = folded_accuracy(pairs.same, score=judged, fold=pairs.fold)
        curve = ScoreList(score, pairs.same)
        metrics: dict[str, Any] = {
            "accuracy": 100 * folded.accuracy,
            "accuracy_std": 100 * folded.std,
            "eer": 100 * curve.eer,
            "auc": 100 * curve.auc,
            "pairs": len(score),
            "subjects": len(np.union1d(subject_a, subject_b)),
        }
        metrics |= verification_report(
            score=score,
            correct=folded.correct,
            same=pairs.same,
            fold=pairs.fold,
            group=pairs.group,
            group_names=pairs.group_names,
            subject_a=subject_a,
            subject_b=subject_b,
            fmr=self.fmr,
        )
        for target in FAR_TARGETS:
            name_at = f"tar_at_far_{target:.0e}".replace("e-0", "e-")
            point = curve.tar_at_far(target)
            metrics[name_at] = 100 * point.tar if point.reliable else None
            if not point.reliable:
                metrics["undefined"] = [*metrics["undefined"], name_at]
                metrics["undefined_reasons"][name_at] = f"fewer than ten of {point.impostors} impostors may be accepted"
        table = {
            "same": pairs.same,
            "fold": pairs.fold.astype(np.int16),
            "group": pairs.group.astype(np.int16),
            "subject_a": subject_a.astype(np.int32),
            "subject_b": subject_b.astype(np.int32),
            "group_names": np.array(pairs.group_names),
            "pool": np.array(pool),  # pair sets over the same people are resampled together
        }
        found.metrics[name] = metrics
        found.pairs[name] = table_name(table)
        found.tables[found.pairs[name]] = table
        found.scores[f"{name}/score"] = score.astype(np.float32)
        found.scores[f"{name}/correct"] = folded.correct

    def _cost(self, network: nn.Module, size: tuple[int, ...]) -> dict[str, Any]:
        cost: dict[str, Any] = asdict(measure_cost(network, size, packed_writer=save_packed))
        if self.latency_repeats:
            cost["latency_ms"] = measure_latency(network, size, repeats=self.latency_repeats).result()
        return cost


def table_name(arrays: Mapping[str, np.ndarray]) -> str:
    """Content hash of a pair table: the first 12 hex digits of a SHA-256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype.str}:{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:12]
