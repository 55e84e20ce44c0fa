"""Embedding with mirror images, pair cosines and mean removal: the official numbers, and what may go wrong on the
way."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.evaluation.embedding import embed, embedding_norm, evaluating, mean_removed_scores, pair_scores
from common.evaluation.verification import contiguous_folds, folded_accuracy, pair_distances


class Linear(nn.Module):
    """[B, C, H, W] times a weight matrix."""

    def __init__(self, weight: NDArray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.as_tensor(weight))

    def forward(self, images: Tensor) -> Tensor:
        return images.reshape(len(images), -1) @ self.weight


class Sliced:
    """Images that are only there slice by slice, as a reader would decode them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.largest = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        part = self.images[rows].numpy()
        self.largest = max(self.largest, len(part))
        return part


def some_images(count: int = 7) -> Tensor:
    return torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def some_network() -> nn.Module:
    return Linear(np.random.default_rng(0).normal(size=(48, 5)).astype(np.float32))


def test_official_flip_test(golden: Path) -> None:
    want = np.load(golden / "_fr_evaluation" / "flip_test.npz")
    images = torch.from_numpy(want["images"]).to(torch.uint8)
    network = Linear(want["weight"])
    plain = embed(network, images, flip="none", batch_size=7)
    both = embed(network, images, flip="concatenate", batch_size=7)
    np.testing.assert_allclose(plain, want["emb_plain"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(both[:, 8:], want["emb_flip"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(both[:, :8], plain)
    summed = embed(network, images, batch_size=7)
    np.testing.assert_array_equal(summed, both[:, :8] + both[:, 8:])
    assert embedding_norm(network, images, batch_size=7) == pytest.approx(want["xnorm"], rel=1e-6)
    got = folded_accuracy(want["issame"], distance=pair_distances(summed), folds=int(want["nfolds"]))
    assert (got.accuracy, got.std) == (pytest.approx(want["acc2"]), pytest.approx(want["std2"]))
    first = np.arange(0, 30, 2)
    by_score = folded_accuracy(want["issame"], score=pair_scores(summed, first, first + 1), folds=5)
    assert by_score.accuracy == pytest.approx(want["acc2"])


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
@pytest.mark.parametrize("channels_last", [True, False])
def test_batches_do_not_change_embeddings(batch_size: int, channels_last: bool) -> None:
    images, network = some_images(), some_network()
    sliced = Sliced(images)
    got = embed(network, sliced, batch_size=batch_size, channels_last=channels_last)
    assert got.dtype == np.float32
    assert sliced.largest == min(batch_size, 7)
    pixels = (images.double() - 127.5) / 127.5
    weight = network.weight.detach().double()
    want = pixels.flatten(1) @ weight + pixels.flip(-1).flatten(1) @ weight
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-4)


def test_divisor_scales_the_input() -> None:
    images, network = some_images(), some_network()
    half = embed(network, images, divisor=255.0)
    np.testing.assert_allclose(2 * half, embed(network, images), rtol=1e-5, atol=1e-5)


def test_training_flags_come_back() -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48), nn.Sequential(nn.Linear(48, 4), nn.Dropout(0.5)))
    network.train()
    network[1].eval()  # a frozen part
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first = embed(network, some_images())
    np.testing.assert_array_equal(first, embed(network, some_images()))  # dropout is off
    assert [m.training for m in network.modules()] == [True, True, False, True, True, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())  # statistics too


def test_training_flags_come_back_after_an_error() -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48))
    network[1].eval()
    with pytest.raises(ZeroDivisionError), evaluating(network):
        _ = 1 / any(m.training for m in network.modules())
    assert network.training
    assert not network[1].training


def test_no_gradients_are_recorded() -> None:
    network = some_network()
    seen = []
    network.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    embed(network, some_images())
    assert seen
    assert not any(seen)


@pytest.mark.parametrize(("mirrored", "name"), [(False, "image 5"), (True, "mirrored image 5")])
def test_broken_embeddings_name_the_image(mirrored: bool, name: str) -> None:
    images = torch.zeros(7, 3, 4, 4, dtype=torch.uint8)
    images[5, :, :, 3 if mirrored else 0] = 255

    class BreaksOnTheLeft(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x[:, 0, 0, :1] > 0, torch.inf, 1.0).repeat(1, 2)

    network = BreaksOnTheLeft().train()
    with pytest.raises(ValueError, match=rf"for {name}\."):
        embed(network, images, batch_size=3)
    assert network.training


def test_refused_images_and_networks() -> None:
    with pytest.raises(TypeError, match="uint8"):
        embed(some_network(), some_images().float())
    with pytest.raises(ValueError, match="at least 1"):
        embed(some_network(), some_images()[:0])
    with pytest.raises(ValueError, match="'concatenate'"):
        embed(some_network(), some_images(), flip="both")
    with pytest.raises(ValueError, match="embeddings \\[B, D\\] were expected"):
        embed(nn.Identity(), some_images())


def test_pair_scores_are_cosines() -> None:
    embeddings = np.array([[3.0, 4.0], [4.0, 3.0], [0.0, 0.0], [-6.0, -8.0]], dtype=np.float32)
    got = pair_scores(embeddings, [0, 0, 0, 0], [0, 1, 2, 3])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [1.0, 0.96, 0.0, -1.0], atol=1e-7)
    centred = pair_scores(embeddings, [0], [1], mean=[3.0, 3.0])
    np.testing.assert_allclose(centred, [0.0], atol=1e-7)  # (0, 1) and (1, 0)
    assert embeddings[0, 0] == 3.0


def test_more_pairs_than_one_block() -> None:
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(50, 6))
    first, second = rng.integers(0, 50, (2, 40_000))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(pair_scores(embeddings, first, second), (unit @ unit.T)[first, second], atol=1e-6)


def test_mean_comes_from_the_other_folds() -> None:
    rng = np.random.default_rng(2)
    embeddings = rng.normal(size=(40, 6)) + 2.0
    first, second = rng.integers(0, 40, (2, 90))
    fold = contiguous_folds(90, 3) * 2  # labels 0, 2, 4
    got = mean_removed_scores(embeddings, first, second, fold)
    assert got.shape == (3, 90)
    for row, name in enumerate((0, 2, 4)):
        train = fold != name
        mean = np.concatenate((embeddings[first[train]], embeddings[second[train]])).mean(axis=0)
        np.testing.assert_allclose(got[row], pair_scores(embeddings - mean, first, second), atol=1e-6)
    result = folded_accuracy(rng.random(90) < 0.5, score=got, fold=fold)
    assert result.fold_accuracy.shape == (3,)


def test_refused_pairs() -> None:
    embeddings = np.ones((4, 2))
    with pytest.raises(IndexError, match="image 4 of 4"):
        pair_scores(embeddings, [0], [4])
    with pytest.raises(IndexError, match="image -1"):
        pair_scores(embeddings, [-1], [0])
    with pytest.raises(ValueError, match="integers"):
        pair_scores(embeddings, [0.0], [1.0])
    with pytest.raises(ValueError, match="do not fit"):
        pair_scores(embeddings, [0, 1], [1])
    with pytest.raises(ValueError, match="at least two"):
        mean_removed_scores(embeddings, [0, 1], [1, 2], [3, 3])
