"""common/provenance.py: what is recorded about a result, with and without git, on x86 and ARM."""

import json
import os
import platform
import re
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy
import pytest
import torch

from common import provenance as module
from common.provenance import cpu_int8_instructions, provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_it_is_plain_json_without_the_hosts_name() -> None:
    found = provenance()
    text = json.dumps(found, allow_nan=False)
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
    assert str(Path.home()) not in text
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["versions"]["numpy"] == numpy.__version__
    assert found["versions"]["python"] == platform.python_version()
    assert set(found["versions"]) == {"python", "torch", "pytorch_lightning", "numpy", "fairpress"}
    assert found["threads"] == torch.get_num_threads()
    assert 1 <= found["cpu"]["cores"] <= (os.cpu_count() or 1)


def test_the_date_is_utc_now() -> None:
    date = datetime.fromisoformat(provenance()["date"])
    assert date.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - date) < timedelta(minutes=1)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A file in a fresh checkout with one commit."""
    source = tmp_path / "common" / "provenance.py"
    source.parent.mkdir()
    source.write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "common")
    git(tmp_path, "commit", "-q", "-m", "first")
    return source


def test_git_states(checkout: Path) -> None:
    commit = git(checkout.parent, "rev-parse", "HEAD").strip()
    top = checkout.parents[1]
    assert module._git_state(checkout) == {"commit": commit, "dirty": False}
    (top / "results").mkdir()
    (top / "results" / "demo.json").write_text("{}")
    assert module._git_state(checkout)["dirty"] is False, "results are no code"
    (top / "b").write_text("not tracked, not ignored: it may have been imported")
    assert module._git_state(checkout) == {"commit": commit, "dirty": True}
    (top / "b").unlink()
    checkout.write_text("2")
    assert module._git_state(checkout) == {"commit": commit, "dirty": True}


def test_the_commit_of_another_checkout_is_not_ours(checkout: Path) -> None:
    installed = checkout.parents[1] / ".venv" / "common" / "provenance.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("1")
    assert module._git_state(installed) == {"commit": "unknown", "dirty": None}


def test_a_locked_index_does_not_stop_it(checkout: Path) -> None:
    (checkout.parents[1] / ".git" / "index.lock").touch()
    assert module._git_state(checkout)["dirty"] is False


def test_without_git_or_outside_a_checkout_it_says_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = {"commit": "unknown", "dirty": None}
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert module._git_state(tmp_path / "provenance.py") == unknown
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance()["git"] == unknown


def test_a_missing_distribution_is_unknown() -> None:
    assert module._version("no-such-distribution-of-fairpress") == "unknown"


X86 = "model name\t: Some(R) CPU\nflags\t\t: fpu avx2 avx512_vnni avx_vnni amx_int8 amx_tile\n\nflags\t: none\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd asimddp i8mm\nCPU implementer\t: 0x41\n"
OLD = "processor\t: 0\nmodel name\t: Old CPU\nflags\t\t: fpu sse2 not_avx512_vnni\n"


@pytest.mark.parametrize(
    ("text", "instructions", "model"),
    [
        (X86, ("amx_int8", "avx512_vnni", "avx_vnni"), "Some(R) CPU"),
        (ARM, ("i8mm", "sdot"), None),
        (OLD, (), "Old CPU"),
    ],
)
def test_int8_instructions(
    text: str, instructions: tuple[str, ...], model: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_cpuinfo", lambda: module._parse_cpuinfo(text))
    assert cpu_int8_instructions() == instructions
    assert module.cpu_model() == model or (model is None and module.cpu_model())


def test_a_machine_without_cpuinfo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_cpuinfo", dict)
    assert cpu_int8_instructions() == ()
    assert module.cpu_model()
