"""What a guest needs besides its image, and what of it a host has."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import fakeqemu
import pytest
from builder import make_envelope, make_stream

from savefmt.errors import CorruptError
from savefmt.format.outside import Kind, Outside, outside_of
from savefmt.format.qcow2 import backing_name
from savefmt.needs import listing, looking, needs
from savefmt.needs.looking import Looker, layers_of
from savefmt.reports import Need, NeedsReport, Presence

HERE, MISSING, UNKNOWN = Presence.HERE, Presence.MISSING, Presence.UNKNOWN
LOOKER = Looker(saved=1e12, memory=64 << 20)

RICH = b"""\
<domain type='kvm'>
  <memoryBacking><hugepages><page size='2' unit='M' nodeset='0'/></hugepages></memoryBacking>
  <os>
    <loader readonly='yes' type='pflash'>/fw/code.fd</loader><nvram>/fw/vars.fd</nvram>
    <kernel>/boot/k</kernel><initrd>/boot/i</initrd>
  </os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='/d/top.qcow2'/>
      <backingStore type='file'><format type='qcow2'/><source file='/d/mid.qcow2'/>
        <backingStore type='block'><format type='raw'/><source dev='/dev/vg/base'/></backingStore>
      </backingStore>
      <target dev='vda'/><encryption><secret type='passphrase' uuid='u-1'/></encryption>
    </disk>
    <disk type='file' device='cdrom'><source file='/d/cd.iso' startupPolicy='optional'/>
      <target dev='sda'/></disk>
    <disk type='file' device='cdrom'><target dev='sdb'/></disk>
    <disk type='network' device='disk'><source protocol='rbd' name='pool/img'><host name='ceph'/>
      </source><target dev='vdb'/></disk>
    <disk type='volume' device='disk'><source pool='fast' volume='v1'/><target dev='vdc'/></disk>
    <disk type='nvme' device='disk'><source type='pci' namespace='1'>
      <address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source>
      <target dev='vdd'/></disk>
    <interface type='network'><mac address='52:54:00:00:00:01'/><source network='default'/>
      </interface>
    <interface type='bridge'><source bridge='br0'/></interface>
    <interface type='direct'><source dev='eth7' mode='bridge'/></interface>
    <interface type='hostdev'><source><address type='pci' domain='0x0000' bus='0x3b' slot='0x10'
      function='0x2'/></source></interface>
    <interface type='vhostuser'><source type='unix' path='/run/ovs' mode='client'/></interface>
    <interface type='user'/>
    <hostdev type='pci'><source><address domain='0x0001' bus='0xaf' slot='0x1f' function='0x7'/>
      </source></hostdev>
    <hostdev type='usb'><source><vendor id='0x046d'/><product id='0x0825'/></source></hostdev>
    <hostdev type='usb'><source><address bus='1' device='4'/></source></hostdev>
    <hostdev type='scsi'><source><adapter name='scsi_host2'/>
      <address bus='0' target='3' unit='1'/></source></hostdev>
    <hostdev type='mdev'><source><address uuid='m-1'/></source></hostdev>
    <hostdev type='scsi'><source protocol='iscsi'/></hostdev>
    <serial type='dev'><source path='/dev/ttyS9'/></serial>
    <serial type='file'><source path='/log/a'/></serial>
    <console type='file'><source path='/log/a'/></console>
    <channel type='unix'><source mode='bind' path='/run/agent'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <rng model='virtio'><backend model='egd' type='unix'><source mode='connect' path='/run/egd'/>
      </backend></rng>
    <tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>
    <tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>
    <filesystem type='mount'><binary path='/usr/libexec/virtiofsd'/><source dir='/srv'/>
      </filesystem>
    <input type='evdev'><source dev='/dev/input/event3'/></input>
    <memory model='nvdimm'><source><path>/d/nv</path></source></memory>
    <vsock model='virtio'/>
    <graphics type='spice'><gl rendernode='/dev/dri/renderD128'/></graphics>
  </devices>
</domain>
"""
NAMED = """
KVM /dev/kvm
file /fw/code.fd
file /fw/vars.fd
file /boot/k
file /boot/i
program /usr/bin/qemu-system-x86_64
huge pages 2048 KiB
file /d/top.qcow2
file /d/mid.qcow2
file /dev/vg/base
secret u-1
file /d/cd.iso
remote disk rbd://ceph/pool/img
volume fast/v1
PCI device 0000:01:00.0
network default
bridge br0
interface eth7
PCI device 0000:3b:10.2
file /run/ovs
PCI device 0001:af:1f.7
USB device 046d:0825
USB device bus 1, device 4
SCSI device 2:0:3:1
mediated device m-1
device /dev/ttyS9
place /log/a
place /run/agent
device /dev/urandom
file /run/egd
program swtpm
device /dev/tpm0
folder /srv
program /usr/libexec/virtiofsd
device /dev/input/event3
file /d/nv
device /dev/vhost-vsock
device /dev/dri/renderD128
"""


def test_what_an_xml_names() -> None:
    found = outside_of(RICH)

    assert [f"{thing.kind} {thing.name}" for thing in found] == NAMED.strip().splitlines()
    by_name = {thing.name: thing for thing in found}
    disk = Outside(Kind.FILE, "/d/top.qcow2", "disk vda", "qcow2", writable=True)
    assert by_name["/d/top.qcow2"] == disk
    assert by_name["/d/mid.qcow2"].use == "backing file of disk vda"
    assert by_name["/d/mid.qcow2"].format == "qcow2"
    assert by_name["/d/cd.iso"].optional
    assert not by_name["/d/cd.iso"].writable
    assert by_name["default"].use == "network interface 52:54:00:00:00:01"


@pytest.mark.parametrize("slot", ["0xzz", "", "-1", "9" * 5000])
def test_a_place_that_is_none_becomes_no_name(slot: str) -> None:
    xml = (
        f"<domain><devices><hostdev type='pci'><source><address slot='{slot}'/></source></hostdev>"
    )

    (thing,) = outside_of(f"{xml}</devices></domain>".encode())
    assert thing.name == "0000:00:.0"


# Looking


def qcow2(backing: str = "", form: str = "", version: int = 3) -> bytes:
    """Build the head of a disk image."""
    extension = struct.pack(">II", 0xE2792ACA, len(form)) + form.encode().ljust(8, b"\0")
    length = 104 if version == 3 else 72
    rest = (struct.pack(">IIQ", 0x12345678, 8, 7) + extension if form else b"") + bytes(8)
    at = length + len(rest)
    head = struct.pack(">4sIQI", b"QFI\xfb", version, at if backing else 0, len(backing))
    head = (
        head.ljust(100, b"\0") + struct.pack(">I", 104) if version == 3 else head.ljust(72, b"\0")
    )
    return head + rest + backing.encode()


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("form", ["", "raw", "qcow2"])
def test_the_backing_file_of_a_disk(form: str, version: int) -> None:
    assert backing_name(qcow2("base.img", form, version)) == ("base.img", form)
    assert backing_name(qcow2("", form, version)) is None


def test_a_backing_file_that_is_no_name() -> None:
    with pytest.raises(CorruptError, match="not in the header"):
        backing_name(qcow2("base.img")[:-1])
    with pytest.raises(CorruptError, match="not in the header"):
        backing_name(struct.pack(">4sIQI", b"QFI\xfb", 3, 1 << 63, 9).ljust(200, b"\0"))
    for length in range(90):
        assert backing_name(qcow2()[:length]) is None


def disk(path: Path, **more: bool) -> Outside:
    return Outside(Kind.FILE, str(path), "disk vda", "qcow2", **more)


def test_a_chain_of_disks(tmp_path: Path) -> None:
    (tmp_path / "top").write_bytes(qcow2("mid", "qcow2"))
    (tmp_path / "mid").write_bytes(qcow2(f"{tmp_path}/base", "raw"))

    assert [(o.name, o.format) for o in layers_of(disk(tmp_path / "top"))] == [
        (f"{tmp_path}/mid", "qcow2"),
        (f"{tmp_path}/base", "raw"),
    ]
    (tmp_path / "mid").write_bytes(qcow2("top", "qcow2"))
    assert [o.name for o in layers_of(disk(tmp_path / "top"))] == [f"{tmp_path}/mid"]
    (tmp_path / "mid").write_bytes(qcow2("nbd://host/export"))
    assert [o.kind for o in layers_of(disk(tmp_path / "top"))] == [Kind.FILE, Kind.REMOTE]
    assert list(layers_of(disk(tmp_path / "absent"))) == []


def test_disks_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(512))
    (tmp_path / "good").write_bytes(qcow2())
    os.mkfifo(tmp_path / "pipe")

    assert LOOKER.look(disk(tmp_path / "good")) == (HERE, "")
    assert LOOKER.look(disk(tmp_path / "absent")) == (MISSING, "")
    assert LOOKER.look(disk(tmp_path / "raw")) == (MISSING, "this is not a qcow2 disk image")
    assert LOOKER.look(disk(tmp_path)) == (MISSING, "this is a folder")
    assert list(layers_of(disk(tmp_path / "pipe"))) == []
    presence, reason = LOOKER.look(disk(tmp_path / "absent", optional=True))
    assert presence is UNKNOWN
    assert "without it" in reason
    assert LOOKER.look(Outside(Kind.FILE, "images/a", "disk"))[0] is UNKNOWN
    assert LOOKER.look(Outside(Kind.FILE, "/" + "a" * 5000, "disk"))[0] is MISSING
    assert LOOKER.look(Outside(Kind.FILE, "/a\0b", "disk"))[0] is MISSING


def test_what_is_no_plain_file_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To open a FIFO frees who waits at its other end, and to open a watchdog starts it."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "good").write_bytes(qcow2())
    opened: list[str] = []
    real_open = os.open

    def noted(path: str, flags: int) -> int:
        opened.append(path)
        return real_open(path, flags)

    monkeypatch.setattr(os, "open", noted)
    for name in (tmp_path / "pipe", Path("/dev/tty"), tmp_path / "good"):
        assert list(layers_of(disk(name))) == []

    assert opened == [str(tmp_path / "good")]


def test_a_disk_that_was_written_later(tmp_path: Path) -> None:
    path = tmp_path / "good"
    path.write_bytes(qcow2())
    looker = Looker(saved=os.stat(path).st_mtime - 10, memory=0)

    assert "written after the image" in looker.look(disk(path, writable=True))[1]
    assert looker.look(disk(path)) == (HERE, "")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with a network, a bridge, devices and huge pages."""
    for folder in (
        *("bus/pci/devices/0000:01:00.0/iommu_group", "bus/pci/devices/0000:02:00.0"),
        *("bus/usb/devices/1-1", "bus/mdev/devices/m-1", "net/br0/bridge", "net/eth0"),
        *("huge/hugepages-2048kB", "etc/qemu/networks", "run/network", "run/storage"),
    ):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "bus/usb/devices/1-1/idVendor").write_text("046d\n")
    (tmp_path / "bus/usb/devices/1-1/idProduct").write_text("0825\n")
    (tmp_path / "huge/hugepages-2048kB/free_hugepages").write_text("31\n")
    (tmp_path / "etc/qemu/networks/idle.xml").touch()
    (tmp_path / "run/network/default.xml").touch()
    (tmp_path / "run/storage/fast.xml").touch()
    for name, folder in (
        *(("_BUSES", "bus"), ("_NETWORK_INTERFACES", "net"), ("_HUGE_PAGES", "huge")),
        *(("_DEFINED", "etc"), ("_ACTIVE", "run")),
    ):
        monkeypatch.setattr(looking, name, tmp_path / folder)
    return tmp_path


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    ("kind", "name", "presence", "words"),
    [
        (Kind.NETWORK, "default", HERE, ""),
        (Kind.NETWORK, "idle", MISSING, "not active"),
        (Kind.NETWORK, "other", MISSING, "does not know"),
        (Kind.NETWORK, "../network/default", MISSING, "does not know"),
        (Kind.BRIDGE, "br0", HERE, ""),
        (Kind.BRIDGE, "eth0", MISSING, "not a bridge"),
        (Kind.BRIDGE, "br9", MISSING, ""),
        (Kind.INTERFACE, "eth0", HERE, ""),
        (Kind.INTERFACE, "../net/eth0", MISSING, ""),
        (Kind.PCI, "0000:01:00.0", HERE, ""),
        (Kind.PCI, "0000:02:00.0", MISSING, "IOMMU"),
        (Kind.PCI, "0000:03:00.0", MISSING, ""),
        (Kind.USB, "046d:0825", HERE, ""),
        (Kind.USB, "046d:0826", MISSING, ""),
        (Kind.USB, "bus 1, device 4", UNKNOWN, "plugged"),
        (Kind.MEDIATED, "m-1", HERE, ""),
        (Kind.SCSI, "2:0:3:1", MISSING, ""),
        (Kind.VOLUME, "fast/v1", UNKNOWN, "active"),
        (Kind.VOLUME, "slow/v1", MISSING, "the pool slow"),
        (Kind.SECRET, "u-1", UNKNOWN, "virsh"),
        (Kind.PAGES, "2048 KiB", MISSING, "31 are free, and 32 are needed"),
        (Kind.PAGES, "1048576 KiB", MISSING, "no pages of that size"),
        (Kind.PAGES, "of the default size", UNKNOWN, ""),
        (Kind.REMOTE, "rbd://ceph/pool/img", UNKNOWN, ""),
        (Kind.DEVICE, "/dev/null", HERE, ""),
        (Kind.DEVICE, "/etc/passwd", MISSING, "not a device"),
        (Kind.FOLDER, "/etc/passwd", MISSING, "not a folder"),
        (Kind.FOLDER, "/etc", HERE, ""),
        (Kind.PLACE, "/etc/log", HERE, ""),
        (Kind.PLACE, "/none/log", MISSING, "the folder"),
        (Kind.PROGRAM, "sh", HERE, ""),
        (Kind.PROGRAM, "no-such-program", MISSING, "PATH"),
        (Kind.PROGRAM, "/etc/passwd", MISSING, "cannot be run"),
    ],
)
def test_looking(kind: Kind, name: str, presence: Presence, words: str) -> None:
    found, reason = LOOKER.look(Outside(kind, name, ""))

    assert found is presence, reason
    assert words in reason


def test_enough_huge_pages(host: Path) -> None:
    (host / "huge/hugepages-2048kB/free_hugepages").write_text("32\n")

    assert LOOKER.look(Outside(Kind.PAGES, "2048 KiB", "")) == (HERE, "")


# The whole list


COOKIE = b"""\
<cookie><cpu mode='custom' match='exact' check='full'><model>qemu64</model>
<feature policy='require' name='f16c'/><feature policy='disable' name='pcid'/></cpu></cookie>
"""


def listed(folder: Path, xml: bytes, binary: str | None, *, look: bool = True) -> dict[str, Need]:
    path = folder / "image"
    path.write_bytes(make_stream(prefix=make_envelope(xml=xml, cookie=COOKIE)))
    return {need.kind: need for need in report(path, binary, look=look).needs}


def report(path: Path, binary: str | None, *, look: bool = True) -> NeedsReport:
    return needs(path, binary=binary, look=look)


def program(
    folder: Path, lacking: tuple[str, ...] = (), props: object = None, **kind: object
) -> str:
    known = {
        **fakeqemu.answers(**kind),  # type: ignore[arg-type]
        "query-kvm": {"enabled": False},
        "query-cpu-definitions": [{"name": "qemu64", "unavailable-features": list(lacking)}],
        "query-cpu-model-expansion": {"model": {"props": props or {"f16c": True}}},
    }
    return fakeqemu.write_program(folder / "qemu-system-fake", known)


@pytest.mark.parametrize(
    ("lacking", "props", "presence", "words"),
    [
        ((), {"f16c": True}, HERE, ""),
        (("pcid",), {"f16c": True}, HERE, ""),  # the guest was without it
        (("avx",), {"f16c": True}, MISSING, "avx"),
        ((), {"f16c": False}, MISSING, "f16c"),
        ((), {"sse": False}, HERE, ""),  # nobody knows f16c
    ],
)
def test_the_processor(
    lacking: tuple[str, ...], props: object, presence: Presence, words: str, tmp_path: Path
) -> None:
    found = listed(tmp_path, b"<domain type='qemu'/>", program(tmp_path, lacking, props))

    assert (found["CPU"].name, found["CPU"].presence) == ("qemu64", presence)
    assert words in found["CPU"].reason


def test_kvm_that_is_not_here(tmp_path: Path) -> None:
    found = listed(tmp_path, b"<domain type='kvm'/>", program(tmp_path))

    assert found["KVM"].presence is MISSING
    assert found["machine type"].presence is HERE


def test_a_qemu_without_the_machine(tmp_path: Path) -> None:
    other = {"name": "pc-q35-9.2"}

    found = listed(tmp_path, b"<domain type='qemu'/>", program(tmp_path, machine=other))
    assert found["machine type"].presence is MISSING


def test_listing_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError

    for name in ("started", "installed_libvirt", "available_memory", "layers_of"):
        monkeypatch.setattr(listing, name, fail)
    monkeypatch.setattr(Looker, "look", fail)
    monkeypatch.setattr(os.path, "exists", fail)

    found = listed(tmp_path, RICH, None, look=False)

    assert {need.presence for need in found.values()} == {UNKNOWN}
    assert found["program"].name == "/usr/libexec/virtiofsd"


def test_an_emulator_that_is_not_to_be_run(tmp_path: Path) -> None:
    xml = b"<domain type='qemu'><devices><emulator>/bin/sh</emulator></devices></domain>"
    path = tmp_path / "image"
    path.write_bytes(make_stream(prefix=make_envelope(xml=xml)))

    emulators = [need for need in report(path, None).needs if need.use == "emulator"]
    assert [(e.name, e.presence) for e in emulators] == [("/bin/sh", UNKNOWN)]
    assert "without being asked" in emulators[0].reason


def test_a_bare_stream(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(make_stream())

    found = report(path, program(tmp_path))

    assert [need.kind for need in found.needs] == ["program", "machine type", "memory"]
    assert found.missing == 0
