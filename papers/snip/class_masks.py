"""The paper's look at masks that were scored on images of one class: do they keep that class's pixels?"""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

import numpy as np

from common.cost import measure_cost
from common.evaluation.benchmark import Measurement
from common.evaluation.classification import add_decisions, pruning_cost
from papers.snip.method import SNIP

SET = "class masks"


class ClassMasks:
    """For every class, prune with a scoring batch of that class alone and see whose mean image the first layer's inputs follow.

    A class counts as right if the number of kept connections of every pixel correlates more with its own mean training image
    than with the mean image of any other class.

    Args:
        layer: name of the weight whose inputs are the pixels, [outputs, pixels].
    """

    def __init__(self, layer: str = "hidden.0.weight") -> None:
        self.layer = layer

    def measure(self, method: SNIP, data: Any) -> Measurement:
        """One decision a class under the name `"class masks"`; the cost is that of one such mask."""
        part = data.part("train")
        labels, images = part.labels.numpy(), part.images.flatten(1).double().numpy()
        classes = range(len(data.class_names))
        means = np.stack([images[labels == label].mean(axis=0) for label in classes])
        ahead = np.empty(len(classes))
        for label in classes:
            one = copy.deepcopy(method)
            one.scoring_class = label
            one.prune(data)
            kept = one.masks.as_dict()[self.layer].sum(dim=0).numpy()
            alike = correlations(kept, means)
            ahead[label] = alike[label] - np.delete(alike, label).max()
        found = Measurement({}, {}, {}, {}, {})
        none = np.full(len(classes), -1)
        add_decisions(found, SET, correct=ahead > 0, score=ahead, group=none, group_names=())
        found.cost.update(asdict(measure_cost(one.network, (data.in_channels, *data.image_size))))
        found.cost.update(pruning_cost(one.network, one.masks))
        return found


def correlations(kept: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Pearson's correlation of [P] with each row of [C, P]; 0 where one of them is constant."""
    left, right = kept - kept.mean(), means - means.mean(axis=1, keepdims=True)
    size = np.linalg.norm(left) * np.linalg.norm(right, axis=1)
    return np.divide(right @ left, size, out=np.zeros(len(means)), where=size > 0)
