"""LightningCLI for one method: train it on your own data, every hyper-parameter on the command line or in YAML."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as L
from pytorch_lightning.cli import LightningCLI

from common.experiment.callbacks import StopAtNonFiniteLoss
from common.experiment.spec import resolve_target
from common.weights import save_weights


class SaveNetwork(L.Callback):
    """Write the trained network to `network.safetensors` in the log folder at the end of the fit."""

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            path = f"{trainer.log_dir or trainer.default_root_dir}/network.safetensors"
            save_weights(pl_module.network, path)
            print(f"trained network: {path}")


def method_cli(target: str, arguments: list[str] | None = None) -> LightningCLI:
    """Run `fit`, `validate`, ... on a method with any LightningDataModule.

    Args:
        target: import path of the LightningModule.
        arguments: command line; default `sys.argv`.
    """
    method: Any = resolve_target(target)
    return LightningCLI(
        method,
        L.LightningDataModule,
        subclass_mode_data=True,
        seed_everything_default=0,
        parser_kwargs={"prog": f"python -m {target.rsplit('.', 2)[0]}"},
        save_config_kwargs={"overwrite": True},
        trainer_defaults={
            "callbacks": [StopAtNonFiniteLoss(), SaveNetwork()],
            "num_sanity_val_steps": 0,
            "plugins": [{"class_path": "common.synchronized_layers.SynchronizedLayers"}],
        },
        args=arguments,
    )
