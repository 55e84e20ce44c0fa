"""A recogniser that a test can hold at a step, and that keeps a list of the steps it has done."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from common.recognition import FaceRecognizer

PATIENCE = 1800.0  # the test may have been killed


class GatedRecognizer(FaceRecognizer):
    """`FaceRecognizer` that waits before step GATE_STEP until the folder named by FAIRPRESS_TEST_GATE holds a file `open`.

    Without that variable nothing waits. Of several processes the first one waits, and the others for it in the midst of the step.
    The folder receives `steps-<rank>`, a line with its number for every step begun, and `waiting-<process>`.
    """

    GATE_STEP = 3

    def training_step(self, batch: Any, batch_index: int) -> Any:
        if folder := os.environ.get("FAIRPRESS_TEST_GATE"):
            gate = Path(folder) / "open"
            if self.global_step == self.GATE_STEP and self.global_rank == 0 and not gate.exists():
                (Path(folder) / f"waiting-{os.getpid()}").touch()
                until = time.monotonic() + PATIENCE
                while not gate.exists():
                    assert time.monotonic() < until, "nobody opens the gate"
                    time.sleep(0.02)
            with open(Path(folder) / f"steps-{self.global_rank}", "a") as steps:
                steps.write(f"{self.global_step}\n")
        return super().training_step(batch, batch_index)
