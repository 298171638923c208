"""ELF cores of a guest's memory, by pyelftools."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

from savefmt.errors import CorruptError, MissingPackageError, SavefmtError, UnsupportedError
from savefmt.reading.dumpview import Stretch, Vcpus

_MOST_SEGMENTS = 1 << 16
_MOST_NOTES = 16 << 20
_MACHINES = {"EM_386": False, "EM_X86_64": True}
_QEMU = b"QEMU\0"


def find_segments(fd: int) -> tuple[list[Stretch], Vcpus | None]:
    """Return what the program headers of an ELF core tell about the guest in the file.

    Parameters
    ----------
    fd : int
        The core; stays the caller's.

    Returns
    -------
    list of Stretch
        Memory; unchecked.
    Vcpus or None
        None where there is no note of QEMU's own, which it has for x86.

    Raises
    ------
    CorruptError, UnsupportedError
        What is wrong with it.
    """
    try:
        from elftools.elf.elffile import ELFFile
    except ImportError as error:
        raise MissingPackageError("reading a memory dump", "pyelftools", "dump") from error
    with open(fd, "rb", closefd=False) as stream:
        stream.seek(0)
        try:
            elf = ELFFile(stream)
            count = elf.num_segments()
            if count > _MOST_SEGMENTS:
                raise UnsupportedError(f"savefmt does not read an ELF core with {count} segments")
            headers = [segment.header for segment in elf.iter_segments("PT_LOAD")]
            found = [
                Stretch(int(head["p_paddr"]), int(head["p_filesz"]), int(head["p_offset"]))
                for head in headers
                if head["p_filesz"]
            ]
            vcpus = _vcpus(elf, stream)
        except SavefmtError:
            raise
        except Exception as error:  # a damaged header can make the library raise anything
            raise CorruptError(f"damaged ELF headers: {error or type(error).__name__}") from error
    if len(found) > 1 and not any(stretch.address for stretch in found):
        raise UnsupportedError(
            "this is the core of a process, not of a guest: its segments have no physical addresses"
        )
    return found, vcpus


def _vcpus(elf: Any, stream: BinaryIO) -> Vcpus | None:
    long_mode = _MACHINES.get(elf["e_machine"])
    if long_mode is None:
        return None
    contents: list[bytes] = []
    left = _MOST_NOTES
    for segment in elf.iter_segments("PT_NOTE"):
        stream.seek(segment["p_offset"])
        data = stream.read(min(segment["p_filesz"], left))
        left -= len(data)
        contents += _notes(data)
    return Vcpus(tuple(contents), long_mode) if contents else None


def _notes(data: bytes) -> Iterator[bytes]:
    """Yield the contents of the notes that are QEMU's own; the rest behind damage is left out."""
    at = 0
    while at + 12 <= len(data):
        name_length, length, _ = struct.unpack_from("<III", data, at)
        start = at + 12 + _padded(name_length)
        if start + length > len(data):
            return
        if data[at + 12 : at + 12 + name_length] == _QEMU:
            yield data[start : start + length]
        at = start + _padded(length)


def _padded(length: int) -> int:
    return -(-length // 4) * 4
