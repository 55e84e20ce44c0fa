"""A data module around another one: what it does not say itself is the other's."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl


class Wrapped(pl.LightningDataModule):
    """Base of data modules that change how another one gives its images.

    Whatever the subclass does not define (pair sets, classes, groups, fingerprint, batch size) is looked up in the other.

    Args:
        data: the other data module.
    """

    def __init__(self, data: Any) -> None:
        super().__init__()
        self.data = data

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "data" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["data"], name)

    def prepare_data(self) -> None:
        """The other's."""
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """The other's."""
        self.data.setup(stage)
