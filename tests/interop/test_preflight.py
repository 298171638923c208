"""What differs between an image and a waiting QEMU is found before anything is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from golden import load

import savefmt
from interop.conftest import lack_of_qemu, need_machine
from interop.live import LiveGuest
from interop.qemu import hidden_emulator
from savefmt import qemu
from savefmt.format.envelope import Envelope
from savefmt.guest.featuresinuse import processor_wanted
from savefmt.model import Severity
from savefmt.qemu.preflight import compare
from savefmt.qemu.target import look_closely
from savefmt.qmp import Monitor

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]

SMP = "1,sockets=1,cores=2,maxcpus=2"
TABLET = "usb-tablet,bus=usb.0,port=2"
DISK = "scsi-hd,drive=disk,bus=scsi.0,scsi-id=1,lun=2"
AGENT = "virtserialport,bus=serial.0,nr=3,chardev=agent,name=org.qemu.guest_agent.0"
RICH = [
    *("-machine", "pc-q35-10.0", "-m", "16M,slots=2,maxmem=1G", "-cpu", "Haswell-noTSX"),
    *("-device", "virtio-rng-pci,addr=5"),
    *("-device", "pcie-root-port,id=rp,addr=6", "-device", "virtio-net-pci,bus=rp,id=net"),
    *("-device", "qemu-xhci,id=usb,addr=7", "-device", TABLET),
    *("-device", "pci-testdev,addr=8", "-device", "isa-serial"),
    *("-device", "virtio-scsi-pci,id=scsi,addr=0xa", "-blockdev", "null-co,node-name=disk"),
    *("-device", DISK, "-smp", SMP),
    *("-device", "virtio-serial-pci,id=serial,addr=0xb", "-chardev", "null,id=agent"),
    *("-device", AGENT, "-chardev", "null,id=hvc", "-device", "virtconsole,chardev=hvc,nr=0"),
]
CPU = """\
<domain type='qemu'>
  <name>rich</name>
  <uuid>00112233-4455-6677-8899-aabbccddeeff</uuid>
  <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
  <cpu mode='custom' match='exact' check='full'>
    <model fallback='forbid'>Haswell-noTSX</model>
    <topology sockets='1' dies='1' cores='2' threads='1'/>
    <feature policy='require' name='f16c'/>
    <feature policy='require' name='ht'/>
    <feature policy='disable' name='pcid'/>
  </cpu>
</domain>
"""


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A libvirt image of the guest above, which tells its processor."""
    if lack_of_qemu():
        pytest.skip(lack_of_qemu())
    folder = tmp_path_factory.mktemp("rich")
    with LiveGuest(folder, RICH) as guest:
        guest.migrate_to(f"file:{folder}/stream")
    envelope = Envelope(True, 2, 0, 0, 0, 0, bytes(56), "little", CPU.encode() + b"\0")
    image = folder / "image"
    image.write_bytes(envelope.pack() + (folder / "stream").read_bytes())
    return image


def swapped(old: str, *new: str) -> list[str]:
    """Return the guest's arguments with one value replaced."""
    assert old in RICH
    return [word for words in RICH for word in (new if words == old else (words,))]


def without(value: str) -> list[str]:
    """Return the guest's arguments without an option and its value."""
    at = RICH.index(value)
    return RICH[: at - 1] + RICH[at + 1 :]


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (
            swapped("virtio-rng-pci,addr=5", "virtio-rng-pci,addr=9"),
            "devices",
            "has virtio-rng at 0000:00:05.0 and this QEMU has it at 0000:00:09.0; "
            "give the device addr=0x5",
        ),
        (
            without("virtio-rng-pci,addr=5"),
            "devices",
            "has virtio-rng at 0000:00:05.0 and this QEMU has nothing there",
        ),
        (
            swapped("virtio-rng-pci,addr=5", "virtio-balloon-pci,addr=5"),
            "devices",
            r"at 0000:00:05.0 the image has virtio-rng \(1af4:1005\) and this QEMU a virtio-ba",
        ),
        (
            [*RICH, "-device", "virtio-balloon-pci"],
            "devices",
            "has a virtio-balloon-pci at 0000:00:01.0",
        ),
        (
            swapped("virtio-net-pci,bus=rp,id=net", "virtio-net-pci,id=net,addr=0x10"),
            "devices",
            "the image has virtio-net at 0000:00:06.0:00.0 and this QEMU has nothing there",
        ),
        ([*RICH, "-device", "usb-kbd,bus=usb.0"], "devices", "no usb-kbd and this QEMU has 1"),
        (
            without(TABLET),
            "devices",
            "image has 1 usb-ptr and this QEMU has no",
        ),
        ([*RICH, "-device", "isa-serial"], "devices", "image has 2 serial and this QEMU has 3"),
        (
            swapped(TABLET, "usb-tablet,bus=usb.0"),
            "devices",
            "has USB devices at the ports 2 and this QEMU at 1; give each device the port=",
        ),
        (
            swapped(DISK, DISK.replace("lun=2", "lun=3")),
            "devices",
            "a scsi-disk at 0000:00:0a.0/0:1:2 and .*give it channel=0,scsi-id=1,lun=2",
        ),
        (
            swapped("virtio-rng-pci,addr=5", "virtio-rng-pci,addr=5,vectors=3"),
            "devices",
            "at 0000:00:05.0 has vectors=2 in the image and vectors=3 in this QEMU",
        ),
        (
            swapped("pcie-root-port,id=rp,addr=6", "pcie-root-port,id=rp,addr=6,port=16"),
            "devices",
            "at 0000:00:06.0 has port=0 in the image and port=16 in this QEMU; give it port=0",
        ),
        (
            swapped("qemu-xhci,id=usb,addr=7", "qemu-xhci,id=usb,addr=7,p2=15,p3=15"),
            "devices",
            "at 0000:00:07.0 has 8 ports in the image and 30 in this QEMU",
        ),
        (
            swapped(AGENT, AGENT.replace("nr=3", "nr=4")),
            "devices",
            "at 0000:00:0b.0 has the ports 0, 3 in the image and 0, 4 in this QEMU; give it the",
        ),
        (
            without("virtconsole,chardev=hvc,nr=0"),
            "devices",
            "has the ports 0, 3 in the image and 3 in this QEMU",
        ),
        (
            swapped("16M,slots=2,maxmem=1G", "16M"),
            "devices",
            "has 2 slots for memory and this QEMU has 0; start it with slots=2 behind -m",
        ),
        (
            swapped("16M,slots=2,maxmem=1G", "32M,slots=2,maxmem=1G"),
            "memory",
            "'pc.ram' has 16777216 bytes in the image and 33554432",
        ),
        (
            swapped("virtio-net-pci,bus=rp,id=net", "virtio-net-pci,bus=rp,romsize=524288"),
            "memory",
            "virtio-net-pci.rom' has 262144 bytes .*; give the device romsize=262144",
        ),
        (
            [*RICH, "-device", "bochs-display"],
            "memory",
            "this QEMU has the RAM block '.*bochs-display-vram', and the image has not",
        ),
        (
            swapped("Haswell-noTSX", "Skylake-Client-v1"),
            "cpu",
            "had a Haswell-noTSX and this QEMU has a Skylake-Client.*; start it with -cpu Haswell-",
        ),
        (
            swapped("Haswell-noTSX", "Haswell-noTSX,f16c=off"),
            "cpu",
            "processor had f16c and .*none",
        ),
        (
            swapped(SMP, "2,sockets=1,cores=2"),
            "cpu",
            "had 1 vCPUs and this QEMU has 2; start it with -smp 1",
        ),
        (
            swapped(SMP, "1,sockets=2,cores=1,maxcpus=2"),
            "cpu",
            "had 2 vCPUs in a socket and this QEMU has 1; start it with the sockets",
        ),
        (swapped("pc-q35-10.0", "pc-q35-9.2"), "machine", "start it with -machine pc-q35-10.0"),
    ],
    ids=[
        *("moved", "absent", "other", "extra", "bridge", "extra-usb", "absent-usb", "extra-isa"),
        *("usb-port", "lun", "vectors", "root-port", "usb-ports"),
        *("serial-port", "serial-console", "slots"),
        *("ram", "rom", "extra-memory", "model", "feature", "vcpus", "sockets", "machine"),
    ],
)
def test_what_differs_is_told(
    arguments: list[str], kind: str, words: str, rich: Path, tmp_path: Path
) -> None:
    with LiveGuest(tmp_path, arguments, incoming=True) as other:
        before = other.settings()
        with pytest.raises(qemu.MigrationError, match=words) as caught:
            qemu.restore(rich, qmp=other.socket, binary=hidden_emulator())
        assert f"--ignore {kind}" in str(caught.value)
        assert other.status == "inmigrate"
        assert (other.settings(), other.qmp("query-migrate")) == (before, {})


def test_the_same_guest_is_restored(rich: Path, tmp_path: Path) -> None:
    alias = swapped("Haswell-noTSX", "Haswell-v2")
    with LiveGuest(tmp_path, alias, incoming=True) as other:
        done = qemu.restore(rich, qmp=other.socket, binary=hidden_emulator())
        assert (other.status, done.notes) == ("prelaunch", ())


def test_what_is_ignored_is_noted(rich: Path, tmp_path: Path) -> None:
    arguments = swapped("Haswell-noTSX", "Haswell-noTSX,f16c=off")
    with LiveGuest(tmp_path, arguments, incoming=True) as other:
        with pytest.raises(qemu.MigrationError):
            qemu.restore(rich, qmp=other.socket, ignore=["devices"])
        done = qemu.restore(rich, qmp=other.socket, ignore=["cpu"], binary=hidden_emulator())
        assert other.status == "prelaunch"
        assert ["f16c" in note for note in done.notes] == [True]


@pytest.mark.parametrize("name", load.names(lambda facts: bool(facts.get("arguments"))))
def test_a_good_one_is_never_refused(name: str, tmp_path: Path) -> None:
    facts = load.manifest()[name]
    need_machine(facts["machine"])
    firmware = load.firmware(facts["firmware"], tmp_path)
    arguments = [argument.format(firmware=firmware) for argument in facts["arguments"]]
    with (
        LiveGuest(tmp_path, arguments, incoming=True) as guest,
        savefmt.open(load.unpack(name, tmp_path)) as image,
        Monitor(guest.socket) as monitor,
    ):
        found = compare(
            image, look_closely(monitor, processor_wanted(image), hidden_emulator()), thorough=True
        )

    assert [finding for finding in found if finding.severity is Severity.ERROR] == []


SEVERAL_ROOTS = [
    *("-machine", "q35", "-m", "16M", "-device", "virtio-rng-pci,bus=pcie.0,addr=9"),
    *("-device", "pxb-pcie,id=a,bus=pcie.0,bus_nr=100"),
    *("-device", "pxb-pcie,id=b,bus=pcie.0,bus_nr=150"),
    *("-device", "pcie-root-port,id=rp,bus=a,chassis=1", "-device", "virtio-net-pci,bus=rp"),
]


def test_several_roots_of_pci_are_no_riddle(tmp_path: Path) -> None:
    """What stands where cannot be told of them, and that is all."""
    with LiveGuest(tmp_path, SEVERAL_ROOTS) as guest:
        qemu.save(tmp_path / "image", qmp=guest.socket)
    with LiveGuest(tmp_path, SEVERAL_ROOTS, incoming=True) as waiting:
        began = time.monotonic()
        report = qemu.restore(tmp_path / "image", qmp=waiting.socket)

    assert time.monotonic() - began < 60
    assert [note for note in report.notes if "several PCI roots" in note]


def test_check_tells_the_same(rich: Path, tmp_path: Path) -> None:
    arguments = without("virtio-rng-pci,addr=5")
    with LiveGuest(tmp_path, arguments, incoming=True) as other:
        command = [sys.executable, "-m", "savefmt", "check", "-j", "--qmp", other.socket, str(rich)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        ignoring = subprocess.run(
            [*command, "--ignore", "devices"], capture_output=True, text=True, check=False
        )
        assert other.status == "inmigrate"

    (report,) = json.loads(done.stdout)["reports"]
    assert (done.returncode, ignoring.returncode) == (2, 0)
    assert "target.devices" in [finding["code"] for finding in report["findings"]]
