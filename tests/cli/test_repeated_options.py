"""No option of any command drops a value that was given before."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest
from cli.fakes import Run

from savefmt.cli.main import build_parser
from savefmt.cli.parser import Parser, _Once

KEEPING = (
    argparse._AppendAction,
    argparse._CountAction,
    argparse._StoreConstAction,  # of which all but one kind stores True
    argparse.BooleanOptionalAction,  # --no-x is how one takes --x back
    argparse._HelpAction,
    argparse._VersionAction,
)


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and all below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in dict.fromkeys(action.choices.values()):
                yield from parsers(one)


ALL = list(parsers(build_parser()))


@pytest.mark.parametrize("parser", ALL, ids=lambda parser: parser.prog)
def test_every_option_keeps_or_refuses_a_second_value(parser: argparse.ArgumentParser) -> None:
    assert isinstance(parser, Parser)
    for action in parser._actions:
        if action.option_strings:
            assert isinstance(action, (*KEEPING, _Once)), action.option_strings


@pytest.mark.parametrize("parser", ALL, ids=lambda parser: parser.prog)
def test_options_for_one_thing_exclude_each_other(parser: argparse.ArgumentParser) -> None:
    groups = [set(group._group_actions) for group in parser._mutually_exclusive_groups]
    options = [action for action in parser._actions if action.option_strings]
    for one in options:
        for other in options:
            if one is not other and one.dest == other.dest != argparse.SUPPRESS:
                assert any({one, other} <= group for group in groups), (
                    one.option_strings,
                    other.option_strings,
                )


@pytest.mark.parametrize(
    ("command", "option", "values"),
    [
        ("search", "--context", ("1", "2")),
        ("search", "--max-count", ("1", "2")),
        ("convert", "-O", ("raw", "sparse")),
        ("info", "--threads", ("1", "2")),
        ("map", "--png", ("a", "b")),
        ("check", "--output", ("human", "json")),
        ("linux", "--extract", ("/a", "/b")),
        ("info", "--color", ("never", "always")),
    ],
)
def test_a_second_other_value_is_wrong_usage(
    command: str, option: str, values: tuple[str, str], run: Run
) -> None:
    done = run(command, "image", option, values[0], option, values[1])

    assert done.code == 64
    assert "given twice" in done.err


def test_the_same_value_twice_is_no_harm(run: Run) -> None:
    assert "given twice" not in run("info", "missing", "--threads", "2", "-T", "2").err


def test_lists_take_all(run: Run) -> None:
    words = ["search", "image", "--hex", "00", "--hex", "11", "--yara", "a", "--yara", "b"]
    args = build_parser(words).parse_args(words)

    assert args.hex == ["00", "11"]
    assert args.yara == ["a", "b"]
