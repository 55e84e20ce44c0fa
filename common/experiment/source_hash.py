"""A hash of what a Python source says, whatever it looks like: comments, docstrings, formatting and type hints do not count.

Everything that is hashed comes from the syntax tree by rules of our own, so that the hash is the same under every version of
Python. Imports nothing but the standard library.
"""

from __future__ import annotations

import ast
import gc
import hashlib
from collections.abc import Iterator

HASH_LENGTH = 16
# Fields of syntax nodes that decide nothing: how a name is used follows from where it stands.
_IGNORED = {"ctx", "kind", "type_comment", "type_ignores", "simple"}
# Words of a source that reads its own type hints: there they count.
_HINT_READERS = (b"get_type_hints", b"__annotations__", b"torch.jit", b"singledispatch", b"get_annotations")
_FIELDS: dict[type, tuple[str, ...]] = {}


def parse(source: bytes) -> ast.Module:
    """The syntax tree of a source.

    Raises:
        SyntaxError: it is no Python, whatever the parser itself says of it (NUL bytes, wrong encoding, nested too deeply).
    """
    collecting = gc.isenabled()
    gc.disable()  # a tree is many small objects and no garbage: half of the time would go to looking for some
    try:
        return ast.parse(source)
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(str(error)) from error
    finally:
        if collecting:
            gc.enable()


def source_hash(source: bytes, tree: ast.Module | None = None) -> str:
    """16 hex digits over the meaning of a source; `tree` is its syntax tree where the caller has it.

    Raises:
        SyntaxError: it is no Python.
    """
    out: list[str] = []
    try:
        _block((tree or parse(source)).body, out, any(word in source for word in _HINT_READERS), in_class=False)
    except RecursionError as error:
        raise SyntaxError("nested too deeply") from error
    return hashlib.sha256("\0".join(out).encode("utf-8", "surrogatepass")).hexdigest()[:HASH_LENGTH]


def is_type_checking(node: ast.stmt) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`, whose body never runs."""
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return (test.id if isinstance(test, ast.Name) else getattr(test, "attr", "")) == "TYPE_CHECKING"


def running(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a block that do something: no docstrings, no `pass`, no imports for the type checker."""
    for node in body:
        if is_type_checking(node):
            yield from running(node.orelse)  # type: ignore[attr-defined]
        elif not isinstance(node, ast.Pass) and not (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            yield node


def _block(body: list[ast.stmt], out: list[str], hints: bool, in_class: bool) -> None:
    out.append("{")
    for node in running(body):
        if isinstance(node, ast.AnnAssign) and not in_class and not hints:
            # In a class the annotation makes a field of a dataclass; elsewhere nobody sees it.
            value = node.value or ast.Name("unset")
            _node(ast.Assign([node.target], value), out, hints)
        else:
            _node(node, out, hints)
    out.append("}")


def _node(node: ast.AST, out: list[str], hints: bool) -> None:
    kind = type(node)
    if kind is ast.Constant:
        value = node.value  # type: ignore[attr-defined]
        out.append(hex(value) if type(value) is int else repr(value))  # the decimal form of a huge number is refused
        return
    if kind is ast.Name:
        out.append("$" + node.id)  # type: ignore[attr-defined]
        return
    fields = _FIELDS.get(kind)
    if fields is None:
        fields = _FIELDS[kind] = tuple(name for name in kind._fields if name not in _IGNORED)
    out.append("(" + kind.__name__)
    for name in fields:
        value = getattr(node, name, None)
        if value is None or value == []:
            continue  # so that a field which a later Python adds changes nothing where it is not used
        if not hints and (name == "returns" or (name == "annotation" and kind is ast.arg)):
            continue
        out.append(":" + name)
        if isinstance(value, ast.AST):
            _node(value, out, hints)
        elif not isinstance(value, list):
            out.append(repr(value))
        elif isinstance(value[0], ast.stmt):
            _block(value, out, hints, in_class=kind is ast.ClassDef)
        else:
            for item in value:
                if isinstance(item, ast.AST):
                    _node(item, out, hints)
                else:
                    out.append(repr(item))
    out.append(")")
