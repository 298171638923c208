"""What `savefmt linux` says where there is nothing to tell."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli.fakes import Run
from golden import load

from savefmt.cli.render.linux import moment, span, table


@pytest.mark.parametrize("name", ["q35-smp", "microvm-mapped"])
def test_a_guest_that_is_no_linux(name: str, tmp_path: Path, run: Run) -> None:
    done = run("linux", str(load.unpack(name, tmp_path)), "ps")

    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert "docs/forensics.md" in done.err


def test_without_drgn(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "drgn", None)

    done = run("linux", str(load.unpack("q35-smp", tmp_path)))

    assert done.code == 1
    assert "pip install 'savefmt[linux]'" in done.err


@pytest.mark.parametrize(
    "words",
    [
        ("ps", "--cached"),
        ("ps", "--extract", "/a", "-o", "b"),
        ("--extract", "/a"),
        ("files", "-o", "b"),
        ("files", "--force"),
        ("files", "--dry-run"),
        ("nothing",),
    ],
)
def test_wrong_usage(words: tuple[str, ...], run: Run) -> None:
    assert run("linux", "image", *words).code == 64


def test_nothing_from_a_guest_reaches_the_terminal_raw() -> None:
    lines = list(table([">pid", "name"], [(1, "\x1b[31mred"), (22, "a\nb")]))

    assert lines == ["PID  NAME", "  1  \\x1b[31mred", " 22  a\\nb"]


def test_times() -> None:
    assert moment(0) == "1970-01-01 00:00:00Z"
    assert moment(None) == "-"
    assert moment(1e300) == f"{1e300:.0f}"
    assert span(59.9) == "00:00:59"
    assert span(90061) == "1d 01:01:01"
