"""The libvirt domains whose images are kept, and the boot sector of one of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

DOMAIN = """\
<domain type='qemu'>
  <name>golden</name>
  <uuid>0a4cbb3c-7d1b-4bd5-a0f1-3c0d5f2a9e11</uuid>
  <title>A guest of 16 MiB</title>
  <memory unit='MiB'>16</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc-q35-10.0'>hvm</type>
    <loader readonly='yes' type='rom'>/var/lib/libvirt/images/firmware.bin</loader>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <serial type='file'>
      <source path='/var/lib/libvirt/console/golden.log'/>
      <target port='0'/>
    </serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""

RICH_DOMAIN = """\
<domain type='qemu'>
  <name>rich</name>
  <uuid>5f3c1f0e-52c8-4a8e-9b1a-6a2f6f0f7c22</uuid>
  <title>R&#228;der &amp; Riemen</title>
  <metadata><note xmlns='urn:savefmt:golden'>kept &lt;as is&gt;</note></metadata>
  <memory unit='MiB'>32</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='pc-i440fx-9.2'>hvm</type>
    <boot dev='hd'/>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact'><model>Haswell-noTSX</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='/var/lib/libvirt/images/boot.img'/>
      <target dev='vda' bus='virtio'/>
      <readonly/>
    </disk>
    <controller type='virtio-serial'/>
    <interface type='user'>
      <mac address='52:54:00:12:34:56'/>
      <model type='virtio'/>
      <rom enabled='no'/>
    </interface>
    <serial type='file'>
      <source path='/var/lib/libvirt/console/rich.log'/>
      <target port='0'/>
    </serial>
    <input type='tablet' bus='usb'/>
    <video><model type='vga' vram='2048'/></video>
    <watchdog model='i6300esb' action='none'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='virtio'/>
  </devices>
</domain>
"""

# Says "B" on the first serial port, writes a marker at 64 KiB, and halts.
BOOT_SECTOR = """\
.code16
    cli
    mov $0x1000, %ax
    mov %ax, %ds
    movl $0x45564153, 0
    mov $0x3f8, %dx
    mov $'B', %al
    out %al, %dx
halt:
    hlt
    jmp halt
.org 510
.word 0xaa55
"""


def boot_sector(scratch: Path) -> bytes:
    """Assemble the boot sector."""
    source, object_file, target = (scratch / f"boot.{suffix}" for suffix in ("S", "o", "bin"))
    source.write_text(BOOT_SECTOR)
    subprocess.run(["as", "--32", "-o", object_file, source], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", object_file, target], check=True)
    return target.read_bytes()
