"""common/tracking.py: off, offline (read back from wandb's own file), and harmless when wandb fails."""

import json
import os
import select
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.tracking import TrackingError, tracker

ROOT = Path(__file__).parents[2]
CONFIG = {"bits": 6, "lr": 0.1, "backbone": {"class_path": "MobileFaceNet", "init_args": {"width": 0.5}}}

# One process imports Lightning once and forks a worker for every run, as the suite does; each has its own folder.
WORKERS = """
import logging, multiprocessing, os, signal, subprocess, sys, time, warnings
warnings.simplefilter("ignore")
import torch, pytorch_lightning as pl
from torch.utils.data import DataLoader
from common.tracking import tracker

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
config = {"bits": 6, "lr": 0.1, "backbone": {"class_path": "MobileFaceNet", "init_args": {"width": 0.5}}}

class Method(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"not_in_the_digest": 1})
        self.layer = torch.nn.Linear(1, 1)
    def training_step(self, batch, index):
        self.log("loss", float(index) + 0.5)
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

def fit(logger):
    pl.Trainer(max_epochs=1, logger=logger, log_every_n_steps=1, accelerator="cpu", enable_checkpointing=False,
               enable_progress_bar=False, enable_model_summary=False).fit(Method(), DataLoader(torch.ones(4, 1)))

def whole(folder, seed=0, mode="offline", before_fit=lambda: None):
    with tracker(mode, "quantface", "demo", folder) as tracking:
        tracking.start_run("w6a6", seed, config, "0123456789abcdef")
        before_fit()
        fit(tracking.logger)
        tracking.log_summary({"lfw": {"accuracy": 97.5, "undefined": None}})
        tracking.log_table(["arm", "accuracy", "reported"], [["fp32", 99.5, None], ["w6a6", 97.5, "(99.3)"]])
        tracking.log_plot(sys.argv[1] + "/curve.svg")

def other_seed(folder):
    whole(folder, seed=1)

def disabled(folder):
    sys.modules["wandb"] = None
    whole(folder, mode="disabled")

def killed(folder):
    def kill_wandb():
        command = ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())]
        children = subprocess.run(command, capture_output=True, text=True)
        victims = [int(line.split()[0]) for line in children.stdout.splitlines() if "wandb-core" in line]
        assert victims, children.stdout
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        time.sleep(0.2)
    whole(folder, before_fit=kill_wandb)

def refused(folder):
    with tracker("offline", "quantface", "demo", folder) as tracking:
        tracking.start_run("table", None, {}, "0")
        tracking.log_plot("no such file.svg")
        tracking.log_plot("no such file.png")
        tracking.start_run("table", None, {}, "0")
        tracking.log_table(["a"], [[1]])

def failed(folder):
    with tracker("offline", "quantface", "demo", folder) as tracking:
        tracking.start_run("w6a6", 0, {}, "0")
        raise SystemExit(3)

def not_started(folder):
    import wandb
    def refuse(**settings):
        raise wandb.errors.CommError("the server\\nis on fire")
    wandb.init = refuse
    with tracker("online", "quantface", "demo", folder) as tracking:
        tracking.start_run("w6a6", 0, {}, "0")
        assert tracking.logger is False
        tracking.log_summary({"accuracy": 1.0})

def work(scenario):
    folder = f"{sys.argv[1]}/{scenario.__name__}"
    os.dup2(os.open(folder + ".stderr", os.O_WRONLY | os.O_CREAT), 2)
    scenario(folder)

workers = []
for scenario in (whole, other_seed, disabled, killed, refused, failed, not_started):
    workers.append(multiprocessing.get_context("fork").Process(target=work, args=(scenario,), name=scenario.__name__))
    workers[-1].start()
for worker in workers:
    worker.join()
    print(worker.name, worker.exitcode)
assert "wandb" not in sys.modules, "the parent imported wandb, and its workers would share one service"

# A process that ends as usual: wandb sends what it has to send at exit.
with tracker("offline", "quantface", "demo", sys.argv[1] + "/parent") as tracking:
    tracking.start_run("table", None, {}, "0")
    tracking.log_table(["a"], [[1]])
"""


def read_wandb(path: Path) -> list[Any]:
    """The records of a .wandb file: a 7-byte header, then a LevelDB log (32 KiB blocks of chunks)."""
    from wandb.proto.wandb_internal_pb2 import Record

    raw, at, pending, records = path.read_bytes(), 7, b"", []
    assert raw[:4] == b":W&B"
    while at + 7 <= len(raw):
        left = 32768 - at % 32768
        if left < 7:  # no room for another chunk in this block
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", raw[at : at + 7])
        pending += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last chunk of one
            records.append(Record.FromString(pending))
            pending = b""
    return records


def items(entries: Any) -> dict[str, Any]:
    return {entry.key or ".".join(entry.nested_key): json.loads(entry.value_json) for entry in entries}


@dataclass
class Left:
    """What the scenarios left behind."""

    folder: Path
    home: Path
    called: bool  # somebody connected to wandb's server
    exits: dict[str, str]  # exit code of each scenario's worker

    def records(self, scenario: str) -> list[Any]:
        (file,) = (self.folder / scenario).glob("wandb/offline-run-*/run-*.wandb")
        return read_wandb(file)

    def of_kind(self, scenario: str, kind: str) -> list[Any]:
        return [getattr(r, kind) for r in self.records(scenario) if r.WhichOneof("record_type") == kind]

    def said(self, scenario: str) -> list[str]:
        """What the scenario's worker wrote on its standard error."""
        return (self.folder / f"{scenario}.stderr").read_text().splitlines()


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    folder, home = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("home")
    server = socket.create_server(("127.0.0.1", 0))  # where wandb's server would be; the system keeps who calls
    url = f"http://127.0.0.1:{server.getsockname()[1]}"
    (folder / "curve.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "XDG_"))}
    # WANDB_MODE: what the caller's shell says must not override the mode that was asked for.
    environment |= {"WANDB_BASE_URL": url, "WANDB_MODE": "disabled", "HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WORKERS, str(folder)]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    called = bool(select.select([server], [], [], 0)[0])
    server.close()
    return Left(folder, home, called, dict(line.split() for line in done.stdout.splitlines()))


def test_each_run_has_its_own_name_in_the_papers_group(left: Left) -> None:
    for scenario, name in (("whole", "w6a6/seed0"), ("other_seed", "w6a6/seed1")):
        run = left.of_kind(scenario, "run")[0]
        assert run.display_name == name
        assert (run.project, run.run_group, run.job_type, list(run.tags)) == (
            "fairpress",
            "quantface",
            "w6a6",
            ["demo"],
        )
        assert (left.exits[scenario], left.said(scenario)) == ("0", []), "a run that is tracked says nothing of it"


def test_the_config_is_what_the_digest_hashes(left: Left) -> None:
    config: dict[str, Any] = {}
    for record in left.records("whole"):
        config |= items(record.run.config.update) | items(record.config.update)
    ours = {key: value for key, value in config.items() if not key.startswith("_wandb")}
    assert ours == {**CONFIG, "digest": "0123456789abcdef"}


def test_curves_come_back_with_their_steps(left: Left) -> None:
    history = [items(record.item) for record in left.of_kind("whole", "history")]
    curve = [(h["trainer/global_step"], h["loss"]) for h in history if "loss" in h]
    assert curve == [(0, 0.5), (1, 1.5), (2, 2.5), (3, 3.5)]


def test_summary_table_and_plot_come_back(left: Left) -> None:
    summary: dict[str, Any] = {}
    for record in left.of_kind("whole", "summary"):
        summary |= items(record.update)
    assert summary["lfw.accuracy"] == 97.5
    assert "lfw.undefined" not in summary
    assert (summary["table._type"], summary["table.nrows"], summary["table.ncols"]) == ("table-file", 2, 3)
    (files,) = (left.folder / "whole").glob("wandb/offline-run-*/files")
    table = json.loads((files / summary["table.path"]).read_text())
    assert table["columns"] == ["arm", "accuracy", "reported"]
    assert table["data"] == [["fp32", 99.5, None], ["w6a6", 97.5, "(99.3)"]]
    assert summary["curve._type"] == "html-file"
    assert "<svg" in (files / summary["curve.path"]).read_text()


def test_offline_contacts_nobody(left: Left) -> None:
    assert not left.called


def test_offline_says_nothing_of_the_machine(left: Left) -> None:
    assert {record.host for record in left.of_kind("whole", "run")} == {"undisclosed"}
    assert left.of_kind("whole", "stats") == []
    (files,) = (left.folder / "whole").glob("wandb/offline-run-*/files")
    assert {entry.name for entry in files.iterdir()} == {"media"}, "no metadata, no requirements, no code"


def test_nothing_is_written_outside_the_given_folder(left: Left) -> None:
    assert [path for path in left.home.rglob("*") if "wandb" in path.name] == []


def test_disabled_needs_no_wandb_and_writes_nothing(left: Left) -> None:
    assert left.exits["disabled"] == "0", left.said("disabled")
    assert not (left.folder / "disabled").exists()


def test_wandb_killed_in_the_middle_loses_only_the_tracking(left: Left) -> None:
    assert left.exits["killed"] == "0", left.said("killed")
    (warning,) = [line for line in left.said("killed") if "wandb" in line]
    assert "; run w6a6/seed0 goes on without tracking (" in warning


def test_what_wandb_refuses_is_one_warning_and_the_next_run_is_tracked(left: Left) -> None:
    assert left.exits["refused"] == "0", left.said("refused")
    (warning,) = left.said("refused")
    assert "wandb could not log the plot 'no such file.svg'; run table goes on without tracking (FileNot" in warning
    assert len(list((left.folder / "refused").glob("wandb/offline-run-*"))) == 2
    assert len(list((left.folder / "refused").glob("wandb/offline-run-*/files/media/table/*.json"))) == 1


def test_a_run_left_by_an_error_is_marked_as_failed(left: Left) -> None:
    assert (left.exits["failed"], left.said("failed")) == ("3", [])
    assert [end.exit_code for end in left.of_kind("failed", "exit")] == [1]
    assert [end.exit_code for end in left.of_kind("whole", "exit")] == [0]


def test_disabled_imports_nothing_heavy() -> None:
    code = "import sys; from common.tracking import tracker; tracker('disabled', 'a', 'demo', '.'); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "pytorch_lightning", "wandb"} & set(out.stdout.split())


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_asking_for_a_missing_wandb_says_what_to_do(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrackingError, match=f"WANDB={mode} needs wandb.*`pip install wandb`, or WANDB=disabled"):
        tracker(mode, "quantface", "demo", ".")


def test_a_folder_called_wandb_is_not_wandb(tmp_path: Path) -> None:
    """wandb leaves such a folder in the checkout, which Python would import as an empty namespace package."""
    (tmp_path / "wandb").mkdir()
    code = (
        "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p] + [sys.argv[1], sys.argv[2]];"
        "from common.tracking import tracker; tracker('offline', 'a', 'demo', '.')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(ROOT)], capture_output=True, text=True)
    assert "`pip install wandb`" in done.stderr


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(
        TrackingError, match="WANDB='on' is no tracking mode; expected one of disabled, offline, online"
    ):
        tracker("on", "quantface", "demo", ".")


def test_a_failing_start_is_one_warning(left: Left) -> None:
    assert left.exits["not_started"] == "0"
    assert left.said("not_started") == [
        "wandb could not start; run w6a6/seed0 goes on without tracking (CommError: the server is on fire)"
    ]
