"""StreamLoader: what a step sees depends neither on the number of workers, nor on a resume, nor on the processes."""

from __future__ import annotations

import pytest
import torch

from datasets.stream import StreamLoader

Batches = list[tuple[torch.Tensor, torch.Tensor]]


class Source:
    """Images that tell their own number and which way round they are."""

    def __len__(self) -> int:
        return 26

    def read(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        columns = torch.arange(5, dtype=torch.uint8).expand(len(index), 3, 4, 5)
        return columns + index.to(torch.uint8)[:, None, None, None], index


def loader(num_workers: int, rank: int = 0, world: int = 1) -> StreamLoader:
    return StreamLoader(Source(), batch_size=4, seed=3, num_workers=num_workers, rank=rank, world=world)


def epochs(stream: StreamLoader, first: int = 0, last: int = 2) -> Batches:
    batches = []
    for epoch in range(first, last):
        stream.set_epoch(epoch)
        batches += list(stream)
    return batches


def assert_equal(ours: Batches, theirs: Batches) -> None:
    assert len(ours) == len(theirs)
    for (images, labels), (images_, labels_) in zip(ours, theirs, strict=True):
        assert torch.equal(images, images_)
        assert torch.equal(labels, labels_)


@pytest.mark.parametrize("resumed_with", [0, 2])
@pytest.mark.parametrize("begun_with", [0, 2])
def test_batches_after_a_resume_do_not_depend_on_the_number_of_workers(begun_with: int, resumed_with: int) -> None:
    """Workers have prepared batches ahead that nobody has seen: they must come again."""
    undisturbed = epochs(loader(0))
    first = loader(begun_with)
    first.set_epoch(0)
    iterator = iter(first)
    seen = [next(iterator) for _ in range(3)]
    state = first.state_dict()
    assert state == {"epoch": 0, "given": 3}
    second = loader(resumed_with)
    second.load_state_dict(state)
    assert_equal(seen + epochs(second), undisturbed)


def test_workers_leave_the_global_generator_alone() -> None:
    """Dropout and drawn margins would otherwise depend on the number of workers."""
    draws = []
    for num_workers in (0, 2):
        torch.manual_seed(1)
        epochs(loader(num_workers))
        draws.append(torch.rand(3))
    torch.manual_seed(1)
    assert all(torch.equal(draw, expected) for draw, expected in zip(draws, [torch.rand(3)] * 2, strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_processes_interleave_to_the_batches_of_one(num_workers: int) -> None:
    parts = [epochs(loader(num_workers, rank, world=2)) for rank in (0, 1)]
    together = [
        (torch.stack([a[0], b[0]], 1).flatten(0, 1), torch.stack([a[1], b[1]], 1).flatten())
        for a, b in zip(*parts, strict=True)
    ]
    assert_equal(together, epochs(loader(0)))
