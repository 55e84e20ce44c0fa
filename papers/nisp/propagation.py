"""Neuron importance score propagation: from the scores of one layer's inputs to those of all layers before it.

Between two layers the scores follow s_l = |W^(l+1)|^T s_(l+1) (Yu et al. 2018). Over a whole network this is |J|^T s of the
network that is left when weights are made absolute and activations dropped. So the network itself is run in that form, and
one backward pass of automatic differentiation is the sweep. Its rules:

    linear, convolution      |W|, no bias; back through a convolution: the transposed convolution with |W|
    ReLU, tanh, dropout, ... identity (their Lipschitz constant is common to the layer)
    max-pooling              matrix of ones: every input of a window could be the maximum and inherits its score
    average pooling, mean    1 / k^2, what they are
    batch normalisation      identity, or |gamma| / sigma of each channel
    addition, concatenation  what they are: both summands inherit the score, a block's input gets skip + main
    flatten, slice, pad      what they are

Any other operation is refused: no score is better than a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Norms = Literal["identity", "scale"]

CONVOLUTIONS = {torch.conv1d: F.conv1d, torch.conv2d: F.conv2d, torch.conv3d: F.conv3d}
IDENTITIES = frozenset(
    {
        "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "elu", "elu_", "hardtanh", "sigmoid", "tanh",
        "dropout", "dropout2d", "local_response_norm", "contiguous", "clone",
    }
)  # fmt: skip
LINEAR = frozenset(
    {
        "add", "add_", "__add__", "__radd__", "__iadd__", "cat", "concat", "mean", "sum", "flatten", "view", "reshape",
        "permute", "transpose", "squeeze", "unsqueeze", "expand", "__getitem__", "pad", "narrow", "chunk", "split",
        "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    }
)  # fmt: skip
QUESTIONS = frozenset({"__get__", "size", "dim", "numel", "is_floating_point", "__len__"})


class PropagationError(ValueError):
    """Scores cannot be propagated through this network; the message says where and what to do."""


def propagate(
    network: nn.Module,
    example: Tensor,
    importance: Tensor,
    response_layer: str,
    kept: Mapping[str, Tensor] | None = None,
    norms: Norms = "identity",
) -> dict[str, Tensor]:
    """Score maps of the outputs of all layers, and of the input, from the scores of one layer's input.

    Args:
        network: images [1, C, H, W] -> anything. example: one image; its values do not matter.
        importance: s_n of the final responses, [d], not negative.
        response_layer: convolution or linear layer whose input the final responses are: the classifier.
        kept: bool [channels] by layer: scores of the others are set to 0 before they are propagated further.
        norms: rule for batch normalisation, which a pruned convolution's own one is part of.

    Returns:
        By layer, in the order in which the network runs them, float64 of the shape of its output without the batch; before
        `kept` is applied. `""` is the network's input. Layers behind the final responses are not there.

    Raises:
        PropagationError: an operation without a rule, the response layer is not used, or another number of responses.
    """
    if bool((importance < 0).any()) or not bool(torch.isfinite(importance).all()):
        raise PropagationError("the importance of a final response is negative, NaN or infinite")
    modes = {module: module.training for module in network.modules()}
    run = _Absolute(network, response_layer, kept or {}, norms)
    image = torch.zeros_like(example[:1], dtype=torch.float64).requires_grad_(True)
    try:
        network.eval()
        with torch.enable_grad(), run:
            network(image)
    finally:
        for module, training in modes.items():
            module.training = training
    if run.responses is None:
        raise PropagationError(f"the network has no layer {response_layer!r}, or does not use it")
    if run.responses.numel() != importance.numel():
        raise PropagationError(
            f"{response_layer} takes {run.responses.numel()} numbers, but {importance.numel()} are scored"
        )
    points = {"": [image], **run.outputs}
    flat = [tensor for tensors in points.values() for tensor in tensors]
    scores = importance.to(image).reshape(run.responses.shape)
    found = iter(torch.autograd.grad(run.responses, flat, scores, allow_unused=True))
    maps = {
        name: [score for score in (next(found) for _ in tensors) if score is not None]
        for name, tensors in points.items()
    }
    return {name: torch.stack(scores).sum(0)[0] for name, scores in maps.items() if scores}


def channel_scores(score_map: Tensor) -> Tensor:
    """Scores of the channels, [C]: the sum over all positions of a map [C, ...]."""
    return score_map.flatten(1).sum(1) if score_map.ndim > 1 else score_map


class _Absolute(TorchFunctionMode):
    """Runs a network with absolute weights and without activations, and remembers what goes in and out of its layers."""

    def __init__(self, network: nn.Module, response_layer: str, kept: Mapping[str, Tensor], norms: Norms) -> None:
        super().__init__()
        if norms not in ("identity", "scale"):
            raise ValueError(f"norms is {norms!r}, but must be identity or scale")
        self.names = {
            id(module.weight): name
            for name, module in network.named_modules()
            if isinstance(module, nn.modules.conv._ConvNd | nn.Linear)
        }
        self.response_layer, self.kept, self.norms = response_layer, kept, norms
        self.outputs: dict[str, list[Tensor]] = {}
        self.responses: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if func is F.linear:
            return self._layer(F.linear, *args, **kwargs)
        if func in CONVOLUTIONS:
            return self._layer(CONVOLUTIONS[func], *args, **kwargs)
        if name == "batch_norm":
            return self._batch_norm(*args, **kwargs)
        if name in ("max_pool1d", "max_pool2d"):
            return _window_sums(name, *args, **kwargs)
        if name in IDENTITIES:
            return args[0] if args else kwargs["input"]
        if name in LINEAR or name in QUESTIONS:
            return func(*args, **kwargs)
        raise PropagationError(
            f"no rule says how scores pass {name}(): rules are known for linear layers, convolutions, pooling, batch "
            "normalisation, activations, addition and concatenation"
        )

    def _layer(
        self,
        function: Callable[..., Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *rest: Any,
        **options: Any,
    ) -> Tensor:
        name = self.names.get(id(weight))
        if name is None:
            raise PropagationError(f"{function.__name__}() is called with a weight that belongs to no layer")
        if name == self.response_layer:
            self.responses = x
        y = function(x, weight.detach().abs().to(x), None, *rest, **options)
        if name in self.kept:
            y = y * self.kept[name].to(y).reshape(-1, *[1] * (y.ndim - 2))
        self.outputs.setdefault(name, []).append(y)
        return y

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if self.norms == "identity":
            return x
        if running_var is None:
            raise PropagationError(
                "a batch normalisation without running statistics has no sigma; use norms='identity'"
            )
        factor = (running_var.detach().to(x) + eps).rsqrt()
        if weight is not None:
            factor = factor * weight.detach().abs().to(x)
        return x * factor.reshape(-1, *[1] * (x.ndim - 2))


def _window_sums(
    name: str,
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """Max-pooling as a matrix of ones."""
    dilations = (dilation,) if isinstance(dilation, int) else tuple(dilation)
    if return_indices or any(step != 1 for step in dilations):
        raise PropagationError("max-pooling with indices or dilation has no rule")
    if name == "max_pool1d":
        size = kernel_size if isinstance(kernel_size, int) else kernel_size[0]
        return F.avg_pool1d(x, kernel_size, stride, padding, ceil_mode) * size
    return F.avg_pool2d(x, kernel_size, stride, padding, ceil_mode, True, 1)
