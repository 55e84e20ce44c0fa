"""PairSet: what it accepts, what it refuses, and how it says so."""

from typing import Any

import numpy as np
import pytest
import torch

from datasets.pairs import PairSet


def arguments(**changes: Any) -> dict[str, Any]:
    """Four images of two subjects, three pairs, two groups."""
    values: dict[str, Any] = {
        "name": "toy",
        "images": torch.zeros(4, 3, 8, 8, dtype=torch.uint8),
        "first": np.array([0, 2, 0]),
        "second": np.array([1, 3, 2]),
        "same": np.array([True, True, False]),
        "fold": np.array([0, 1, 1]),
        "subject": np.array([5, 5, 9, 9]),
        "group": np.array([0, 1, -1]),
        "group_names": ("F", "M"),
    }
    return values | changes


def test_subjects_folds_and_length() -> None:
    pairs = PairSet(**arguments())
    assert len(pairs) == 3
    assert pairs.folds == 2
    assert pairs.subject_a.tolist() == [5, 9, 5]
    assert pairs.subject_b.tolist() == [5, 9, 9]
    assert pairs.divisor == 127.5


def test_integer_arrays_become_int64() -> None:
    pairs = PairSet(**arguments(first=np.array([0, 2, 0], dtype=np.uint8), group=[0, 1, -1]))
    assert pairs.first.dtype == np.int64
    assert pairs.group.dtype == np.int64


def test_lazy_images_are_accepted() -> None:
    class Lazy:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: slice) -> torch.Tensor:
            return torch.zeros(len(range(*index.indices(4))), 3, 8, 8, dtype=torch.uint8)

    assert PairSet(**arguments(images=Lazy())).images[1:3].shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(4, 3, 8, 8)}, "uint8"),
        ({"images": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)}, r"\[N, 3, H, W\]"),
        ({"images": 4}, "__len__"),
        ({"subject": np.array([5, 5, 9])}, "names 3 images, but there are 4"),
        ({"second": np.array([1, 3])}, r"second must have shape \[3\]"),
        ({"second": np.array([1, 4, 2])}, r"second\[1\] is 4, allowed is 0..3"),
        ({"first": np.array([-1, 2, 0])}, r"first\[0\] is -1"),
        ({"fold": np.array([0, 1, -1])}, r"fold\[2\] is -1"),
        ({"group": np.array([0, 2, -1])}, r"group\[1\] is 2, allowed is -1..1"),
        ({"same": np.array([1, 1, 0])}, "same must be bool"),
        ({"first": np.array([0.0, 2.0, 0.0])}, "integer array"),
        ({"same": np.array([True, True, True])}, "pair 2 is genuine"),
        ({"divisor": 0.0}, "divisor"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairSet(**arguments(**changes))
