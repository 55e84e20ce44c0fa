"""TransferSet: fewer training images, or none of their labels; everything that is measured stays whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from datasets.classification import Digits
from datasets.generated import GeneratedFaces
from datasets.transfer import TransferSet


def digits(**options: Any) -> TransferSet:
    data = TransferSet(Digits(size=8, batch_size=20), **options)
    data.setup()
    return data


def test_classes_are_left_out_of_the_training_part_alone() -> None:
    whole, data = Digits(size=8), digits(without=(3, 5))
    whole.setup()
    kept = whole.labels("train")
    kept = kept[(kept != 3) & (kept != 5)]
    assert torch.equal(data.labels("train"), kept)
    for part in ("validation", "test"):
        assert torch.equal(data.labels(part), whole.labels(part))
        assert torch.equal(data.inputs(part), whole.inputs(part))
    seen = torch.cat([labels for _, labels in data.train_dataloader()])
    assert set(seen.tolist()) == set(range(10)) - {3, 5}
    assert data.class_names == whole.class_names


def test_a_share_is_the_same_of_every_class_and_of_every_seed() -> None:
    whole, data = Digits(size=8), digits(fraction=0.1)
    whole.setup()
    assert len(data.labels("train")) == round(0.1 * len(whole.labels("train")))
    counts = torch.bincount(data.labels("train"), minlength=10)
    assert int(counts.max() - counts.min()) <= 1
    again = TransferSet(Digits(size=8, seed=5), fraction=0.1)
    again.setup()
    assert torch.equal(again.inputs("train"), data.inputs("train"))
    assert not torch.equal(digits(fraction=0.1, fraction_seed=1).inputs("train"), data.inputs("train"))


def test_labels_can_be_withheld() -> None:
    data = digits(labelled=False)
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (20, 1, 8, 8)
    assert labels.tolist() == [-1] * 20
    assert int(data.labels("test").min()) == 0


def test_setting_up_twice_leaves_out_nothing_more_and_the_fingerprint_tells_what_is_left() -> None:
    data = digits(fraction=0.5)
    count = len(data.labels("train"))
    data.setup()
    assert len(data.labels("train")) == count
    assert data.fingerprint()["sizes"]["train"] == count
    assert digits().fingerprint() != data.fingerprint()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fraction": 0.0}, "fraction is 0"),
        ({"fraction": 1.5}, "fraction is 1.5"),
        ({"without": (10,)}, "class 10 cannot be left out"),
        ({"without": tuple(range(10))}, "no training image is left"),
    ],
    ids=["nothing", "more", "class", "all"],
)
def test_bad_input_is_said(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        digits(**options)


def test_sets_that_are_not_in_memory_are_refused() -> None:
    faces: Any = GeneratedFaces(size=32, identities=12, images_per_identity=2)
    with pytest.raises(TypeError, match="GeneratedFaces does not keep its images in memory"):
        TransferSet(faces)
