"""Every outcome has its code, and errors are one line on standard error."""

from __future__ import annotations

import errno
import json

import pytest
from cli import samples
from cli.fakes import FakeLibrary, Run

from savefmt.cli.codes import ExitCode, worst
from savefmt.errors import (
    ConversionError,
    CorruptError,
    ImageIOError,
    IncompleteImageError,
    NotASaveImageError,
    SavefmtError,
    UnsupportedError,
)

CORRUPT = CorruptError("the sky is down", offset=0x5C)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (samples.report(), 0),
        (samples.report(samples.NOTE), 0),
        (samples.report(samples.NOTE, samples.WARNING), 3),
        (samples.report(samples.WARNING, samples.ERROR), 2),
        (NotASaveImageError("no magic"), 63),
        (IncompleteImageError("never finished"), 2),
        (CORRUPT, 2),
        (UnsupportedError("version 9"), 1),
        (ImageIOError("Permission denied", errno=errno.EACCES), 1),
        (PermissionError(errno.EACCES, "Permission denied", "guest.save"), 1),
    ],
)
def test_check(library: FakeLibrary, run: Run, answer: object, code: int) -> None:
    library.answer("check", answer)

    assert run("check", "guest.save").code == code


def test_check_of_several_images_ends_with_the_worst(library: FakeLibrary, run: Run) -> None:
    library.answer("check", CORRUPT, samples.report(samples.WARNING), samples.report())

    outcome = run("check", "one", "two", "three")

    assert outcome.code == 2
    assert len(library.calls) == 3
    assert outcome.err == "savefmt: one: the sky is down (at offset 0x5c)\n"


def test_what_could_not_be_read_outranks_every_verdict() -> None:
    assert worst([]) is ExitCode.GOOD
    assert worst([ExitCode.DAMAGED, ExitCode.FINDINGS]) is ExitCode.DAMAGED
    assert worst([ExitCode.NOT_AN_IMAGE, ExitCode.DAMAGED]) is ExitCode.NOT_AN_IMAGE
    assert worst([ExitCode.FAILED, ExitCode.NOT_AN_IMAGE]) is ExitCode.FAILED


@pytest.mark.parametrize(
    ("answer", "code"), [(samples.SAME, 0), (samples.DIFFERENT, 1), (CORRUPT, 2)]
)
def test_compare(library: FakeLibrary, run: Run, answer: object, code: int) -> None:
    library.answer("compare", answer)

    assert run("compare", "a", "b").code == code


@pytest.mark.parametrize("command", ["info", "compare", "convert"])
def test_an_error_names_its_file_once(library: FakeLibrary, run: Run, command: str) -> None:
    function = "probe" if command == "info" else command
    library.answer(function, SavefmtError("no\nwonder", path="a.save", offset=16))
    names = ["a.save"] if command == "info" else ["a.save", "b.save"]

    outcome = run(command, *names)

    assert outcome.code == (2 if command == "compare" else 1)
    assert outcome.out == ""
    assert outcome.err == "savefmt: a.save: no\\nwonder (at offset 0x10)\n"


def test_info_shows_the_good_ones_beside_a_bad_one(library: FakeLibrary, run: Run) -> None:
    library.answer("probe", CORRUPT, samples.SUMMARY)

    outcome = run("info", "bad", "guest.save")

    assert outcome.code == 1
    assert "guest.save" in outcome.out
    assert outcome.err.startswith("savefmt: bad: ")


def test_json_errors_are_documents_too(library: FakeLibrary, run: Run) -> None:
    library.answer("convert", ConversionError("no room", path="b"))

    outcome = run("convert", "a", "b", "-O", "sparse", "-j")

    assert outcome.code == 1
    assert json.loads(outcome.out)["error"] == {
        "type": "ConversionError",
        "message": "no room",
        "path": "b",
        "offset": None,
        "errno": None,
    }


def test_a_bug_is_told_apart_from_a_verdict(library: FakeLibrary, run: Run) -> None:
    library.answer("compare", ZeroDivisionError("oops"))

    outcome = run("compare", "a", "b")

    assert outcome.code == 70
    assert "ZeroDivisionError" in outcome.err


def test_out_of_memory_is_a_failure_not_a_difference(library: FakeLibrary, run: Run) -> None:
    library.answer("compare", MemoryError())

    assert run("compare", "a", "b").code == 2


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ImportError("failed to map segment"), "cannot be loaded: failed to map segment"),
        (RuntimeError("can't start new thread"), "the system grants no more threads"),
    ],
)
def test_what_the_system_refuses_is_no_bug(
    library: FakeLibrary, run: Run, error: Exception, told: str
) -> None:
    library.answer("compare", error, error)

    outcome = run("compare", "a", "b")

    assert outcome.code == 2
    assert told in outcome.err
    assert "Traceback" not in outcome.err
    assert told in json.loads(run("compare", "a", "b", "-j").out)["error"]["message"]


def test_ctrl_c(library: FakeLibrary, run: Run) -> None:
    library.answer("check", KeyboardInterrupt())

    outcome = run("check", "a")

    assert outcome.code == 130
    assert outcome.err == "savefmt: interrupted\n"


def test_an_interrupt_that_something_wrapped(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that is being defined wraps it, before Python 3.12."""

    def check(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("Error calling __set_name__") from error

    monkeypatch.setattr("savefmt.check", check)
    outcome = run("check", "a")

    assert (outcome.code, outcome.err) == (130, "savefmt: interrupted\n")


def test_traceback_only_with_vv(library: FakeLibrary, run: Run) -> None:
    library.answer("probe", CORRUPT, CORRUPT)

    assert "Traceback" not in run("info", "-v", "a").err
    assert "Traceback" in run("info", "-vv", "a").err


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["frobnicate"],
        ["info"],
        ["info", "--nonesuch", "a"],
        ["info", "--pag", "a"],
        ["info", "a", "--output=xml"],
        ["convert", "a"],
        ["convert", "a", "b", "c"],
        ["convert", "a", "b", "-O", "rar"],
        ["convert", "a", "b", "-O", "null"],
        ["convert", "a", "b", "--save-version", "4"],
        ["convert", "a", "-", "-O", "raw", "--output=json"],
        ["convert", "a", "b", "-T", "65"],
        ["convert", "a", "b", "-T", "-1"],
        ["convert", "a", "b", "--progress", "x"],
        ["compare", "a"],
        ["map", "a", "b"],
        ["xml"],
        ["xml", "set", "a"],
        ["xml", "set", "a", "--cookie", "--running"],
        ["xml", "set", "a", "--running", "--paused"],
        ["completion", "csh"],
    ],
)
def test_usage_errors_give_64(run: Run, argv: list[str]) -> None:
    outcome = run(*argv)

    assert outcome.code == 64
    assert outcome.out == ""
    assert outcome.err.startswith("savefmt: ")
    assert outcome.err.count("\n") == 1
