"""Pruned networks from disk: built unpruned, then given the sizes of what is loaded."""

import copy
from pathlib import Path

import pytest
import pytorch_lightning as L
import torch
from safetensors.torch import load_file, save
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from common.backbones import InsightMobileFaceNet, IResNet, MobileFaceNet
from common.backbones.cifar_plain import VGG
from common.backbones.cifar_resnet import CifarResNet
from common.backbones.lenet import LeNet5Caffe
from common.files import DamagedFileError
from common.pruning import (
    ChannelGraph,
    Evidence,
    accept_pruned,
    choose_channels,
    kept_channels,
    load_pruned,
    remove_channels,
    removed_channels,
    save_pruned,
    score_filters,
)
from common.weights import WeightsMismatchError, save_weights

FAMILIES = {
    "LeNet-5-Caffe": (lambda: LeNet5Caffe(widths=(5, 7, 20)), (1, 28, 28)),
    "VGG": (lambda: VGG(plan=(8, "pool", 6, "pool"), hidden=(9,)), (3, 32, 32)),
    "ResNet-8": (lambda: CifarResNet(8, widths=(4, 6, 8)), (3, 32, 32)),
    "MobileFaceNet": (lambda: MobileFaceNet(32, 0.25, 48, (1, 1, 1), final_norm_affine=False), (3, 48, 48)),
    "MobileFaceNet of InsightFace": (lambda: InsightMobileFaceNet(32, 2, (1, 1, 1, 1), 48, 0.25), (3, 48, 48)),
    "IResNet": (lambda: IResNet(32, input_size=48, width=0.125, blocks=(1, 1, 1, 1)), (3, 48, 48)),
}


def pruned(family: str) -> tuple[nn.Module, nn.Module, dict[str, list[int]], ChannelGraph, torch.Tensor]:
    build, size = FAMILIES[family]
    network = build().eval()
    x = torch.randn(2, *size)
    graph = ChannelGraph(network, x)
    layers = tuple(group.layers[0] for group in graph.groups if not group.output)
    removed = choose_channels(graph, score_filters("random", Evidence(network, layers)), 0.4)
    return network, remove_channels(network, removed, graph=graph).eval(), kept_channels(graph, removed), graph, x


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_network_is_loaded_from_its_spec_and_its_file(family: str, tmp_path: Path) -> None:
    network, thin, kept, graph, x = pruned(family)
    save_pruned(thin, tmp_path / "thin.safetensors", kept)
    fresh = FAMILIES[family][0]().eval()
    assert load_pruned(fresh, tmp_path / "thin.safetensors") == kept
    assert torch.equal(fresh(x), thin(x))
    assert repr(fresh) == repr(thin), "channels, groups and features of every layer"
    assert [p.requires_grad for p in fresh.parameters()] == [p.requires_grad for p in thin.parameters()]
    frozen = FAMILIES[family][0]().requires_grad_(False)
    load_pruned(frozen, tmp_path / "thin.safetensors")
    assert not any(p.requires_grad for p in frozen.parameters())
    rebuilt = remove_channels(network, removed_channels(graph, kept), graph=graph)
    assert torch.equal(rebuilt(x), thin(x)), "the lists say which channels they were"
    again = remove_channels(fresh, {}, x)
    assert torch.equal(again(x), thin(x))

    save_weights(thin, tmp_path / "network.safetensors")  # what the store keeps of a run
    plain = FAMILIES[family][0]().eval()
    assert load_pruned(plain, tmp_path / "network.safetensors") == {}
    assert torch.equal(plain(x), thin(x))
    save_weights(network, tmp_path / "dense.safetensors")
    dense = FAMILIES[family][0]().eval()
    load_pruned(dense, tmp_path / "dense.safetensors")
    assert torch.equal(dense(x), network(x))


def test_equal_networks_are_equal_files(tmp_path: Path) -> None:
    _, thin, kept, _, _ = pruned("ResNet-8")
    save_pruned(thin, tmp_path / "a.safetensors", kept)
    save_pruned(copy.deepcopy(thin), tmp_path / "b.safetensors", dict(reversed(kept.items())))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


class Method(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = accept_pruned(LeNet5Caffe(widths=(5, 7, 20)))
        self.teacher = LeNet5Caffe(widths=(5, 7, 20))

    def prune(self) -> None:
        x = torch.randn(1, 1, 28, 28)
        self.network = remove_channels(self.network, {"conv1": [1], "conv2": [0, 2], "fc1": range(5)}, x)

    def training_step(self, batch, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.network.parameters(), 0.05, momentum=0.9)


def test_a_method_that_is_resumed_after_the_surgery_takes_its_state(tmp_path: Path) -> None:
    method, x = Method(), torch.randn(2, 1, 28, 28)
    method.prune()
    torch.save(method.state_dict(), tmp_path / "phase-0.ckpt")
    resumed = Method()
    resumed.load_state_dict(torch.load(tmp_path / "phase-0.ckpt", weights_only=True))
    assert torch.equal(resumed.network(x), method.network(x))
    assert resumed.network.conv2.out_channels == 5
    assert resumed.network.fc1.in_features == 5 * 16
    once_more = copy.deepcopy(resumed)
    once_more.prune()
    assert once_more.network.conv1.out_channels == 3
    third = copy.deepcopy(resumed)  # a pruned one becomes smaller still
    third.load_state_dict(once_more.state_dict())
    assert torch.equal(third.network(x), once_more.network(x))
    unprepared = Method()
    unprepared.network = LeNet5Caffe(widths=(5, 7, 20))
    with pytest.raises(RuntimeError, match=r"size mismatch for network.conv1.weight"):
        unprepared.load_state_dict(method.state_dict())


def test_a_fit_that_is_interrupted_after_the_surgery_ends_the_same(tmp_path: Path) -> None:
    data = DataLoader(TensorDataset(torch.randn(32, 1, 28, 28), torch.randint(0, 10, (32,))), batch_size=8)

    def fit(method: Method, epochs: int, resume: Path | None = None) -> L.Trainer:
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(method, data, ckpt_path=resume, weights_only=True)
        return trainer

    straight = Method()
    straight.prune()
    halfway = copy.deepcopy(straight)
    fit(straight, 2)
    fit(halfway, 1).save_checkpoint(tmp_path / "half.ckpt")
    resumed = Method()
    fit(resumed, 2, tmp_path / "half.ckpt")
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_file_of_another_network_changes_nothing(tmp_path: Path) -> None:
    network = LeNet5Caffe(widths=(5, 7, 20))
    before = copy.deepcopy(network.state_dict())
    for other, message in (
        (LeNet5Caffe(widths=(6, 7, 20)), r"conv1.bias is \[6\], but \[5\] here: no pruned form"),
        (CifarResNet(8), "conv1.weight is"),
    ):
        save_weights(other, tmp_path / "other.safetensors")
        with pytest.raises(WeightsMismatchError, match=message):
            load_pruned(network, tmp_path / "other.safetensors")
        assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    for shape in ((5, 1, 3, 3), (5, 1, 5), (0, 1, 5, 5)):
        (tmp_path / "odd.safetensors").write_bytes(save({"conv1.weight": torch.zeros(shape)}))
        with pytest.raises(WeightsMismatchError, match="no pruned form"):
            load_pruned(network, tmp_path / "odd.safetensors")
    save_weights(nn.Linear(2, 2), tmp_path / "linear.safetensors")
    with pytest.raises(WeightsMismatchError, match="does not fit LeNet5Caffe"):
        load_pruned(network, tmp_path / "linear.safetensors")


@pytest.mark.parametrize(
    ("lists", "problem"),
    [
        ("[1]", "no lists of numbers by layer"),
        ('{"conv1": [0, true]}', "no lists of numbers by layer"),
        ('{"conv1": [-1, 2, 3, 4, 5]}', "no lists of numbers by layer"),
        ("{", "Expecting property name"),
        ("[" * 5000, "recursion"),
        ('{"conv9": [0]}', "there is no layer conv9"),
        ('{"conv1": [0, 1]}', "conv1 has 5 channels, but the list names 2"),
        ('{"conv1": [0, 1, 2, 4, 3]}', "not in order"),
    ],
)
def test_damaged_lists(lists: str, problem: str, tmp_path: Path) -> None:
    network = LeNet5Caffe(widths=(5, 7, 20))
    (tmp_path / "x.safetensors").write_bytes(save(dict(network.state_dict()), metadata={"pruned": lists}))
    with pytest.raises(DamagedFileError, match=rf"kept channels in .*{problem}"):
        load_pruned(network, tmp_path / "x.safetensors")


def test_files_that_are_none(tmp_path: Path) -> None:
    network, thin, kept, _, _ = pruned("LeNet-5-Caffe")
    with pytest.raises(FileNotFoundError, match="no weights file"):
        load_pruned(network, tmp_path / "missing.safetensors")
    with pytest.raises(ValueError, match=r"must end in .safetensors"):
        save_pruned(thin, tmp_path / "thin.pt")
    with pytest.raises(ValueError, match="do not fit the network: conv1 has 3 channels, but the list names 5"):
        save_pruned(thin, tmp_path / "thin.safetensors", {"conv1": range(5)})
    save_pruned(thin, tmp_path / "thin.safetensors", kept)
    whole = (tmp_path / "thin.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-7])
    with pytest.raises(DamagedFileError, match="not a readable safetensors file"):
        load_pruned(network, tmp_path / "cut.safetensors")
    assert set(load_file(tmp_path / "thin.safetensors")) == set(network.state_dict()), "the names of the network"
