"""Edits of a domain XML, and whether libvirt lets a saved guest have them.

`interop/test_abi.py` asks the real one; `unit/test_abi.py` asks ours.
"""

from __future__ import annotations

from pathlib import Path

BASE = (Path(__file__).parent / "abi.xml").read_text()

REFUSED = {
    "domain type": ("type='qemu'", "type='kvm'"),
    "name": ("<name>abi<", "<name>other<"),
    "uuid": ("7c9e6679", "8c9e6679"),
    "genid": ("c7a5fdbd", "d7a5fdbd"),
    "genid gone": ("  <genid>c7a5fdbd-edaf-9455-926a-d65c16db1809</genid>\n", ""),
    "max memory": ("'KiB'>4194304<", "'KiB'>5242880<"),
    "memory slots": ("slots='4'", "slots='5'"),
    "memory source": ("<source type='memfd'/>", "<source type='file'/>"),
    "vcpus online": ("current='2'", "current='3'"),
    "machine": ("pc-q35-8.0", "pc-q35-7.2"),
    "smbios mode": ("<smbios mode='sysinfo'/>", "<smbios mode='host'/>"),
    "bios vendor": (">Ven<", ">Vendor<"),
    "system serial": (">S1<", ">S2<"),
    "base board": (">Board<", ">Bored<"),
    "chassis asset": (">Tag<", ">Tug<"),
    "acpi": ("    <acpi/>\n", ""),
    "pae": ("    <pae/>\n", ""),
    "apic eoi": ("<apic/>", "<apic eoi='on'/>"),
    "vmport": ("<vmport state='off'/>", "<vmport state='on'/>"),
    "pmu": ("<vmport state='off'/>", "<vmport state='off'/><pmu state='off'/>"),
    "hyperv relaxed": ("<relaxed state='on'/>", "<relaxed state='off'/>"),
    "hyperv spinlocks": ("retries='8191'", "retries='8190'"),
    "hyperv vendor": ("value='KVM Hv'", "value='KVM HV'"),
    "hyperv one more": ("<relaxed state='on'/>", "<relaxed state='on'/><vapic state='on'/>"),
    "kvm hidden": ("<hidden state='on'/>", "<hidden state='off'/>"),
    "smm tseg": ("<tseg unit='MiB'>48<", "<tseg unit='MiB'>16<"),
    "vmcoreinfo": ("    <vmcoreinfo state='on'/>\n", ""),
    "cpu model": ("'forbid'>qemu64<", "'forbid'>kvm64<"),
    "cpu check": ("check='none'", "check='partial'"),
    "cpu vendor": ("</model>\n    <topology", "</model>\n    <vendor>AMD</vendor>\n    <topology"),
    "cpu sockets": ("sockets='2' dies='1' clusters='1' cores='2'", "sockets='1' cores='4'"),
    "cpu cache": ("<cache level='3' mode='emulate'/>", "<cache mode='disable'/>"),
    "cpu address bits": ("bits='42'", "bits='43'"),
    "cpu feature": ("name='x2apic'", "name='aes'"),
    "cpu feature policy": ("policy='disable' name='svm'", "policy='require' name='svm'"),
    "cpu feature gone": ("    <feature policy='disable' name='svm'/>\n", ""),
    "cpu features in another order": (
        "    <feature policy='require' name='x2apic'/>\n"
        "    <feature policy='disable' name='svm'/>\n",
        "    <feature policy='disable' name='svm'/>\n"
        "    <feature policy='require' name='x2apic'/>\n",
    ),
    "numa cpus": ("cpus='0-1'", "cpus='0-2'", "cpus='2-3'", "cpus='3'"),
    "numa distance": ("<sibling id='1' value='21'/>", "<sibling id='1' value='31'/>"),
    "timer presence": ("name='hpet' present='no'", "name='hpet' present='yes'"),
    "one more timer": (
        "<timer name='hpet' present='no'/>",
        "<timer name='hpet' present='no'/><timer name='hypervclock' present='yes'/>",
    ),
    "disk device": (
        "device='cdrom'>\n      <driver name='qemu' type='raw'/>",
        "device='disk'>\n      <driver name='qemu' type='raw'/>\n      <source file='/srv/c'/>",
        "      <readonly/>\n",
        "",
    ),
    "disk target": ("dev='vda' bus='virtio'", "dev='vdb' bus='virtio'"),
    "disk serial": (">SER1<", ">SER2<"),
    "disk wwn": (">5000c50015ea71ad<", ">5000c50015ea71ae<"),
    "disk rotation": ("rotation_rate='7200'", "rotation_rate='1'"),
    "disk read-only": (
        "rotation_rate='7200'/>\n      <readonly/>",
        "rotation_rate='7200'/>",
    ),
    "disk queues": ("queues='2'", "queues='3'"),
    "disk queue size": ("queue_size='128'", "queue_size='256'"),
    "disk packed": ("queue_size='128' packed='on'", "queue_size='128' packed='off'"),
    "disk block size": ("physical_block_size='4096'", "physical_block_size='512'"),
    "disk discard": ("discard_granularity='4096'", "discard_granularity='8192'"),
    "disk address": ("target='0' unit='0'", "target='0' unit='5'"),
    "disk gone": ("<disk type='file' device='cdrom'>", "<!--", "</disk>", "-->"),
    "controller model": ("model='qemu-xhci' ports='8'", "model='nec-xhci' ports='8'"),
    "usb ports": ("ports='8'", "ports='10'"),
    "serial ports": ("ports='16'", "ports='8'"),
    "serial vectors": ("vectors='4'", "vectors='8'"),
    "controller iommu": ("queues='4' iommu='on'", "queues='4' iommu='off'"),
    "controller address": ("bus='0x06'", "bus='0x1f'"),
    "filesystem target": ("<target dir='share'/>", "<target dir='shore'/>"),
    "mac": ("52:54:00:00:00:01", "52:54:00:00:00:11"),
    "net model": ("<model type='e1000e'/>", "<model type='rtl8139'/>"),
    "net mtu": ("<mtu size='1500'/>", "<mtu size='9000'/>"),
    "net ats": ("rx_queue_size='512' ats='on'", "rx_queue_size='512' ats='off'"),
    "net acpi index": ("<acpi index='7'/>", "<acpi index='8'/>"),
    "channel name": ("org.qemu.guest_agent.0", "org.qemu.guest_agent.1"),
    "channel port": ("bus='0' port='1'/>\n    </channel>", "bus='0' port='2'/>\n    </channel>"),
    "input type": ("<input type='tablet' bus='usb'>", "<input type='mouse' bus='usb'>"),
    "input packed": ("<driver packed='on'/>", "<driver packed='off'/>"),
    "tpm model": ("tpm-crb", "tpm-tis"),
    "sound model": ("<sound model='ich9'>", "<sound model='ich6'>"),
    "video model": ("<model type='virtio' heads='1' primary='yes'>", "<model type='bochs'>"),
    "video heads": ("heads='1'", "heads='2'"),
    "video acceleration": ("<acceleration accel3d='no'/>", ""),
    "redirdev source": ("<redirdev bus='usb' type='pty'>", "<redirdev bus='usb' type='null'>"),
    "redirection filter": ("vendor='0x1234'", "vendor='0x1235'"),
    "one more watchdog": (
        "<watchdog model='itco' action='reset'/>",
        "<watchdog model='itco' action='reset'/><watchdog model='i6300esb' action='reset'/>",
    ),
    "balloon deflates": ("autodeflate='on'", "autodeflate='off'"),
    "balloon reports": ("freePageReporting='off'", "freePageReporting='on'"),
    "rng address": ("bus='0x0a'", "bus='0x10'"),
    "one more panic": ("<panic model='isa'/>", "<panic model='isa'/><panic model='pvpanic'/>"),
    "shared memory role": ("role='peer'", "role='master'"),
    "shared memory size": ("<size unit='M'>4<", "<size unit='M'>8<"),
    "dimm node": ("<node>1</node>", "<node>0</node>"),
    "dimm slot": ("<address type='dimm' slot='0'/>", "<address type='dimm' slot='1'/>"),
    "virtio-mem block": ("<block unit='KiB'>2048<", "<block unit='KiB'>4096<"),
    "virtio-mem size": ("<requested unit='KiB'>524288<", "<requested unit='KiB'>1048576<"),
    "iommu caching": ("caching_mode='on'", "caching_mode='off'"),
    "iommu eim": ("eim='on'", "eim='off'"),
    "vsock address": ("bus='0x0d'", "bus='0x10'"),
}
"""What stands there, and what instead of it; a second pair goes for the next match."""

IGNORED = {
    "title": ("<title>old<", "<title>new<"),
    "description": ("</title>", "</title><description>more</description>"),
    "uuid in another form": ("7c9e6679-7425", "7C9E66797425"),
    "memory in another unit": ("<memory unit='KiB'>2359296<", "<memory unit='MiB'>2304<"),
    "iothreads": ("<iothreads>2<", "<iothreads>3<"),
    "vcpu placement": ("placement='static' current", "current"),
    "boot menu": ("<bootmenu enable='yes'/>", "<bootmenu enable='no'/>"),
    "boot order": ("<boot dev='hd'/>", "<boot dev='network'/>"),
    "oem strings": (">hello<", ">bye<"),
    "cpu match": ("match='exact'", "match='strict'"),
    "timer policy": ("<timer name='rtc' tickpolicy='catchup'/>", "<timer name='rtc'/>"),
    "clock": ("<clock offset='utc'>", "<clock offset='localtime'>"),
    "on crash": ("<on_crash>destroy<", "<on_crash>restart<"),
    "power": ("<suspend-to-mem enabled='no'/>", "<suspend-to-mem enabled='yes'/>"),
    "disk source": ("/srv/a.qcow2", "/srv/c.qcow2"),
    "disk kind": (
        "<disk type='file' device='disk'>\n      <driver name='qemu' type='raw'/>\n"
        "      <source file='/srv/b.qcow2'/>",
        "<disk type='block' device='disk'>\n      <driver name='qemu' type='raw'/>\n"
        "      <source dev='/dev/null'/>",
    ),
    "disk cache": ("cache='none'", "cache='writeback'"),
    "disk iothread": ("iothread='1'", "iothread='2'"),
    "disk format": ("type='qcow2'", "type='raw'"),
    "disk tray": ("<target dev='sdb' bus='sata'/>", "<target dev='sdb' bus='sata' tray='open'/>"),
    "numbers in another form": ("slot='0x1b'", "slot='27'"),
    "multifunction": ("bus='0x00' slot='0x03' function='0x0' multifunction='on'", None),
    "port of a root port": ("chassis='15' port='0x1d'", "chassis='15' port='0x2d'"),
    "controller queues": ("queues='4' iommu='on'", "queues='2' iommu='on'"),
    "filesystem source": ("/srv/share", "/srv/shared"),
    "filesystem queue": ("queue='1024'", "queue='512'"),
    "bridge": ("bridge='br0'", "bridge='br1'"),
    "mac in another case": ("52:54:00:00:00:01", "52:54:00:00:00:01".upper()),
    "net target": ("<source bridge='br0'/>", "<source bridge='br0'/><target dev='tap7'/>"),
    "net queue size": ("rx_queue_size='512'", "rx_queue_size='1024'"),
    "net link": ("<link state='up'/>", "<link state='down'/>"),
    "serial source": ("<serial type='pty'>", "<serial type='null'>"),
    "channel source": ("<channel type='unix'>", "<channel type='pty'>"),
    "graphics": (
        "<graphics type='vnc' port='-1' autoport='yes'",
        "<graphics type='vnc' port='5901'",
    ),
    "sound's audio": ("<audio id='1' type='none'/>", "<audio id='1' type='sdl'/>"),
    "watchdog action": ("action='reset'", "action='pause'"),
    "balloon statistics": ("<stats period='10'/>", "<stats period='5'/>"),
    "rng source": ("/dev/urandom", "/dev/random"),
    "shared memory name": ("name='shm0'", "name='shm1'"),
    "tpm source": ("/dev/tpm0", "/dev/tpm1"),
    "vsock cid": ("address='5'", "address='6'"),
    "crypto queues": ("model='builtin' queues='1'", "model='builtin' queues='2'"),
    "nothing": ("<name>", "<name>"),
}
"""The same; None takes the last word of what stands there away."""


LATER: dict[str, tuple[str | None, ...]] = {
    "net queues": ("rx_queue_size='512' ats='on'", "queues='4' rx_queue_size='512' ats='on'"),
    "video edid": ("<model type='virtio' heads='1'", "<model type='virtio' edid='off' heads='1'"),
}
"""Edits that newer releases of libvirt refuse, and savefmt always: the guest sees them."""
SINCE = {"net queues": (11, 4), "video edid": (12, 8)}
"""The first release that is known to; 12.8 has the words for edid in its library."""


def edited(*words: str | None) -> str:
    """Return the document with a row of a table done to it."""
    text = BASE
    at = 0
    for old, new in zip(words[::2], words[1::2], strict=True):
        assert old is not None
        at = text.index(old, at)
        instead = old.rpartition(" ")[0] if new is None else new
        text = text[:at] + instead + text[at + len(old) :]
    return text
