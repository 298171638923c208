"""What all commands have in common: options once, names that mean one thing, helpful refusals."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest
from cli.fakes import Run
from cli.test_options import parsers
from golden.load import unpack

from savefmt.cli.parser import COMPLETE_FILE, Parser
from savefmt.fleet.records import VERBS

COMMANDS = [parser for parser in parsers() if parser.get_default("run")]
WRITE_FILES = {
    *("convert", "export", "save", "map", "bench", "prepare", "clone", "detach"),
    *("salvage", "repair", "linux", "report", "fleet convert", "fleet report"),
}
CHANGE_IMAGES = {"xml set", "xml edit", "save-image-define", "save-image-edit"}
CHANGE_GUESTS = {"restore"}
# What comes after an option of these kinds takes nothing away from what came before.
HARMLESS = (
    argparse._StoreConstAction,
    argparse._AppendAction,
    argparse._CountAction,
    argparse._HelpAction,
    argparse._VersionAction,
)


def options() -> Iterator[tuple[str, argparse.Action, str]]:
    """Yield the words of a command, and every option that may be given once, by every name."""
    for parser in COMMANDS:
        words = parser.prog.removeprefix("savefmt ")
        for action in parser._actions:
            # --place adds to what was said, and has a test of its own below.
            if not isinstance(action, HARMLESS) and action.dest != "place":
                yield from ((words, action, name) for name in action.option_strings)


def value_for(action: argparse.Action) -> str:
    """Return a word that the option takes."""
    if action.choices:
        return str(next(iter(action.choices)))
    for value in ("1", "1M", "psync", "libvirt=9.0.0", "./file", str(UUID(int=1))):
        try:
            action.type(value) if callable(action.type) else None
        except (argparse.ArgumentTypeError, ValueError):
            continue
        return value
    raise AssertionError(f"no value known for {action.option_strings}")


@pytest.mark.parametrize(
    ("words", "action", "name"),
    list(options()),
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_an_option_with_a_value_may_be_given_once(
    run: Run, words: str, action: argparse.Action, name: str
) -> None:
    others = [one for _, other, one in options() if other.dest == action.dest and _ == words]
    for other in {*others}:
        flag = isinstance(action, argparse.BooleanOptionalAction)
        count = action.nargs if isinstance(action.nargs, int) else 1
        value = [] if flag else [value_for(action)] * count
        outcome = run(*words.split(), name, *value, other, *value)
        assert outcome.code == 64
        assert "may be given only once" in outcome.err


def test_two_flags_for_one_setting_exclude_each_other() -> None:
    """Else the later one would silently take back the former."""
    for parser in COMMANDS:
        groups = [set(group._group_actions) for group in parser._mutually_exclusive_groups]
        by_setting: dict[str, set[argparse.Action]] = {}
        for action in parser._actions:
            if action.option_strings and not isinstance(action, argparse._AppendAction):
                by_setting.setdefault(action.dest, set()).add(action)
        for setting, actions in by_setting.items():
            # Two names with a value share the count of how often it was given.
            if any(isinstance(action, argparse._StoreConstAction) for action in actions):
                together = [group for group in groups if actions <= group]
                assert len(actions) == 1 or together, f"{parser.prog}: {setting}"


@pytest.mark.parametrize("by_file", [False, True])
def test_a_block_lies_at_one_place(run: Run, tmp_path: Path, by_file: bool) -> None:
    path = str(unpack("libvirt-devices", tmp_path))
    places = ["x=0x1000", "x=0x2000"]
    if by_file:
        (tmp_path / "places").write_text("\n".join(places))
        places = [f"@{tmp_path}/places"]

    outcome = run("memmap", path, *(f"--place={place}" for place in places))

    assert outcome.code == 64
    assert "'x' is named twice" in outcome.err


def test_what_may_be_repeated_is_listed_here() -> None:
    """Another kind of action needs a thought, and a place in the mechanism or in the list."""
    kinds = {type(action) for parser in parsers() for action in parser._actions}

    assert {kind.__name__ for kind in kinds} == {
        *("_StoreOnce", "OnOff", "_HelpAction", "_SubParsersAction"),
        *("_StoreTrueAction", "_StoreFalseAction", "_StoreConstAction"),
        *("_CountAction", "_AppendAction", "_Places"),
    }


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("diff a b", "did you mean compare?"),
        ("convrt a b", "did you mean convert?"),
        ("conv a b", "did you mean convert?"),
        ("dumpxml a", "did you mean xml dump?"),
        ("convert a b -O zst", "there is no 'zst'; there are raw, gzip,"),
        ("convert a b --verfy", "did you mean --verify?"),
        ("info --pag a", "did you mean --pages?"),
        ("info --pag=3 a", "did you mean --pages?"),
        ("xml dmp a", "did you mean dump?"),
        ("con a b", "did you mean config or convert?"),
        ("managedsave-edit a", "did you mean xml edit?"),
        ("benchmark .", "did you mean bench?"),
        ("version", "did you mean --version?"),
        ("create -f raw a 1G", "that is for disk images"),
        ("linux.pslist", "savefmt plugins volatility"),
        ("-f a windows.info", "there is no 'a'"),
        (__file__, f"a command comes before the file: savefmt info {__file__}"),
        ("convert a b --ver", "did you mean --verify or --verbose?"),
        ("convert a b --image-format sparse", "did you mean -O?"),
        ("convert a b --overwrite", "did you mean --force?"),
        ("convert a b -c", "did you mean -O zstd?"),
        ("convert a b -m 4", "did you mean --threads?"),
        ("convert -f raw a b", "savefmt sees for itself what a file is"),
        ("convert a b --parallel-channels 4", "did you mean --threads?"),
        ("fleet search . --text=", "argument --text: the value is empty"),
        ("hash a --block=", "argument --block: the value is empty"),
        ("fleet search . --txt x", "there is no option --txt; did you mean --text?"),
        ("convert --verfy", "there is no option --verfy; did you mean --verify?"),
        ("help diff", "did you mean compare?"),
        ("completion --quite", "there is no option --quite; did you mean --quiet?"),
        ("save a --parallel-channels 4", "did you mean --parallel?"),
        ("convert a b c", "one name too many: 'c'"),
        ("save domain file --qmp x", "`virsh save` saves those"),
        ("save domain file", "`virsh save` saves those"),
        ("save file", "use `virsh save` for a guest of libvirt"),
        ("restore file", "use `virsh restore` for a guest of libvirt"),
        ("info \x1b[31m --pages\x1b[31m", r"there is no option --pages\x1b[31m"),
        ("\x1b[31m", r"\x1b[31m"),
    ],
)
def test_what_was_meant(run: Run, words: str, hint: str) -> None:
    outcome = run(*words.split())

    assert outcome.code == 64
    assert hint in outcome.err
    assert outcome.err.count("\n") == 1
    assert "\x1b" not in outcome.err


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("commit", "compat"),
        ("resize", "restore"),
        ("convert --s a b", "--lost"),
        ("save --domain a", "--format"),
        ("export -c a b", "-O"),
        ("restore --xml a b", "--qmp"),
    ],
)
def test_no_guess_is_better_than_a_wrong_one(run: Run, words: str, wrong: str) -> None:
    outcome = run(*words.split())

    assert outcome.code == 64
    assert wrong not in outcome.err.partition("did you mean")[2]


def test_every_command_that_writes_a_file_has_a_dry_run_and_force() -> None:
    for parser in COMMANDS:
        names = set(parser._option_string_actions)
        words = parser.prog.removeprefix("savefmt ")
        changing = WRITE_FILES | CHANGE_IMAGES | CHANGE_GUESTS
        assert (words in changing) == ({"-n", "--dry-run"} <= names), words
        assert (words in WRITE_FILES) == ({"-F", "--force"} <= names), words


@pytest.mark.parametrize(
    "words",
    [
        "convert IMAGE new -O raw",
        "export IMAGE new",
        "export IMAGE new -O blocks",
        "map IMAGE --png new",
        "prepare IMAGE new",
        "clone IMAGE new",
        "clone IMAGE new --libvirt",
        "bench . --size=1M --fill",
        "bench . --plot new.svg --size=1M --fill",
        "xml set IMAGE --running",
        "save-image-define IMAGE --running",
        "report IMAGE --quick",
    ],
)
def test_a_dry_run_writes_nothing(
    run: Run, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "image"
    image.mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    path = str(unpack("libvirt-sparse", image))
    before = Path(path).read_bytes()

    outcome = run(*(path if word == "IMAGE" else word for word in words.split()), "-n")

    assert (outcome.code, os.listdir()) == (0, [])
    assert Path(path).read_bytes() == before
    assert "would" in outcome.out + outcome.err


def test_formats_have_one_name() -> None:
    for parser in COMMANDS:
        named = parser._option_string_actions
        if "--format" in named:
            assert named["--format"].dest == named["-O"].dest == "format"
            assert named["--format"].help == argparse.SUPPRESS
            assert named["--format"].choices == named["-O"].choices
        if "--output" in named and parser.prog.split()[1] != "help":
            assert named["-j"].const == "json"
            assert "human" in (named["--output"].choices or ())


def file_names() -> Iterator[tuple[Parser, argparse.Action]]:
    for parser in COMMANDS:
        for action in parser._actions:
            if getattr(action, "complete", None) is COMPLETE_FILE:
                assert isinstance(parser, Parser)
                yield parser, action


def test_a_dash_is_a_stream_or_refused() -> None:
    taken = set()
    for parser, action in file_names():
        assert callable(action.type)
        with suppress(argparse.ArgumentTypeError):
            action.type("-")
            taken.add(f"{parser.prog.removeprefix('savefmt ')} {action.metavar}")

    assert taken == {
        *("convert SRC", "convert DST", "save TARGET", "save FILE", "plan TARGET"),
        *("xml set XML", "save-image-define XML", "hash MANIFEST", "search FILE"),
        *(f"fleet {verb} LIST" for verb in VERBS),
    }


def test_no_value_and_no_file_name_is_empty(run: Run) -> None:
    """A shell makes such words of variables that are not set."""
    for words, action, name in options():
        if not isinstance(action, argparse.BooleanOptionalAction) and action.nargs is None:
            empty = [f"{name}="] if name.startswith("--") else [name, ""]
            outcome = run(*words.split(), *empty)
            assert outcome.code == 64
            assert "the value is empty" in outcome.err, f"{words} {name}"
    for _, action in file_names():
        assert callable(action.type)
        with pytest.raises(argparse.ArgumentTypeError, match="empty"):
            action.type("")


def test_export_writes_no_file_called_dash(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = unpack("libvirt-sparse", tmp_path)

    outcome = run("export", str(image), "-")

    assert outcome.code == 64
    assert outcome.err.startswith("savefmt: argument TARGET: no format for other tools can be")
    assert not Path("-").exists()


def a_closed_descriptor() -> int:
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    return fd


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}", "/dev//fd/../fd/{}"])
def test_a_descriptor_that_is_not_open_is_no_file(run: Run, tmp_path: Path, name: str) -> None:
    """Else the first image would be opened as that number, and be compared with itself."""
    image = str(unpack("libvirt-sparse", tmp_path))
    closed = name.format(a_closed_descriptor())

    for words in (["compare", image, closed], ["convert", image, closed, "-F"]):
        outcome = run(*words)
        assert outcome.code == 64
        assert "this descriptor is not open" in outcome.err


def test_progress_needs_an_open_descriptor(run: Run, tmp_path: Path) -> None:
    image = str(unpack("libvirt-sparse", tmp_path))
    target = tmp_path / "target"

    outcome = run("convert", image, str(target), f"--progress={a_closed_descriptor()}")

    assert outcome.code == 64
    assert "Bad file descriptor" in outcome.err
    assert not target.exists()


def test_progress_needs_a_descriptor_for_writing(run: Run, tmp_path: Path) -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    try:
        outcome = run("info", "a", f"--progress={fd}")
    finally:
        os.close(fd)

    assert outcome.code == 64
    assert "not open for writing" in outcome.err
    for words in ("99999999999999999999", "-1", "x"):
        assert run("info", "a", f"--progress={words}").code == 64


def test_progress_does_not_go_into_the_image(run: Run, tmp_path: Path) -> None:
    image = str(unpack("libvirt-sparse", tmp_path))

    outcome = run("convert", image, "-", "-O", "raw", "-F", "--progress=1")

    assert outcome.code == 64
    assert "--progress" in outcome.err


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 40, str(1 << 64)])
def test_no_address_is_that_high(run: Run, number: str) -> None:
    outcome = run("read", "image", number, "1", "--physical")

    assert outcome.code == 64
    assert "Traceback" not in outcome.err
    assert len(outcome.err) < 6000
