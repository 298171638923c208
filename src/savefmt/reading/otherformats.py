"""Other kinds of files that are not save images, and what to do with them."""

from __future__ import annotations

from savefmt.errors import NotASaveImageError

HEAD_LENGTH = 128
"""Bytes of a file that tell what it is."""

QCOW = b"QFI\xfb"
"""Begins a disk image of QEMU; version 2 and later may have snapshots."""

ELF = b"\x7fELF"
KDUMP = b"KDUMP   "
FLATTENED = b"makedumpfile"
"""A kdump file that went through a pipe."""
_ELF_CORE = 4
_CORE_ADVICE = "open it with crash or drgn"
_DUMP_ADVICE = "savefmt reads it as an uncompressed file of its own, not from a pipe"
_DISK_ADVICE = "name the file with the guest's memory instead"
_VMWARE_ADVICE = "volatility3 reads it, together with the .vmem file beside it"

_KINDS = {
    KDUMP: f"a kdump file (`virsh dump --memory-only`); {_DUMP_ADVICE}",
    b"DISKDUMP": f"a diskdump file; {_CORE_ADVICE}",
    FLATTENED: f"a flattened kdump file; {_DUMP_ADVICE}",
    b"\xd0\xbe\xd2\xbe": f"a VMware suspended state (.vmss); {_VMWARE_ADVICE}",
    b"\xd1\xba\xd1\xba": f"a VMware snapshot state (.vmsn); {_VMWARE_ADVICE}",
    b"\xd2\xbe\xd2\xbe": f"a VMware suspended state (.vmss); {_VMWARE_ADVICE}",
    b"\xd3\xbe\xd3\xbe": f"a VMware suspended state (.vmss); {_VMWARE_ADVICE}",
    b"\x7fVirtualBox SavedState": "a VirtualBox saved state (.sav); start the guest there, and "
    "dump it with `VBoxManage debugvm NAME dumpvmcore`",
    b"libvirt-xml\n \0 \r": "a save file of libvirt's Xen driver; only QEMU's are read",
    b"Xen saved domain": "a save file of Xen's xl; only QEMU's are read",
    b"EMiL": "a LiME memory dump; volatility3 reads it",
    b"PAGEDU": "a Windows memory dump; volatility3 and WinDbg read it",
    b"QCPR": "state of QEMU's live update (CPR): it names the guest's files and holds none of "
    "its memory; name the migration stream that was written with it",
    b"QED\0": f"a disk image (QED); {_DISK_ADVICE}",
    b"KDMV": f"a disk image (VMDK); {_DISK_ADVICE}",
    b"# Disk Descript": f"the description of a disk image (VMDK); {_DISK_ADVICE}",
    b"vhdxfile": f"a disk image (VHDX); {_DISK_ADVICE}",
    b"<<< ": f"a disk image (VDI); {_DISK_ADVICE}",
    b"<domain": "a domain's XML; name the image that was saved with it",
    b"<?xml": "an XML document; name the image that was saved with it",
    b"PK\3\4": "a ZIP archive; unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it first",
    b"\x04\x22\x4d\x18": "compressed with lz4, which libvirt does not use; unpack it first",
}


def not_an_image(head: bytes, name: str, *, offset: int) -> NotASaveImageError:
    """Say what a file is that does not begin like a save image.

    Parameters
    ----------
    head : bytes
        Its first bytes: `HEAD_LENGTH`, or all that it has.
    name : str
        Its name, which alone tells some forms.
    offset : int
        Where they lie, for the error.

    Returns
    -------
    NotASaveImageError
        One sentence: what it is, and what to do.
    """
    for magic, what in _KINDS.items():
        if head.startswith(magic):
            return NotASaveImageError(f"this is {what}", offset=offset)
    if head.startswith(QCOW):
        return _qcow(head, offset)
    if head.startswith(ELF):
        return _elf(head, offset)
    if name.lower().endswith(".vmem"):
        return NotASaveImageError(
            "this is raw memory of a VMware guest (.vmem); volatility3 reads it", offset=offset
        )
    return NotASaveImageError(
        "neither a libvirt save image nor a QEMU stream begins here; "
        "check that it is the right file",
        offset=offset,
    )


def _qcow(head: bytes, offset: int) -> NotASaveImageError:
    version = int.from_bytes(head[4:8], "big")
    snapshots = int.from_bytes(head[60:64], "big") if version > 1 else 0
    if not snapshots:
        return NotASaveImageError(
            f"this is a disk image (qcow{'2' if version > 1 else ''}) without internal "
            f"snapshots, so no guest's memory is in it; {_DISK_ADVICE}",
            offset=offset,
        )
    return NotASaveImageError(
        f"this is a disk image (qcow2) with internal snapshots ({snapshots}); make it a "
        "file of its own, then name one with --snapshot",
        offset=offset,
    )


def is_elf_dump(head: bytes) -> bool:
    """Tell whether a file that begins like this is an ELF core."""
    order = "big" if head[5:6] == b"\2" else "little"
    kind = int.from_bytes(head[16:18], order)  # type: ignore[arg-type]
    return head.startswith(ELF) and kind == _ELF_CORE


def _elf(head: bytes, offset: int) -> NotASaveImageError:
    if is_elf_dump(head):
        return NotASaveImageError(
            f"this is an ELF core (`virsh dump --memory-only`); {_DUMP_ADVICE}", offset=offset
        )
    return NotASaveImageError(
        "this is an ELF program or library and no image; check that it is the right file",
        offset=offset,
    )
