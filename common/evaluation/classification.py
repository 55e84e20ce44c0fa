"""What a trained classifier is measured on: error, every class's accuracy, the weights that are left, and cost.

A measured part of a data set takes the place of a pair set: one decision an image, classes as groups, and images as what the
bootstrap resamples (within their class). Claims, tables and figures then read it as they read verification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.cost import measure_cost, measure_latency
from common.evaluation.benchmark import Measurement, table_name
from common.fairness.groups import group_rates
from common.fairness.summary import summarise_accuracy
from common.pruning import Masks, prunable_weights

TASK = "classification"
PARTS = ("test", "validation", "train")


class ClassificationBenchmark:
    """Top-1 error of a network on parts of an `ImageClassification` set.

    Args:
        parts: of the data set, in the order of the table's columns: `"test"`, `"validation"`, `"train"`. The training part is
            judged by the labels that the network was trained on, shuffled ones included.
        train_images: how many training images are measured (the first ones in stored order); 0 for all.
        batch_size: images at a time.
        latency_repeats: timed repetitions of one image on one thread; 0 measures no latency.

    Raises:
        ValueError: no part, or one that there is not.
    """

    def __init__(
        self,
        parts: Sequence[str] = ("test",),
        train_images: int = 10_000,
        batch_size: int = 1000,
        latency_repeats: int = 0,
    ) -> None:
        unknown = [part for part in parts if part not in PARTS]
        if unknown or not parts:
            raise ValueError(f"parts is {tuple(parts)}; expected some of {', '.join(PARTS)}")
        self.parts, self.train_images = tuple(parts), train_images
        self.batch_size, self.latency_repeats = batch_size, latency_repeats

    def measure(self, method: Any, data: Any) -> Measurement:
        """Measure `method.network` on the parts of a data module; for `method.masks` see `pruning_cost`.

        A method whose channels were removed says in `original_weights` how many prunable weights its unpruned network has.
        A method with `best_network()` (network of the best validation accuracy, or None) gets `best_error` beside `error`.

        Raises:
            ValueError: the network's outputs are not finite: it has diverged.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network: nn.Module = method.network
        best: nn.Module | None = method.best_network() if hasattr(method, "best_network") else None
        found = Measurement({}, {}, {}, {}, {})
        for part in self.parts:
            logits, labels = self._outputs(network, data, part, device)
            extra = {"loss": float(F.cross_entropy(logits, labels))}
            if best is not None:
                again, _ = self._outputs(best, data, part, device)
                extra["best_error"] = 100 * float((again.argmax(1) != labels).double().mean())
            add_decisions(
                found,
                part,
                correct=(logits.argmax(1) == labels).numpy(),
                score=margin(logits, labels).numpy(),
                group=labels.numpy(),
                group_names=tuple(data.class_names),
                metrics=extra,
            )
        network.to("cpu")
        size = (int(data.in_channels), *map(int, data.image_size))
        found.cost.update(asdict(measure_cost(network, size)))
        masks, original = getattr(method, "masks", None), getattr(method, "original_weights", None)
        found.cost.update(pruning_cost(network, masks, original))
        if self.latency_repeats:
            found.cost["latency_ms"] = measure_latency(network, size, repeats=self.latency_repeats).result()
        return found

    @torch.no_grad()
    def _outputs(self, network: nn.Module, data: Any, part: str, device: torch.device) -> tuple[Tensor, Tensor]:
        """Logits float64 [N, classes] and labels int64 [N] of a part, on the CPU."""
        limit = self.train_images if part == "train" and self.train_images else None
        network.to(device).eval()
        logits, seen = [], 0
        for images, _ in data.loader(part, self.batch_size):
            logits.append(network(images.to(device)).double().cpu())
            seen += len(images)
            if limit is not None and seen >= limit:
                break
        outputs = torch.cat(logits)[:limit]
        if not bool(torch.isfinite(outputs).all()):
            raise ValueError(f"the network's outputs on the {part} part are not finite: it has diverged")
        labels: Tensor = data.training_labels() if part == "train" else data.labels(part)
        return outputs, labels[: len(outputs)].cpu()


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the true class minus the largest other one, float32 [N]: positive where the decision is right."""
    true = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return (true - others).float()


def add_decisions(
    found: Measurement,
    name: str,
    correct: np.ndarray,
    score: np.ndarray,
    group: np.ndarray,
    group_names: Sequence[str],
    metrics: Mapping[str, Any] | None = None,
    subject: np.ndarray | None = None,
) -> None:
    """Put N decisions under a name into a measurement, with their error and the accuracies of the groups.

    Args:
        found: what is added to. name: of the set of decisions.
        correct: bool [N]. score: float [N], stored beside the decisions.
        group: int [N], index into `group_names`; -1 = none. metrics: further ones of the same set.
        subject: int [N], what the bootstrap resamples together, such as the image of several decisions; None: each its own.
    """
    count = len(correct)
    own = np.arange(count, dtype=np.int32) if subject is None else np.asarray(subject, dtype=np.int32)
    names = tuple(map(str, group_names))
    rates = group_rates("accuracy", correct, group, names, own, own)
    accuracy = 100 * float(np.mean(correct))
    values: dict[str, Any] = {
        "task": TASK,
        "accuracy": accuracy,
        "error": 100 - accuracy,
        **(metrics or {}),
        "pairs": count,
        "subjects": len(np.unique(own)),
        "group_accuracy": {
            label: None if label in rates.skipped else 100 * float(rate)
            for label, rate in zip(names, rates.rate, strict=True)
        },
    }
    reasons = {f"group_accuracy/{label}": reason for label, reason in rates.skipped.items()}
    summaries = summarise_accuracy(rates)
    for ours, theirs, factor in (
        ("worst_group", "worst_group", 100),
        ("group_gap", "group_gap", 100),
        ("group_std", "std_sample", 100),
        ("ser", "ser", 1),
    ):
        summary = summaries[theirs]
        values[ours] = factor * summary.value if np.isfinite(summary.value) else None
        if values[ours] is None:
            reasons[ours] = summary.reason or "the value is not a number"
    values["undefined"], values["undefined_reasons"] = sorted(reasons), reasons
    table = {
        "same": np.ones(count, dtype=bool),
        "fold": np.zeros(count, dtype=np.int16),
        "group": np.asarray(group, dtype=np.int16),
        "subject_a": own,
        "subject_b": own,
        "group_names": np.array(names, dtype=np.str_),
        "pool": np.array(name),
    }
    found.metrics[name] = values
    found.pairs[name] = table_name(table)
    found.tables[found.pairs[name]] = table
    found.scores[f"{name}/score"] = np.asarray(score, dtype=np.float32)
    found.scores[f"{name}/correct"] = np.asarray(correct, dtype=bool)


def pruning_cost(network: nn.Module, masks: Masks | None, original: int | None = None) -> dict[str, Any]:
    """How many prunable weights are left: in the masks, or without any those of convolutions and linear layers that are not 0.

    Args:
        network: as it is now. masks: on its weights.
        original: prunable weights that it had before channels were removed from it; None if none were.

    Returns:
        `prunable` and `kept` weights, `sparsity` and `remaining` in percent of the unpruned network, `layers` (name -> [kept,
        total], of the layers as they are now), and `emptied_layers`, the names of those that kept nothing (biases apart).

    Raises:
        ValueError: the network has more weights than it is said to have had.
    """
    if masks is not None:
        layers = {name: (count.kept, count.total) for name, count in masks.counts().items()}
    else:
        weights = prunable_weights(network)
        layers = {name: (int(torch.count_nonzero(w.detach())), w.numel()) for name, w in weights.items()}
    kept, total = (sum(column) for column in zip(*layers.values(), strict=True))
    if original is not None and original < total:
        raise ValueError(
            f"original_weights is {original}, but the network has {total} prunable weights now: count it unpruned"
        )
    total = total if original is None else original
    return {
        "prunable": total,
        "kept": kept,
        "sparsity": 100 * (1 - kept / total),
        "remaining": 100 * kept / total,
        "layers": {name: list(counts) for name, counts in layers.items()},
        "emptied_layers": [name for name, (left, _) in layers.items() if not left and name.endswith("weight")],
    }
