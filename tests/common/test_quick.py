"""What saves a run time changes nothing of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import hashlib, sys, tempfile
from pathlib import Path
import pytorch_lightning as L
from pytorch_lightning.loops import training_epoch_loop
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.trainer import call
from tiny_runs import snip_arms
from common.experiment.arm import plan_runs
from common.experiment.phases import Machine, Work
from common.experiment.quick import quicken
from common.experiment.run import _build
from common.experiment.spec import Place

def patched():
    asked = training_epoch_loop.is_param_in_hook_signature
    return PassThroughProfiler.profile, L.LightningModule.__setattr__, asked, call._call_callback_hooks

def fit():
    (run,) = plan_runs(snip_arms(), (0,))
    data, method = _build(run, Place())
    work = Work(run, method, data, Path(tempfile.mkdtemp(dir=sys.argv[1])), Machine(checkpoint_every=0.1), lambda event: None)
    for index in range(2):
        work.do(index)
    tensors = [tensor.contiguous().numpy().tobytes() for tensor in method.state_dict().values()]
    return hashlib.sha256(b"".join(tensors)).hexdigest()

before, plain = patched(), fit()
quicken()
print(sum(a is not b for a, b in zip(before, patched())), plain == fit())
"""


@pytest.mark.slow
def test_a_quick_fit_ends_with_the_same_bits(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    done = subprocess.run(  # in a process of its own, which stays quick
        [sys.executable, "-c", CODE, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.stdout.split() == ["4", "True"], done.stderr  # all four are still where Lightning looks for them
