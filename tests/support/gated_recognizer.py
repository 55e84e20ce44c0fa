"""A recogniser that tests can hold at a step, and that keeps a list of the steps it has done."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from common.recognition import FaceRecognizer


class GatedRecognizer(FaceRecognizer):
    """`FaceRecognizer` that waits at step GATE_STEP while the folder named by FAIRPRESS_TEST_GATE holds no file `open`.

    Without that variable nothing waits. In the folder: `steps-<rank>`, one line `<seed of the process's first draw> <step>` a step
    done, and `waiting`, while it waits.
    """

    GATE_STEP = 3

    def training_step(self, batch: Any, batch_index: int) -> Any:
        folder = os.environ.get("FAIRPRESS_TEST_GATE")
        if folder:
            with open(Path(folder) / f"steps-{self.global_rank}", "a") as steps:
                steps.write(f"{self.global_step}\n")
            if self.global_step == self.GATE_STEP and not (Path(folder) / "open").exists():
                (Path(folder) / f"waiting-{self.global_rank}").touch()
                while not (Path(folder) / "open").exists():
                    time.sleep(0.02)
        return super().training_step(batch, batch_index)
