"""Source fingerprints: what makes a run stale, and what does not."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.experiment import source_tree, sources
from common.experiment.arm import Arm, Phase, Run
from common.experiment.source_hash import source_hash
from common.experiment.source_reach import NEUTRAL
from common.experiment.source_tree import SourceTree
from common.experiment.sources import (
    EDITED,
    UNRECORDED,
    bytes_of,
    changed_modules,
    describe_changes,
    sources_of,
    sources_of_run,
    with_parents,
)
from common.experiment.spec import WeightsOf, spec
from papers.quantface.table import plan

ROOT = Path(__file__).resolve().parents[2]

CHECKOUT = {
    "common/__init__.py": "",
    "common/heads/__init__.py": """
        from common.heads.margins import ArcFace, CosFace
        from common.heads.sphere import SphereFace
        __all__ = ["ArcFace", "CosFace", "SphereFace"]
        """,
    "common/heads/margins.py": "from common.heads.base import Head\nclass ArcFace(Head): pass\nclass CosFace(Head): pass\n",
    "common/heads/sphere.py": "class SphereFace: pass\n",
    "common/heads/base.py": "class Head: pass\n",
    "common/late.py": "answer = 1\n",
    "common/hints.py": "Number = float\n",
    "common/files.py": "def write(): pass\n",
    "common/named.py": "class Named: pass\n",
    "common/recognition.py": """
        from __future__ import annotations
        from typing import TYPE_CHECKING
        from common import files, heads
        if TYPE_CHECKING:
            from common.hints import Number

        class Recognizer:
            def __init__(self, head: str = "ArcFace") -> None:
                self.head = getattr(heads, head)

            def step(self) -> Number:
                from .late import answer
                return answer
        """,
    "datasets/__init__.py": "",
    "papers/__init__.py": "",
    "papers/one/__init__.py": "",
    "papers/one/method.py": """
        from common.recognition import Recognizer
        class One(Recognizer):
            other = 'common.named.Named'
        """,
    "papers/two/__init__.py": "",
    "papers/two/method.py": "from common.heads import SphereFace\nclass Two(SphereFace): pass\n",
}  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in CHECKOUT.items():
        write(tmp_path, name, text)
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = text.strip("\n").splitlines() if "\n        " in text else [text]
    path.write_text("\n".join(line.removeprefix("        ") for line in lines) + "\n")


def edit(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


ONE = "papers.one.method.One"


# --- what is reached -----------------------------------------------------------------------------------------------


def test_names_are_followed_to_the_modules_that_define_them(checkout: Path) -> None:
    found = sources_of([ONE], root=checkout)
    assert list(found) == sorted(found)
    assert set(found) == {
        "common", "common.heads.base", "common.heads.margins", "common.heads:ArcFace", "common.late", "common.named",
        "common.recognition", "common:files,heads", "papers", "papers.one", "papers.one.method",
    } - {"common"}  # fmt: skip
    assert all(len(value) == 16 and int(value, 16) >= 0 for value in found.values())


def test_a_name_chosen_at_run_time_is_found_among_the_strings_of_the_specs(checkout: Path) -> None:
    assert "common.heads.sphere" not in sources_of([ONE], root=checkout)
    assert "common.heads.sphere" in sources_of([ONE], strings=["SphereFace"], root=checkout)


def test_a_name_chosen_at_run_time_that_no_string_names_could_be_any(checkout: Path) -> None:
    edit(checkout, "common/recognition.py", '"ArcFace"', "'Arc' + 'Face'")
    found = sources_of([ONE], root=checkout)
    assert "common.heads.sphere" in found
    write(checkout, "common/heads/new.py", "class New: pass")
    edit(
        checkout,
        "common/heads/__init__.py",
        "from common.heads.sphere",
        "from common.heads.new import New\nfrom common.heads.sphere",
    )
    assert changed_modules(found, root=checkout) == ["common.heads"]


def test_relative_imports_star_imports_and_aliases_are_followed(checkout: Path) -> None:
    write(checkout, "papers/two/more.py", "value = 1")
    for line in (
        "from . import more",
        "from .more import *",
        "import papers.two.more",
        "import papers.two.more as m",
        "from papers.two import more as m",
        "if True:\n    from papers.two.more import value",
        "try:\n    from ..two.more import value\nexcept ImportError:\n    value = 2",
    ):
        write(checkout, "papers/two/method.py", line + "\nclass Two: pass")
        assert "papers.two.more" in sources_of(["papers.two.method.Two"], root=checkout), line


def test_a_package_with_code_of_its_own_is_a_module(checkout: Path) -> None:
    edit(checkout, "common/heads/__init__.py", "__all__", "def pick(): return ArcFace\n__all__")
    found = sources_of(["papers.two.method.Two"], root=checkout)
    assert {"common.heads", "common.heads.margins", "common.heads.sphere"} <= set(found)
    edit(checkout, "common/heads/__init__.py", "return ArcFace", "return CosFace")
    assert changed_modules(found, root=checkout) == ["common.heads"]


def test_a_target_that_does_not_exist_is_said(checkout: Path) -> None:
    with pytest.raises(LookupError, match=r"papers\.three"):
        sources_of(["papers.three.method.Three"], root=checkout / "papers")
    assert sources_of(["torch.nn.Linear"], root=checkout) == {}


# --- what makes a run stale ----------------------------------------------------------------------------------------

SAME = {
    "comment": ("papers/one/method.py", "class One", "# a comment\nclass One"),
    "docstring": ("papers/one/method.py", "    other", '    """New words."""\n    other'),
    "formatting": ("papers/one/method.py", "(Recognizer)", "(\n    Recognizer,\n)"),
    "quotes": ("papers/one/method.py", "'common.named.Named'", '"common.named.Named"'),
    "type hint": ("common/recognition.py", "-> None", "-> object"),
    "import for the type checker": ("common/recognition.py", "import Number", "import Number, Other"),
    "module for the type checker": ("common/hints.py", "float", "int"),
    "another paper": ("papers/two/method.py", "pass", "x = 1"),
    "another head": ("common/heads/sphere.py", "pass", "x = 1"),
    "neutral module": ("common/files.py", "pass", "return 1"),
    "a head more": ("common/heads/__init__.py", "import SphereFace", "import SphereFace, SphereFace2"),
}
OTHER = {
    "statement": ("papers/one/method.py", "'common.named.Named'", "'common.named.Other'", "papers.one.method"),
    "number": ("common/late.py", "1", "2", "common.late"),
    "a float for a whole number": ("common/late.py", "1", "1.0", "common.late"),
    "class that a string names": ("common/named.py", "pass", "x = 1", "common.named"),
    "base class two files away": ("common/heads/base.py", "pass", "x = 1", "common.heads.base"),
    "name": ("common/heads/margins.py", "class CosFace", "class CosineFace", "common.heads.margins"),
    "default": ("common/recognition.py", '"ArcFace"', '"CosFace"', "common.recognition"),
    "where a name comes from": ("common/heads/__init__.py", "margins import ArcFace", "sphere import ArcFace", "common.heads"),
    "code in a package": ("common/__init__.py", "", "import torch\ntorch.set_flush_denormal(True)", "common"),
    "damage": ("common/late.py", "answer = 1", "answer = (", "common.late"),
    "nul": ("common/late.py", "answer = 1", "answer = 1\0", "common.late"),
}  # fmt: skip


@pytest.mark.parametrize("what", SAME)
def test_what_cannot_change_a_number_leaves_results_fresh(what: str, checkout: Path) -> None:
    recorded = sources_of([ONE], root=checkout)
    edit(checkout, *SAME[what])
    assert changed_modules(recorded, root=checkout) == []


@pytest.mark.parametrize("what", OTHER)
def test_what_can_change_a_number_makes_results_stale(what: str, checkout: Path) -> None:
    recorded = sources_of([ONE], root=checkout)
    *how, module = OTHER[what]
    edit(checkout, *how)
    assert changed_modules(recorded, root=checkout) == [module]


def test_files_of_known_bytes_need_not_be_parsed(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = sources_of([ONE], root=checkout)
    recorded["common.gone"] = "0" * 16
    known = bytes_of(recorded, root=checkout)
    assert known.keys() == recorded.keys() - {"common.gone"}
    edit(checkout, "common/late.py", "1", "1  # a comment")
    edit(checkout, "common/named.py", "pass", "x = 1")
    (checkout / "common/heads/base.py").unlink()
    changed = changed_modules(recorded, root=checkout, unchanged=known)
    assert changed == changed_modules(recorded, root=checkout) == ["common.gone", "common.heads.base", "common.named"]
    parsed: list[bytes] = []
    monkeypatch.setattr(source_tree, "source_hash", lambda source, tree=None: parsed.append(source))
    edit(checkout, "common/late.py", "1", "2")
    changed_modules(recorded, root=checkout, unchanged=known)
    assert [text.strip() for text in parsed] == [b"answer = 2  # a comment"]


def test_a_renamed_or_deleted_module_counts(checkout: Path) -> None:
    recorded = sources_of([ONE], root=checkout)
    (checkout / "common/late.py").rename(checkout / "common/Late.py")
    assert changed_modules(recorded, root=checkout) == ["common.late"]
    shutil.rmtree(checkout / "common")
    assert "common.recognition" in changed_modules(recorded, root=checkout)


def test_a_new_head_in_a_new_file_touches_nobody(checkout: Path) -> None:
    recorded = sources_of([ONE], root=checkout)
    write(checkout, "common/heads/new.py", "class New: pass")
    edit(checkout, "common/heads/__init__.py", "__all__ = [", "from common.heads.new import New\n__all__ = ['New', ")
    assert changed_modules(recorded, root=checkout) == []


def test_a_source_edited_after_the_process_started_is_marked(checkout: Path) -> None:
    """Its old content may be what is loaded: neither hash would be true."""
    recorded = sources_of([ONE], root=checkout)
    (checkout / "common/late.py").write_text("answer = 1  # a comment\n")
    assert sources_of([ONE], root=checkout) == recorded
    (checkout / "common/late.py").write_text("answer = 2\n")
    again = sources_of([ONE], root=checkout)
    assert again == {**recorded, "common.late": EDITED}
    assert changed_modules(again, root=checkout) == ["common.late"]


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd", "/etc/passwd", "common/../common.cost", "common..cost", "common.cost.", "os", "common\0", "",
        "common.cost\n", "papers.*", "common.heads:", "common.heads:../x", "common:" + "a," * 9000 + "a", "common." + "a" * 9999,
        "common.ſize", 7, None,
    ],
)  # fmt: skip
def test_a_hostile_name_is_changed_and_nothing_else_happens(name: Any) -> None:
    (answer,) = changed_modules({name: "0" * 16})
    assert len(answer) < 80
    assert answer.isprintable()


@pytest.mark.parametrize("recorded", [{}, None, [], "common.cost", 3])
def test_nothing_recorded_is_never_fresh(recorded: Any) -> None:
    assert changed_modules(recorded) == [UNRECORDED]


@pytest.mark.parametrize("value", [None, 0, "", "0" * 16, "x" * 10**6, [], {}])
def test_a_hash_that_is_none_is_changed(value: Any) -> None:
    assert changed_modules({"common.cost": value, "common.nothing": value}) == ["common.cost", "common.nothing"]


def test_the_child_of_a_stale_result_is_stale(checkout: Path) -> None:
    """It is new, and what it started from is not: computed while `STALE=keep` kept its parent."""
    parent = sources_of(["common.recognition.Recognizer"], root=checkout)
    edit(checkout, "common/late.py", "1", "2")
    child = {**sources_of([ONE], root=checkout), "common.late": SourceTree(checkout).hash_of("common.late")}
    assert changed_modules(child, root=checkout) == []
    assert changed_modules(with_parents(child, [parent]), root=checkout) == ["common.late"]
    assert changed_modules(with_parents(child, [child, child]), root=checkout) == []
    for nothing in ({}, None):
        assert changed_modules(with_parents(child, [nothing]), root=checkout) == [UNRECORDED]


def test_changes_in_words() -> None:
    assert describe_changes([]) == ""
    assert describe_changes(["common.cost"]) == "common.cost changed"
    assert describe_changes(["common.cost", "common.files", "papers"]) == "common.cost and 2 more changed"
    assert describe_changes([UNRECORDED]) == "made before sources were recorded"


# --- the meaning of a source ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x: int = 1"),
        ("def f(a, b=1): return a", 'def f(a: int, b: float = 1) -> str:\n    "doc"\n    return a'),
        ("class A: pass", 'class A:\n    """doc"""'),
        ("x = 'ab'", 'x = "a" "b"'),
        ("x = 0x10", "x = 16"),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    x = 1", "x = 1"),
        ("def f():\n    if typing.TYPE_CHECKING:\n        import a\n    return 1", "def f(): return 1"),
    ],
)
def test_the_same_meaning_has_one_hash(one: str, other: str) -> None:
    assert source_hash(one.encode()) == source_hash(other.encode())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = True"),
        ("x = 1", "x = 1.0"),
        ("x = '1'", "x = 1"),
        ("x = 'a'", "x = a"),
        ("f(a, b)", "f((a, b))"),
        ("f(*a)", "f(**a)"),
        ("f(a, k=b)", "f(a, b)"),
        ("[a, [b]]", "[a, b]"),
        ("if a:\n    b\nc()", "if a:\n    b\n    c()"),
        ("if a:\n    b()\nelse:\n    c()", "if a:\n    b()\nc()"),
        ("class A:\n    x: int = 1", "class A:\n    x = 1"),
        ("class A:\n    x: int", "class A:\n    y: int"),
        ("class A:\n    x: ClassVar[int] = 1", "class A:\n    x: int = 1"),
        ("def f(a): pass", "def f(*, a): pass"),
        ("def f(a, *, b=1, c): pass", "def f(a, *, b, c=1): pass"),
        ("{**a, 'b': 1}", "{'b': 1, **a}"),
        ("f'{a}'", "f'{a!r}'"),
        ("@torch.jit.script\ndef f(a: int): pass", "@torch.jit.script\ndef f(a: float): pass"),
        ("async def f(): pass", "def f(): pass"),
        ("x = 0xFFFFFFFFFFFFFFFF" + "F" * 5000, "x = 0xFFFFFFFFFFFFFFFF" + "F" * 5001),
    ],
)
def test_another_meaning_has_another_hash(one: str, other: str) -> None:
    assert source_hash(one.encode()) != source_hash(other.encode())


@pytest.mark.parametrize(
    "text", [b"x = (", b"\xff\xfe", b"x\0", b"# coding: nothing\n", b"(" * 5000, b"-" * 60000 + b"1"]
)
def test_what_is_no_python_is_refused_in_one_way(text: bytes) -> None:
    with pytest.raises(SyntaxError):
        source_hash(text)


def test_hashes_do_not_change_with_the_version_of_python() -> None:
    """Frozen: the rules are ours, so that a newer Python does not make every result stale."""
    text = b"from a import b\n@c\nclass D(b):\n    x: int = 1\n    def f(self, y=2, *z, **w):\n        return [y for y in z]\n"
    assert source_hash(text) == "033001feb90d07de"


# --- this checkout -------------------------------------------------------------------------------------------------


def run_of(arm: Arm) -> Run:
    return Run(arm, 0, "0" * 16, tuple(run_of(parent) for parent in arm.parents))


def test_the_sources_of_quantface_are_its_method_its_data_and_the_engine() -> None:
    found = sources_of_run(run_of(plan("smoke").arms[1]))
    expected = {
        "papers.quantface.method", "common.recognition", "common.heads.margins", "common.weights",
        "common.heads:ArcFace,CosFace,NormalizedSoftmax",  # ArcFace by name, all three by the head that is shared out
        "common.backbones.mobilefacenet", "common.quantization.observers", "common.evaluation.benchmark", "common.cost",
        "datasets.generated.render", "datasets.memory", "common.experiment.run", "common.experiment.phases",
        "common.experiment.callbacks", "common.experiment.spec", "common.schedules",
    }  # fmt: skip
    assert expected <= set(found)
    foreign = (
        "common.heads.adaptive",
        "common.backbones.iresnet",
        "datasets.lfw",
        "papers.quantface.table",
        "papers.registry",
    )
    assert not set(foreign) & set(found)
    assert not NEUTRAL & set(found)
    assert changed_modules(found) == []


def test_the_sources_of_a_run_hold_those_of_its_parents() -> None:
    network = spec("common.backbones.IResNet18")
    benchmark = spec("common.evaluation.benchmark.VerificationBenchmark")
    data = spec("datasets.lfw.LFW", root="x")
    teacher = Arm(
        "t", "t", spec("common.recognition.FaceRecognizer", backbone=network, head="CurricularFace"), data, benchmark
    )
    student = Arm(
        "s", "s", spec("papers.quantface.method.QuantFace", weights=[{"x": (WeightsOf(teacher),)}]), data, benchmark,
        phases=(Phase("x", steps=1),),
    )  # fmt: skip
    found = sources_of_run(run_of(student))
    assert {"common.heads.adaptive", "common.backbones.iresnet", "papers.quantface.method", "datasets.lfw"} <= set(
        found
    )


def test_neutral_modules_exist() -> None:
    for module in NEUTRAL:
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), f"{module} is gone: take it out of NEUTRAL"


def at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
            continue  # only when the file is the program
        yield node
        for name in ("body", "orelse", "finalbody"):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from at_import(getattr(node, name, []))


def test_no_code_runs_at_import() -> None:
    """A fingerprint follows definitions: what a module that is not followed does to others at import would be missed."""
    for package in ("common", "datasets", "papers"):
        for path in (ROOT / package).rglob("*.py"):
            for node in at_import(ast.parse(path.read_bytes()).body):
                called = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
                targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
                reached = any(isinstance(target, ast.Attribute) for target in targets)
                if path.name != "__main__.py":
                    runs = called or reached
                    assert not runs, f"{path}:{node.lineno} runs at import: put it into a function"


def test_no_data_file_decides_numbers() -> None:
    """Only Python is fingerprinted: a table of numbers in another format would be missed."""
    known = {".py", ".md", ".typed", ".jpg"}
    for package in ("common", "datasets", "papers"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.name != "paper.toml":
                assert path.suffix in known, f"{path}: let source_tree hash it when it decides numbers"


@pytest.mark.speed
def test_fingerprints_are_fast_and_need_nothing_installed() -> None:
    code = (
        "import sys, time\n"
        "from common.experiment.sources import sources_of_run, changed_modules\n"
        "from common.experiment.arm import Run\n"
        "from papers.quantface.table import plan\n"
        "run = Run(plan('demo').arms[1], 0, 'x', ())\n"
        "since = time.process_time(); found = sources_of_run(run); took = time.process_time() - since\n"
        "assert took < 1.0, took\n"  # 0.25 s on an idle machine
        "assert not {'torch', 'numpy', 'rich'} & set(sys.modules)\n"
        "print(found)"
    )
    answer = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    code = (
        "import time\n"
        "from common.experiment.sources import changed_modules\n"
        f"found = {answer.stdout}\n"
        "since = time.process_time(); changed = changed_modules(found); took = time.process_time() - since\n"
        "assert changed == [], changed\n"
        "assert took < 0.5, took\n"  # 0.13 s on an idle machine
    )
    subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, check=True)


def test_what_was_loaded_is_remembered_from_the_start() -> None:
    assert sources._AT_START[ROOT / "common" / "cost.py"] == (ROOT / "common" / "cost.py").read_bytes()
