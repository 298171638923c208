"""The tables of the documentation are those of the data."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

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
