"""Runs of a second each, real in every part: rendered faces, a teacher under a margin head, a quantized student; a pruned net."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.experiment.arm import Arm, Phase, Run
from common.experiment.spec import Spec, WeightsOf, spec


def faces() -> Spec:
    return spec(
        "datasets.generated.GeneratedFaces", size=32, identities=16, images_per_identity=4, batch_size=16,
        test_identities_per_group=20, validation_identities_per_group=20, test_images_per_identity=4, pairs_per_fold=4,
    )  # fmt: skip


def network() -> Spec:
    return spec("common.backbones.MobileFaceNet", width=0.125, input_size=32, blocks=(1, 1, 1), embedding_size=16)


def benchmark() -> Spec:
    return spec("common.evaluation.benchmark.VerificationBenchmark", latency_repeats=0)


def teacher(
    epochs: int = 3, lr: float = 0.1, name: str = "fp32", keep: tuple[str, ...] = (), head: str = "ArcFace"
) -> Arm:
    method = spec(
        "common.recognition.FaceRecognizer", backbone=network(), head=head, embedding_size=16, scale=16.0, lr=lr,
        reference_batch=0,
    )  # fmt: skip
    phases = (Phase("train", epochs=epochs),)
    return Arm(name, name, method, faces(), benchmark(), phases, keep=keep)


def student(parent: Arm, epochs: int = 1) -> Arm:
    method = spec(
        "papers.quantface.method.QuantFace", backbone=network(), weights=WeightsOf(parent), weight_bits=6,
        activation_bits=6, tracked_steps=2,
    )  # fmt: skip
    return Arm("w6a6", "W6A6", method, faces(), benchmark(), (Phase("finetune", epochs=epochs),))


def snip_arms() -> list[Arm]:
    """A small network pruned by SNIP, with momenta and the best weights so far in its checkpoints."""
    method = spec(
        "papers.snip.method.SNIP", network=spec("common.backbones.lenet.LeNet300100", hidden=(30, 10), inputs=64),
        sparsity=0.8, lr=0.01, lr_period=100, validate_every=30,
    )  # fmt: skip
    data = spec("datasets.classification.Digits", batch_size=50)
    measured = spec("common.evaluation.classification.ClassificationBenchmark", parts=("test", "train"))
    phases = (Phase("prune", compute="prune"), Phase("train", steps=300))
    return [Arm("snip", "SNIP, 80 %", method, data, measured, phases)]


class Silent:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.ended: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []

    def begin(self, total: int, finished: int) -> None: ...

    def event(self, run: Run, event: dict[str, Any]) -> None:
        self.events.append((run.label, event))

    def end(self, run: Run, status: str, seconds: float) -> None:
        self.ended[run.label] = status
        self.seconds[run.label] = seconds


def run_processes() -> list[int]:
    """Process ids of the runs that are being computed for this process."""
    import multiprocessing.forkserver as forkserver

    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if server is not None and int(fields[1]) == server and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@contextlib.contextmanager
def shared_faces(folder: Path) -> Iterator[None]:
    """Faces are rendered once, into `folder`, for everything inside."""
    before = os.environ.get("FAIRPRESS_CACHE")
    os.environ["FAIRPRESS_CACHE"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["FAIRPRESS_CACHE"]
        else:
            os.environ["FAIRPRESS_CACHE"] = before
