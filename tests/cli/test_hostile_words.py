"""Nothing that a file, the environment or the user says reaches the terminal as a command."""

from __future__ import annotations

import io
import os
import time
import unicodedata
from pathlib import Path

import pytest
from builder import make_envelope, make_stream
from cli.fakes import Run
from documents import valid

from savefmt.cli.render.plain import LONGEST, only_colors, plain
from savefmt.compat.config import load

ESCAPE = "\x1b]0;owned\x07\x9b31m\u202e\u200b\u2028\ud800"
HASHES = "# savefmt hash 1 sha256\n" + "0" * 64 + "  block:"


def dangerous(text: str) -> set[str]:
    """Return what no terminal should get."""
    return {
        c for c in text if c != "\n" and (unicodedata.category(c)[0] == "C" or c in "\u2028\u2029")
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Gäste, 客", "Gäste, 客"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\x9b31m", r"\x9b31m"),
        ("a\rb\n\tc\x7f", r"a\rb\n\tc\x7f"),
        ("\u202egpj.exe\u2066", r"\u202egpj.exe\u2066"),
        ("a\u200b\u200d\ufeff\u00adb", r"a\u200b\u200d\ufeff\xadb"),
        ("a\u00a0\u3000b", r"a\xa0\u3000b"),
        ("a\u3164\u115f\ufe0f\u2800\U000e0101b", r"a\u3164\u115f\ufe0f\u2800\U000e0101b"),
        ("\udcff\ud800", r"\udcff\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_plain(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_plain_ends() -> None:
    assert plain("x" * LONGEST) == "x" * LONGEST
    assert plain("x" * 10_000_000) == f"{'x' * LONGEST}... (10000000 characters)"
    assert len(plain("\x00" * 10_000_000)) < 5 * LONGEST


def test_the_last_net_lets_colors_pass() -> None:
    assert only_colors("\x1b[1;31mred\x1b[0m") == "\x1b[1;31mred\x1b[0m"
    assert only_colors("\x1b[31m\x1b]0;title\x07\x1b[2J") == "\x1b[31m\\x1b]0;title\\x07\\x1b[2J"


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "image"
    path.write_bytes(make_stream())
    return str(path)


@pytest.mark.parametrize("options", [[], ["-q"], ["-j"], ["--output=jsonl"]])
def test_a_manifest(run: Run, image: str, tmp_path: Path, options: list[str]) -> None:
    manifest = tmp_path / "manifest"
    manifest.write_text(f"{HASHES}{ESCAPE[:-1]}\n", encoding="utf-8")

    outcome = run("hash", image, "--check", str(manifest), *options)

    assert outcome.code == 1
    assert "owned" in outcome.out
    assert dangerous(outcome.out + outcome.err) == set()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x1b[31m",
        f"{HASHES}x",
        f"{HASHES}x\n\x1b[31m",
        "# savefmt hash 1 \x1b[31m",
        "\0" * 200_000,
    ],
)
def test_what_is_no_manifest(run: Run, image: str, tmp_path: Path, text: str) -> None:
    manifest = tmp_path / "manifest"
    manifest.write_text(text)

    outcome = run("hash", image, "--check", str(manifest))

    assert outcome.code == 1
    assert dangerous(outcome.out + outcome.err) == set()


def test_an_endless_manifest_ends(run: Run, image: str) -> None:
    began = time.monotonic()

    assert run("hash", image, "--check", "/dev/zero").code == 1
    assert time.monotonic() - began < 10


def test_a_manifest_on_standard_input(
    run: Run, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run("hash", image).out
    for text, code in ((made, 0), (made.replace("0", "1"), 1), ("", 1)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        outcome = run("hash", image, "--check", "-")
        assert outcome.code == code
    assert outcome.err.startswith(
        "savefmt: standard input: this is not a manifest of savefmt hash: "
    )


def test_a_name_of_ten_megabytes(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "image"
    name = "x" * 10_000_000
    xml = f"<domain type='kvm'><name>{name}</name></domain>".encode()
    path.write_bytes(make_envelope(xml=xml) + make_stream())

    assert len(run("info", str(path)).out) < 3 * LONGEST
    assert valid("info", run("info", str(path), "-j").out)["images"][0]["domain_name"] == name


def test_xml_on_a_terminal(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image"
    xml = b"<domain>\n\t<name>\x1b[31m\xff\r</name></domain>\n"
    path.write_bytes(make_envelope(xml=xml) + make_stream())

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    shown = run("xml", "dump", str(path), "--color=never").out
    assert shown == "<domain>\n        <name>\\x1b[31m\\udcff\\r</name></domain>\n\n"


@pytest.mark.parametrize("words", [["info"], ["info", "-vv"], ["check", "-j"], ["map", "-vv"]])
def test_names_of_files(run: Run, words: list[str]) -> None:
    outcome = run(*words, f"/nowhere/{ESCAPE[:-1]}\udcff")

    assert outcome.code == 1
    assert "owned" in outcome.err
    assert dangerous(outcome.out + outcome.err) == set()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a" + ".a" * 300 + " = 1", "there is no setting 'a'"),
        ("a" + ".a" * 300_000 + " = 1", "longer than 64 KiB"),
        ("a" + ".a" * 30_000 + " = 1", "a line has more than 1 KiB"),
        ("a = " + "[\n" * 20_000, "nests too deep"),
        ("timeout = " + "\n[" * 1, "this is not valid TOML"),
        ("timeout = 0x" + "f" * 900, "must be a number of seconds"),
        ("timeout = " + "9" * 900, "must be a number of seconds"),
        ("\x1b[31m = 1", "this is not valid TOML"),
        ('"\\u001b[31m" = 1', "there is no setting"),
        ('"\\u202e" = 1', "there is no setting"),
        ('readers = ["\\u001b[31m"]', "is not a reader"),
        ("\0", "this is not valid TOML"),
    ],
)
def test_settings(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    monkeypatch.setenv("SAVEFMT_CONFIG", str(file))
    began = time.monotonic()

    outcome = run("config", "show")

    assert outcome.code == 1
    assert told in outcome.err
    assert dangerous(outcome.out + outcome.err) == set()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SAVEFMT_TIMEOUT", "9" * 5000),
        ("SAVEFMT_TIMEOUT", "\x1b[31m"),
        ("SAVEFMT_PARALLEL", "9" * 5000),
        ("SAVEFMT_READERS", "\x1b[31m"),
        ("SAVEFMT_\x1b[31m", "1"),
        ("SAVEFMT_CONFIG", "/dev/zero"),
        ("SAVEFMT_CONFIG", "/"),
    ],
)
def test_the_environment(
    run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    outcome = run("config", "show")

    assert outcome.code == 1
    assert dangerous(outcome.out + outcome.err) == set()


def test_what_the_tests_are_told_is_no_setting(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INTEROP", "FORENSICS"):
        monkeypatch.setenv(f"SAVEFMT_REQUIRE_{name}", "1")

    assert run("config", "show").code == 0


def test_somebody_without_a_home_has_settings_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)

    assert load({}, system_file=tmp_path / "none").timeout == 10


@pytest.mark.parametrize("command", ["'", '"', "vi '", "\\"])
def test_an_editor_that_is_no_command(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    path = tmp_path / "image"
    path.write_bytes(make_envelope() + make_stream())
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", command)

    outcome = run("xml", "edit", str(path))

    assert outcome.code == 1
    assert "$EDITOR is not a command" in outcome.err
    assert list(tmp_path.glob("savefmt-*")) == []


def test_a_blank_editor_is_none(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a program, the draft itself would be run."""
    path = tmp_path / "image"
    path.write_bytes(make_envelope() + make_stream())
    (tmp_path / "vi").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "vi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("VISUAL", " ")
    monkeypatch.setenv("EDITOR", "")

    assert run("xml", "edit", str(path)).out == f"{path}: not changed\n"


@pytest.mark.parametrize("words", [["xml", "set", "IMAGE"], ["save", "x", "--qmp=x", "--xml"]])
def test_an_endless_document_ends(run: Run, tmp_path: Path, words: list[str]) -> None:
    path = tmp_path / "image"
    path.write_bytes(make_envelope() + make_stream())

    outcome = run(*(str(path) if word == "IMAGE" else word for word in words), "/dev/zero")

    assert outcome.code == 1
    assert "longer than 64 MiB" in outcome.err
