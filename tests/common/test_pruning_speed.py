"""What pruning costs and saves in time, both sides measured in one process."""

import statistics
import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from common.backbones.cifar_plain import VGG
from common.backbones.cifar_resnet import CifarResNet
from common.backbones.lenet import LeNet300100
from common.backbones.mobilefacenet import MobileFaceNet
from common.cost import count_macs
from common.pruning import (
    ChannelGraph,
    Evidence,
    Masks,
    choose_channels,
    magnitude,
    remove_channels,
    score_filters,
    select_per_layer,
)

pytestmark = pytest.mark.speed


def compare(first: Callable[[], object], second: Callable[[], object], rounds: int, repeats: int) -> float:
    """Median over rounds of the ratio of CPU times, second to first; the two take turns, so that both are disturbed alike."""
    ratios = []
    for _ in range(rounds):
        times = []
        for call in (first, second):
            begin = time.process_time()
            for _ in range(repeats):
                call()
            times.append(time.process_time() - begin)
        ratios.append(times[1] / times[0])
    return statistics.median(ratios)


def training_step(masked: bool, make: Callable[..., torch.optim.Optimizer]) -> Callable[[], None]:
    torch.manual_seed(0)
    network = LeNet300100()
    masks = Masks(network)
    optimizer = make(network.parameters())
    if masked:
        masks.set(select_per_layer(magnitude(masks.weights), 0.9))
        masks.guard(optimizer)
    batches = [(torch.rand(60, 1, 28, 28), torch.randint(0, 10, (60,))) for _ in range(20)]
    state = {"step": 0, "masks": masks}

    def step() -> None:
        x, y = batches[state["step"] % 20]
        state["step"] += 1
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()

    return step


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, weight_decay=5e-4),
        lambda p: torch.optim.Adam(p, 1.2e-3, fused=True),
    ],
    ids=["sgd", "adam"],
)
def test_masks_cost_little_on_the_smallest_network(make) -> None:
    plain, masked = training_step(False, make), training_step(True, make)
    compare(plain, masked, 1, 20)
    assert compare(plain, masked, 15, 20) < 1.25  # 1.06 on a quiet machine


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (lambda: VGG(plan=(64, 64, "pool", 128, 128, "pool", 256, "pool")), (3, 32, 32)),
        (lambda: CifarResNet(20, shortcut="projection"), (3, 32, 32)),
        (lambda: MobileFaceNet(128, 1.0, 56, (2, 2, 1)), (3, 56, 56)),
    ],
    ids=["VGG", "ResNet-20", "MobileFaceNet"],
)
def test_half_of_the_channels_less_is_faster(build, size) -> None:
    network = build().eval()
    graph = ChannelGraph(network, torch.randn(1, *size))
    layers = tuple(group.layers[0] for group in graph.groups if not group.output)
    thin = remove_channels(
        network, choose_channels(graph, score_filters("l1", Evidence(network, layers)), 0.5), graph=graph
    )
    x = torch.randn(8, *size)
    with torch.inference_mode():
        compare(lambda: network(x), lambda: thin(x), 1, 2)
        ratio = compare(lambda: network(x), lambda: thin(x), 7, 2)
    assert count_macs(thin, size) < 0.4 * count_macs(network, size)
    assert ratio < 0.8
