"""The tables of the documentation are those of the data."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import savefmt
from savefmt.compat.releases import FACTS, MILESTONES

DOCS = Path(__file__).parents[1] / "docs"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_current() -> None:
    """Otherwise: `make tables`."""
    module = script("generate")
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


def test_every_section_that_the_code_cites_is_there() -> None:
    there = set(re.findall(r"^##+ ([\d.]+?)\.? ", (DOCS / "format.md").read_text(), re.MULTILINE))
    code = [path for room in ("src", "csrc", "tests") for path in (DOCS.parent / room).rglob("*.*")]
    cited = {
        number
        for path in code
        if path.suffix in {".py", ".c", ".h", ".md"}
        for number in re.findall(r"format\.md (\d+(?:\.\d+)?)", path.read_text())
    }

    assert len(cited) > 30
    assert cited <= there, sorted(cited - there)


def test_every_code_of_a_reader_is_explained() -> None:
    page = (DOCS / "commands/check.md").read_text()
    sources = Path(savefmt.__file__).parent / "compat"
    rules = re.findall(r'_(?:no|risk|need)\(\s*"([\w-]+)"', (sources / "rules.py").read_text())
    host = re.findall(r'"(host\.[\w-]+)"', (sources / "host.py").read_text())

    assert len(set(rules)) > 15
    assert len(set(host)) > 6
    for code in {*rules, *host}:
        assert f"`{code}`" in page, code


def test_sessions_are_what_the_commands_print(tmp_path: Path) -> None:
    """Otherwise: `make tables`."""
    module = script("sessions")
    for number, page in enumerate(module.PAGES):
        folder = tmp_path / str(number)
        folder.mkdir()
        module.prepare(folder)
        text = page.read_text()

        assert text.count("<!-- session -->") > 1
        assert module.renewed(text, folder) == text


def test_a_session_that_changed_is_seen(tmp_path: Path) -> None:
    module = script("sessions")
    page = "<!-- session -->\n\n```console\n$ echo one; echo two; echo three\n%s```\n"

    for shown, same in (
        ("one\ntwo\nthree\n", True),
        ("one\n...\n", True),
        ("...\nthree\n", True),
        ("one\ntwo\n", False),
        ("...\ntwo\n", False),
    ):
        assert (module.renewed(page % shown, tmp_path) == page % shown) is same


@pytest.mark.parametrize(("codec", "varies"), [("zstd", True), ("raw", False)])
def test_only_compressed_sizes_may_differ(codec: str, varies: bool) -> None:
    lines = [f"wrote x: sequential, codec {codec}, save version 2", "  from y, 2 KiB (2048 bytes)"]

    def told(length: int) -> list[str]:
        return [*lines, f"  to 1 KiB ({length} bytes), 4 KiB (4096 bytes) on disk"]

    assert script("sessions").fits(told(1000), told(1001)) is varies
