"""What to build, written as data: a class path and its arguments, before anything is imported.

A `Spec` is to an object what a recipe is to a cake. It can be printed, hashed and pasted into a LightningCLI YAML file (the same
`class_path` / `init_args` form), and it is built only inside the process that runs it. Three placeholders stand for values that
only the machine knows: `DataRoot` and `DataFile` (where the user's data lie) and `WeightsOf` (what an earlier run has trained).
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import sha256_of

if TYPE_CHECKING:
    from common.experiment.arm import Arm


class SpecError(ValueError):
    """A spec names a class or an argument that does not exist."""


@dataclass(frozen=True)
class Spec:
    """A class (or function) and the arguments to call it with.

    Attributes:
        target: import path, e.g. `"common.backbones.MobileFaceNet"`.
        options: the arguments that differ from the defaults; values are plain, or specs, or placeholders.
    """

    target: str
    options: tuple[tuple[str, Any], ...] = ()

    def replace(self, **changes: Any) -> Spec:
        """The same spec with some arguments changed."""
        return spec(self.target, **{**dict(self.options), **changes})


@dataclass(frozen=True)
class DataRoot:
    """A folder below the user's `DATA=` root."""

    below: str = ""


@dataclass(frozen=True)
class DataFile:
    """A file below the user's `DATA=` root; its content (SHA-256) is part of what a run's digest hashes."""

    path: str


@dataclass(frozen=True)
class WeightsOf:
    """The weights that another arm kept, at the same seed.

    Attributes:
        arm: the arm whose run has to be finished first.
        kept: which of its files: `"network"` is the trained network; an arm may keep more (`Arm.keep`).
    """

    arm: Arm
    kept: str = "network"


@dataclass(frozen=True)
class Place:
    """Where this machine keeps things: resolves the placeholders of specs.

    Attributes:
        data: the user's data root, or None when none was given.
        weights: gives the path of a parent's weights file from its arm and the name of what it kept.
        digest: gives the digest of a parent's run from its arm.
    """

    data: Path | None = None
    weights: Callable[[Arm, str], Path] | None = field(default=None, compare=False)
    digest: Callable[[Arm], str] | None = field(default=None, compare=False)

    def below_data(self, relative: str) -> Path:
        """Absolute path of something below the data root.

        Raises:
            SpecError: no data root was given.
        """
        if self.data is None:
            raise SpecError(
                f"this scale reads '{relative or 'a data set'}' below a data root and none was given: "
                "call it with DATA=/path/to/data (python -m datasets says what belongs there)"
            )
        return self.data / relative


def spec(target: str, **options: Any) -> Spec:
    """Write down a class path and its arguments: `spec("common.backbones.MobileFaceNet", width=0.5)`."""
    return Spec(target, tuple(sorted(options.items())))


def resolve_target(target: str) -> Callable[..., Any]:
    """Import what a class path names.

    Raises:
        SpecError: the module or the name in it does not exist.
    """
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SpecError(f"'{target}' cannot be imported: {error}") from error
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, dir(module), 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise SpecError(f"'{module_name}' has no '{name}'{hint}")
    found: Callable[..., Any] = getattr(module, name)
    return found


def build(value: Any, place: Place) -> Any:
    """Build what a spec describes; placeholders become paths, containers are walked, plain values stay."""
    if isinstance(value, Spec):
        options = _bound(value)
        return resolve_target(value.target)(**{name: build(option, place) for name, option in options.items()})
    if isinstance(value, DataRoot):
        return str(place.below_data(value.below))
    if isinstance(value, DataFile):
        return str(place.below_data(value.path))
    if isinstance(value, WeightsOf):
        if place.weights is None:
            raise SpecError(f"the weights of arm '{value.arm.name}' are needed, but nothing here can look them up")
        return str(place.weights(value.arm, value.kept))
    if isinstance(value, (list, tuple)):
        return type(value)(build(item, place) for item in value)
    if isinstance(value, dict):
        return {key: build(item, place) for key, item in value.items()}
    return value


def canonical(value: Any, place: Place) -> Any:
    """The form that a digest hashes: JSON values with every default spelled out, so that a changed default is a changed run."""
    if isinstance(value, Spec):
        bound = {**_defaults(value.target), **_bound(value)}
        return {
            "class_path": value.target,
            "init_args": {name: canonical(option, place) for name, option in sorted(bound.items())},
        }
    if isinstance(value, DataRoot):
        return {"data_root": value.below}
    if isinstance(value, DataFile):
        return {"data_file": value.path, "sha256": file_digest(place.below_data(value.path))}
    if isinstance(value, WeightsOf):
        if place.digest is None:
            raise SpecError(f"the digest of arm '{value.arm.name}' is needed, but nothing here can compute it")
        return {"weights_of": place.digest(value.arm), "kept": value.kept}
    if isinstance(value, (list, tuple)):
        return [canonical(item, place) for item in value]
    if isinstance(value, dict):
        return {str(key): canonical(item, place) for key, item in sorted(value.items())}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise SpecError(f"a {type(value).__name__} cannot be part of an arm: only plain values, specs and placeholders can")


def parents(value: Any) -> Iterator[Arm]:
    """Every arm whose weights a spec (or anything in it) asks for, in order of appearance."""
    if isinstance(value, Spec):
        for _, option in value.options:
            yield from parents(option)
    elif isinstance(value, WeightsOf):
        yield value.arm
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from parents(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from parents(item)


@functools.lru_cache(maxsize=256)
def file_digest(path: Path) -> str:
    """SHA-256 of a data file, computed once a process."""
    if not path.is_file():
        raise SpecError(f"{path} is missing: python -m datasets says where it comes from and where it belongs")
    return sha256_of(path)


@functools.lru_cache(maxsize=512)
def _signature(target: str) -> inspect.Signature:
    return inspect.signature(resolve_target(target))


def _defaults(target: str) -> dict[str, Any]:
    parameters = _signature(target).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _bound(value: Spec) -> dict[str, Any]:
    """The options of a spec, checked against the signature of what it names."""
    known = _signature(value.target).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    options = dict(value.options)
    for name in options:
        if name not in known and not open_ended:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; it takes {', '.join(known)}"
            raise SpecError(f"{value.target} takes no argument '{name}'{hint}")
    missing = [
        p.name
        for p in known.values()
        if p.default is inspect.Parameter.empty
        and p.name not in options
        and p.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    ]
    if missing:
        raise SpecError(f"{value.target} needs {', '.join(missing)}")
    return options
