"""What is on a block device, as libblkid tells: udev and mount judge by that library, too."""

from __future__ import annotations

import ctypes

from savefmt.errors import UnsupportedError
from savefmt.frozen import dataclass

_LIBRARY = "libblkid.so.1"
_SUPERBLOCKS = (1 << 3) | (1 << 5) | (1 << 7) | (1 << 9)
"""BLKID_SUBLKS_ of UUID, TYPE, USAGE and MAGIC."""
_PARTITIONS = 1 << 3
"""BLKID_PARTS_MAGIC: report a table, and where it is."""
_SHARED_USES = frozenset({"raid"})
"""Members of something larger (LVM, md RAID and others): their content is not theirs alone."""
_SHARED_TYPES = frozenset({"zfs_member", "VMFS_volume_member", "bcache", "ceph_bluestore"})
_MOST = 64
"""Signatures that are looked for: each one found is a step, and the device may be hostile."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One thing that a device is taken for.

    Attributes
    ----------
    kind : str
        As libblkid names it: ``ext4``, ``LVM2_member``, ``gpt``.
    shared : bool
        Whether more than one thing lies there: partitions, volumes.
    """

    kind: str
    shared: bool


def find_signatures(fd: int) -> tuple[Signature, ...]:
    """Tell what a device is taken for; nothing is written.

    Parameters
    ----------
    fd : int
        The device.

    Raises
    ------
    UnsupportedError
        If libblkid is not there to ask, or cannot tell.
    """
    return _each(fd, wipe=False)


def wipe_signatures(fd: int) -> None:
    """Remove all signatures from a device, as ``wipefs --all`` does.

    What an image leaves of it would otherwise be found by udev and mount.
    """
    _each(fd, wipe=True)


def _each(fd: int, *, wipe: bool) -> tuple[Signature, ...]:
    library = _load()
    probe = library.blkid_new_probe()
    if not probe:
        raise MemoryError
    try:
        if library.blkid_probe_set_device(probe, fd, 0, 0):
            raise UnsupportedError("libblkid cannot look at this device")
        library.blkid_probe_enable_superblocks(probe, 1)
        library.blkid_probe_set_superblocks_flags(probe, _SUPERBLOCKS)
        library.blkid_probe_enable_partitions(probe, 1)
        library.blkid_probe_set_partitions_flags(probe, _PARTITIONS)
        found: list[Signature] = []
        while len(found) < _MOST and (status := library.blkid_do_probe(probe)) == 0:
            found.append(_signature(library, probe))
            if wipe:
                library.blkid_do_wipe(probe, 0)
        if status < 0:
            raise UnsupportedError("libblkid cannot tell what lies on this device")
        return tuple(found)
    finally:
        library.blkid_free_probe(probe)


def _signature(library: ctypes.CDLL, probe: int) -> Signature:
    table = _value(library, probe, "PTTYPE")
    if table:
        return Signature(table, shared=True)
    kind, use = _value(library, probe, "TYPE"), _value(library, probe, "USAGE")
    return Signature(kind, shared=use in _SHARED_USES or kind in _SHARED_TYPES)


def _value(library: ctypes.CDLL, probe: int, name: str) -> str:
    found = ctypes.c_char_p()
    if library.blkid_probe_lookup_value(probe, name.encode(), ctypes.byref(found), None):
        return ""
    return (found.value or b"").decode("ascii", "replace")


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError as error:
        raise UnsupportedError(
            f"{_LIBRARY} of util-linux, which tells what lies on a block device, is missing; "
            "install it, or write to a file"
        ) from error
    probe, number = ctypes.c_void_p, ctypes.c_int
    library.blkid_new_probe.restype = probe
    library.blkid_free_probe.argtypes = (probe,)
    library.blkid_probe_set_device.argtypes = (probe, number, ctypes.c_int64, ctypes.c_int64)
    for call in ("enable_superblocks", "set_superblocks_flags", "enable_partitions"):
        getattr(library, f"blkid_probe_{call}").argtypes = (probe, number)
    library.blkid_probe_set_partitions_flags.argtypes = (probe, number)
    library.blkid_do_probe.argtypes = (probe,)
    library.blkid_do_wipe.argtypes = (probe, number)
    library.blkid_probe_lookup_value.argtypes = (
        probe,
        ctypes.c_char_p,
        ctypes.POINTER(ctypes.c_char_p),
        ctypes.POINTER(ctypes.c_size_t),
    )
    return library
