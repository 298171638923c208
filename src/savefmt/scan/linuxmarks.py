"""Marks of Linux in memory: its banner, and VMCOREINFO."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from savefmt.frozen import dataclass
from savefmt.scan.patterns import Masked, hexadecimal, literal
from savefmt.scan.results import Evidence, Hit

BANNER = literal(b"Linux version ", "banner")
NOTE = Masked(
    "vmcoreinfo",
    # An ELF note in either byte order: length of the name, of the content, type 0, name.
    hexadecimal("0?00000? ???????? 00000000 564d434f5245494e464f0000").pattern,
)

NOTE_LIMIT = 64 << 10
_ORDERS = ("<II", ">II")
_NAME_LENGTH = len(b"VMCOREINFO\0")
_NAME_END = 24

_BANNER_TEXT = re.compile(rb"Linux version (\d+\.\d[!-~]*) \([ -~]{8,400} #[ -~]{8,200}")
_LINE = re.compile(r"([A-Z][A-Za-z0-9_.()+-]*)=([!-~ ]*)")
_TOLD = ("OSRELEASE", "BUILD-ID", "PAGESIZE", "KERNELOFFSET", "NUMBER(phys_base)", "CRASHTIME")


@dataclass(frozen=True, slots=True)
class Banner:
    """What the kernel says of itself: its release, and the whole line."""

    release: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class CoreInfo:
    """What a kernel notes for tools that read its dumps."""

    entries: dict[str, str]
    evidence: Evidence

    @property
    def release(self) -> str:
        """The kernel's release."""
        return self.entries["OSRELEASE"]

    @property
    def kaslr_shift(self) -> int | None:
        """How far the kernel was moved, None where it does not tell."""
        text = self.entries.get("KERNELOFFSET", "")
        return int(text, 16) if re.fullmatch(r"[0-9a-f]{1,16}", text) else None


def read_banner(hit: Hit) -> Banner | None:
    """Read the banner that begins here, if it is one: ``Linux version %s`` is not."""
    found = _BANNER_TEXT.match(hit.data + hit.after)
    if found is None:
        return None
    text = found[0].decode("ascii", "backslashreplace").strip()
    evidence = Evidence("linux.banner", text, hit.block, hit.offset, hit.physical)
    return Banner(found[1].decode("ascii"), evidence)


def note_length(hit: Hit) -> int | None:
    """Return how long the content of a VMCOREINFO note says it is, None if that is not true."""
    for order in _ORDERS:
        name, length = struct.unpack_from(order, hit.data)
        if name == _NAME_LENGTH and 16 <= length <= NOTE_LIMIT:
            return int(length)
    return None


def read_core_info(hit: Hit, content: bytes) -> CoreInfo | None:
    """Read the content of a VMCOREINFO note.

    Parameters
    ----------
    hit : Hit
        Where the note begins.
    content : bytes
        Behind its name.

    Returns
    -------
    CoreInfo or None
        None if it is something else.
    """
    entries = dict(_entries(content))
    if "OSRELEASE" not in entries:
        return None
    detail = tuple((name, entries[name]) for name in _TOLD if name in entries)
    value = entries["OSRELEASE"]
    evidence = Evidence("linux.vmcoreinfo", value, hit.block, hit.offset, hit.physical, detail)
    return CoreInfo(entries, evidence)


def content_offset(hit: Hit) -> int:
    """Return where in its block the content of a note begins."""
    return hit.offset + _NAME_END


def _entries(content: bytes) -> Iterator[tuple[str, str]]:
    for line in content.split(b"\0")[0].decode("latin-1").splitlines():
        match = _LINE.fullmatch(line)
        if match is not None:
            yield match[1], match[2]
