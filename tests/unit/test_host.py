"""What a host says of an image: its libvirt, its QEMU, its programs, its memory."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakeqemu
import pytest
from builder import make_envelope, make_stream
from oracle import compress

import savefmt
from savefmt.compat import host, trust
from savefmt.compat.ask import ask as ask_qemu
from savefmt.compat.host import HostQuestion, NoSuchEmulatorError, probe_host, trusted_emulator
from savefmt.compat.releases import Release
from savefmt.compat.traits import examine
from savefmt.errors import ConversionError
from savefmt.model import Finding, Severity
from savefmt.qmp import Monitor, MonitorError
from savefmt.reports import HostReport

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
DOMAIN = "<domain type='qemu'><devices><emulator>{}</emulator></devices></domain>\n"


@pytest.fixture(autouse=True)
def libvirt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed, the libvirt of these tests is 11.3."""
    monkeypatch.setattr(host, "installed_libvirt", lambda: Release(11, 3))


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose name leaves room for the path of a socket."""
    with tempfile.TemporaryDirectory(prefix="savefmt-") as folder:
        yield Path(folder)


def image(folder: Path, form: str = "raw", emulator: str = "/usr/bin/none", **more: Any) -> Path:
    number = {"raw": 0, "zstd": 5, "sparse": 6}[form]
    prefix = make_envelope(format=number, xml=DOMAIN.format(emulator).encode())
    path = folder / "image"
    if form == "zstd":
        path.write_bytes(prefix + compress("zstd", make_stream(**more)))
    else:
        layout = "mapped-ram" if form == "sparse" else "sequential"
        path.write_bytes(make_stream(layout=layout, prefix=prefix, **more))
    return path


def ask(path: Path, timeout: float = 5, **question: Any) -> HostReport:
    with savefmt.open(path) as opened:
        return probe_host(opened, examine(opened), HostQuestion(timeout=timeout, **question))


def codes(report: HostReport) -> dict[str, Severity]:
    return {finding.code: finding.severity for finding in report.findings}


def qemu(folder: Path, **kind: Any) -> str:
    return fakeqemu.write_program(folder / "qemu-system-fake", fakeqemu.answers(**kind))


def test_a_host_that_has_all(tmp_path: Path) -> None:
    path = image(tmp_path, "sparse")

    report = ask(path, binary=qemu(tmp_path))

    assert codes(report) == {"libvirt.pair": NOTE}  # direct-io, which stays set
    assert (report.libvirt, report.qemu_release, report.machine) == ("11.3", "10.0.2", "known")
    assert (report.mapped_ram, report.direct_io, report.multifd) == (True, True, True)
    assert report.default_ram_id == "pc.ram"
    with savefmt.open(path) as opened:
        assert report.memory_needed == sum(b.used_length for b in opened.blocks.values())
    assert report.memory_available is not None


@pytest.mark.parametrize(
    ("form", "kind", "code", "severity", "words"),
    [
        ("raw", {"machine": {"name": "pc-q35-9.2"}}, "host.machine", ERROR, "no machine type"),
        (
            "raw",
            {"machine": {**fakeqemu.MACHINE, "deprecated": True}},
            "host.machine",
            NOTE,
            "deprecated",
        ),
        (
            "raw",
            {"machine": {**fakeqemu.MACHINE, "default-ram-id": "mem"}},
            "host.ram-id",
            NOTE,
            "'mem'",
        ),
        ("sparse", {"capabilities": ["multifd"]}, "host.mapped-ram", ERROR, "no mapped-ram"),
        ("sparse", {"parameters": []}, "host.direct-io", NOTE, "page cache"),
        ("sparse", {"version": (9, 2, 0)}, "qemu.command", ERROR, "command 11"),
    ],
)
def test_what_qemu_lacks(
    form: str, kind: dict[str, Any], code: str, severity: Severity, words: str, tmp_path: Path
) -> None:
    report = ask(image(tmp_path, form), binary=qemu(tmp_path, **kind))

    (finding,) = [f for f in report.findings if f.code == code]
    assert finding.severity is severity
    assert words in finding.message


@pytest.mark.parametrize(
    ("kind", "kvm", "lacking", "code"),
    [
        ("qemu", False, [], None),
        ("qemu", False, ["avx"], "host.cpu"),
        ("kvm", True, [], None),
        ("kvm", True, ["avx"], "host.cpu"),
        ("kvm", False, [], "host.kvm"),
    ],
)
def test_the_processor_of_a_host(
    kind: str, kvm: bool, lacking: list[str], code: str | None, tmp_path: Path
) -> None:
    """A host-model guest's processor stands in the cookie alone."""
    cookie = (
        b"<cookie><cpu mode='custom' match='exact' check='full'><model>qemu64</model>"
        b"<feature policy='require' name='f16c'/></cpu></cookie>"
    )
    xml = f"<domain type='{kind}'><cpu mode='host-model'/></domain>".encode()
    path = tmp_path / "image"
    path.write_bytes(make_stream(prefix=make_envelope(xml=xml, cookie=cookie)))
    known = {
        **fakeqemu.answers(),
        "query-kvm": {"enabled": kvm},
        "query-cpu-definitions": [{"name": "qemu64", "unavailable-features": lacking}],
        "query-cpu-model-expansion": {"model": {"props": {"f16c": True}}},
    }

    report = ask(path, binary=fakeqemu.write_program(tmp_path / "qemu-system-fake", known))

    assert codes(report) == ({code: ERROR} if code else {})


def test_libvirt_and_its_qemu_are_judged_as_a_pair(tmp_path: Path) -> None:
    report = ask(image(tmp_path), binary=qemu(tmp_path, version=(11, 1, 3)))

    told = [f.message for f in report.findings if f.code == "libvirt.pair"]
    assert len(told) == 2
    assert "--bypass-cache" in told[0]
    assert "virsh save fails" in told[1]


def test_direct_io_that_is_set_is_seen(short_path: Path) -> None:
    for value in (True, False):
        known = fakeqemu.answers() | {"query-migrate-parameters": {"direct-io": value}}
        with (
            fakeqemu.listening(short_path / f"qmp{value}", known) as name,
            Monitor(name) as monitor,
        ):
            assert ask_qemu(monitor).abilities.direct_io_set is value


def test_a_machine_under_its_alias(tmp_path: Path) -> None:
    listed = {"name": "pc-q35-11.0", "alias": "pc-q35-10.0", "default-ram-id": "pc.ram"}

    assert ask(image(tmp_path), binary=qemu(tmp_path, machine=listed)).machine == "known"


def test_a_running_qemu(tmp_path: Path, short_path: Path) -> None:
    path = image(tmp_path)
    with fakeqemu.listening(short_path / "qmp", fakeqemu.answers(version=(9, 0, 0))) as socket:
        report = ask(path, socket=socket)

    assert (report.qemu, report.qemu_release) == (socket, "9.0")


def test_the_libvirt_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, program = image(tmp_path, "sparse"), qemu(tmp_path)
    monkeypatch.setattr(host, "installed_libvirt", lambda: Release(10, 0))
    (finding,) = [f for f in ask(path, binary=program).findings if f.code == "libvirt.format"]
    assert (finding.severity, finding.advice) == (ERROR, "savefmt convert -O raw")

    monkeypatch.setattr(host, "installed_libvirt", lambda: None)
    assert codes(ask(path, binary=program))["host.libvirt"] is NOTE


def test_the_program_that_decompresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, program = image(tmp_path, "zstd"), qemu(tmp_path)
    tool = tmp_path / "zstd"
    tool.touch(mode=0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask(path, binary=program).program == str(tool)

    tool.unlink()
    report = ask(path, binary=program)
    assert report.program is None
    assert codes(report)["host.program"] is ERROR


def test_the_memory_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, program = image(tmp_path), qemu(tmp_path)
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(host, "_MEMINFO", meminfo)

    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:       4 kB\n")
    report = ask(path, binary=program)
    assert report.memory_available == 4096
    assert codes(report)["host.memory"] is WARNING

    meminfo.unlink()
    assert ask(path, binary=program).memory_available is None


# Whose word is taken for what is run


def find_emulator(folder: Path, emulator: str) -> str:
    with savefmt.open(image(folder, emulator=emulator)) as opened:
        return trusted_emulator(opened)


@pytest.mark.skipif(not os.path.exists("/usr/bin/env"), reason="no program of root's")
def test_a_program_of_roots_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.path.realpath("/usr/bin/env")
    monkeypatch.setattr(trust, "_EMULATOR", re.compile(re.escape(os.path.basename(real))))

    assert find_emulator(tmp_path, "/usr/bin/env") == real


def test_a_program_that_others_may_change_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "was run"
    script = tmp_path / "qemu-system-x86_64"
    script.write_text(f"#!/bin/sh\ntouch '{marker}'\n")
    script.chmod(0o755)
    tmp_path.chmod(0o777)

    with pytest.raises(ConversionError, match="without being asked"):
        ask(image(tmp_path, emulator=str(script)))

    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/bin/sh", "without being asked"),
        ("/usr/bin/../bin/env", "without being asked"),
        ("qemu-system-x86_64", "by its path"),
        ("./qemu-system-x86_64", "by its path"),
    ],
)
def test_a_program_that_is_no_qemu_is_not_run(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=words):
        find_emulator(tmp_path, name)


@pytest.mark.parametrize(
    ("path", "uid", "mode", "trusted"),
    [
        ("/opt/qemu/kvm", 0, 0o755, True),
        ("/opt/qemu/kvm", 1000, 0o755, False),
        ("/opt/qemu/kvm", 0, 0o775, False),
        ("/opt/qemu", 0, 0o757, False),
        ("/opt", 1000, 0o755, False),
        ("/", 0, 0o1777, False),
    ],
)
def test_who_could_have_changed_a_program(
    path: str, uid: int, mode: int, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stat(place: str) -> os.stat_result:
        kept = (mode, uid) if place == path else (0o755, 0)
        return os.stat_result((kept[0], 0, 0, 1, kept[1], 0, 0, 0, 0, 0))

    monkeypatch.setattr(os, "stat", stat)

    assert trust._is_roots("/opt/qemu/kvm") is trusted


def test_a_link_is_judged_by_where_it_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "_is_roots", lambda path: True)
    link = tmp_path / "qemu-system-x86_64"
    link.symlink_to("/bin/sh")

    with pytest.raises(ConversionError, match="without being asked"):
        find_emulator(tmp_path, str(link))


def test_a_qemu_that_is_not_here(tmp_path: Path) -> None:
    with pytest.raises(NoSuchEmulatorError, match="/usr/bin/qemu-none, is not on this host"):
        find_emulator(tmp_path, "/usr/bin/qemu-none")

    report = ask(image(tmp_path, emulator="/usr/bin/qemu-none"))
    assert (report.machine, report.qemu_release) == ("unasked", None)
    (finding,) = [f for f in report.findings if f.severity is ERROR]
    assert isinstance(finding, Finding)
    assert finding.code == "host.qemu"


@pytest.mark.parametrize(
    ("script", "words"),
    [("#!/bin/sh\nexit 3\n", "does not answer like QEMU"), ("", "cannot be run")],
)
def test_a_program_that_cannot_be_asked(script: str, words: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(script)
    if script:
        program.chmod(0o755)

    with pytest.raises(MonitorError, match=words):
        ask(image(tmp_path), binary=str(program), timeout=2)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("query-version", {}),
        ("query-version", [1]),
        ("query-version", {"qemu": {"major": 10}}),
        ("query-machines", 7),
        ("query-machines", [{}]),
        ("query-migrate-parameters", None),
        ("query-migrate-capabilities", ["mapped-ram"]),
    ],
)
def test_answers_that_make_no_sense(question: str, answer: object, tmp_path: Path) -> None:
    known = fakeqemu.answers() | {question: answer}

    with pytest.raises(MonitorError, match="does not answer like QEMU"):
        ask(image(tmp_path), binary=fakeqemu.write_program(tmp_path / "program", known))


def test_a_program_that_says_nothing_is_ended(tmp_path: Path) -> None:
    program, number = tmp_path / "program", tmp_path / "pid"
    program.write_text(f"#!/bin/sh\necho $$ >'{number}'\nexec sleep 60\n")
    program.chmod(0o755)

    with pytest.raises(MonitorError, match="does not answer like QEMU"):
        ask(image(tmp_path), binary=str(program), timeout=0.5)

    with pytest.raises(ProcessLookupError):
        os.kill(int(number.read_text()), 0)
