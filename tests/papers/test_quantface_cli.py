"""`python -m papers.quantface fit`: the method on somebody's own data, from the command line and from YAML."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from common.backbones import MobileFaceNet
from common.experiment.method_cli import method_cli
from common.quantization import quantize_network, require_observed_ranges
from common.synchronized_layers import SynchronizedLayers
from common.weights import load_weights, save_weights

TARGET = "papers.quantface.method.QuantFace"
NETWORK = {"width": 0.125, "input_size": 32, "blocks": [1, 1, 1], "embedding_size": 16}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Eight images, a csv that names them, and a trained network of one's own."""
    folder = tmp_path / "faces"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["path,label"]
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,person{i % 2}")
    (folder / "images.csv").write_text("\n".join(rows) + "\n")
    save_weights(MobileFaceNet(**NETWORK), tmp_path / "mine.safetensors")  # type: ignore[arg-type]
    return tmp_path


def arguments(own: Path) -> dict:
    return {
        "trainer": {
            "max_epochs": 1, "accelerator": "cpu", "default_root_dir": str(own), "logger": False,
            "enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False,
        },
        "model": {
            "backbone": {"class_path": "common.backbones.MobileFaceNet", "init_args": NETWORK},
            "weights": str(own / "mine.safetensors"), "weight_bits": 4, "activation_bits": 6, "tracked_steps": 1,
        },
        "data": {
            "class_path": "datasets.image_folder.ImageFolder",
            "init_args": {"root": str(own), "height": 32, "width": 32, "batch_size": 4},
        },
    }  # fmt: skip


def test_a_yaml_file_trains_and_leaves_the_network(own: Path) -> None:
    (own / "config.yaml").write_text(yaml.safe_dump(arguments(own)))
    cli = method_cli(TARGET, ["fit", "--config", str(own / "config.yaml")])
    assert cli.model.tracked_steps == 1
    stored = quantize_network(MobileFaceNet(**NETWORK), 4, 6)  # type: ignore[arg-type]
    load_weights(stored, own / "network.safetensors")
    require_observed_ranges(stored)
    start, end = MobileFaceNet(**NETWORK), stored.state_dict()  # type: ignore[arg-type]
    load_weights(start, own / "mine.safetensors")
    assert any(not value.equal(end[name]) for name, value in start.state_dict().items())


def test_a_typo_in_an_option_is_refused(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = arguments(own)
    wrong["model"]["weight_bit"] = 4
    (own / "config.yaml").write_text(yaml.safe_dump(wrong))
    with pytest.raises(SystemExit):
        method_cli(TARGET, ["fit", "--config", str(own / "config.yaml")])
    assert "weight_bit" in capsys.readouterr().err


def test_help_speaks_of_every_hyper_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        method_cli(TARGET, ["fit", "--help"])
    text = capsys.readouterr().out
    for name in ("weight_bits", "activation_bits", "tracked_steps", "lr_drops", "batch_statistics"):
        assert f"--model.{name}" in text
    assert "python -m papers.quantface" in text


def test_several_devices_would_train_with_synchronised_layers(own: Path) -> None:
    (own / "config.yaml").write_text(yaml.safe_dump(arguments(own)))
    cli = method_cli(TARGET, ["fit", "--config", str(own / "config.yaml")])
    assert isinstance(cli.trainer._accelerator_connector._layer_sync, SynchronizedLayers)
