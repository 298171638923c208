"""Saving and restoring without a QEMU: settings, pipes, plans and command lines."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from builder import make_envelope, make_stream
from golden import load

import savefmt
from savefmt.compat.policy import Abilities
from savefmt.edit import set_xml
from savefmt.errors import OperationCancelled
from savefmt.format.domain import parse_domain, read_elements
from savefmt.format.envelope import Envelope
from savefmt.model import IOOptions
from savefmt.progress import Meter
from savefmt.qemu import MigrationError, command_line, migration
from savefmt.qemu.devicewords import device_words
from savefmt.qemu.hosted import HostedGuest, minimal_xml
from savefmt.qemu.imagetarget import PipeTarget
from savefmt.qemu.pump import from_qemu, to_qemu
from savefmt.qemu.restoring import choose_load
from savefmt.qemu.settings import configured, parameters_for
from savefmt.qmp import CommandError

PARAMETERS = {
    "max-bandwidth": 1 << 27,
    "multifd-channels": 2,
    "direct-io": False,
    "tls-creds": "mine",
    "mode": "normal",
}


class FakeMonitor:
    """Keeps settings as QEMU does, and notes every change; `refused` makes one fail."""

    name = "fake"
    lost = False

    def __init__(self, refused: str = "", answers: list[dict[str, Any]] | None = None) -> None:
        self.capabilities = dict.fromkeys(("mapped-ram", "multifd", "xbzrle", "events"), False)
        self.capabilities |= {"xbzrle": True, "events": True}
        self.parameters: dict[str, Any] = dict(PARAMETERS)
        self.changes: list[dict[str, Any]] = []
        self.answers = iter(answers or [])
        self._refused = refused

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None, **more: Any) -> Any:
        if command == self._refused:
            raise CommandError(f"QEMU refuses {command}: because")
        if command == "query-migrate":
            return next(self.answers)
        if command == "query-migrate-parameters":
            return dict(self.parameters)
        if command == "query-migrate-capabilities":
            return [{"capability": k, "state": v} for k, v in self.capabilities.items()]
        if command == "migrate-set-parameters":
            change = dict(arguments or {})
            self.parameters |= change
        else:
            assert command == "migrate-set-capabilities"
            change = {pair["capability"]: pair["state"] for pair in more["capabilities"]}
            self.capabilities |= change
        self.changes.append(change)
        return {}


# Settings


def test_settings_are_changed_and_put_back() -> None:
    monitor: Any = FakeMonitor()
    before = dict(monitor.capabilities)

    with configured(monitor, ["mapped-ram", "multifd"], parameters_for(4, True)):
        assert monitor.capabilities == {
            "mapped-ram": True,
            "multifd": True,
            "xbzrle": False,
            "events": True,
        }
        assert monitor.parameters["tls-creds"] == ""
        assert monitor.parameters["multifd-channels"] == 4
        assert monitor.parameters["direct-io"] is True
        assert monitor.parameters["max-bandwidth"] > 1 << 60

    assert (monitor.capabilities, monitor.parameters) == (before, PARAMETERS)


def test_only_what_differs_is_set() -> None:
    monitor: Any = FakeMonitor()
    wanted = {"max-bandwidth": 1 << 27, "tls-creds": "mine", "unknown-to-this-qemu": 1}

    with configured(monitor, ["xbzrle"], wanted):
        assert monitor.changes == []


@pytest.mark.parametrize("refused", ["migrate-set-capabilities", "never"])
def test_settings_are_put_back_after_a_failure(refused: str) -> None:
    monitor: Any = FakeMonitor(refused)

    with pytest.raises(CommandError), configured(monitor, [], parameters_for(0, False)):
        raise CommandError("in the middle")

    assert monitor.parameters == PARAMETERS
    assert monitor.capabilities["xbzrle"] is True


# Following a migration


def test_a_migration_is_followed_to_its_end() -> None:
    seen: list[tuple[int, int]] = []
    ram = {"total": 100, "remaining": 60}
    answers = [{"status": "setup"}, {"status": "active", "ram": ram}, {"status": "completed"}]
    meter = Meter(lambda progress: seen.append((progress.done, progress.total)))

    last = migration.follow(FakeMonitor(answers=answers), "save", migration.ram_progress(meter))  # type: ignore[arg-type]

    assert last == {"status": "completed"}
    assert seen == [(0, 0), (40, 100), (0, 100)]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"status": "failed", "error-desc": "disk gone"}, "could not load the guest: disk gone"),
        ({"status": "cancelled"}, "it says cancelled and no more"),
    ],
)
def test_a_failed_migration_says_why(answer: dict[str, Any], words: str) -> None:
    with pytest.raises(MigrationError, match=words):
        migration.follow(FakeMonitor(answers=[answer]), "load", lambda answer: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("status", ["setup", "active", "cancelling", "postcopy-active"])
def test_a_second_migration_is_refused(status: str) -> None:
    with pytest.raises(MigrationError, match=status):
        migration.refuse_second(FakeMonitor(answers=[{"status": status}]))  # type: ignore[arg-type]


# Pipes


class ListSink:
    """Keeps what it gets; fails from some byte on, or when closed."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.data = bytearray()
        self.closed = self.aborted = False
        self._room = room

    def write(self, data: bytes | memoryview) -> None:
        if len(self.data) + len(data) > self._room:
            raise OSError(28, "no room")
        self.data += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def nothing_leaks() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd")), threading.active_count()
    yield
    assert (sorted(os.listdir("/proc/self/fd")), threading.active_count()) == before


@pytest.mark.usefixtures("nothing_leaks")
def test_everything_gets_through() -> None:
    sink, data = ListSink(), os.urandom(3 << 20)
    with from_qemu(sink, threading.Event()) as pump:
        fd = os.dup(pump.far_end)
        pump.release()
        with os.fdopen(fd, "wb") as qemu:
            qemu.write(data)
        pump.finish()
    assert sink.data == data
    assert sink.closed
    assert pump.moved == len(data)


@pytest.mark.usefixtures("nothing_leaks")
def test_a_full_disk_breaks_qemus_pipe() -> None:
    sink = ListSink(room=100_000)
    with from_qemu(sink, threading.Event()) as pump:
        fd = os.dup(pump.far_end)
        pump.release()
        with os.fdopen(fd, "wb", buffering=0) as qemu, pytest.raises(BrokenPipeError):
            while True:
                qemu.write(bytes(4096))
        with pytest.raises(OSError, match="no room"):
            pump.finish()
    assert (sink.closed, sink.aborted) == (False, True)


@pytest.mark.usefixtures("nothing_leaks")
def test_a_stopped_pump_lets_go() -> None:
    sink = ListSink()
    with from_qemu(sink, threading.Event()):
        pass  # nobody writes, nobody closes
    assert (sink.closed, sink.aborted) == (False, True)


@pytest.mark.usefixtures("nothing_leaks")
def test_the_way_back() -> None:
    pieces = [os.urandom(100), b"", os.urandom(2 << 20)]
    with to_qemu(iter(pieces)) as pump:
        fd = os.dup(pump.far_end)
        pump.release()
        with os.fdopen(fd, "rb") as qemu:
            assert qemu.read() == b"".join(pieces)
        pump.finish()


@pytest.mark.usefixtures("nothing_leaks")
def test_qemu_need_not_read_all() -> None:
    with to_qemu(iter([bytes(4 << 20)])) as pump:
        fd = os.dup(pump.far_end)
        pump.release()
        with os.fdopen(fd, "rb", buffering=0) as qemu:
            qemu.read(10)
        pump.finish()
    assert pump.moved < 4 << 20


def test_what_stops_the_source_is_told() -> None:
    def broken() -> Iterator[bytes]:
        yield b"good"
        raise savefmt.CorruptError("damaged")

    with to_qemu(broken()) as pump, pytest.raises(savefmt.CorruptError, match="damaged"):
        pump.finish()


@pytest.mark.usefixtures("nothing_leaks")
@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_a_pipe_that_nobody_reads_can_be_given_up(codec: str) -> None:
    reader, writer = os.pipe()
    stopped = threading.Event()
    sink = PipeTarget(writer, "a pipe", Envelope.new(b"<domain/>"))
    try:
        threading.Thread(target=lambda: os.read(reader, 100_000)).start()
        taking = sink.sink(codec, IOOptions(threads=1), stopped)
        threading.Timer(0.05, stopped.set).start()
        with pytest.raises(OperationCancelled):
            while True:
                taking.write(os.urandom(1 << 20))
        taking.abort()
    finally:
        os.close(reader)
        os.close(writer)


# What is loaded into what

ALL = Abilities(mapped_ram=True, direct_io=True)
NEW = Abilities(mapped_ram=True, direct_io=False)
OLD = Abilities(mapped_ram=False, direct_io=False)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("images")
    names = ("libvirt-sparse", "libvirt-zstd", "libvirt-devices", "dimm", "ignore-shared")
    return {name: load.unpack(name, directory) for name in names}


@pytest.mark.parametrize(
    ("name", "abilities", "parallel", "bypass", "grants", "channels", "direct", "noted"),
    [
        ("libvirt-sparse", ALL, None, False, True, 0, False, False),
        ("libvirt-sparse", ALL, 3, False, True, 3, False, False),
        ("libvirt-sparse", ALL, None, True, True, 1, True, False),
        ("libvirt-sparse", ALL, 2, True, True, 2, True, False),
        ("libvirt-sparse", ALL, None, True, False, 0, False, True),
        ("libvirt-sparse", NEW, 2, True, True, 2, False, True),
        ("libvirt-zstd", OLD, None, False, True, 0, False, False),
        ("libvirt-zstd", OLD, None, True, True, 0, True, False),
        ("libvirt-zstd", OLD, None, True, False, 0, False, True),
    ],
)
def test_how_an_image_is_loaded(
    name: str,
    abilities: Abilities,
    parallel: int | None,
    bypass: bool,
    grants: bool,
    channels: int,
    direct: bool,
    noted: bool,
    images: dict[str, Path],
) -> None:
    with savefmt.open(images[name]) as image:
        plan = choose_load(image, abilities, parallel, bypass, grants=grants)

    assert (plan.channels, plan.direct, bool(plan.notes)) == (channels, direct, noted)
    assert ("mapped-ram" in plan.capabilities) is (name == "libvirt-sparse")
    assert ("multifd" in plan.capabilities) is bool(channels)


@pytest.mark.parametrize(
    ("name", "abilities", "parallel", "words"),
    [
        ("libvirt-sparse", OLD, None, "no mapped-ram"),
        ("libvirt-sparse", ALL, 0, "0 parallel channels"),
        ("libvirt-sparse", ALL, 65, "65 parallel channels"),
        ("libvirt-sparse", Abilities(True, True, multifd=False), 2, "no multifd"),
        ("libvirt-zstd", ALL, 2, "one stream"),
    ],
)
def test_how_it_is_not_loaded(
    name: str, abilities: Abilities, parallel: int | None, words: str, images: dict[str, Path]
) -> None:
    with (
        savefmt.open(images[name]) as image,
        pytest.raises(savefmt.ConversionError, match=words),
    ):
        choose_load(image, abilities, parallel, False, grants=False)


def test_a_stream_that_ignored_shared_memory_wants_that_again(images: dict[str, Path]) -> None:
    with savefmt.open(images["ignore-shared"]) as image:
        assert choose_load(image, ALL, None, False, grants=False).capabilities == {
            "x-ignore-shared"
        }


# What an image tells


def option(words: tuple[tuple[str, ...], ...], name: str) -> str:
    return next(rest[0] for first, *rest in words if first == name)


def test_a_command_line_from_xml_and_stream(images: dict[str, Path]) -> None:
    with savefmt.open(images["libvirt-devices"]) as image:
        skeleton = command_line(image)

    words = skeleton.words
    assert words[0] == ("qemu-system-x86_64",)
    assert option(words, "-name") == "guest=rich"
    assert option(words, "-machine") == "pc-i440fx-9.2,accel=tcg,memory-backend=pc.ram"
    cpu = option(words, "-cpu").split(",")
    assert cpu[:3] == ["Haswell-noTSX", "pcid=off", "tsc-deadline=off"]  # as the cookie has it
    assert option(words, "-object") == f"memory-backend-ram,id=pc.ram,size={32 << 20}"
    assert option(words, "-smp") == "2"
    assert option(words, "-incoming") == "defer"
    devices = [word[1] for word in words if word[0] == "-device"]
    assert "virtio-blk-pci,drive=vda,bus=pci.0,addr=0x5" in devices
    assert "piix3-usb-uhci,id=usb,bus=pci.0,addr=0x1.0x2" in devices
    assert "vda.img stands for the disk vda" in skeleton.remarks
    assert "/var/lib" not in str(words)
    with savefmt.open(images["libvirt-devices"]) as image:
        assert "-device" not in str(command_line(image, devices=False).words)


DEVICES = """\
<domain><devices>
  <disk><target dev='vda,evil=on' bus='virtio'/>{place}</disk>
  <disk><target dev='sda' bus='scsi'/></disk>
  <interface type='user'><mac address='52:54:00:00:00:01,evil'/><model type='virtio'/>{place}
    </interface>
  <interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/>
    <driver queues='4'/>{place}</interface>
  <channel type='unix'><target type='virtio' name='a,evil=on'/>
    <address type='virtio-serial' controller='0' port='1'/></channel>
  <input type='tablet' bus='usb'><address type='usb' bus='0' port='1,evil=on'/></input>
  <hostdev mode='subsystem' type='pci'>{place}</hostdev>
  <rng model='virtio'/><controller type='usb' index='0' model='none'/>
  <controller type='pci' index='x' model='pcie-root-port'/>
</devices></domain>
"""


@pytest.mark.parametrize(
    ("model", "made"),
    [
        ("type='virtio' device='virtio-vga'", "virtio-vga"),
        ("type='virtio' device='virtio-gpu'", "virtio-gpu-pci"),
        ("type='virtio' device='vhost-user-gpu'", None),
        ("type='virtio'", None),
    ],
)
def test_which_virtio_video_device_it_was(model: str, made: str | None) -> None:
    """Libvirt tells from 12.5 on."""
    place = "<address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/>"
    video = f"<domain><devices><video><model {model}/>{place}</video></devices></domain>"

    words = device_words(read_elements(video.encode(), "domain", 0, deepest=5), "pcie.0")

    options = (("-device", f"{made},bus=pcie.0,addr=0x5"),) if made else ()
    assert (words.options, len(words.unknown)) == (options, 0 if made else 1)


def test_devices_that_cannot_be_made_are_told() -> None:
    """And a comma in a name brings no property along."""
    place = "<address type='pci' bus='0x00' slot='0x05' function='0x1' multifunction='on'/>"
    elements = read_elements(DEVICES.format(place=place).encode(), "domain", 0, deepest=5)

    made = device_words(elements, "pcie.0")

    assert made.unknown == (
        *("controller pcie-root-port", "disk", "disk", "interface user", "interface user"),
        *("input tablet", "hostdev pci", "rng virtio"),
    )
    assert made.options == (
        ("-chardev", "null,id=channel0"),
        ("-device", "virtserialport,bus=virtio-serial0.0,nr=1,chardev=channel0,name=a,,evil=on"),
    )
    bare = device_words(read_elements(b"<domain/>", "domain", 0, deepest=5), "pcie.0")
    assert (bare.options, bare.unknown) == ((), ())


@pytest.mark.parametrize(
    ("topology", "words"),
    [
        ("<topology sockets='1' cores='2' threads='1'/>", "2,sockets=1,cores=2,threads=1"),
        (
            "<topology sockets='1' dies='2' cores='1' threads='1'/>",
            "2,sockets=1,dies=2,cores=1,threads=1",
        ),
        ("<topology sockets='1' dies='1' cores='2' threads='1'/>", "2,sockets=1,cores=2,threads=1"),
        ("<topology sockets='4' cores='2' threads='1'/>", "2"),
        ("<topology sockets='2,evil=on'/>", "2"),
        ("", "2"),
    ],
)
def test_how_vcpus_are_arranged(topology: str, words: str, tmp_path: Path) -> None:
    xml = f"<domain><vcpu>2</vcpu><cpu>{topology}</cpu></domain>".encode()
    (tmp_path / "image").write_bytes(make_stream(prefix=make_envelope(xml=xml)))

    with savefmt.open(tmp_path / "image") as image:
        assert option(command_line(image).words, "-smp") == words


def test_a_command_line_from_a_stream_alone(images: dict[str, Path]) -> None:
    with savefmt.open(images["dimm"]) as image:
        skeleton = command_line(image)

    assert option(skeleton.words, "-m") == "size=8192k"
    assert "the RAM block memdimm0 of 4194304 bytes needs its back end" in skeleton.remarks
    assert any("without XML" in remark for remark in skeleton.remarks)


def test_what_a_forged_xml_says_is_not_believed(images: dict[str, Path], tmp_path: Path) -> None:
    """Neither another program nor another option comes out of it."""
    forged = tmp_path / "forged"
    savefmt.convert(images["libvirt-zstd"], forged, codec="raw")
    xml = (
        b"<domain type='kvm'><name>a,b=c</name><os><type arch='x86_64 -evil;rm' machine='x'/></os>"
        b"<cpu><model>max,evil=on</model></cpu><vcpu>999999</vcpu>"
        b"<devices><emulator>/tmp/evil</emulator></devices></domain>"
    )
    set_xml(forged, xml, check_abi=False)
    with savefmt.open(forged) as image:
        words = command_line(image).words

    assert words[0] == ("qemu-system-x86_64",)
    assert option(words, "-name") == "guest=a,,b=c"
    assert option(words, "-smp") == "1"
    assert "evil" not in str(words)


def test_the_smallest_xml() -> None:
    answers: dict[str, Any] = {
        "query-kvm": {"enabled": True},
        "query-uuid": {"UUID": "00000000-0000-0000-0000-000000000000"},
        "query-memory-size-summary": {"base-memory": 64 << 20, "plugged-memory": 1 << 20},
        "query-target": {"arch": "x86_64"},
        "query-cpus-fast": [{}, {}],
    }

    class Answering:
        def execute(self, command: str) -> Any:
            return answers[command]

    guest = HostedGuest("<&'\">", "pc-q35-10.0", "running", running=True)
    xml = minimal_xml(Answering(), guest)  # type: ignore[arg-type]

    domain = parse_domain(xml)
    assert (domain.name, domain.uuid, domain.type) == ("<&'\">", None, "kvm")
    assert (domain.machine, domain.memory_kib) == ("pc-q35-10.0", 65 << 10)
