"""A full-precision network and its quantised copies: the rows that QuantFace's tables have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from common.experiment.arm import Arm, Phase
from common.experiment.spec import DataFile, Spec, WeightsOf, spec

METHOD = "papers.quantface.method.QuantFace"
NETWORKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mobilefacenet": ("MobileFaceNet", "common.backbones.MobileFaceNet", {"embedding_size": 128}),
    "iresnet18": ("IResNet-18", "common.backbones.IResNet18", {"dropout": 0.4}),
    "iresnet50": ("IResNet-50", "common.backbones.IResNet50", {"dropout": 0.4}),
    "iresnet100": ("IResNet-100", "common.backbones.IResNet100", {}),
}


@dataclass(frozen=True)
class Family:
    """A full-precision arm and what its quantised copies share.

    Attributes:
        prefix: of the arms' names; title: of the network; baseline: the full-precision arm.
        backbone: spec of the network; weights: where the trained ones are.
        faces: name of the fine-tuning data -> (data spec, words for the title); the first is the recogniser's own kind.
        finetune: phases of quantization-aware training; recipe: options of the method that differ from the paper's.
        benchmark: what every arm is measured on.
        reported: the paper's network whose numbers are printed beside ours.
    """

    prefix: str
    title: str
    baseline: Arm
    backbone: Spec
    weights: WeightsOf | DataFile
    faces: dict[str, tuple[Spec, str]]
    finetune: Phase
    recipe: dict[str, Any]
    benchmark: Spec
    reported: str = "mobilefacenet"

    def tuned(self, bits: int, faces: str, granularity: str = "per_channel") -> Arm:
        """The paper's method: quantised, then fine-tuned without labels."""
        words = "" if granularity == "per_channel" else ", one range a layer"
        return self._arm(bits, faces, granularity, "", f"{self.faces[faces][1]}{words}", self.finetune)

    def tuned_with_teacher_statistics(self, bits: int, faces: str) -> Arm:
        """Our ablation: BatchNorm keeps the teacher's statistics instead of following the fine-tuning faces."""
        note = f"{self.faces[faces][1]}, teacher's BatchNorm statistics"
        arm = self._arm(bits, faces, "per_channel", "_teacher_bn", note, self.finetune)
        return replace(arm, method=arm.method.replace(batch_statistics=False))

    def calibrated(self, bits: int, faces: str, granularity: str = "per_channel") -> Arm:
        """Our control: ranges from forward passes, no weight update."""
        words = "" if granularity == "per_channel" else ", one range a layer"
        note = f"calibrated only, {self.faces[faces][1]}{words}"
        return self._arm(bits, faces, granularity, "_ptq", note, Phase("calibrate", compute="calibrate"))

    def _arm(self, bits: int, faces: str, granularity: str, kind: str, note: str, phase: Phase) -> Arm:
        per_layer = "" if granularity == "per_channel" else "_per_layer"
        return Arm(
            name=f"{self.prefix}w{bits}a{bits}_{faces}{kind}{per_layer}",
            title=f"{self.title}W{bits}A{bits}, {note}",
            method=spec(
                METHOD,
                backbone=self.backbone,
                weights=self.weights,
                weight_bits=bits,
                activation_bits=bits,
                weight_granularity=granularity,
                **self.recipe,
            ),
            data=self.faces[faces][0],
            benchmark=self.benchmark,
            phases=(phase,),
            series=f"{self.title}{note}",
            bits=bits,
            reported=self._reported(bits, faces) if (kind, per_layer) == ("", "") else None,
        )

    def _reported(self, bits: int, faces: str) -> str:
        data = "real" if faces == next(iter(self.faces)) else "synthetic"
        return f"{self.reported}_w{bits}a{bits}_{data}"
