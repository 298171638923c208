"""The tables of the documentation are those of the data."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import savefmt
from savefmt.compat.releases import FACTS, MILESTONES

DOCS = Path(__file__).parents[1] / "docs"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_current() -> None:
    """Otherwise: `make tables`."""
    module = generator()
    page = module.PAGE.read_text()

    assert module.renewed(page) == page
    for name in module.TABLES:
        assert page.count(f"<!-- table: {name} -->") == 1
    for known in (*MILESTONES, *(fact.what for fact in FACTS)):
        assert str(known) in page


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text()

    for page in DOCS.rglob("*.md"):
        name = str(page.relative_to(DOCS).with_suffix(""))
        if name != "index":
            assert f"\n{name}\n" in index, name


def test_every_code_of_a_reader_is_explained() -> None:
    page = (DOCS / "commands/check.md").read_text()
    sources = Path(savefmt.__file__).parent / "compat"
    rules = re.findall(r'_(?:no|risk|need)\(\s*"([\w-]+)"', (sources / "rules.py").read_text())
    host = re.findall(r'"(host\.[\w-]+)"', (sources / "host.py").read_text())

    assert len(set(rules)) > 15
    assert len(set(host)) > 6
    for code in {*rules, *host}:
        assert f"`{code}`" in page, code
