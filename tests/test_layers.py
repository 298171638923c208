"""Who may use whom: every import and every #include, held against one table."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "savefmt"
CORE = ROOT / "csrc"
MAX_LINES = 600

# Lowest first.  A file may use the rows above its own and, within a package, its
# own kind; files of one row do not know each other.
PYTHON_ROWS = (
    "ending errors frozen lazy pipes",
    "model qmp",
    "native progress reports",
    "format writing",
    "codec",
    "reading",
    "guest salvage",
    "image",
    "check compare compat export facade plugins scan",
    "bench convert linux mount repair",
    "drgn edit fleet qemu report",
    "instant needs",
    "cli",
    "__main__",
)
C_ROWS = (
    "sf_base",
    "sf_err sf_latency",
    "sf_page sf_sync sf_find sf_text sf_census sf_uring sf_watch sf_buffer sf_extents",
    "sf_descriptors",
    "sf_file sf_many sf_scan sf_sum",
    "sf_index sf_job sf_map sf_pages sf_ring",
    "sf_queue sf_tally",
    "sf_append sf_emit sf_fill sf_move sf_scatter",
    "sf_cell",
)
# These alone may take names from the package itself, which reaches everything.
MAY_USE_FACADE = {"cli", "__main__"}


def ranks(rows: tuple[str, ...]) -> dict[str, int]:
    """Number the rows."""
    return {name: number for number, row in enumerate(rows) for name in row.split()}


PYTHON_RANK = ranks(PYTHON_ROWS)
C_RANK = ranks(C_ROWS)

MODULES = sorted(path for path in PACKAGE.rglob("*.py*") if path.suffix in (".py", ".pyi"))
UNITS = sorted(CORE.glob("sf_*.[ch]"))
SOURCES = sorted(
    path
    for folder in ("src", "csrc", "tests", "benchmarks", "tools")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".pyi", ".c", ".h")
)


def named(path: Path) -> str:
    """Show a path as it stands in the repository."""
    return str(path.relative_to(ROOT))


def unit_of(module: str) -> str:
    """Return the row entry of a dotted name: ``savefmt.format.ram`` is ``format``."""
    _, _, rest = module.partition(".")
    return rest.partition(".")[0]


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of everything of ours that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{named(path)}:{node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == "savefmt":
                yield node.lineno, name


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_python_arrows(path: Path) -> None:
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".pyi").removesuffix(".py")
    if here == "__init__":
        return  # the public names, loaded on demand
    assert here in PYTHON_RANK, f"give {here} a row in PYTHON_ROWS"
    for line, name in imports_of(path):
        used = unit_of(name)
        where = f"{named(path)}:{line}: {name}"
        if used not in PYTHON_RANK:
            assert here in MAY_USE_FACADE, f"{where}: name the module, not the package"
        elif used != here:
            assert PYTHON_RANK[used] < PYTHON_RANK[here], f"{where}: {here} lies below {used}"


def module_of(path: Path) -> str:
    """Return the dotted name of a module; that of a package is its folder's."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows() -> dict[str, set[str]]:
    """Tell which of our modules each one imports, at the top or inside of a function."""
    modules = {module_of(path) for path in MODULES if path.suffix == ".py"}
    found: dict[str, set[str]] = {module: set() for module in modules}
    for path in MODULES:
        here = module_of(path)
        for _, name in imports_of(path):
            used = name if name in modules else name.rpartition(".")[0]
            if path.suffix == ".py" and used in modules and used not in ("savefmt", here):
                found[here].add(used)
    return found


def circles(used_by: dict[str, set[str]]) -> list[str]:
    """Return the modules that can be left but not taken away: nobody is first among them."""
    left = {module: set(used) for module, used in used_by.items()}
    while True:
        done = [module for module, used in left.items() if not used & left.keys()]
        if not done:
            break
        for module in done:
            del left[module]
    # What only uses a circle is not in one.
    while True:
        unused = left.keys() - {name for used in left.values() for name in used}
        if not unused:
            return sorted(left)
        for module in unused:
            del left[module]


def test_no_circles_inside_packages_either() -> None:
    assert circles(arrows()) == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"a", "d"}, "c": {"a"}, "d": set()}) == ["a", "b"]


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_only_native_knows_the_core(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] != "native":
        assert [name for _, name in imports_of(path) if "_core" in name] == []


@pytest.mark.parametrize("path", UNITS, ids=named)
def test_c_arrows(path: Path) -> None:
    assert path.stem in C_RANK, f"give {path.stem} a row in C_ROWS"
    for used in re.findall(r'^\s*#\s*include\s+"(\w+)\.h"', path.read_text(), re.MULTILINE):
        if used != path.stem:
            assert used in C_RANK, f"{named(path)}: {used}.h is none of ours"
            assert C_RANK[used] < C_RANK[path.stem], f"{named(path)}: lies below {used}"


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_no_file_grows_too_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_the_core_knows_no_python() -> None:
    guilty = [named(path) for path in UNITS if re.search(r"\bPython\.h\b", path.read_text())]

    assert guilty == []
