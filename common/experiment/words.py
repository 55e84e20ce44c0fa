"""How a table speaks of what it measured: comparisons of people, or classified images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from common.experiment.records import RunRecord


@dataclass(frozen=True)
class Words:
    """The words of one kind of measurement.

    Attributes:
        metric: that the columns of the sets show; title: of such a column, with the set's name in it.
        protocol: the first line of the legend.
        items: what is decided on; people: what the bootstrap resamples; group: one of the groups.
    """

    metric: str
    title: str
    protocol: str
    items: str
    people: str
    group: str


VERIFICATION = Words(
    metric="accuracy",
    title="{}",
    protocol="10-fold verification accuracy in percent, at one global threshold a fold for all groups.",
    items="pairs",
    people="people",
    group="group",
)
CLASSIFICATION = Words(
    metric="error",
    title="{} error",
    protocol="Top-1 error in percent.",
    items="images",
    people="images",
    group="class",
)
ATTRIBUTES = Words(
    metric="error",
    title="{} error",
    protocol="Classification error in percent, mean over attributes; groups are demographic groups, not classes.",
    items="decisions",
    people="people",
    group="group",
)
WORDS = {"verification": VERIFICATION, "classification": CLASSIFICATION, "attributes": ATTRIBUTES}


def task_of(runs: Iterable[RunRecord]) -> str:
    """The kind of measurement of finished runs; verification where they do not say.

    Raises:
        ValueError: of different kinds, or of one that there is not.
    """
    tasks = {str(values.get("task", "verification")) for run in runs for values in run.metrics.values()}
    if len(tasks) > 1 or not tasks <= set(WORDS):
        raise ValueError(f"a table is of one of {', '.join(WORDS)}; its runs measured {', '.join(sorted(tasks))}")
    return tasks.pop() if tasks else "verification"
