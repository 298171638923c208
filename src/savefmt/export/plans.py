"""What an export is going to be, before a page is read."""

from __future__ import annotations

from collections.abc import Callable

from savefmt.export.placing import Placed
from savefmt.export.stretches import MemorySegment, total
from savefmt.export.vmcoreinfo import VmcoreInfo
from savefmt.frozen import dataclass, field
from savefmt.model import Finding
from savefmt.native.pages import Watch
from savefmt.writing.output import OutputFile

Finish = Callable[[OutputFile, list[Finding]], str | None]
"""Writes what only the finished pages can tell; returns where VMCOREINFO was found."""


def _nothing(output: OutputFile, findings: list[Finding]) -> None:
    """Nothing is left to write."""


Head = Callable[[VmcoreInfo | None], bytes]
"""Makes the start of the file, for whom no file is written."""


def _no_head(info: VmcoreInfo | None) -> bytes:
    return b""


@dataclass(frozen=True, slots=True)
class Plan:
    """A file of pages at certain places, with something around them.

    Attributes
    ----------
    placed : tuple of Placed
        The pages.
    length : int
        Of the file.
    pieces : tuple of (int, bytes)
        The other content of the file, and its offsets.
    aligned : bool
        Whether pages begin at page boundaries, so that direct I/O can write them.
    cpus : int
        vCPUs whose registers it has.
    watch : Watch or None
        Looks at the pages for `finish`.
    finish : callable
        Called when the pages are in.
    head : callable
        Makes what `finish` writes, from a VMCOREINFO that was found in another way.
    """

    placed: tuple[Placed, ...]
    length: int
    pieces: tuple[tuple[int, bytes], ...] = ()
    aligned: bool = True
    cpus: int = 0
    watch: Watch | None = None
    finish: Finish = field(default=_nothing)
    head: Head = field(default=_no_head)

    @property
    def segments(self) -> tuple[MemorySegment, ...]:
        """What is placed."""
        return tuple(item.segment for item in self.placed)

    @property
    def memory_length(self) -> int:
        """Bytes of the guest's memory in it, holes included."""
        return total(self.segments)
