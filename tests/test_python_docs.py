"""docs/python.md tells the signatures and the errors that there are."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TEXT = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
ROWS = re.findall(r"^\| `([\w.]+)\((.*?)\)` \|", TEXT, re.MULTILINE)
CODE = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
TREE = re.findall(
    r"^([|+\- ]*)([\w.]+) +(?:\(|\S)", TEXT.split("```text")[1].split("```")[0], re.MULTILINE
)


def named(name: str) -> Any:
    """Return what a row is about: of `savefmt`, or of one of its rooms."""
    path = name.split(".")
    for room in ("savefmt", "savefmt.scan"):
        try:
            found: Any = importlib.import_module(".".join([room, *path[:-1]]))
        except ImportError:
            continue
        if hasattr(found, path[-1]):
            return getattr(found, path[-1])
    raise AssertionError(f"there is no {name}")


def test_the_page_was_read() -> None:
    assert len(ROWS) > 20
    assert len(CODE) > 4
    assert len(TREE) > 10


@pytest.mark.parametrize(("name", "told"), ROWS, ids=[name for name, _ in ROWS])
def test_a_signature_is_the_real_one(name: str, told: str) -> None:
    parameters = list(inspect.signature(named(name)).parameters.values())
    shortened = told.endswith(", ...")
    words = ast.parse(f"f({_as_call(told.removesuffix(', ...'))})", mode="eval").body
    assert isinstance(words, ast.Call)

    places = [word.id for word in words.args if isinstance(word, ast.Name)]
    keywords = {word.arg: ast.unparse(word.value) for word in words.keywords}
    real = {each.name: each for each in parameters}
    for each in places:
        assert real[each].default is inspect.Parameter.empty
    for key, value in keywords.items():
        assert key is not None
        assert _same(real[key].default, value), f"{key}={real[key].default!r}"
    if not shortened:
        assert [*places, *keywords] == [each.name for each in parameters]


def _as_call(told: str) -> str:
    """Leave out the lone star, and take a call among the arguments for a name."""
    return re.sub(r"^\w+\.\w+\((\w+)\)", r"\1", told.replace("*, ", "")).replace(
        "hashes.Manifest(lines)", "manifest"
    )


def _same(default: object, told: str) -> bool:
    if default == inspect.Parameter.empty:
        return False
    return repr(default) == repr(eval(told, _values(told)))


def _values(told: str) -> dict[str, Any]:
    names = re.findall(r"(?<![.\w])[A-Z]\w+", told)
    rooms = map(importlib.import_module, ("savefmt", "savefmt.qemu", "savefmt.compat.policy"))
    return {name: getattr(room, name) for room in rooms for name in names if hasattr(room, name)}


def imports() -> Iterator[tuple[str, str]]:
    for code in CODE:
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                yield from ((str(node.module), each.name) for each in node.names)


@pytest.mark.parametrize(("module", "name"), sorted(set(imports())))
def test_what_the_examples_import_is_there(module: str, name: str) -> None:
    found = importlib.import_module(module)
    assert hasattr(found, name) or importlib.import_module(f"{module}.{name}")


def test_the_tree_of_errors_is_the_real_one() -> None:
    above: list[str] = []
    told = {}
    for lead, name in TREE:
        depth = len(lead) // 3
        above[depth:] = [name.rpartition(".")[2]]
        told[above[-1]] = above[depth - 1] if depth else ""
    real = {name: _error(name) for name in told}
    for name, parent in told.items():
        if parent:
            assert real[parent] in real[name].__mro__, f"{name} is no {parent}"


def _error(name: str) -> Any:
    rooms = ("savefmt.errors", "savefmt.qemu", "savefmt.qmp")
    return next(
        getattr(room, name) for room in map(importlib.import_module, rooms) if hasattr(room, name)
    )


def test_every_extra_is_named() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    section = TEXT.partition("## Packages and extras")[2].partition("\n## ")[0]

    told = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(told) == sorted(project["optional-dependencies"])
