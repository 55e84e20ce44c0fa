"""Altered files, thrown at every parser: a few hundred each, and every one that ever did harm.

The local run, `make fuzz`, tries a hundred thousand and more; what it finds is fixed and kept in `corpus/<parser>/`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz_mutate import CHANGES, change
from fuzz_probe import Probe, watching
from fuzz_targets import TARGETS
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"
INPUTS = 100
EDIT = st.tuples(st.integers(0, len(CHANGES) - 1), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1))


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Probe]:
    """The probes that were made already: making one takes longer than using it."""
    return {}


@pytest.fixture
def probe(
    request: pytest.FixtureRequest, probes: dict[str, Probe], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Probe]:
    """The probe of the parser that the test is about, watching."""
    name = request.param
    if name not in probes:
        probes[name] = Probe(TARGETS[name], tmp_path_factory.mktemp(name))
    with watching():
        yield probes[name]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("probe", TARGETS, indirect=True)
def test_altered_files(probe: Probe) -> None:
    seeds = probe.target.inputs

    @settings(
        max_examples=INPUTS, derandomize=True, database=None, deadline=None, phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(seed=st.sampled_from(seeds), edits=st.lists(EDIT, min_size=1, max_size=4))
    def check(seed: bytes, edits: list[tuple[int, int, int]]) -> None:
        for edit in edits:
            seed = change(seed, edit, probe.target.words, seeds)
        probe.check(seed)

    check()


def kept() -> list[tuple[str, Path]]:
    """Inputs that broke a promise once, with the parser that they broke."""
    return [(path.parent.name, path) for path in sorted(CORPUS.glob("*/*"))]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("probe", "path"),
    kept(),
    indirect=["probe"],
    ids=lambda value: value.name if isinstance(value, Path) else str(value),
)
def test_what_once_did_harm(probe: Probe, path: Path) -> None:
    probe.check(path.read_bytes(), trace=True)


def test_every_input_is_kept_for_a_parser() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(TARGETS)
