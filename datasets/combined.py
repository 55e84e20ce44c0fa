"""Train on one data set, test on another."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as L

from datasets.pairs import PairSet


class TrainTest(L.LightningDataModule):
    """Training batches of one data module, test pairs of another.

    Args:
        train: gives the training batches, `num_classes` and `batch_size`.
        test: gives `pair_sets()` and `validation_pair_sets()`.
    """

    def __init__(self, train: L.LightningDataModule, test: L.LightningDataModule) -> None:
        super().__init__()
        self.train, self.test = train, test

    def prepare_data(self) -> None:
        """Prepare both."""
        self.train.prepare_data()
        self.test.prepare_data()

    def setup(self, stage: str) -> None:
        """Set up both."""
        self.train.setup(stage)
        self.test.setup(stage)

    @property
    def batch_size(self) -> int:
        """Images a training step, over all processes together."""
        return int(self.train.batch_size)  # type: ignore[attr-defined]

    @property
    def num_classes(self) -> int:
        """Identities of the training part."""
        return int(self.train.num_classes)  # type: ignore[attr-defined]

    @property
    def group_names(self) -> tuple[str, ...]:
        """Groups of the test part."""
        return tuple(self.test.group_names)  # type: ignore[attr-defined]

    def train_dataloader(self) -> Any:
        """Batches of the training part."""
        return self.train.train_dataloader()

    def pair_sets(self) -> dict[str, PairSet]:
        """Verification sets of the test part."""
        sets: dict[str, PairSet] = self.test.pair_sets()  # type: ignore[attr-defined]
        return sets

    def validation_pair_sets(self) -> dict[str, PairSet]:
        """Validation sets of the test part."""
        sets: dict[str, PairSet] = self.test.validation_pair_sets()  # type: ignore[attr-defined]
        return sets

    def fingerprint(self) -> dict[str, Any]:
        """What decides both parts."""
        return {"train": self.train.fingerprint(), "test": self.test.fingerprint()}  # type: ignore[attr-defined]
