"""Images in memory reach a network channels-last, grey ones too: its convolutions then take two thirds of the time on a CPU."""

from collections.abc import Callable

import pytest
import torch

from common.backbones.lenet import LeNet5Caffe
from datasets.classification import Digits
from datasets.memory import EpochLoader

SOURCES: dict[str, Callable[[Digits], torch.Tensor]] = {
    "training": lambda data: _first(data.train_dataloader()),
    "validation": lambda data: _first(data.val_dataloader()),
    "test": lambda data: _first(data.loader("test", 10)),
    "whole part": lambda data: data.normalisation(data.part("train").images)[:10],
    "kept": lambda data: data.inputs("train")[:10],
}


def _first(loader: EpochLoader) -> torch.Tensor:
    images: torch.Tensor = next(iter(loader))[0]
    return images


@pytest.mark.parametrize("source", SOURCES)
def test_grey_images_are_channels_last_and_give_the_same_logits(source: str) -> None:
    images = SOURCES[source](Digits(size=28, batch_size=10))
    plain = torch.empty(images.shape).copy_(images)
    assert (images.stride()[1], plain.stride()[1]) == (1, 28 * 28)
    torch.manual_seed(0)
    network = LeNet5Caffe()
    maps = network.conv1(images)
    assert maps.is_contiguous(memory_format=torch.channels_last)
    assert maps.shape == network.conv1(plain).shape
    torch.testing.assert_close(network(images), network(plain), atol=1e-5, rtol=1e-5)
