"""What the table says of QEMU 7.2 and 10.0 is what the two do, both ways."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from builder import make_envelope
from golden import load
from oracle import compress

import savefmt
from interop import linux
from interop.conftest import need_machine, version_of
from interop.qemu import EMULATOR, OLDER, Guest, MigrationFailed, QmpError, wait_for
from savefmt.compat.ask import ask, started
from savefmt.compat.machines import Machine, Standing
from savefmt.compat.policy import abilities_of
from savefmt.compat.releases import FACTS, Reader, Release, can
from savefmt.compat.verdict import compatibility
from savefmt.errors import ConversionError
from savefmt.format.envelope import FORMAT_NUMBERS
from savefmt.qmp import CommandError, Monitor
from savefmt.reports import Answer

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("older_qemu")]

MIB = 1 << 20
# All of the memory but the window of the ROMs.
RANGES = ((0, 0xA0000), (MIB, 7 * MIB))
MAPPED = {"mapped-ram": True}
SHARED = (
    *("-object", "memory-backend-file,id=pc.ram,size=8M,mem-path={scratch}/shared,share=on"),
    *("-machine", "memory-backend=pc.ram"),
)
DISK = (
    *("-drive", "if=none,id=n0,driver=null-co,size=1M,read-zeroes=on"),
    *("-device", "virtio-blk-pci,drive=n0,id=disk0"),
)
YES, BUT, NO = Answer.YES, Answer.YES_BUT, Answer.NO


@dataclass(frozen=True)
class Case:
    """An image, who made it, and what the two make of it.

    `older` and `newer` are the answers for 7.2 and 10.0.  Where one is no, `reason` stands
    in ours, `refusal` in QEMU's own words, and `helped` tells whether a conversion helps.
    With a `codec`, ``raw`` among them, the stream lies in an envelope of libvirt.
    """

    older: Answer
    newer: Answer
    machine: str
    reason: str = ""
    refusal: str = ""
    helped: bool = False
    maker: str = EMULATOR
    maker_alone: Sequence[str] = ()
    arguments: Sequence[str] = ()
    capabilities: Mapping[str, bool] = field(default_factory=dict)
    codec: str = ""


SWITCHOVER = ("-global", "migration.send-switchover-start=on")
NO_CONFIGURATION = ("-global", "migration.send-configuration=off")
CASES = {
    "same machine": Case(BUT, YES, "pc-q35-7.2"),
    "older machine": Case(BUT, YES, "pc-q35-7.1"),
    "other chipset": Case(BUT, YES, "pc-i440fx-7.2"),
    "deprecated machine": Case(BUT, BUT, "pc-q35-2.4"),
    "newer machine": Case(
        NO, YES, "pc-i440fx-9.2", "came with QEMU 9.2", "unsupported machine type"
    ),
    "newest machine": Case(
        NO, YES, "pc-q35-10.0", "came with QEMU 10.0", "unsupported machine type"
    ),
    "mapped": Case(*(NO, YES, "pc-q35-7.2", "mapped-ram", "capability", True), capabilities=MAPPED),
    "multifd": Case(
        *(NO, YES, "pc-q35-7.2", "mapped-ram", "capability", True),
        capabilities={**MAPPED, "multifd": True},
    ),
    "zstd": Case(BUT, BUT, "pc-q35-7.2", codec="zstd"),
    "uuid": Case(
        *(BUT, YES, "pc-q35-7.2"),
        arguments=("-uuid", "00112233-4455-6677-8899-aabbccddeeff"),
        capabilities={"validate-uuid": True},
    ),
    "dirty bitmaps": Case(
        *(BUT, YES, "pc-q35-7.2"), arguments=DISK, capabilities={"dirty-bitmaps": True}
    ),
    "ignored memory": Case(
        *(BUT, BUT, "pc-q35-7.2"), arguments=SHARED, capabilities={"x-ignore-shared": True}
    ),
    "command 11": Case(
        *(NO, BUT, "pc-q35-7.2,suppress-vmdesc=on", "command 11", "0xb", True),
        arguments=NO_CONFIGURATION,
        maker_alone=SWITCHOVER,
    ),
    "command 11 mapped": Case(
        *(NO, YES, "pc-q35-7.2", "mapped-ram", "capability", True),
        maker_alone=SWITCHOVER,
        capabilities=MAPPED,
    ),
    "microvm": Case(NO, BUT, "microvm", "command 11", "0xb", True),
    "from the older": Case(BUT, YES, "pc-q35-7.2", maker=OLDER),
    "from the older deprecated": Case(BUT, BUT, "pc-i440fx-2.4", maker=OLDER),
    "from the older removed": Case(
        *(BUT, NO, "pc-i440fx-2.3", "was removed in QEMU 9.1", "unsupported machine type"),
        maker=OLDER,
        codec="raw",
    ),
    "from the older unversioned": Case(BUT, BUT, "microvm", maker=OLDER),
    "compressed pages": Case(
        *(BUT, NO, "pc-q35-7.2", "compress", "compress"),
        maker=OLDER,
        capabilities={"compress": True},
    ),
    "disks": Case(
        *(BUT, NO, "pc-q35-7.2", "block migration", "block"),
        maker=OLDER,
        arguments=DISK,
        capabilities={"block": True},
    ),
}
ON_BOTH_SIDES = ("x-ignore-shared", "compress")
READERS = {"older": OLDER, "newer": EMULATOR}


@dataclass(frozen=True)
class Image:
    """A stopped guest in a file, and its memory."""

    path: Path
    memory: str


def arguments(case: Case, directory: Path) -> list[str]:
    firmware = load.firmware("live", directory)
    fixed = ["-machine", case.machine, "-m", "8M", "-smp", "1", "-bios", str(firmware)]
    return fixed + [word.format(scratch=directory) for word in case.arguments]


def in_envelope(stream: bytes, case: Case) -> bytes:
    xml = f"<domain type='qemu'><os><type machine='{case.machine}'>hvm</type></os></domain>\n"
    envelope = make_envelope(format=FORMAT_NUMBERS[case.codec], xml=xml.encode())
    return envelope + (stream if case.codec == "raw" else compress(case.codec, stream))


def machines_of(program: str) -> dict[str, bool]:
    """Machine types by name, and whether QEMU calls them deprecated."""
    with started(program) as monitor:
        listed = {entry.name: entry.deprecated for entry in ask(monitor).machines.values()}
    listed.pop("none")
    return listed


def release_of(program: str) -> Release:
    version = version_of(program)
    assert version is not None
    return Release(*version[:3])


def save(guest: Guest, path: Path, case: Case) -> None:
    """Save through a descriptor, as every release can, or by name where that must be."""
    guest.configure(case.capabilities, {"max-bandwidth": 1 << 34})
    if "mapped-ram" in case.capabilities:
        guest.migrate_to(f"file:{path}")
        return
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    guest.qmp("getfd", fds=[fd], fdname="image")
    os.close(fd)
    guest.migrate_to("fd:image")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    """Every image, made when it is first asked for."""
    directory = tmp_path_factory.mktemp("releases")
    return _Images(directory)


class _Images(dict[str, Image]):
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __missing__(self, name: str) -> Image:
        case = CASES[name]
        directory = self.directory / name.replace(" ", "-")
        directory.mkdir()
        path = directory / "image"
        made = [*arguments(case, directory), *case.maker_alone]
        with Guest(directory, made, program=case.maker, keyboard=False) as guest:
            guest.cont()
            guest.wait_console("R")
            guest.stop()
            save(guest, path, case)
            memory = guest.ram_hash(RANGES)
        if case.codec:
            path.write_bytes(in_envelope(path.read_bytes(), case))
        self[name] = Image(path, memory)
        return self[name]


def load_image(guest: Guest, path: Path, case: Case, program: str) -> None:
    """Give the image to QEMU in the way that this release has."""
    with savefmt.open(path) as image:
        offset, codec, layout = image.stream_offset, image.codec, image.layout
    both = {name: True for name in ON_BOTH_SIDES if name in case.capabilities}
    mapped = layout is savefmt.Layout.MAPPED_RAM
    if codec != "raw":
        uri = f"exec:tail -c +{offset + 1} '{path}' | {codec} -dc"
    elif mapped and program == EMULATOR:
        uri, both = f"file:{path},offset={offset}", MAPPED
    else:
        fd = os.open(path, os.O_RDONLY)
        os.lseek(fd, offset, os.SEEK_SET)
        guest.qmp("getfd", fds=[fd], fdname="image")
        os.close(fd)
        uri = "fd:image"
    guest.configure(both, None)
    guest.qmp("migrate-incoming", uri=uri)
    guest.wait_migration()


def goes_on(path: Path, image: Image, case: Case, program: str, directory: Path) -> None:
    """See the guest of an image loaded, whole, and running."""
    if case.arguments is SHARED:
        shutil.copy(image.path.parent / "shared", directory)
    same = arguments(case, directory)
    with Guest(directory, same, incoming=True, program=program, keyboard=False) as guest:
        load_image(guest, path, case, program)
        assert guest.ram_hash(RANGES) == image.memory
        guest.cont()
        wait_for(lambda: guest.ram_hash(RANGES) != image.memory, "work of the live firmware")


@pytest.mark.parametrize("side", READERS)
@pytest.mark.parametrize("name", CASES)
def test_the_verdict_is_what_happens(
    name: str, side: str, images: dict[str, Image], tmp_path: Path
) -> None:
    case, image, program = CASES[name], images[name], READERS[side]
    answer = case.older if side == "older" else case.newer
    reader = Reader("qemu", release_of(program))

    (verdict,) = compatibility(image.path, [reader]).verdicts

    assert verdict.answer is answer, verdict
    if answer is not NO:
        goes_on(image.path, image, case, program, tmp_path)
        return
    assert case.reason in verdict.reasons[0]
    with pytest.raises((QmpError, MigrationFailed), match=case.refusal):
        goes_on(image.path, image, case, program, tmp_path)
    if not case.helped:
        assert verdict.conversion == ()
        with pytest.raises(ConversionError):
            savefmt.convert(image.path, tmp_path / "converted", readers=[reader])
        return
    assert verdict.conversion
    savefmt.convert(image.path, tmp_path / "converted", readers=[reader], verify=True)
    goes_on(tmp_path / "converted", image, case, program, tmp_path)


@pytest.mark.parametrize("program", READERS.values(), ids=READERS)
def test_the_table_of_machine_types(program: str) -> None:
    """Each type that either of them lists, and what the table says of this one."""
    reader = release_of(program)
    listed = machines_of(program)

    for name in {*machines_of(OLDER), *machines_of(EMULATOR)}:
        machine = Machine.parse(name)
        if machine.is_upstream:
            standing = machine.standing(reader)
            assert (standing in (Standing.KNOWN, Standing.DEPRECATED)) is (name in listed), name
            if program == EMULATOR and name in listed:
                assert (standing is Standing.DEPRECATED) is listed[name], name
        else:
            assert machine.standing(reader) is Standing.UNVERSIONED, name


def takes_uri(monitor: Monitor, uri: str) -> bool:
    try:
        monitor.execute("migrate", uri=uri)
    except CommandError:
        return False
    return True


@pytest.mark.parametrize("program", READERS.values(), ids=READERS)
def test_the_table_of_abilities(program: str, tmp_path: Path) -> None:
    reader = Reader("qemu", release_of(program))
    with started(program) as monitor:
        answers = ask(monitor)
        schema = monitor.execute("query-qmp-schema")
        with (tmp_path / "plain").open("wb") as file:
            monitor.send_fd(file.fileno())
            monitor.execute("getfd", fdname="plain")
        to_plain_file = takes_uri(monitor, "fd:plain")
    members = {member.get("name") for entry in schema for member in entry.get("members", ())}

    found = {
        "mapped-ram": "mapped-ram" in answers.capabilities,
        "multifd": "multifd" in answers.capabilities,
        "ignore-shared": "x-ignore-shared" in answers.capabilities,
        "uuid": "validate-uuid" in answers.capabilities,
        "dirty-bitmaps": "dirty-bitmaps" in answers.capabilities,
        "compress": "compress" in answers.capabilities,
        "block-migration": "block" in answers.capabilities,
        "direct-io": "direct-io" in answers.parameters,
        "exit-on-error": "exit-on-error" in members,
        "fd-of-files": to_plain_file,
    }

    assert found == {key: can(reader, key) for key in found}
    assert answers.abilities == abilities_of(reader.release)
    # The others stand in the images above, or below.
    assert {fact.key for fact in FACTS if fact.program == "qemu"} - set(found) == {
        *("configuration", "switchover-start", "file-uri", "ignore-shared-mapped")
    }


@pytest.mark.parametrize("program", READERS.values(), ids=READERS)
def test_the_table_of_addresses(program: str, tmp_path: Path) -> None:
    """Saving to `file:` is refused by name where the table says so."""
    case = Case(BUT, BUT, "pc-q35-7.2")
    (tmp_path / "image").write_bytes(b"kept")

    with Guest(tmp_path, arguments(case, tmp_path), program=program, keyboard=False) as guest:
        if can(Reader("qemu", release_of(program)), "file-uri"):
            guest.migrate_to(f"file:{tmp_path}/image,offset=4")
            assert (tmp_path / "image").read_bytes()[4:8] == b"QEVM"
        else:
            with pytest.raises(QmpError, match="protocol"):
                guest.migrate_to(f"file:{tmp_path}/image,offset=4")


def test_nobody_writes_what_nobody_loads(tmp_path: Path) -> None:
    """Ignored memory in a mapped-ram image: QEMU 10.0 cannot even save it."""
    both = {"x-ignore-shared": True, **MAPPED}
    case = Case(NO, NO, "pc-q35-7.2", arguments=SHARED, capabilities=both)

    with Guest(tmp_path, arguments(case, tmp_path)) as guest, pytest.raises(MigrationFailed):
        guest.cont()
        guest.wait_console("R")
        guest.stop()
        save(guest, tmp_path / "image", case)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("golden", ["libvirt-raw", "libvirt-sparse"])
def test_the_envelope_does_not_matter_to_qemu(golden: str, version: int, tmp_path: Path) -> None:
    facts = load.manifest()[golden]
    need_machine(facts["machine"])
    savefmt.convert(load.unpack(golden, tmp_path), tmp_path / "image", save_version=version)
    case = Case(NO, YES, facts["machine"], arguments=("-m", "16M"))
    firmware = load.firmware("libvirt", tmp_path)
    words = [word.format(firmware=firmware) for word in facts["arguments"]]

    (verdict,) = compatibility(tmp_path / "image", [Reader("qemu", release_of(EMULATOR))]).verdicts
    with Guest(tmp_path, words, incoming=True) as guest:
        load_image(guest, tmp_path / "image", case, EMULATOR)
        blocks = guest.block_hashes()

    assert verdict.answer is YES
    assert blocks == {name: block["sha256"] for name, block in facts["blocks"].items()}


@pytest.mark.parametrize(("maker", "loader"), [(EMULATOR, OLDER), (OLDER, EMULATOR)])
def test_a_linux_guest_goes_from_one_to_the_other(
    maker: str, loader: str, linux_guest: Path, tmp_path: Path
) -> None:
    """Towards the older one in a form that it cannot load before the conversion."""
    words = [
        *("-machine", "pc-q35-7.2", "-cpu", "qemu64", "-m", "96M", "-vga", "std"),
        *("-kernel", str(linux_guest / "vmlinuz"), "-append", linux.APPEND),
        *("-initrd", str(linux_guest / "initramfs.cpio"), "-device", "virtio-rng-pci"),
    ]
    path, converted = tmp_path / "image", tmp_path / "converted"
    case = Case(NO, YES, "pc-q35-7.2", capabilities=MAPPED if loader == OLDER else {})
    with Guest(tmp_path, words, name="maker", program=maker, keyboard=False) as guest:
        guest.cont()
        guest.wait_console("tick 3\n")
        guest.stop()
        save(guest, path, case)
        before = guest.console_text()

    savefmt.convert(path, converted, readers=[Reader("qemu", release_of(loader))])

    with Guest(
        tmp_path, words, name="loader", incoming=True, program=loader, keyboard=False
    ) as guest:
        load_image(guest, converted, case, loader)
        guest.cont()
        wait_for(lambda: linux.goes_on(before, guest.console_text()), "tick and report on memory")
