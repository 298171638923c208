"""`savefmt save` and `savefmt restore` on the command line, without a QEMU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli.fakes import Run
from documents import valid
from golden import load

from savefmt import qemu
from savefmt.compat.policy import Abilities, Destination, Missing, SaveRequest, plan_save
from savefmt.model import IOOptions
from savefmt.qemu import Afterwards, MigrationError, RestoreReport, SaveReport
from savefmt.reports import SavePlan

ALL = Abilities(mapped_ram=True, direct_io=True)
PLAN = plan_save(SaveRequest("upstream", parallel=4, bypass_cache=True), ALL, Destination())
assert isinstance(PLAN, SavePlan)
SAVED = SaveReport(
    target="guest.save",
    domain="ticker",
    machine="pc-q35-10.0",
    plan=PLAN,
    live=False,
    state="running",
    ram_length=96 << 20,
    length=98 << 20,
    disk_length=40 << 20,
    seconds=0.21,
    held_seconds=0.18,
    notes=("a note\x1b",),
)
RESTORED = RestoreReport(
    image="guest.save",
    machine="pc-q35-10.0",
    layout="sequential",
    codec="zstd",
    channels=0,
    direct=False,
    state="paused",
    ram_length=96 << 20,
    seconds=0.5,
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Note the calls of the library, and have it answer; no settings but the built-in ones."""
    noted: list[tuple[str, dict[str, Any]]] = []
    empty = tmp_path / "empty.toml"
    empty.touch()
    monkeypatch.setenv("SAVEFMT_CONFIG", str(empty))
    monkeypatch.setattr("savefmt.compat.host.installed_libvirt", lambda: None)
    for name, report in (("save", SAVED), ("restore", RESTORED)):

        def answer(path: str, report: Any = report, **options: Any) -> Any:
            noted.append((path, options))
            return report

        monkeypatch.setattr(qemu, name, answer)
    return noted


def test_save(calls: list[tuple[str, dict[str, Any]]], run: Run) -> None:
    outcome = run("save", "guest.save", "--qmp", "guest.qmp")

    assert outcome.code == 0
    assert "save version 3, which no released libvirt loads" in outcome.err
    assert outcome.out.splitlines() == [
        "guest.save: ticker (pc-q35-10.0) is saved",
        "form:          upstream, sparse, 4 channels, past the page cache",
        "RAM:           96 MiB (100663296 bytes)",
        "image:         98 MiB (102760448 bytes), 40 MiB (41943040 bytes) on disk",
        "time:          0.21 s; the guest stood still, held for 0.18 s",
        "guest:         running",
        "note: a note\\x1b",
    ]
    assert calls == [
        (
            "guest.save",
            {
                "qmp": "guest.qmp",
                "request": SaveRequest(),
                "xml": None,
                "live": False,
                "afterwards": Afterwards.RESUME,
                "overwrite": False,
                "io": IOOptions(),
                "timeout": 10,
                "progress": None,
            },
        )
    ]


def test_save_options(calls: list[tuple[str, dict[str, Any]]], run: Run, tmp_path: Path) -> None:
    xml = tmp_path / "xml"
    xml.write_text("<domain type='kvm'><name>x</name></domain>")
    words = ("--format", "zstd", "--save-version", "2", "--bypass-cache", "--require", "-T", "3")

    run("save", "a", "--qmp", "s", *words, "--xml", str(xml), "--live", "-F")
    run("save", "a", "--qmp", "s", "--keep-paused")
    run("save", "a", "--qmp", "s", "--quit", "--parallel", "2")

    first, second, third = (options for _, options in calls)
    assert first["request"] == SaveRequest("2", "zstd", bypass_cache=True, missing=Missing.REQUIRE)
    assert (first["xml"], first["live"], first["overwrite"]) == (xml.read_bytes(), True, True)
    assert first["io"] == IOOptions(threads=3)
    assert second["afterwards"] is Afterwards.KEEP_PAUSED
    assert third["afterwards"] is Afterwards.QUIT
    assert third["request"].parallel == 2


@pytest.mark.usefixtures("calls")
def test_save_as_json(run: Run) -> None:
    document = valid("save", run("save", "a", "--qmp", "s", "-j").out)

    assert document["save"]["plan"]["layout"] == "mapped-ram"
    assert document["save"]["held_seconds"] == 0.18


def test_a_failed_save(
    calls: list[tuple[str, dict[str, Any]]], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str, **options: Any) -> None:
        raise MigrationError("QEMU could not save the guest: because; the guest runs on")

    monkeypatch.setattr(qemu, "save", fail)

    outcome = run("save", "a", "--qmp", "s", "-j")

    assert outcome.code == 1
    assert outcome.err == "savefmt: a: QEMU could not save the guest: because; the guest runs on\n"
    assert valid("save", outcome.out)["error"]["type"] == "MigrationError"


@pytest.mark.parametrize("broken", ["not XML", "<network/>"])
def test_the_xml_must_be_a_domain(
    broken: str, calls: list[tuple[str, dict[str, Any]]], run: Run, tmp_path: Path
) -> None:
    xml = tmp_path / "xml"
    xml.write_text(broken)

    outcome = run("save", "a", "--qmp", "s", "--xml", str(xml))

    assert outcome.code == 1
    assert outcome.err.startswith(f"savefmt: {xml}: ")
    assert calls == []


@pytest.mark.parametrize(
    "words",
    [
        ("save", "a"),
        ("save", "-", "--qmp", "s", "-j"),
        ("save", "a", "--qmp", "s", "--live", "--quit"),
        ("save", "a", "--qmp", "s", "--live", "--keep-paused"),
        ("save", "a", "--qmp", "s", "--parallel", "many"),
        ("restore", "a"),
        ("restore", "a", "--qmp", "s", "--print-command"),
        ("restore", "a", "--qmp", "s", "--paused", "--running"),
        ("restore", "a", "--qmp", "s", "--paused", "--resume"),
        ("restore", "a", "--print-command", "--resume"),
    ],
    ids=" ".join,
)
def test_wrong_usage(
    words: tuple[str, ...], calls: list[tuple[str, dict[str, Any]]], run: Run
) -> None:
    outcome = run(*words)

    assert (outcome.code, outcome.out) == (64, "")
    assert outcome.err.count("\n") == 1
    assert calls == []


def test_restore(calls: list[tuple[str, dict[str, Any]]], run: Run) -> None:
    outcome = run("restore", "guest.save", "--qmp", "s", "--parallel", "2", "--paused")

    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        "guest.save: restored (pc-q35-10.0)",
        "form:          zstd",
        "RAM:           96 MiB (100663296 bytes)",
        "time:          0.50 s",
        "guest:         paused",
    ]
    assert calls == [
        (
            "guest.save",
            {
                "qmp": "s",
                "parallel": 2,
                "bypass_cache": False,
                "running": False,
                "resume": False,
                "ignore": [],
                "binary": None,
                "dry_run": False,
                "io": IOOptions(),
                "timeout": 10,
                "progress": None,
            },
        )
    ]
    assert valid("restore", run("restore", "a", "--qmp", "s", "-j").out)["restore"]["codec"]


def test_what_a_restore_would_do(
    calls: list[tuple[str, dict[str, Any]]], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("restore", "guest.save", "--qmp", "s", "-n")
    monkeypatch.setattr(qemu, "restore", lambda path, **options: replace(RESTORED, dry_run=True))

    out = run("restore", "guest.save", "--qmp", "s", "-n").out

    assert calls[0][1]["dry_run"] is True
    assert out.splitlines() == [
        "guest.save: would be restored (pc-q35-10.0)",
        "form:          zstd",
        "RAM:           96 MiB (100663296 bytes)",
        "guest:         would be paused",
    ]


def test_print_command(run: Run, tmp_path: Path) -> None:
    image = load.unpack("libvirt-devices", tmp_path)

    out = run("restore", str(image), "--print-command").out
    document = valid("restore", run("restore", str(image), "--print-command", "-j").out)

    lines = out.splitlines()
    start = lines.index("qemu-system-x86_64 \\")
    assert all(line.startswith("# ") for line in lines[:start])
    assert "  -machine pc-i440fx-9.2,accel=tcg,memory-backend=pc.ram \\" in lines
    assert lines[-1] == "  -qmp unix:guest.qmp,server=on,wait=off"
    assert document["command"]["words"][0] == ["qemu-system-x86_64"]


def test_a_live_guest_that_stays_paused_is_told_so(
    calls: list[tuple[str, dict[str, Any]]], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused = replace(SAVED, live=True, state="paused", length=None, disk_length=None)
    monkeypatch.setattr(qemu, "save", lambda path, **options: paused)

    out = run("save", "a", "--qmp", "s").out

    assert "time:          0.21 s; the guest ran meanwhile\n" in out
    assert "image:" not in out
