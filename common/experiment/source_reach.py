"""Which modules follow from a class path: reachability by name, through imports, re-exports and names chosen at run time."""

from __future__ import annotations

import re
from collections.abc import Iterable

from common.experiment.source_tree import ALL, PACKAGES, Import, SourceTree

# Neither hashed nor followed: these carry numbers, name them, show them or refuse them, and cannot change one. What they
# read and write is verified by hashes, and what an arm is made of is in the digest that names the run.
NEUTRAL = frozenset(
    {
        "common.experiment.arm",  # plain data; every field that decides a number is in the digest
        "common.experiment.arrays",  # arrays to bytes and back, verified by hash
        "common.experiment.claims",  # what is said of numbers, judged anew at every drawing
        "common.experiment.cluster_environment",  # how the processes of a job find each other
        "common.experiment.launch",  # which run comes next, in which process
        "common.experiment.progress",  # what a person sees meanwhile
        "common.experiment.sources",  # this; it imports the other two
        "common.experiment.store",  # keeps results, verified by hash
        "common.files",  # writes and reads bytes, verified by hash
        "common.locks",  # who may write
        "common.manifest",  # hashes of files
        "common.provenance",  # describes the machine
        "common.storage_errors",  # what a refused write means
        "common.tracking",  # copies curves to wandb
        "datasets.catalog",  # says where data sets come from
        "datasets.catalog_entries",  # says where data sets come from
        "datasets.errors",  # classes of errors
        "datasets.fingerprint",  # names what was read
        "datasets.generated.cache",  # keeps arrays under the hash of what decides them, verified
    }
)
_PATH = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.[^\W\d]\w{{0,99}}){{1,9}}", re.ASCII)


class Reached:
    """What follows from some names: modules as wholes, and names through open packages.

    Args:
        tree: the sources.
        strings: words by which names may be chosen at run time; the strings of every reached module join them.
    """

    def __init__(self, tree: SourceTree, strings: Iterable[str]) -> None:
        self.tree = tree
        self.modules: set[str] = set()
        self.names: dict[str, set[str]] = {}
        self.chosen_at_run_time: set[str] = set()  # open packages from which names are looked up
        self.strings = set(strings)

    def recorded(self) -> list[str]:
        """Modules, and open packages with the names that were followed through them."""
        passed = [
            package + ":" * bool(names) + ",".join(sorted(names))
            for package, names in self.names.items()
            if self.tree.file(package) is not None
        ]
        return sorted([*self.modules, *passed])

    def add_path(self, path: str) -> None:
        """A class path, or a module as a whole."""
        module, rest = self.tree.split(path)
        if rest:
            self.add_name(module, rest[0])
        else:
            self.add_module(module)

    def add_module(self, module: str) -> None:
        """Everything that a module says and imports."""
        if module in NEUTRAL or module in self.modules:
            return
        self._add_packages_above(module)
        if self.tree.is_open(module):
            self.chosen_at_run_time.add(module)
            return
        self.modules.add(module)
        source = self.tree.source(module)
        self.strings |= source.strings
        for one in source.imports:
            self._follow(one, source.attributes, source.bare)
        for text in source.strings:
            if _PATH.fullmatch(text) and self.tree.file(text.rpartition(".")[0]) is not None:
                self.add_path(text)

    def add_name(self, module: str, name: str) -> None:
        """What defines a name that is taken from a module."""
        if module in NEUTRAL or not self.tree.is_open(module):
            self.add_module(module)
            if module not in NEUTRAL and self._is_module(f"{module}.{name}"):
                self.add_module(
                    f"{module}.{name}"
                )  # a package with code of its own: its submodules are not in that code
            return
        if name in self.names.setdefault(module, set()):
            return
        self._add_packages_above(module)
        self.names[module].add(name)
        bound = self.tree.bindings(module).get(name)
        if bound is not None:
            self._follow(bound, frozenset(), frozenset({name}))
        elif self._is_module(f"{module}.{name}"):
            self.add_module(f"{module}.{name}")

    def finish(self) -> None:
        """Settle the names that are chosen at run time, when every string is known."""
        size = -1
        while size != (size := len(self.modules) + sum(map(len, self.names.values()))):
            for package in sorted(self.chosen_at_run_time):
                for name in sorted(self.strings & set(self.tree.bindings(package))):
                    self.add_name(package, name)
            undecided = [package for package in self.chosen_at_run_time if not self.names.get(package)]
            for package in undecided:
                self.names.setdefault(package, set()).add(ALL)
                for name in self.tree.bindings(package) or self.tree.submodules(package):
                    self.add_name(package, name)

    def _follow(self, one: Import, attributes: frozenset[str], bare: frozenset[str]) -> None:
        """One import of a module that uses these names after dots and these by themselves."""
        if one.base.partition(".")[0] not in PACKAGES:
            return
        if one.name == ALL or one.name is None:
            package = one.base
        else:
            package = f"{one.base}.{one.name}"
            if one.name in self.tree.bindings(one.base) or not self._is_package(package):
                self.add_name(one.base, one.name)
                return
            self._note_name(one.base, one.name)
        if not self._is_package(package) or not self.tree.is_open(package):
            self.add_module(package)
            return
        self._add_packages_above(f"{package}.x")
        known = {*self.tree.bindings(package), *self.tree.submodules(package)}
        for name in sorted(self.tree.bindings(package) if one.name == ALL else known & attributes):
            self.add_name(package, name)
        if one.alias.partition(".")[0] in bare:
            self.chosen_at_run_time.add(package)

    def _note_name(self, package: str, name: str) -> None:
        """Note that a name is taken from an open package, without following it."""
        if package not in NEUTRAL and self.tree.is_open(package):
            self.names.setdefault(package, set()).add(name)

    def _add_packages_above(self, module: str) -> None:
        """The `__init__` files that run when a module is imported."""
        words = module.split(".")
        for end in range(1, len(words)):
            package = ".".join(words[:end])
            if self.tree.file(package) is None or package in NEUTRAL:
                continue
            if self.tree.is_open(package):
                self.names.setdefault(package, set())
            else:
                self.add_module(package)

    def _is_module(self, module: str) -> bool:
        return self.tree.file(module) is not None

    def _is_package(self, module: str) -> bool:
        path = self.tree.file(module)
        return path is not None and path.name == "__init__.py"
