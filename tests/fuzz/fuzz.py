"""Throw altered files at every parser: `python tests/fuzz/fuzz.py [--parser NAME] [--inputs 100000] [--engine mutation]`.

Every parser runs in a process of its own. Inputs that break a promise (`fuzz_probe`) are kept below `.store/fuzz` and
printed; one that is understood and fixed goes to `tests/fuzz/corpus/<parser>/`, where the test suite reads it for ever.
With atheris (`pip install -e '.[fuzz]'`) the inputs follow the code that they reach, else they are changed at random.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import mmap
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
for folder in (str(HERE), str(REPOSITORY)):
    if folder not in sys.path:
        sys.path.insert(0, folder)
os.environ.setdefault("OMP_NUM_THREADS", "1")
INSTRUMENTED = ["datasets", "common", "papers", "tomllib", "pickle", "pickletools", "zipfile", "PIL"]
CURRENT_BYTES = 1 << 20  # room for the input that is being read, for when the process dies of it


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    if options.worker:
        return _work(options)
    names = options.parser or _names()
    failed = 0
    print(
        f"{'parser':<20}{'engine':<9}{'inputs':>8}{'read':>8}{'refused':>8}{'s':>7}{'slowest':>9}{'peak MB':>9}  findings"
    )
    for name in names:
        failed += _run_in_process(name, options)
    return 1 if failed else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parser", action="append", help="one parser (may be given several times); all by default")
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs a parser")
    parser.add_argument("--engine", choices=("atheris", "mutation"), default=_default_engine())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--findings", type=Path, default=REPOSITORY / ".store" / "fuzz", help="folder for what was found"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _default_engine() -> str:
    return "atheris" if importlib.util.find_spec("atheris") else "mutation"


def _names() -> list[str]:
    from fuzz_targets import TARGETS

    return list(TARGETS)


def _run_in_process(name: str, options: argparse.Namespace) -> int:
    """Fuzz one parser; returns the number of different findings."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=shared))
    findings = options.findings / name
    command = [sys.executable, str(HERE / "fuzz.py"), "--worker", str(folder), "--parser", name]
    command += ["--inputs", str(options.inputs), "--engine", options.engine, "--seed", str(options.seed)]
    start = time.monotonic()
    with (folder / "log").open("wb") as log:
        status = subprocess.run([*command, "--findings", str(findings)], stdout=log, stderr=log).returncode
    report = folder / "report.json"
    found: dict[str, Any] = (
        json.loads(report.read_text()) if report.exists() else {"inputs": 0, "outcomes": {}, "findings": {}}
    )
    if status != 0:  # a crash of the interpreter itself
        findings.mkdir(parents=True, exist_ok=True)
        current = (folder / "current").read_bytes()
        data = current[8 : 8 + int.from_bytes(current[:8], "little")]
        (findings / "crash").write_bytes(data)
        log_end = (folder / "log").read_text(errors="replace")[-2000:]
        found["findings"][f"the process ended with status {status}"] = f"{findings / 'crash'}\n{log_end}"
    read = found["outcomes"].get("read", 0)
    print(
        f"{name:<20}{options.engine:<9}{found['inputs']:>8}{read:>8}{found['inputs'] - read:>8}"
        f"{time.monotonic() - start:>7.0f}{found.get('slowest', 0):>9.3f}{found.get('peak', 0) / 1e6:>9.1f}"
        f"  {len(found['findings']) or ''}"
    )
    for text, path in found["findings"].items():
        print(f"    {text}\n        {path}")
    sys.stdout.flush()
    shutil.rmtree(folder)
    return len(found["findings"])


class Campaign:
    """Counts inputs, keeps what breaks a promise (once for every reason), writes the report."""

    def __init__(self, options: argparse.Namespace) -> None:
        from fuzz_probe import Probe
        from fuzz_targets import TARGETS

        self.folder, self.findings = Path(options.worker), options.findings
        self.target = TARGETS[options.parser[0]]
        self.wanted, self.done = options.inputs, 0
        self.found: dict[str, str] = {}
        self.reasons: set[str] = set()
        with (self.folder / "current").open("wb") as file:
            file.truncate(CURRENT_BYTES)
        self._file = (self.folder / "current").open("r+b")
        self.current = mmap.mmap(self._file.fileno(), CURRENT_BYTES)
        self.probe = Probe(self.target, self.folder)

    def check(self, data: bytes) -> None:
        """Let the parser read one input."""
        from fuzz_probe import Violation

        self.current[:8] = len(data).to_bytes(8, "little")
        self.current[8 : 8 + len(data)] = data
        self.done += 1
        try:
            self.probe.check(data)
        except Violation as violation:
            if violation.reason not in self.reasons:
                self.reasons.add(violation.reason)
                self._keep(data, str(violation))

    def _keep(self, data: bytes, text: str) -> None:
        self.findings.mkdir(parents=True, exist_ok=True)
        path = self.findings / hashlib.sha256(data).hexdigest()[:12]
        path.write_bytes(data)
        self.found[text] = str(path)

    def report(self) -> None:
        """Write what was counted and found, for the process that started this one."""
        content = {
            "inputs": self.done,
            "outcomes": self.probe.outcomes,
            "findings": self.found,
            "slowest": self.probe.slowest,
            "peak": self.probe.peak,
        }
        (self.folder / "report.json").write_text(json.dumps(content))


def _work(options: argparse.Namespace) -> int:
    warnings.simplefilter("ignore")
    if options.engine == "atheris":
        return _atheris(options)
    from fuzz_mutate import changed
    from fuzz_probe import watching

    campaign = Campaign(options)
    seeds, generator = list(campaign.target.inputs), random.Random(options.seed)
    with watching():
        for data in seeds:
            campaign.check(data)
        while campaign.done < campaign.wanted:
            campaign.check(changed(generator.choice(seeds), generator, campaign.target.words, seeds))
    campaign.report()
    return 0


def _atheris(options: argparse.Namespace) -> int:
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        import fuzz_targets  # noqa: F401
    from fuzz_mutate import LARGEST, changed
    from fuzz_probe import watching

    campaign = Campaign(options)
    seeds = list(campaign.target.inputs)
    corpus = campaign.folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(seeds):
        (corpus / str(number)).write_bytes(data)

    def one(data: bytes) -> None:
        campaign.check(data)
        if campaign.done >= campaign.wanted:
            campaign.report()
            sys.stdout.flush()
            os._exit(0)  # libFuzzer has no other way out

    def mutate(data: bytes, largest: int, seed: int) -> bytes:
        generator = random.Random(seed)
        if generator.random() < 0.4:
            return atheris.Mutate(data, largest)
        return changed(bytes(data), generator, campaign.target.words, seeds)[:largest]

    flags = [
        f"-seed={options.seed + 1}",
        f"-max_len={LARGEST}",
        "-timeout=120",
        "-rss_limit_mb=0",
        "-len_control=0",
        "-verbosity=0",
    ]
    with watching():
        atheris.Setup(
            [sys.argv[0], *flags, f"-artifact_prefix={campaign.folder}/", str(corpus)], one, custom_mutator=mutate
        )
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
