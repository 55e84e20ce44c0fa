"""The modules of a checkout as sources: where they lie, what they import, what they say. Nothing is imported or run.

A package whose `__init__` only passes names on (imports, `__all__`, a docstring) is *open*: users are followed through it to
the modules that define the names. One that holds code of its own is a module as any other. Standard library only.
"""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from common.experiment.source_hash import HASH_LENGTH, parse, running, source_hash

PACKAGES = ("common", "datasets", "papers")
ALL = "*"


@dataclass(frozen=True)
class Import:
    """One imported name: `from base import name as alias`; name None: `import base`."""

    base: str
    name: str | None
    alias: str


@dataclass(frozen=True)
class Source:
    """What one file says.

    Attributes:
        open: whether it is a package that has no code but imports.
        imports: of our packages and others, at any level, but not those for the type checker.
        attributes: every name that stands after a dot. bare: every name that stands for itself.
        strings: every string that could be a name or a path of names.
    """

    open: bool
    imports: tuple[Import, ...]
    attributes: frozenset[str]
    bare: frozenset[str]
    strings: frozenset[str]


class SourceTree:
    """The modules below a root, by their names.

    Args:
        root: folder that holds `common`, `datasets` and `papers`.
    """

    # One entry a state of a file (path, time, size), kept for the life of the process.
    _sources: ClassVar[dict[tuple[str, int, int], Source]] = {}
    _hashes: ClassVar[dict[tuple[str, int, int], str]] = {}
    _bytes: ClassVar[dict[tuple[str, int, int], str]] = {}

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, Path | None] = {}
        self._listed: dict[Path, frozenset[str]] = {}

    def file(self, module: str) -> Path | None:
        """File of a module or package, or None. Upper and lower case differ, whatever the file system thinks."""
        if module not in self._files:
            base = self.root.joinpath(*module.split("."))
            choices = (base / "__init__.py", base.with_name(base.name + ".py"))
            self._files[module] = next((path for path in choices if self._exists(path)), None)
        return self._files[module]

    def _exists(self, path: Path) -> bool:
        folder = path.parent
        if folder not in self._listed:
            known = folder == self.root or self._is_listed_folder(folder)
            self._listed[folder] = frozenset(os.listdir(folder)) if known else frozenset()
        return path.name in self._listed[folder] and path.is_file()

    def _is_listed_folder(self, folder: Path) -> bool:
        if folder.parent != self.root and not self._is_listed_folder(folder.parent):
            return False
        return folder.is_dir() and folder.name in os.listdir(folder.parent)

    def is_open(self, module: str) -> bool:
        """Whether a name is followed through a module: packages that only pass names on, and folders without `__init__`."""
        path = self.file(module)
        return path is None or (path.name == "__init__.py" and self.source(module).open)

    def source(self, module: str) -> Source:
        """What a module says.

        Raises:
            LookupError: there is no such module. SyntaxError: it is no Python.
        """
        path, state = self._state(module)
        if state not in self._sources:
            text = path.read_bytes()
            tree = parse(text)
            self._sources[state] = read_source(tree, module, path.name == "__init__.py")
            self._hashes[state] = source_hash(text, tree)
        return self._sources[state]

    def bytes_hash(self, key: str) -> str:
        """16 hex digits over the bytes of a module's file, `key` being what `hash_of` takes.

        Raises:
            LookupError: there is no such module.
        """
        path, state = self._state(key.partition(":")[0])
        if state not in self._bytes:
            self._bytes[state] = hashlib.sha256(path.read_bytes()).hexdigest()[:HASH_LENGTH]
        return self._bytes[state]

    def _hash(self, module: str) -> str:
        path, state = self._state(module)
        if state not in self._hashes:
            self._hashes[state] = source_hash(path.read_bytes())
        return self._hashes[state]

    def _state(self, module: str) -> tuple[Path, tuple[str, int, int]]:
        path = self.file(module)
        if path is None:
            raise LookupError(f"there is no module {module} below {self.root}")
        found = path.stat()
        return path, (str(path), found.st_mtime_ns, found.st_size)

    def split(self, path: str) -> tuple[str, list[str]]:
        """`common.heads.ArcFace` -> the module `common.heads` and `["ArcFace"]`.

        Raises:
            LookupError: no part of the path is a module of ours.
        """
        words = path.split(".")
        for end in range(len(words), 0, -1):
            module = ".".join(words[:end])
            if words[0] in PACKAGES and self.file(module) is not None:
                return module, words[end:]
        raise LookupError(f"'{path}' names no module of {', '.join(PACKAGES)}")

    def bindings(self, package: str) -> dict[str, Import]:
        """What the `__init__` of an open package imports, by the names it gives it."""
        if self.file(package) is None:
            return {}
        return {one.alias: one for one in self.source(package).imports if one.name is not None or "." not in one.alias}

    def submodules(self, package: str) -> list[str]:
        """Names of the modules in a package's folder."""
        folder = self.root.joinpath(*package.split("."))
        names = {name.removesuffix(".py") for name in os.listdir(folder)} if folder.is_dir() else set()
        names.discard("__init__")
        return sorted(name for name in names if name.isidentifier() and self.file(f"{package}.{name}") is not None)

    def hash_of(self, key: str) -> str | None:
        """Hash of a module, or of where an open package takes the names of `package:name,name` from; None if there is none."""
        module, _, names = key.partition(":")
        path = self.file(module)
        if path is None:
            return None
        if not self.is_open(module):
            return None if names else self._hash(module)
        found = self.bindings(module)
        origins = [self._origin(module, name, found) for name in names.split(",") if name]
        return hashlib.sha256("\0".join(origins).encode()).hexdigest()[:HASH_LENGTH]

    def _origin(self, package: str, name: str, found: dict[str, Import]) -> str:
        if name == ALL:
            return f"* = {sorted(found) or self.submodules(package)}"
        if name in found:
            return f"{name} = {found[name].base}:{found[name].name}"
        return f"{name} = {package}.{name}" if self.file(f"{package}.{name}") is not None else f"{name} = nothing"


def read_source(tree: ast.Module, module: str, is_package: bool) -> Source:
    """Take a source apart."""
    imports: list[Import] = []
    attributes: set[str] = set()
    bare: set[str] = set()
    strings: set[str] = set()
    bases: set[int] = set()
    package = module if is_package else module.rpartition(".")[0]
    for node in _walk(tree.body):
        if isinstance(node, ast.ImportFrom):
            base = _absolute(package, node)
            imports += [Import(base, alias.name, alias.asname or alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            imports += [Import(alias.name, None, alias.asname or alias.name) for alias in node.names]
        elif isinstance(node, ast.Attribute):
            attributes.add(node.attr)
            bases.add(id(node.value))
        elif isinstance(node, ast.Name) and id(node) not in bases:
            bare.add(node.id)
        elif isinstance(node, ast.Constant) and _is_path(node.value):
            strings.add(str(node.value))
    return Source(
        open=is_package and all(_passes_on(node) for node in running(tree.body)),
        imports=tuple(imports),
        attributes=frozenset(attributes),
        bare=frozenset(bare),
        strings=frozenset(strings),
    )


def _is_path(value: object) -> bool:
    """Whether a constant could be a name, or names with dots between them."""
    return isinstance(value, str) and len(value) < 200 and value.replace(".", "_").isidentifier()


def _walk(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Every node that can run, parents before children; docstrings and imports for the type checker are left out."""
    waiting: list[ast.AST] = list(running(body))
    while waiting:
        node = waiting.pop()
        yield node
        for _, value in ast.iter_fields(node):
            if isinstance(value, ast.AST):
                waiting.append(value)
            elif isinstance(value, list) and value:
                block = running(value) if isinstance(value[0], ast.stmt) else value
                waiting += [item for item in block if isinstance(item, ast.AST)]


def _passes_on(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return not any(alias.name == ALL for alias in node.names)
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return all(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


def _absolute(package: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    above = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])
