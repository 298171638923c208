"""Section payloads that show their own end (format.md 3.7).

Each function consumes one payload and checks no more than it needs to find the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from savefmt.errors import CorruptError
from savefmt.format.cursor import Cursor

_FOOTER = b"\x7e"


def find(idstr: str) -> Callable[[Cursor], None] | None:
    """Tell how to pass over the payload of a section.

    Parameters
    ----------
    idstr : str
        The section's name.

    Returns
    -------
    callable or None
        Consumes one payload; None where this module cannot.
    """
    return _BY_NAME.get(idstr) or _BY_DEVICE.get(idstr.rpartition("/")[2])


def _dirty_bitmap(cursor: Cursor) -> None:
    while True:
        at = cursor.tell()
        flags = cursor.u8("dirty-bitmap flags")
        if flags & 0x80:
            flags = cursor.u8("dirty-bitmap flags")
            if flags & 0x80:
                flags = cursor.u16("dirty-bitmap flags")
        if flags & 0x01:
            return
        if not flags & 0x70:
            raise CorruptError(f"a dirty-bitmap chunk has the unknown flags {flags:#x}", offset=at)
        if flags & 0x08:
            cursor.counted("dirty-bitmap node")
        if flags & 0x04:
            cursor.counted("dirty-bitmap name")
        if flags & 0x10:
            cursor.skip(5, "dirty-bitmap start")
        elif flags & 0x40:
            cursor.skip(12, "dirty-bitmap bits")
            if not flags & 0x02:
                cursor.skip(cursor.u64("dirty-bitmap bits"), "dirty-bitmap bits")


def _block(cursor: Cursor) -> None:
    while True:
        at = cursor.tell()
        flags = cursor.u64("block migration word") & 0x1FF
        if flags & 0x01:
            cursor.counted("block migration device")
            if not flags & 0x08:
                cursor.skip(1 << 20, "block migration data")
        elif not flags & 0x06:
            raise CorruptError(
                f"a block migration word has the unknown flags {flags:#x}", offset=at
            )
        if flags & 0x02:
            return


def _spapr_htab(cursor: Cursor) -> None:
    if cursor.u32("hash table header"):
        return  # the table's shift, or that there is no table
    while (entries := cursor.read(8, "hash table entries")) != bytes(8):
        cursor.skip(16 * int.from_bytes(entries[4:6], "big"), "hash table entries")


def _s390_storage_attributes(cursor: Cursor) -> None:
    while True:
        at = cursor.tell()
        flags = cursor.u64("storage attributes word") & 0xFFF
        match flags:
            case 0x01:
                return
            case 0x02:
                cursor.skip(cursor.u64("storage attributes"), "storage attributes")
            case 0x08:
                # Very old writers end here, and no word begins like a footer.
                if cursor.peek(1) == _FOOTER:
                    return
            case _:
                raise CorruptError(
                    f"a storage attributes word has the unknown flags {flags:#x}", offset=at
                )


def _virtio_mem_early(cursor: Cursor) -> None:
    # Not iterable, but sent before RAM, where a reader may not have the vmdescription
    # yet; the layout is in format.md 9.5.
    cursor.skip(8, "virtio-mem address")
    at = cursor.tell()
    region = cursor.u64("virtio-mem region")
    block = cursor.u64("virtio-mem block")
    if block == 0 or region % block:
        raise CorruptError(
            f"a virtio-mem region of {region:#x} bytes does not consist of blocks of "
            f"{block:#x} bytes",
            offset=at,
        )
    cursor.skip(4 + 8, "virtio-mem node")
    cursor.skip(8 * -(-(region // block) // 64), "virtio-mem bitmap")


def _vfio(cursor: Cursor) -> None:
    while (tag := cursor.u64("VFIO tag")) != _VFIO_END:
        if tag == _VFIO_DATA:
            cursor.skip(cursor.u64("VFIO data"), "VFIO data")
        elif tag not in _VFIO_BARE:
            # The state of the PCI device, in fields; or what a later release sends.
            cursor.skip_to(_VFIO_END.to_bytes(8, "big"), "VFIO state")


def _pbs_state(cursor: Cursor) -> None:
    cursor.skip(cursor.u64("pbs-state"), "pbs-state")


_VFIO_END = 0xFFFFFFFFEF100001
_VFIO_DATA = 0xFFFFFFFFEF100004
_VFIO_BARE = {0xFFFFFFFFEF100003, 0xFFFFFFFFEF100005}
"""Set-up begins; all data of the first stage were sent."""

_BY_NAME: Mapping[str, Callable[[Cursor], None]] = {
    "dirty-bitmap": _dirty_bitmap,
    "block": _block,
    "pbs-state": _pbs_state,
    "spapr/htab": _spapr_htab,
    "s390-storage_attributes": _s390_storage_attributes,
}
_BY_DEVICE: Mapping[str, Callable[[Cursor], None]] = {
    "vfio": _vfio,
    "virtio-mem-device-early": _virtio_mem_early,
}
"""By the name behind the bus path."""
