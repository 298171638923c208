"""compat, check --for, convert --for, plan and config on the command line."""

from __future__ import annotations

import json
import re
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakeqemu
import pytest
from builder import make_envelope, make_stream
from cli.fakes import Run
from documents import valid

from savefmt.compat import host
from savefmt.compat.config import SETTINGS
from savefmt.compat.releases import MILESTONES, Release

DOMAIN = b"<domain type='qemu'><devices><emulator>/bin/sh</emulator></devices></domain>\n"


@pytest.fixture(autouse=True)
def own_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings but the test's own, and no libvirt."""
    monkeypatch.setenv("SAVEFMT_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").touch()
    monkeypatch.setattr(host, "installed_libvirt", lambda: None)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose name leaves room for the path of a socket."""
    with tempfile.TemporaryDirectory(prefix="savefmt-") as folder:
        yield Path(folder)


def image(folder: Path, layout: str = "sequential", **more: Any) -> str:
    number = 6 if layout == "mapped-ram" else 0
    path = folder / "image"
    prefix = make_envelope(format=number, xml=DOMAIN)
    path.write_bytes(make_stream(layout=layout, prefix=prefix, **more))
    return str(path)


# compat


def test_the_table_of_an_image(run: Run, tmp_path: Path) -> None:
    path = image(tmp_path, "mapped-ram", machine="pc-q35-8.1", switchover=False)

    done = run("compat", path, "--all")

    lines = done.out.splitlines()
    assert (done.code, lines[0]) == (0, f"{tmp_path}/image: machine type pc-q35-8.1")
    assert "  libvirt 1.0 to 10.4   no       the sparse format came with libvirt 11.2" in lines
    assert f"{'':33}savefmt convert -O raw makes it loadable" in lines
    assert "  libvirt 11.2 to 12.8  yes-but  the QEMU it starts must be 9.0 or later" in lines
    assert f"{'':33}savefmt convert -O raw makes it a yes" in lines
    assert "  QEMU 9.1 to 11.0      yes" in lines
    ends = re.findall(r"^  (libvirt|QEMU) (\S+)(?: to (\S+))?", done.out, re.MULTILINE)
    named = [f"{program} {end}" for program, *both in ends for end in both if end]
    known = [str(reader) for reader in MILESTONES]
    assert named == sorted(named, key=known.index)
    assert {named[0], named[-1]} == {known[0], known[-1]}


def test_the_table_of_what_people_run(run: Run, tmp_path: Path) -> None:
    done = run("compat", image(tmp_path, "mapped-ram", machine="pc-q35-8.1", switchover=False))

    rows = [re.split(r"  +", line.strip()) for line in done.out.splitlines()[1:]]
    assert [row[:2] for row in rows if len(row) > 1] == [
        ["libvirt 8.0 to 10.10 (Ubuntu 22.04, Debian 12, Ubuntu 24.04, RHEL 9.6, RHEL 10.0)", "no"],
        ["libvirt 11.3 to 12.0 (Debian 13, RHEL 10.1, Fedora 43, Fedora 44, Ubuntu 26.04)", "yes"],
        ["QEMU 6.2 to 7.2 (Ubuntu 22.04, Debian 12)", "no"],
        ["QEMU 8.2 (Ubuntu 24.04)", "no"],
        ["QEMU 10.0 to 10.2 (Debian 13, Fedora 43, Fedora 44, Ubuntu 26.04)", "yes"],
        ["QEMU 9.1 to 10.0 (RHEL 9.6, RHEL 10.0, RHEL 10.1)", "no"],
    ]


def test_the_table_for_programs(run: Run, tmp_path: Path) -> None:
    path = image(tmp_path, machine="microvm")

    done = run("compat", path, "--for", "qemu=9.2", "--for", "libvirt=proposed", "-j")

    document = valid("compat", done.out)
    one, other = document["compatibility"]["verdicts"]
    assert (one["program"], one["release"], one["answer"]) == ("qemu", "9.2", "no")
    assert one["conversion"] == ["--for qemu=9.2"]
    assert (other["release"], other["answer"]) == ("proposed", "yes")


def test_no_table_of_what_is_no_image(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"something else altogether")

    for name in ("other", "missing"):
        done = run("compat", str(tmp_path / name), "-j")
        assert done.code == 1
        assert "error" in valid("compat", done.out)


# check --for


@pytest.mark.parametrize(
    ("machine", "readers", "code", "words"),
    [
        ("pc-q35-8.2", ["libvirt=9.0.0", "qemu=8.2.2"], 0, "sound"),
        ("pc-q35-8.2", ["qemu=8.1"], 2, "came with QEMU 8.2"),
        ("microvm", ["qemu=10.0"], 3, "has no version"),
        ("microvm", ["qemu=10.0", "qemu=9.2"], 2, "savefmt convert --for qemu=9.2"),
    ],
)
def test_exit_codes_for_readers(
    machine: str, readers: list[str], code: int, words: str, run: Run, tmp_path: Path
) -> None:
    path = image(tmp_path, machine=machine, switchover=machine == "microvm")

    done = run("check", path, *(word for reader in readers for word in ("--for", reader)))

    assert done.code == code
    assert words in done.out


@pytest.mark.parametrize("reader", ["xen=4", "qemu", "qemu=new"])
def test_a_reader_that_makes_no_sense(reader: str, run: Run, tmp_path: Path) -> None:
    assert run("check", image(tmp_path), "--for", reader).code == 64


def test_check_asks_a_program(run: Run, tmp_path: Path) -> None:
    path = image(tmp_path, "mapped-ram")
    able = fakeqemu.write_program(tmp_path / "able", fakeqemu.answers())
    unable = fakeqemu.write_program(
        tmp_path / "unable", fakeqemu.answers(capabilities=(), parameters=())
    )

    done = run("check", path, "--qemu-binary", able, "-j")
    (answer,) = valid("check", done.out)["hosts"]
    assert done.code == 0
    assert (answer["qemu"], answer["machine"], answer["mapped_ram"]) == (able, "known", True)

    done = run("check", path, "--qemu-binary", unable)
    assert done.code == 2
    assert "[host.mapped-ram]" in done.out
    assert f"QEMU 10.0.2 ({unable}): neither mapped-ram nor multifd" in done.out


def test_check_asks_a_socket(run: Run, tmp_path: Path, short_path: Path) -> None:
    path = image(tmp_path)
    with fakeqemu.listening(short_path / "qmp", fakeqemu.answers()) as socket:
        done = run("check", path, "--qmp", socket)

    assert done.code == 0
    assert f"QEMU 10.0.2 ({socket}): mapped-ram, direct I/O, multifd" in done.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host"], "without being asked"),
        (["--qemu-binary", "/bin/false"], "does not answer like QEMU"),
        (["--qmp", "/nowhere/qmp"], "no such socket"),
    ],
)
def test_who_cannot_be_asked_gives_no_verdict(
    options: list[str], words: str, run: Run, tmp_path: Path
) -> None:
    done = run("check", image(tmp_path), *options)

    assert done.code == 1
    assert words in done.err


# convert --for


def test_convert_tells_what_it_changed(run: Run, tmp_path: Path) -> None:
    path = image(tmp_path, "mapped-ram", machine="microvm")

    done = run("convert", path, str(tmp_path / "new"), "--for", "qemu=8.2")

    assert done.code == 0
    assert "1 x command 11 left out for QEMU 8.2" in done.out
    assert "format sparse became raw for QEMU 8.2" in done.out
    assert run("check", str(tmp_path / "new"), "--for", "qemu=8.2").code == 3  # no version


def test_convert_refuses_what_cannot_be(run: Run, tmp_path: Path) -> None:
    done = run("convert", image(tmp_path), str(tmp_path / "new"), "--for", "qemu=9.2")

    assert done.code == 1
    assert "the machine type pc-q35-10.0 came with QEMU 10.0" in done.err
    assert not (tmp_path / "new").exists()


# plan


def test_a_plan(run: Run, tmp_path: Path) -> None:
    done = run("plan", str(tmp_path / "x"), "--qemu-release", "9.0", "--parallel", "4")

    assert done.code == 0
    assert done.out.splitlines() == [
        "save version:  3, which no released libvirt loads",
        "format:        sparse (0 in the header, features 0x1)",
        "layout:        mapped-ram",
        "capabilities:  mapped-ram, multifd",
        "channels:      4",
        "page cache:    used",
        "written by:    QEMU itself (plain)",
    ]
    assert list(tmp_path.glob("x*")) == []


def test_a_plan_for_programs(run: Run, tmp_path: Path) -> None:
    words = ("plan", str(tmp_path / "x"), "--qemu-release", "8.2", "-j")

    done = run(*words, "--for", "libvirt=11.3")
    plan = valid("plan", done.out)["plan"]
    assert (done.code, plan["form"], plan["layout"]) == (0, "upstream", "sequential")
    assert plan["notes"]

    done = run(*words, "--require")
    assert (done.code, valid("plan", done.out)["refusal"]["code"]) == (1, "no-mapped-ram")


def test_a_plan_follows_the_settings(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('save_version = "2"\nformat = "zstd"\n')
    words = ("plan", str(tmp_path / "x"), "--qemu-release", "9.1", "-j")

    assert valid("plan", run(*words).out)["plan"]["codec"] == "zstd"
    flagged = valid("plan", run(*words, "--save-version", "3", "--format", "sparse").out)["plan"]
    assert (flagged["version"], flagged["layout"]) == (3, "mapped-ram")


def test_a_plan_with_the_libvirt_of_the_host(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "installed_libvirt", lambda: Release(11, 3))
    words = ("plan", str(tmp_path / "x"), "--qemu-release", "9.1", "-j")

    assert valid("plan", run(*words).out)["plan"]["form"] == "upstream"
    assert valid("plan", run(*words, "--for", "qemu=9.1").out)["plan"]["form"] == "3"
    assert valid("plan", run(*words, "--save-version", "2").out)["plan"]["form"] == "2"
    named = valid("plan", run(*words, "--save-version", "3", "--require").out)["plan"]
    assert (named["form"], named["layout"]) == ("3", "mapped-ram")  # that libvirt or not


@pytest.mark.parametrize(
    ("words", "setting", "told"),
    [
        ((), "", True),
        (("-j",), "", True),
        (("--for", "qemu=9.1"), "", True),
        (("-q",), "", False),
        (("--save-version", "3"), "", False),
        (("--save-version", "2"), "", False),
        (("--for", "libvirt=11.3"), "", False),
        ((), 'save_version = "3"', False),
    ],
)
def test_who_gets_version_3_unnamed_is_told(
    run: Run, tmp_path: Path, words: tuple[str, ...], setting: str, told: bool
) -> None:
    (tmp_path / "config.toml").write_text(setting)

    done = run("plan", str(tmp_path / "x"), "--qemu-release", "9.1", *words)

    assert (
        done.err.splitlines()
        == [
            "savefmt: save version 3, which no released libvirt loads; --save-version, or the "
            "setting save_version, names another"
        ]
        * told
    )


def test_a_plan_asks_a_program_or_a_socket(run: Run, tmp_path: Path, short_path: Path) -> None:
    program = fakeqemu.write_program(tmp_path / "old", fakeqemu.answers(capabilities=()))
    done = run("plan", str(tmp_path / "x"), "--require", "--qemu-binary", program)
    assert (done.code, "[no-mapped-ram]" in done.out) == (1, True)

    with fakeqemu.listening(short_path / "qmp", fakeqemu.answers()) as socket:
        done = run("plan", str(tmp_path / "x"), "--require", "--qmp", socket)
    assert (done.code, "layout:        mapped-ram" in done.out) == (0, True)


def test_a_save_that_is_only_planned(run: Run, tmp_path: Path, short_path: Path) -> None:
    with fakeqemu.listening(short_path / "qmp", fakeqemu.answers()) as socket:
        done = run("save", str(tmp_path / "x"), "--qmp", socket, "-n", "-j")

    assert done.code == 0
    assert valid("save", done.out)["plan"]["layout"] == "mapped-ram"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("target", "code"), [("/dev/null", "not-seekable"), ("-", "not-seekable")])
def test_a_plan_looks_at_the_target(target: str, code: str, run: Run) -> None:
    done = run("plan", target, "--qemu-release", "9.1", "--require", "-j")

    assert valid("plan", done.out)["refusal"]["code"] == code


# config


def test_the_settings_are_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('parallel = 4\nreaders = ["qemu=9.0"]\n')

    done = run("config", "show")

    assert done.code == 0
    shown = tomllib.loads(done.out)
    assert (shown["parallel"], shown["readers"]) == (4, ["qemu=9.0"])
    for setting in SETTINGS:
        assert f"{setting.name} " in done.out
    (tmp_path / "config.toml").write_text(done.out)
    assert tomllib.loads(run("config", "show").out) == shown


def test_the_settings_for_programs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAVEFMT_BYPASS_CACHE", "yes")

    settings = valid("config", run("config", "show", "-j").out)["settings"]

    assert settings["bypass_cache"] == {"value": True, "origin": "SAVEFMT_BYPASS_CACHE"}
    assert settings["format"] == {"value": "auto", "origin": "built in"}


def test_a_wrong_setting_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("paralel = 4\n")

    for words in (["config", "show"], ["plan", str(tmp_path / "x"), "--qemu-release", "9.1"]):
        done = run(*words)
        assert done.code == 1
        assert "no setting 'paralel'" in done.err
    assert json.loads(run("config", "show", "-j").out)["error"]["type"] == "ConfigError"
