"""What `restore --print-command` prints starts a QEMU that the guest fits into."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden import load

import savefmt
from interop.conftest import need_machine
from interop.libvirt import Libvirt
from interop.live import LiveGuest
from savefmt import qemu
from savefmt.qemu import command_line

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]

Q35 = """\
<domain type='qemu'><name>q35</name><uuid>0bb3d62c-1f2b-4a7d-9d0a-4c2f5e6a7b11</uuid>
<memory unit='MiB'>32</memory><vcpu>2</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<features><acpi/><apic/></features>
<cpu mode='custom' match='exact'><model>qemu64</model>
  <topology sockets='1' dies='1' cores='2' threads='1'/></cpu>
<clock offset='utc'><timer name='hpet' present='no'/></clock>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
  <disk type='file' device='disk'><driver name='qemu' type='raw'/>
    <source file='/var/lib/libvirt/images/q35.img'/><target dev='vda' bus='virtio'/></disk>
  <controller type='usb' model='qemu-xhci' ports='15'/>
  <controller type='scsi' model='virtio-scsi'/>
  <interface type='user'><mac address='52:54:00:12:34:56'/><model type='virtio'/></interface>
  <interface type='user'><mac address='52:54:00:12:34:57'/><model type='e1000e'/></interface>
  <serial type='null'/>
  <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
  <input type='tablet' bus='usb'/><input type='keyboard' bus='virtio'/>
  <video><model type='bochs'/></video>
  <memballoon model='virtio'/><watchdog model='itco' action='reset'/>
  <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
</devices></domain>
"""


def fits(image: Path, folder: Path) -> None:
    """Start the command with stand-ins for its disks, and restore the guest into it."""
    with savefmt.open(image) as saved:
        skeleton = command_line(saved)
    assert not [remark for remark in skeleton.remarks if "to be added" in remark]
    own = [option for option in skeleton.words if not option[-1].startswith("isa-serial")]
    words = [word for option in own for word in option]  # the harness brings that along
    kept = words[words.index("-machine") : words.index("-S")]
    kept = [word.replace("vda.img", f"{folder}/vda.img") for word in kept]
    kept[1] = kept[1].replace(",accel=tcg", "")  # said by the harness, too
    (folder / "vda.img").write_bytes(bytes(512))

    with LiveGuest(folder, kept, incoming=True) as waiting:
        report = qemu.restore(image, qmp=waiting.socket)

    assert report.notes == ()


def test_a_rich_i440fx(tmp_path: Path) -> None:
    need_machine(load.manifest()["libvirt-devices"]["machine"])
    fits(load.unpack("libvirt-devices", tmp_path), tmp_path)


def test_a_rich_q35(libvirt: Libvirt, tmp_path: Path) -> None:
    libvirt.path("/var/lib/libvirt/images/q35.img").write_bytes(bytes(512))
    libvirt.start(Q35)
    try:
        libvirt.save("q35", tmp_path / "image", "sparse")
    finally:
        libvirt.destroy("q35")
    fits(tmp_path / "image", tmp_path)
