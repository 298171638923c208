"""Fixtures: a library that answers from a table, and a way to run the command line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cli.fakes import FakeLibrary, Outcome, Run
from cli.pages import Listener

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


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Someone who waits for requests."""
    made = Listener()
    yield made
    made.close()
