"""Scores: SNIP and Taylor against official vectors and identities, and that scoring leaves no trace."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.backbones.lenet import LeNet300100
from common.pruning import (
    Masks,
    connection_sensitivity,
    magnitude,
    normalized,
    prunable_weights,
    random_scores,
    select_globally,
    signed_snip,
    snip,
    taylor,
)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 12), nn.Linear(12, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.fc(x.flatten(1))


def official(golden: Path, name: str) -> tuple[nn.Module, list, dict[str, np.ndarray]]:
    vectors = np.load(golden / f"snip/{name}.npz")
    network = Mlp() if "mlp" in name else Cnn()
    prefix = "param_"
    state = {key[len(prefix) :]: torch.from_numpy(vectors[key]) for key in vectors.files if key.startswith(prefix)}
    network.load_state_dict(state)
    return network, [(torch.from_numpy(vectors["x"]), torch.from_numpy(vectors["y"]))], dict(vectors)


CASES = [("snip_mlp_train", True), ("snip_cnn_train", True), ("snip_cnn_eval", False)]


@pytest.mark.parametrize(("name", "training"), CASES)
def test_snip_scores_and_masks_of_its_pytorch_port(golden: Path, name: str, training: bool) -> None:
    network, batches, vectors = official(golden, name)
    weights = prunable_weights(network)
    scores = snip(network, weights, batches, training=training)
    for layer, score in scores.items():
        torch.testing.assert_close(score, torch.from_numpy(vectors[f"score_{layer}"]), rtol=1e-4, atol=1e-8)
    assert sum(float(score.sum()) for score in scores.values()) == pytest.approx(1, abs=1e-5)
    for keep in (0.5, 0.1, 0.05):
        masks = select_globally(scores, 1 - keep, rounding="keep_fewer", minimum=0)
        for layer, mask in masks.items():
            assert torch.equal(mask, torch.from_numpy(vectors[f"mask_keep{keep}_{layer}"]).bool())


@pytest.mark.parametrize(("name", "training"), CASES)
def test_snips_official_rule_ranks_weights_and_biases_together(golden: Path, name: str, training: bool) -> None:
    network, batches, vectors = official(golden, name)
    masks = Masks(network, biases=True)
    scores = snip(network, masks.weights, batches, training=training)
    for layer, score in scores.items():
        torch.testing.assert_close(score, torch.from_numpy(vectors[f"official_score_{layer}"]), rtol=1e-4, atol=1e-8)
    for sparsity in (0.5, 0.9, 0.95):
        chosen = select_globally(scores, sparsity, minimum=0)
        assert sum(int(mask.sum()) for mask in chosen.values()) == int(vectors[f"official_kappa_s{sparsity}"])
        for layer, mask in chosen.items():
            assert torch.equal(mask, torch.from_numpy(vectors[f"official_mask_s{sparsity}_{layer}"]).bool())
        masks.set(chosen)
    assert masks.kept == int(vectors["official_kappa_s0.95"])


def test_synaptic_flows_snip(golden: Path) -> None:
    network, batches, _ = official(golden, "snip_mlp_train")
    vectors = np.load(golden / "snip/synflow_repo_snip_mlp.npz")
    scores = snip(network, prunable_weights(network), batches)
    for layer, score in scores.items():
        torch.testing.assert_close(score, torch.from_numpy(vectors[f"score_{layer}"]), rtol=1e-4, atol=1e-8)
    for density in (0.5, 0.1, 0.05):
        masks = select_globally(scores, 1 - density, rounding="keep_more", minimum=0)  # int((1 - density) m) are pruned
        for layer, mask in masks.items():
            assert torch.equal(mask, torch.from_numpy(vectors[f"mask_density{density}_{layer}"]).bool())


def test_the_saliency_is_the_gradient_of_a_mask() -> None:
    torch.manual_seed(0)
    network = Mlp().double()
    x, y = torch.randn(32, 20, dtype=torch.float64), torch.randint(0, 5, (32,))
    weights = prunable_weights(network)
    ones = {name: torch.ones_like(weight, requires_grad=True) for name, weight in weights.items()}
    values = {name: weight.detach() * ones[name] for name, weight in weights.items()}
    loss = F.cross_entropy(torch.func.functional_call(network, values, (x,)), y)
    by_mask = dict(zip(ones, torch.autograd.grad(loss, list(ones.values())), strict=True))
    got = connection_sensitivity(network, weights, [(x, y)])
    for name, weight in weights.items():
        torch.testing.assert_close(got[name], by_mask[name], rtol=1e-12, atol=0)
        gradient = torch.autograd.grad(F.cross_entropy(network(x), y), weight)[0]
        torch.testing.assert_close(got[name].abs(), (weight * gradient).abs().detach(), rtol=1e-12, atol=0)


def test_a_chain_of_single_weights_scores_one_half_each() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    for first, second in ((0.3, -7.0), (2.0, 0.01)):
        with torch.no_grad():
            network[0].weight.fill_(first)
            network[1].weight.fill_(second)
        loss = lambda net, batch: 0.5 * (net(batch[0]) - batch[1]).square().mean()  # noqa: E731
        batches = [(torch.tensor([[2.0]]), torch.tensor([[1.0]]))]
        scores = snip(network, prunable_weights(network), batches, loss)
        assert [round(float(score.sum()), 5) for score in scores.values()] == [0.5, 0.5]


def test_without_biases_every_layer_has_the_same_sum_of_sensitivities() -> None:
    network = nn.Sequential(*(nn.Linear(12, 12, bias=False) if i % 2 == 0 else nn.ReLU() for i in range(5))).double()
    batches = [(torch.randn(20, 12, dtype=torch.float64), torch.randint(0, 12, (20,)))]
    sums = [float(g.sum()) for g in connection_sensitivity(network, prunable_weights(network), batches).values()]
    np.testing.assert_allclose(sums, sums[0], rtol=1e-10)


def test_pieces_of_a_batch_are_the_batch_for_snip_but_not_for_taylor() -> None:
    network = Mlp().double()
    weights = prunable_weights(network)
    x, y = torch.randn(30, 20, dtype=torch.float64), torch.randint(0, 5, (30,))
    pieces = [(x[:7], y[:7]), (x[7:], y[7:])]
    whole, parts = snip(network, weights, [(x, y)]), snip(network, weights, pieces)
    for name in weights:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-9, atol=1e-15)
    one, two = taylor(network, weights, [pieces[0]]), taylor(network, weights, [pieces[1]])
    mean, total = taylor(network, weights, pieces), taylor(network, weights, pieces, total=True)
    for name, g in connection_sensitivity(network, weights, [pieces[0]]).items():
        torch.testing.assert_close(one[name], g.square())
        torch.testing.assert_close(mean[name], (one[name] + two[name]) / 2)
        torch.testing.assert_close(total[name], one[name] + two[name])
        assert not torch.allclose(mean[name], taylor(network, weights, [(x, y)])[name])


def test_signed_snip_removes_first_what_raises_the_loss() -> None:
    torch.manual_seed(1)
    network = Mlp()
    weights = prunable_weights(network)
    batches = [(torch.randn(40, 20), torch.randint(0, 5, (40,)))]
    g = torch.cat([v.flatten() for v in connection_sensitivity(network, weights, batches).values()])
    scores = signed_snip(network, weights, batches)
    order = torch.cat([v.flatten() for v in scores.values()]).argsort()
    harmful = int((g > 0).sum())
    assert bool((g[order[:harmful]] > 0).all())
    rest = g[order[harmful:]].abs()
    assert bool((rest.diff() >= 0).all()), "then by |g|"
    few = select_globally(scores, 0.01, minimum=0)
    before = F.cross_entropy(network(batches[0][0]), batches[0][1]).item()
    Masks(network).set(few)
    assert F.cross_entropy(network(batches[0][0]), batches[0][1]).item() < before


def test_taylor_scores_survive_a_rescaling_through_relu() -> None:
    torch.manual_seed(0)
    network = Mlp().double()
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.fc1.weight.mul_(3.7)
        other.fc1.bias.mul_(3.7)
        other.fc2.weight.div_(3.7)
    batches = [(torch.randn(20, 20, dtype=torch.float64), torch.randint(0, 5, (20,)))]
    one, two = (taylor(net, prunable_weights(net), batches) for net in (network, other))
    for name in one:
        torch.testing.assert_close(one[name], two[name])
    assert not torch.allclose(
        magnitude(prunable_weights(network))["fc1.weight"], magnitude(prunable_weights(other))["fc1.weight"]
    )


def test_random_scores_depend_on_the_seed_alone() -> None:
    weights = {"a": torch.zeros(3, 4), "b": torch.zeros(5)}
    one = random_scores(weights, 7)
    torch.manual_seed(123)
    assert all(torch.equal(one[name], score) for name, score in random_scores(weights, 7).items())
    assert not torch.equal(one["a"], random_scores(weights, 8)["a"])
    assert normalized({"a": torch.zeros(3)})["a"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("training", [False, True])
def test_scoring_leaves_no_trace(training: bool) -> None:
    network = Cnn()
    network.bn1.eval()
    network.conv1.weight.grad = torch.ones_like(network.conv1.weight)
    before, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    snip(
        network,
        prunable_weights(network),
        [(torch.randn(8, 2, 8, 8), torch.randint(0, 5, (8,)))] * 2,
        training=training,
    )
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert bool((network.conv1.weight.grad == 1).all())
    assert network.fc.weight.grad is None


def test_masked_weights_score_nothing() -> None:
    network = LeNet300100(hidden=(20, 10))
    masks = Masks(network)
    masks.set(select_globally(magnitude(masks.weights), 0.6))
    batches = [(torch.randn(8, 1, 28, 28), torch.randint(0, 10, (8,)))]
    for name, score in snip(network, masks.weights, batches).items():
        assert int(torch.count_nonzero(score[~masks.as_dict()[name]])) == 0


def test_refusals() -> None:
    network = Mlp()
    weights = prunable_weights(network)
    with pytest.raises(ValueError, match="got no batch"):
        snip(network, weights, [])
    with pytest.raises(ValueError, match="loss of a scoring batch is nan"):
        snip(network, weights, [(torch.full((4, 20), torch.nan), torch.zeros(4, dtype=torch.long))])
    network.fc2.weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"fc2.weight cannot be scored: requires_grad is off"):
        snip(network, weights, [(torch.randn(4, 20), torch.zeros(4, dtype=torch.long))])
