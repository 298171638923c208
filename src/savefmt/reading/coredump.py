"""ELF cores of a guest's memory, by pyelftools."""

from __future__ import annotations

from savefmt.errors import CorruptError, MissingPackageError, SavefmtError, UnsupportedError
from savefmt.reading.dumpview import Stretch

_MOST_SEGMENTS = 1 << 16


def find_segments(fd: int) -> list[Stretch]:
    """Return what the program headers of an ELF core tell of memory that is in the file.

    Parameters
    ----------
    fd : int
        The core; stays the caller's.

    Returns
    -------
    list of Stretch
        Unchecked.

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
                raise UnsupportedError(f"an ELF core with {count} segments is not read")
            headers = [segment.header for segment in elf.iter_segments("PT_LOAD")]
            found = [
                Stretch(int(head["p_paddr"]), int(head["p_filesz"]), int(head["p_offset"]))
                for head in headers
                if head["p_filesz"]
            ]
        except SavefmtError:
            raise
        except Exception as error:  # whatever a damaged header makes of the library
            raise CorruptError(f"damaged ELF headers: {error or type(error).__name__}") from error
    if len(found) > 1 and not any(stretch.address for stretch in found):
        raise UnsupportedError(
            "this is the core of a process, not of a guest: its segments have no physical addresses"
        )
    return found
