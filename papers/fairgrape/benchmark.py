"""FairGRAPE's measurements: accuracy of every group, and how unevenly the groups lose against the dense network.

    A_g   accuracy of group g, mean over tasks;  A  of all images
    d_g = A_g(pruned) - A_g(dense), at the same seed                                               (7)
    the paper's fairness: the sample standard deviation of d_g over the groups (ddof 1)            (8)

Decisions of the set `"test"` are of images (and tasks), with the sensitive groups. Further sets hold decisions only, for claims
and bootstraps: `"test by <column>"` for other group columns, and `"change"`, in which each image counts twice: once right if
the pruned network is right, once right if the dense one is wrong. A group's accuracy there is (100 + d_g) / 2 percent, so that
twice the spread of its groups is (8), and both networks are resampled on the same people.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.cost import measure_cost
from common.evaluation.benchmark import Measurement
from common.evaluation.classification import add_decisions, margin, pruning_cost
from common.fairness.decision import decision_rates, rate_difference
from common.fairness.groups import FEWEST_SUBJECTS
from common.fairness.intervals import plugin_variance, wilson_interval
from common.weights import load_weights
from papers.fairgrape.claims import CHANGE, STD_OF_CHANGE, TEST

TASK = "attributes"


class AttributeBenchmark:
    """A network on the test part of a set of `datasets.attributes`.

    Args:
        dense: weights file of the dense network that changes are counted from; None: none are counted.
        columns: further group columns, intersections such as `"race x gender"` included.
        batch_size: images at a time.
    """

    def __init__(self, dense: str | None = None, columns: Sequence[str] = (), batch_size: int = 500) -> None:
        self.dense, self.columns, self.batch_size = dense, tuple(columns), batch_size

    def measure(self, method: Any, data: Any) -> Measurement:
        """Measure `method.network`; see the top.

        Metrics of `"test"`, beside those of `add_decisions`: `loss`; `group_interval` (95 %, Wilson, people as clusters);
        `by`: column -> accuracy, interval and images of its groups; `change` (d_g), `std_of_change` (8); for binary tasks
        `equal_opportunity_gap`, the mean over tasks of the largest difference in true positive rates; and what the method
        noted of its selections.

        Raises:
            ValueError: outputs that are not finite; a group column that there is not.
        """
        network: nn.Module = method.network
        labels = data.part("test").labels
        outputs = self._outputs(network, data)
        right, score = decisions(outputs, labels, [len(task.classes) for task in data.tasks])
        found = Measurement({}, {}, {}, {}, {})
        own = self._decide(found, TEST, data, data.group, right, score)
        own["loss"] = float(method.task_loss(outputs, labels))
        own["by"] = {}
        for column in self.columns:
            name = f"{TEST} by {column}"
            own["by"][column] = _kept(self._decide(found, name, data, column, right, score))
            found.metrics.pop(name)
        own.update(equal_opportunity(outputs, labels, data))
        own[STD_OF_CHANGE] = 0.0  # of the dense network itself
        if self.dense is not None:
            before = copy.deepcopy(network)
            load_weights(before, self.dense)
            dense_right, _ = decisions(self._outputs(before, data), labels, [len(t.classes) for t in data.tasks])
            own.update(self._change(found, data, right, dense_right))
        own.update(_noted(method))
        network.to("cpu")
        found.cost.update(asdict(measure_cost(network, (3, *map(int, data.image_size)))))
        found.cost.update(pruning_cost(network, method.masks))
        return found

    def _decide(
        self, found: Measurement, name: str, data: Any, column: str, right: np.ndarray, score: np.ndarray
    ) -> dict[str, Any]:
        """Put decisions [N, T] under a name; its metrics, with intervals of the groups."""
        tasks = right.shape[1]
        group = np.repeat(data.groups(TEST, column).numpy(), tasks)
        subject = np.repeat(data.part(TEST).subject.numpy(), tasks)
        names = data.names_of(column)
        add_decisions(found, name, right.ravel(), score.ravel(), group, names, subject=subject)
        own = found.metrics[name]
        own["task"] = TASK
        own["group_interval"] = {
            label: interval(right.ravel()[group == g], subject[group == g]) for g, label in enumerate(names)
        }
        own["group_images"] = {label: int((group == g).sum()) // tasks for g, label in enumerate(names)}
        return own

    def _change(self, found: Measurement, data: Any, right: np.ndarray, dense: np.ndarray) -> dict[str, Any]:
        """(7) and (8), and the decisions of the set `"change"`."""
        both = np.concatenate([right, ~dense], axis=1)  # [N, 2 T]
        count = both.shape[1]
        add_decisions(
            found,
            CHANGE,
            both.ravel(),
            both.ravel().astype(np.float32),
            np.repeat(data.groups(TEST).numpy(), count),
            data.group_names,
            subject=np.repeat(data.part(TEST).subject.numpy(), count),
        )
        halves = found.metrics.pop(CHANGE)
        change = {name: None if half is None else 2 * half - 100 for name, half in halves["group_accuracy"].items()}
        spread = halves["group_std"]
        return {
            "change": change,
            "overall_change": 2 * halves["accuracy"] - 100,
            STD_OF_CHANGE: None if spread is None else 2 * spread,
        }

    @torch.no_grad()
    def _outputs(self, network: nn.Module, data: Any) -> Tensor:
        """Logits of all tasks on the test part, float64 [N, K], on the CPU."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network.to(device).eval()
        pieces = [network(images.to(device)).double().cpu() for images, _, _ in data.batches(TEST, self.batch_size)]
        outputs = torch.cat(pieces)
        if not bool(torch.isfinite(outputs).all()):
            raise ValueError("the network's outputs on the test part are not finite: it has diverged")
        return outputs


def decisions(outputs: Tensor, labels: Tensor, classes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Which decisions are right, bool [N, T], and by which margin of the logits, float32 [N, T]."""
    pairs = [(logits, labels[:, t]) for t, logits in enumerate(outputs.split(list(classes), dim=1))]
    right = torch.stack([logits.argmax(1) == truth for logits, truth in pairs], dim=1)
    return right.numpy(), torch.stack([margin(logits, truth) for logits, truth in pairs], dim=1).numpy()


def interval(right: np.ndarray, subject: np.ndarray) -> list[float] | None:
    """95 % interval of an accuracy in percent, decisions of one person as a cluster; None for fewer than two people."""
    if len(np.unique(subject)) < FEWEST_SUBJECTS:
        return None
    found = wilson_interval(float(right.mean()), plugin_variance(~right, subject, subject), len(right))
    return [100 * found.low, 100 * found.high]


def equal_opportunity(outputs: Tensor, labels: Tensor, data: Any) -> dict[str, Any]:
    """`equal_opportunity_gap` in percent points: over the binary tasks, mean of the largest difference of group TPRs.

    The spread of accuracies hides what happens to a rare attribute. Tasks where fewer than two groups have a positive
    sample are left out, and counted in `equal_opportunity_undefined`. Nothing without a binary task.
    """
    gaps, undefined = [], 0
    group, subject = data.groups(TEST).numpy(), data.part(TEST).subject.numpy()
    start = 0
    for t, task in enumerate(data.tasks):
        logits = outputs[:, start : start + len(task.classes)]
        start += len(task.classes)
        if len(task.classes) != 2:
            continue
        table = decision_rates(
            labels[:, t].numpy() == 1, logits.argmax(1).numpy() == 1, group, data.group_names, subject
        )["tpr"]
        gap = rate_difference(table).value
        if np.isfinite(gap):
            gaps.append(100 * gap)
        else:
            undefined += 1
    if not gaps and not undefined:
        return {}
    return {
        "equal_opportunity_gap": float(np.mean(gaps)) if gaps else None,
        "equal_opportunity_undefined": undefined,
    }


def _kept(values: dict[str, Any]) -> dict[str, Any]:
    names = ("group_accuracy", "group_interval", "group_images", "worst_group", "group_gap", "group_std", "ser")
    return {name: values[name] for name in names}


def _noted(method: Any) -> dict[str, Any]:
    """What the method noted of its selections, where it balances groups."""
    noted = method.deviations.cpu()
    if not bool(torch.isfinite(noted).any()):
        return {}
    first, last = noted[0].tolist(), noted[-1].tolist()
    return {
        "deviation_first": 100 * first[0],
        "deviation_first_importance": 100 * first[1],
        "from_equal_first": 100 * first[2],
        "deviation_last": 100 * last[0],
        "deviation_last_importance": 100 * last[1],
        "from_equal_last": 100 * last[2],
    }
