"""Fixtures: a library that answers from a table, and a way to run the command line."""

from __future__ import annotations

import pytest
from cli.fakes import FakeLibrary, Outcome, Run

from savefmt.cli.main import main


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    """Return a library to fill with answers."""
    return FakeLibrary(monkeypatch)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command line in this process."""

    def call(*argv: str) -> Outcome:
        code = main(argv)
        captured = capsys.readouterr()
        return Outcome(code=code, out=captured.out, err=captured.err)

    return call
