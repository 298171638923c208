"""What each option hands to the library."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli import samples
from cli.fakes import FakeLibrary, Run

import savefmt
from savefmt.cli.main import build_parser
from savefmt.cli.options import common_options, io_options
from savefmt.cli.ui import wants_color
from savefmt.model import CheckLevel, IOOptions, Layout


def parsers() -> list[argparse.ArgumentParser]:
    """Return the parser of every command and of every verb below one."""
    found: list[argparse.ArgumentParser] = []
    queue = [build_parser()]
    while queue:
        for action in queue.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                queue += action.choices.values()
                found += action.choices.values()
    return found


@pytest.mark.parametrize("parser", parsers(), ids=lambda p: p.prog)
def test_every_command_explains_itself(parser: argparse.ArgumentParser) -> None:
    options = [action for action in parser._actions if action.option_strings]
    verbs = any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)

    assert all(action.help for action in options)
    assert verbs or parser.get_default("run"), "nothing to run"
    assert verbs or parser.get_default("failed") is not None
    if not verbs:
        assert {"--quiet", "--verbose", "--color"} <= set(parser._option_string_actions)


@pytest.mark.parametrize("parser", parsers(), ids=lambda p: p.prog)
def test_what_help_says_fits_into_80_columns(
    parser: argparse.ArgumentParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = f"{parser.description or ''}\n{parser.epilog or ''}".split()
    shown = parser.format_help()

    texts = [line for line in shown.splitlines() if set(line.split()) <= set(said)]
    assert max(map(len, texts)) <= 80
    assert " ".join((parser.epilog or "").split()) in " ".join(shown.split())


def test_one_letter_means_the_same_everywhere() -> None:
    meanings: dict[str, set[str]] = {}
    for parser in parsers():
        for action in parser._actions:
            for name in action.option_strings:
                meanings.setdefault(name, set()).add(action.dest)

    # But for grep's, which everybody has in their fingers where there is something to search.
    assert {name: dests for name, dests in meanings.items() if len(dests) > 1} == {
        "-f": {"format", "file"}
    }


def test_every_command_has_a_page() -> None:
    pages = Path(__file__).parents[2] / "docs" / "commands"
    names = {parser.prog.split()[1] for parser in parsers()} - {"help"}

    assert {name for name in names if not name.startswith("save-image-")} == {
        page.stem for page in pages.glob("*.md")
    }


def test_every_option_is_documented() -> None:
    pages = Path(__file__).parents[2] / "docs" / "commands"
    shared = argparse.ArgumentParser(add_help=False)
    common_options(shared)
    io_options(shared)
    known = set(shared._option_string_actions) | {"-h", "--help"}
    for parser in parsers():
        page = pages / f"{parser.prog.split()[1]}.md"
        if page.exists():
            named = parser._option_string_actions.items()
            names = {name for name, action in named if action.help != argparse.SUPPRESS} - known
            documented = set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", page.read_text()))
            assert names <= documented, page.name


def test_version(run: Run) -> None:
    assert run("--version").out == f"savefmt {savefmt.__version__}\n"


@pytest.mark.parametrize("argv", [["help", "check"], ["check", "--help"]])
def test_help(run: Run, argv: list[str]) -> None:
    outcome = run(*argv)

    assert outcome.code == 0
    assert "usage: savefmt check" in outcome.out
    assert "exit codes:" in outcome.out


def test_help_alone_lists_the_commands(run: Run) -> None:
    assert "convert" in run("help").out


def test_info(library: FakeLibrary, run: Run) -> None:
    library.answer("probe", samples.SUMMARY, samples.BARE)

    run("info", "one", "--pages", "-T", "3", "two")

    assert [args for args, _ in library.calls] == [("one",), ("two",)]
    assert library.calls[0][1] == {"pages": True, "io": IOOptions(threads=3), "progress": None}


@pytest.mark.parametrize(
    ("options", "level"), [([], CheckLevel.QUICK), (["--full"], CheckLevel.FULL)]
)
def test_check(library: FakeLibrary, run: Run, options: list[str], level: CheckLevel) -> None:
    library.answer("check", samples.report())

    run("check", "a", *options)

    assert library.calls[0][1]["level"] is level


@pytest.mark.parametrize(
    ("name", "layout", "codec"),
    [
        ("raw", Layout.SEQUENTIAL, "raw"),
        ("zstd", Layout.SEQUENTIAL, "zstd"),
        ("sparse", Layout.MAPPED_RAM, "raw"),
    ],
)
def test_convert_formats(
    library: FakeLibrary, run: Run, name: str, layout: Layout, codec: str
) -> None:
    library.answer("convert", samples.CONVERSION)

    assert run("convert", "a", "-O", name, "b").code == 0

    args, options = library.calls[0]
    assert args == ("a", "b")
    assert (options["layout"], options["codec"]) == (layout, codec)


def test_convert_keeps_everything_by_default(library: FakeLibrary, run: Run) -> None:
    library.answer("convert", samples.CONVERSION)

    run("convert", "a", "b")

    assert library.calls[0][1] == {
        "layout": None,
        "codec": None,
        "save_version": None,
        "bare": False,
        "overwrite": False,
        "verify": False,
        "dry_run": False,
        "io": IOOptions(),
        "progress": None,
    }


def test_convert_passes_every_option(library: FakeLibrary, run: Run) -> None:
    library.answer("convert", samples.CONVERSION)

    words = "a b --save-version 3 --bare -F --verify -n --no-direct -T 2"
    run("convert", *words.split())

    options = library.calls[0][1]
    assert options["save_version"] == 3
    assert all(options[name] for name in ("bare", "overwrite", "verify", "dry_run"))
    assert options["io"] == IOOptions(threads=2, direct=False)


def test_export_passes_every_option(library: FakeLibrary, run: Run) -> None:
    library.answer("export", samples.EXPORT, samples.EXPORT)

    words = "a b --format raw --compat qemu --kernel-va --start 0x1000 --length 4G -F -n -T 2"
    words += " --place a=0x10 --place b=1K"
    assert run("export", *words.split()).code == 0
    run("export", "a", "b")

    assert library.calls[0] == (
        ("a", "b"),
        {
            "format": "raw",
            "compat": "qemu",
            "kernel_va": True,
            "start": 0x1000,
            "length": 4 << 30,
            "places": {"a": 0x10, "b": 1024},
            "overwrite": True,
            "dry_run": True,
            "io": IOOptions(threads=2),
            "progress": None,
        },
    )
    assert library.calls[1][1]["format"] == "elf"
    assert library.calls[1][1]["start"] is None


def test_null_needs_no_target(library: FakeLibrary, run: Run) -> None:
    library.answer("convert", samples.CONVERSION)

    assert run("convert", "a", "-O", "null").code == 0
    assert library.calls[0][0] == ("a", os.devnull)


def test_a_stream_on_stdout_stands_there_alone(library: FakeLibrary, run: Run) -> None:
    library.answer("convert", samples.CONVERSION, samples.CONVERSION)

    quiet = run("convert", "a", "-", "-O", "zstd")
    loud = run("convert", "-v", "a", "-", "-O", "zstd")

    assert (quiet.out, quiet.err) == ("", "")
    assert loud.out == ""
    assert "mapped-ram" in loud.err


def test_no_binary_onto_a_terminal(
    library: FakeLibrary, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.answer("convert", samples.CONVERSION)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)

    refused = run("convert", "a", "-", "-O", "raw", "--color=never")
    forced = run("convert", "a", "-", "-O", "raw", "-F", "--color=never")

    assert refused.code == 64
    assert "terminal" in refused.err
    assert forced.code == 0


@pytest.mark.parametrize(
    "argv",
    [
        ["-pT2", "a", "b"],
        ["a", "-pT", "2", "b"],
        ["a", "b", "--threads", "2"],
        ["a", "--threads=2", "b"],
        ["-T2", "--", "a", "b"],
        ["a", "-T2", "--", "b"],
    ],
)
def test_options_stand_anywhere(library: FakeLibrary, run: Run, argv: list[str]) -> None:
    library.answer("convert", samples.CONVERSION)

    assert run("convert", *argv).code == 0
    assert library.calls[0][0] == ("a", "b")
    assert library.calls[0][1]["io"].threads == 2


def test_a_file_name_may_look_like_an_option(library: FakeLibrary, run: Run) -> None:
    library.answer("check", samples.report())

    assert run("check", "--", "--full").code == 0
    assert library.calls[0] == (
        ("--full",),
        {"level": CheckLevel.QUICK, "io": IOOptions(), "progress": None},
    )


@pytest.mark.parametrize("argv", [["-q", "check", "a"], ["check", "a", "-q"]])
def test_common_options_stand_on_either_side(
    library: FakeLibrary, run: Run, argv: list[str]
) -> None:
    library.answer("check", samples.report())

    assert run(*argv).out == ""


def dump(library: FakeLibrary, text: bytes = b"<domain/>\n") -> None:
    library.answer_edit(dump_xml=text, set_xml=[samples.EDIT, samples.EDIT])


@pytest.mark.parametrize("argv", [["xml", "dump", "a"], ["save-image-dumpxml", "a"]])
def test_xml_dump(library: FakeLibrary, run: Run, argv: list[str]) -> None:
    dump(library)

    assert run(*argv, "--cookie").out == "<domain/>\n"
    assert library.calls == [(("a",), {"cookie": True})]


@pytest.mark.parametrize("verb", [["xml", "set"], ["save-image-define"]])
def test_xml_set(library: FakeLibrary, run: Run, tmp_path: Path, verb: list[str]) -> None:
    dump(library)
    new = tmp_path / "new.xml"
    new.write_bytes(b"<domain/>")

    outcome = run(*verb, "a", str(new), "--paused", "--no-abi-check")

    args, options = library.calls[0]
    assert outcome.code == 0
    assert args == ("a", b"<domain/>")
    assert (options["running"], options["check_abi"], options["cookie"]) == (False, False, False)


def test_xml_set_run_state_alone(library: FakeLibrary, run: Run) -> None:
    dump(library)

    assert run("xml", "set", "a", "--running").code == 0
    assert library.calls[0][0] == ("a", None)


def test_xml_set_without_its_file(library: FakeLibrary, run: Run, tmp_path: Path) -> None:
    dump(library)

    outcome = run("xml", "set", "a", str(tmp_path / "missing"))

    assert outcome.code == 1
    assert outcome.err == f"savefmt: {tmp_path}/missing: No such file or directory\n"


@pytest.fixture
def editor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Set $VISUAL to a script, and keep drafts in a folder of their own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv("EDITOR", raising=False)

    def use(script: str) -> None:
        program = tmp_path / "editor.sh"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("VISUAL", f"{program} --flag")

    return SimpleNamespace(use=use, drafts=lambda: list(tmp_path.glob("savefmt-*.xml")))


@pytest.mark.parametrize("argv", [["xml", "edit", "a"], ["save-image-edit", "a"]])
def test_xml_edit(library: FakeLibrary, run: Run, editor: Any, argv: list[str]) -> None:
    dump(library)
    editor.use('[ "$1" = --flag ] && printf "<new/>" >"$2"')

    assert run(*argv).code == 0
    assert library.calls[1][0] == ("a", b"<new/>")
    assert editor.drafts() == []


def test_xml_edit_without_a_change(library: FakeLibrary, run: Run, editor: Any) -> None:
    dump(library)
    editor.use("exit 0")

    outcome = run("xml", "edit", "a")

    assert outcome.out == "a: not changed\n"
    assert len(library.calls) == 1
    assert editor.drafts() == []


def test_a_refused_edit_keeps_the_text(library: FakeLibrary, run: Run, editor: Any) -> None:
    library.answer_edit(dump_xml=b"<old/>", set_xml=savefmt.ConversionError("another name"))
    editor.use('echo "<new/>" >"$2"')

    outcome = run("xml", "edit", "a")

    (draft,) = editor.drafts()
    assert outcome.code == 1
    assert draft.read_text() == "<new/>\n"
    assert str(draft) in outcome.err


def test_a_dry_run_of_an_edit_keeps_the_text(library: FakeLibrary, run: Run, editor: Any) -> None:
    dump(library)
    editor.use('printf "<new/>" >"$2"')

    outcome = run("xml", "edit", "a", "-n")

    (draft,) = editor.drafts()
    assert library.calls[1][1]["dry_run"] is True
    assert draft.read_text() == "<new/>"
    assert str(draft) in outcome.err


def test_a_failing_editor_changes_nothing(library: FakeLibrary, run: Run, editor: Any) -> None:
    dump(library)
    editor.use("exit 3")

    outcome = run("xml", "edit", "a")

    assert outcome.code == 1
    assert len(library.calls) == 1
    assert "code 3" in outcome.err


def test_a_missing_editor_is_told_with_what_to_do(
    library: FakeLibrary, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump(library)
    monkeypatch.setenv("VISUAL", "no-such-editor --flag")

    outcome = run("xml", "edit", "a")

    assert outcome.code == 1
    assert outcome.err == (
        "savefmt: the editor no-such-editor is not here; let $VISUAL or $EDITOR name another\n"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run: Run, shell: str) -> None:
    pytest.importorskip("shtab")

    outcome = run("completion", shell)

    assert outcome.code == 0
    for word in ("convert", "sparse", "save-version"):
        assert word in outcome.out
    assert "salvage repair devices" in outcome.out  # what help takes


@pytest.mark.parametrize(
    ("choice", "environment", "terminal", "expected"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"TERM": "dumb"}, True, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_color_rules(
    monkeypatch: pytest.MonkeyPatch,
    choice: str,
    environment: dict[str, str],
    terminal: bool,
    expected: bool,
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream: Any = SimpleNamespace(isatty=lambda: terminal)

    assert wants_color(choice, stream) is expected
