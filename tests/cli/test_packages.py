"""Without a package, what needs it says so in a sentence; all else goes on."""

from __future__ import annotations

import importlib.util
import os
import sys
import tomllib
from pathlib import Path

import pytest
from cli.fakes import Run
from golden.load import unpack

import savefmt
from savefmt.errors import MissingPackageError

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

# A module that is missing, the command that needs it, its package, the extra if it is in one.
LACKS = [
    ("yara_x", "search IMAGE --yara rules", "search --yara", "yara-x", "scan"),
    ("lzallright", "hash LZOP", "lzop", "lzallright", None),
    ("re2", "search IMAGE --regex x", "search --regex", "google-re2", "regex"),
    ("PIL", "map IMAGE --png new.png", "map --png", "pillow", "plot"),
    ("matplotlib.figure", "bench . --fill --plot new.svg", "bench --plot", "matplotlib", "plot"),
    ("blake3", "hash IMAGE -a blake3", "hash -a blake3", "blake3", "hash"),
    ("xxhash", "hash IMAGE -a xxh3", "hash -a xxh3", "xxhash", "hash"),
    ("shtab", "completion bash", "savefmt completion", "shtab", "completion"),
    ("drgn", "linux IMAGE", "savefmt linux", "drgn", "linux"),
    ("PIL", "map IMAGE --png new.png --palette owner", "map --png", "pillow", "plot"),
    ("jinja2", "report IMAGE", "savefmt report", "jinja2", "report"),
    ("distributed", "fleet check IMAGE --scheduler x", "fleet --scheduler", "distributed", "fleet"),
    ("duckdb", "fleet check IMAGE -o x.parquet", "fleet -o FILE.parquet", "duckdb", "tables"),
    ("mfusepy", "mount IMAGE folder --foreground", "savefmt mount", "mfusepy", "mount"),
]
# `dump` has a test of its own; `seek` makes faster; volatility3 is what loads us, and tells of
# nothing that it lacks; the other is for who writes documentation.
NEVER_MISSED = {"dump", "seek", "volatility", "docs"}


@pytest.fixture(autouse=True)
def activated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the environment's own pip be the first on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "pip").touch(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("module", "words", "what", "package", "extra"), LACKS, ids=[lack[1] for lack in LACKS]
)
def test_what_lacks_is_told(
    run: Run,
    module: str,
    words: str,
    what: str,
    package: str,
    extra: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("rules").write_text('rule r { strings: $a = "x" condition: $a }')
    images = {"IMAGE": "libvirt-devices", "LZOP": "libvirt-lzop"}
    places = {word: str(unpack(name, tmp_path)) for word, name in images.items() if word in words}
    monkeypatch.setitem(sys.modules, module, None)

    outcome = run(*(places.get(word, word) for word in words.split()))

    named = package if extra is None else f"'savefmt[{extra}]'"
    told = f"{what} needs the package {package}, which is not installed: pip install {named}"
    assert outcome.code in (1, 2)
    assert told in outcome.err
    assert outcome.out == ""


def test_the_api_tells_likewise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from savefmt.drgn import program

    monkeypatch.setitem(sys.modules, "drgn", None)
    with (
        savefmt.open(unpack("libvirt-devices", tmp_path)) as image,
        pytest.raises(MissingPackageError, match=r"'savefmt\[drgn\]'$"),
    ):
        program(image)


def test_every_extra_is_thought_of() -> None:
    told = {extra for *_, extra in LACKS if extra is not None} | {"drgn"}

    assert told | NEVER_MISSED == set(PROJECT["optional-dependencies"])
    assert told & NEVER_MISSED == set()


def test_packages_belong_to_the_extras_that_they_are_told_to() -> None:
    extras = PROJECT["optional-dependencies"] | {None: PROJECT["dependencies"]}
    for _, _, _, package, extra in LACKS:
        assert any(line.startswith(package) for line in extras[extra]), package


def test_pip_is_that_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not activated, or there is a space in its name, or uv made it."""
    python = tmp_path / "my env" / "python"
    monkeypatch.setattr(sys, "executable", str(python))

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    told = str(MissingPackageError("this", "that", "extra"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    by_uv = str(MissingPackageError("this", "that", "extra"))

    assert told.endswith(f"not installed: '{python}' -m pip install 'savefmt[extra]'")
    assert by_uv.endswith(f"not installed: uv pip install --python '{python}' 'savefmt[extra]'")
