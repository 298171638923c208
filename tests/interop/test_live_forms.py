"""`savefmt.qemu` carries out every plan of the policy, and restores what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from documents import valid as document
from loopdevices import loop_device
from unit.test_policy import CASES, QEMUS, TARGETS, Case, plan_of

import savefmt
from interop.conftest import need_direct_io, need_machine
from interop.live import MACHINE, Collector, LiveGuest, tiny_arguments, tiny_guest
from interop.qemu import hidden_emulator
from savefmt import qemu
from savefmt.compat import ask, destination
from savefmt.compat.policy import (
    Abilities,
    Destination,
    DestinationKind,
    Missing,
    SaveRequest,
    plan_save,
)
from savefmt.model import CheckLevel, Layout, Severity
from savefmt.qemu import Afterwards, saving
from savefmt.reports import Refusal, SavePlan

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, qemu: None) -> Iterator[LiveGuest]:
    """A guest that has filled its pages and halts: its memory stays as it is."""
    need_machine(MACHINE)
    with tiny_guest(tmp_path_factory.mktemp("halted")) as halted:
        yield halted


@pytest.fixture(scope="module")
def reference(guest: LiveGuest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that QEMU wrote without our help."""
    path = tmp_path_factory.mktemp("reference") / "stream"
    guest.stop()
    guest.migrate_to(f"file:{path}", parameters={"max-bandwidth": 1 << 27})
    guest.cont()
    return path


def representatives() -> dict[str, Case]:
    """Return one case for every plan and target that the truth table leads to."""
    found: dict[tuple[SavePlan, DestinationKind], Case] = {}
    for case in CASES:
        plan = plan_of(case)
        volume = TARGETS[case[-1]].kind is DestinationKind.BLOCK  # has a test of its own
        if isinstance(plan, SavePlan) and not volume:
            found.setdefault((replace(plan, notes=()), TARGETS[case[-1]].kind), case)
    return {"-".join(case): case for case in found.values()}


REPRESENTATIVES = representatives()


def without(abilities: Abilities) -> Callable[[Any], ask.QemuAnswers]:
    """Return what asks a QEMU, and forgets what it can do beyond these abilities."""
    lacks = {
        name
        for name, there in (
            ("mapped-ram", abilities.mapped_ram),
            ("direct-io", abilities.direct_io),
            ("multifd", abilities.multifd),
        )
        if not there
    }

    def asked(monitor: Any) -> ask.QemuAnswers:
        answers = ask.ask(monitor)
        capabilities, parameters = answers.capabilities - lacks, answers.parameters - lacks
        return replace(answers, capabilities=capabilities, parameters=parameters)

    return asked


@pytest.mark.parametrize("case", REPRESENTATIVES.values(), ids=REPRESENTATIVES)
def test_the_plan_is_carried_out(
    case: Case,
    guest: LiveGuest,
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version, format, parallel, bypass, missing, abilities, place = case
    kind = TARGETS[place].kind
    monkeypatch.setattr(saving, "ask", without(QEMUS[abilities]))
    if kind is DestinationKind.FILE and not TARGETS[place].direct:
        monkeypatch.setattr(destination, "grants_direct", lambda folder: False)
    elif kind is DestinationKind.FILE:
        need_direct_io(tmp_path)
    collector = Collector(tmp_path) if kind is DestinationKind.PIPE else None
    path = collector.fifo if collector is not None else tmp_path / "image"
    if kind is DestinationKind.CHARACTER:
        path = Path("/dev/null")
    before, opened, ours = guest.settings(), guest.descriptors(), os.listdir("/proc/self/fd")

    report = qemu.save(
        path,
        qmp=guest.socket,
        request=SaveRequest(
            save_version=version,
            format=format,
            parallel=int(parallel) if parallel != "-" else None,
            bypass_cache=bypass != "-",
            missing=Missing(missing),
        ),
    )

    assert report.plan == plan_of(case)
    assert (report.state, guest.status) == ("running", "running")
    assert (guest.settings(), guest.descriptors()) == (before, opened)
    image = collector.finish() if collector is not None else path
    assert len(os.listdir("/proc/self/fd")) <= len(ours)
    if kind is not DestinationKind.CHARACTER:
        assert_written(image, report.plan)
        assert not savefmt.compare(image, reference).blocks
        image.unlink()


def test_a_save_into_a_volume(guest: LiveGuest, reference: Path, tmp_path: Path) -> None:
    """Of a guest of 8 MiB; what the device held before is behind it."""
    with loop_device(tmp_path / "backing", 24 << 20) as volume:
        with pytest.raises(savefmt.ConversionError, match="block device, .*--force overwrites it"):
            qemu.save(volume, qmp=guest.socket, request=SaveRequest("2", "zstd"))
        for request in (SaveRequest("2", "zstd"), SaveRequest("2", bypass_cache=True)):
            report = qemu.save(volume, qmp=guest.socket, request=request, overwrite=True)

            assert_written(volume, report.plan)
            assert not savefmt.compare(volume, reference).blocks
            assert report.plan.direct == request.bypass_cache
            assert report.length is not None
            told = any("virsh restore will fail" in note for note in report.notes)
            assert told == (request.format == "zstd")
            assert volume.read_bytes()[report.length :][: 1 << 16] == bytes(1 << 16)
    assert guest.status == "running"


def test_the_disk_of_a_guest_is_no_target(reference: Path, tmp_path: Path) -> None:
    """QEMU locks it, though it does not open it O_EXCL."""
    with loop_device(tmp_path / "backing", 24 << 20) as volume:
        disk = f"driver=host_device,filename={volume},node-name=disk"
        words = [*tiny_arguments(tmp_path), "-blockdev", disk]
        words += ["-device", "virtio-blk-pci,drive=disk"]
        with (
            LiveGuest(tmp_path, words, name="owner"),
            pytest.raises(savefmt.ConversionError, match="has this device locked"),
        ):
            savefmt.convert(reference, volume, overwrite=True)
        assert volume.read_bytes() == b"\x5a" * (24 << 20)


def assert_written(path: Path, plan: SavePlan) -> None:
    """The image is whole, finished, and of the planned form."""
    findings = savefmt.check(path, level=CheckLevel.FULL).findings
    codes = {f.code for f in findings if f.severity is not Severity.NOTE}
    assert codes == ({"envelope.version-unreleased"} if plan.version == 3 else set())
    with savefmt.open(path) as image:
        envelope = image.envelope
        assert envelope is not None
        assert (envelope.version, envelope.format) == (plan.version, plan.format)
        assert envelope.features == plan.features
        assert (image.layout, image.codec) == (plan.layout, plan.codec)
        assert envelope.was_running == 1
        assert image.domain is not None
        assert (image.domain.machine, image.domain.memory_kib) == (MACHINE, 8192)


FORMS = [
    SaveRequest("upstream", "sparse"),
    SaveRequest("upstream", parallel=3, bypass_cache=True),
    SaveRequest("3"),
    SaveRequest("3", "zstd"),
    SaveRequest("2", bypass_cache=True),
    *(SaveRequest("2", name) for name in ("gzip", "bzip2", "xz", "lzop")),
]


@pytest.mark.parametrize(
    "request_", FORMS, ids=lambda r: f"{r.form}-{r.format}-{r.parallel or 1}-{r.bypass_cache}"
)
@pytest.mark.parametrize("live", [False, True], ids=["held", "live"])
def test_every_form_comes_back(
    request_: SaveRequest, live: bool, guest: LiveGuest, tmp_path: Path
) -> None:
    image = tmp_path / "image"

    report = qemu.save(
        image, qmp=guest.socket, request=request_, live=live, afterwards=Afterwards.KEEP_PAUSED
    )

    assert report.state == "paused"
    assert guest.status == "postmigrate"
    blocks, registers = guest.block_hashes(), guest.registers()
    guest.cont()
    way: dict[str, Any] = {"bypass_cache": request_.bypass_cache}
    if report.plan.layout is Layout.MAPPED_RAM:
        way["parallel"] = request_.parallel
    with tiny_guest(tmp_path, incoming=True, name="restored") as restored:
        before, opened = restored.settings(), restored.descriptors()
        known: dict[str, Any] = {**way, "binary": hidden_emulator()}
        would = qemu.restore(image, qmp=restored.socket, dry_run=True, running=False, **known)
        assert restored.status == "inmigrate"
        assert (restored.settings(), restored.descriptors()) == (before, opened)
        done = qemu.restore(image, qmp=restored.socket, running=False, **way)
        assert (done.state, restored.status) == ("paused", "paused")
        assert replace(would, seconds=done.seconds, notes=done.notes, dry_run=False) == done
        assert set(would.notes) <= set(done.notes)  # a dry run compares the devices of any image
        assert done.direct == request_.bypass_cache
        assert (restored.settings(), restored.descriptors()) == (before, opened)
        assert (restored.block_hashes(), restored.registers()) == (blocks, registers)
    image.unlink()


CUT = {
    "raw": (Layout.SEQUENTIAL, "raw"),
    "sparse": (Layout.MAPPED_RAM, "raw"),
    "zstd": (Layout.SEQUENTIAL, "zstd"),
    "gzip": (Layout.SEQUENTIAL, "gzip"),
}


@pytest.mark.parametrize("name", CUT)
def test_a_dry_run_refuses_what_was_cut(name: str, reference: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    layout, codec = CUT[name]
    savefmt.convert(reference, image, layout=layout, codec=codec)
    os.truncate(image, image.stat().st_size * 9 // 10)

    with tiny_guest(tmp_path, incoming=True) as guest:
        with pytest.raises(savefmt.FormatError):
            qemu.restore(image, qmp=guest.socket, dry_run=True)
        assert guest.status == "inmigrate"


def test_settings_of_the_owner_are_put_aside(guest: LiveGuest, tmp_path: Path) -> None:
    """Capabilities and parameters that would spoil the image, or slow it down."""
    untouched = guest.settings()
    names = ("xbzrle", "events", "pause-before-switchover", "return-path")
    theirs = {
        "max-bandwidth": 4096,
        "multifd-compression": "zlib",
        "multifd-channels": 7,
        "direct-io": True,
        "tls-creds": "no-such",
    }
    guest.configure(dict.fromkeys(names, True), theirs)
    before = guest.settings()
    try:
        for number, request in enumerate((SaveRequest("upstream", parallel=2), SaveRequest("2"))):
            image = tmp_path / f"{number}"
            qemu.save(image, qmp=guest.socket, request=request)
            assert guest.settings() == before
            assert savefmt.check(image, level=CheckLevel.FULL).ok
            with savefmt.open(image) as saved:
                assert not saved.capabilities & {*names}
    finally:
        mine = {name: untouched[1][name] for name in theirs}
        guest.configure(dict.fromkeys(names, False), mine)
    assert guest.settings() == untouched


def test_a_paused_guest_stays_paused(tmp_path: Path) -> None:
    need_machine(MACHINE)
    image = tmp_path / "image"
    with tiny_guest(tmp_path) as guest:
        guest.stop()
        report = qemu.save(image, qmp=guest.socket)
        assert (report.state, guest.status) == ("paused", "postmigrate")
        with pytest.raises(qemu.MigrationError, match="resume it first"):
            qemu.save(tmp_path / "again", qmp=guest.socket)
    assert not (tmp_path / "again").exists()
    with tiny_guest(tmp_path, incoming=True) as restored:
        assert qemu.restore(image, qmp=restored.socket).state == "paused"
        assert restored.status == "paused"


def test_the_guest_runs_if_it_ran_or_shall(guest: LiveGuest, tmp_path: Path) -> None:
    image, bare = tmp_path / "image", tmp_path / "bare"
    qemu.save(image, qmp=guest.socket, request=SaveRequest("2", "zstd"))
    savefmt.convert(image, bare, codec="raw", bare=True)
    for path, running, state in (
        (image, None, "running"),
        (bare, None, "paused"),
        (bare, True, "running"),
    ):
        with tiny_guest(tmp_path, incoming=True, name="restored") as restored:
            assert qemu.restore(path, qmp=restored.socket, running=running).state == state
            assert restored.status == state


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "savefmt", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_commands(tmp_path: Path) -> None:
    """Plan, save, quit and restore, as one types it."""
    need_machine(MACHINE)
    image, xml = tmp_path / "image", tmp_path / "xml"
    xml.write_text(f"<domain type='qemu'><name>typed</name><os><type machine='{MACHINE}'>hvm"
                   "</type></os></domain>\n")  # fmt: skip
    options = ("--save-version", "upstream", "--parallel", "2", "-j")
    with tiny_guest(tmp_path) as guest:
        plan = command("plan", image, "--qmp", guest.socket, *options)
        saved = command("save", image, "--qmp", guest.socket, "--xml", xml, "--quit", *options)
        assert saved.returncode == 0, saved.stderr
        assert guest.process.wait(30) == 0
    report = document("save", saved.stdout)["save"]
    assert report["plan"] == json.loads(plan.stdout)["plan"]
    assert (report["domain"], report["state"], report["notes"]) == ("typed", "ended", [])
    with tiny_guest(tmp_path, incoming=True) as restored:
        done = command("restore", image, "--qmp", restored.socket, "--paused", "-j")
        assert done.returncode == 0, done.stderr
        assert document("restore", done.stdout)["restore"]["state"] == "paused"
        again = command("restore", image, "--qmp", restored.socket)
        assert (again.returncode, again.stdout) == (1, "")
        assert again.stderr.count("\n") == 1
        assert "holds a whole guest, paused, as an earlier restore left it" in again.stderr


def test_to_standard_output(guest: LiveGuest, reference: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as out:
        words = [sys.executable, "-m", "savefmt", "save", "-", "--qmp", guest.socket]
        subprocess.run([*words, "--save-version", "2", "--format", "zstd"], stdout=out, check=True)

    assert savefmt.check(image, level=CheckLevel.FULL).ok
    assert not savefmt.compare(image, reference).blocks


def test_direct_io_that_was_left_set_is_told(guest: LiveGuest, tmp_path: Path) -> None:
    """Virsh restore --bypass-cache leaves it so; ours leave it as it was."""
    guest.qmp("migrate-set-parameters", direct_io=True)
    try:
        report = qemu.save(
            tmp_path / "image", qmp=guest.socket, request=SaveRequest("2", format="raw")
        )
        assert guest.qmp("query-migrate-parameters")["direct-io"] is True
    finally:
        guest.qmp("migrate-set-parameters", direct_io=False)

    assert [note for note in report.notes if "direct-io is set in this QEMU" in note]


def test_a_printed_command_line_loads_the_image(guest: LiveGuest, tmp_path: Path) -> None:
    """The guest has no device that its machine type does not bring along."""
    image = tmp_path / "image"
    qemu.save(image, qmp=guest.socket, request=SaveRequest("upstream"))

    with savefmt.open(image) as saved:
        words = [word for option in qemu.command_line(saved).words for word in option]

    kept = words[words.index("-machine") : words.index("-nodefaults")]
    kept[1] = kept[1].replace(",accel=tcg", "")  # said by the harness, too
    firmware = tiny_arguments(tmp_path)[-2:]
    with LiveGuest(tmp_path, [*kept, *firmware], incoming=True) as restored:
        assert qemu.restore(image, qmp=restored.socket).state == "running"


def test_the_policy_refuses_before_the_guest_is_touched(guest: LiveGuest, tmp_path: Path) -> None:
    assert guest.status == "running"
    guest.events.clear()
    request = SaveRequest("2", parallel=2)
    refusal = plan_save(request, Abilities(True, True), Destination())
    assert isinstance(refusal, Refusal)

    with pytest.raises(savefmt.ConversionError) as caught:
        qemu.save(tmp_path / "image", qmp=guest.socket, request=request)

    assert refusal.reason in caught.value.message
    assert guest.status == "running"
    assert "STOP" not in {event["event"] for event in guest.events}
    assert list(tmp_path.iterdir()) == []
