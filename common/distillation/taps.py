"""Features of any layer of any network, by forward hooks: no network is rewritten."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class FeatureTaps:
    """Outputs of modules named by their path, kept at every forward pass until they are taken.

        taps = FeatureTaps(network, ("stages.1", "stages.2"))
        logits = network(x)
        features = taps.take()

    Args:
        network: the network; it is left as it is.
        paths: of modules, as in `network.named_modules()`.

    Raises:
        ValueError: no path, or one that the network does not have.
    """

    def __init__(self, network: nn.Module, paths: Sequence[str]) -> None:
        modules = dict(network.named_modules())
        if not paths:
            raise ValueError("no module was named to take features from")
        for path in paths:
            if path not in modules:
                near = difflib.get_close_matches(path, modules, n=3, cutoff=0.3) or list(modules)[1:4]
                raise ValueError(f"the network has no module '{path}'; it has, for example, {', '.join(near)}")
        self.paths = tuple(paths)
        self._kept: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = [
            modules[path].register_forward_hook(self._keeper(path)) for path in paths
        ]

    def _keeper(self, path: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise TypeError(
                    f"the module '{path}' gives a {type(output).__name__}, not a tensor; name one inside it"
                )
            self._kept[path] = output

        return keep

    def take(self) -> dict[str, Tensor]:
        """The outputs of the last forward pass by path, in the order of `paths`; afterwards none is kept.

        What was computed under inference mode comes back as an ordinary tensor, which a loss may save for backward. Of a module
        that ran several times in one pass it is the last output.

        Raises:
            RuntimeError: a tapped module has not run since features were last taken.
        """
        missing = [path for path in self.paths if path not in self._kept]
        if missing:
            raise RuntimeError(f"the module '{missing[0]}' has not run since features were last taken: forward first")
        kept, self._kept = self._kept, {}
        return {path: kept[path].clone() if kept[path].is_inference() else kept[path] for path in self.paths}

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._kept = [], {}

    def __enter__(self) -> FeatureTaps:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
