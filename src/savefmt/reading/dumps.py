"""Memory dumps (`virsh dump --memory-only`) as images of RAM alone."""

from __future__ import annotations

import os

from savefmt.model import IOOptions, StrPath
from savefmt.native.file import File
from savefmt.reading.coredump import find_segments
from savefmt.reading.dumpview import Dump, Stretch, show
from savefmt.reading.kdumpfile import rebuild, unpack_kdump
from savefmt.reading.otherformats import ELF, FLATTENED, KDUMP, is_elf_dump

_HEAD_LENGTH = 18


def is_dump(fd: int) -> bool:
    """Tell whether a file is a memory dump of a form that is read."""
    head = os.pread(fd, _HEAD_LENGTH, 0)
    return is_elf_dump(head) if head.startswith(ELF) else head.startswith((KDUMP, FLATTENED))


def open_dump(fd: int, path: StrPath, io: IOOptions, *, direct: bool) -> tuple[File, Dump]:
    """Show a memory dump as an image of RAM alone.

    Parameters
    ----------
    fd : int
        The dump; stays the caller's.
    path : str or os.PathLike
        Its name.
    io : IOOptions
        How it is read.
    direct : bool
        Bypass the page cache.

    Returns
    -------
    File
        To be closed.
    Dump
        What it is of.

    Raises
    ------
    CorruptError, TruncatedError, UnsupportedError
        What is wrong with it.
    """
    head, vcpus = os.pread(fd, _HEAD_LENGTH, 0), None
    if head.startswith(ELF):
        stretches, vcpus = find_segments(fd)
        file, kind = File(fd, path=path, direct=direct, engine=io.engine), "ELF core"
    else:
        file, stretches = _unpack(fd, io, flattened=head.startswith(FLATTENED))
        kind = "kdump file"
    try:
        return show(file, stretches, f"{kind} of a guest's memory", io, vcpus)
    except BaseException:
        file.close()
        raise


def _unpack(fd: int, io: IOOptions, *, flattened: bool) -> tuple[File, list[Stretch]]:
    if not flattened:
        return unpack_kdump(fd, io)
    with rebuild(fd, io) as rebuilt:
        return unpack_kdump(rebuilt.descriptor, io)
